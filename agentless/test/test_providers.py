"""From settings to the keyword arguments of one request."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentless.credentials import Credentials
from agentless.errors import ConfigError, CredentialError, UnsupportedFeatureError
from agentless.frozen import FrozenDict
from agentless.llm import litellm_door
from agentless.llm.messages import prepare
from agentless.llm.options import effort_word, settle
from agentless.llm.provider_rows import find_provider
from agentless.llm.providers import (
    build_request,
    capabilities_of,
    dropped_options,
    normalised_url,
    provider_of,
    resolve_credentials,
)
from agentless.settings import ModelSettings

pytestmark = pytest.mark.litellm

TOOL = {
    "type": "function",
    "function": {"name": "edit", "description": "Edit", "parameters": {"type": "object", "properties": {}}},
}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
MODELS = [
    ("openai", "gpt-4o"),
    ("openai", "o1"),
    ("openai", "o1-mini"),
    ("openai", "gpt-5"),
    ("openai", "gpt-5.1"),
    ("azure", "gpt-4o"),
    ("anthropic", "claude-3-5-sonnet-20241022"),
    ("anthropic", "claude-3-sonnet-20240229"),
    ("anthropic", "claude-3-7-sonnet-20250219"),
    ("anthropic", "claude-opus-4-7"),
    ("bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
    ("vertex_ai", "gemini-2.5-pro"),
    ("deepseek", "deepseek-chat"),
    ("deepseek", "deepseek-reasoner"),
    ("mistral", "mistral-large-latest"),
    ("hosted_vllm", "my-model"),
    ("morph", "morph-v3-large"),
    ("loopback", "any"),
]


def settings_of(provider: str = "openai", name: str = "gpt-4o", **values: Any) -> ModelSettings:
    """Settings as a config gives them."""
    return ModelSettings(provider=provider, name=name, **values)


def request_of(provider: str = "openai", name: str = "gpt-4o", n: int = 1, **values: Any) -> dict[str, Any]:
    """The request that a config makes of the prompt "fix"."""
    settings = settings_of(provider, name, **values)
    capabilities = capabilities_of(settings)
    messages = prepare("fix", capabilities=capabilities, system_message=settings.system_message).messages
    return build_request(settings, capabilities, messages, n=n)


def drops_of(provider: str = "openai", name: str = "gpt-4o", **values: Any) -> list[str]:
    """The options that a config sets in vain."""
    settings = settings_of(provider, name, **values)
    return [each.option for each in dropped_options(settings, capabilities_of(settings))]


@pytest.mark.parametrize("provider,name", MODELS)
def test_nothing_set_nothing_dropped(provider: str, name: str) -> None:
    """A config of name and provider alone is never told that something is left out."""
    assert drops_of(provider, name) == []
    assert drops_of(provider, name, drop_params=False) == []


def test_the_whole_request() -> None:
    """Every option that a model takes is there, by litellm's names, and nothing else."""
    request = request_of(
        temperature=0.7,
        top_p=0.9,
        max_new_tokens=5,
        stop=["a", "b"],
        seed=3,
        tools=[TOOL],
        tool_choice="required",
        response_format=SCHEMA,
        extra_body={"user": "me"},
        num_retries=7,
        timeout=3,
        prompt_cache=True,
        modify_params=False,
    )
    assert request == {
        "model": "openai/gpt-4o",
        "messages": [{"role": "user", "content": "fix"}],
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 5,
        "stop": ["a", "b"],
        "seed": 3,
        "tools": [TOOL],
        "tool_choice": "required",
        "response_format": SCHEMA,
        "extra_body": {"user": "me"},
    }


