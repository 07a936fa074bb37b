"""Every provider's good reply, whole and streamed: text, usage, finish reason, and one request.

Whoever can be pointed at the embedded provider by `base_url` is asked; the others are named, with the reason.
"""

import importlib.util
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agentless.config import read_config
from agentless.errors import AgentlessError
from agentless.llm import importing, limits, reaches
from agentless.llm.codegen import CodegenModel
from agentless.llm.provider_rows import LITELLM_ONLY, PROVIDERS, find_provider
from agentless.llm.registry import SAME_SERVICE, load_registry, service_of
from agentless.llm.trajectory import Usage
from agentless.loopback import Loopback
from agentless.test.ways import KEY
from agentless.util.model_factory import ModelFactory


def load_benchmark() -> Any:
    """The script that counts requests by provider: it knows what each asks for."""
    path = Path(__file__).parents[2] / "benchmarks" / "requests_by_provider.py"
    spec = importlib.util.spec_from_file_location("requests_by_provider", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


benchmark = load_benchmark()

OWN_FORMAT = "speaks a format of its own"
ELSEWHERE = "asks another address first: "
NEEDS = "needs more than a key and an address: "
NOT_POINTED = {
    "bedrock": OWN_FORMAT,
    "bytez": ELSEWHERE + "api.bytez.com",
    "chatgpt": ELSEWHERE + "auth.openai.com",
    "cohere": OWN_FORMAT,
    "custom": OWN_FORMAT,
    "fal_ai": OWN_FORMAT + ", and takes images only",
    "gdc": NEEDS + "the package google-auth",
    "gigachat": ELSEWHERE + "ngw.devices.sberbank.ru",
    "github_copilot": ELSEWHERE + "github.com",
    "langflow": OWN_FORMAT,
    "langgraph": OWN_FORMAT,
    "manus": "litellm has no route to chat with it",
    "microsoft_365_copilot": ELSEWHERE + "login.microsoftonline.com",
    "nlp_cloud": OWN_FORMAT,
    "oci": NEEDS + "an account's user, fingerprint and tenancy",
    "ollama": OWN_FORMAT,
    "oobabooga": "sends its key as `Token`, which no service in these formats takes",
    "opencode_go": OWN_FORMAT + " for each vendor's models",
    "openai_like": "litellm has no route to chat with it",
    "petals": OWN_FORMAT,
    "predibase": NEEDS + "a tenant's id",
    "replicate": ELSEWHERE + "api.replicate.com",
    "sagemaker": ELSEWHERE + "runtime.sagemaker.us-east-1.amazonaws.com",
    "sap": NEEDS + "a service key's file",
    "scaledown": OWN_FORMAT + ", and shortens prompts",
    "triton": OWN_FORMAT,
    "vertex_ai": NEEDS + "the package google-auth",
    "watsonx": NEEDS + "a project's id",
}
BROKEN = {
    ("aiohttp_openai", "whole"): "litellm's client loses the usage",
    ("aiohttp_openai", "streamed"): "litellm's client does not read events: `unexpected mimetype`",
    (
        "amazon_nova",
        "streamed",
    ): "litellm awaits a blocking stream: `'generator' object has no attribute '__aiter__'`",
    (
        "maritalk",
        "streamed",
    ): "litellm awaits a blocking stream: `'generator' object has no attribute '__aiter__'`",
}
"""What litellm (1.105.3) does with a good reply where it cannot be helped from here."""

LENIENT = frozenset({"openrouter"})
"""Services that take a field that OpenAI does not know (`usage`)."""

NAMES = frozenset(PROVIDERS) | LITELLM_ONLY
# Not strict: which of these replies litellm loses differs between the versions that the test runs on.
CELLS = [
    pytest.param(
        name,
        way,
        id=f"{name}-{way}",
        marks=[pytest.mark.xfail(reason=BROKEN[name, way], strict=False)] if (name, way) in BROKEN else [],
    )
    for name in sorted(NAMES - set(NOT_POINTED))
    for way in ("whole", "streamed")
]


MODELS = {"hostinger_router": "some-model"}
"""Instead of the registry's first, whose name is that of a model of OpenAI's with rules of its own."""


def known_to_litellm() -> set[str]:
    """The providers that the installed litellm has, by its own names."""
    names = {str(getattr(name, "value", name)) for name in importing.load().provider_list}
    return names | {row.name for row in PROVIDERS.values() if row.route in names}


@pytest.fixture(scope="module")
def servers() -> Iterator[Mapping[bool, Loopback]]:
    """A strict server and a lenient one, for all: at a new address each would build new clients."""
    with Loopback(usage_unasked=True) as strict, Loopback(usage_unasked=True, lenient=True) as lenient:
        yield {False: strict, True: lenient}


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No other machine is reached, and asking for one is an answer, not the test's end (huggingface does)."""
    for name, value in benchmark._ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with benchmark.only_this_machine():
        yield


def model_of(name: str, server: Loopback) -> CodegenModel:
    """A model of this provider's, pointed at the server."""
    if name not in known_to_litellm():
        pytest.skip(f"litellm {reaches.version()} does not know {name}")
    model = MODELS.get(name) or benchmark.model_of(name)
    seller = find_provider(name, model)
    assert seller is not None
    addresses = {
        "gemini": server.gemini_url,
        "datarobot": server.anthropic_url,
    }
    table = {
        "name": model,
        "provider": name,
        "base_url": addresses.get(name, server.anthropic_url if seller.strips_v1 else server.openai_url),
        "api_key": KEY,
        "num_retries": 0,
        **benchmark._EXTRA.get(name, {}),
    }
    return ModelFactory(read_config({"models": {"m": table}})).create_model()


def ask(model: CodegenModel, way: str) -> tuple[str, str | None, Usage]:
    """What came: text, finish reason and usage."""
    if way == "whole":
        [reply] = model.codegen("hi")
        return reply["response"], reply["finish_reason"], reply["usage"]
    chunks = list(model.codegen_stream("hi"))
    return "".join(chunk["response"] for chunk in chunks), chunks[-1]["finish_reason"], chunks[-1]["usage"]


@pytest.mark.parametrize("name, way", CELLS)
def test_a_good_reply_is_read(servers: Mapping[bool, Loopback], name: str, way: str) -> None:
    """Whole and streamed, from every provider: its text, finish reason and usage, after one request."""
    server = servers[name in LENIENT]
    limits._gates.clear()
    server.reset()
    server.script("one two three")
    text, finish_reason, usage = ask(model_of(name, server), way)
    [entry] = [entry for entry in server.journal if entry.method == "POST"]
    assert (text, finish_reason) == ("one two three", "stop")
    assert entry.usage is not None
    counts = entry.usage.prompt_tokens, entry.usage.completion_tokens
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == counts
    assert entry.stream == (way == "streamed")


@pytest.mark.parametrize("name", sorted(NOT_POINTED))
def test_who_is_left_out_cannot_be_asked(servers: Mapping[bool, Loopback], name: str) -> None:
    """A provider with a reason for being left out does fail: one that has become right leaves the list."""
    servers[False].reset()
    with pytest.raises((AgentlessError, *importing.load().LITELLM_EXCEPTION_TYPES)):
        ask(model_of(name, servers[False]), "whole")


def test_nobody_is_forgotten() -> None:
    """Every seller of chat models in litellm's registry that litellm has a route to is in a list."""
    assert set(NOT_POINTED) <= NAMES
    assert {name for name, _ in BROKEN} <= NAMES
    routes = {str(getattr(name, "value", name)) for name in importing.load().provider_list}
    sold = {service_of(entry) for entry in load_registry().values() if entry.get("mode") == "chat"}
    assert not {name for name in (sold - set(SAME_SERVICE.values())) & routes if find_provider(name) is None}
