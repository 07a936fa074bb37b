"""Attempts: how many requests, what comes of them, and how long it takes; over real HTTP."""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace

import openai
import pytest

from agentless import errors
from agentless.errors import DeadlineExceededError, EmptyReplyError, StreamInterruptedError
from agentless.llm.codegen import CodegenModel
from agentless.loopback import Loopback, Reply, faults
from agentless.loopback.faults import Fault
from agentless.test.ways import KEY, PROVIDERS, WAYS, Way

MakeModel = Callable[..., CodegenModel]

TEXT = "one two three four five"
TIMEOUT = 0.4
LITELLM = openai.OpenAIError  # what all of litellm's exceptions are


@dataclass(frozen=True)
class Case:
    """A fault that never ends, and what each kind of call makes of it."""

    fault: Fault
    whole: type[BaseException]
    """What a whole call raises ..."""
    streamed: type[BaseException]
    """... and a stream."""
    retries: bool = True
    """Whether a whole call tries again ..."""
    stream_retries: bool | None = None
    """... and a stream; as a whole call where it is not said."""
    text: str = ""
    """What a broken stream had brought."""
    slow: bool = False
    """Whether an attempt lasts until its deadline."""


def final(fault: Fault) -> Case:
    """A refusal that is not worth another request."""
    return Case(fault, LITELLM, LITELLM, retries=False)


def passing(fault: Fault) -> Case:
    """A refusal or a broken connection that may pass."""
    return Case(fault, LITELLM, LITELLM)


def cut(fault: Fault, text: str = "one two three ", whole: type[BaseException] = LITELLM) -> Case:
    """A fault after the first pieces of a stream: they have reached the caller, so it is not tried again."""
    return Case(fault, whole, StreamInterruptedError, stream_retries=False, text=text)


def late(fault: Fault) -> Case:
    """A fault that only the deadline ends."""
    return Case(fault, DeadlineExceededError, DeadlineExceededError, slow=True)


CASES = {
    **{f"status {code}": passing(faults.Status(code)) for code in (408, 409, 429, 500, 502, 503, 504, 529)},
    **{f"status {code}": final(faults.Status(code)) for code in (400, 401, 402, 403, 404, 413, 422, 501)},
    "quota exhausted": final(faults.QuotaExhausted()),
    "context exceeded": final(faults.ContextExceeded()),
    "invalid key": final(faults.InvalidKey()),
    "reset": passing(faults.Reset("request")),
    "clean close": passing(faults.CleanClose("request")),
    "half headers": passing(faults.HalfHeaders()),
    "garbage": passing(faults.Garbage()),
    "reset after headers": Case(faults.Reset("headers"), LITELLM, StreamInterruptedError),
    "close after headers": Case(faults.CleanClose("headers"), LITELLM, StreamInterruptedError),
    "malformed body": passing(faults.MalformedBody()),
    "page for a body": passing(faults.MalformedBody(html=True)),
    "empty choices": Case(faults.EmptyChoices(), EmptyReplyError, EmptyReplyError),
    "empty text": Case(faults.EmptyText(), EmptyReplyError, EmptyReplyError),
    "reset in the body": cut(faults.Reset("body", after_chunks=3)),
    "close in the body": cut(faults.CleanClose("body", after_chunks=3)),
    "reset between events": cut(faults.Reset("stream", after_chunks=3)),
    "body cut": cut(faults.CutBody(after_chunks=3)),
    "truncated": cut(faults.TruncatedStream(after_chunks=3)),
    "truncated and done": cut(faults.TruncatedStream(after_chunks=3, done=True)),
    "corrupt event": cut(faults.CorruptEvent(at=3)),
    "corrupt event at the end": cut(faults.CorruptEvent(at=3, then_continue=False)),
    "error event": cut(faults.ErrorEvent(at=3)),
    "error event first": passing(faults.ErrorEvent(at=0)),
    "stall": late(faults.Stall()),
    "slow start": late(faults.SlowStart(seconds=30)),
    "slow body": late(faults.SlowStart(seconds=30, headers_first=True)),
    "endless headers": late(faults.EndlessHeaders()),
    "drip": late(faults.Drip(interval=0.05)),
    "comments": late(faults.Comments()),
    "stall in the stream": Case(
        faults.Stall(after_chunks=3),
        DeadlineExceededError,
        StreamInterruptedError,
        stream_retries=False,
        text="one two three ",
        slow=True,
    ),
}


