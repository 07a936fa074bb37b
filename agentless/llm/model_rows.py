"""What we know of models by ourselves: the specification's table, retired models, and what registries omit.

A row belongs to model families (see `names.identify`), whole names or anchored patterns of them, and to
dates. Its facts are fields of `Capabilities`; litellm's registry fills in what a row leaves open, except
behind a `complete` row. Sources are named beside the rows; prices are USD per token.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentless.llm.names import ModelName

MILLION = 1_000_000


@dataclass(frozen=True)
class ModelRow:
    """Facts about the models of some families."""

    families: tuple[str, ...]
    """Patterns, each of which has to match the whole family."""

    facts: Mapping[str, Any]
    """Fields of `Capabilities`."""

    dates: frozenset[str] | None = None
    """The snapshots meant; `None`: all."""

    undated: bool = True
    """A name without a date is meant too."""

    complete: bool = False
    """Nothing is missing that a registry could tell."""

    routes: frozenset[str] | None = None
    """litellm's routes on which it is so; `None`: all. A model's own service may do what others do not."""

    prices: Mapping[str, float] = field(default_factory=dict)
    """What the vendor and the clouds that sell at its price take."""

    def matches(self, model: ModelName, route: str) -> bool:
        """Whether this row is about that model, reached by that route."""
        if self.routes is not None and route not in self.routes:
            return False
        is_dated = self.undated if model.date is None else self.dates is None or model.date in self.dates
        return is_dated and any(re.fullmatch(pattern, model.family) for pattern in self.families)


def rows_for(model: ModelName, route: str) -> Iterator[ModelRow]:
    """The rows about a model, in order: where two speak of the same field the later is right."""
    return (row for row in MODEL_ROWS if row.matches(model, route))


def rows_of_any_date(model: ModelName, route: str) -> Iterator[ModelRow]:
    """The complete rows of a snapshot's family, if none is about that snapshot: the undated model's."""
    return (row for row in rows_for(ModelName(model.family), route) if row.complete)


def _price(
    fresh: float, out: float, write: float | None = None, read: float | None = None
) -> dict[str, float]:
    """Prices as lists have them, per million tokens."""
    listed = {
        "input_cost_per_token": fresh,
        "output_cost_per_token": out,
        "cache_creation_cost": write,
        "cache_read_cost": read,
    }
    return {name: price / MILLION for name, price in listed.items() if price is not None}


_CACHED = {"supports_prompt_cache": True}
_TOOLS = {"supports_tools": True, "supports_tool_choice": True}
_LOW_TO_HIGH = ("low", "medium", "high")
_NO_SAMPLING = {"supports_temperature": False, "supports_top_p": False}
_WORDS = {"supports_reasoning_effort": True, "effort_style": "word", "effort_words": _LOW_TO_HIGH}
_NO_EFFORT = {"supports_reasoning_effort": False, "effort_style": None, "effort_words": ()}
_BUDGET = {
    "supports_reasoning_effort": True,
    "effort_style": "budget",
    "effort_words": ("none", *_LOW_TO_HIGH),
    "sampling_with_reasoning": False,
}
_REASONS = {**_NO_SAMPLING, "sampling_with_reasoning": False, "token_limit_name": "max_completion_tokens"}
_FIRST_O1 = {
    **_NO_EFFORT,
    **_NO_SAMPLING,
    "supports_tools": False,
    "supports_tool_choice": False,
    "supports_stop": False,
    "supports_system_message": False,
    "supports_response_format": False,
    "supports_prompt_cache": True,
    "native_n": False,
    "streams_native_n": False,
    "token_limit_name": "max_completion_tokens",
    "max_input_tokens": 128_000,
}
_CLAUDE = {
    **_TOOLS,
    **_NO_EFFORT,
    "supports_temperature": True,
    "supports_top_p": True,
    "supports_response_format": True,
    "supports_json_mode": False,
    "max_input_tokens": 200_000,
}
_CLAUDE_3 = {**_CLAUDE, "supports_prompt_cache": False, "max_output_tokens": 4096}

MODEL_ROWS: tuple[ModelRow, ...] = (
    # --- Claude. Models, limits and prices: platform.claude.com/docs, "Models overview" and "Pricing" of
    # their time; litellm's registry has dropped all of the third generation. The caching column is the
    # specification's: Sonnet 20241022 and 20240620, Haiku 20241022 and 20240307, Opus 20240229.
    ModelRow(
        ("claude-3-sonnet",),
        _CLAUDE_3,
        dates=frozenset({"20240229"}),
        complete=True,
        prices=_price(3, 15),
    ),
    ModelRow(
        # "Claude-3 Sonnet (20241022, 20240620)" are the 3.5 of those dates; the specification's way of
        # writing them is understood too, but the undated claude-3-sonnet is the one above.
        ("claude-3-sonnet",),
        {**_CLAUDE_3, **_CACHED, "max_output_tokens": 8192},
        dates=frozenset({"20241022", "20240620"}),
        undated=False,
        complete=True,
        prices=_price(3, 15, 3.75, 0.30),
    ),
    ModelRow(
        ("claude-3-5-sonnet",),
        {**_CLAUDE_3, **_CACHED, "max_output_tokens": 8192},
        dates=frozenset({"20241022", "20240620"}),
        complete=True,
        prices=_price(3, 15, 3.75, 0.30),
    ),
    ModelRow(
        ("claude-3-haiku",),
        {**_CLAUDE_3, **_CACHED, "max_output_tokens": 8192},
        dates=frozenset({"20241022"}),  # as above: the 3.5 of that date
        undated=False,
        complete=True,
        prices=_price(0.80, 4, 1, 0.08),
    ),
    ModelRow(
        ("claude-3-5-haiku",),
        {**_CLAUDE_3, **_CACHED, "max_output_tokens": 8192},
        dates=frozenset({"20241022"}),
        complete=True,
        prices=_price(0.80, 4, 1, 0.08),
    ),
    ModelRow(
        ("claude-3-haiku",),
        {**_CLAUDE_3, **_CACHED},
        dates=frozenset({"20240307"}),
        complete=True,
        prices=_price(0.25, 1.25, 0.30, 0.03),
    ),
    ModelRow(
        ("claude-3-opus",),
        {**_CLAUDE_3, **_CACHED},
        dates=frozenset({"20240229"}),
        complete=True,
        prices=_price(15, 75, 18.75, 1.50),
    ),
    ModelRow(
        ("claude-3-7-sonnet",),
        {**_CLAUDE, **_CACHED, **_BUDGET, "max_output_tokens": 64_000},
        dates=frozenset({"20250219"}),
        complete=True,
        prices=_price(3, 15, 3.75, 0.30),
    ),
    ModelRow(
        ("claude-sonnet-4", "claude-sonnet-4-0"),
        {**_CLAUDE, **_CACHED, **_BUDGET, "temperature_with_top_p": False, "max_output_tokens": 64_000},
        dates=frozenset({"20250514"}),
        complete=True,
        prices=_price(3, 15, 3.75, 0.30),
    ),
    ModelRow(
        ("claude-opus-4", "claude-opus-4-0"),
        {**_CLAUDE, **_CACHED, **_BUDGET, "temperature_with_top_p": False, "max_output_tokens": 32_000},
        dates=frozenset({"20250514"}),
        complete=True,
        prices=_price(15, 75, 18.75, 1.50),
    ),
    ModelRow(
        ("claude-opus-4-1",),
        {**_CLAUDE, **_CACHED, **_BUDGET, "temperature_with_top_p": False, "max_output_tokens": 32_000},
        dates=frozenset({"20250805"}),
        complete=True,
        prices=_price(15, 75, 18.75, 1.50),
    ),
    # From 4.1 on: "`temperature` and `top_p` cannot both be specified for this model" (400). What else
    # these can do (adaptive thinking, whether any sampling parameter is left) the registry says.
    ModelRow(
        (r"claude-[a-z]+-([4-9]|\d\d)(-\d{1,2})?", r"claude-mythos-preview"),
        {"temperature_with_top_p": False, "supports_json_mode": False},
    ),
    # --- OpenAI. platform.openai.com/docs, "Models" and "Reasoning"; the chat reference on `stop`: "Not
    # supported with latest reasoning models o3 and o4-mini", on `n` and o1-preview: fixed at 1.
    ModelRow((r"gpt-4(-32k|-turbo|-turbo-preview|o|o-mini|\.1|\.1-mini|\.1-nano|\.5-preview)?",), _TOOLS),
    ModelRow(
        (r"gpt-4-turbo(-preview)?", r"gpt-4o(-mini)?", r"gpt-4\.1(-mini|-nano)?", r"gpt-3\.?5-turbo"),
        {"supports_response_format": True},
    ),
    ModelRow((r"o1", r"o1-pro", r"o3-mini"), {**_TOOLS, **_WORDS, **_REASONS}),
    ModelRow(
        (r"o3", r"o3-pro", r"o4-mini", r"o[34](-mini)?-deep-research", r"o([5-9]|1\d)(-.+)?"),
        {**_TOOLS, **_WORDS, **_REASONS, "supports_stop": False},
    ),
    ModelRow(
        ("o1-mini",),
        {**_FIRST_O1, "max_output_tokens": 65_536},
        complete=True,
        prices=_price(1.10, 4.40, read=0.55),
    ),
    ModelRow(
        ("o1-preview",),
        {**_FIRST_O1, "max_output_tokens": 32_768},
        complete=True,
        prices=_price(15, 60, read=7.50),
    ),
    # GPT-5 and later reason: no stop words, and sampling parameters only where the effort is "none"
    # (developers.openai.com, "Deployment checklist": "When reasoning effort is not none, remove temperature,
    # top_p"). Which efforts there are, and which is the default, the registry says.
    ModelRow(
        (r"gpt-([5-9]|1\d)([.-]\d+)?(-.+)?",),
        {**_REASONS, "supports_stop": False},
    ),
    # Not reasoning models in the sense of the API: no effort can be set.
    ModelRow(
        ("gpt-5-chat",),
        {**_NO_EFFORT, "supports_temperature": True, "supports_top_p": True, "supports_stop": True},
    ),
    # "Model incompatible request argument supplied" (400) for these.
    ModelRow(
        (r"gpt-(5-search-api|4o-search-preview|4o-mini-search-preview)",),
        {
            **_NO_EFFORT,
            **_NO_SAMPLING,
            "supports_stop": False,
            "supports_seed": False,
            "native_n": False,
        },
    ),
    ModelRow(("gpt-5-search-api",), {"supports_tools": False}),
    # --- DeepSeek. api-docs.deepseek.com, "Thinking Mode": the effort can be set from V4 on and "none" turns
    # thinking off; it has low, high and max, and takes the other words for the nearest of them. While it
    # thinks, temperature is taken without complaint and has no effect.
    ModelRow(
        ("deepseek-reasoner", "deepseek-r1"),
        {**_NO_EFFORT, **_NO_SAMPLING},
        routes=frozenset({"deepseek"}),
    ),
    ModelRow(
        (r"deepseek-flash", r"deepseek-pro", r"deepseek-v([4-9]|\d\d)(\.\d+)?-(flash|pro)(-.+)?"),
        {
            **_TOOLS,
            **_WORDS,
            **_NO_SAMPLING,
            "sampling_at_effort_none": True,
            "sampling_with_reasoning": False,
            "effort_words": ("none", *_LOW_TO_HIGH, "max"),
        },
        routes=frozenset({"deepseek"}),
    ),
    # --- Gemini. ai.google.dev, "Gemini 4 Argon": thinking levels low, medium and high, and no way to turn
    # it off; temperature and top_p are ignored.
    ModelRow(
        (r"gemini-([4-9]|\d\d)(\.\d+)?(-.+)?",),
        {**_NO_SAMPLING, "effort_words": _LOW_TO_HIGH},
        routes=frozenset({"gemini", "vertex_ai"}),
    ),
    # --- Kimi. platform.kimi.ai, "Model parameter reference" and "Use thinking effort": from K2.5 on
    # temperature, top_p and n are fixed (other values: 400). K3 always thinks, with effort low, high or max;
    # before it there is none to set (an unknown field is ignored unseen).
    ModelRow(
        (r"kimi-k2\.[5-9].*", r"kimi-k([3-9]|\d\d).*", r".*thinking.*", "kimi"),
        _NO_SAMPLING,
        routes=frozenset({"moonshot"}),
    ),
    ModelRow((r"kimi-k2.*",), _NO_EFFORT, routes=frozenset({"moonshot"})),
    ModelRow(
        (r"kimi-k([3-9]|\d\d).*",),
        {**_WORDS, "effort_words": ("low", "high", "max")},
        routes=frozenset({"moonshot"}),
    ),
    # --- Grok. docs.x.ai, "Reasoning": an effort from 4.3 on, of which 4.3 alone can do without ("none") and
    # 4.7 has xhigh too; 4.20 and grok-build (grok-code-fast) refuse the parameter, whatever its value.
    ModelRow(
        (r"grok-4\.20(-(?!multi-agent).+)?", r"grok-build.*", r"grok-code.*"),
        _NO_EFFORT,
        routes=frozenset({"xai"}),
    ),
    # "stop" is an error for all that reason.
    ModelRow(
        (r"grok-4\.[3-9]", r"grok-([5-9]|\d\d)(\.\d+)?(-.+)?"),
        {**_TOOLS, **_WORDS, "supports_stop": False},
        routes=frozenset({"xai"}),
    ),
    ModelRow((r"grok-4\.3",), {"effort_words": ("none", *_LOW_TO_HIGH)}, routes=frozenset({"xai"})),
    ModelRow((r"grok-4\.7",), {"effort_words": (*_LOW_TO_HIGH, "xhigh")}, routes=frozenset({"xai"})),
)
