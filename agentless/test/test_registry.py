"""litellm's registry as a source: every model of it, names that stand for others, prices that are unclear."""

import json
import logging
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentless.config import read_config
from agentless.errors import ConfigError
from agentless.llm import registry
from agentless.llm.capabilities import OVERRIDABLE, Capabilities, resolve
from agentless.llm.codegen import make_codegen_model
from agentless.llm.families import place_of
from agentless.llm.names import identify
from agentless.llm.price_keys import is_understood, thresholds
from agentless.llm.prices import PriceList, price_list
from agentless.llm.provider_rows import find_provider
from agentless.llm.providers import build_request, capabilities_of
from agentless.llm.registry import load_registry, service_of, with_aliases
from agentless.settings import ModelSettings
from agentless.util.model_factory import ModelFactory
from agentless.values import SAID_IN_WORDS

ROOT = Path(__file__).parent.parent.parent
PRICE = {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}


def chat_models() -> Iterator[tuple[str, str]]:
    """(provider, name) of every chat model of the registry, as a config would have them."""
    for key, entry in load_registry().items():
        if entry.get("mode") == "chat":
            service = service_of(entry)
            yield service, key.removeprefix(f"{service}/")


def settings_of(provider: str, name: str, **given: Any) -> ModelSettings:
    """The settings of such a model; a provider that nobody knows is reached by its address."""
    if find_provider(provider) is None:
        given["base_url"] = "https://provider.invalid/v1"
    return ModelSettings(provider=provider, name=name, **given)


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """A registry of the test's own, empty at first."""
    made: dict[str, dict[str, Any]] = {}
    monkeypatch.setattr(registry, "load_registry", lambda: with_aliases(made))
    return made


def test_every_chat_model_can_be_made() -> None:
    """Each chat model of the registry becomes a model, with a price list or without; none raises."""
    made = priced = 0
    for provider, name in chat_models():
        settings = settings_of(provider, name, api_key="k")
        model = make_codegen_model(settings, name, logging.getLogger("agentless.test"))
        assert str(model.capabilities)
        made += 1
        priced += price_list(settings, model.capabilities) is not None
    assert made > 2_900
    assert priced > 0.85 * made


@pytest.mark.parametrize("name", ["gpt-5.6", "gpt-6-astra", "gpt-6-luna", "gpt-6.1-sol"])
def test_gpt_6_has_its_prices(name: str) -> None:
    """A price of a cache that is kept for hours stops nobody from knowing the others."""
    prices = price_list(settings_of("openai", name), capabilities_of(settings_of("openai", name)))
    row = load_registry()[name]
    assert prices is not None
    assert prices.rates(1_000).input == row["input_cost_per_token"]
    assert prices.rates(300_000).output == row["output_cost_per_token_above_272k_tokens"]


@pytest.mark.parametrize(
    "key",
    [
        "cache_creation_input_token_cost_above_1hr",
        "cache_creation_input_token_cost_above_12hr_above_272k_tokens",
        "cache_creation_input_token_cost_above_12hr_above_272k_tokens_priority",
        "cache_creation_input_token_cost_above_30min_flex",
        "input_cost_per_token_above_272k_tokens_ultrafast",
        "input_cost_per_token_batches",
        "input_cost_per_token_of_tomorrow",
        "input_cost_per_audio_token_above_noon",
    ],
)
def test_prices_that_are_not_ours(key: str) -> None:
    """What holds for another way of service changes nothing."""
    assert thresholds({**PRICE, key: 1e-6}) == {}