def test_retries_are_told(server: Loopback, make_model: MakeModel, caplog: pytest.LogCaptureFixture) -> None:
    """A run that waits for its next attempt says why, at DEBUG, without the request or the key."""
    server.script(faults.Status(503, "no secrets"), faults.Reset("request"), "fine")
    model = make_model("openai", num_retries=3)
    with caplog.at_level("DEBUG", logger="agentless"):
        model.codegen("a secret plan")
    told = [record.getMessage() for record in caplog.records if record.name == "agentless"]
    assert [line.rpartition(";")[0] for line in told] == [
        "openai/gpt-4o: attempt 1 of 4: the service refused the request (HTTP 503)",
        "openai/gpt-4o: attempt 2 of 4: the connection failed",
    ]
    assert all("the next one in 0.0 s or later" in line for line in told)
    assert "secret" not in caplog.text
    assert KEY not in caplog.text


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_a_fault_that_never_ends(
    server: Loopback, make_model: MakeModel, name: str, way: Way, provider: str
) -> None:
    """Each fault, by each way, on each provider: so many requests, this error, within that time."""
    case = CASES[name]
    server.default = _with_text(case.fault)
    model = make_model(provider, num_retries=1, timeout=TIMEOUT if case.slow else 5)
    _warm_up(model, server)
    retries = case.retries if not way.streams or case.stream_retries is None else case.stream_retries
    requests = 2 if retries else 1
    began = time.monotonic()
    with pytest.raises(case.streamed if way.streams else case.whole) as caught:
        way.call(model)
    seconds = time.monotonic() - began
    assert len(server.journal) == requests
    assert seconds < requests * (TIMEOUT if case.slow else 0) + 1.5
    assert f"{requests} attempt" in " ".join(caught.value.__notes__)
    if way.streams and case.text:
        assert isinstance(caught.value, StreamInterruptedError)
        assert caught.value.text == case.text
    if case.slow and way.streams and case.text:
        assert isinstance(caught.value.__cause__, DeadlineExceededError)


@pytest.mark.parametrize("retries", [0, 1, 3])
@pytest.mark.parametrize("fault", [faults.Status(503), faults.Reset("request")], ids=["status", "reset"])
def test_attempts_are_exact(
    server: Loopback, make_model: MakeModel, way: Way, provider: str, retries: int, fault: Fault
) -> None:
    """`num_retries = r` makes exactly r+1 requests of a fault that never ends."""
    server.default = fault
    with pytest.raises(LITELLM):
        way.call(make_model(provider, num_retries=retries))
    assert len(server.journal) == retries + 1


def test_a_fault_that_passes_is_survived(
    server: Loopback, make_model: MakeModel, way: Way, provider: str
) -> None:
    """After faults that pass, the reply comes, and says how many requests it took."""
    server.script(faults.Status(429), faults.Reset("request"), faults.EmptyText(), TEXT)
    [trajectory] = way.call(make_model(provider, num_retries=3))
    assert trajectory["response"] == TEXT
    assert len(server.journal) == 4
    if not way.streams:
        assert trajectory["attempts"] == 4


def test_whole_calls_over_a_stream_retry_what_is_cut(
    server: Loopback, make_model: MakeModel, provider: str
) -> None:
    """With `stream = true` nothing has reached the caller of a whole call, so a cut is tried again."""
    server.script(
        faults.TruncatedStream(after_chunks=2, reply=TEXT),
        faults.Reset("stream", after_chunks=2, reply=Reply(TEXT, chunk_delay=0.05)),
        faults.CorruptEvent(at=2, reply=TEXT),
        TEXT,
    )
    [trajectory] = make_model(provider, stream=True, num_retries=3).codegen("hi")
    assert trajectory["response"] == TEXT
    assert [entry.stream for entry in server.journal] == [True] * 4


def test_a_stream_without_end_ends(server: Loopback, make_model: MakeModel, provider: str) -> None:
    """A stream that goes on for ever ends at `stream_timeout`, by the clock and not by silence."""
    server.default = faults.DripEvents(interval=0.05, reply=TEXT)
    model = make_model(provider, num_retries=0, timeout=0.9, stream_timeout=1.0)
    _warm_up(model, server)
    began = time.monotonic()
    with pytest.raises(StreamInterruptedError) as caught:
        list(model.codegen_stream("hi"))
    assert 0.9 < time.monotonic() - began < 1.5
    assert isinstance(caught.value.__cause__, DeadlineExceededError)
    assert "stream_timeout" in str(caught.value)
    assert caught.value.text.startswith("one two")


def test_events_keep_a_stream_alive(server: Loopback, make_model: MakeModel, way: Way, provider: str) -> None:
    """A stream longer than `timeout` is fine as long as its events come in time."""
    server.default = Reply(TEXT, chunk_delay=0.25)
    model = make_model(provider, num_retries=0, timeout=0.9, stream=True)
    _warm_up(model, server)
    [trajectory] = way.call(model)
    assert trajectory["response"] == TEXT


