"""What a model can do, and where we know it from.

In this order: the config's `capabilities` table, our rows (`model_rows`), litellm's registry, the likeliest
model of the same family (`families`), off. What the route to the model does not carry (`routes`) is off as
well, unless the config says otherwise. Of a deployment whose name says nothing the config says what it is
(`base_model`), and all the rest follows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from agentless.errors import ConfigError, Problem
from agentless.frozen import FrozenDict
from agentless.llm.facts import FLAGS, find_facts, implied
from agentless.llm.known import Subject
from agentless.llm.provider_rows import find_provider, unknown_provider
from agentless.llm.routes import OPENAI_LIKE, find_route
from agentless.problems import Finding, listed, unknown_keys
from agentless.problems import found as shown
from agentless.values import EFFORTS


@dataclass(frozen=True)
class Capabilities:
    """What one model can do by one route. Any field can be set in a config's `capabilities` table."""

    supports_tools: bool = False
    """Tools can be given, and it may call them."""

    supports_tool_choice: bool = False
    """Whether and which tool to call can be said."""

    supports_prompt_cache: bool = False
    """Prompts are cached: by marks (see `cache_breakpoints`) or by the service's own doing."""

    cache_breakpoints: bool = False
    """Caching has to be asked for with `cache_control` marks, and this route carries them."""

    supports_reasoning_effort: bool = False
    """How much it reasons can be said."""

    effort_style: Literal["word", "budget"] | None = None
    """How it is said: a word, or a budget of tokens (Claude before it was adaptive)."""

    effort_words: tuple[str, ...] = ()
    """The efforts it has, least first."""

    default_effort: str | None = None
    """The effort it has where none is set, as far as that is known."""

    supports_temperature: bool = True
    """A temperature can be set, at its usual effort."""

    supports_top_p: bool = True
    """`top_p` can be set, at its usual effort."""

    temperature_with_top_p: bool = True
    """Both may be set at once."""

    sampling_with_reasoning: bool = True
    """Temperature and `top_p` may be set beside a reasoning effort."""

    sampling_at_effort_none: bool = False
    """Temperature and `top_p` can be set if the effort is said to be "none", though not by default."""

    supports_no_tool: bool = True
    """It can be kept from calling any (`tool_choice` "none")."""

    supports_forced_tool: bool = True
    """It can be made to call a tool (`tool_choice` "required", or a tool's name)."""

    forced_tool_with_reasoning: bool = True
    """... beside a reasoning effort too."""

    supports_stop: bool = True
    """Stop words can be set."""

    max_stop: int | None = 4
    """How many; `None`: no limit to speak of."""

    supports_system_message: bool = True
    """A system message may come first."""

    supports_response_format: bool = False
    """An answer in JSON can be asked for, by a schema."""

    supports_json_mode: bool = True
    """... and without one (`{"type": "json_object"}`)."""

    supports_seed: bool = True
    """A seed can be set."""

    native_n: bool = False
    """One request can ask for several samples."""

    streams_native_n: bool = False
    """... in a stream too."""

    max_input_tokens: int | None = None
    """The longest prompt, in tokens."""

    max_output_tokens: int | None = None
    """The longest reply, in tokens, reasoning included."""

    input_cost_per_token: float | None = None
    """USD; `None`: unknown."""

    output_cost_per_token: float | None = None
    """USD; `None`: unknown."""

    cache_creation_cost: float | None = None
    """USD per token written to the cache; `None`: unknown."""

    cache_read_cost: float | None = None
    """USD per token read from the cache; `None`: unknown."""

    token_limit_name: Literal["max_tokens", "max_completion_tokens"] | None = "max_tokens"  # noqa: S105 - a field
    """What `max_new_tokens` is called there; `None`: a reply's length cannot be limited."""

    forced_options: frozenset[str] = frozenset()
    """Options that litellm's list for the route lacks and that are sent all the same: the config says so, or
    the model is known better than by litellm's registry."""

    base_model: str | None = None
    """What the model is, where its name does not say so ("gpt-5", "anthropic/claude-opus-5"), as the config
    says; `None`: what its name says."""

    source: str = "default"
    """Where most of this is from: our `table`, litellm's `registry`, another model of the same `family`, or
    for a model that nobody knows the `config` or nothing (`default`)."""

    sources: Mapping[str, str] = field(default=FrozenDict(), repr=False, compare=False)
    """Where each field is from that is not the default: `config`, `our table`, a row of the registry, ..."""

    def __str__(self) -> str:
        values = {name: getattr(self, name) for name in _PRINTED}
        width = max(map(len, values)) + 5
        lines = [
            *((f"yes  {name}", name) for name, value in values.items() if value is True),
            *((f"no   {name}", name) for name, value in values.items() if value is False),
            *(
                (f"{name:{width}}  {_shown(name, value)}", name)
                for name, value in values.items()
                if not isinstance(value, bool) and value not in ((), frozenset())
            ),
        ]
        most = max(len(line) for line, _ in lines)
        return "\n".join(f"{line:{most}}  ({self.sources.get(name, 'default')})" for line, name in lines)


