"""Models that no table has: which known one is likest, by family, version and variant.

A `gpt-5.9-mini` is a GPT-5 of the small kind, and a `gpt-7` is more like the newest GPT than like none at
all. Only facts are taken over that a vendor keeps from one model of a family to the next; never a price.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from agentless.llm.names import ModelName, identify
from agentless.llm.registry import ALIAS, Entry, load_registry

VENDORS: Mapping[str, str] = {
    "claude": "anthropic",
    "gpt": "openai",
    "chatgpt": "openai",
    "o": "openai",
    "gemini": "gemini",
    "deepseek": "deepseek",
    "grok": "xai",
    "mistral": "mistral",
    "codestral": "mistral",
    "devstral": "mistral",
    "kimi": "moonshot",
    "glm": "zai",
    "qwen": "dashscope",
}
"""Whose entry in the registry tells what a model can do, where its seller has none: by the first letters of
the family. Prices are never taken from there."""

_FIRST = re.compile(r"(?P<word>[a-z]+)(?=-|\d|$)")
_SERIES = (
    re.compile(r"(?P<series>gpt|gemini|grok|glm)-(?P<version>\d+(?:\.\d+)?)(?:-(?P<variant>.+))?"),
    re.compile(r"(?P<series>o)(?P<version>\d+)(?:-(?P<variant>.+))?"),
    re.compile(r"(?P<series>claude)-(?P<variant>[a-z]+)-(?P<version>\d{1,2}(?:-\d{1,2})?)(?:-[a-z].*)?"),
    re.compile(r"(?P<series>deepseek)-v(?P<version>\d+(?:\.\d+)?)(?:-(?P<variant>.+))?"),
    re.compile(r"(?P<series>kimi)-k(?P<version>\d+(?:\.\d+)?)(?:-(?P<variant>.+))?"),
    re.compile(r"(?P<series>qwen)-?(?P<version>\d+(?:\.\d+)?)(?:-(?P<variant>.+))?"),
)


class Place(NamedTuple):
    """Where a model stands in its vendor's range."""

    series: str
    version: tuple[int, ...]
    variant: str = ""
    """Its first word: `mini`, `pro`, `opus`."""


def vendor_of(family: str) -> str | None:
    """The vendor of a family, by litellm's name of its service, if it is one of those that we know."""
    first = _FIRST.match(family)
    if first is None or (first["word"] == "o" and re.fullmatch(r"o\d+(-.+)?", family) is None):
        return None
    return VENDORS.get(first["word"])


def place_of(model: ModelName) -> Place | None:
    """The place that a model's name tells; `None` where it tells no version."""
    for pattern in _SERIES:
        if found := pattern.fullmatch(model.family):
            major, *minor = re.split(r"[.-]", found["version"])
            if found["series"] == "grok":  # 4.20 came before 4.3
                minor = [part.rstrip("0") or "0" for part in minor]
            version = tuple(map(int, (major, *minor)))
            return Place(found["series"], version, (found["variant"] or "").split("-", 1)[0])
    return None


def _newest(model: ModelName) -> Place:
    """The place of a name such as claude-opus-latest."""
    series, _, variant = model.family.partition("-")
    return Place(series, _NEWEST, variant)


_NEWEST = (10**6,)
_MODES = frozenset({"chat", "responses"})


def likeliest(model: ModelName, vendor: str, *, floats: bool = False) -> Entry | None:
    """The registry's entry of the known model that is likest.

    It is of the nearest generation, then of the same variant, then the newest that is not newer.

    Args:
        model: What the name tells.
        vendor: litellm's name of the vendor's service.
        floats: The name means the newest of its kind (`-latest`).
    """
    wanted = place_of(model) or (_newest(model) if floats else None)
    if wanted is None:
        return None
    best: tuple[tuple[object, ...], Entry] | None = None
    for key, row in load_registry().items():
        if row.get("litellm_provider") != vendor or ALIAS in row or row.get("mode") not in _MODES:
            continue
        other = identify(key)
        place = place_of(other) if other.date is None else None
        if place is None or place.series != wanted.series:
            continue
        score = _likeness(wanted, place)
        if best is None or score > best[0]:
            best = score, Entry(key, row)
    return best and best[1]


def _likeness(wanted: Place, other: Place) -> tuple[bool, int, bool, bool, bool, tuple[int, ...]]:
    generation, known = wanted.version[0], other.version[0]
    is_older = known <= generation
    return (
        # Of a name that means the newest, the variant is all that it says.
        other.variant == wanted.variant if wanted.version == _NEWEST else is_older,
        known if is_older else -known,
        other.variant == wanted.variant,
        not other.variant,
        other.version <= wanted.version,
        other.version,
    )
