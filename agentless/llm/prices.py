"""What tokens cost: a model's price list, by litellm's arithmetic; pure.

A list has five prices, in USD per token, and what changes them: the prompt's length (`..._above_200k_tokens`,
or whole tiers) and the time of day (DeepSeek's off-peak hours). The rules are those of litellm's
`completion_cost` (1.105.3), against which a test holds this, for every priced chat model:

- cached tokens are part of the prompt, and cost their own price instead of the prompt's; where there is
  none, they cost what the prompt does; reasoning is part of the completion, likewise;
- a request over a threshold pays that threshold's prices for all of its tokens;
- only tokens are counted: not searches, images or an hour's caching.

The config's prices come before all that, and are the same for every request. With an input price of the
user's own, the known cache prices keep their proportion to it, unless the config says those too.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, time
from typing import Any, Self
from zoneinfo import ZoneInfo

from agentless.llm.capabilities import Capabilities, subject_of
from agentless.llm.facts import find_facts
from agentless.llm.known import Subject, find_known
from agentless.llm.price_keys import KINDS, hours, is_price_tier, thresholds
from agentless.llm.replies import Tokens
from agentless.settings import ModelSettings


@dataclass(frozen=True, slots=True)
class Rates:
    """USD per token, by kind; `None` where there is no price of its own."""

    input: float | None = None
    output: float | None = None
    cache_write: float | None = None
    cache_read: float | None = None
    reasoning: float | None = None

    @classmethod
    def of(cls, table: Mapping[str, Any], ending: str = "") -> Self:
        """The prices that a table of the registry has, under its names."""
        return cls(**{kind: _number(table.get(name + ending)) for kind, name in KINDS.items()})

    def over(self, other: "Rates") -> "Rates":
        """These, and where they have none the other's."""
        return Rates(
            **{
                kind: getattr(other, kind) if getattr(self, kind) is None else getattr(self, kind)
                for kind in KINDS
            }
        )

    def filled(self) -> "Rates":
        """With the input's and the output's price where a kind has none."""
        first = Rates(cache_write=self.input, cache_read=self.input, reasoning=self.output)
        return self.over(first)

    def cost(self, tokens: Tokens) -> float:
        """USD; every kind has to have a price."""
        assert self.input is not None  # noqa: S101  # see `filled`; all five then
        plain = max(0, tokens.prompt - tokens.cache_written - tokens.cache_read)
        said = max(0, tokens.completion - tokens.reasoning)
        counts = (plain, said, tokens.cache_written, tokens.cache_read, tokens.reasoning)
        return sum(count * (getattr(self, kind) or 0.0) for kind, count in zip(KINDS, counts, strict=True))


@dataclass(frozen=True, slots=True)
class PriceList:
    """The prices of one model at one service."""

    base: Rates
    above: tuple[tuple[float, Rates], ...] = ()
    """By the prompt length from which they hold, shortest first: changes to `base`."""
    tiers: tuple[tuple[float, float, Rates], ...] = ()
    """(over, up to, prices) by prompt length: instead of `base`."""
    off_peak: Mapping[str, Any] = field(default_factory=dict)
    """The registry's table of hours, with what they change."""
    reaches: bool = False
    """Claims that a prompt of exactly a threshold's length is above it (xAI)."""
    reasoning_apart: bool = True
    """Claims that reasoning has a price of its own, if there is one."""

    def cost(self, tokens: Tokens, when: datetime | None = None) -> float:
        """What a request costs that was billed `when` (now), in USD."""
        return self.rates(tokens.prompt, when).cost(tokens)

    def rates(self, prompt: int, when: datetime | None = None) -> Rates:
        """The prices for a request with a prompt of this length."""
        rates = self._by_length(prompt)
        if self.off_peak and _is_off_peak(self.off_peak, when or datetime.now(UTC)):
            rates = Rates.of(self.off_peak).over(rates)
        return rates.filled()

    def worst(self, prompt: int, completion: int, *, writes: bool = True) -> float:
        """The most that a request can cost with at most so many tokens: no cache read, the dearest prices.

        Args:
            prompt: The prompt's tokens.
            completion: All replies' tokens.
            writes: Claims that the prompt may be charged as written to the cache.
        """
        steps = [rates for threshold, rates in self.above if prompt >= threshold]
        tiers = [rates for start, _, rates in self.tiers if prompt > start]
        all_rates = [self.base.filled(), *(each.over(self.base).filled() for each in [*steps, *tiers])]
        into = max(
            rate or 0.0 for each in all_rates for rate in (each.input, each.cache_write if writes else 0)
        )
        out = max(rate or 0.0 for each in all_rates for rate in (each.output, each.reasoning))
        return prompt * into + completion * out

    def _by_length(self, prompt: int) -> Rates:
        if self.tiers:
            fitting = [rates for start, end, rates in self.tiers if start < prompt <= end]
            tier = fitting[0] if fitting else self.tiers[-1 if prompt > 0 else 0][2]
            # Whole: a kind that the tier leaves out costs the tier's input, or output, not the base's.
            return tier.over(Rates(output=self.base.output)).filled()
        rates = self.base
        for threshold, changes in self.above:
            if prompt > threshold or (self.reaches and prompt == threshold):
                rates = changes.over(rates)
        return rates if self.reasoning_apart else replace(rates, reasoning=None)


