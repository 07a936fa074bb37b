"""Facts about a model by a route, before the config has its say: our rows, litellm's registry, the route."""

import re
from collections.abc import Mapping
from typing import Any

from agentless.llm import routes
from agentless.llm.model_rows import ModelRow, rows_for
from agentless.llm.names import ModelName, identify
from agentless.llm.provider_rows import Provider
from agentless.llm.registry import look_up
from agentless.llm.routes import Route, find_route

EFFORT_WORDS = ("none", "minimal", "low", "medium", "high", "xhigh")
"""Every word that a config's `reasoning_effort` can be, least first."""


def find_facts(seller: Provider, route_name: str, name: str, *, self_hosted: bool) -> dict[str, Any]:
    """Fields of `Capabilities` for the model `name`, sold by `seller` and reached by a route.

    Args:
        seller: The provider's row.
        route_name: litellm's name of the route.
        name: The model, as the provider spells it.
        self_hosted: It runs on a server of the user's own, unless a registry knows it.
    """
    model, route = identify(name), find_route(route_name)
    facts = _known_facts(seller, route_name, name, model)
    if not facts and self_hosted:
        facts = dict(SELF_HOSTED)
    return implied({**facts, **_by_route(facts, route, name, model)})


def implied(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts, with those that follow from them."""
    found = dict(facts)
    if facts.get("supports_tools") is False:
        found["supports_tool_choice"] = False
    if facts.get("supports_prompt_cache") is False:
        found["cache_breakpoints"] = False
    if facts.get("native_n") is False:
        found["streams_native_n"] = False
    if facts.get("supports_reasoning_effort") is False:
        found.update(effort_style=None, effort_words=())
    return found


SELF_HOSTED: Mapping[str, Any] = {
    "supports_tools": True,
    "supports_tool_choice": True,
    "supports_response_format": True,
}
"""What is taken to be possible on a user's own server, where no registry knows the model. It is not left out
on a mere suspicion: the server refuses aloud what it cannot do."""

FLAGS: Mapping[str, str] = {
    routes.TOOLS: "supports_tools",
    routes.CHOICE: "supports_tool_choice",
    routes.TEMPERATURE: "supports_temperature",
    routes.TOP_P: "supports_top_p",
    routes.STOP: "supports_stop",
    routes.SEED: "supports_seed",
    routes.FORMAT: "supports_response_format",
    routes.EFFORT: "supports_reasoning_effort",
    routes.N: "native_n",
    routes.CACHE: "supports_prompt_cache",
    routes.NO_TOOL: "supports_no_tool",
}
"""The field that says whether an option can be sent."""

# Clouds that sell Claude at Anthropic's price: a row's prices hold there too.
SELLS_AT_LIST_PRICE = frozenset({"anthropic", "openai", "azure", "bedrock", "vertex_ai"})

VENDORS: Mapping[str, str] = {
    "claude": "anthropic",
    "gpt": "openai",
    "o1": "openai",
    "o3": "openai",
    "o4": "openai",
    "gemini": "gemini",
    "deepseek": "deepseek",
    "grok": "xai",
    "mistral": "mistral",
    "codestral": "mistral",
    "devstral": "mistral",
    "kimi": "moonshot",
    "glm": "zai",
}
"""Whose entry in the registry tells what a model can do, where its seller has none: by the first word of the
family. Prices are never taken from there."""


def find_price_entry(seller: Provider, route_name: str, name: str) -> Mapping[str, Any] | None:
    """The registry's entry whose prices hold for this model at this seller; `None` where a row's do.

    A cloud may still sell a model of our rows, at a price of its own.
    """
    model = identify(name)
    has_row = any(row.complete for row in rows_for(model, route_name))
    if has_row and route_name in VENDORS.values():
        return None
    entry, priced = _find_entry(seller, route_name, name, model)
    return entry if priced and not (has_row and entry and not entry.get("input_cost_per_token")) else None


def _known_facts(seller: Provider, route_name: str, name: str, model: ModelName) -> dict[str, Any]:
    rows = list(rows_for(model, route_name))
    facts: dict[str, Any] = {}
    if not any(row.complete for row in rows):
        facts.update(_from_registry(seller, route_name, name, model))
    for row in rows:
        facts.update(_from_row(row, route_name))
    if (entry := find_price_entry(seller, route_name, name)) is not None:
        facts.update(_prices(entry))
    if facts.get("default_effort") == "none":
        facts.update(supports_temperature=True, supports_top_p=True)
    return facts


def _from_row(row: ModelRow, route_name: str) -> dict[str, Any]:
    facts = {**row.facts, "source": "table"}
    if row.complete and route_name in SELLS_AT_LIST_PRICE:
        facts.update(row.prices)
    return facts


def _from_registry(seller: Provider, route_name: str, name: str, model: ModelName) -> dict[str, Any]:
    """The registry's entry in our words, the vendor's where the seller has none (then without prices)."""
    entry, priced = _find_entry(seller, route_name, name, model)
    return {} if entry is None else _translated(entry, model, priced=priced)


def _find_entry(
    seller: Provider, route_name: str, name: str, model: ModelName
) -> tuple[Mapping[str, Any] | None, bool]:
    """The registry's entry, and whether its prices are this seller's."""
    bare = name.removeprefix(f"{route_name}/")
    prefixes = dict.fromkeys((seller.name, route_name, seller.name.replace("_", "-")))
    entry = look_up([*(f"{prefix}/{bare}" for prefix in prefixes), bare], {route_name, seller.name})
    priced = entry is not None
    if entry is None and not _is_own(seller) and (vendor := VENDORS.get(model.family.split("-", 1)[0])):
        dated = [f"{model.family}-{model.date}"] if model.date else []
        known = [bare, bare.rsplit("/", 1)[-1], *dated, model.family]
        entry = look_up([*known, *(f"{vendor}/{key}" for key in known)], {vendor})
        priced = entry is not None and seller.embedded
    return entry, priced


def _is_own(seller: Provider) -> bool:
    """Whether it is the user's own server, where a vendor's model need not be as at the vendor's."""
    return seller.self_hosted and not seller.embedded


def _translated(entry: Mapping[str, Any], model: ModelName, *, priced: bool) -> dict[str, Any]:
    def claims(key: str) -> bool:
        return entry.get(f"supports_{key}") is True

    facts: dict[str, Any] = {
        "source": "registry",
        "supports_tools": claims("function_calling"),
        "supports_prompt_cache": claims("prompt_caching"),
        "supports_response_format": claims("response_schema"),
        "supports_system_message": entry.get("supports_system_messages") is not False,
        "max_input_tokens": _count(entry.get("max_input_tokens")),
        "max_output_tokens": _count(entry.get("max_output_tokens")),
        "default_effort": entry.get("default_reasoning_effort"),
        "sampling_at_effort_none": claims("none_reasoning_effort"),
    }
    if (choice := entry.get("supports_tool_choice")) is not None:
        facts["supports_tool_choice"] = choice is True and facts["supports_tools"]
    if entry.get("supports_forced_tool_use") is False:
        facts["supports_forced_tool"] = False
    if entry.get("supports_sampling_params") is False:
        facts.update(supports_temperature=False, supports_top_p=False)
    if claims("reasoning"):
        facts.update(_reasoning(entry, is_claude=is_claude(model)))
    return facts | (_prices(entry) if priced else {})


def _prices(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {ours: _price(entry.get(theirs)) for ours, theirs in PRICES.items()}


def _reasoning(entry: Mapping[str, Any], *, is_claude: bool) -> dict[str, Any]:
    """How the effort is said, and which there are."""
    stated = entry.get("reasoning_effort_levels")
    if stated is not None:
        words = [word for word in EFFORT_WORDS if word in stated]
        return {"supports_reasoning_effort": bool(words), "effort_style": "word" if words else None} | {
            "effort_words": tuple(words)
        }
    has = {word: entry.get(f"supports_{word}_reasoning_effort") is True for word in EFFORT_WORDS}
    has.update(low=True, medium=True, high=True)
    if is_claude:  # thinking is left out for "none"; some newer models cannot but think
        has.update(none=entry.get("thinking_always_on") is not True, minimal=False)
    is_adaptive = not is_claude or entry.get("supports_adaptive_thinking") is True
    has["xhigh"] = has["xhigh"] and is_adaptive
    return {
        "supports_reasoning_effort": True,
        "effort_style": "word" if is_adaptive else "budget",
        "effort_words": tuple(word for word in EFFORT_WORDS if has[word]),
        "sampling_with_reasoning": not is_claude,
    }


def _by_route(facts: Mapping[str, Any], route: Route, name: str, model: ModelName) -> dict[str, Any]:
    """What the route makes of what the model can do."""
    limits: dict[str, Any] = {
        "max_stop": route.max_stop,
        "native_n": route.native_n and facts.get("native_n", True),
        "streams_native_n": route.streams_native_n and facts.get("streams_native_n", True),
    }
    if "supports_tool_choice" not in facts:
        limits["supports_tool_choice"] = (
            facts.get("supports_tools", False) and not route.tool_choice_is_stated
        )
    if not route.is_openai:
        limits["token_limit_name"] = "max_tokens"  # noqa: S105 - a field
    if facts.get("effort_style") == "budget" and not route.thinking_budget:
        limits.update(effort_style="word", effort_words=("low", "medium", "high"))
    if is_claude(model):
        cached = facts.get("supports_prompt_cache", False) and route.cache_marks
        limits.update(supports_prompt_cache=cached, cache_breakpoints=cached, supports_json_mode=False)
        limits["forced_tool_with_reasoning"] = False
    refused = route.refused(name)
    limits.update({FLAGS[option]: False for option in refused if option in FLAGS})
    if routes.LENGTH in refused:
        limits["token_limit_name"] = None
    if routes.TEMPERATURE in refused:
        limits["sampling_at_effort_none"] = False
    return limits


def is_claude(model: ModelName) -> bool:
    """Whether it is one of Anthropic's, whoever sells it."""
    return re.fullmatch(r"claude(-.+)?", model.family) is not None


PRICES: Mapping[str, str] = {
    "input_cost_per_token": "input_cost_per_token",
    "output_cost_per_token": "output_cost_per_token",
    "cache_creation_cost": "cache_creation_input_token_cost",
    "cache_read_cost": "cache_read_input_token_cost",
}
"""Our name of a price, and the registry's."""


def _count(value: Any) -> int | None:
    """A number of tokens; the registry has some as strings and zeros."""
    try:
        return int(value) or None
    except (TypeError, ValueError):
        return None


def _price(value: Any) -> float | None:
    """A price: 0 in the registry means that nobody knows it."""
    try:
        return float(value) or None
    except (TypeError, ValueError):
        return None