def _shown(name: str, value: Any) -> str:
    """A value as one would say it: prices by the million tokens, as in price lists."""
    if value is None:
        return _NONE.get(name, "unknown")
    if "cost" in name:
        return f"${value * 1_000_000:g} per million"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def resolve(
    provider: str,
    name: str,
    overrides: Mapping[str, Any] | None = None,
    *,
    custom_llm_provider: str | None = None,
    base_url: str | None = None,
    key: str = "capabilities",
) -> Capabilities:
    """What the model `name` of `provider` can do.

    Args:
        provider: As in the config.
        name: As in the config.
        overrides: The config's `capabilities` table.
        custom_llm_provider: litellm's name of the route, where the config has one.
        base_url: The service's address, where the config has one. Models that nobody knows are taken for
            self-hosted ones behind it, of which nothing is switched off on a mere suspicion.
        key: The overrides' place in the config, for errors.

    Raises:
        ConfigError: An override is not a field of `Capabilities`, or has the wrong type.
    """
    given = checked_overrides(overrides or {}, key)
    subject = subject_of(
        provider,
        name,
        given.get("base_model"),
        custom_llm_provider=custom_llm_provider,
        base_url=base_url,
    )
    facts = find_facts(subject)
    if not given:
        return Capabilities(**facts.values, sources=FrozenDict(facts.sources))
    refused = find_route(subject.route).refused(name)
    forced = frozenset(option for option in refused if given.get(FLAGS.get(option, "")))
    forced |= facts.values["forced_options"]
    found = dict(facts.values)
    source = found.pop("source", "config")
    facts.add("config", _settled(given, found))
    facts.sources.update(dict.fromkeys(given, "config"))
    return Capabilities(
        **{**facts.values, "source": source, "forced_options": forced}, sources=FrozenDict(facts.sources)
    )


def subject_of(
    provider: str,
    name: str,
    base_model: str | None = None,
    *,
    custom_llm_provider: str | None = None,
    base_url: str | None = None,
) -> Subject:
    """The model that a config's words mean; see `resolve`."""
    seller = find_provider(provider, name) or unknown_provider(provider.lower(), route="openai")
    route_name = (custom_llm_provider or seller.route).lower()
    self_hosted = seller.self_hosted or (base_url is not None and route_name in OPENAI_LIKE)
    return Subject(seller, route_name, name, base_model, self_hosted)


def checked_overrides(overrides: Mapping[str, Any], key: str = "capabilities") -> dict[str, Any]:
    """The override table, its names and types checked.

    Raises:
        ConfigError: With everything that is wrong in it.
    """
    findings: list[Finding] = list(unknown_keys(overrides, OVERRIDABLE, (key,)))
    taken: dict[str, Any] = {}
    for name, value in overrides.items():
        if name not in OVERRIDABLE:
            continue
        allowed, is_allowed = OVERRIDABLE[name]
        if value == "none" and name in _NONE and is_allowed(value):
            taken[name] = None
        elif is_allowed(value):
            taken[name] = tuple(value) if isinstance(value, list) else value
        else:
            findings.append(((key, name), f"{shown(value)}; allowed: {allowed}"))
    if findings:
        raise ConfigError.of(Problem(".".join(map(str, path)), text) for path, text in findings)
    return taken


def _settled(given: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides with what follows from them, as far as they do not say that too."""
    follows = implied(given)
    if given.get("cache_breakpoints"):
        follows["supports_prompt_cache"] = True
    if given.get("supports_reasoning_effort") and not found.get("effort_words"):
        follows.update(effort_style="word", effort_words=("low", "medium", "high"))
    return {**follows, **given}


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_price(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _is_words(value: object) -> bool:
    return isinstance(value, list | tuple) and all(word in EFFORTS for word in value)


_NONE: Mapping[str, str] = {
    "max_stop": "no limit",
    "effort_style": "none",
    "token_limit_name": "none",
    "base_model": "what its name says",
}
"""Fields of which `None` is something that is known, and its text; a config says "none"."""

_SWITCH: "_Kind" = ("true or false", lambda value: isinstance(value, bool))
_COUNT: "_Kind" = ("an integer, 1 or more", _is_count)
_PRICE: "_Kind" = ("a price in USD per token, 0 or more", _is_price)


def _words(*words: str) -> "_Kind":
    return listed(words), lambda value: isinstance(value, str) and value in words


_KINDS: Mapping[str, "_Kind"] = {
    "max_stop": ('an integer, 1 or more, or "none"', lambda value: value == "none" or _is_count(value)),
    "max_input_tokens": _COUNT,
    "max_output_tokens": _COUNT,
    "input_cost_per_token": _PRICE,
    "output_cost_per_token": _PRICE,
    "cache_creation_cost": _PRICE,
    "cache_read_cost": _PRICE,
    "effort_style": ('"word" or "budget", or "none"', _words("word", "budget", "none")[1]),
    "effort_words": (f"a list of {listed(EFFORTS)}", _is_words),
    "default_effort": _words(*EFFORTS),
    "token_limit_name": (
        '"max_tokens" or "max_completion_tokens", or "none"',
        _words("max_tokens", "max_completion_tokens", "none")[1],
    ),
    "base_model": (
        'a model\'s name, such as "gpt-5" or "anthropic/claude-opus-5"',
        lambda value: isinstance(value, str) and bool(value.strip()),
    ),
}
_Kind = tuple[str, Callable[[Any], bool]]

OVERRIDABLE: Mapping[str, _Kind] = {
    each.name: _KINDS.get(each.name, _SWITCH)
    for each in fields(Capabilities)
    if each.name not in {"forced_options", "source", "sources"}
}
"""What a config's `capabilities` table can have: the words for what is allowed, and the test."""

_PRINTED = tuple(OVERRIDABLE)
"""What `print` shows: all that can be set."""
