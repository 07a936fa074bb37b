"""litellm's requests go by our connection, in whichever version: looked at once, and held to at each call."""

import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentless.errors import AgentlessError, UnsupportedLitellmError, UnwatchedReplyError
from agentless.llm import bridge, importing, litellm_door, reaches, watch, wire
from agentless.llm.codegen import CodegenModel
from agentless.llm.ledger import Spend
from agentless.loopback import Loopback, faults
from agentless.test.ways import MODELS, Way

MakeModel = Callable[..., CodegenModel]
REPLY = "This is the loopback's reply to: hi"


@pytest.fixture(autouse=True)
def _nothing_said_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test hears what is said once in a process."""
    monkeypatch.setattr(watch, "_warned", set())
    monkeypatch.delenv("AGENTLESS_UNWATCHED", raising=False)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put litellm's clients on a connection of its own, as after a change that we have not seen."""
    monkeypatch.setattr(litellm_door, "_sends_all", True)
    vars(importing.load()).pop("module_level_aclient", None)  # some streams go by it
    cache = reaches.CLIENTS.find()
    monkeypatch.setattr(cache, "cache_dict", {})
    monkeypatch.setattr(cache, "ttl_dict", {})
    made: list[httpx.AsyncHTTPTransport] = []

    def make(**_: Any) -> httpx.AsyncHTTPTransport:
        made.append(httpx.AsyncHTTPTransport(limits=httpx.Limits(max_keepalive_connections=0)))
        return made[-1]

    ours = reaches.TRANSPORTS.find()
    reaches.TRANSPORTS.replace(lambda _: staticmethod(make))
    yield
    reaches.TRANSPORTS.replace(lambda _: staticmethod(ours))
    vars(importing.load()).pop("module_level_aclient", None)

    async def close() -> None:  # a stream that is refused is open still
        for transport in made:
            await transport.aclose()

    bridge.run(close())


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings of ours."""
    return [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]


def spend(model: CodegenModel) -> Spend:
    """What its calls have cost."""
    return model.ledger.snapshot()["total"]


# The look at the clients


def test_clients_are_on_our_connection() -> None:
    """Those of the installed litellm are; looking at them leaves none behind."""
    kept = set(reaches.CLIENTS.find().cache_dict)
    assert watch.check() is None
    assert set(reaches.CLIENTS.find().cache_dict) == kept


@pytest.mark.usefixtures("elsewhere")
def test_clients_on_another_connection_are_refused() -> None:
    """The error says what is wrong, in which version, and what to do."""
    error = watch.check()
    assert isinstance(error, UnsupportedLitellmError)
    assert error.version == reaches.version()
    assert error.supported == ">=1.105.3,<=1.110.2,!=1.106.*"
    for words in (
        error.version,
        error.supported,
        "AsyncHTTPTransport",
        "nothing was sent",
        "AGENTLESS_UNWATCHED=1",
    ):
        assert words in str(error)


@pytest.mark.usefixtures("elsewhere")
def test_clients_on_another_connection_can_be_allowed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With the variable it is one warning."""
    monkeypatch.setenv("AGENTLESS_UNWATCHED", "1")
    assert watch.check() is watch.check() is None
    [text] = said(caplog)
    assert "AGENTLESS_UNWATCHED" in text


@pytest.mark.parametrize("reach", ["GENERIC_CLIENT", "OPENAI_ROUTE"])
def test_a_client_that_cannot_be_made_is_refused(monkeypatch: pytest.MonkeyPatch, reach: str) -> None:
    """What makes it has moved: nobody knows what litellm does now."""
    monkeypatch.setattr(reaches, reach, reaches.Reach("", ("litellm:gone",), ""))
    error = watch.check()
    assert isinstance(error, UnsupportedLitellmError)
    assert "could not be made" in str(error)


def test_one_that_is_behind_a_proxy_is_looked_at() -> None:
    """A client's transports for proxies count too."""
    client = httpx.AsyncClient(
        transport=wire.WatchedTransport(), mounts={"https://": httpx.AsyncHTTPTransport(), "http://": None}
    )
    assert [watch._is_ours(each) for each in watch._transports(client)] == [True, False]


