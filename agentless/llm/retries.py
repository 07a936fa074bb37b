"""Whether a failed attempt is worth another, and how long to wait before it; pure.

The decision rests on what happened on the connection (`Fault`), not on the exception's class: litellm
(1.105.3) names the same fault differently by provider, and some mistakes of configuration look like
retryable 500s although nothing was sent.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any

from tenacity import RetryCallState, wait_exponential
from tenacity.wait import wait_base

from agentless.config import ModelSettings
from agentless.llm import quotas
from agentless.llm.service_words import error_in, parse_json


class Kind(Enum):
    """What failed."""

    UNSENT = "nothing was sent"
    REFUSED = "the service refused the request"
    REDIRECTED = "the service redirects to another address"
    CONNECTION = "the connection failed"
    DEADLINE = "the deadline passed"
    MALFORMED = "the reply could not be read"
    EMPTY = "the reply was empty"
    CUT = "the stream was cut"
    OTHER = "the reply could not be used"
    UNWATCHED = "the reply came by another connection than ours"


class Verdict(Enum):
    """What to do about it."""

    RETRY = "retry"
    FINAL = "final"
    HOPELESS = "hopeless"
    """Final for every request of this model: the account or the key is refused, not the request."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One failed attempt: what failed, and what the service said with it."""

    kind: Kind
    status: int | None = None
    headers: Mapping[str, str] | None = field(default=None, repr=False)
    body: str = field(default="", repr=False)  # a service may quote the key


@dataclass(frozen=True, slots=True)
class Decision:
    """`verdict`, and for a retry the least time to wait that the service asked for, in seconds."""

    verdict: Verdict
    retry_after: float | None = None


_BY_KIND = {
    Kind.UNSENT: Verdict.FINAL,
    Kind.REDIRECTED: Verdict.FINAL,
    Kind.CONNECTION: Verdict.RETRY,
    Kind.DEADLINE: Verdict.RETRY,
    Kind.MALFORMED: Verdict.RETRY,
    Kind.EMPTY: Verdict.RETRY,
    Kind.CUT: Verdict.RETRY,
    Kind.OTHER: Verdict.FINAL,
    Kind.UNWATCHED: Verdict.HOPELESS,  # the others would come as this one did, and are paid for
}

# An allow-list: every other status is final. 409: lock time-outs (OpenAI).
_BY_STATUS = {
    401: Verdict.HOPELESS,
    402: Verdict.HOPELESS,
    408: Verdict.RETRY,
    409: Verdict.RETRY,
    429: Verdict.RETRY,
    500: Verdict.RETRY,
    502: Verdict.RETRY,
    503: Verdict.RETRY,
    504: Verdict.RETRY,
    # Cloudflare's, where what is behind it is down (520-524, 530) or Anthropic's is overloaded (529).
    **dict.fromkeys((520, 521, 522, 523, 524, 529, 530), Verdict.RETRY),
}

_REFUSALS = range(400, 600)
_STATUS_DIGITS = 3

# What a failure that is told in the body of a 200 or in a stream event means as a status.
# Sources: Anthropic's error types, OpenAI's error codes and types.
_STATUS_OF = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "tokens": 429,
    "requests": 429,
    "api_error": 500,
    "server_error": 500,
    "internal_server_error": 500,
    "internal_error": 500,
    "service_unavailable": 503,
    "timeout_error": 504,
    "overloaded_error": 529,
    "engine_overloaded_error": 503,
    "resource_exhausted": 429,
    "unauthenticated": 401,
    "permission_denied": 403,
    "invalid_argument": 400,
    "deadline_exceeded": 504,
    "unavailable": 503,
    "badrequesterror": 400,
    "notfounderror": 404,
}


def decide(fault: Fault) -> Decision:
    """What to do about `fault`."""
    if fault.kind is not Kind.REFUSED:
        return Decision(_BY_KIND[fault.kind])
    if quotas.used_up(fault.body):
        return Decision(Verdict.HOPELESS)
    verdict = _BY_STATUS.get(fault.status or 0, Verdict.FINAL)
    return Decision(verdict, _asked_wait(fault) if verdict is Verdict.RETRY else None)


def _asked_wait(fault: Fault) -> float | None:
    """Seconds to wait, by the headers, the body, or the time when a used-up limit is reset."""
    headers = fault.headers or {}
    asked = retry_after(headers)
    if asked is None:
        asked = quotas.wait_in(fault.body)
    if asked is None and fault.status == _TOO_MANY:
        asked = _reset_after(headers)
    return asked


_TOO_MANY = 429


