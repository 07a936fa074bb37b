"""The kinds of values that settings have: types with bounds, and readers where a type is not enough.

A reader returns the value as settings keep it, and its own output unchanged; what it refuses, it says.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainValidator

from agentless.frozen import FrozenDict, freeze
from agentless.problems import Finding, Refusal, did_you_mean, found, json_findings, listed

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""The words for a reasoning effort, least first."""

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
STORE_MODES = ("read_write", "replay", "refresh")
_LEVEL_ALIASES = {"WARN": "WARNING", "FATAL": "CRITICAL"}


Capability = bool | int | float | str | tuple[str, ...]
"""What can be said of a model."""


def read_name(value: str) -> str:
    """A text with something in it; `env:` is not looked up everywhere, and says so."""
    if value.startswith("env:"):
        raise ValueError(
            'found an "env:" reference; allowed: a string '
            "(env: is for api_key, base_url, api_version and extra_headers)"
        )
    if not value.strip() or value != value.strip():
        raise ValueError(f"{found(value)}; allowed: a string that is not empty, without spaces around it")
    return value


def read_table(value: Any) -> Mapping[str, Any]:
    """A JSON-like table, copied so that it cannot change."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{found(value)}; allowed: a table")  # noqa: TRY004 - pydantic's way
    findings = list(json_findings(value))
    if findings:
        raise Refusal(findings)
    return FrozenDict(freeze(value))


def read_response_format(value: Any) -> Mapping[str, Any]:
    """A table that says at least its `type`."""
    if isinstance(value, Mapping) and not isinstance(value.get("type"), str):
        raise Refusal([(("type",), 'missing; allowed: a string such as "json_object" or "json_schema"')])
    return read_table(value)


def read_capabilities(value: Any) -> Mapping[str, Capability]:
    """Overrides of what a model can do; their names are checked where capabilities are known."""
    allowed = "true, false or a number"
    if not isinstance(value, Mapping):
        raise ValueError(f"{found(value)}; allowed: a table")  # noqa: TRY004 - pydantic's way
    findings: list[Finding] = list(json_findings(value))
    findings += [
        ((str(key),), f"{found(item)}; allowed: {allowed}")
        for key, item in value.items()
        if not isinstance(item, bool | int | float) and not (key in SAID_IN_WORDS and _are_words(item))
    ]
    if findings:
        raise Refusal(findings)
    return FrozenDict(freeze(value))


def _are_words(value: object) -> bool:
    words = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(word, str) for word in words)


SAID_IN_WORDS = frozenset(
    {"base_model", "default_effort", "effort_style", "effort_words", "max_stop", "token_limit_name"}
)
"""What of a model's capabilities is a word or a list of words."""


def read_stop(value: Any) -> tuple[str, ...]:
    """One stop word or several, as a tuple."""
    words = (value,) if isinstance(value, str) else value
    allowed = "a string or a list of strings, none of them empty"
    if not isinstance(words, list | tuple):
        raise ValueError(f"{found(value)}; allowed: {allowed}")  # noqa: TRY004 - pydantic's way
    wrong = [number for number, word in enumerate(words) if not isinstance(word, str) or not word]
    if wrong and words is value:
        raise Refusal([((number,), f"{found(words[number])}; allowed: {allowed}") for number in wrong])
    if wrong:
        raise ValueError(f"{found(value)}; allowed: {allowed}")
    return tuple(words)


def read_effort(value: Any) -> float | str:
    """How much to think: a number from 0 to 1, or a service's own word."""
    if isinstance(value, str) and value in EFFORTS:
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    raise ValueError(f"{found(value)}; allowed: a number from 0.0 to 1.0, or one of {listed(EFFORTS)}")


def read_inline_thinking(value: Any) -> str:
    """What to do with thinking that a model writes into its reply."""
    if isinstance(value, str) and value in _INLINE_THINKING:
        return value
    raise ValueError(f"{found(value)}; allowed: {listed(_INLINE_THINKING)}")


_INLINE_THINKING = ("split", "keep")


def read_level(value: str) -> str:
    """A standard level's name, in any case, as capitals."""
    level = _LEVEL_ALIASES.get(value.upper(), value.upper())
    if level not in LEVELS:
        raise ValueError(f"{found(value)}; allowed: one of {listed(LEVELS)}")
    return level


def one_of(*words: str) -> AfterValidator:
    """Reads one of these words."""

    def read(value: str) -> str:
        if value not in words:
            raise ValueError(f"{found(value)}; allowed: one of {listed(words)}{did_you_mean(value, words)}")
        return value

    return AfterValidator(read)


def read_format(value: str) -> str:
    """A %-style format that `logging` can fill, found out by filling it once."""
    import logging

    try:
        formatter = logging.Formatter(value, validate=True)
        # The check above lets %(mesage)s pass, which would then fail at every line.
        formatter.format(logging.LogRecord("agentless", logging.INFO, __file__, 1, "", None, None))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{error}; allowed: a format such as %(levelname)s %(message)s") from None
    return value


Name = Annotated[str, AfterValidator(read_name)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Table = Annotated[Mapping[str, Any], PlainValidator(read_table)]

FRACTION = "a number from 0.0 to 1.0"
SECONDS = "a number of seconds, 0 or more"
SOME_SECONDS = "a number of seconds above 0"
COUNT = "an integer, 1 or more"
ABOVE_ZERO = "a number above 0"
PRICE = "USD for one token, 0 or more"
SWITCH = "true or false"
TEXT = "a string"
