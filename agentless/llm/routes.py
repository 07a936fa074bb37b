"""What litellm's routes carry: a row for each of its providers that differs from the usual.

A route is litellm's name for a provider, the part before the slash in `model="anthropic/claude-..."`.
Whether an option reaches the wire depends on the model *and* on the route: litellm keeps a list of options
per route, raises `UnsupportedParamsError` for others, and on some routes leaves one out without a word.

The rows were measured on litellm 1.105.3 by mapping each option alone for each chat model of its registry;
`benchmarks/sweep.py` does it again and has to report nothing raised and nothing dropped.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

TEMPERATURE, TOP_P, STOP, N, SEED = "temperature", "top_p", "stop", "n", "seed"
TOOLS, CHOICE, FORMAT, EFFORT = "tools", "tool_choice", "response_format", "reasoning_effort"
CACHE, LENGTH, NO_TOOL = "prompt_cache", "max_new_tokens", "tool_choice none"


@dataclass(frozen=True)
class Route:
    """What one of litellm's providers carries."""

    refuses: frozenset[str] = frozenset()
    """Options that litellm refuses, or leaves out unseen, for every model of this route."""

    refuses_for: tuple[tuple[str, frozenset[str]], ...] = ()
    """The same for some models: a pattern that the model's whole name matches, and the options."""

    unrecognised: str | None = None
    """A pattern of whole names that litellm takes for none of this service's models: it refuses nearly every
    option for them."""

    native_n: bool = False
    """One request can ask for several samples, by the service's own documentation."""

    streams_native_n: bool = False
    """litellm's stream keeps the choices of such a request apart (measured for the OpenAI client only)."""

    cache_marks: bool = False
    """`cache_control` on Claude's messages and tools arrives at the service."""

    thinking_budget: bool = False
    """Claude's reasoning is asked for with a budget of tokens where the model is not adaptive."""

    max_stop: int | None = 4
    """How many stop words the service takes; `None`: no limit that a caller could meet."""

    is_openai: bool = False
    """OpenAI's own dialect: reasoning models there take `max_completion_tokens`, not `max_tokens`."""

    tool_choice_is_stated: bool = False
    """The registry says which models take `tool_choice`; elsewhere whoever takes tools takes it."""

    forwards_efforts: frozenset[str] = frozenset()
    """Values of `reasoning_effort` that go out as they are, if litellm is told to allow it: its own lists go
    by its registry (which has no model of OpenRouter's), and for DeepSeek it makes a mere switch of any
    (`thinking`; that is right for "none")."""

    spreads_extra_body: bool = False
    """`extra_body` has to be given as arguments: litellm writes it into the body under that very name."""

    def refused(self, name: str) -> frozenset[str]:
        """The options that do not get through for a model that is called so in the request."""
        if self.unrecognised is not None and re.fullmatch(self.unrecognised, name):
            return self.refuses | _ALL | {CACHE}
        return self.refused_as(name)

    def refused_as(self, name: str) -> frozenset[str]:
        """The options that do not get through for a model that is this one, whatever it is called there."""
        matching = (options for pattern, options in self.refuses_for if re.fullmatch(pattern, name))
        return self.refuses.union(*matching)


def find_route(name: str) -> Route:
    """The row of a litellm provider; the usual one for any that has none."""
    return ROUTES.get(name, USUAL)


def _refusing(*options: str) -> Route:
    return Route(refuses=frozenset(options))


_WORDS = frozenset({"minimal", "low", "medium", "high", "xhigh", "max"})
_NONE = frozenset({"none"})

USUAL = Route()

_ALL = frozenset({TOOLS, CHOICE, TEMPERATURE, TOP_P, STOP, N, SEED, FORMAT, EFFORT})

