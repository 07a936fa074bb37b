"""Every option on the wire: from the config alone to the exact JSON that the service receives."""

import copy
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from agentless.config import read_config
from agentless.errors import UnsupportedFeatureError
from agentless.llm.codegen import CodegenModel
from agentless.loopback import Loopback, Reply, ToolCall, faults
from agentless.test.ways import KEY, PROVIDERS, QUICK, Way
from agentless.util.model_factory import ModelFactory

MakeModel = Callable[..., CodegenModel]

SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
TOOL = {"type": "function", "function": {"name": "edit", "description": "Edits.", "parameters": SCHEMA}}
CLAUDE_TOOL = {"type": "custom", "name": "edit", "description": "Edits.", "input_schema": SCHEMA}
MARK = {"cache_control": {"type": "ephemeral"}}
PROMPT = "Answer in json, please."

BASE: dict[str, dict[str, Any]] = {
    "openai": {"model": "gpt-4o", "messages": [{"role": "user", "content": PROMPT}]},
    "deepseek": {"model": "deepseek-chat", "messages": [{"role": "user", "content": PROMPT}]},
    "generic": {"model": "local-model", "messages": [{"role": "user", "content": PROMPT}]},
    "anthropic": {
        "model": "claude-3-5-sonnet-20241022",
        "messages": [{"role": "user", "content": [{"type": "text", "text": PROMPT}]}],
    },
}
for _body in BASE.values():
    _body.update(max_tokens=1024, temperature=0.0)

JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
OPENAI_LIKE = ("openai", "deepseek", "generic")


def same(*names: str, **body: Any) -> dict[str, dict[str, Any]]:
    """The same change of the body for each of these providers."""
    return dict.fromkeys(names, body)


SYSTEM_FIRST = [{"role": "system", "content": "sys"}, {"role": "user", "content": PROMPT}]

# option -> (settings, what they change in each provider's body); a provider that is not there drops it.
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]]]] = {
    "nothing": ({}, same(*PROVIDERS)),
    "temperature": ({"temperature": 0.5}, same(*PROVIDERS, temperature=0.5)),
    "top_p": ({"top_p": 0.5}, same(*PROVIDERS, top_p=0.5)),
    "max_new_tokens": ({"max_new_tokens": 77}, same(*PROVIDERS, max_tokens=77)),
    "stop": (
        {"stop": ["a", "b"]},
        same(*OPENAI_LIKE, stop=["a", "b"]) | same("anthropic", stop_sequences=["a", "b"]),
    ),
    "one stop word": (
        {"stop": "a"},
        same(*OPENAI_LIKE, stop=["a"]) | same("anthropic", stop_sequences=["a"]),
    ),
    "seed": ({"seed": 3}, same("openai", "generic", seed=3)),
    "system_message": (
        {"system_message": "sys"},
        same(*OPENAI_LIKE, messages=SYSTEM_FIRST)
        | same("anthropic", system=[{"type": "text", "text": "sys"}]),
    ),
    "tools": ({"tools": [TOOL]}, same(*OPENAI_LIKE, tools=[TOOL]) | same("anthropic", tools=[CLAUDE_TOOL])),
    "tool_choice": (
        {"tools": [TOOL], "tool_choice": "required"},
        same(*OPENAI_LIKE, tools=[TOOL], tool_choice="required")
        | same("anthropic", tools=[CLAUDE_TOOL], tool_choice={"type": "any"}),
    ),
    "one tool": (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "edit"}}},
        same(*OPENAI_LIKE, tools=[TOOL], tool_choice={"type": "function", "function": {"name": "edit"}})
        | same("anthropic", tools=[CLAUDE_TOOL], tool_choice={"type": "tool", "name": "edit"}),
    ),
    "response_format": (
        {"response_format": {"type": "json_object"}},
        same(*OPENAI_LIKE, response_format={"type": "json_object"}),
    ),
    "extra_body": (
        {"extra_body": {"metadata": {"user_id": "u"}}},
        same(*PROVIDERS, metadata={"user_id": "u"}),
    ),
    "prompt_cache": (
        {"prompt_cache": True, "system_message": "sys", "tools": [TOOL]},
        same("openai", "deepseek", messages=SYSTEM_FIRST, tools=[TOOL])
        | same(
            "anthropic",
            tools=[{**CLAUDE_TOOL, **MARK}],
            system=[{"type": "text", "text": "sys", **MARK}],
            messages=[{"role": "user", "content": [{"type": "text", "text": PROMPT, **MARK}]}],
        ),
    ),
    "timeout and retries": ({"timeout": 7.5, "num_retries": 0}, same(*PROVIDERS)),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_options_reach_the_wire(
    server: Loopback,
    make_model: MakeModel,
    caplog: pytest.LogCaptureFixture,
    option: str,
    way: Way,
    provider: str,
) -> None:
    """Each option, on each provider, whole and streamed: exactly this body, or one warning that names it."""
    settings, changes = OPTIONS[option]
    server.script("yes")
    with caplog.at_level(logging.WARNING, logger="agentless"):
        model = make_model(provider, **settings)
        way.call(model, PROMPT)
    [entry] = server.journal
    expected = {**BASE[provider], **changes.get(provider, {})}
    if provider not in changes and "system_message" in settings:
        expected.update(messages=SYSTEM_FIRST, tools=settings["tools"])
    if way.streams:
        expected["stream"] = True
        if provider != "anthropic":
            expected["stream_options"] = {"include_usage": True}
    assert entry.body == expected
    dropped = [] if provider in changes else [option]
    assert [each.option for each in model.dropped_options] == dropped
    assert len(caplog.records) == len(dropped)
    assert all(name in caplog.text for name in dropped)