def price_list(settings: ModelSettings, capabilities: Capabilities) -> PriceList | None:
    """The prices of the model of these settings; `None` where its input's or its output's is not known."""
    flat = Rates(
        capabilities.input_cost_per_token,
        capabilities.output_cost_per_token,
        capabilities.cache_creation_cost,
        capabilities.cache_read_cost,
    )
    given = {name for name in _SETTABLE if name in settings.capabilities}
    given |= {name for name in _SETTABLE[:2] if getattr(settings, name) is not None}
    if not given:
        row = find_known(_subject(settings)).price_row
        if row is not None:
            return _from_entry(row)
    elif "input_cost_per_token" in given:
        flat = _in_proportion(flat, settings, given)
    return None if flat.input is None or flat.output is None else PriceList(flat)


def _subject(settings: ModelSettings) -> Subject:
    base_model = settings.capabilities.get("base_model")
    return subject_of(
        settings.provider,
        settings.name,
        base_model if isinstance(base_model, str) else None,
        custom_llm_provider=settings.custom_llm_provider,
        base_url=settings.base_url,
    )


def _in_proportion(flat: Rates, settings: ModelSettings, given: set[str]) -> Rates:
    known = find_facts(_subject(settings)).values.get("input_cost_per_token")
    if not known or flat.input is None:
        return flat
    ratio = flat.input / known

    def scaled(price: float | None, name: str) -> float | None:
        return price if price is None or name in given else price * ratio

    return replace(
        flat,
        cache_write=scaled(flat.cache_write, "cache_creation_cost"),
        cache_read=scaled(flat.cache_read, "cache_read_cost"),
    )


def _from_entry(entry: Mapping[str, Any]) -> PriceList | None:
    base = Rates.of(entry)
    service = entry.get("litellm_provider")
    tiers = sorted(_tiers(entry.get("tiered_pricing") or ()), key=lambda tier: tier[0])
    if not tiers and not (base.input and base.output):  # 0 in the registry means that nobody knows
        return None
    if service == "fireworks_ai" and base.cache_read is None and base.input is not None:
        base = replace(base, cache_read=base.input * _FIREWORKS_CACHED)
    above = sorted((thresholds(entry) or {}).items())
    return PriceList(
        base,
        above=tuple((length, Rates.of(entry, ending)) for length, ending in above),
        tiers=tuple(tiers),
        off_peak=entry.get("off_peak_pricing") or {},
        reaches=service == "xai",
        reasoning_apart=service != "xai",
    )


def _tiers(tables: Iterable[Mapping[str, Any]]) -> Iterable[tuple[float, float, Rates]]:
    for table in filter(is_price_tier, tables):
        start, end = table["range"]
        yield float(start), float(end), Rates.of(table)


def _is_off_peak(table: Mapping[str, Any], when: datetime) -> bool:
    now = when.astimezone(UTC)
    rules = [{"hours_utc": table.get("hours_utc") or ()}, *(table.get("windows") or ())]
    day = now.astimezone(ZoneInfo(table.get("weekday_timezone") or "UTC")).isoweekday()
    return any(
        day in rule.get("weekdays", (day,))
        and any(_is_within(start, end, now.time()) for start, end in hours(rule["hours_utc"]))
        for rule in rules
    )


def _is_within(start: time, end: time, now: time) -> bool:
    return start <= now < end if start < end else now >= start or now < end


def _number(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None


_SETTABLE = ("input_cost_per_token", "output_cost_per_token", "cache_creation_cost", "cache_read_cost")
_FIREWORKS_CACHED = 0.5  # of the input's price, where the registry has none for cached tokens
