"""Who sells models, and what it takes to reach them: keys, addresses, and litellm's name for the route.

Key and address variables are the ones that litellm 1.105.3 reads itself, first choice first.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

V1 = "/v1"


@dataclass(frozen=True)
class Provider:
    """One row of the table."""

    name: str
    """What a config's `provider` says, in lower case."""

    route: str
    """litellm's name for it: the first part of the `model` it is given."""

    key_variables: tuple[str, ...] = ()
    """Environment variables that may hold the key where the config has none."""

    other_credentials: tuple[str, ...] = ()
    """Variables that stand in for a key, in ways of litellm's own (Azure's tokens): then none is needed."""

    base_url_variables: tuple[str, ...] = ()
    """Environment variables that may hold the address where the config has none."""

    url_path: str | None = V1
    """The path that an address without one gets; `None`: none. An address with a path keeps it."""

    strips_v1: bool = False
    """litellm adds `/v1/...` itself on this route, so a trailing one in the address has to go."""

    needs_key: bool = True
    """Without a key there is nothing to send."""

    placeholder_key: str | None = None
    """What goes as the key where none is needed: the OpenAI client refuses to be without one, and would
    otherwise send this machine's `OPENAI_API_KEY` to a stranger."""

    self_hosted: bool = False
    """The user's own server: its models are not in any registry, so what is unknown is not switched off."""

    embedded: bool = False
    """The server of `agentless.loopback`, in this process; its address is filled in by who starts it."""

    own_prefix: tuple[str, ...] = ()
    """Models whose real name begins with the provider's and a slash (`groq/compound`)."""


def provider_names() -> tuple[str, ...]:
    """Every name that a config's `provider` can have without further ado."""
    return (*PROVIDERS, *ALIASES, *LITELLM_ONLY)


def _rows(*providers: Provider) -> Mapping[str, Provider]:
    return {provider.name: provider for provider in providers}


