"""Properties of configs: any right one survives TOML, any wrong one is a ConfigError."""

import json
from typing import Any

import tomli
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from agentless.config import ModelSettings, read_config
from agentless.errors import ConfigError, Problem
from agentless.frozen import thaw
from agentless.tool_definitions import is_plain_schema

finite = st.floats(0, 1e6, allow_nan=False)
fraction = st.floats(0, 1, allow_nan=False)
text = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=20)
word = st.from_regex(r"[a-z][a-z0-9 ._/-]{0,10}[a-z0-9]", fullmatch=True)
json_values = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
tables = st.dictionaries(text, json_values, max_size=3)
tools = st.lists(
    st.fixed_dictionaries(
        {"name": st.from_regex(r"[a-zA-Z0-9_-]{1,64}", fullmatch=True)},
        optional={
            "description": text,
            "strict": st.booleans(),
            "parameters": st.just({"type": "object", "properties": {"x": {"type": "string"}}}),
        },
    ),
    max_size=3,
    unique_by=lambda function: str(function["name"]),
).map(lambda functions: [{"type": "function", "function": each} for each in functions])
REQUIRED = {"name": word, "provider": word}
OPTIONAL: dict[str, st.SearchStrategy[Any]] = {
    "api_key": st.sampled_from(["env:KEY", "literal"]),
    "base_url": st.sampled_from(["https://host/v1", "env:URL"]),
    "api_version": word,
    "custom_llm_provider": word,
    "temperature": fraction,
    "max_new_tokens": st.integers(1),
    "max_input_tokens": st.integers(1),
    "batch_size": st.integers(1),
    "top_p": fraction,
    "reasoning_effort": fraction | st.sampled_from(["none", "low", "xhigh"]),
    "seed": st.integers(),
    "stop": text | st.lists(text, max_size=4),
    "system_message": st.text(max_size=20),
    "num_retries": st.integers(0),
    "retry_min_wait": st.floats(0, 9),
    "retry_max_wait": st.floats(10, 100),
    "retry_multiplier": finite,
    "timeout": st.floats(0.001, 1e6),
    "stream_timeout": st.floats(0.001, 1e6),
    "prompt_cache": st.booleans(),
    "stream": st.booleans(),
    "inline_thinking": st.sampled_from(["split", "keep"]),
    "drop_params": st.booleans(),
    "modify_params": st.booleans(),
    "tools": tools,
    "tool_choice": st.sampled_from(["auto", "none"]),
    "response_format": tables.map(lambda table: {**table, "type": "json_object"}),
    "max_concurrency": st.integers(1),
    "requests_per_minute": st.floats(0.001, 1e6),
    "tokens_per_minute": st.integers(1, 10**9),
    "extra_headers": st.dictionaries(st.sampled_from(["X-A", "X-B"]), word),
    "extra_body": tables,
    "capabilities": st.dictionaries(word, st.booleans() | st.integers() | finite, max_size=3),
    "input_cost_per_token": finite,
    "output_cost_per_token": finite,
}
model_tables = st.fixed_dictionaries(REQUIRED, optional=OPTIONAL)


def test_every_setting_is_in_the_property() -> None:
    """The round trip below goes through every setting there is."""
    assert {*REQUIRED, *OPTIONAL} == set(ModelSettings.model_fields)


@given(st.dictionaries(text, model_tables, min_size=1, max_size=3))
@settings(max_examples=150)
def test_round_trip(models: dict[str, dict[str, Any]]) -> None:
    """Any right settings, written as TOML and loaded, are the same settings, and know what was set."""
    table = {"default_model": next(iter(models)), "models": models}
    direct = read_config(table)
    loaded = read_config(tomli.loads(toml(table)))
    assert loaded == direct
    assert {name: model.key() for name, model in loaded.models.items()} == {
        name: model.key() for name, model in direct.models.items()
    }
    for name, model in loaded.models.items():
        assert model.model_fields_set == set(models[name])
        for key in ("extra_body", "response_format", "tools"):
            if key in models[name]:
                assert thaw(getattr(model, key)) == models[name][key]


@given(st.dictionaries(text | st.sampled_from(["models", "logging", "default_model"]), json_values))
def test_any_table_is_a_config_or_a_config_error(table: dict[str, Any]) -> None:
    """Whatever is in a file, it is a config or a ConfigError with key paths, never another exception."""
    assert problems_of(table) != ()


@given(model_tables, st.sampled_from(list(ModelSettings.model_fields)), json_values)
def test_any_value_is_taken_or_refused_by_name(table: dict[str, Any], key: str, value: Any) -> None:
    """Whatever one setting is given, it is taken, or refused by its own key path."""
    good = {name: each for name, each in table.items() if name not in {"retry_min_wait", "tool_choice"}}
    problems = problems_of({"models": {"m": {**good, key: value}}}) or ()
    named = {problem.key.split(".")[2].split("[")[0] for problem in problems}
    assert named <= {key, "retry_min_wait"}  # the second is told where the two waits cross


names = st.sampled_from(["a", "b", 3])
json_schema_like = st.recursive(
    st.sampled_from([True, "string", 3]) | st.just({}),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "additionalProperties": st.sampled_from([True, "no", 1]),
            "description": names,
            "enum": st.lists(names, max_size=3) | names,
            "items": inner | st.lists(inner, max_size=2),
            "properties": st.dictionaries(word, inner, max_size=2) | names,
            "required": st.lists(names, max_size=3) | names,
            "title": names,
            "type": st.sampled_from(["object", "string", "array", "strin", 3, ["string", "null"]]),
        },
    ),
    max_leaves=6,
)


@given(json_schema_like)
@settings(max_examples=500)
def test_quick_look_at_schemas_agrees_with_jsonschema(schema: Any) -> None:
    """No schema that the quick look lets pass would have been refused by jsonschema."""
    if is_plain_schema(schema):
        Draft202012Validator.check_schema(schema)


def problems_of(table: dict[str, Any]) -> tuple[Problem, ...] | None:
    """What is wrong with a config, or None for a right one."""
    try:
        read_config(table)
    except ConfigError as error:
        return error.problems
    return None


def toml(table: dict[str, Any]) -> str:
    """A small writer of TOML: one key a line, tables inline."""
    return "".join(f"{quoted(key)} = {toml_value(value)}\n" for key, value in table.items())


def toml_value(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, float):
        digits = repr(value)
        return digits if "." in digits or "e" not in digits else digits.replace("e", ".0e")
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(key)} = {toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return str(value)


def quoted(value: str) -> str:
    """A text as a basic string of TOML."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
