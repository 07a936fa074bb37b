"""Streams read under litellm's wrapper and through it: the same chunks, usage and errors."""

from collections.abc import Callable
from typing import Any

import pytest

from agentless.llm import transport
from agentless.llm.codegen import CodegenModel
from agentless.loopback import Loopback, Reply, ToolCall, faults
from agentless.test.ways import Way

MakeModel = Callable[..., CodegenModel]
TOOL = {"type": "function", "function": {"name": "edit", "parameters": {"type": "object"}}}
TEXT = "one two three four"

REPLIES = {
    "text": Reply(TEXT),
    "unicode": Reply(chunks=["h\u00e9", "\u2028", "\U0001f600 ", "\x85."]),
    "calls": Reply("Right.", tool_calls=(ToolCall("edit", {"a": [1]}), ToolCall("edit", {}))),
    "calls alone": Reply("", tool_calls=(ToolCall("edit", {"a": "b"}),)),
    "reasoning": Reply(TEXT, reasoning="Because."),
    "length": Reply(TEXT, finish_reason="length"),
    "equal chunks": Reply(chunks=["same "] * 300),
}
FAULTS = {
    "truncated": faults.TruncatedStream(after_chunks=2, reply=TEXT),
    "truncated and done": faults.TruncatedStream(after_chunks=2, done=True, reply=TEXT),
    "corrupt event": faults.CorruptEvent(at=2, reply=TEXT),
    "error event": faults.ErrorEvent(at=2, reply=TEXT),
    "error event first": faults.ErrorEvent(at=0, reply=TEXT),
    "body cut": faults.CutBody(after_chunks=2, reply=TEXT),
    "malformed body": faults.MalformedBody(reply=TEXT),
    "empty choices": faults.EmptyChoices(),
    "empty text": faults.EmptyText(),
    "refused": faults.Status(400),
}


def both(monkeypatch: pytest.MonkeyPatch, outcome: Callable[[], Any]) -> list[Any]:
    """What comes out under the wrapper, and through it."""
    found = []
    for under in (True, False):
        monkeypatch.setattr(transport, "READS_UNDER_WRAPPER", under)
        found.append(outcome())
    return found


@pytest.mark.parametrize("kind", REPLIES)
def test_replies_are_the_same(
    server: Loopback, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, provider: str, kind: str
) -> None:
    """Text, calls, reasoning, finish reason and usage do not depend on where the stream is read."""
    server.default = REPLIES[kind]
    model = make_model(provider, tools=[TOOL], stream=True)

    def outcome() -> Any:
        [trajectory] = model.codegen("hi")
        chunks = list(model.codegen_stream("hi"))
        text = "".join(chunk["response"] for chunk in chunks)
        own = ("request_id", "latency", "usage", "tool_calls")
        calls = [(call["name"], call["arguments"]) for call in trajectory["tool_calls"]]
        return (
            {key: value for key, value in trajectory.items() if key not in own},
            {key: value for key, value in trajectory["usage"].items() if key != "reasoning_tokens"},
            calls,
            text,
            chunks[-1]["finish_reason"],
        )

    under, through = both(monkeypatch, outcome)
    assert under == through


@pytest.mark.parametrize("kind", FAULTS)
def test_faults_are_the_same(
    server: Loopback,
    make_model: MakeModel,
    monkeypatch: pytest.MonkeyPatch,
    provider: str,
    kind: str,
) -> None:
    """Each fault ends in the same error with the same text, after the same number of requests."""
    server.default = FAULTS[kind]
    model = make_model(provider, num_retries=1)

    def outcome() -> Any:
        before = len(server.journal)
        with pytest.raises(Exception) as caught:  # which one is what is compared
            Way("codegen_stream").call(model)
        text = getattr(caught.value, "text", None)
        return type(caught.value), text, len(server.journal) - before

    under, through = both(monkeypatch, outcome)
    assert under == through
