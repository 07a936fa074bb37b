"""Whether to try again, and when: the table cell by cell, and what services really send."""

import email.utils
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tenacity import RetryCallState

from agentless import errors
from agentless.errors import DeadlineExceededError, EmptyReplyError, StreamInterruptedError
from agentless.llm.codegen import CodegenModel
from agentless.llm.retries import (
    Decision,
    Fault,
    Kind,
    Verdict,
    WaitBackoff,
    decide,
    retry_after,
    status_of,
    unusable,
)
from agentless.loopback import Loopback, faults
from agentless.loopback.draft import Draft, End, Plan
from agentless.loopback.faults.fault import ReplyFault
from agentless.loopback.wire import chunk
from agentless.settings import ModelSettings
from agentless.test.ways import KEY, Way

pytestmark = pytest.mark.litellm

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)

# The whole table: every status a refusal can have is in exactly one of these.
RETRIED = {408, 409, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529, 530}
HOPELESS = {401, 402}


@pytest.mark.parametrize("status", range(400, 600))
def test_every_refusal_has_its_verdict(status: int) -> None:
    """An allow-list: what is not named is final, whatever the number looks like."""
    verdict = decide(Fault(Kind.REFUSED, status)).verdict
    if status in RETRIED:
        assert verdict is Verdict.RETRY
    elif status in HOPELESS:
        assert verdict is Verdict.HOPELESS
    else:
        assert verdict is Verdict.FINAL


@pytest.mark.parametrize(
    "kind, verdict",
    [
        (Kind.UNSENT, Verdict.FINAL),
        (Kind.CONNECTION, Verdict.RETRY),
        (Kind.DEADLINE, Verdict.RETRY),
        (Kind.MALFORMED, Verdict.RETRY),
        (Kind.EMPTY, Verdict.RETRY),
        (Kind.CUT, Verdict.RETRY),
        (Kind.OTHER, Verdict.FINAL),
    ],
)
@pytest.mark.parametrize("status", [None, 200, 401, 429])
def test_every_other_kind_has_its_verdict(kind: Kind, verdict: Verdict, status: int | None) -> None:
    """Where the service refused nothing, what failed decides, and neither status nor headers do."""
    fault = Fault(kind, status, {"retry-after": "9"}, '{"error": {"code": "insufficient_quota"}}')
    assert decide(fault) == Decision(verdict)


def test_every_kind_is_in_the_table() -> None:
    """A kind that is added without a verdict fails here and not in a call."""
    for kind in Kind:
        assert isinstance(decide(Fault(kind)), Decision)


def test_a_refusal_without_a_status_is_final() -> None:
    """What nobody can name is not tried again."""
    assert decide(Fault(Kind.REFUSED)).verdict is Verdict.FINAL


@pytest.mark.parametrize("status", [400, 402, 403, 429, 500])
@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}},
        {"error": {"message": "x", "type": "insufficient_quota", "code": None}},
        {"error": {"message": "x", "code": "billing_hard_limit_reached"}},
        {"error": {"message": "x", "code": "billing_not_active"}},
        {"error": {"message": "x", "code": "account_deactivated"}},
        {"error": {"message": "x", "type": "billing_error"}},
        {
            "type": "error",
            "error": {"type": "invalid_request_error", "message": "Your credit balance is too low to"},
        },
        {"error": {"message": "Insufficient Balance"}},
        {"message": "Insufficient Balance"},
    ],
    ids=json.dumps,
)
def test_a_dead_account_is_hopeless_whatever_its_status(status: int, body: dict[str, Any]) -> None:
    """No waiting fills an account: no other call of this model should wait for it either."""
    assert decide(Fault(Kind.REFUSED, status, {}, json.dumps(body))) == Decision(Verdict.HOPELESS)


@pytest.mark.parametrize(
    "body", ["Insufficient Balance", "<html>insufficient_quota</html>", '["insufficient_quota"]']
)
def test_a_dead_account_is_seen_without_json_too(body: str) -> None:
    """Gateways put the words into pages."""
    assert decide(Fault(Kind.REFUSED, 429, {}, body)).verdict is Verdict.HOPELESS