@pytest.mark.parametrize(
    "entry",
    [
        {"input_cost_per_token_above_1M_tokens": 1e-6},
        {"input_cost_per_token_above_noon": 1e-6},
        {"output_cost_per_token_above_200k_images": 1e-6},
        {"cache_read_input_token_cost_above_": 1e-6},
        {"input_cost_per_token": "a lot"},
        {"input_cost_per_token": -1.0},
        {"tiered_pricing": 7},
        {"tiered_pricing": [{"input_cost_per_token": 1e-6, "range": [0, "many"]}]},
        {"tiered_pricing": [{"input_cost_per_token": 1e-6, "range": [0]}]},
        {"off_peak_pricing": {"hours_utc": "early"}},
        {"off_peak_pricing": {"windows": [{"hours_utc": "25:00-26:00"}]}},
        {"off_peak_pricing": {"windows": [{"hours_utc": "01:00-02:00", "months": [1]}]}},
        {"off_peak_pricing": {"holidays": True, "hours_utc": "01:00-02:00"}},
        {"off_peak_pricing": {"hours_utc": "01:00-02:00", "weekday_timezone": "Mars/Olympus"}},
    ],
    ids=str,
)
def test_a_price_that_is_not_understood_is_unknown(
    entries: dict[str, dict[str, Any]], entry: Mapping[str, Any]
) -> None:
    """A condition that nobody can read may hold for any request: no price, no guess, no crash."""
    common = {"litellm_provider": "openai", "mode": "chat", "supports_function_calling": True}
    entries["plain"] = {**common, **PRICE}
    entries["odd"] = {**common, **PRICE, **entry}
    settings = settings_of("openai", "odd")
    capabilities = capabilities_of(settings)
    assert resolve("openai", "plain").input_cost_per_token == PRICE["input_cost_per_token"]
    assert capabilities.supports_tools
    assert capabilities.input_cost_per_token is None
    assert price_list(settings, capabilities) is None
    own = settings_of("openai", "odd", **PRICE)
    assert price_list(own, capabilities_of(own)) is not None


@given(
    st.dictionaries(st.text("inputcos_per_tkanbv0129hrM", max_size=60), st.floats() | st.text() | st.none())
)
def test_any_entry_can_be_read(more: dict[str, Any]) -> None:
    """Whatever a later registry has, reading it does not raise."""
    odd = {f"input_cost_per_token_above_{key}": value for key, value in more.items()}
    assert is_understood({**PRICE, **more, **odd}) in {True, False}


def test_names_that_stand_for_others(entries: dict[str, dict[str, Any]]) -> None:
    """A chain of aliases ends in a model, and is then that model; one that ends nowhere is nothing."""
    row = {
        "litellm_provider": "anthropic",
        "mode": "chat",
        "supports_function_calling": True,
        "supports_sampling_params": False,
        **PRICE,
    }
    entries.update(
        {
            "claude-opus-9": row,
            "claude-opus-new": {"alias_of": "claude-opus-9"},
            "claude-opus-latest": {"alias_of": "claude-opus-new"},
            "circle-a": {"alias_of": "circle-b"},
            "circle-b": {"alias_of": "circle-a"},
            "lost": {"alias_of": "nothing"},
            "odd": {"alias_of": 7},
        }
    )
    assert set(registry.load_registry()) == {"claude-opus-9", "claude-opus-new", "claude-opus-latest"}
    capabilities = resolve("anthropic", "claude-opus-latest")
    assert capabilities.supports_tools
    assert not capabilities.supports_temperature
    assert not capabilities.temperature_with_top_p  # our row of the family, by what it stands for
    assert capabilities.input_cost_per_token == PRICE["input_cost_per_token"]
    assert capabilities.sources["supports_tools"] == "registry row claude-opus-9"


@pytest.mark.parametrize(
    "provider, name",
    [
        ("anthropic", "claude-opus-latest"),
        ("anthropic", "claude-sonnet-latest"),
        ("anthropic", "claude-haiku-latest"),
        ("openai", "gpt-mini-latest"),
        ("moonshot", "kimi-latest"),
        ("xai", "grok-latest"),
        ("dashscope", "qwen-max-latest"),
    ],
)
def test_the_latest_have_tools(provider: str, name: str) -> None:
    """By an alias of the newest registry, or as the likeliest model of an older one."""
    capabilities = resolve(provider, name)
    known = load_registry().get(name) or load_registry().get(f"{provider}/{name}")
    assert capabilities.supports_tools or (known is None and provider == "openai")
    if known is not None and "alias_of" in known:
        assert capabilities.input_cost_per_token == known["input_cost_per_token"]