PROVIDERS: Mapping[str, Provider] = _rows(
    Provider(
        "openai",
        "openai",
        key_variables=("OPENAI_API_KEY",),
        base_url_variables=("OPENAI_BASE_URL", "OPENAI_API_BASE"),
    ),
    Provider(
        "azure",
        "azure",
        key_variables=("AZURE_API_KEY", "AZURE_OPENAI_API_KEY"),
        other_credentials=("AZURE_AD_TOKEN", "AZURE_CLIENT_ID", "AZURE_USERNAME"),
        base_url_variables=("AZURE_API_BASE", "AZURE_OPENAI_ENDPOINT"),
        url_path=None,
    ),
    Provider(
        "azure_ai",
        "azure_ai",
        key_variables=("AZURE_AI_API_KEY",),
        other_credentials=("AZURE_AD_TOKEN", "AZURE_CLIENT_ID"),
        base_url_variables=("AZURE_AI_API_BASE",),
        url_path=None,
    ),
    Provider(
        "anthropic",
        "anthropic",
        key_variables=("ANTHROPIC_API_KEY",),
        other_credentials=("ANTHROPIC_AUTH_TOKEN",),
        base_url_variables=("ANTHROPIC_BASE_URL", "ANTHROPIC_API_BASE"),
        url_path=None,
        strips_v1=True,
    ),
    Provider(
        "deepseek",
        "deepseek",
        key_variables=("DEEPSEEK_API_KEY",),
        base_url_variables=("DEEPSEEK_BASE_URL", "DEEPSEEK_API_BASE"),
    ),
    Provider("gemini", "gemini", key_variables=("GEMINI_API_KEY", "GOOGLE_API_KEY"), url_path=None),
    # Google's and Amazon's own credentials, which their clients find by themselves.
    Provider("vertex_ai", "vertex_ai", needs_key=False, url_path=None),
    Provider("bedrock", "bedrock", needs_key=False, url_path=None),
    Provider("sagemaker", "sagemaker", needs_key=False, url_path=None),
    Provider(
        "mistral", "mistral", key_variables=("MISTRAL_API_KEY",), base_url_variables=("MISTRAL_API_BASE",)
    ),
    Provider(
        "groq",
        "groq",
        key_variables=("GROQ_API_KEY",),
        base_url_variables=("GROQ_API_BASE",),
        own_prefix=("groq/compound", "groq/compound-mini"),
    ),
    Provider(
        "together_ai",
        "together_ai",
        key_variables=("TOGETHER_API_KEY", "TOGETHER_AI_API_KEY", "TOGETHERAI_API_KEY", "TOGETHER_AI_TOKEN"),
        base_url_variables=("TOGETHER_AI_API_BASE",),
    ),
    Provider(
        "fireworks_ai",
        "fireworks_ai",
        key_variables=(
            "FIREWORKS_API_KEY",
            "FIREWORKS_AI_API_KEY",
            "FIREWORKSAI_API_KEY",
            "FIREWORKS_AI_TOKEN",
        ),
        base_url_variables=("FIREWORKS_API_BASE",),
    ),
    Provider(
        "openrouter",
        "openrouter",
        key_variables=("OPENROUTER_API_KEY", "OR_API_KEY"),
        base_url_variables=("OPENROUTER_API_BASE",),
        own_prefix=("openrouter/auto",),
    ),
    Provider("xai", "xai", key_variables=("XAI_API_KEY",), base_url_variables=("XAI_API_BASE",)),
    Provider(
        "cohere",
        "cohere_chat",
        key_variables=("COHERE_API_KEY", "CO_API_KEY"),
        base_url_variables=("COHERE_API_BASE",),
        url_path=None,
    ),
    Provider("ai21", "ai21_chat", key_variables=("AI21_API_KEY",), base_url_variables=("AI21_API_BASE",)),
    Provider("zai", "zai", key_variables=("ZAI_API_KEY",), base_url_variables=("ZAI_API_BASE",)),
    Provider(
        "moonshot", "moonshot", key_variables=("MOONSHOT_API_KEY",), base_url_variables=("MOONSHOT_API_BASE",)
    ),
    Provider(
        "dashscope",
        "dashscope",
        key_variables=("DASHSCOPE_API_KEY",),
        base_url_variables=("DASHSCOPE_API_BASE",),
    ),
    Provider(
        "perplexity",
        "perplexity",
        key_variables=("PERPLEXITYAI_API_KEY", "PERPLEXITY_API_KEY"),
        url_path=None,
    ),
    Provider(
        "nvidia_nim",
        "nvidia_nim",
        key_variables=("NVIDIA_NIM_API_KEY",),
        base_url_variables=("NVIDIA_NIM_API_BASE",),
    ),
    Provider(
        "cerebras", "cerebras", key_variables=("CEREBRAS_API_KEY",), base_url_variables=("CEREBRAS_API_BASE",)
    ),
    Provider(
        "deepinfra",
        "deepinfra",
        key_variables=("DEEPINFRA_API_KEY",),
        base_url_variables=("DEEPINFRA_API_BASE",),
    ),
    Provider(
        "sambanova",
        "sambanova",
        key_variables=("SAMBANOVA_API_KEY",),
        base_url_variables=("SAMBANOVA_API_BASE",),
    ),
    Provider(
        "hosted_vllm",
        "hosted_vllm",
        key_variables=("HOSTED_VLLM_API_KEY",),
        base_url_variables=("HOSTED_VLLM_API_BASE",),
        needs_key=False,
        placeholder_key="not-needed",
        self_hosted=True,
    ),
    Provider(
        "lm_studio",
        "lm_studio",
        key_variables=("LM_STUDIO_API_KEY",),
        base_url_variables=("LM_STUDIO_API_BASE",),
        needs_key=False,
        placeholder_key="not-needed",
        self_hosted=True,
    ),
    # litellm's "ollama" is the completion endpoint: no chat template, tools by prompt.
    Provider(
        "ollama",
        "ollama_chat",
        key_variables=("OLLAMA_API_KEY",),
        base_url_variables=("OLLAMA_API_BASE",),
        url_path=None,
        strips_v1=True,
        needs_key=False,
        self_hosted=True,
    ),
    Provider(
        "loopback",
        "openai",
        needs_key=False,
        placeholder_key="loopback",
        self_hosted=True,
        embedded=True,
    ),
)