ROUTES: Mapping[str, Route] = {
    "openai": Route(native_n=True, streams_native_n=True, is_openai=True, forwards_efforts=_WORDS | _NONE),
    "azure": Route(native_n=True, streams_native_n=True, is_openai=True, forwards_efforts=_WORDS | _NONE),
    "hosted_vllm": Route(native_n=True, max_stop=None, forwards_efforts=_WORDS | _NONE),
    "together_ai": Route(native_n=True),
    "fireworks_ai": Route(native_n=True, tool_choice_is_stated=True),
    "anthropic": Route(
        refuses=frozenset({N, SEED}),
        cache_marks=True,
        thinking_budget=True,
        max_stop=None,
        spreads_extra_body=True,
    ),
    "bedrock": Route(
        refuses=frozenset({N, SEED, NO_TOOL}),
        unrecognised=r"(us-gov-\w+-\d/)?claude-.*|ap-southeast-3/(deepseek|minimax)\..*",
        refuses_for=(
            (r"ap-southeast-3/qwen\..*", frozenset({TOOLS, CHOICE, FORMAT})),
            (r".*(ai21\.j2-|meta\.llama2-).*", frozenset({STOP})),
            (r".*openai\.gpt-[5-9].*", frozenset({TEMPERATURE, TOP_P})),
            (r".*twelvelabs\..*", frozenset({STOP, TOP_P})),
            (r"us-gov-\w+-\d/anthropic\.claude-3-haiku.*", frozenset({CHOICE})),
            (r".*moonshotai\..*", frozenset({STOP, EFFORT})),
            (r".*xai\..*", frozenset({STOP})),
            (r".*(minimax\.|deepseek\.r1).*", frozenset({EFFORT})),
            # Bedrock caches from Claude 3.5 Sonnet v2 and 3.5 Haiku on (AWS, "Prompt caching"); for the
            # older ones litellm leaves the marks out.
            (r".*claude-3-(5-sonnet-20240620|haiku|opus|sonnet).*", frozenset({CACHE})),
        ),
        cache_marks=True,
        thinking_budget=True,
        max_stop=None,
        tool_choice_is_stated=True,
    ),
    "vertex_ai": Route(
        refuses=frozenset({N}),
        refuses_for=(
            (r".*claude.*", frozenset({SEED})),
            (r".*codestral.*", frozenset({TOOLS, CHOICE})),
            (r"(deepseek-ai|xai|zai-org)/.*", frozenset({EFFORT})),
        ),
        cache_marks=True,
        thinking_budget=True,
        max_stop=5,
        tool_choice_is_stated=True,
    ),
    "azure_ai": Route(
        refuses_for=(
            (r"claude.*", frozenset({SEED})),
            (r"grok-(3-mini|4|code-fast).*", frozenset({STOP})),
            (r"(?!claude|gpt-[5-9]|o[1-9]).*", frozenset({EFFORT})),
            (r"gpt-5\.5-2026-04-24", frozenset({CHOICE})),
        ),
        cache_marks=True,
        thinking_budget=True,
        tool_choice_is_stated=True,
    ),
    "aihubmix": Route(refuses_for=((r"gpt-5\.\d-(high|low|sol-disc)", frozenset({CHOICE})),)),
    "databricks": Route(refuses=frozenset({SEED}), cache_marks=True, thinking_budget=True),
    "openrouter": Route(cache_marks=True, forwards_efforts=_WORDS | _NONE),
    "gemini": Route(max_stop=5),
    "deepseek": Route(refuses=frozenset({SEED}), max_stop=16, forwards_efforts=_WORDS),
    "ai21_chat": _refusing(TOP_P, EFFORT),
    "amazon_nova": _refusing(N, SEED, FORMAT),
    "bedrock_mantle": Route(refuses_for=((r"(.*/)?anthropic\..*", frozenset({SEED})),)),
    "baseten": _refusing(N, EFFORT),
    "cerebras": _refusing(N),
    "cloudflare": _refusing(EFFORT),
    "codestral": _refusing(N, EFFORT),
    "cohere_chat": _refusing(FORMAT, EFFORT, CHOICE),
    "deepinfra": Route(
        refuses=frozenset({SEED, CHOICE}), refuses_for=((r"anthropic/.*", frozenset({EFFORT})),)
    ),
    "heroku": _refusing(EFFORT),
    "github_copilot": Route(refuses_for=((r"gemini-.*|grok-.*|claude-.*-fast", frozenset({EFFORT})),)),
    "fal_ai": Route(refuses=(_ALL | {LENGTH}) - {TEMPERATURE, TOP_P}),
    "featherless_ai": _refusing(TOOLS, CHOICE, SEED, FORMAT, EFFORT),
    "friendliai": _refusing(EFFORT),
    "gigachat": _refusing(STOP, N, SEED, FORMAT, EFFORT),
    "gradient_ai": _refusing(N, TOOLS, CHOICE, SEED, FORMAT, EFFORT),
    "hyperbolic": _refusing(EFFORT),
    "inception": _refusing(TOP_P, N, SEED),
    "lambda_ai": _refusing(EFFORT),
    "langflow": Route(refuses=_ALL | {LENGTH}),
    "langgraph": Route(refuses=_ALL | {LENGTH}),
    "meta_llama": _refusing(FORMAT, EFFORT),
    "minimax": _refusing(EFFORT),
    "mistral": _refusing(N),
    "moonshot": Route(
        # Its reasoning models take no other temperature than 1, and litellm leaves any out.
        refuses_for=((r"kimi-(k2\.[5-9]|k[3-9]|latest|.*thinking).*", frozenset({TEMPERATURE})),),
        max_stop=5,
    ),
    "morph": Route(refuses=_ALL | {LENGTH}),
    "nebius": _refusing(EFFORT),
    "nlp_cloud": _refusing(TOOLS, CHOICE, SEED, FORMAT, EFFORT),
    "novita": _refusing(EFFORT),
    "nscale": _refusing(TOOLS, CHOICE, SEED, EFFORT),
    "oci": Route(refuses_for=((r"cohere\..*", frozenset({N, CHOICE, EFFORT})),)),
    "ollama_chat": _refusing(N, CHOICE),
    "ovhcloud": _refusing(EFFORT),
    "perplexity": _refusing(STOP, N, TOOLS, CHOICE, SEED),
    "replicate": _refusing(N, TOOLS, CHOICE, SEED, FORMAT, EFFORT),
    "sagemaker": _refusing(TOOLS, CHOICE, SEED, FORMAT, EFFORT),
    "sail": _refusing(STOP, SEED),
    "sambanova": _refusing(N, SEED, EFFORT),
    "snowflake": _refusing(STOP, N, SEED, FORMAT, EFFORT),
    "triton": Route(refuses=_ALL),
    "v0": Route(refuses=(_ALL | {LENGTH}) - {TOOLS, CHOICE}),
    "vercel_ai_gateway": _refusing(EFFORT),
    "volcengine": _refusing(FORMAT, EFFORT),
    "xai": Route(
        # litellm's own test of the name; xAI answers 400 for `stop` on its reasoning models.
        refuses_for=((r".*(grok-3-mini|grok-4|grok-code-fast).*", frozenset({STOP})),)
    ),
    "zai": _refusing(N, SEED, FORMAT, EFFORT),
}

OPENAI_LIKE = frozenset({"openai", "custom_openai", "openai_like", "hosted_vllm", "lm_studio"})
"""Routes to whatever speaks OpenAI's dialect."""

BY_REGISTRY = frozenset({"openai", "azure", "xai", "moonshot", "together_ai", "fireworks_ai"})
"""Routes on which litellm takes `tool_choice` and `reasoning_effort` only for models of which its registry
says so, and passes them on as they are if it is told to. (On others it would send them a second time.)"""

IGNORE_MAX_RETRIES = frozenset(
    """
    ai21_chat baseten clarifai codestral deepinfra featherless_ai hyperbolic inception morph nscale nvidia_nim
    sambanova v0 zai
    """.split()  # noqa: SIM905  # names are read better so
)
"""Routes whose list of options lacks `max_retries`: the transport's 0 reaches their client only if it is
allowed by name, and their client's own two retries wait up to a minute between refusals. Measured by
`benchmarks/requests_by_provider.py`."""
