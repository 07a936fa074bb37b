"""Litellm's exceptions: between processes, without keys, and made where litellm makes none."""

import base64
import copy
import itertools
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

import httpx
import openai
import pytest

from agentless.errors import SamplesIncompleteError
from agentless.llm import wire
from agentless.llm.codegen import CodegenModel
from agentless.llm.failures import as_litellm, redact
from agentless.llm.importing import load
from agentless.loopback import Loopback, faults
from agentless.test.ways import KEY, PROVIDERS

pytestmark = pytest.mark.litellm

REQUEST = {"model": "anthropic/claude-x"}


def litellm_kinds() -> list[type[Exception]]:
    """Every exception class that litellm says it raises."""
    return sorted({*load().LITELLM_EXCEPTION_TYPES}, key=lambda kind: kind.__name__)


def made(kind: type[Exception]) -> Exception:
    """One of this class, without its constructor, which differs from class to class."""
    error: Exception = kind.__new__(kind)
    error.args = ("litellm.Error: it failed",)
    error.__dict__.update(
        message="litellm.Error: it failed",
        status_code=418,
        llm_provider="anthropic",
        model="claude-x",
        num_retries=None,
        max_retries=None,
        litellm_response_headers=httpx.Headers({"retry-after": "3"}),
        body={"error": "x", "inner": {"dropped": object()}},
        response=httpx.Response(418, request=httpx.Request("POST", "http://service/v1")),
    )
    error.add_note("m: 2 attempts in 0.1 s")
    return error


def unpickled(data: bytes) -> Any:
    """What another process would read."""
    return pickle.loads(data)  # noqa: S301  # made here


def same(one: Any, other: Any) -> None:
    """Both say the same to a caller."""
    assert type(one) is type(other)
    for name in ("args", "message", "status_code", "llm_provider", "model", "__notes__"):
        assert getattr(one, name, None) == getattr(other, name, None), name
    assert str(one) == str(other)
    assert dict(one.litellm_response_headers) == dict(other.litellm_response_headers)
    assert one.response.status_code == other.response.status_code


@pytest.mark.parametrize(
    "twin", [copy.copy, lambda error: unpickled(pickle.dumps(error))], ids=["copy", "pickle"]
)
def test_every_class_travels(twin: Callable[[Exception], Exception]) -> None:
    """All that a caller reads is there on the other side, for each class that litellm raises."""
    for kind in litellm_kinds():
        error = made(kind)
        other = twin(error)
        same(error, other)
        other.add_note("of its own")
        assert error.__notes__ == ["m: 2 attempts in 0.1 s"]
        same(other, twin(other))  # and again


def test_what_calls_raised_is_read_in_another_process(
    server: Loopback, make_model: Callable[..., CodegenModel]
) -> None:
    """A worker of a process pool fails, and the parent sees the same exception with its notes."""
    raised: list[Any] = []
    for provider, fault in itertools.product(
        PROVIDERS,
        [faults.Status(429, headers={"retry-after": "0"}), faults.ContextExceeded(), faults.Reset()],
    ):
        server.default = fault
        with pytest.raises(openai.OpenAIError) as caught:
            make_model(provider, num_retries=0).codegen("hi")
        raised.append(caught.value)
    script = """
        import base64, pickle, sys
        import agentless.errors
        for error in pickle.loads(base64.b64decode(sys.stdin.read())):
            print(type(error).__name__, error.status_code, error.llm_provider, error.model, sep="|")
            print(repr(str(error)), repr(error.__notes__), sep="|")
            print(base64.b64encode(pickle.dumps(error)).decode())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        input=base64.b64encode(pickle.dumps(raised)).decode(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    for error, first, second, third in zip(raised, lines[::3], lines[1::3], lines[2::3], strict=True):
        assert first == f"{type(error).__name__}|{error.status_code}|{error.llm_provider}|{error.model}"
        assert second == f"{str(error)!r}|{error.__notes__!r}"
        assert str(unpickled(base64.b64decode(third))) == str(error)


def test_a_failed_sample_travels_with_its_samples(
    server: Loopback, make_model: Callable[..., CodegenModel]
) -> None:
    """The finished samples are not lost because another's exception has to travel with them."""
    server.script(faults.Status(400), "fine")
    with pytest.raises(SamplesIncompleteError) as caught:
        make_model("anthropic", num_retries=0).codegen("hi", num_samples=2, temperature=0.5)
    other = unpickled(pickle.dumps(caught.value))
    [finished] = other.trajectories.values()
    assert finished["response"] == "fine"
    [failure] = other.failures.values()
    assert isinstance(failure, load().BadRequestError)
    assert failure.status_code == 400


class Info(NamedTuple):
    """As aiohttp describes a request in its exceptions."""

    url: str
    headers: Any