def test_headers_reach_the_wire(server: Loopback, make_model: MakeModel, way: Way, provider: str) -> None:
    """Extra headers go out beside the key, which goes where its provider looks for it."""
    way.call(make_model(provider, extra_headers={"X-Team": "repair"}))
    [entry] = server.journal
    assert entry.headers["x-team"] == "repair"
    key = entry.headers.get("x-api-key") or entry.headers["authorization"].removeprefix("Bearer ")
    assert key == KEY


def test_native_n_reaches_the_wire(server: Loopback, make_model: MakeModel, provider: str) -> None:
    """`batch_size` samples are asked for in one request where the provider has native `n`."""
    model = make_model(provider, batch_size=3, temperature=0.7)
    assert len(model.codegen("hi")) == 3
    asked = [entry.body.get("n") for entry in server.journal]
    assert asked == ([3] if provider in {"openai", "generic"} else [None] * 3)


@pytest.mark.parametrize(
    "name, expected",
    [("o1", {"reasoning_effort": "medium"}), ("o3-mini", {"reasoning_effort": "medium"}), ("o1-mini", {})],
)
def test_reasoning_models(
    server: Loopback, make_model: MakeModel, way: Way, name: str, expected: dict[str, str]
) -> None:
    """o-series models get an effort word and `max_completion_tokens`; no temperature, o1-mini no stop."""
    model = make_model(name=name, reasoning_effort=0.5, **({"stop": ["a"]} if name == "o1-mini" else {}))
    way.call(model)
    [entry] = server.journal
    body = {key: value for key, value in entry.body.items() if not key.startswith("stream")}
    messages = [{"role": "user", "content": "hi"}]
    assert body == {"model": name, "messages": messages, "max_completion_tokens": 1024, **expected}


@pytest.mark.parametrize(
    "name, marked",
    [
        ("claude-3-5-sonnet-20241022", True),
        ("claude-3-5-sonnet-20240620", True),
        ("claude-3-5-haiku-20241022", True),
        ("claude-3-haiku-20240307", True),
        ("claude-3-opus-20240229", True),
        ("claude-3-sonnet-20240229", False),
    ],
)
def test_the_models_that_cache(server: Loopback, make_model: MakeModel, name: str, marked: bool) -> None:
    """The specification's five caching models get breakpoints; the sixth gets a warning instead."""
    model = make_model("anthropic", name=name, prompt_cache=True)
    model.codegen("hi")
    assert ("cache_control" in str(server.journal[0].body)) is marked
    assert [each.option for each in model.dropped_options] == ([] if marked else ["prompt_cache"])


