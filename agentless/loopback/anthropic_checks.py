"""What Anthropic's messages refuse, in the service's words.

Rows over branches: which fields there are and of what type, their ranges, and what each family of models
does not take. Any name that no row matches has no limits of its own.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from agentless.loopback.anthropic_messages import check_messages, check_tools
from agentless.loopback.journal import Entry
from agentless.loopback.wire import Failure, RefusedError, Rules

_KINDS: Final[dict[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "dictionary": (dict,),
    "list": (list,),
    "string or list": (str, list),
}
_FIELDS: Final = {
    "string": "model service_tier inference_geo speed user_profile_id container",
    "integer": "max_tokens top_k",
    "number": "temperature top_p",
    "boolean": "stream",
    "dictionary": "metadata thinking tool_choice cache_control output_config output_format context_management"
    " diagnostics",
    "list": "messages stop_sequences tools mcp_servers",
    "string or list": "system",
}
_KIND_OF: Final = {name: kind for kind, names in _FIELDS.items() for name in names.split()}
_REQUIRED: Final = ("model", "max_tokens", "messages")
_RANGES: Final[dict[str, tuple[float, float]]] = {
    "max_tokens": (1, float("inf")),
    "temperature": (0, 1),
    "top_p": (0, 1),
    "top_k": (0, float("inf")),
}
_THINKING_TYPES: Final = ("adaptive", "disabled", "enabled")
_MIN_BUDGET: Final = 1024
_MIN_TOP_P_THINKING: Final = 0.95


@dataclass(frozen=True, slots=True)
class _Family:
    """What a family of models takes."""

    names: str
    """A pattern for the beginning of the name."""
    max_output: int | None = None
    thinks: bool = True
    temperature_or_top_p: bool = False
    """One of them, not both."""
    samples: bool = True
    """Takes temperature, top_p, top_k and a thinking budget at all."""


_FAMILIES: Final = (
    _Family("claude-3-(opus|sonnet|haiku)", 4096, thinks=False),
    _Family("claude-3-5", 8192, thinks=False),
    _Family("claude-opus-4-1(?!\\d)", 32_000, temperature_or_top_p=True),
    _Family("claude-(opus|sonnet|haiku)-4-[56](?!\\d)", temperature_or_top_p=True),
    _Family("claude-(opus|sonnet|haiku)-(4-[7-9]|[5-9])(?!\\d)", samples=False),
)
_ANY_FAMILY: Final = _Family("")


def refuse(entry: Entry, rules: Rules, prompt_tokens: Callable[[], int]) -> None:
    """Raise `RefusedError` with the first thing that is wrong."""
    _check_headers(entry, rules)
    body = entry.body
    if not isinstance(body, dict):
        raise _refused("The request body is not valid JSON")
    _check_fields(body, lenient=rules.lenient)
    name = entry.model.rpartition("/")[2]
    family = next((f for f in _FAMILIES if re.match(f.names, name)), _ANY_FAMILY)
    check_messages(body, rules)
    check_tools(body, rules)
    _check_sampling(body, family)
    _check_thinking(body, family, name)
    _check_length(body, family, name, rules, prompt_tokens)


def _refused(message: str) -> RefusedError:
    return RefusedError(Failure(400, message))


def _check_headers(entry: Entry, rules: Rules) -> None:
    bearer = entry.headers.get("authorization", "").removeprefix("Bearer ").strip()
    key = entry.headers.get("x-api-key") or bearer
    if not key:
        raise RefusedError(Failure(401, "x-api-key header is required", "authentication_error"))
    if rules.api_key not in (None, key):
        raise RefusedError(Failure(401, "invalid x-api-key", "authentication_error"))
    if "anthropic-version" not in entry.headers:
        raise _refused("anthropic-version: header is required")


def _check_fields(body: Mapping[str, Any], *, lenient: bool) -> None:
    for name in _REQUIRED:
        if name not in body:
            raise _refused(f"{name}: Field required")
    for name, value in body.items():
        kind = _KIND_OF.get(name)
        if kind is None:
            if lenient:
                continue
            raise _refused(f"{name}: Extra inputs are not permitted")
        if not isinstance(value, _KINDS[kind]) or (isinstance(value, bool) and kind != "boolean"):
            raise _refused(f"{name}: Input should be a valid {kind}")
        low, high = _RANGES.get(name, (float("-inf"), float("inf")))
        if isinstance(value, int | float) and value < low:
            raise _refused(f"{name}: Input should be greater than or equal to {low}")
        if isinstance(value, int | float) and value > high:
            raise _refused(f"{name}: Input should be less than or equal to {high}")
    if any(not isinstance(word, str) or not word.strip() for word in body.get("stop_sequences", ())):
        raise _refused("stop_sequences: each stop sequence must contain non-whitespace")


def _check_sampling(body: Mapping[str, Any], family: _Family) -> None:
    if family.temperature_or_top_p and "temperature" in body and "top_p" in body:
        message = "`temperature` and `top_p` cannot both be specified for this model. Please use only one."
        raise _refused(message)
    for name in ("temperature", "top_p", "top_k"):
        if not family.samples and name in body and not (name == "temperature" and body[name] == 1):
            raise _refused(f"`{name}` is deprecated for this model.")


def _check_thinking(body: Mapping[str, Any], family: _Family, name: str) -> None:
    thinking = body.get("thinking") or {"type": "disabled"}
    kind, budget = thinking.get("type"), thinking.get("budget_tokens")
    if kind not in _THINKING_TYPES:
        expected = ", ".join(f"'{k}'" for k in _THINKING_TYPES)
        message = (
            f"thinking: Input tag '{kind}' found using 'type' does not match any of the expected tags:"
            f" {expected}"
        )
        raise _refused(message)
    if kind == "disabled":
        return
    if not family.thinks:
        raise _refused(f"'{name}' does not support thinking.")
    if kind == "enabled":
        _check_budget(budget, body["max_tokens"], family)
    if body.get("temperature", 1) != 1:
        raise _refused("`temperature` may only be set to 1 when thinking is enabled.")
    if body.get("top_p", 1) < _MIN_TOP_P_THINKING:
        raise _refused("`top_p` must be greater than or equal to 0.95 when thinking is enabled.")
    if "top_k" in body:
        raise _refused("`top_k` must be unset when thinking is enabled.")
    if (body.get("tool_choice") or {}).get("type") in ("any", "tool"):
        raise _refused("Thinking may not be enabled when tool_choice forces tool use.")


def _check_budget(budget: Any, max_tokens: int, family: _Family) -> None:
    where = "thinking.enabled.budget_tokens"
    if not family.samples:
        message = '"thinking.type.enabled" is not supported for this model. Use "thinking.type.adaptive".'
        raise _refused(message)
    if budget is None:
        raise _refused(f"{where}: Field required")
    if not isinstance(budget, int) or isinstance(budget, bool):
        raise _refused(f"{where}: Input should be a valid integer")
    if budget < _MIN_BUDGET:
        raise _refused(f"{where}: Input should be greater than or equal to {_MIN_BUDGET}")
    if budget >= max_tokens:
        raise _refused("`max_tokens` must be greater than `thinking.budget_tokens`.")


def _check_length(
    body: Mapping[str, Any], family: _Family, name: str, rules: Rules, prompt_tokens: Callable[[], int]
) -> None:
    wanted = body["max_tokens"]
    if family.max_output is not None and wanted > family.max_output:
        message = (
            f"max_tokens: {wanted} > {family.max_output}, which is the maximum allowed number of output"
            f" tokens for {name}"
        )
        raise _refused(message)
    if rules.context_size is None:
        return
    prompt = prompt_tokens()
    if prompt > rules.context_size:
        raise _refused(f"prompt is too long: {prompt} tokens > {rules.context_size} maximum")
    if prompt + wanted > rules.context_size:
        message = (
            f"input length and `max_tokens` exceed context limit: {prompt} + {wanted} > {rules.context_size},"
            " decrease input length or `max_tokens` and try again"
        )
        raise _refused(message)