@pytest.mark.parametrize(
    "provider,name,model",
    [
        ("openai", "gpt-4o", "openai/gpt-4o"),
        ("OpenAI", "openai/gpt-4o", "openai/gpt-4o"),
        ("anthropic", "claude-3-haiku-20240307", "anthropic/claude-3-haiku-20240307"),
        ("zhipuai", "glm-4.6", "zai/glm-4.6"),
        ("vllm", "Qwen/Qwen3", "hosted_vllm/Qwen/Qwen3"),
        ("ollama", "llama3.1", "ollama_chat/llama3.1"),
        ("cohere", "command-r", "cohere_chat/command-r"),
        ("openrouter", "anthropic/claude-3.5-sonnet", "openrouter/anthropic/claude-3.5-sonnet"),
        ("openrouter", "openrouter/anthropic/claude-3.5-sonnet", "openrouter/anthropic/claude-3.5-sonnet"),
        ("openrouter", "openrouter/auto", "openrouter/openrouter/auto"),
        ("groq", "groq/llama-3.1-8b-instant", "groq/llama-3.1-8b-instant"),
        ("groq", "groq/compound", "groq/groq/compound"),
        ("loopback", "gpt-4o", "openai/gpt-4o"),
        ("loopback", "claude-3-haiku-20240307", "anthropic/claude-3-haiku-20240307"),
        ("nano-gpt", "x", "nano-gpt/x"),
    ],
)
def test_names(provider: str, name: str, model: str) -> None:
    """The model goes out as litellm's route and the provider's own name, once."""
    assert request_of(provider, name)["model"] == model


def test_names_behind_an_own_address() -> None:
    """On a server of one's own a prefix belongs to the name."""
    request = request_of("openai", "openai/gpt-oss-120b", base_url="http://localhost:8000")
    assert request["model"] == "openai/openai/gpt-oss-120b"


def test_custom_llm_provider() -> None:
    """The route can be named; what it carries counts then."""
    request = request_of(
        "my-gateway", "claude-3-haiku-20240307", custom_llm_provider="anthropic", prompt_cache=True
    )
    assert request["model"] == "anthropic/claude-3-haiku-20240307"
    assert "cache_control" in str(request["messages"])


def test_unknown_providers() -> None:
    """A provider nobody knows needs an address; a slip of the pen is told."""
    assert request_of("my-server", "m", base_url="http://h")["model"] == "openai/m"
    with pytest.raises(ConfigError, match='did you mean "anthropic"'):
        provider_of(settings_of("antropic", "claude-3-haiku-20240307"))


@pytest.mark.parametrize(
    "provider,given,url",
    [
        ("openai", "http://h", "http://h/v1"),
        ("openai", "http://h:8/", "http://h:8/v1"),
        ("openai", "http://h/v1", "http://h/v1"),
        ("openai", "http://h/v1/", "http://h/v1"),
        ("openai", "http://h/api/paas/v4/", "http://h/api/paas/v4"),
        ("openai", "http://h/v1/chat/completions", "http://h/v1"),
        ("anthropic", "http://h", "http://h"),
        ("anthropic", "http://h/v1", "http://h"),
        ("anthropic", "http://h/v1/", "http://h"),
        ("anthropic", "http://h/proxy/v1/messages", "http://h/proxy"),
        ("deepseek", "https://api.deepseek.com", "https://api.deepseek.com/v1"),
        ("deepseek", "https://api.deepseek.com/beta/", "https://api.deepseek.com/beta"),
        ("hosted_vllm", "http://h:8000", "http://h:8000/v1"),
        ("ollama", "http://h:11434/v1", "http://h:11434"),
        ("azure", "https://x.openai.azure.com/", "https://x.openai.azure.com"),
        ("azure", "https://x/openai/deployments/y", "https://x/openai/deployments/y"),
    ],
)
def test_addresses(provider: str, given: str, url: str) -> None:
    """With or without `/v1` and slash, each provider gets what it needs, and stays with it."""
    row = find_provider(provider)
    assert row is not None
    assert normalised_url(given, row) == url
    assert normalised_url(url, row) == url