@pytest.mark.parametrize(
    "body",
    [
        "",
        "not json",
        "null",
        '{"error": null}',
        '{"error": {"message": "Rate limit reached", "type": "requests", "code": "rate_limit_exceeded"}}',
        # Words of the user's own, quoted elsewhere in the body, are not the service's.
        '{"error": {"message": "Rate limit"}, "input": "why is my credit balance is too low"}',
    ],
)
def test_a_plain_rate_limit_is_not_hopeless(body: str) -> None:
    """A 429 is tried again unless the service itself says that the account is the reason."""
    assert decide(Fault(Kind.REFUSED, 429, {}, body)).verdict is Verdict.RETRY


def test_only_a_retry_has_a_time_to_wait() -> None:
    """`Retry-After` beside a final refusal holds nobody back."""
    headers = {"retry-after": "7"}
    assert decide(Fault(Kind.REFUSED, 429, headers)).retry_after == 7
    assert decide(Fault(Kind.REFUSED, 503, headers)).retry_after == 7
    assert decide(Fault(Kind.REFUSED, 400, headers)).retry_after is None
    assert decide(Fault(Kind.REFUSED, 401, headers)).retry_after is None


@pytest.mark.parametrize(
    "headers, seconds",
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"Retry-After": " 2.5 "}, 2.5),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "2"}, 2.0),
        ({"retry-after": "Thu, 01 Jan 2026 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Thu, 01 Jan 2026 13:00:30 +0100"}, 30.0),
        ({"retry-after": "Thu, 01 Jan 2026 12:00:30"}, 30.0),
        ({"retry-after": "Thu, 01 Jan 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "in a moment"}, None),
    ],
    ids=str,
)
def test_what_a_server_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds, milliseconds or an HTTP date, however the header is written; nonsense is nothing."""
    assert retry_after(headers, NOW) == seconds


@given(st.text())
def test_no_header_breaks_the_decision(value: str) -> None:
    """Whatever a proxy writes there, it is seconds to wait or nothing."""
    for name in ("retry-after", "retry-after-ms"):
        seconds = retry_after({name: value}, NOW)
        assert seconds is None or 0 <= seconds < float("inf")


@given(st.integers(0, 10**6), st.integers(-12, 12).map(lambda hours: timezone(timedelta(hours=hours))))
def test_a_date_is_the_seconds_until_it(seconds: int, zone: timezone) -> None:
    """A date that is so far ahead says so many seconds, in any zone."""
    date = (NOW + timedelta(seconds=seconds)).astimezone(zone)
    assert retry_after({"retry-after": email.utils.format_datetime(date)}, NOW) == seconds


def waits(multiplier: float, least: float, most: float, attempt: int, floor: float | None = None) -> float:
    """What the settings wait after this attempt."""
    settings = ModelSettings(
        name="m",
        provider="openai",
        retry_multiplier=multiplier,
        retry_min_wait=least,
        retry_max_wait=most,
    )
    state = cast("RetryCallState", SimpleNamespace(attempt_number=attempt))
    return WaitBackoff(settings, None if floor is None else lambda _: floor)(state)


amounts = st.floats(0, 1000, allow_subnormal=False)


@given(amounts, amounts, amounts, st.integers(1, 12))
def test_backoff_stays_within_its_bounds(multiplier: float, one: float, other: float, attempt: int) -> None:
    """Waits are between w, which is multiplier · 2^(attempt-1) clipped, and 1.5 w or the longest wait."""
    least, most = sorted((one, other))
    w = min(max(multiplier * 2 ** (attempt - 1), least), most)
    waited = waits(multiplier, least, most, attempt)
    assert w <= waited * (1 + 1e-12)
    assert waited <= min(1.5 * w, most) * (1 + 1e-12) or waited == w


@given(amounts, st.integers(1, 12), amounts)
def test_backoff_never_undercuts_the_server(multiplier: float, attempt: int, floor: float) -> None:
    """What the server asked for is waited, even above the longest wait of the settings."""
    assert waits(multiplier, 0, 1, attempt, floor) >= floor


def test_backoff_spreads_callers_out() -> None:
    """Callers who failed together do not come back together."""
    assert len({waits(2, 4, 10, 1) for _ in range(50)}) > 40
    assert {waits(2, 4, 4, 1) for _ in range(50)} == {4.0}


@pytest.mark.parametrize(
    "error, status",
    [
        ({}, 500),
        ({"message": "?"}, 500),
        ({"type": "overloaded_error"}, 529),
        ({"type": "rate_limit_error"}, 429),
        ({"type": "authentication_error"}, 401),
        ({"type": "invalid_request_error", "code": "invalid_api_key"}, 401),
        ({"code": "rate_limit_exceeded"}, 429),
        ({"code": "Rate_Limit_Exceeded"}, 429),
        ({"code": 503}, 503),
        ({"code": "503"}, 503),
        ({"code": "²"}, 500),  # a digit, and no number
        pytest.param({"code": "9" * 5000}, 500, id="too long a number"),
        ({"status": 502, "code": "server_error"}, 502),
        ({"status": "UNAVAILABLE", "code": 503}, 503),
        ({"status_code": 504}, 504),
        ({"code": True, "type": "server_error"}, 500),
        ({"code": 200, "type": "api_error"}, 500),
        ({"code": 1234, "type": "not_found_error"}, 404),
        ({"code": None, "type": "permission_error"}, 403),
        ({"type": "an_error_of_tomorrow"}, 500),
    ],
    ids=str,
)
def test_an_error_object_stands_for_a_status(error: dict[str, Any], status: int) -> None:
    """Services that fail in a 200 say by a number, a code or a type what they mean."""
    assert status_of(error) == status


@given(
    st.dictionaries(
        st.sampled_from(["status", "status_code", "code", "type"]), st.none() | st.text() | st.integers()
    )
)
def test_any_error_object_has_a_status(error: dict[str, Any]) -> None:
    """Whatever a gateway puts there, it is the status of a refusal."""
    assert status_of(error) in range(400, 600)


@pytest.mark.parametrize(
    "body, kind",
    [
        ("", Kind.MALFORMED),
        ("<html>", Kind.MALFORMED),
        ("[]", Kind.MALFORMED),
        ("null", Kind.MALFORMED),
        ("{}", Kind.EMPTY),
        ('{"choices": []}', Kind.EMPTY),
        ('{"content": [], "choices": null}', Kind.EMPTY),
        ('{"choices": [{}]}', Kind.OTHER),
        ('{"content": [{"type": "text"}]}', Kind.OTHER),
        ('{"error": {"code": 429}}', Kind.REFUSED),
        ('{"error": "overloaded"}', Kind.REFUSED),
        ('{"error": {}, "choices": []}', Kind.EMPTY),
    ],
)
def test_a_good_status_with_an_unusable_body(body: str, kind: Kind) -> None:
    """What litellm could not read was malformed, empty, a refusal in a 200's clothes, or our own fault."""
    assert unusable(200, body).kind is kind