@pytest.mark.parametrize(
    "headers",
    [{"retry-after": "1"}, {"retry-after-ms": "1000"}, {"Retry-After": "1.0"}],
    ids=lambda headers: next(iter(headers)),
)
def test_the_next_request_waits_as_long_as_asked(
    server: Loopback, make_model: MakeModel, provider: str, headers: dict[str, str]
) -> None:
    """`Retry-After` is a floor under the backoff, whatever `retry_max_wait` says."""
    server.script(faults.Status(429, headers=headers), "fine")
    make_model(provider, num_retries=1).codegen("hi")
    first, second = server.journal
    assert first.ended is not None
    assert second.arrived - first.ended >= 0.99


def test_retry_after_holds_back_every_caller_of_the_model(server: Loopback, make_model: MakeModel) -> None:
    """While one call waits as the service asked, no other call of that model goes."""
    server.script(faults.Status(429, headers={"retry-after": "1"}))
    model = make_model(num_retries=1, max_concurrency=1)
    _warm_up(model, server)
    answers = model.codegen("hi", num_samples=3, temperature=0.5)
    assert len(answers) == 3
    first, *others = server.journal
    assert first.ended is not None
    assert min(entry.arrived for entry in others) - first.ended >= 0.99


def test_a_dead_account_ends_the_waiting_calls(
    server: Loopback, make_model: MakeModel, provider: str
) -> None:
    """An exhausted quota ends the calls that wait for a place, with that error and without a request."""
    server.script(faults.Status(503), faults.QuotaExhausted())
    model = make_model(provider, num_retries=3, max_concurrency=1)
    _warm_up(model, server)
    server.default = "too late"
    with pytest.raises(LITELLM) as caught:
        model.codegen("hi", num_samples=5, temperature=0.5)
    assert len(server.journal) == 2
    assert "None of the 5 samples arrived." in caught.value.__notes__
    assert model.codegen("again")[0]["response"] == "too late"  # no state is kept


@pytest.mark.parametrize(
    "fault, words",
    [
        (faults.Status(400), "its message says why"),
        (faults.InvalidKey(), "check api_key"),
        (faults.Status(403), "base_url"),
        (faults.Status(404), "check name, provider and base_url"),
        (faults.Status(413), "shorten it"),
        (faults.Status(422), "its message says why"),
        (faults.QuotaExhausted(), "top it up"),
        (faults.ContextExceeded(), "max_input_tokens"),
        (faults.Status(429), "requests_per_minute"),
    ],
    ids=str,
)
def test_an_error_names_the_model_and_a_remedy(
    server: Loopback, make_model: MakeModel, provider: str, fault: Fault, words: str
) -> None:
    """What a caller sees of a refusal says which model it was and what to change."""
    server.default = fault
    model = make_model(provider, num_retries=0)
    with pytest.raises(LITELLM) as caught:
        model.codegen("hi")
    shown = "".join(traceback.format_exception(caught.value))
    assert model.name in shown
    assert words in shown


def test_nothing_is_sent_with_what_cannot_be_sent(server: Loopback, make_model: MakeModel) -> None:
    """A mistake that litellm dresses as a retryable 500 is neither sent nor tried again."""
    model = make_model(extra_body={"x": 1}, num_retries=3)
    with pytest.raises((TypeError, ValueError)):
        model.codegen([{"role": "user", "content": [{"type": "text", "text": {1, 2}}]}])
    assert server.journal == []


def test_separators_that_json_may_hold_raw_arrive(
    server: Loopback, make_model: MakeModel, way: Way, provider: str
) -> None:
    """U+2028, U+2029 and U+0085 stand raw in some services' JSON, and httpx takes them for line ends."""
    text = "a\u2028b\u2029c\x85d\x0be\x1cf"
    server.script(Reply(chunks=[text, " and more"]))
    assert way.call(make_model(provider))[0]["response"] == text + " and more"


def test_the_specification_names_are_litellms() -> None:
    """What a caller catches by the specification's names is litellm's own class."""
    import litellm

    assert errors.RateLimitError is litellm.RateLimitError
    assert errors.InvalidRequestError is litellm.BadRequestError


def _with_text(fault: Fault) -> Fault:
    """The same fault around our text, where it is one that sends a reply of its own."""
    if isinstance(fault, faults.EmptyText) or not isinstance(fault, faults.ReplyFault):
        return fault
    # A reset takes back what was not read yet.
    return replace(fault, reply=Reply(TEXT, chunk_delay=0.05 if isinstance(fault, faults.Reset) else 0.0))


def _warm_up(model: CodegenModel, server: Loopback) -> None:
    """Have litellm imported and its clients made, so that a bound on time is one on the call."""
    default, server.default = server.default, "warm"
    script = [*server._provider.script._steps]
    server._provider.script._steps.clear()
    model.codegen("warm up")
    list(model.codegen_stream("warm up"))
    server.reset()
    server.default = default
    server.script(*script)
