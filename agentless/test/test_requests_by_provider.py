"""One attempt, one request: on litellm's own routes, beside the four that the other tests take."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agentless.errors import RateLimitError
from agentless.llm import bridge, importing, wire
from agentless.llm.codegen import CodegenModel
from agentless.llm.routes import IGNORE_MAX_RETRIES
from agentless.loopback import Loopback, faults
from agentless.test.ways import MODELS, Way

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "requests_by_provider.py"

# Azure's own path, litellm's own client, a lost `max_retries`, a request at the first piece, others' formats.
QUICK = ("azure", "mistral", "sambanova", "gemini", "cohere", "ollama", "bedrock", "gradient_ai")

IGNORING = ("deepinfra", "featherless_ai", "nvidia_nim", "sambanova", "zai")


@pytest.fixture(params=IGNORING)
def ignoring(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A provider whose route loses `max_retries` unless it is allowed by name."""
    monkeypatch.setitem(MODELS, request.param, {"name": "some-model", "provider": request.param})
    assert request.param in IGNORE_MAX_RETRIES
    name: str = request.param
    return name


def count(*providers: str) -> str:
    """What the script prints; it fails the test where a cell is not 1."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *providers], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_one_attempt_is_one_request_on_some_routes() -> None:
    """Eight faults, whole and streamed: one request each, the right error, and no waiting below ours."""
    assert count(*QUICK).count("1/1") == 8 * len(QUICK)


@pytest.mark.soak
def test_one_attempt_is_one_request_on_every_route() -> None:
    """The same for every provider of litellm's that can be pointed at another server."""
    assert count().count("1/1") > 8 * 100


def test_a_route_that_loses_the_setting_sends_once(server: Loopback) -> None:
    """The OpenAI SDK is told by the answer itself not to try again, whatever number it was given."""
    server.default = faults.Status(429, headers={"retry-after": "20"})
    litellm = importing.load()
    exchange = wire.Exchange()

    async def complete() -> None:
        token = wire.current.set(exchange)
        try:
            messages = [{"role": "user", "content": "hi"}]
            address = {"api_base": server.openai_url, "api_key": "sk-x"}
            with importing.no_warnings("by itself"):
                await litellm.acompletion(model="openai/gpt-4o", messages=messages, max_retries=2, **address)
        finally:
            wire.current.reset(token)

    began = time.monotonic()
    with pytest.raises(RateLimitError):
        bridge.run(complete())
    assert len(server.journal) == exchange.requests == 1
    assert time.monotonic() - began < 10


def test_a_rate_limit_of_theirs_is_one_at_once(
    server: Loopback, make_model: Callable[..., CodegenModel], way: Way, ignoring: str
) -> None:
    """The 429 comes back as `RateLimitError` after one request, and no client of litellm's waits first."""
    server.default = faults.Status(429, headers={"retry-after": "20"})
    model = make_model(ignoring, num_retries=0, timeout=4)
    with pytest.raises(RateLimitError) as caught:
        way.call(model)
    assert caught.value.status_code == 429
    assert len(server.journal) == 1
    assert "1 attempt in 0." in caught.value.__notes__[0]


def test_what_is_allowed_does_not_reach_the_service(
    server: Loopback, make_model: Callable[..., CodegenModel], way: Way, ignoring: str
) -> None:
    """`max_retries` is for the client below: the service, which refuses unknown fields, sees none of it."""
    assert (
        way.call(make_model(ignoring, num_retries=0))[0]["response"] == "This is the loopback's reply to: hi"
    )
    [entry] = server.journal
    assert "max_retries" not in entry.body


def test_no_model_waits_for_a_download(
    server: Loopback, make_model: Callable[..., CodegenModel], way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No reply waits for a tokenizer that litellm would fetch to price a stream before it begins."""
    monkeypatch.setitem(MODELS, "llama", {"name": "meta-llama/Llama-3.1-8B", "provider": "hosted_vllm"})
    assert way.call(make_model("llama"))[0]["finish_reason"] == "stop"
    assert len(server.journal) == 1
