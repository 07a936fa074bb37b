"""What a model can do: names, our rows, the registry, overrides."""

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentless.errors import ConfigError
from agentless.llm import registry
from agentless.llm.capabilities import OVERRIDABLE, Capabilities, resolve
from agentless.llm.names import ModelName, identify
from agentless.llm.provider_rows import ALIASES, LITELLM_ONLY, PROVIDERS, find_provider
from agentless.llm.registry import load_registry

SPELLINGS = [
    ("anthropic", "claude-3-5-sonnet-20241022"),
    ("anthropic", "claude-3-5-sonnet-latest"),
    ("anthropic", "anthropic/claude-3-5-sonnet-20241022"),
    ("Anthropic", "claude-3-5-sonnet-20241022"),
    ("bedrock", "anthropic.claude-3-5-sonnet-20241022-v2:0"),
    ("bedrock", "us.anthropic.claude-3-5-sonnet-20241022-v2:0"),
    ("bedrock", "bedrock/eu.anthropic.claude-3-5-sonnet-20241022-v2:0"),
    ("vertex_ai", "claude-3-5-sonnet@20241022"),
    ("vertex_ai", "vertex_ai/claude-3-5-sonnet-v2@20241022"),
    ("openrouter", "anthropic/claude-3.5-sonnet"),
    ("openrouter", "openrouter/anthropic/claude-3.5-sonnet:beta"),
    ("loopback", "claude-3-5-sonnet-20241022"),
]
CACHING = [
    "claude-3-5-sonnet-20241022",
    "claude-3-5-sonnet-20240620",
    "claude-3-5-haiku-20241022",
    "claude-3-haiku-20240307",
    "claude-3-opus-20240229",
]
GPT_4 = ["gpt-4", "gpt-4-0613", "gpt-4-turbo", "gpt-4o", "gpt-4o-2024-08-06", "gpt-4o-mini", "gpt-4.1"]


@pytest.mark.parametrize("name", CACHING)
def test_caching_models(name: str) -> None:
    """The specification's five caching models take breakpoints, and tools."""
    capabilities = resolve("anthropic", name)
    assert capabilities.supports_prompt_cache
    assert capabilities.cache_breakpoints
    assert capabilities.supports_tools


@pytest.mark.parametrize("name", ["claude-3-sonnet-20240229", "claude-3-sonnet"])
def test_claude_3_sonnet_does_not_cache(name: str) -> None:
    """The first Sonnet 3 has tools and no caching."""
    capabilities = resolve("anthropic", name)
    assert not capabilities.supports_prompt_cache
    assert not capabilities.cache_breakpoints
    assert capabilities.supports_tools


@pytest.mark.parametrize("name", ["claude-3-sonnet-20241022", "claude-3-sonnet-20240620"])
def test_the_specification_s_own_spelling(name: str) -> None:
    """Sonnet with a date of the 3.5's, as the specification writes it, is the 3.5."""
    assert resolve("anthropic", name).cache_breakpoints


def test_a_date_that_no_row_has() -> None:
    """A snapshot that nobody knows has nothing of its family's."""
    assert not resolve("anthropic", "claude-3-5-sonnet-20990101").supports_prompt_cache


@pytest.mark.parametrize("provider,name", SPELLINGS)
def test_spellings_meet_one_row(provider: str, name: str) -> None:
    """However a provider spells a model, it can do the same."""
    capabilities = resolve(provider, name)
    assert capabilities.supports_tools
    assert capabilities.cache_breakpoints
    assert capabilities.max_input_tokens == 200_000
    assert capabilities.max_output_tokens == 8192


@pytest.mark.parametrize(
    "name,identity",
    [
        ("gpt-4o-2024-08-06", ModelName("gpt-4o", "20240806")),
        ("ft:gpt-4o-2024-08-06:me::id", ModelName("gpt-4o", "20240806")),
        ("gpt-4-0613", ModelName("gpt-4", "0613")),
        ("gpt-4-1106-preview", ModelName("gpt-4", "1106")),
        ("claude-4.5-haiku", ModelName("claude-haiku-4-5")),
        ("databricks-claude-3-7-sonnet", ModelName("claude-3-7-sonnet")),
        ("accounts/fireworks/models/kimi-k2", ModelName("kimi-k2")),
        ("us-gov.anthropic.claude-sonnet-4-5-20250929-v1:0", ModelName("claude-sonnet-4-5", "20250929")),
        ("not-claude-3-5-sonnet-20241022", ModelName("not-claude-3-5-sonnet", "20241022")),
    ],
)
def test_identify(name: str, identity: ModelName) -> None:
    """A name is a family and a date."""
    assert identify(name) == identity


@given(st.text())
def test_identify_takes_any_text(name: str) -> None:
    """No name breaks the reading of names."""
    assert isinstance(identify(name), ModelName)


