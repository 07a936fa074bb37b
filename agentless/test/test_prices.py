"""What tokens cost: litellm's arithmetic, the config's prices, and what is not known."""

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from agentless.llm.importing import load
from agentless.llm.prices import PriceList, Rates, price_list
from agentless.llm.provider_rows import find_provider
from agentless.llm.providers import capabilities_of
from agentless.llm.registry import load_registry, service_of
from agentless.llm.replies import Tokens
from agentless.settings import ModelSettings

LENGTHS = (1, 100, 5_000, 100_000, 128_000, 128_001, 200_000, 200_001, 272_001, 600_000)
"""At and around every threshold that the registry has."""


def prices_of(provider: str, name: str, **settings: Any) -> PriceList | None:
    """The price list of a model with these settings."""
    if find_provider(provider) is None:  # one that litellm has prices of and no route to
        settings["base_url"] = "https://provider.invalid/v1"
    made = ModelSettings(name=name, provider=provider, **settings)
    return price_list(made, capabilities_of(made))


def usages(seed: int) -> Iterator[Tokens]:
    """A usage for each length, with random parts."""
    chance = random.Random(seed)
    for prompt in LENGTHS:
        completion = chance.randint(1, 9_000)
        yield Tokens(
            prompt=prompt,
            completion=completion,
            cache_written=chance.randint(0, prompt // 3),
            cache_read=chance.randint(0, prompt // 3),
            reasoning=chance.choice((0, completion // 2)),
        )


def litellm_cost(provider: str, name: str, tokens: Tokens, **custom: Any) -> float:
    """What litellm charges."""
    litellm = load()
    usage = litellm.Usage(
        prompt_tokens=tokens.prompt,
        completion_tokens=tokens.completion,
        total_tokens=tokens.prompt + tokens.completion,
        prompt_tokens_details={"cached_tokens": tokens.cache_read},
        cache_creation_input_tokens=tokens.cache_written,
        cache_read_input_tokens=tokens.cache_read,
        completion_tokens_details={"reasoning_tokens": tokens.reasoning} if tokens.reasoning else None,
    )
    response = litellm.ModelResponse(model=name, usage=usage)
    cost: float = litellm.completion_cost(response, model=name, custom_llm_provider=provider, **custom)
    return cost


def priced_models() -> list[tuple[str, str]]:
    """(route, name) of every chat model of the registry that has a price."""
    found = []
    for key, entry in load_registry().items():
        route = service_of(entry)
        if entry.get("mode") != "chat" or key.startswith("together-ai-"):  # litellm's sizes, not models
            continue
        name = key.removeprefix(f"{route}/")
        if prices_of(route, name) is not None:
            found.append((route, name))
    return found


def test_every_price_is_litellms() -> None:
    """For each priced chat model of the registry, at all lengths: equal to litellm's `completion_cost`."""
    models = priced_models()
    assert len(models) > 2_500
    compared, wrong = 0, []
    for number, (route, name) in enumerate(models):
        prices = prices_of(route, name)
        assert prices is not None
        every = list(usages(number))
        chosen = (
            every if route in {"openai", "anthropic", "deepseek"} else random.Random(number).sample(every, 2)
        )
        for tokens in chosen:
            try:
                theirs = litellm_cost(route, name, tokens)
            except Exception:  # noqa: BLE001  # not mapped by litellm itself
                break
            compared += 1
            if prices.cost(tokens) != pytest.approx(theirs, rel=1e-12, abs=1e-15):
                wrong.append((route, name, tokens, prices.cost(tokens), theirs))
    assert wrong == []
    assert compared > 5_000


def test_the_worst_case_is_never_exceeded() -> None:
    """`worst` with a bound of the prompt is at least the cost of any usage within that bound."""
    chance = random.Random(5)
    for route, name in chance.sample(priced_models(), 300):
        prices = prices_of(route, name)
        assert prices is not None
        for tokens in usages(chance.randint(0, 9)):
            bound = tokens.prompt + chance.choice((0, 1, 70_000))
            worst = prices.worst(bound, tokens.completion)
            assert worst >= prices.cost(tokens) * (1 - 1e-12), (route, name, tokens)


def test_the_configs_price_wins() -> None:
    """Prices of the config are those of every request, as litellm's own custom prices are."""
    own = {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}
    prices = prices_of("hosted_vllm", "mine", base_url="http://127.0.0.1:1", **own)
    assert prices is not None
    for usage in usages(1):
        # Without cached ones, which that reading of litellm's counts twice.
        tokens = replace(usage, cache_written=0, cache_read=0)
        theirs = litellm_cost("openai", "gpt-4o", tokens, custom_cost_per_token=own)
        assert prices.cost(tokens) == pytest.approx(theirs, rel=1e-12)


def test_cache_prices_keep_their_proportion() -> None:
    """With another input price, cached tokens stay as much cheaper as they are; unless that is said too."""
    name = "claude-3-5-sonnet-20241022"
    listed = prices_of("anthropic", name)
    half = prices_of("anthropic", name, input_cost_per_token=1.5e-6)
    said = prices_of("anthropic", name, input_cost_per_token=1.5e-6, capabilities={"cache_read_cost": 1e-6})
    free = prices_of("anthropic", name, input_cost_per_token=0.0, output_cost_per_token=0.0)
    assert listed is not None
    assert half is not None
    assert said is not None
    assert free is not None
    assert half.base.cache_read == pytest.approx(0.5 * (listed.base.cache_read or 0))
    assert half.base.cache_write == pytest.approx(0.5 * (listed.base.cache_write or 0))
    assert said.base.cache_read == 1e-6
    assert free.cost(Tokens(1000, 1000, 300, 300, 300)) == 0.0


@pytest.mark.parametrize("provider, name", [("openai", "a-model-of-mine"), ("ollama", "codegeex4")])
def test_unknown_is_unknown(provider: str, name: str) -> None:
    """A model without a price, or with one of zero in the registry, has none; it is not free."""
    assert prices_of(provider, name, base_url="http://127.0.0.1:1") is None


@pytest.mark.parametrize(
    "moment, share",
    [
        ("2026-03-02T02:00:00+00:00", 1.0),  # a Monday, in the rush
        ("2026-03-02T04:30:00+00:00", 0.5),
        ("2026-03-02T23:59:59+00:00", 0.5),
        ("2026-03-07T02:00:00+00:00", 0.5),  # a Saturday
    ],
)
def test_off_peak_hours(moment: str, share: float) -> None:
    """DeepSeek's prices follow its clock."""
    prices = PriceList(
        Rates(2.0, 4.0),
        off_peak={
            "input_cost_per_token": 1.0,
            "output_cost_per_token": 2.0,
            "windows": [
                {"hours_utc": ["04:00-06:00", "10:00-00:00"], "weekdays": [1, 2, 3, 4, 5]},
                {"hours_utc": "00:00-00:00", "weekdays": [6, 7]},
            ],
        },
    )
    when = datetime.fromisoformat(moment).astimezone(UTC)
    assert prices.cost(Tokens(10, 10), when) == 60.0 * share
