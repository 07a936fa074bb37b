"""What two requests differ in, field by field, and which of several is the nearest; pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from agentless.store.keys import Request, canonical

_SHOWN = 40  # characters of a value
_MOST = 8  # differences that are told
_ABSENT = object()


class Nearest(NamedTuple):
    """The stored request that is most like another one, and what they differ in, one text a field."""

    key: str
    differences: tuple[str, ...]

    def __str__(self) -> str:
        return "; ".join(self.differences)


def nearest_of(wanted: Request, stored: Iterable[Request]) -> Nearest | None:
    """The nearest of the stored ones: the fewest differences, then the longest part in common."""
    best = min(stored, key=lambda each: _distance(wanted, each), default=None)
    return None if best is None else Nearest(best.key, tuple(differences(wanted, best)))


def differences(wanted: Request, stored: Request) -> list[str]:
    """Each field that differs: `options.temperature: 0.8, stored is 0.7`."""
    found = list(_compare(wanted.fields, stored.fields, ""))
    return found if len(found) <= _MOST else [*found[:_MOST], f"and {len(found) - _MOST} more"]


def _distance(wanted: Request, stored: Request) -> tuple[int, int]:
    texts = canonical(wanted.fields.get("messages")), canonical(stored.fields.get("messages"))
    settings = wanted.settings_hash != stored.settings_hash
    fields = sum(1 for _ in _compare(wanted.fields, stored.fields, "")) if settings else 0
    return fields + (texts[0] != texts[1]), -_common(*texts)


def _compare(wanted: Any, stored: Any, path: str) -> Iterator[str]:
    if isinstance(wanted, Mapping) and isinstance(stored, Mapping):
        for name in sorted({*wanted, *stored}):
            inner = f"{path}.{name}" if path else name
            yield from _compare(wanted.get(name, _ABSENT), stored.get(name, _ABSENT), inner)
    elif isinstance(wanted, list) and isinstance(stored, list):
        for position, (one, other) in enumerate(zip(wanted, stored, strict=False)):
            yield from _compare(one, other, f"{path}[{position}]")
        if len(wanted) != len(stored):
            yield f"{path}: {len(wanted)} of them, stored are {len(stored)}"
    elif isinstance(wanted, str) and isinstance(stored, str) and max(len(wanted), len(stored)) > _SHOWN:
        if wanted != stored:
            at = _common(wanted, stored)
            yield f"{path}: from character {at} on {_part(wanted, at)}, stored is {_part(stored, at)}"
    elif wanted is _ABSENT or stored is _ABSENT or canonical(wanted) != canonical(stored):
        yield f"{path}: {_shown(wanted)}, stored is {_shown(stored)}"


def _common(one: str, other: str) -> int:
    """How many characters they have in common at their beginnings."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _part(text: str, at: int) -> str:
    return _shown(text[at : at + _SHOWN]) if at < len(text) else "the end"


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "absent"
    text = canonical(value)
    return text if len(text) <= _SHOWN + 2 else f"{text[:_SHOWN]}…"