def test_keys() -> None:
    """A config's key comes first, then the provider's variables in their order."""
    environ = {"TOGETHER_AI_API_KEY": "second", "MINE": "mine", "DEEPSEEK_API_KEY": " "}
    together = settings_of("together_ai", "m")
    assert resolve_credentials(together, model="m", environ=environ).api_key == "second"
    own = settings_of("together_ai", "m", api_key="env:MINE")
    assert resolve_credentials(own, model="m", environ=environ).api_key == "mine"
    deepseek = settings_of("deepseek", "deepseek-chat")
    assert resolve_credentials(deepseek, model="m", environ=environ, also=["MINE"]).api_key == "mine"


@pytest.mark.parametrize(
    "provider,variable", [("openai", "OPENAI_API_KEY"), ("anthropic", "ANTHROPIC_API_KEY")]
)
def test_missing_keys(provider: str, variable: str) -> None:
    """A missing key names its variable and the model."""
    with pytest.raises(CredentialError) as caught:
        resolve_credentials(settings_of(provider, "m"), model="mine", environ={})
    assert caught.value.variable == variable
    assert caught.value.model == "mine"
    assert variable in str(caught.value)


@pytest.mark.parametrize(
    "provider,key",
    [("loopback", "loopback"), ("hosted_vllm", "not-needed"), ("bedrock", None), ("ollama", None)],
)
def test_keys_that_are_not_needed(provider: str, key: str | None) -> None:
    """Own servers and clouds with credentials of their own need no key, and never get OpenAI's."""
    settings = settings_of(provider, "m")
    assert resolve_credentials(settings, model="m", environ={"OPENAI_API_KEY": "sk"}).api_key == key


def test_strangers_never_get_openai_s_key() -> None:
    """A server of an unknown provider is sent a placeholder rather than OPENAI_API_KEY."""
    settings = settings_of("stranger", "m", base_url="http://h")
    credentials = resolve_credentials(settings, model="m", environ={"OPENAI_API_KEY": "sk"})
    assert credentials.api_key == "not-needed"
    known = resolve_credentials(settings, model="m", environ={"STRANGER_API_KEY": "own"})
    assert known.api_key == "own"


def test_addresses_from_the_environment() -> None:
    """The provider's usual variables for its address are honoured, and its shape is mended."""
    environ = {"ANTHROPIC_BASE_URL": "http://h/v1/", "ANTHROPIC_API_KEY": "k"}
    settings = settings_of("anthropic", "claude-3-haiku-20240307")
    assert resolve_credentials(settings, model="m", environ=environ).base_url == "http://h"


def test_access() -> None:
    """Key, address, version and headers go along if there are any."""
    settings = settings_of("azure", "gpt-4o")
    credentials = Credentials("k", "http://h/", "2024-10-21", FrozenDict({"x-a": "b"}))
    request = build_request(settings, capabilities_of(settings), [], credentials=credentials)
    assert request["api_key"] == "k"
    assert request["api_base"] == "http://h"
    assert request["api_version"] == "2024-10-21"
    assert request["extra_headers"] == {"x-a": "b"}
    bare = Credentials(None, None, None, FrozenDict())
    assert "api_key" not in build_request(settings, capabilities_of(settings), [], credentials=bare)


def test_extra_body_on_anthropic() -> None:
    """Extra fields go out whole; at the litellm door as arguments, which it else sends as one such field."""
    request = request_of("anthropic", "claude-3-haiku-20240307", extra_body={"top_k": 5})
    assert request["extra_body"] == {"top_k": 5}
    assert litellm_door._spread(request)["top_k"] == 5
    assert "extra_body" not in litellm_door._spread(request)
    other = request_of("openai", "gpt-4o", extra_body={"top_k": 5})
    assert litellm_door._spread(other) is other


@pytest.mark.parametrize(
    "effort,word",
    [
        (0.0, "low"),
        (0.33, "low"),
        (0.34, "medium"),
        (0.5, "medium"),
        (0.66, "medium"),
        (0.67, "high"),
        (1.0, "high"),
    ],
)
def test_efforts_in_numbers(effort: float, word: str) -> None:
    """Below a third is low, below two thirds medium, else high."""
    assert effort_word(effort) == word
    assert request_of("openai", "o3-mini", reasoning_effort=effort)["reasoning_effort"] == word


