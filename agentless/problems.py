"""How a wrong setting is told: where it is, what was found, what is allowed, what was meant."""

import datetime as dt
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

Path = tuple[str | int, ...]
"""The way from a table to a value in it: `("tools", 0, "function", "name")`."""

Finding = tuple[Path, str]
"""What is wrong with the value at a path; `key_path` and a file name make a `Problem` of it."""

MAX_DEPTH = 100
SHOWN_CHARACTERS = 40
_LOOKS_SECRET = re.compile(r"(?i)\b(sk-|sk_|pk-|AIza|gh[pousr]_|hf_|gsk_|xai-|AKIA|ey[JI]|Bearer |Basic )")

# Other libraries' names for our keys: too unlike to be found by likeness.
_OTHER_NAMES = {
    "api_base": "base_url",
    "backoff": "retry_multiplier",
    "backoff_factor": "retry_multiplier",
    "endpoint": "base_url",
    "functions": "tools",
    "headers": "extra_headers",
    "key": "api_key",
    "max_completion_tokens": "max_new_tokens",
    "max_retries": "num_retries",
    "max_tokens": "max_new_tokens",
    "model": "name",
    "model_name": "name",
    "n": "batch_size",
    "num_samples": "batch_size",
    "request_timeout": "timeout",
    "retries": "num_retries",
    "rpm": "requests_per_minute",
    "stop_sequences": "stop",
    "system": "system_message",
    "token": "api_key",
    "tpm": "tokens_per_minute",
    "url": "base_url",
}


class Refusal(ValueError):  # noqa: N818 - it refuses; pydantic makes the error
    """What a validator raises that has found several things wrong within one value."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = list(findings)
        super().__init__("; ".join(text for _, text in self.findings))


def findings_of(error: "ValidationError", kind: type["BaseModel"]) -> list[Finding]:
    """What pydantic refused, in our words: each field's description says what it allows."""
    told: dict[Path, str] = {}
    for detail in error.errors(include_url=False):
        field = detail["loc"][:1]
        if not field:
            continue  # what is wrong between fields: `conflicts` tells it
        info = kind.model_fields.get(str(field[0]))
        if info is None:
            told.setdefault(field, unknown_key(str(field[0]), kind.model_fields))
            continue
        cause = detail.get("ctx", {}).get("error")
        if isinstance(cause, Refusal):
            for path, text in cause.findings:
                told.setdefault((*field, *path), text)
        elif isinstance(cause, ValueError):
            told.setdefault(field, str(cause))
        else:
            what = "missing" if detail["type"] == "missing" else found(detail["input"])
            told.setdefault(field, f"{what}; allowed: {info.description}")
    return list(told.items())


def key_path(path: Path) -> str:
    """A path as TOML would write it: `models."gpt-4.1".tools[0].function`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            import json

            name = str(part)  # a dict's key can be anything
            bare = re.fullmatch(r"[A-Za-z0-9_-]+", name)
            text += ("." if text else "") + (name if bare else json.dumps(name, ensure_ascii=False))
    return text


def found(value: Any) -> str:
    """What a value is, and the value itself where it is short and does not look like a key."""
    if isinstance(value, Mapping) or (isinstance(value, list | tuple) and value):
        return f"found {kind_of(value)}"
    shown = f'"{value}"' if isinstance(value, str) else _plain(value)
    if len(shown) > SHOWN_CHARACTERS or _LOOKS_SECRET.search(shown) or not shown.isprintable():
        return f"found {kind_of(value)}"
    return f"found {shown} ({kind_of(value)})"


def kind_of(value: Any) -> str:
    """The kind of a value in TOML's words: `a string`, `an integer`, `a table`."""
    if isinstance(value, float) and not math.isfinite(value):
        return "not a finite number"
    for kind, name in _KINDS:
        if isinstance(value, kind):
            return name
    return f"of type {type(value).__name__}"


_KINDS: tuple[tuple[type, str], ...] = (
    (type(None), "nothing"),
    (bool, "a boolean"),
    (str, "a string"),
    (int, "an integer"),
    (float, "a float"),
    (dt.datetime, "a date and time"),
    (dt.date, "a date"),
    (dt.time, "a time"),
    (Mapping, "a table"),
    (list, "a list"),
    (tuple, "a list"),
)


def unknown_key(key: str, known: Iterable[str]) -> str:
    """`unknown key`, and the one that was probably meant."""
    return f"unknown key{did_you_mean(key, known)}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean "temperature"?`, or nothing where no known name is like this one."""
    import difflib

    names = {each.casefold(): each for each in known}
    alias = _OTHER_NAMES.get(name.casefold(), "")
    close = [alias] if alias in names else difflib.get_close_matches(name.casefold(), names, n=1)
    return f'; did you mean "{names[close[0]]}"?' if close else ""


def listed(names: Iterable[str]) -> str:
    """Names in quotes, with commas; a long list ends after 20."""
    every = [f'"{name}"' for name in names]
    return ", ".join(every if len(every) <= 20 else [*every[:20], f"and {len(every) - 20} more"])  # noqa: PLR2004


def unknown_keys(table: Mapping[str, Any], known: Iterable[str], path: Path = ()) -> Iterator[Finding]:
    """A finding for each key of the table that is not known."""
    names = tuple(known)
    for key in table:
        if key not in names:
            yield (*path, key), unknown_key(str(key), names)


def json_findings(value: Any, path: Path = ()) -> Iterator[Finding]:
    """Where a value is not JSON: dates, NaN, keys that are not strings, objects, endless nesting."""
    if len(path) > MAX_DEPTH:
        yield path[:2], f"nested more than {MAX_DEPTH} deep"
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(key, str):
                yield from json_findings(item, (*path, key))
            else:
                yield path, f"found a key that is {kind_of(key)}; allowed: strings as keys"
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from json_findings(item, (*path, number))
    elif not isinstance(value, str | int | float | None) or (
        isinstance(value, float) and not math.isfinite(value)
    ):
        yield path, f"{found(value)}; allowed: what JSON has"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    try:
        return str(value)
    except ValueError:  # an integer of more than 4300 digits
        return "_" * (SHOWN_CHARACTERS + 1)