def test_prompt_cache_of_one_call(server: Loopback, make_model: MakeModel, way: Way) -> None:
    """`prompt_cache` as an argument has the last word, both ways."""
    way.call(make_model("anthropic"), prompt_cache=True)
    way.call(make_model("anthropic", prompt_cache=True), prompt_cache=False)
    assert ["cache_control" in str(entry.body) for entry in server.journal] == [True, False]


def test_overrides_of_one_call(server: Loopback, make_model: MakeModel, way: Way, provider: str) -> None:
    """Sampling settings as arguments hold for that call alone."""
    model = make_model(provider)
    way.call(model, temperature=0.8, top_p=0.9, max_new_tokens=5, stop=["x"], tools=[TOOL])
    way.call(model)
    first, second = (entry.body for entry in server.journal)
    assert (first["temperature"], first["top_p"], first["max_tokens"]) == (0.8, 0.9, 5)
    assert first.get("stop", first.get("stop_sequences")) == ["x"]
    assert len(first["tools"]) == 1
    assert second["temperature"] == 0.0
    assert not {"top_p", "stop", "stop_sequences", "tools"} & second.keys()


@pytest.mark.parametrize(
    "overrides, error, names",
    [
        ({"temperature": 2.0}, ValueError, "temperature"),
        ({"temperature": "hot"}, ValueError, "temperature"),
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens"),
        ({"stop": 3}, ValueError, "stop"),
        ({"num_retries": 3}, TypeError, "num_retries"),
        ({"temprature": 0.5}, TypeError, "temprature"),
        ({"num_samples": 0}, ValueError, "num_samples"),
        ({"num_samples": True}, TypeError, "num_samples"),
        ({"num_samples": 1.5}, TypeError, "num_samples"),
        ({"prompt_cache": "yes"}, TypeError, "prompt_cache"),
        ({"num_samples": 2}, ValueError, "temperature"),
    ],
)
def test_wrong_arguments_send_nothing(
    server: Loopback,
    make_model: MakeModel,
    way: Way,
    overrides: dict[str, Any],
    error: type[Exception],
    names: str,
) -> None:
    """A wrong argument is an error that names it, before any request."""
    with pytest.raises(error, match=names):
        way.call(make_model(), **overrides)
    assert server.journal == []


@pytest.mark.parametrize(
    "message, error",
    [
        (None, TypeError),
        (3, TypeError),
        ({"role": "user", "content": "hi"}, TypeError),
        (["hi"], TypeError),
        ("", ValueError),
        ("  \n", ValueError),
        ([], ValueError),
        ([{"role": "robot", "content": "hi"}], ValueError),
        ([{"role": "user"}], ValueError),
    ],
)
def test_wrong_messages_send_nothing(
    server: Loopback, make_model: MakeModel, way: Way, message: Any, error: type[Exception]
) -> None:
    """A message that is neither a text nor a list of chat messages is an error before any request."""
    with pytest.raises(error):
        way.call(make_model(), message)
    assert server.journal == []


def test_refusing_to_drop(make_model: MakeModel) -> None:
    """With `drop_params = false`, what a model cannot do is an error when it is made, with a remedy."""
    with pytest.raises(UnsupportedFeatureError, match=r"seed.*remove seed") as caught:
        make_model("anthropic", seed=3, drop_params=False)
    assert caught.value.option == "seed"


def test_the_callers_objects_stay_as_they_are(
    server: Loopback, make_model: MakeModel, way: Way, provider: str
) -> None:
    """Messages, tools and config are the same after a call with caching, tools and a system message."""
    tools = [copy.deepcopy(TOOL)]
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "Edit it."}]},
        {
            "role": "assistant",
            "content": "Right.",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "edit", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "done"},
        {"role": "user", "content": "Go on."},
    ]
    before = copy.deepcopy((messages, tools))
    model = make_model(provider, prompt_cache=True, system_message="sys", tools=tools)
    settings = model.settings.model_dump_json()
    way.call(model, messages)
    assert (messages, tools) == before
    assert model.settings.model_dump_json() == settings