def _reset_after(headers: Mapping[str, str]) -> float | None:
    """When the limit that has nothing left (OpenAI's and Groq's `x-ratelimit-*`) is reset, in seconds."""
    fields = {name.lower(): value for name, value in headers.items()}
    waits = [
        quotas.seconds_of(value)
        for name, value in fields.items()
        if name.startswith("x-ratelimit-reset-")
        and fields.get(name.replace("-reset-", "-remaining-"), "").strip() in {"0", "0.0"}
    ]
    return max((wait for wait in waits if wait is not None), default=None)


def remedy(fault: Fault) -> str:
    """What a user can do about `fault`; empty where only time helps."""
    if fault.kind is not Kind.REFUSED:
        return _REMEDY_BY_KIND.get(fault.kind, "")
    if found := quotas.used_up(fault.body):
        return found
    if any(words in fault.body.lower() for words in _TOO_LONG_WORDS):
        return _REMEDIES[413]
    return _REMEDIES.get(fault.status or 0, "")


_REMEDIES = {
    400: "The service refuses this request as it is: its message says why.",
    401: "The key was refused: check api_key, or the variable it is read from.",
    402: quotas.CREDIT,
    403: "The key may not do this: check the account's access to the model, and base_url.",
    404: "There is no such model or address: check name, provider and base_url.",
    413: "The prompt is too long: shorten it; max_input_tokens finds that out before anything is sent.",
    422: "The service refuses this request as it is: its message says why.",
    429: "Too many requests: lower max_concurrency, or set requests_per_minute or tokens_per_minute.",
}

_REMEDY_BY_KIND = {
    Kind.UNSENT: "Nothing was sent: check the settings that the message names.",
    Kind.REDIRECTED: "Nothing was sent there: if that is your service, set base_url to its address.",
    Kind.DEADLINE: "Raise timeout (stream_timeout for whole streams), or set stream = true for long replies.",
    Kind.CONNECTION: "Check base_url and the network.",
}

# OpenAI's code, Anthropic's sentence, vLLM's.
_TOO_LONG_WORDS = ("context_length_exceeded", "prompt is too long", "maximum context length")


def status_of(error: Mapping[str, Any]) -> int:
    """The HTTP status that an error object in a 200's body or in a stream event stands for (else 500)."""
    for key in ("status", "status_code", "code", "type"):
        value = error.get(key)
        if isinstance(value, str) and len(value) == _STATUS_DIGITS and value.isdecimal():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and value in _REFUSALS:
            return value
        if isinstance(value, str) and value.lower() in _STATUS_OF:
            return _STATUS_OF[value.lower()]
    return 500


def unusable(status: int, body: str) -> Fault:
    """The fault of a reply with a good `status` whose `body` litellm could not use."""
    try:
        parsed = parse_json(body)
    except ValueError:
        return Fault(Kind.MALFORMED, status)
    error = error_in(parsed)
    if error:  # some gateways refuse with a 200
        return Fault(Kind.REFUSED, status_of(error), body=body)
    if not isinstance(parsed, dict):
        return Fault(Kind.MALFORMED, status)
    if not parsed.get("choices") and not parsed.get("content"):
        return Fault(Kind.EMPTY, status)
    return Fault(Kind.OTHER, status)


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that a server asks to wait; `None` where it does not say, or says nonsense.

    Source: RFC 9110 §10.2.3 (seconds or HTTP date), OpenAI's `retry-after-ms`, Azure's `x-ms-retry-after-ms`.
    """
    fields = {name.lower(): value for name, value in headers.items()}
    for name, unit in (("retry-after-ms", 0.001), ("x-ms-retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(fields.get(name, "")) * unit
        except ValueError:
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    try:
        date = parsedate_to_datetime(fields.get("retry-after", ""))
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())
    except (ArithmeticError, IndexError, TypeError, ValueError):  # years and zones that there are not
        return None


class WaitBackoff(wait_base):
    """tenacity's exponential backoff within the settings' bounds, with jitter on top.

    w = `retry_multiplier` · 2^(attempt-1) clipped to [`retry_min_wait`, `retry_max_wait`], in seconds; then
    uniform in [w, min(1.5 w, `retry_max_wait`)], so that callers who failed together do not return
    together. What the server asked for (`floor`) is never undercut.
    """

    def __init__(self, settings: ModelSettings, floor: Any = None) -> None:
        self._exponential = wait_exponential(
            multiplier=settings.retry_multiplier, min=settings.retry_min_wait, max=settings.retry_max_wait
        )
        self._most = settings.retry_max_wait
        self._floor = floor

    def __call__(self, retry_state: RetryCallState) -> float:
        """Seconds to wait after the attempt in `retry_state`."""
        least = self._exponential(retry_state)
        wait = random.uniform(least, max(least, min(1.5 * least, self._most)))  # noqa: S311  # jitter
        floor = self._floor(retry_state) if self._floor else None
        return max(wait, floor or 0.0)
