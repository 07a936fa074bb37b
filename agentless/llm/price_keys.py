"""The registry's names of prices, by an exact grammar: what holds for our requests, and what is unclear.

    price     = kind [ above ] [ tier ]
    above     = "_above_" digits [ "k" ] "_tokens"        a prompt's length from which it holds
              | "_above_" digits ( "min" | "hr" ) [ above ]   a cache that is kept longer
    tier      = "_" word                                   another way of service: batches, priority, ...

We ask for no longer cache and no other service, so their prices are passed over. A condition that is none of
these could hold for any request: then the model's price is not known. It is not guessed.
"""

import re
from collections.abc import Mapping
from datetime import time
from typing import Any
from zoneinfo import ZoneInfo

KINDS: Mapping[str, str] = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cache_write": "cache_creation_input_token_cost",
    "cache_read": "cache_read_input_token_cost",
    "reasoning": "output_cost_per_reasoning_token",
}
"""Our names of the prices that a request has, and the registry's."""

_KIND = "|".join(KINDS.values())
_CONDITIONAL = re.compile(rf"(?:{_KIND})_above_(?P<condition>.*)")
_LENGTH = re.compile(r"(?P<digits>\d+)(?P<thousands>k?)_tokens(?P<tier>_[a-z]+)?")
_LONGER_KEPT = re.compile(rf"\d+(?:hr|min)(?:_above_{_LENGTH.pattern})?(?:_[a-z]+)?")


def thresholds(entry: Mapping[str, Any]) -> dict[float, str] | None:
    """The prompt lengths from which other prices hold, with the ending of those prices' names.

    `None` where a price depends on something that this does not understand.
    """
    found: dict[float, str] = {}
    for key, value in entry.items():
        match = _CONDITIONAL.fullmatch(key)
        if match is None or value is None:
            continue
        condition = match["condition"]
        length = _LENGTH.fullmatch(condition)
        if length is not None and length["tier"] is None:
            tokens = float(length["digits"]) * (1000 if length["thousands"] else 1)
            found[tokens] = f"_above_{condition}"
        elif length is None and _LONGER_KEPT.fullmatch(condition) is None:
            return None
    return found


def is_understood(entry: Mapping[str, Any]) -> bool:
    """Whether every price of this entry that could hold for a request can be read."""
    tiers, off_peak = entry.get("tiered_pricing") or (), entry.get("off_peak_pricing") or {}
    return (
        thresholds(entry) is not None
        and all(map(_is_price, (entry.get(name) for name in KINDS.values())))
        and isinstance(tiers, list | tuple)
        and all(map(_is_tier, tiers))
        and isinstance(off_peak, Mapping)
        and _is_off_peak(off_peak)
    )


def is_price_tier(table: Mapping[str, Any]) -> bool:
    """Whether a tier is one of prices by the prompt's length: searches have tiers too."""
    return "range" in table and table.get("input_cost_per_token") is not None


def _is_tier(table: object) -> bool:
    if not isinstance(table, Mapping):
        return False
    if not is_price_tier(table):
        return True
    limits = table["range"]
    has_limits = isinstance(limits, list | tuple) and len(limits) == 2 and None not in limits  # noqa: PLR2004  # from, to
    return has_limits and all(map(_is_price, (*limits, *(table.get(name) for name in KINDS.values()))))


def _is_off_peak(table: Mapping[str, Any]) -> bool:
    """Whether a table of hours can be read: each window, each day, and nothing beside them."""
    if set(table) - {*KINDS.values(), "windows", "hours_utc", "weekday_timezone"}:
        return False
    try:
        ZoneInfo(table.get("weekday_timezone") or "UTC")
        for rule in [{"hours_utc": table.get("hours_utc") or ()}, *(table.get("windows") or ())]:
            days = rule.get("weekdays", ())
            if set(rule) - {"hours_utc", "weekdays"} or not set(days) <= set(range(1, 8)):
                return False
            hours(rule["hours_utc"])
    except (AttributeError, KeyError, TypeError, ValueError, OSError):
        return False
    return all(map(_is_price, (table.get(name) for name in KINDS.values())))


def hours(given: Any) -> list[tuple[time, time]]:
    """Windows of a day ("04:00-06:00", or several) as pairs of times."""
    windows = [given] if isinstance(given, str) else given
    return [_window(*text.split("-")) for text in windows]


def _window(start: str, end: str) -> tuple[time, time]:
    return time.fromisoformat(start.strip()), time.fromisoformat(end.strip())


def _is_price(value: object) -> bool:
    try:
        return value is None or float(value) >= 0  # type: ignore[arg-type]  # what is none raises
    except (TypeError, ValueError):
        return False