ALIASES: Mapping[str, str] = {
    "aws": "bedrock",
    "aws_bedrock": "bedrock",
    "azure_openai": "azure",
    "cohere_chat": "cohere",
    "dashscope_intl": "dashscope",
    "fireworks": "fireworks_ai",
    "google": "gemini",
    "mistralai": "mistral",
    "ollama_chat": "ollama",
    "qwen": "dashscope",
    "together": "together_ai",
    "vertex": "vertex_ai",
    # litellm's own "vllm" runs the model inside this process.
    "vllm": "hosted_vllm",
    "x_ai": "xai",
    "z_ai": "zai",
    "zhipu": "zai",
    "zhipuai": "zai",
}
"""Other names of providers; `-` counts as `_` everywhere."""

_LOOPBACK_CLAUDE = replace(PROVIDERS["loopback"], route="anthropic", url_path=None, strips_v1=True)


def find_provider(name: str, model: str = "") -> Provider | None:
    """The row of a provider as a config spells it, or `None` for one that nobody knows.

    The model counts for the embedded server, which speaks Anthropic's dialect for Claude. litellm's
    other providers, of which nothing more is known, have rows made for them.
    """
    key = name.strip().lower()
    key = key if key in LITELLM_ONLY else key.replace("-", "_")
    key = ALIASES.get(key, key)
    if key == "loopback" and re.match(r"(.*/)?claude", model.lower()):
        return _LOOPBACK_CLAUDE
    if key in PROVIDERS:
        return PROVIDERS[key]
    if key in LITELLM_ONLY:
        return unknown_provider(key, route=key)
    return None


def unknown_provider(name: str, *, route: str) -> Provider:
    """A row for a provider without one of its own: by custom, its key is in `NAME_API_KEY`."""
    variable = re.sub(r"\W", "_", name).upper()
    is_openai = route in {"openai", "custom_openai", "openai_like"}
    return Provider(
        name,
        route,
        key_variables=(f"{variable}_API_KEY",),
        base_url_variables=(f"{variable}_API_BASE",),
        url_path=V1 if is_openai else None,
        needs_key=False,
        placeholder_key="not-needed" if is_openai else None,
        self_hosted=is_openai,
    )


LITELLM_ONLY: frozenset[str] = frozenset(
    """
    abliteration aiand aihubmix aiml aiohttp_openai amazon_nova apertis assemblyai baseten bedrock_mantle
    bigmodel bytez charity_engine chatgpt chutes clarifai clf_ai_gateway cloudflare codestral cognition
    cometapi compactifai coralbricks cortecs crusoe custom custom_openai darkbloom databricks datarobot
    docker_model_runner edenai empiriolabs empower fal_ai featherless_ai friendliai galadriel gdc gigachat
    github github_copilot gmi gradient_ai helicone heroku hostinger_router huggingface hyperbolic inception
    inferenceapis kyma lambda_ai langflow langgraph lemonade libertai litellm_proxy llamafile llamagate
    manus maritalk meta meta_llama microsoft_365_copilot minimax modelscope morph nadir nano-gpt nebius
    neosantara nlp_cloud novita nscale oci oobabooga openai_like opencode_go openinfer ovhcloud parasail
    petals pinstripes poe predibase prism publicai qwen_ai_platform qwencloud ragflow refuseless reka
    replicate sail sap sarvam scaledown scaleway scx-ai snowflake streamlake synthetic tencent tensormesh
    triton v0 veniceai vercel_ai_gateway volcengine wally wandb watsonx xiaomi_mimo xinference zerogpu
    """.split()  # noqa: SIM905 - a hundred names are read better so
)
"""litellm's other providers of chat models (1.105.3 to 1.110.2): known to it, without a row here."""
