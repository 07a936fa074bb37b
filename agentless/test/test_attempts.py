"""Attempts: how many requests, what comes of them, and how long it takes; over real HTTP."""

from collections.abc import Callable


from agentless.llm.codegen import CodegenModel
from agentless.loopback import Loopback
from agentless.test.ways import Way


def test_a_call_sends_one_request(
    server: Loopback, make_model: Callable[..., CodegenModel], way: Way, provider: str
) -> None:
    """Each way to call, on each provider, sends one request and returns its text."""
    server.script("one two three")
    [trajectory] = way.call(make_model(provider))
    assert trajectory["response"] == "one two three"
    assert trajectory["finish_reason"] == "stop"
    assert len(server.journal) == 1