def test_numbers_find_the_word_that_is_there() -> None:
    """A number means an amount: the next word up, else the highest."""
    assert effort_word(0.5, ("low", "high")) == "high"
    assert effort_word(0.9, ("none", "low")) == "low"
    assert effort_word("xhigh", ("low",)) == "xhigh"


@pytest.mark.parametrize("name", ["o1", "o3-mini"])
def test_o_series(name: str) -> None:
    """An o model gets its effort, `max_completion_tokens`, and no temperature, quietly."""
    request = request_of("openai", name, reasoning_effort=0.5)
    assert request["reasoning_effort"] == "medium"
    assert request["max_completion_tokens"] == 1024
    assert "temperature" not in request
    assert drops_of("openai", name, reasoning_effort=0.5) == []
    assert drops_of("openai", name, reasoning_effort=0.5, temperature=0.0) == ["temperature"]


def test_words_that_a_model_lacks() -> None:
    """A word that the model does not have is left out, naming those it has."""
    settings = settings_of("openai", "o1", reasoning_effort="xhigh")
    (dropped,) = dropped_options(settings, capabilities_of(settings))
    assert "low, medium, high" in str(dropped)
    assert "reasoning_effort" not in request_of("openai", "o1", reasoning_effort="xhigh")


def test_no_effort_is_what_others_do_anyway() -> None:
    """The effort "none" asks nothing of a model that does not reason."""
    assert drops_of("openai", "gpt-4o", reasoning_effort="none") == []
    assert drops_of("openai", "gpt-4o", reasoning_effort="low") == ["reasoning_effort"]
    assert drops_of("openai", "o1", reasoning_effort="none") == ["reasoning_effort"]


@pytest.mark.parametrize(
    "effort,room,budget", [("low", 2000, 1024), ("high", 8000, 4096), ("high", 2000, 1999), (0.5, 1025, 1024)]
)
def test_budgets(effort: float | str, room: int, budget: int) -> None:
    """Where thinking is bought by tokens, the effort's budget stays below max_new_tokens."""
    request = request_of(
        "anthropic", "claude-3-7-sonnet-20250219", reasoning_effort=effort, max_new_tokens=room
    )
    assert request["thinking"] == {"type": "enabled", "budget_tokens": budget}
    assert "temperature" not in request
    assert "reasoning_effort" not in request


def test_no_room_to_think() -> None:
    """Less room than the least budget is an error with both numbers."""
    with pytest.raises(ConfigError) as caught:
        request_of("anthropic", "claude-3-7-sonnet-20250219", reasoning_effort="low")
    assert "1024" in str(caught.value)
    assert "1025" in str(caught.value)


def test_thinking_excludes_sampling() -> None:
    """While Claude thinks, a set temperature or top_p and a forced tool are left out aloud."""
    claude: dict[str, Any] = {
        "provider": "anthropic",
        "name": "claude-3-7-sonnet-20250219",
        "max_new_tokens": 4096,
    }
    assert drops_of(**claude, reasoning_effort="low", temperature=0.5, top_p=0.9) == ["top_p", "temperature"]
    assert drops_of(**claude, reasoning_effort="none", temperature=0.5) == []
    tools: dict[str, Any] = {"tools": [TOOL], "tool_choice": "required"}
    assert drops_of(**claude, **tools) == []
    assert drops_of(**claude, **tools, reasoning_effort="low") == ["tool_choice"]


def test_temperature_beside_top_p() -> None:
    """Where only one is taken, the one that was set goes; of two set ones the temperature."""
    one: dict[str, Any] = {"provider": "anthropic", "name": "claude-sonnet-4-5"}
    request = request_of(**one, top_p=0.9)
    assert request["top_p"] == 0.9
    assert "temperature" not in request
    assert drops_of(**one, top_p=0.9) == []
    both = request_of(**one, top_p=0.9, temperature=0.2)
    assert both["temperature"] == 0.2
    assert "top_p" not in both
    assert drops_of(**one, top_p=0.9, temperature=0.2) == ["top_p"]


