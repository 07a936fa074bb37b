"""What OpenAI's chat completions refuse, in the service's words.

Rows over branches: which fields there are and of what type, their ranges, and what each family of models
does not take. Rows of models match OpenAI's and DeepSeek's names; any other name has no limits of its own.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from agentless.loopback.journal import Entry, text_of
from agentless.loopback.openai_messages import check_messages, check_tools
from agentless.loopback.wire import Failure, RefusedError, Rules

_INVALID: Final = "invalid_request_error"
_KINDS: Final[dict[str, tuple[type, ...]]] = {
    "a string": (str,),
    "an integer": (int,),
    "a decimal": (int, float),
    "a boolean": (bool,),
    "an object": (dict,),
    "an array": (list,),
    "a string or array": (str, list),
    "a string or object": (str, dict),
}
_FIELDS: Final = {
    "a string": "model user service_tier reasoning_effort verbosity safety_identifier prompt_cache_key"
    " prompt_cache_retention",
    "an integer": "n max_tokens max_completion_tokens seed top_logprobs",
    "a decimal": "temperature top_p presence_penalty frequency_penalty",
    "a boolean": "stream logprobs parallel_tool_calls store",
    "an object": "response_format stream_options metadata logit_bias audio prediction web_search_options"
    " moderation prompt_cache_options",
    "an array": "messages tools functions modalities",
    "a string or array": "stop",
    "a string or object": "tool_choice function_call",
}
_KIND_OF: Final = {name: kind for kind, names in _FIELDS.items() for name in names.split()}
_RANGES: Final[dict[str, tuple[float, float]]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "n": (1, 128),
    "top_logprobs": (0, 20),
    "max_tokens": (1, float("inf")),
    "max_completion_tokens": (1, float("inf")),
}
_EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh")
_SAMPLING: Final = "top_p presence_penalty frequency_penalty logprobs top_logprobs logit_bias"


@dataclass(frozen=True, slots=True)
class _Family:
    """What a family of models takes."""

    names: str
    """A pattern for the beginning of the name."""
    unsupported: str = ""
    unrecognized: str = ""
    """Fields that it knows as little as a misspelt one."""
    only_temperature_1: bool = False
    max_output: int | None = None
    system_role: bool = True
    max_stop: int = 4
    native_n: bool = True
    extra_fields: str = ""


_REASONING: Final = f"max_tokens {_SAMPLING}"
_FAMILIES: Final = (
    _Family(
        "o1-(mini|preview)",
        f"{_REASONING} stop tools tool_choice parallel_tool_calls functions reasoning_effort",
        only_temperature_1=True,
        system_role=False,
    ),
    _Family("o1|o3-mini", _REASONING, only_temperature_1=True),
    _Family("gpt-5[^/]*-chat", unrecognized="reasoning_effort"),
    _Family("o3|o4|gpt-5", f"{_REASONING} stop", only_temperature_1=True),
    _Family("gpt-4o-2024-05-13", unrecognized="reasoning_effort", max_output=4096),
    _Family("gpt-4o|chatgpt-4o", unrecognized="reasoning_effort", max_output=16384),
    _Family(r"gpt-4\.", unrecognized="reasoning_effort", max_output=32768),
    _Family("gpt-4-(turbo|1106|0125|vision)", unrecognized="reasoning_effort", max_output=4096),
    _Family("gpt-3.5", unrecognized="reasoning_effort", max_output=4096),
    _Family("gpt-4", unrecognized="reasoning_effort", max_output=8192),
    _Family("deepseek-reasoner", max_output=65536, max_stop=16, native_n=False, extra_fields="thinking"),
    _Family("deepseek", max_output=8192, max_stop=16, native_n=False, extra_fields="thinking"),
)
_ANY_FAMILY: Final = _Family("", max_stop=16)


def refuse(entry: Entry, rules: Rules, prompt_tokens: Callable[[], int]) -> None:
    """Raise `RefusedError` with the first thing that is wrong."""
    _check_key(entry, rules)
    body = entry.body
    if not isinstance(body, dict):
        raise _refused(
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your"
            " HTTP library correctly. The OpenAI API expects a JSON payload, but what was sent was not valid"
            " JSON.)"
        )
    name = entry.model.rpartition("/")[2]
    family = next((f for f in _FAMILIES if re.match(f.names, name)), _ANY_FAMILY)
    _check_fields(body, family, lenient=rules.lenient)
    if not entry.model:
        raise _refused("you must provide a model parameter")
    check_messages(body, own_names=family is not _ANY_FAMILY, rules=rules, system_role=family.system_role)
    check_tools(body, rules)
    _check_values(body, family)
    _check_length(body, family, rules, prompt_tokens)


def wrong_key(entry: Entry) -> Failure:
    """A 401 that quotes the key, as OpenAI's does (here in full, to show what is not redacted)."""
    message = (
        f"Incorrect API key provided: {_key(entry)}. You can find your API key at"
        " https://platform.openai.com/account/api-keys."
    )
    return Failure(401, message, _INVALID, "invalid_api_key")


def _refused(message: str, param: str | None = None, code: str | None = None) -> RefusedError:
    return RefusedError(Failure(400, message, _INVALID, code, param))


def _key(entry: Entry) -> str:
    bearer = entry.headers.get("authorization", "")
    return bearer.removeprefix("Bearer ").strip() or entry.headers.get("api-key", "")


