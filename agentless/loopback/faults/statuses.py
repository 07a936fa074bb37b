"""The service answers properly, but not with a completion. Nothing is charged."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from agentless.loopback.draft import Draft, Plan, failed
from agentless.loopback.faults.fault import Fault
from agentless.loopback.gemini_checks import WRONG_KEY
from agentless.loopback.gemini_format import QUOTA_EXHAUSTED, blocked
from agentless.loopback.journal import Entry
from agentless.loopback.openai_checks import wrong_key
from agentless.loopback.wire import Failure


@dataclass(frozen=True)
class Status(Fault):
    """A status with the service's usual body for it.

    A rate limit is `Status(429, headers={"retry-after": "2"})`: OpenAI adds `x-ratelimit-*` headers and
    sometimes `retry-after-ms`, Anthropic `retry-after` in seconds, proxies an HTTP date. Anthropic answers
    529 when overloaded, OpenAI 503; gateways send 502 and 504, often with a page of HTML (`body="<html>…"`).
    """

    code: int
    message: str | None = None
    """Replaces the service's usual words."""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | str | bytes | None = None
    """Replaces the whole body: JSON from a mapping, else the text as it is."""
    delay: float = 0.0
    """Seconds before the first byte."""
    retry_delay: float | None = None
    """Seconds to wait as Gemini's body asks for it (`RetryInfo`); the others' bodies have no place for it."""

    def plan(self, draft: Draft) -> Plan:
        """The status, after the delay."""
        failure = replace(draft.format.failure(self.code, self.message), retry_delay=self.retry_delay)
        plan = failed(draft.entry, draft.format, failure, self.headers, self.body)
        return replace(plan, steps=[self.delay, *plan.steps]) if self.delay else plan


_QUOTA: Final = {
    "openai": Failure(
        429,
        "You exceeded your current quota, please check your plan and billing details. For more information on"
        " this error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors.",
        "insufficient_quota",
        "insufficient_quota",
    ),
    "anthropic": Failure(
        400,
        "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade"
        " or purchase credits.",
        "invalid_request_error",
    ),
    "gemini": QUOTA_EXHAUSTED,
    "deepseek": Failure(402, "Insufficient Balance", "unknown_error", "invalid_request_error"),
}


@dataclass(frozen=True)
class QuotaExhausted(Fault):
    """The account has no money left: no waiting helps.

    OpenAI says so with a 429 (like a rate limit, but `insufficient_quota`), Anthropic with a 400 about the
    credit balance, DeepSeek (models named `deepseek…`) with a 402, Gemini with a 429 whose details name the
    quota of a day.
    """

    def plan(self, draft: Draft) -> Plan:
        """The refusal of the service that the request is for."""
        return failed(draft.entry, draft.format, _QUOTA[_service(draft.entry)])


@dataclass(frozen=True)
class ContextExceeded(Fault):
    """The prompt is longer than the model takes: a 400 that names both numbers.

    `Loopback(context_size=…)` answers so by itself; this does it for any prompt.
    """

    limit: int = 8192

    def plan(self, draft: Draft) -> Plan:
        """The refusal, with the limit and a prompt just above it."""
        asked = max(self.limit + 1, draft.prompt.usage.prompt_tokens)
        failure = {
            "openai": Failure(
                400,
                f"This model's maximum context length is {self.limit} tokens. However, your messages resulted"
                f" in {asked} tokens. Please reduce the length of the messages.",
                "invalid_request_error",
                "context_length_exceeded",
                "messages",
            ),
            "anthropic": Failure(400, f"prompt is too long: {asked} tokens > {self.limit} maximum"),
            "gemini": Failure(
                400,
                f"The input token count ({asked}) exceeds the maximum number of tokens allowed"
                f" ({self.limit}).",
                "INVALID_ARGUMENT",
            ),
        }
        return failed(draft.entry, draft.format, failure[draft.entry.format])


@dataclass(frozen=True)
class InvalidKey(Fault):
    """A 401, from Gemini a 400.

    OpenAI's message quotes the key, here in full: nothing that shows it may pass unredacted.
    """

    def plan(self, draft: Draft) -> Plan:
        """The refusal, in OpenAI's format with the key of the request."""
        known = {
            "openai": wrong_key(draft.entry),
            "anthropic": draft.format.failure(401),
            "gemini": WRONG_KEY,
        }
        return failed(draft.entry, draft.format, known[draft.entry.format])


@dataclass(frozen=True)
class PromptBlocked(Fault):
    """The prompt itself is refused for what it is about.

    Gemini answers with a 200 without candidates, and charges the prompt; OpenAI (Azure's) and Anthropic with
    a 400.
    """

    reason: str = "PROHIBITED_CONTENT"
    """Gemini's `blockReason`: `SAFETY`, `BLOCKLIST`, `OTHER`, ..."""

    def plan(self, draft: Draft) -> Plan:
        """The refusal."""
        if draft.entry.format == "gemini":
            body = blocked(draft.served, self.reason, stream=draft.entry.stream)
            return Plan(draft.paced([body], ()) if draft.entry.stream else [draft.whole(body)])
        return failed(draft.entry, draft.format, _BLOCKED[draft.entry.format])


_BLOCKED: Final = {
    "openai": Failure(
        400,
        "The response was filtered due to the prompt triggering Azure OpenAI's content management policy."
        " Please modify your prompt and retry.",
        code="content_filter",
        param="prompt",
    ),
    "anthropic": Failure(400, "Output blocked by content filtering policy"),
}


def _service(entry: Entry) -> str:
    deepseek = entry.format == "openai" and entry.model.startswith("deepseek")
    return "deepseek" if deepseek else entry.format