def test_temperature_by_effort() -> None:
    """GPT-5.1 takes a temperature until it is told to reason; GPT-5.5 once it is told not to."""
    assert request_of("openai", "gpt-5.1", temperature=0.2)["temperature"] == 0.2
    assert "temperature" not in request_of("openai", "gpt-5.1", temperature=0.2, reasoning_effort="low")
    assert "temperature" not in request_of("openai", "gpt-5.5", temperature=0.2)
    assert request_of("openai", "gpt-5.5", temperature=0.2, reasoning_effort="none")["temperature"] == 0.2


def test_stop_words() -> None:
    """Stop words go out all, are left out aloud, or are too many: never cut."""
    assert request_of("openai", "gpt-4o", stop="END")["stop"] == ["END"]
    assert drops_of("openai", "o1-mini", stop="END") == ["stop"]
    assert len(request_of("anthropic", "claude-3-haiku-20240307", stop=list("abcdef"))["stop"]) == 6
    with pytest.raises(ConfigError, match="found 5 stop words; the service takes 4"):
        drops_of("openai", "gpt-4o", stop=list("abcde"))


def test_long_replies() -> None:
    """More than the model's longest reply is cut to it aloud, or an error."""
    haiku: dict[str, Any] = {"provider": "anthropic", "name": "claude-3-haiku-20240307"}
    assert request_of(**haiku, max_new_tokens=9000)["max_tokens"] == 4096
    settings = settings_of(**haiku, max_new_tokens=9000, drop_params=False)
    (changed,) = dropped_options(settings, capabilities_of(settings))
    assert changed.changed
    assert "4096" in str(changed)
    with pytest.raises(ConfigError, match="4096"):
        drops_of(**haiku, max_new_tokens=9000, modify_params=False)


def test_tools() -> None:
    """Tools that a model lacks are left out with their choice; "auto" is what happens unsaid."""
    assert drops_of("openai", "o1-mini", tools=[TOOL], tool_choice="required") == ["tools", "tool_choice"]
    assert drops_of("deepinfra", "Qwen/Qwen3-32B", tools=[TOOL], tool_choice="auto") == []


def test_formats() -> None:
    """Claude answers in JSON by a schema only; text is what comes anyway."""
    claude: dict[str, Any] = {"provider": "anthropic", "name": "claude-3-haiku-20240307"}
    assert request_of(**claude, response_format=SCHEMA)["response_format"] == SCHEMA
    assert drops_of(**claude, response_format={"type": "json_object"}) == ["response_format"]
    assert drops_of(**claude, response_format={"type": "text"}) == []
    assert request_of(response_format={"type": "json_object"})["response_format"] == {"type": "json_object"}


def test_seeds() -> None:
    """Anthropic has no seed."""
    assert drops_of("anthropic", "claude-3-haiku-20240307", seed=1) == ["seed"]


def test_prompt_cache() -> None:
    """Breakpoints where they are explicit, nothing where caching is automatic, aloud where there is none."""
    claude = request_of(
        "anthropic", "claude-3-5-sonnet-20241022", prompt_cache=True, tools=[TOOL], system_message="S"
    )
    assert str(claude).count("cache_control") == 3
    assert "cache_control" not in str(request_of("openai", "gpt-4o", prompt_cache=True))
    assert drops_of("openai", "gpt-4o", prompt_cache=True) == []
    assert drops_of("anthropic", "claude-3-sonnet-20240229", prompt_cache=True) == ["prompt_cache"]
    assert drops_of("anthropic", "claude-3-sonnet-20240229", prompt_cache=False) == []


def test_prompt_cache_of_one_call() -> None:
    """A call's own word on caching overrides the config's."""
    settings = settings_of("anthropic", "claude-3-haiku-20240307", prompt_cache=True)
    capabilities = capabilities_of(settings)
    assert not settle(settings, capabilities, prompt_cache=False).prompt_cache
    asked = settle(
        settings_of("openai", "mine"), capabilities_of(settings_of("openai", "mine")), prompt_cache=True
    )
    assert [each.option for each in asked.dropped] == ["prompt_cache"]