@pytest.mark.parametrize("name", ["my-claude-3-5-sonnet-20241022", "gpt-4o-of-mine", "no3-mini"])
def test_no_match_by_substring(name: str) -> None:
    """A name that contains a known one is not that model."""
    assert resolve("azure", name).source == "default"


@pytest.mark.parametrize("name", [*GPT_4, "o1", "o3", "o3-mini", "o4-mini"])
def test_openai_tools(name: str) -> None:
    """GPT-4 and its variants, o1 and o3 call tools."""
    assert resolve("openai", name).supports_tools


@pytest.mark.parametrize("name", ["o1", "o1-2024-12-17", "o3-mini", "o3", "gpt-5"])
def test_reasoning_models(name: str) -> None:
    """Reasoning models take an effort in words and no temperature."""
    capabilities = resolve("openai", name)
    assert capabilities.supports_reasoning_effort
    assert capabilities.effort_style == "word"
    assert {"low", "medium", "high"} <= set(capabilities.effort_words)
    assert not capabilities.supports_temperature
    assert capabilities.token_limit_name == "max_completion_tokens"


@pytest.mark.parametrize("name", ["o1-mini", "o1-preview", "o1-mini-2024-09-12"])
def test_o1_mini_and_preview(name: str) -> None:
    """The first two o1 have no stop words, tools, system message, effort or temperature."""
    capabilities = resolve("openai", name)
    assert not capabilities.supports_stop
    assert not capabilities.supports_tools
    assert not capabilities.supports_system_message
    assert not capabilities.supports_reasoning_effort
    assert not capabilities.supports_temperature
    assert not capabilities.native_n