def test_tool_calls_come_back(server: Loopback, make_model: MakeModel, way: Way, provider: str) -> None:
    """Parallel calls come back parsed; arguments that are no JSON object come back as their text."""
    calls = (ToolCall("edit", {"path": "a.py"}), ToolCall("edit", '{"path": "b'), ToolCall("edit", {}))
    server.script(Reply("Editing.", tool_calls=calls))
    [trajectory] = way.call(make_model(provider, tools=[TOOL]))
    assert trajectory["response"] == "Editing."
    assert trajectory["finish_reason"] == "tool_calls"
    first, second, third = trajectory["tool_calls"]
    assert (first["name"], first["arguments"]) == ("edit", {"path": "a.py"})
    assert (second["arguments"], second["invalid_arguments"]) == ({}, '{"path": "b')
    assert third["arguments"] == {}
    assert len({call["id"] for call in trajectory["tool_calls"]}) == 3


@pytest.mark.parametrize("inline", ["split", "keep"])
def test_reasoning_comes_back(server: Loopback, make_model: MakeModel, provider: str, inline: str) -> None:
    """Reasoning is in its own field, told apart by the provider or inline; `keep` leaves the latter in."""
    for stream in (False, True):
        server.script(Reply("<think>x</think> 42", reasoning="Six times seven."))
        [trajectory] = make_model(provider, stream=stream, inline_thinking=inline).codegen("hi")
        told = (trajectory["response"], trajectory["reasoning"])
        if inline == "split":
            assert told == ("42", "Six times seven.x")
        else:
            assert told == ("<think>x</think> 42", "Six times seven.")


def test_opposite_settings_side_by_side(server: Loopback) -> None:
    """Two models with opposite `drop_params` and `modify_params`, from 16 threads: each keeps its own."""
    common = {"provider": "anthropic", "base_url": server.anthropic_url, "api_key": KEY, **QUICK}
    lax = {**common, "name": "claude-3-haiku-20240307", "max_new_tokens": 99_999, "seed": 1}
    strict = {**common, "name": "claude-3-haiku-20240307", "max_new_tokens": 4096, "top_p": 0.5}
    strict |= {"drop_params": False, "modify_params": False}
    factory = ModelFactory(read_config({"default_model": "lax", "models": {"lax": lax, "strict": strict}}))
    models = [factory.create_model("lax"), factory.create_model("strict")]
    system_only = [{"role": "system", "content": "only"}]

    def work(number: int) -> None:
        for turn in range(12):
            which = (number + turn) % 2
            if which:
                with pytest.raises(ValueError, match="system message only"):
                    models[1].codegen(system_only)
                models[1].codegen("strict")
            else:
                models[0].codegen(system_only)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.journal) == 16 * 12
    for entry in server.journal:
        is_strict = "system" not in entry.body
        assert entry.body["max_tokens"] == 4096
        assert entry.body.get("top_p") == (0.5 if is_strict else None)
        assert "seed" not in entry.body


def test_a_text_cut_by_its_length_is_a_result(
    server: Loopback, make_model: MakeModel, way: Way, provider: str
) -> None:
    """An empty text with finish reason `length` was paid for and is returned."""
    server.script(Reply("", finish_reason="length"))
    [trajectory] = way.call(make_model(provider))
    assert (trajectory["response"], trajectory["finish_reason"]) == ("", "length")
    assert len(server.journal) == 1


def test_usage_is_the_providers(server: Loopback, make_model: MakeModel, way: Way, provider: str) -> None:
    """Token counts are the service's own, whole and streamed, cached parts told apart."""
    prompt = "word " * 3000
    model = make_model(provider, prompt_cache=provider != "generic")
    totals = dict.fromkeys(("prompt_tokens", "completion_tokens", "cache_read_input_tokens"), 0)
    for _ in range(2):
        [trajectory] = way.call(model, prompt)
        for kind in totals:
            totals[kind] += trajectory["usage"][kind]  # type: ignore[literal-required]
    bill = server.bill
    assert totals == {kind: bill[kind] for kind in totals}
    assert totals["cache_read_input_tokens"] > 0


def test_faults_of_one_model_are_its_own(server: Loopback, make_model: MakeModel) -> None:
    """A refused key of one model does not end the calls of another."""
    bad = make_model(num_retries=0)
    good = make_model("anthropic", num_retries=0)
    server.script(faults.InvalidKey())
    with pytest.raises(Exception, match="key"):
        bad.codegen("hi")
    assert good.codegen("hi")
