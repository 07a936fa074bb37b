"""Settings: overrides make others, nothing changes them, and equal ones are known as equal."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from agentless.config import ModelSettings, read_config
from agentless.errors import ConfigError
from agentless.frozen import FrozenDict, thaw

CANARY = "sk-canary-7f3a"


def settings_of(**values: Any) -> ModelSettings:
    """A model of these settings, as a config makes it."""
    return read_config({"models": {"m": {"name": "x", "provider": "openai", **values}}}).models["m"]


def edit_tool() -> dict[str, Any]:
    """A tool's definition, new every time."""
    return {"type": "function", "function": {"name": "edit", "parameters": {"type": "object"}}}


def nested(depth: int) -> dict[str, Any]:
    """A table with lists within lists."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return {"x": value}


def test_overrides_make_other_settings() -> None:
    """Overrides give new settings, None leaves a setting, and what was set is remembered."""
    model = settings_of(temperature=0.5, api_key=CANARY, tools=[edit_tool()])
    other = model.with_overrides(temperature=0.8, stop="END", seed=None)
    assert (other.temperature, other.stop, other.seed) == (0.8, ("END",), None)
    assert other.tools == model.tools
    assert other.api_key == model.api_key
    assert other.model_fields_set == model.model_fields_set | {"stop"}
    assert model.temperature == 0.5
    assert model.with_overrides(temperature=None) is model


@pytest.mark.parametrize(
    "overrides, key, text",
    [
        ({"temperature": 2}, "temperature", "found 2 (an integer); allowed: a number from 0.0 to 1.0"),
        ({"temprature": 0.5}, "temprature", 'did you mean "temperature"?'),
        ({"max_tokens": 3}, "max_tokens", 'did you mean "max_new_tokens"?'),
        ({"retry_max_wait": 1}, "retry_min_wait", "at most retry_max_wait, which is 1"),
        ({"tool_choice": "required"}, "tool_choice", "there are no tools"),
        ({"extra_body": {"x": {1}}}, "extra_body.x", "of type set"),
        ({"extra_body": {1: 2}}, "extra_body", "allowed: strings as keys"),
        ({"extra_body": nested(2000)}, "extra_body.x[0]", "nested more than 100 deep"),
        ({"tools": [object()]}, "tools[0]", "of type object"),
    ],
)
def test_wrong_override(overrides: dict[str, Any], key: str, text: str) -> None:
    """An override is checked as a config is, and the error is a ValueError that names it."""
    model = settings_of(retry_min_wait=2)
    with pytest.raises(ValueError) as caught:
        model.with_overrides(**overrides)
    assert isinstance(caught.value, ConfigError)
    assert [problem.key for problem in caught.value.problems] == [key]
    assert text in str(caught.value)
    assert caught.value.path is None


def test_nothing_can_be_changed() -> None:
    """A config, its tables, its models and all that they hold refuse to change."""
    model_table = {"name": "x", "provider": "y", "tools": [edit_tool()], "extra_body": {"a": [1]}}
    config = read_config({"models": {"a": model_table}})
    model = config.models["a"]
    attempts: list[Callable[[], Any]] = [
        lambda: setattr(config, "default_model", "b"),
        lambda: setattr(model, "temperature", 1.0),
        lambda: config.models.update(b=model),  # type: ignore[attr-defined]
        lambda: config.models.__setitem__("b", model),  # type: ignore[index]
        lambda: model.tools[0]["function"].__setitem__("name", "b"),
        lambda: model.extra_body.pop("a"),  # type: ignore[attr-defined]
        lambda: model.extra_body["a"].append(2),
    ]
    for attempt in attempts:
        with pytest.raises((TypeError, ValueError, AttributeError)):
            attempt()
    assert config == read_config({"models": {"a": model_table}})


def test_settings_are_apart_from_the_callers_objects() -> None:
    """What the caller does to a dict after passing it in does not reach settings, nor thaw's back."""
    tool = edit_tool()
    model = settings_of(tools=[tool])
    tool["function"]["name"] = "other"
    thaw(model.tools)[0]["function"]["name"] = "third"
    assert model.tools[0]["function"]["name"] == "edit"
    assert thaw(model.tools) == [edit_tool()]
    assert type(thaw(model.tools)[0]) is dict


def test_copies() -> None:
    """Copies, deep ones too, are equal and as frozen."""
    model = settings_of(api_key=CANARY, tools=[edit_tool()])
    for twin in (copy.copy(model), copy.deepcopy(model)):
        assert twin == model
        assert isinstance(twin.tools[0], FrozenDict)
    assert isinstance(copy.deepcopy(model.tools)[0], FrozenDict)


@pytest.mark.parametrize(
    "one, other, same",
    [
        ({}, {}, True),
        ({"timeout": 5}, {"timeout": 5.0}, True),
        ({"tools": [edit_tool()]}, {"tools": (edit_tool(),)}, True),
        ({"temperature": 0.0}, {}, False),  # set and default differ: only a set one is dropped loudly
        ({"api_key": "a"}, {"api_key": "b"}, False),
        ({"extra_body": {"a": True}}, {"extra_body": {"a": 1}}, False),
        ({"extra_headers": {"a": "1"}}, {"extra_headers": {"a": "2"}}, False),
        ({"stop": "a"}, {"stop": ["a"]}, True),
    ],
)
def test_key_tells_settings_apart(one: dict[str, Any], other: dict[str, Any], same: bool) -> None:
    """`key()` is equal and of equal hash exactly for what makes the same requests."""
    first, second = settings_of(**one).key(), settings_of(**other).key()
    assert (first == second) is same
    assert len({first, second}) == 2 - same
    assert CANARY not in repr(settings_of(api_key=CANARY).key())