def test_refusing_to_drop() -> None:
    """With drop_params = false it is an error that names model, option and what to change."""
    with pytest.raises(UnsupportedFeatureError) as caught:
        request_of("openai", "o1-mini", stop="END", drop_params=False)
    assert caught.value.option == "stop"
    assert caught.value.model == "o1-mini"
    for text in ("o1-mini", "stop", "drop_params = true", "capabilities"):
        assert text in str(caught.value)


def test_many_samples() -> None:
    """Native `n` goes out where there is one, and is never asked of others."""
    assert request_of("openai", "gpt-4o", n=3)["n"] == 3
    assert "n" not in request_of("openai", "gpt-4o")
    with pytest.raises(ValueError, match="one sample a request"):
        request_of("anthropic", "claude-3-haiku-20240307", n=2)


def test_streams() -> None:
    """A stream says so."""
    settings = settings_of()
    request = build_request(settings, capabilities_of(settings), [], stream=True, n=2)
    assert request["stream"] is True
    assert request["n"] == 2


def test_options_litellm_has_to_be_told_of() -> None:
    """What its lists lack is allowed by name: an effort on OpenRouter, thinking of retired models."""
    router = request_of("openrouter", "openai/o3-mini", reasoning_effort="low")
    assert router["allowed_openai_params"] == ["reasoning_effort"]
    claude = request_of("anthropic", "claude-opus-4-20250514", reasoning_effort="low", max_new_tokens=2000)
    assert claude["allowed_openai_params"] == ["thinking"]
    deepseek = request_of("deepseek", "deepseek-v4-pro", reasoning_effort="high")
    assert deepseek["allowed_openai_params"] == ["reasoning_effort"]
    assert "allowed_openai_params" not in request_of("deepseek", "deepseek-v4-pro", reasoning_effort="none")
    forced = request_of(
        "nebius", "m", reasoning_effort="low", capabilities={"supports_reasoning_effort": True}
    )
    assert forced["allowed_openai_params"] == ["reasoning_effort"]


def test_settings_speak_of_capabilities() -> None:
    """Prices and the longest prompt of the settings are the model's, as far as anyone asks."""
    capabilities = capabilities_of(settings_of(input_cost_per_token=1.0, max_input_tokens=7))
    assert capabilities.input_cost_per_token == 1.0
    assert capabilities.max_input_tokens == 7


@given(
    st.sampled_from(MODELS),
    st.fixed_dictionaries(
        {},
        optional={
            "temperature": st.floats(0, 1),
            "top_p": st.floats(0, 1),
            "reasoning_effort": st.floats(0, 1)
            | st.sampled_from(["none", "minimal", "low", "medium", "xhigh"]),
            "stop": st.lists(st.sampled_from("abcd"), min_size=1, max_size=4),
            "tools": st.just([TOOL]),
            "seed": st.integers(),
            "prompt_cache": st.booleans(),
            "response_format": st.sampled_from([SCHEMA, {"type": "json_object"}]),
        },
    ),
)
def test_sent_or_told(model: tuple[str, str], values: dict[str, Any]) -> None:
    """Whatever is set, either goes out or is told; and no input is changed."""
    settings = settings_of(*model, **values, max_new_tokens=2048)
    capabilities = capabilities_of(settings)
    messages = [{"role": "user", "content": [{"type": "text", "text": "fix"}]}]
    before = copy.deepcopy(messages)
    request = build_request(settings, capabilities, messages)
    request["messages"][0]["content"][0]["text"] = "changed"
    assert messages == before
    told = {each.option for each in dropped_options(settings, capabilities)} - {"max_new_tokens"}
    assert told <= set(values)
    for option in set(values) - told - {"prompt_cache", "reasoning_effort"}:
        assert option in request
    effort = "thinking" in request or "reasoning_effort" in request
    if "reasoning_effort" in values and values["reasoning_effort"] != "none":
        assert effort != ("reasoning_effort" in told)