@pytest.mark.parametrize(
    "provider,name,style",
    [
        ("anthropic", "claude-3-7-sonnet-20250219", "budget"),
        ("anthropic", "claude-sonnet-4-20250514", "budget"),
        ("bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "budget"),
        ("anthropic", "claude-opus-4-6", "word"),
        ("openrouter", "anthropic/claude-sonnet-4.5", "word"),
        ("anthropic", "claude-3-opus-20240229", None),
    ],
)
def test_how_claude_is_told_to_think(provider: str, name: str, style: str | None) -> None:
    """Older Claude thinks by a budget, adaptive Claude and resellers by a word."""
    assert resolve(provider, name).effort_style == style


def test_temperature_beside_top_p() -> None:
    """Claude from 4 on takes one of the two, Claude 3 both."""
    assert not resolve("anthropic", "claude-sonnet-4-5").temperature_with_top_p
    assert resolve("anthropic", "claude-3-haiku-20240307").temperature_with_top_p


def test_sampling_by_default_effort() -> None:
    """GPT-5.1 does not reason by default and takes a temperature then; GPT-5.5 has to be told not to."""
    assert resolve("openai", "gpt-5.1").supports_temperature
    later = resolve("openai", "gpt-5.5")
    assert not later.supports_temperature
    assert later.sampling_at_effort_none


@pytest.mark.parametrize("provider", ["openai", "deepseek"])
def test_automatic_caching(provider: str) -> None:
    """Where caching is automatic there are no breakpoints to set."""
    capabilities = resolve(provider, {"openai": "gpt-4o", "deepseek": "deepseek-chat"}[provider])
    assert capabilities.supports_prompt_cache
    assert not capabilities.cache_breakpoints


def test_bedrock_does_not_cache_the_oldest() -> None:
    """Bedrock has no caching for Opus 3, whatever Anthropic has."""
    assert not resolve("bedrock", "anthropic.claude-3-opus-20240229-v1:0").supports_prompt_cache


def test_a_service_s_own_rules() -> None:
    """DeepSeek's reasoner takes no temperature at DeepSeek; on a server of one's own R1 does."""
    assert not resolve("deepseek", "deepseek-reasoner").supports_temperature
    assert resolve("hosted_vllm", "deepseek-ai/DeepSeek-R1").supports_temperature
    assert resolve("hosted_vllm", "deepseek-ai/DeepSeek-R1").supports_tools


def test_unknown_model_of_a_cloud() -> None:
    """Of a model nobody knows, a cloud is asked for nothing special."""
    capabilities = resolve("openai", "gpt-of-2031")
    assert not capabilities.supports_tools
    assert capabilities.supports_temperature
    assert capabilities.input_cost_per_token is None
    assert capabilities.source == "default"


@pytest.mark.parametrize(
    "provider,url",
    [("hosted_vllm", None), ("vllm", None), ("loopback", None), ("openai", "http://localhost:8000")],
)
def test_unknown_model_on_an_own_server(provider: str, url: str | None) -> None:
    """On a server of one's own nothing is switched off for being unknown."""
    capabilities = resolve(provider, "my-model", base_url=url)
    assert capabilities.supports_tools
    assert capabilities.supports_response_format


def test_prices() -> None:
    """Retired models have the prices of their time; a reseller's are unknown."""
    sonnet = resolve("anthropic", "claude-3-5-sonnet-20241022")
    assert sonnet.input_cost_per_token == pytest.approx(3e-6)
    assert sonnet.cache_creation_cost == pytest.approx(3.75e-6)
    assert sonnet.cache_read_cost == pytest.approx(0.3e-6)
    assert resolve("openrouter", "anthropic/claude-3.5-sonnet").input_cost_per_token is None
    assert (
        resolve("openai", "gpt-4o").output_cost_per_token
        == load_registry()["gpt-4o"]["output_cost_per_token"]
    )


def test_zero_is_no_price() -> None:
    """A registry's price of zero is an unknown one, unless the config says so."""
    free = next(
        key.removeprefix("ollama/")
        for key, entry in load_registry().items()
        if entry.get("litellm_provider") == "ollama" and entry.get("input_cost_per_token") == 0
    )
    assert resolve("ollama", free).input_cost_per_token is None
    assert resolve("ollama", free, {"input_cost_per_token": 0}).input_cost_per_token == 0


def test_overrides_win() -> None:
    """The config's word is last, and what follows from it follows."""
    overridden = resolve("openai", "gpt-4o", {"supports_tools": False, "max_output_tokens": 10})
    assert not overridden.supports_tools
    assert not overridden.supports_tool_choice
    assert overridden.max_output_tokens == 10
    effort = resolve("openai", "mine", {"supports_reasoning_effort": True})
    assert effort.effort_style == "word"
    assert effort.effort_words == ("low", "medium", "high")
    marks = resolve("openrouter", "mine", {"cache_breakpoints": True})
    assert marks.supports_prompt_cache


def test_override_against_the_route() -> None:
    """What litellm refuses for a route goes out all the same if the config says it can."""
    assert resolve("nebius", "m", {"supports_reasoning_effort": True}).forced_options == {"reasoning_effort"}


@pytest.mark.parametrize(
    "overrides,texts",
    [
        ({"supports_tolls": True}, ["capabilities.supports_tolls", 'did you mean "supports_tools"']),
        ({"supports_tools": 1}, ["capabilities.supports_tools", "true or false"]),
        ({"max_stop": True}, ["capabilities.max_stop", "integer"]),
        ({"cache_read_cost": -1}, ["capabilities.cache_read_cost", "0 or more"]),
        ({"effort_style": "loud", "nonsense": 1}, ['"word" or "budget"', "capabilities.nonsense"]),
        ({"source": "config"}, ["unknown key"]),
    ],
)
def test_wrong_overrides(overrides: dict[str, Any], texts: list[str]) -> None:
    """Wrong names and types are told all at once, with what was meant."""
    with pytest.raises(ConfigError) as caught:
        resolve("openai", "gpt-4o", overrides)
    for text in texts:
        assert text in str(caught.value)
    assert len(caught.value.problems) == len(overrides)


def test_every_field_is_documented_and_can_be_set() -> None:
    """Each field but the bookkeeping ones can stand in a config."""
    assert set(Capabilities.__dataclass_fields__) - set(OVERRIDABLE) == {
        "forced_options",
        "source",
        "sources",
    }


def test_text() -> None:
    """Printed, capabilities are read line by line."""
    text = str(resolve("anthropic", "claude-3-5-sonnet-20241022"))
    assert "yes  supports_tools" in text
    assert "no   supports_seed" in text
    assert "$3 per million" in text


def test_every_model_of_the_registry_resolves() -> None:
    """No entry of the registry, however odd, breaks the reading of it."""
    for key, entry in load_registry().items():
        if entry.get("mode") == "chat":
            assert isinstance(resolve(str(entry["litellm_provider"]), key), Capabilities)


def test_a_complete_row_needs_no_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The specification's Claude models are known without reading three megabytes."""

    def refuse() -> None:
        raise AssertionError("read")

    monkeypatch.setattr(registry, "load_registry", refuse)
    for name in (*CACHING, "claude-3-sonnet-20240229", "o1-mini", "o1-preview"):
        resolve("anthropic" if name.startswith("claude") else "openai", name)


def test_litellm_is_not_imported() -> None:
    """What a model can do is found out without litellm."""
    code = (
        "import sys; from agentless.llm.capabilities import resolve; resolve('openai', 'gpt-4o');"
        "import agentless.llm.providers; sys.exit('litellm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_provider_tables_agree() -> None:
    """Aliases lead to rows, and no name stands in two tables."""
    assert set(ALIASES.values()) <= set(PROVIDERS)
    assert not set(PROVIDERS) & set(LITELLM_ONLY)
    assert not set(ALIASES) & (set(PROVIDERS) | LITELLM_ONLY)
    for name in (*PROVIDERS, *ALIASES, *LITELLM_ONLY):
        assert find_provider(name.upper()) is not None