def _check_key(entry: Entry, rules: Rules) -> None:
    key = _key(entry)
    if not key:
        message = (
            "You didn't provide an API key. You need to provide your API key in an Authorization header using"
            " Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
        )
        raise RefusedError(Failure(401, message, _INVALID))
    if rules.api_key not in (None, key):
        raise RefusedError(wrong_key(entry))


def _check_fields(body: Mapping[str, Any], family: _Family, *, lenient: bool) -> None:
    for name, value in body.items():
        kind = _KIND_OF.get(name)
        if name in family.extra_fields.split() or (kind is None and lenient):
            continue
        if kind is None or name in family.unrecognized.split():
            raise _refused(f"Unrecognized request argument supplied: {name}")
        if value is None:
            continue
        if name in family.unsupported.split():
            instead = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
            message = f"Unsupported parameter: '{name}' is not supported with this model.{instead}"
            raise _refused(message, name, "unsupported_parameter")
        if not isinstance(value, _KINDS[kind]) or (isinstance(value, bool) and kind != "a boolean"):
            expected = _one_of(_EFFORTS) if name == "reasoning_effort" else kind
            message = f"Invalid type for '{name}': expected {expected}, but got {_described(value)} instead."
            raise _refused(message, name, "invalid_type")
        _check_range(name, value)


def _check_range(name: str, value: Any) -> None:
    low, high = _RANGES.get(name, (float("-inf"), float("inf")))
    kind = "integer" if _KIND_OF[name] == "an integer" else "decimal"
    if isinstance(value, int | float) and value < low:
        problem, bound, code = "below minimum", f">= {low}", f"{kind}_below_min_value"
    elif isinstance(value, int | float) and value > high:
        problem, bound, code = "above maximum", f"<= {high}", f"{kind}_above_max_value"
    else:
        return
    message = f"Invalid '{name}': {kind} {problem} value. Expected a value {bound}, but got {value} instead."
    raise _refused(message, name, code)


def _check_values(body: Mapping[str, Any], family: _Family) -> None:
    temperature, effort, stop = body.get("temperature"), body.get("reasoning_effort"), body.get("stop")
    if family.only_temperature_1 and temperature not in (None, 1):
        message = (
            f"Unsupported value: 'temperature' does not support {temperature} with this model. Only the"
            " default (1) value is supported."
        )
        raise _refused(message, "temperature", "unsupported_value")
    if effort is not None and effort not in _EFFORTS:
        message = f"Invalid value: '{effort}'. Supported values are: {_one_of(_EFFORTS, 'and')}."
        raise _refused(message, "reasoning_effort", "invalid_value")
    if isinstance(stop, list) and len(stop) > family.max_stop:
        message = (
            f"Invalid 'stop': array too long. Expected an array with maximum length {family.max_stop}, but"
            f" got an array with length {len(stop)} instead."
        )
        raise _refused(message, "stop", "array_above_max_length")
    if isinstance(stop, list) and not all(isinstance(word, str) for word in stop):
        raise _refused("Invalid type for 'stop': expected an array of strings.", "stop", "invalid_type")
    if not family.native_n and body.get("n") not in (None, 1):
        raise _refused("Invalid n value (currently only n = 1 is supported)", code=_INVALID)
    if body.get("stream_options") is not None and body.get("stream") is not True:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise _refused(message, "stream_options")
    _check_response_format(body)


def _check_response_format(body: Mapping[str, Any]) -> None:
    kinds = ("json_object", "json_schema", "text")
    kind = (body.get("response_format") or {"type": "text"}).get("type")
    if kind not in kinds:
        message = f"Invalid value: '{kind}'. Supported values are: {_one_of(kinds, 'and')}."
        raise _refused(message, "response_format.type", "invalid_value")
    texts = (text_of(message.get("content")).lower() for message in body["messages"])
    if kind == "json_object" and not any("json" in text for text in texts):
        message = (
            "'messages' must contain the word 'json' in some form, to use 'response_format' of type"
            " 'json_object'."
        )
        raise _refused(message, "messages")


def _check_length(
    body: Mapping[str, Any], family: _Family, rules: Rules, prompt_tokens: Callable[[], int]
) -> None:
    if body.get("max_tokens") and body.get("max_completion_tokens"):
        message = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
        raise _refused(message, "max_tokens", "invalid_parameter_combination")
    wanted = body.get("max_completion_tokens") or body.get("max_tokens") or 0
    if family.max_output is not None and wanted > family.max_output:
        message = (
            f"max_tokens is too large: {wanted}. This model supports at most {family.max_output} completion"
            f" tokens, whereas you provided {wanted}."
        )
        raise _refused(message, "max_tokens", "invalid_value")
    if rules.context_size is not None and (prompt := prompt_tokens()) + wanted > rules.context_size:
        message = (
            f"This model's maximum context length is {rules.context_size} tokens. However, you requested"
            f" {prompt + wanted} tokens ({prompt} in the messages, {wanted} in the completion). Please reduce"
            " the length of the messages or completion."
        )
        raise _refused(message, "messages", "context_length_exceeded")


def _one_of(values: Iterable[str], word: str = "or") -> str:
    *most, last = (f"'{value}'" for value in values)
    return f"{', '.join(most)}, {word} {last}"


def _described(value: Any) -> str:
    names = {
        bool: "a boolean",
        int: "an integer",
        float: "a decimal number",
        str: "a string",
        list: "an array",
    }
    return names.get(type(value), "an object")