def test_a_refused_litellm_sends_nothing(
    server: Loopback, make_model: MakeModel, provider: str, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call ends in the error, each in its own, and the server sees none."""
    monkeypatch.setattr(importing, "_refusal", UnsupportedLitellmError("no", version="1.999.0"))
    model = make_model(provider, temperature=0.5)
    caught = []
    for n in (1, 3):
        with pytest.raises(UnsupportedLitellmError) as error:
            way.call(model, num_samples=n)
        caught.append(error.value)
    assert caught[0] is not caught[1]
    assert caught[0].version == "1.999.0"
    assert not server.journal


# What holds at each call


@pytest.mark.usefixtures("elsewhere")
def test_an_answer_that_was_not_seen_is_an_error(
    server: Loopback, make_model: MakeModel, provider: str, way: Way
) -> None:
    """It is not a result, nor asked for again: it may be paid for; and the ledger says that it is unknown."""
    model = make_model(provider, num_retries=3)
    with pytest.raises(UnwatchedReplyError, match="our connection saw no request") as caught:
        way.call(model)
    assert isinstance(caught.value, AgentlessError)
    assert "Nothing was sent" not in "".join(caught.value.__notes__)
    assert len(server.journal) == 1
    assert spend(model)["unknown"] == 1


@pytest.mark.usefixtures("elsewhere")
def test_an_answer_that_was_not_seen_can_be_allowed(
    server: Loopback,
    make_model: MakeModel,
    provider: str,
    way: Way,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With the variable it is a result, and one warning however many there are; it costs what it costs."""
    monkeypatch.setenv("AGENTLESS_UNWATCHED", "1")
    model = make_model(provider, temperature=0.5)
    replies = way.call(model, num_samples=3)
    assert [each["response"] for each in replies] == [REPLY] * 3
    [text] = said(caplog)
    assert "saw no request" in text
    assert spend(model)["unknown"] == 0
    assert spend(model)["completion_tokens"] == 3 * replies[0]["usage"]["completion_tokens"] > 0


def test_a_route_that_is_known_as_unwatched_warns_once(
    server: Loopback,
    make_model: MakeModel,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """There is a blocking client there: replies are results, and what failed may have been paid for."""
    monkeypatch.setitem(MODELS, "nova", {"name": "nova-micro-v1", "provider": "amazon_nova"})
    model = make_model("nova", num_retries=0)
    for _ in range(2):
        assert model.codegen("hi")[0]["response"] == REPLY
    [text] = said(caplog)
    assert '"amazon_nova" is not watched' in text
    assert spend(model)["completion_tokens"] > 0
    server.default = faults.MalformedBody()
    with pytest.raises(Exception) as caught:  # litellm's, whichever
        model.codegen("hi")
    assert "Nothing was sent" not in "".join(caught.value.__notes__)
    assert spend(model)["unknown"] == 1


def test_an_applications_own_client_is_known_too(
    server: Loopback, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It was put there on purpose: a warning, and no refusal of litellm."""
    session = httpx.AsyncClient(limits=httpx.Limits(max_keepalive_connections=0))
    monkeypatch.setattr(importing.load(), "aclient_session", session)
    assert watch.check() is None
    for _ in range(2):
        assert make_model().codegen("hi")[0]["response"] == REPLY
    [text] = said(caplog)
    assert "litellm.aclient_session" in text


# A litellm of the future

FUTURE = """
import importlib.abc, importlib.machinery, importlib.metadata, sys

version = importlib.metadata.version
importlib.metadata.version = lambda name: "1.999.0" if name == "litellm" else version(name)


class Moved(importlib.machinery.SourceFileLoader):
    def get_code(self, name):
        source = self.get_data(self.path).decode()
        for old, new in RENAMED.items():
            source = source.replace(old, new)
        return compile(source + ADDED.get(name, ""), self.path, "exec", dont_inherit=True)


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if not name.startswith("litellm"):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and (spec.origin or "").endswith(".py"):
            with open(spec.origin, encoding="utf-8") as file:
                source = file.read()
            if name in ADDED or any(old in source for old in RENAMED):  # else the compiled file will do
                spec.loader = Moved(name, spec.origin)
        return spec


sys.meta_path.insert(0, Finder())
"""

CALLS = """
from agentless.config import read_config
from agentless.errors import UnsupportedLitellmError
from agentless.loopback import Loopback, faults
from agentless.util.model_factory import ModelFactory

with Loopback() as server:
    quick = {"api_key": "k", "retry_min_wait": 0.01, "retry_max_wait": 0.02, "num_retries": 1}
    for provider, name, url in (
        ("openai", "gpt-4o", server.openai_url),
        ("anthropic", "claude-3-5-sonnet-20241022", server.anthropic_url),
        ("mistral", "m", server.openai_url),
    ):
        table = {"provider": provider, "name": name, "base_url": url, "temperature": 0.5, **quick}
        model = ModelFactory(read_config({"models": {"m": table}})).create_model()
        server.reset()
        server.script(*[faults.Reset("request")] * RESETS)
        try:
            texts = [each["response"] for each in model.codegen("hi")]
            texts.append("".join(each["response"] for each in model.codegen_stream("hi")))
        except UnsupportedLitellmError as error:
            texts = [error.version]
        print(provider, len(server.journal), *texts, sep="|")
"""

MOVED_TRANSPORT = {"create_async_transport": "make_async_transport"}
MOVED_REST = {
    "response_cost_calculator": "priced",
    "is_internal_call": "is_inner_call",
    "make_openai_chat_completion_request": "ask_openai",
    "is_output_token_limit_error": "is_length_error",
    "GLOBAL_LOGGING_WORKER": "LOGGING_WORKER",
    "OpenAIChatCompletionStreamingHandler": "OpenAIPieces",
    "ModelResponseIterator": "ClaudePieces",
    "_dequeued_tasks": "_taken_tasks",
}
ALIAS = "\nAsyncHTTPHandler.create_async_transport = AsyncHTTPHandler._make_async_transport\n"


@pytest.fixture
def run_future(tmp_path: Path) -> Callable[..., tuple[list[str], list[str]]]:
    """(names that have moved, options, **environment) -> the lines on stdout and on stderr."""

    def run(
        renamed: dict[str, str], *options: str, added: str = "", resets: int = 1, **environ: str
    ) -> tuple[list[str], list[str]]:
        script = tmp_path / "script.py"
        tables = {
            "RENAMED": renamed,
            "RESETS": resets,
            "ADDED": {"litellm.llms.custom_httpx.http_handler": added} if added else {},
        }
        lines = "".join(f"{name} = {value!r}\n" for name, value in tables.items())
        script.write_text(lines + FUTURE + textwrap.dedent(CALLS), "utf-8")
        done = subprocess.run(
            [sys.executable, *options, str(script)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environ},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines(), done.stderr.splitlines()

    return run


ALL = ("openai", "anthropic", "mistral")
RIGHT = [f"{name}|3|{REPLY}|{REPLY}" for name in ALL]
"""A reset and its retry, and a stream."""


@pytest.mark.parametrize("renamed", [{}, MOVED_REST], ids=["as it is", "moved"])
def test_a_newer_litellm_does_all_itself(run_future: Callable[..., Any], renamed: dict[str, str]) -> None:
    """One warning, right replies, right counts, though much of its inside has moved."""
    out, err = run_future(renamed)
    assert out == RIGHT
    [warning] = err
    assert "litellm 1.999.0 has not been tested" in warning


@pytest.mark.parametrize(
    "added, options", [("", ()), (ALIAS, ("-O",))], ids=["moved", "an alias that nobody calls, -O"]
)
def test_a_newer_litellm_on_another_connection_is_refused(
    run_future: Callable[..., Any], added: str, options: tuple[str, ...]
) -> None:
    """The making of transports has moved: every call says so, and nothing is sent."""
    out, err = run_future(MOVED_TRANSPORT, *options, added=added)
    assert out == [f"{name}|0|1.999.0" for name in ALL]
    [warning] = err
    assert "has not been tested" in warning


def test_a_newer_litellm_on_another_connection_can_be_allowed(run_future: Callable[..., Any]) -> None:
    """Then all is told: the version, the clients, and each model's first call."""
    out, err = run_future(MOVED_TRANSPORT, resets=0, AGENTLESS_UNWATCHED="1")
    assert out == [f"{name}|2|{REPLY}|{REPLY}" for name in ALL]
    told = [line for line in err if "AGENTLESS_UNWATCHED" in line]
    assert len(told) == len(set(told)) == 1 + len(ALL)