@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b"\xff\xfe"], ids=str)
def test_without_its_file(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A registry that is missing or broken is one warning, and our own table goes on."""
    file = tmp_path / registry.FILE
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setattr(registry, "_file", lambda: file)
    registry.load_registry.cache_clear()
    try:
        with caplog.at_level(logging.WARNING, "agentless"):
            assert resolve("openai", "gpt-4o").supports_tools
            assert resolve("anthropic", "claude-3-5-sonnet-20241022").cache_breakpoints
            assert resolve("openai", "gpt-5").token_limit_name == "max_completion_tokens"
            config = {"models": {"m": {"provider": "openai", "name": "gpt-6-astra", "api_key": "k"}}}
            ModelFactory(read_config(config)).create_model("m")
    finally:
        registry.load_registry.cache_clear()
    assert len(caplog.records) == 1
    assert str(file) in caplog.text


def test_entries_that_are_no_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not a model's row is passed over."""
    file = tmp_path / registry.FILE
    file.write_text(json.dumps({"gpt-x": {"litellm_provider": "openai"}, "rules": [], "version": 7}))
    monkeypatch.setattr(registry, "_file", lambda: file)
    registry.load_registry.cache_clear()
    try:
        assert set(registry.load_registry()) == {"gpt-x"}
    finally:
        registry.load_registry.cache_clear()


FAMILIES = [
    ("openai", "gpt-5.9-mini"),
    ("openai", "gpt-7"),
    ("openai", "gpt-6.7-sol"),
    ("openai", "o5"),
    ("openai", "o5-mini"),
    ("azure", "gpt-5.9"),
    ("anthropic", "claude-opus-6"),
    ("anthropic", "claude-sonnet-4-9"),
    ("anthropic", "claude-zephyr-7"),
    ("bedrock", "us.anthropic.claude-opus-7-v1:0"),
    ("gemini", "gemini-5-pro"),
    ("deepseek", "deepseek-v5-pro"),
    ("dashscope", "qwen5-max"),
    ("moonshot", "kimi-k4"),
    ("xai", "grok-6"),
    ("openrouter", "openai/gpt-5.9"),
]


@pytest.mark.parametrize("provider, name", FAMILIES)
def test_a_model_that_nobody_knows_is_like_its_family(provider: str, name: str) -> None:
    """It has tools and an effort as its likes have; its price and its limits are its own."""
    capabilities = resolve(provider, name)
    assert capabilities.supports_tools
    assert capabilities.supports_reasoning_effort
    assert capabilities.source in {"family", "table"}
    assert capabilities.input_cost_per_token is None
    assert capabilities.max_input_tokens is None
    if name.startswith(("gpt", "o5")):
        assert capabilities.token_limit_name == "max_completion_tokens"
        assert not capabilities.supports_temperature
        assert not capabilities.supports_stop
    assert any("family of" in source for source in capabilities.sources.values())


@pytest.mark.parametrize(
    "name, like",
    [
        ("gpt-5.9-mini", "gpt-5.4-mini"),
        ("o5-mini", "o4-mini"),
        ("claude-opus-4-9", "claude-opus-4-8"),
    ],
)
def test_who_is_likest(name: str, like: str) -> None:
    """The same generation first, then the same variant, then the newest."""
    provider = "anthropic" if name.startswith("claude") else "openai"
    assert f"family of {like}" in str(resolve(provider, name))


def test_grok_counts_in_decimals() -> None:
    """Grok 4.20 came before 4.3."""
    places = [place_of(identify(name)) for name in ("grok-4.20", "grok-4.3", "grok-4.20-reasoning")]
    assert [place and place.version for place in places] == [(4, 2), (4, 3), (4, 2)]


@pytest.mark.parametrize(
    "provider, name, base",
    [
        ("openai", "gpt-5.2-2099-03-01", "gpt-5.2"),
        ("openai", "gpt-4o-2099-03-01", "gpt-4o"),
        ("anthropic", "claude-opus-4-5-20990101", "claude-opus-4-5"),
    ],
)
def test_a_snapshot_is_like_its_model(provider: str, name: str, base: str) -> None:
    """All but its price, which is only what a registry says for that day."""
    dated, plain = resolve(provider, name), resolve(provider, base)
    assert dated.input_cost_per_token is None
    assert price_list(settings_of(provider, name), dated) is None
    assert dated.max_input_tokens == plain.max_input_tokens
    assert dated.max_output_tokens == plain.max_output_tokens
    assert (dated.supports_tools, dated.effort_style, dated.supports_stop) == (
        plain.supports_tools,
        plain.effort_style,
        plain.supports_stop,
    )
    assert f"family of {base}" in str(dated)


NEWEST: dict[tuple[str, str], dict[str, Any]] = {
    ("openai", "gpt-6-astra"): {
        "supports_tools": True,
        "supports_temperature": False,
        "sampling_at_effort_none": False,
        "supports_stop": False,
        "native_n": True,
        "effort_words": ("low", "medium", "high", "xhigh"),
        "token_limit_name": "max_completion_tokens",
        "max_input_tokens": 922_000,
    },
    ("openai", "gpt-5.4-mini"): {
        "supports_temperature": True,
        "supports_stop": False,
        "default_effort": "none",
    },
    ("anthropic", "claude-opus-5-5"): {
        "supports_tools": True,
        "supports_temperature": False,
        "supports_top_p": False,
        "supports_forced_tool": False,
        "cache_breakpoints": True,
        "effort_style": "word",
        "effort_words": ("low", "medium", "high", "xhigh", "max"),
        "max_output_tokens": 128_000,
        "native_n": False,
    },
    ("anthropic", "claude-opus-4-6"): {"supports_temperature": True, "temperature_with_top_p": False},
    ("anthropic", "claude-haiku-4-5"): {
        "effort_style": "budget",
        "effort_words": ("none", "low", "medium", "high"),
        "supports_temperature": True,
        "temperature_with_top_p": False,
        "max_input_tokens": 200_000,
    },
    ("gemini", "gemini-4-argon"): {
        "supports_tools": True,
        "supports_temperature": False,
        "supports_top_p": False,
        "effort_words": ("low", "medium", "high"),
    },
    ("deepseek", "deepseek-v4-pro"): {
        "supports_tools": True,
        "supports_temperature": False,
        "sampling_at_effort_none": True,
        "effort_words": ("none", "low", "medium", "high", "max"),
    },
    ("moonshot", "kimi-k3"): {
        "supports_tools": True,
        "supports_temperature": False,
        "supports_top_p": False,
        "effort_words": ("low", "high", "max"),
        "max_stop": 5,
    },
    ("moonshot", "kimi-k2.6"): {"supports_tools": True, "supports_reasoning_effort": False},
    ("xai", "grok-4.3"): {"effort_words": ("none", "low", "medium", "high"), "supports_stop": False},
    ("xai", "grok-4.7"): {"effort_words": ("low", "medium", "high", "xhigh"), "supports_tools": True},
    ("xai", "grok-4.20-reasoning"): {"supports_reasoning_effort": False, "supports_tools": True},
    ("dashscope", "qwen3.8-max"): {"supports_tools": True, "supports_temperature": True},
}
"""What the vendors' documents say of the newest models (the sources stand beside our rows)."""


@pytest.mark.parametrize("model", NEWEST, ids=" ".join)
def test_the_newest_models(model: tuple[str, str]) -> None:
    """Each of them can do what its vendor says, and has a price where the registry knows it."""
    capabilities = resolve(*model)
    assert {name: getattr(capabilities, name) for name in NEWEST[model]} == NEWEST[model]
    assert capabilities.source != "family"
    assert capabilities.input_cost_per_token is not None


def test_a_deployment_says_what_it_is() -> None:
    """With `base_model` a name that says nothing has all that is known of that model."""
    said = resolve("azure", "team-a", {"base_model": "gpt-5"})
    known = resolve("azure", "gpt-5")
    differing = {"base_model", "forced_options", "source", "sources"}
    for name in set(Capabilities.__dataclass_fields__) - differing:
        assert getattr(said, name) == getattr(known, name), name
    settings = settings_of("azure", "team-a", capabilities={"base_model": "gpt-5"}, reasoning_effort="low")
    prices = price_list(settings, capabilities_of(settings))
    assert isinstance(prices, PriceList)
    assert prices == price_list(settings_of("azure", "gpt-5"), known)
    request = build_request(settings, capabilities_of(settings), [{"role": "user", "content": "x"}])
    assert request["model"] == "azure/team-a"
    assert request["max_completion_tokens"] == 1024
    assert request["reasoning_effort"] == "low"
    assert not {"max_tokens", "temperature"} & set(request)


def test_a_gateway_says_whose_model_it_has() -> None:
    """The maker's name may stand before the model's; the config's other words still win."""
    url = "https://gateway.invalid/v1"
    said = {"base_model": "anthropic/claude-opus-5-5", "max_output_tokens": 9_000}
    gateway = resolve("openai", "m", said, base_url=url)
    assert gateway.supports_tools
    assert not gateway.supports_temperature
    assert gateway.max_output_tokens == 9_000
    assert gateway.input_cost_per_token == load_registry()["claude-opus-5-5"]["input_cost_per_token"]
    assert gateway.sources["max_output_tokens"] == "config"
    assert resolve("hosted_vllm", "m", {"base_model": "gpt-5"}).token_limit_name == "max_completion_tokens"


def test_what_is_printed_can_be_set() -> None:
    """Every line of a printed model is a key of its `capabilities` table, with the source beside it."""
    printed = str(resolve("openai", "gpt-5", {"supports_seed": False}))
    for line in printed.splitlines():
        words = line.split()
        assert (words[1] if words[0] in {"yes", "no"} else words[0]) in OVERRIDABLE
        assert line.endswith(")")
    assert "(config)" in printed
    assert "(our table)" in printed
    assert "(registry row gpt-5)" in printed
    assert "(default)" in printed


@pytest.mark.parametrize(
    "given, expected",
    [
        ({"token_limit_name": "max_completion_tokens"}, "max_completion_tokens"),
        ({"token_limit_name": "none"}, None),
        ({"effort_style": "word"}, "word"),
        ({"effort_words": ["low", "max"]}, ("low", "max")),
        ({"default_effort": "low"}, "low"),
        ({"max_stop": "none"}, None),
        ({"base_model": "o3"}, "o3"),
    ],
)
def test_words_in_a_config(given: dict[str, Any], expected: Any) -> None:
    """What is a word can be set in a config too."""
    config = read_config({"models": {"m": {"provider": "azure", "name": "d", "capabilities": given}}})
    (name,) = given
    assert name in SAID_IN_WORDS
    assert getattr(capabilities_of(config.models["m"]), name) == expected


def test_a_word_that_is_none_of_them() -> None:
    """Is refused with those that there are."""
    with pytest.raises(ConfigError, match="max_completion_tokens"):
        resolve("azure", "d", {"token_limit_name": "max_words"})


def test_models_md_is_of_the_newest() -> None:
    """The document names its litellm, and counts that one's models, as the README does."""
    document = (ROOT / "docs" / "models.md").read_text("utf-8")
    made_with = document.split("with litellm ", 1)[1].split(":", 1)[0]
    total, raised, lost = (int(cell) for cell in document.rsplit("| **all** |", 1)[1].split("|")[:3])
    assert (raised, lost) == (0, 0)
    assert f"all {total:,} chat models of the newest registry" in (ROOT / "README.md").read_text("utf-8")
    if version("litellm") == made_with:
        assert total == sum(entry.get("mode") == "chat" for entry in load_registry().values())