def loaded(error: Exception) -> Exception:
    """The exception with a key in every place from which one could be read."""
    text = f"Incorrect API key provided: {KEY}."
    error.args = (text, Info("http://service", {"authorization": KEY}), 7, [KEY])
    request = httpx.Request("POST", "http://service")
    response = httpx.Response(401, text=f'{{"error": "{KEY}"}}', request=request)
    assert KEY in response.text  # and so in what it remembers
    error.__dict__.update(
        message=text,
        body={"error": {"message": text, "list": [text, (text, 1)]}},
        raw=text.encode(),
        response=response,
        status_code=401,
    )
    return error


def shown(error: BaseException) -> str:
    """All that an exception shows, its response's body included."""
    response = getattr(error, "response", None)
    body = f"{response.text} {response.content!r}" if response is not None else ""
    fields = {name: value for name, value in vars(error).items() if name != "request"}
    return f"{error} {error!r} {error.args!r} {fields!r} {body}"


def test_a_key_is_taken_out_of_everything() -> None:
    """Message, arguments, body, response: a service that echoes the key shows it to nobody."""
    error = loaded(load().AuthenticationError("x", "openai", "gpt-4o"))
    cause, context = (
        loaded(ValueError()),
        loaded(ConnectionError()),
    )
    error.__cause__, cause.__context__, context.__cause__ = cause, context, error  # a ring, too
    held: Any = loaded(OSError())
    context.original_exception = held  # type: ignore[attr-defined]  # as litellm keeps what broke a stream
    redact(error, [KEY])
    for each in (error, cause, context, held):
        assert KEY not in shown(each)
        assert "[redacted]" in shown(each)
    assert str(error.args[0]) == "Incorrect API key provided: [redacted]."
    assert error.args[2] == 7
    assert getattr(error, "status_code", None) == 401


def test_short_words_are_no_keys() -> None:
    """A placeholder such as `x` is part of every other word, and stays."""
    error = ValueError("an example of text")
    redact(error, ["x", "", "of"])
    assert str(error) == "an example of text"


def test_each_of_several_secrets_is_taken_out() -> None:
    """Headers of the user's own are secrets as the key is."""
    error = ValueError("one sk-first, another tok-second")
    redact(error, ["sk-first", "tok-second"])
    assert str(error) == "one [redacted], another [redacted]"


def test_an_echoed_key_is_nowhere_in_a_calls_error(
    server: Loopback, make_model: Callable[..., CodegenModel], provider: str
) -> None:
    """The service quotes the key in its refusal; no link of what the caller gets shows it."""
    body = {"error": {"message": f"bad key {KEY}", "type": "authentication_error"}}
    server.default = faults.Status(401, body=body, headers={"x-echo": "1"})
    with pytest.raises(openai.OpenAIError) as caught:
        make_model(provider, num_retries=0).codegen("hi")
    link: BaseException | None = caught.value
    while link is not None:
        assert KEY not in shown(link)
        link = link.__cause__ or link.__context__
    assert KEY not in repr(pickle.dumps(caught.value))


@pytest.mark.parametrize(
    "error, kind, status",
    [
        ({"type": "invalid_request_error"}, "BadRequestError", 400),
        ({"type": "authentication_error"}, "AuthenticationError", 401),
        ({"type": "billing_error"}, "APIError", 402),
        ({"type": "not_found_error"}, "NotFoundError", 404),
        ({"code": 408}, "Timeout", 408),
        ({"type": "rate_limit_error"}, "RateLimitError", 429),
        ({"type": "api_error"}, "InternalServerError", 500),
        ({"type": "service_unavailable"}, "ServiceUnavailableError", 503),
        ({"type": "overloaded_error"}, "APIError", 529),
        ({}, "InternalServerError", 500),
    ],
    ids=str,
)
def test_an_error_event_is_the_exception_of_its_status(error: dict[str, Any], kind: str, status: int) -> None:
    """A failure told in a stream has the type that it would have had before the stream."""
    event = wire.ErrorEventError({"message": "said so", **error})
    wrapped = RuntimeError("some SDK's")
    wrapped.__cause__ = event
    for raised in (event, wrapped):
        found: Any = as_litellm(raised, REQUEST)
        assert type(found) is getattr(load(), kind)
        assert found.status_code == status
        assert (found.model, found.llm_provider) == ("anthropic/claude-x", "anthropic")
        assert "said so" in str(found)


def test_litellms_own_is_itself() -> None:
    """What litellm has named already is passed on as the same object."""
    for kind in litellm_kinds():
        error = made(kind)
        assert as_litellm(error, REQUEST) is error


@pytest.mark.parametrize(
    "error",
    [
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("peer closed"),
        wire.TruncatedStreamError("the end"),
        wire.SecondRequestError("again"),
        ValueError("some parser's"),
        OSError(104, "reset"),
    ],
    ids=repr,
)
def test_anything_else_is_a_connection_error(error: Exception) -> None:
    """What litellm lets through unmapped has a type of its that callers know, and says what it was."""
    found: Any = as_litellm(error, {"model": "m", "custom_llm_provider": "mine"})
    assert type(found) is load().APIConnectionError
    assert type(error).__name__ in str(found)
    assert str(error) in str(found)
    assert found.llm_provider == "mine"