def test_a_refusal_in_a_200_keeps_its_status() -> None:
    """Such a refusal is judged like one that came with its own status."""
    fault = unusable(200, '{"error": {"code": "insufficient_quota"}}')
    assert fault.status == 429
    assert decide(fault).verdict is Verdict.HOPELESS


# What each provider really raises for the same fault.

RAISED: dict[str, tuple[faults.Fault, str, int]] = {
    "400": (faults.Status(400), "BadRequestError", 1),
    "401": (faults.Status(401), "AuthenticationError", 1),
    "404": (faults.Status(404), "NotFoundError", 1),
    "429": (faults.Status(429), "RateLimitError", 2),
    "500": (faults.Status(500), "InternalServerError", 2),
    "503": (faults.Status(503), "ServiceUnavailableError", 2),
    "context": (faults.ContextExceeded(), "ContextWindowExceededError", 1),
    "invalid key": (faults.InvalidKey(), "AuthenticationError", 1),
}


@pytest.mark.parametrize("name", RAISED)
def test_the_same_fault_has_the_same_type_everywhere(
    server: Loopback, make_model: Callable[..., CodegenModel], way: Way, provider: str, name: str
) -> None:
    """What a caller catches does not depend on the provider or on the way, nor does what is tried again."""
    fault, kind, requests = RAISED[name]
    server.default = fault
    with pytest.raises(getattr(errors, kind)) as caught:
        way.call(make_model(provider, num_retries=1))
    assert len(server.journal) == requests
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("reason", ["timeout", "empty"])
def test_ours_are_ours_everywhere(
    server: Loopback, make_model: Callable[..., CodegenModel], way: Way, provider: str, reason: str
) -> None:
    """A deadline and an empty reply have the same type on every provider, by every way."""
    server.default = faults.Stall() if reason == "timeout" else faults.EmptyText()
    with pytest.raises(DeadlineExceededError if reason == "timeout" else EmptyReplyError):
        way.call(make_model(provider, num_retries=0, timeout=0.3 if reason == "timeout" else 5))


