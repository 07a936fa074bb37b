"""Facts about a model by a route, before the config has its say: our rows, litellm's registry, the route."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentless.llm import routes
from agentless.llm.families import place_of, vendor_of
from agentless.llm.known import Known, Subject, find_known
from agentless.llm.model_rows import rows_of_any_date
from agentless.llm.names import ModelName
from agentless.llm.registry import ALIAS
from agentless.llm.routes import Route, find_route
from agentless.values import EFFORTS as EFFORT_WORDS

TABLE = "our table"
"""The source of what `model_rows` says."""


@dataclass
class Facts:
    """Fields of `Capabilities`, and where each is from."""

    values: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    def add(self, source: str, values: Mapping[str, Any]) -> None:
        """Put these in place of what there is; what they only repeat keeps its source."""
        for name, value in values.items():
            if name not in self.values or self.values[name] != value:
                self.sources[name] = source
            self.values[name] = value

    def drop(self, names: Iterable[str]) -> None:
        """Know nothing of these."""
        for name in names:
            self.values.pop(name, None)
            self.sources.pop(name, None)


def find_facts(subject: Subject) -> Facts:
    """What is known of a model by its route."""
    known = find_known(subject)
    facts = _known_facts(subject, known)
    if not facts.values and subject.self_hosted:
        facts.add("default for an own server", SELF_HOSTED)
    facts.add(f"litellm's route {subject.route}", _by_route(facts.values, subject, known))
    facts.add("what that implies", implied(facts.values))
    facts.sources.pop("forced_options", None)
    return facts


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


def _known_facts(subject: Subject, known: Known) -> Facts:
    facts = Facts()
    values, source = facts.values, None
    if known.entry is not None and not known.is_complete:
        facts.add(known.label, _translated(known.entry.row, known.model))
        source = "family" if known.is_like else "registry"
        # A snapshot by its day is as long as the others; "gpt-4-1106" was another model.
        if known.is_like and len(known.model.date or "") < len("20260301"):
            facts.drop(_NOT_THE_FAMILYS)
    elif not known.is_complete:
        for row in rows_of_any_date(known.model, subject.route):
            facts.add(f"family of {row.families[0]}", {**row.facts, "supports_prompt_cache": False})
            source = "family"
    for row in known.rows:
        facts.add(TABLE, row.facts)
        source = "table" if source != "family" else source
        if row.complete and (subject.route in SELLS_AT_LIST_PRICE or subject.base_model):
            facts.add(TABLE, row.prices)
    if (priced := known.price_row) is not None:
        facts.add(known.label, {ours: _price(priced.get(theirs)) for ours, theirs in PRICES.items()})
    if values.get("default_effort") == "none":
        facts.add(
            facts.sources["default_effort"], dict.fromkeys(("supports_temperature", "supports_top_p"), True)
        )
    if source is not None:
        values["source"] = source
    return facts


_NOT_THE_FAMILYS = ("max_input_tokens", "max_output_tokens", "default_effort")
"""What differs from one model of a family to the next; what of that is not known is left to the service."""


def _translated(entry: Mapping[str, Any], model: ModelName) -> dict[str, Any]:
    """The registry's entry in our words, without its prices."""

    def claims(key: str) -> bool:
        return entry.get(f"supports_{key}") is True

    facts: dict[str, Any] = {
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
    if entry.get("mode") == "responses":  # litellm's bridge to that API leaves these out unseen
        facts.update(native_n=False, supports_seed=False, supports_stop=False)
    return facts


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
    has.update(xhigh=has["xhigh"] and is_adaptive, max=has["max"] and is_adaptive)
    return {
        "supports_reasoning_effort": True,
        "effort_style": "word" if is_adaptive else "budget",
        "effort_words": tuple(word for word in EFFORT_WORDS if has[word]),
        "sampling_with_reasoning": not is_claude,
    }


def _by_route(facts: Mapping[str, Any], subject: Subject, known: Known) -> dict[str, Any]:
    """What the route makes of what the model can do."""
    route = find_route(subject.route)
    limits: dict[str, Any] = {
        "max_stop": route.max_stop,
        "native_n": route.native_n and facts.get("native_n", True),
        "streams_native_n": route.streams_native_n and facts.get("streams_native_n", True),
    }
    if "supports_tool_choice" not in facts:
        limits["supports_tool_choice"] = (
            facts.get("supports_tools", False) and not route.tool_choice_is_stated
        )
    # A gateway in OpenAI's dialect passes on what the model that it is said to be takes.
    if not route.is_openai and not (subject.base_model and subject.route in routes.OPENAI_LIKE):
        limits["token_limit_name"] = "max_tokens"  # noqa: S105 - a field
    if facts.get("effort_style") == "budget" and not route.thinking_budget:
        limits.update(effort_style="word", effort_words=("low", "medium", "high"))
    if is_claude(known.model):
        cached = facts.get("supports_prompt_cache", False) and route.cache_marks
        limits.update(supports_prompt_cache=cached, cache_breakpoints=cached, supports_json_mode=False)
        limits["forced_tool_with_reasoning"] = False
    refused = _refused(route, subject, known)
    limits.update({FLAGS[option]: False for option in refused if option in FLAGS})
    if routes.LENGTH in refused:
        limits["token_limit_name"] = None
    if routes.TEMPERATURE in refused:
        limits["sampling_at_effort_none"] = False
    limits.update(_of_unknown_names({**facts, **limits}, subject, known))
    limits["forced_options"] = _forced(subject, known) - refused
    return limits


def _of_unknown_names(facts: Mapping[str, Any], subject: Subject, known: Known) -> dict[str, Any]:
    """What litellm's classes refuse of a name that its registry lacks, whatever the model could do."""
    is_openais = find_route(subject.route).is_openai and vendor_of(known.model.family) == "openai"
    words = facts.get("effort_words", ())
    # "The same model honors it on Responses and refuses it on Chat Completions" (litellm's class for GPT).
    lacks = {"max"} if is_openais else set[str]()
    limits: dict[str, Any] = {}
    if is_openais and not known.is_sellers and re.search("gpt-[56]", subject.name) and words:
        lacks |= {"xhigh", "none"} if subject.route == "azure" else {"xhigh"}
        limits.update(supports_temperature=False, supports_top_p=False, sampling_at_effort_none=False)
    if lacks & set(words):
        limits["effort_words"] = tuple(word for word in words if word not in lacks)
    if is_claude(known.model) and known.is_like and place_of(known.model) is None:
        limits["supports_reasoning_effort"] = False  # claude-opus-latest, before litellm 1.110 knew of it
    return limits


def _forced(subject: Subject, known: Known) -> frozenset[str]:
    """Options that litellm has to be told to take, because its registry does not say that the model does."""
    if subject.route not in routes.BY_REGISTRY:
        return frozenset()
    if known.entry is not None and not known.is_sellers:
        return frozenset({routes.CHOICE, routes.EFFORT})
    stated = known.entry is None or "supports_tool_choice" in known.entry.row
    return (
        frozenset()
        if stated or find_route(subject.route).tool_choice_is_stated
        else frozenset({routes.CHOICE})
    )


def _refused(route: Route, subject: Subject, known: Known) -> frozenset[str]:
    """What litellm, or the service, refuses for this name, and for what it stands for."""
    meant = [subject.base_model] if subject.base_model else []
    if known.entry is not None and ALIAS in known.entry.row:
        meant.append(known.entry.key)
    bare = [name.removeprefix(f"{subject.route}/") for name in meant]
    return route.refused(subject.name).union(*(route.refused_as(name) for name in bare))


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
