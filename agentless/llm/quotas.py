"""What services say when an account is used up, and how long they ask to wait; pure tables of their words.

Used up: no wait that a call can afford helps. A limit of seconds or a minute is never so, whatever its words.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from agentless.llm.service_words import error_in, parse_json

CREDIT = "The account has no credit or quota left: top it up, or use another key."
DAILY = (
    "The account's limit for the day or month is used up: raise it with the service, wait for its reset, "
    "or use another key."
)


class Row(NamedTuple):
    """Words of one service, in lower case, and what a user can do about them."""

    service: str
    words: tuple[str, ...]
    remedy: str


CODES: Mapping[str, str] = {
    "insufficient_quota": CREDIT,
    "billing_error": CREDIT,
    "billing_hard_limit_reached": CREDIT,
    "billing_not_active": CREDIT,
    "account_deactivated": CREDIT,
    "exceeded_current_quota_error": CREDIT,
    "arrearage": CREDIT,
    "allocationquota.freetieronly": CREDIT,
    "insufficient_balance": CREDIT,
    "insufficient_credits": CREDIT,
    "credit_limit": CREDIT,
    "1113": CREDIT,
    "accountoverdueerror": CREDIT,
    "free_tier_exhausted": CREDIT,
}
"""Codes, types and statuses of error objects, in lower case."""

WORDS = (
    Row("Anthropic", ("credit balance is too low",), CREDIT),
    Row("DeepSeek, Moonshot, SiliconFlow", ("insufficient balance", "balance is insufficient"), CREDIT),
    Row("OpenAI", ("insufficient_quota", "billing_hard_limit", "account is not active"), CREDIT),
    Row(
        "xAI",
        (
            "used all available credits",
            "monthly spending limit",
            "doesn't have any credits",
            "purchase more credits",
        ),
        "The team's credits or spending limit are used up: buy credits or raise the limit in xAI's console.",
    ),
    Row("OpenRouter", ("insufficient credits", "requires more credits", "key limit exceeded"), CREDIT),
    Row(
        "OpenRouter",
        ("free-models-per-day",),
        "OpenRouter's free models are used up for today: add credits, or wait for the next day (UTC).",
    ),
    Row("Zhipu (Z.ai)", ("余额不足", "无可用资源包", "账户已欠费", "已欠费"), CREDIT),
    Row(
        "DashScope",
        ("account is in good standing", "free tier of the model has been exhausted", "arrearage"),
        CREDIT,
    ),
    Row(
        "Gemini",
        ("perday", "per day", "requests_per_day"),
        "Gemini's limit for the day is used up: enable billing, or wait for midnight Pacific time.",
    ),
    Row("Groq", ("tokens per day", "requests per day", "(tpd)", "(rpd)"), DAILY),
    Row("Hugging Face", ("monthly included credits", "exceeded your monthly"), CREDIT),
    Row("Together", ("credit limit exceeded",), CREDIT),
    Row(
        "Cohere",
        ("calls / month", "limited to 1000 api calls"),
        "The trial key's calls of this month are used up: use a production key.",
    ),
    Row(
        "Others",
        ("out of credits", "no credits left", "recharge your account", "quota has been exhausted"),
        CREDIT,
    ),
    Row("Others", ("daily limit", "daily quota", "monthly limit", "monthly quota", "limit per day"), DAILY),
)
"""Sentences, where a service has no code for it. Sources: the vendors' references and public reports."""

_SHORT = ("per minute", "per second", "perminute", "persecond", "(rpm)", "(tpm)")
_SOON = 60.0  # seconds
_DAYS = ("perday", "per day", "(tpd)", "(rpd)", "daily")


def used_up(body: str) -> str | None:
    """What to do about an account that `body` says is used up; `None` where it says nothing of the kind."""
    try:
        error = error_in(parse_json(body))
    except ValueError:
        error = None
    if error is None:
        return _by_words(body)
    for name in ("code", "type", "status"):
        remedy = CODES.get(str(error.get(name)).lower())
        if remedy:
            return remedy
    ids = [str(each) for each in _quota_ids(error)]
    if any("perday" in each.lower() for each in ids):
        return _by_words("perday")
    if ids and any(word in each.lower() for each in ids for word in _SHORT):
        return None
    return _by_words(str(error.get("message", "")))


def _by_words(text: str) -> str | None:
    text = text.lower()
    is_short = any(word in text for word in _SHORT) and not any(word in text for word in _DAYS)
    for row in WORDS:
        if any(word in text for word in row.words):
            # A limit of a day that is filled up again within the minute (OpenAI's) is a short one.
            soon = row.remedy == DAILY and (is_short or (_in_sentence(text) or _SOON + 1) <= _SOON)
            return None if soon else row.remedy
    return None


def _details(error: Mapping[str, Any], kind: str) -> Iterator[Mapping[str, Any]]:
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, Mapping) and str(detail.get("@type", "")).endswith(kind):
            yield detail


def _quota_ids(error: Mapping[str, Any]) -> Iterator[Any]:
    for detail in _details(error, "QuotaFailure"):
        violations = detail.get("violations")
        for each in violations if isinstance(violations, list) else ():
            if isinstance(each, Mapping):
                yield each.get("quotaId", "")


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SPAN = re.compile(
    r"(\d{1,9}(?:\.\d{1,9})?)\s*(ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hours?|d|days?)?(?![a-z])"
)
_ASKED = re.compile(
    r"(?:try again|retry|wait|available)(?: again)?\s*(?:in|after|for|about|at least|\s)+\s*"
    r"((?:\d[\d.]*\s*(?:milliseconds?|seconds?|secs?|minutes?|mins?|hours?|ms|s|m|h|d)?\s*)+)",
    re.IGNORECASE,
)


def seconds_of(span: str) -> float | None:
    """A span such as `12.3s`, `14m23s`, `1h2m`, `500ms` or `2 seconds`, in seconds; `None` for all else."""
    text = span.strip().lower()
    total, end = 0.0, 0
    for found in _SPAN.finditer(text):
        if text[end : found.start()].strip():
            return None
        unit = found[2] or "s"
        unit = unit if unit in _UNITS else "ms" if unit.startswith("milli") else unit[0]
        total, end = total + float(found[1]) * _UNITS[unit], found.end()
    return total if end and not text[end:].strip(" .") else None


def wait_in(body: str) -> float | None:
    """Seconds that a refusal's body asks to wait: Gemini's `RetryInfo`, a `retry_after`, or its sentence."""
    try:
        parsed = parse_json(body)
    except ValueError:
        parsed = None
    error = error_in(parsed)
    if error is None:
        return _in_sentence(body[:2000])
    for detail in _details(error, "RetryInfo"):
        delay = detail.get("retryDelay")
        if isinstance(delay, str) and (seconds := seconds_of(delay)) is not None:
            return seconds
    holders = [error, error.get("metadata"), parsed]
    for holder in holders:
        for name in ("retry_after", "retry_after_seconds", "retryAfter"):
            value = holder.get(name) if isinstance(holder, Mapping) else None
            if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf"):
                return float(value)
    return _in_sentence(str(error.get("message", ""))[:2000])


def _in_sentence(text: str) -> float | None:
    found = _ASKED.search(text)
    return seconds_of(found[1].rstrip(". ")) if found else None