@pytest.mark.parametrize(
    "error, requests",
    [
        ({"message": "slow down", "type": "rate_limit_error"}, 2),
        ({"message": "busy", "code": 503}, 2),
        ({"message": "no such model", "type": "not_found_error"}, 1),
        ({"message": "no money", "code": "insufficient_quota"}, 1),
    ],
    ids=str,
)
def test_a_refusal_in_the_body_of_a_200(
    server: Loopback,
    make_model: Callable[..., CodegenModel],
    provider: str,
    error: dict[str, Any],
    requests: int,
) -> None:
    """Gateways refuse with a 200 and an error object: what that says is what counts."""
    server.default = faults.Status(200, body={"error": error})
    with pytest.raises(Exception, match=r"(?s).+") as caught:
        make_model(provider, num_retries=1).codegen("hi")
    assert len(server.journal) == requests
    assert isinstance(caught.value, (errors.APIError, errors.APIConnectionError)) or hasattr(
        caught.value, "status_code"
    )


def test_waits_are_waited(server: Loopback, make_model: Callable[..., CodegenModel]) -> None:
    """Between attempts the settings' backoff passes, and nothing else."""
    server.default = faults.Status(503)
    model = make_model(num_retries=2, retry_min_wait=0.2, retry_max_wait=0.4, retry_multiplier=0.2)
    began = time.monotonic()
    with pytest.raises(errors.ServiceUnavailableError):
        model.codegen("hi")
    first, second, third = (entry.arrived for entry in server.journal)
    assert 0.2 <= second - first < 0.3 + 0.3
    assert 0.4 <= third - second < 0.4 + 0.3
    assert time.monotonic() - began < 30


def test_a_broken_stream_is_ours_everywhere(
    server: Loopback, make_model: Callable[..., CodegenModel], provider: str
) -> None:
    """A cut has one type whatever the client below makes of it."""
    server.default = faults.TruncatedStream(after_chunks=2)
    with pytest.raises(StreamInterruptedError):
        list(make_model(provider, num_retries=1).codegen_stream("hi"))
    assert len(server.journal) == 1


@dataclass(frozen=True)
class CutAfterFinish(ReplyFault):
    """The connection is reset when so many choices have had their finish reason."""

    choices: int = 1

    def plan(self, draft: Draft) -> Plan:
        """The pieces, these finish reasons, and the end."""
        events = [*draft.events.pieces, *draft.events.finish[: self.choices]]
        return Plan([draft.opening(), *map(chunk, events), 0.05, End.RESET])


def test_what_is_finished_is_not_asked_for_again(
    server: Loopback, make_model: Callable[..., CodegenModel]
) -> None:
    """Of two choices in one stream, one was whole when it broke: only the other is asked for once more."""
    server.script(CutAfterFinish(reply="first"), "second")
    model = make_model(stream=True, batch_size=2, temperature=0.5, num_retries=3)
    assert [sample["response"] for sample in model.codegen("hi")] == ["first", "second"]
    assert [entry.body.get("n", 1) for entry in server.journal] == [2, 1]


@pytest.mark.parametrize("provider", ["openai", "deepseek", "generic"])
def test_a_reply_that_is_whole_is_kept(
    server: Loopback, make_model: Callable[..., CodegenModel], provider: str
) -> None:
    """A stream that breaks between its finish reason and its end mark has brought what was paid for."""
    server.default = CutAfterFinish(reply="whole")
    [sample] = make_model(provider, stream=True, num_retries=3).codegen("hi")
    assert (sample["response"], sample["finish_reason"]) == ("whole", "stop")
    assert sample["usage"]["cost"] is None  # not known, and not zero
    assert len(server.journal) == 1


def test_a_server_cannot_ask_for_an_hour(server: Loopback, make_model: Callable[..., CodegenModel]) -> None:
    """`Retry-After` is waited up to `timeout`: a call stays bounded by its settings."""
    server.script(faults.Status(503, headers={"retry-after": "3600"}), "fine")
    began = time.monotonic()
    assert make_model(num_retries=1, timeout=2).codegen("hi")[0]["response"] == "fine"
    assert 2 <= time.monotonic() - began < 30
