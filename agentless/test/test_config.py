"""`config.toml`: what loads, what is refused and how it is told, and that keys stay unseen."""

import copy
import json
import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentless.config import Config, ModelSettings, load_config, read_config
from agentless.errors import ConfigError, CredentialError, Problem
from agentless.frozen import FrozenDict, thaw

CANARY = "sk-canary-7f3a"
MINIMAL = '[models.a]\nname = "gpt-4"\nprovider = "openai"\n'
TOOL = '{ type = "function", function = { name = "edit" } }'

Load = Callable[[str | bytes], Config]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Write a text as config.toml and load it."""

    def write_and_load(content: str | bytes) -> Config:
        file = tmp_path / "config.toml"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return load_config(file)

    return write_and_load


def settings_of(**values: Any) -> ModelSettings:
    """A model of these settings, as a config makes it."""
    return read_config({"models": {"m": {"name": "x", "provider": "openai", **values}}}).models["m"]


def repickled(value: Any) -> Any:
    """What comes out of the pickle of a value."""
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - made here


# What loads


def test_defaults_are_the_documented_ones(load: Load) -> None:
    """A model with a name and a provider alone has every other setting at its documented default."""
    model = load(MINIMAL).models["a"]
    assert {name: getattr(model, name) for name in ModelSettings.model_fields} == {
        "name": "gpt-4",
        "provider": "openai",
        "api_key": None,
        "base_url": None,
        "api_version": None,
        "custom_llm_provider": None,
        "temperature": 0.0,
        "max_new_tokens": 1024,
        "max_input_tokens": None,
        "batch_size": 1,
        "top_p": None,
        "reasoning_effort": None,
        "seed": None,
        "stop": None,
        "system_message": None,
        "num_retries": 3,
        "retry_min_wait": 4.0,
        "retry_max_wait": 10.0,
        "retry_multiplier": 2.0,
        "timeout": 100.0,
        "stream_timeout": 1000.0,
        "prompt_cache": False,
        "stream": False,
        "drop_params": True,
        "modify_params": True,
        "tools": (),
        "tool_choice": None,
        "response_format": None,
        "max_concurrency": 32,
        "requests_per_minute": None,
        "tokens_per_minute": None,
        "extra_headers": {},
        "extra_body": {},
        "capabilities": {},
        "input_cost_per_token": None,
        "output_cost_per_token": None,
    }
    assert model.model_fields_set == {"name", "provider"}


def test_whole_file(load: Load) -> None:
    """Every table is read: models, defaults beneath them, logging, budget, and the default model."""
    config = load(
        'default_model = "b"\n[defaults]\nprovider = "openai"\ntemperature = 0.5\n'
        '[models.a]\nname = "x"\n[models.b]\nname = "y"\ntemperature = 1\n'
        '[logging]\nlevel = "warn"\nfile = "out.log"\n[budget]\nmax_cost = 2.5\n'
    )
    assert config.default_model == "b"
    assert [(model.name, model.temperature) for model in config.models.values()] == [("x", 0.5), ("y", 1.0)]
    assert config.models["a"].model_fields_set == {"name", "provider", "temperature"}
    assert config.logging is not None
    assert (config.logging.level, config.logging.file) == ("WARNING", "out.log")
    assert config.budget.max_cost == 2.5
    assert config.path is not None
    assert config.path.name == "config.toml"


def test_without_logging_and_budget(load: Load) -> None:
    """Without their tables there is no logging to set up and no limit to spending."""
    config = load(MINIMAL)
    assert config.logging is None
    assert config.budget.max_cost is None


def test_only_model_is_the_default(load: Load) -> None:
    """`default_model` may be left out where there is one model."""
    assert load(MINIMAL).default_model == "a"


def test_path_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path may be a str, relative to the working directory."""
    (tmp_path / "config.toml").write_text(MINIMAL)
    monkeypatch.chdir(tmp_path)
    assert load_config("config.toml").default_model == "a"


@pytest.mark.parametrize("path", [None, 3, b"config.toml", ["config.toml"]])
def test_path_of_another_type(path: Any) -> None:
    """Anything but a str or a Path is a TypeError, which says what it was."""
    with pytest.raises(TypeError, match=r"a str or a Path, not .*(nothing|integer|bytes|list)"):
        load_config(path)


def test_byte_order_mark(load: Load) -> None:
    """A file that begins with a UTF-8 byte order mark loads."""
    assert load(b"\xef\xbb\xbf" + MINIMAL.encode()).default_model == "a"


SPECIFICATION = {
    "structure": 'default_model = "gpt-4"\n[models.gpt-4]\nname = "gpt-4"\nprovider = "openai"\n'
    '# ... model-specific settings\n[logging]\nlevel = "INFO"\n'
    'format = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"\n',
    "gpt-4": '[models.gpt-4]\nname = "gpt-4"\nprovider = "openai"\napi_key = "env:OPENAI_API_KEY"\n'
    "temperature = 0.0\nmax_new_tokens = 1024\nmax_input_tokens = 8192\n",
    "claude-3": '[models.claude-3]\nname = "claude-3-sonnet-20240229"\nprovider = "anthropic"\n'
    'api_key = "env:ANTHROPIC_API_KEY"\ntemperature = 0.0\nmax_new_tokens = 4096\n'
    "max_input_tokens = 200000\nprompt_cache = true\ntools = [\n"
    '    { type = "function", function = { name = "str_replace_editor" } }\n]\n',
    "o3-mini": '[models.o3-mini]\nname = "o3-mini"\nprovider = "openai"\n'
    'api_key = "env:OPENAI_API_KEY"\nreasoning_effort = 0.5\nmax_new_tokens = 4096\n',
}


@pytest.mark.parametrize("text", SPECIFICATION.values(), ids=SPECIFICATION)
def test_examples_of_the_specification(load: Load, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The specification's configs load as they are written, with no key in the environment."""
    for variable in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    assert load(text).models


def test_tools_as_tables(load: Load) -> None:
    """`[[models.a.tools]]` and an inline list are the same tools."""
    tables = MINIMAL + (
        '[[models.a.tools]]\ntype = "function"\n[models.a.tools.function]\nname = "edit"\n'
        '[models.a.tools.function.parameters]\ntype = "object"\n'
        'properties = { path = { type = "string" } }\nrequired = ["path"]\n'
    )
    inline = MINIMAL + (
        'tools = [{ type = "function", function = { name = "edit", parameters = { type = "object", '
        'properties = { path = { type = "string" } }, required = ["path"] } } }]\n'
    )
    assert load(tables).models["a"].tools == load(inline).models["a"].tools


@pytest.mark.parametrize(
    "values, low, high",
    [
        ({"retry_max_wait": 0.1}, 0.1, 0.1),
        ({"retry_min_wait": 20}, 20, 20),
        ({"retry_min_wait": 5}, 5, 10),
        ({"retry_max_wait": 0}, 0, 0),
    ],
)
def test_one_wait_pulls_the_other_along(values: dict[str, float], low: float, high: float) -> None:
    """Who sets one of the two waits is not held to the other's default, nor said to have set it."""
    model = settings_of(**values)
    assert (model.retry_min_wait, model.retry_max_wait) == (low, high)
    assert model.model_fields_set == {"name", "provider", *values}


def test_stream_timeout_follows_timeout() -> None:
    """A whole stream may take ten times `timeout`, unless it is set."""
    assert settings_of(timeout=5).stream_timeout == 50
    assert settings_of(timeout=5, stream_timeout=7).stream_timeout == 7
    assert settings_of(timeout=5).with_overrides(timeout=1).stream_timeout == 10


@pytest.mark.parametrize("stop, kept", [("END", ("END",)), (["a", "b"], ("a", "b")), ([], ())])
def test_stop_is_a_tuple(stop: Any, kept: tuple[str, ...]) -> None:
    """One stop word or a list of them is kept as a tuple."""
    assert settings_of(stop=stop).stop == kept


# What is refused

MODEL_CASES: dict[str, tuple[str, str, str]] = {
    # name: (line in [models.a], key path, what the text has to say)
    "temperature a string": (
        'temperature = "hot"',
        "temperature",
        'found "hot" (a string); allowed: a number',
    ),
    "temperature too high": (
        "temperature = 1.5",
        "temperature",
        "found 1.5 (a float); allowed: a number from",
    ),
    "temperature negative": ("temperature = -0.1", "temperature", "from 0.0 to 1.0"),
    "temperature true": ("temperature = true", "temperature", "found true (a boolean)"),
    "temperature nan": ("temperature = nan", "temperature", "not a finite number"),
    "temperature a date": ("temperature = 2024-06-01", "temperature", "found 2024-06-01 (a date)"),
    "temperature misspelt": ("temprature = 0.5", "temprature", 'did you mean "temperature"?'),
    "top_p": ("top_p = 2", "top_p", "found 2 (an integer); allowed: a number from 0.0 to 1.0"),
    "max_new_tokens zero": ("max_new_tokens = 0", "max_new_tokens", "an integer, 1 or more"),
    "max_new_tokens a float": ("max_new_tokens = 1.0", "max_new_tokens", "found 1.0 (a float)"),
    "max_tokens": ("max_tokens = 100", "max_tokens", 'did you mean "max_new_tokens"?'),
    "max_input_tokens": ('max_input_tokens = "8k"', "max_input_tokens", 'found "8k" (a string)'),
    "batch_size": ("batch_size = 0", "batch_size", "an integer, 1 or more"),
    "effort a number": ("reasoning_effort = 1.01", "reasoning_effort", 'or one of "none", "minimal"'),
    "effort a word": ('reasoning_effort = "hihg"', "reasoning_effort", 'found "hihg"'),
    "effort true": ("reasoning_effort = true", "reasoning_effort", "found true"),
    "num_retries true": ("num_retries = true", "num_retries", "found true (a boolean); allowed: an integer"),
    "num_retries negative": ("num_retries = -1", "num_retries", "0 or more"),
    "max_retries": ("max_retries = 1", "max_retries", 'did you mean "num_retries"?'),
    "waits crossed": ("retry_min_wait = 5\nretry_max_wait = 1", "retry_min_wait", "at most retry_max_wait"),
    "wait negative": ("retry_min_wait = -1", "retry_min_wait", "seconds, 0 or more"),
    "wait infinite": ("retry_max_wait = inf", "retry_max_wait", "found inf (not a finite number)"),
    "multiplier": ('retry_multiplier = "2"', "retry_multiplier", 'found "2" (a string)'),
    "timeout zero": ("timeout = 0", "timeout", "a number of seconds above 0"),
    "timeout infinite": ("timeout = inf", "timeout", "a number of seconds above 0"),
    "stream_timeout": ("stream_timeout = 0.0", "stream_timeout", "above 0"),
    "stream yes": ('stream = "yes"', "stream", 'found "yes" (a string); allowed: true or false'),
    "prompt_cache one": ("prompt_cache = 1", "prompt_cache", "true or false"),
    "drop_params": ("drop_params = 0", "drop_params", "true or false"),
    "modify_params": ('modify_params = "no"', "modify_params", "true or false"),
    "stop a number": ("stop = 3", "stop", "a string or a list of strings"),
    "stop with a number": ('stop = ["a", 3]', "stop[1]", "found 3 (an integer)"),
    "stop empty": ('stop = ""', "stop", "none of them empty"),
    "seed": ("seed = 1.5", "seed", "an integer"),
    "system_message": ("system_message = 1", "system_message", "a string"),
    "provider a list": ('provider = ["openai"]', "provider", "found a list"),
    "name empty": ('name = ""', "name", 'found "" (a string)'),
    "name from the environment": ('name = "env:MODEL"', "name", "env: is for api_key"),
    "base_url without a scheme": (
        'base_url = "localhost:8000/v1"',
        "base_url",
        "without http:// or https://",
    ),
    "base_url a port too far": ('base_url = "http://host:99999"', "base_url", "no address"),
    "api_version a date": ("api_version = 2024-06-01", "api_version", "found a date; allowed: a string"),
    "api_key a number": ("api_key = 12345", "api_key", "found an integer; allowed: a key"),
    "api_key empty": ('api_key = ""', "api_key", "found an empty string"),
    "api_key with a line break": ('api_key = "abc\\n"', "api_key", "control characters"),
    "env without a name": ('api_key = "env:"', "api_key", 'an "env:" without the name of a variable'),
    "env with a space": ('api_key = "env: MY_KEY"', "api_key", 'did you mean "env:MY_KEY"?'),
    "env in capitals": ('api_key = "ENV:MY_KEY"', "api_key", 'did you mean "env:MY_KEY"?'),
    "env starting with a digit": ('api_key = "env:1KEY"', "api_key", "letters, digits and _"),
    "shell variable": ('api_key = "${MY_KEY}"', "api_key", 'did you mean "env:MY_KEY"?'),
    "headers a list": ('extra_headers = ["x"]', "extra_headers", "a table of header names"),
    "header a number": ("extra_headers = { x = 1 }", "extra_headers.x", "found an integer"),
    "header's name": ('extra_headers = { "a b" = "1" }', 'extra_headers."a b"', "not a header's name"),
    "extra_body": ("extra_body = 3", "extra_body", "found 3 (an integer); allowed: a table"),
    "date in extra_body": (
        "extra_body = { a = { b = [1, 2024-06-01] } }",
        "extra_body.a.b[1]",
        "found 2024-06-01 (a date)",
    ),
    "nan in extra_body": ("extra_body = { a = nan }", "extra_body.a", "not a finite number"),
    "capabilities": ('capabilities = { tools = "yes" }', "capabilities.tools", "true, false or a number"),
    "response_format": ("response_format = {}", "response_format.type", "missing; allowed: a string"),
    "concurrency": ("max_concurrency = 0", "max_concurrency", "an integer, 1 or more"),
    "rate": ("requests_per_minute = 0", "requests_per_minute", "above 0"),
    "price": ("input_cost_per_token = -1", "input_cost_per_token", "USD for one token"),
    "tools a table": ("tools = {}", "tools", "found a table; allowed: a list of function tools"),
    "tool of another type": (
        'tools = [{ type = "web" }]',
        "tools[0].type",
        'found "web" (a string); allowed',
    ),
    "tool without a function": ('tools = [{ type = "function" }]', "tools[0].function", "missing; allowed"),
    "tool's name": (
        'tools = [{ type = "function", function = { name = "a b" } }]',
        "tools[0].function.name",
        'found "a b" (a string); allowed: 1 to 64 letters',
    ),
    "tool's key": (
        'tools = [{ type = "function", function = { name = "a", parametres = {} } }]',
        "tools[0].function.parametres",
        'did you mean "parameters"?',
    ),
    "tool's schema": (
        'tools = [{ type = "function", function = { name = "a", parameters = { type = "object", '
        'properties = { x = { type = "strin" } } } } }]',
        "tools[0].function.parameters.properties.x.type",
        "not a JSON Schema: 'strin'",
    ),
    "tool's schema a string": (
        'tools = [{ type = "function", function = { name = "a", parameters = { type = "string" } } }]',
        "tools[0].function.parameters.type",
        'allowed: "object"',
    ),
    "tools of one name": (
        f"tools = [{TOOL}, {TOOL}]",
        "tools[1].function.name",
        "a tool before has the same",
    ),
    "tool_choice": ('tool_choice = "any"', "tool_choice", 'found "any" (a string); allowed: "auto", "none"'),
    "tool_choice without tools": ('tool_choice = "required"', "tool_choice", "there are no tools"),
    "tool_choice of another": (
        f"tools = [{TOOL}]\n" + 'tool_choice = { type = "function", function = { name = "edti" } }',
        "tool_choice.function.name",
        'found "edti" (a string); allowed: "edit"',
    ),
    "default_model in a table": ('default_model = "a"', "default_model", "top of the file"),
}


@pytest.mark.parametrize("line, key, text", MODEL_CASES.values(), ids=MODEL_CASES)
def test_wrong_setting(load: Load, line: str, key: str, text: str) -> None:
    """A wrong setting is one ConfigError naming the file, the key path, what was found and is allowed."""
    given_keys = {part.split(" = ")[0] for part in line.splitlines()}
    rest = "".join(f'{name} = "x"\n' for name in ("name", "provider") if name not in given_keys)
    with pytest.raises(ConfigError) as caught:
        load(f"[models.a]\n{rest}{line}\n")
    assert "config.toml" in str(caught.value)
    assert [problem.key for problem in caught.value.problems] == [f"models.a.{key}"], str(caught.value)
    assert text in caught.value.problems[0].message
    assert caught.value.__context__ is None


FILE_CASES: dict[str, tuple[str | bytes, str, str]] = {
    "empty": ("", "", "is empty"),
    "only spaces": ("\n \n", "", "is empty"),
    "only a comment": ("# nothing\n", "models", "at least one [models.<name>] table"),
    "broken": ("a = 1\n[models\n", "", "(line 2, column"),
    "twice the same key": ("a = 1\na = 2\n", "", "(line 2, column"),
    "null": (MINIMAL + "seed = null\n", "", "(line 4, column 8)"),
    "not UTF-8": (MINIMAL.encode() + b'seed = "\xff"', "", "is not UTF-8 (line 4: byte 0xff)"),
    "UTF-16": (MINIMAL.encode("utf-16"), "", "is not UTF-8 (line 1: UTF-16)"),
    "an endless integer": (MINIMAL + "seed = " + "9" * 5000, "", "is not TOML"),
    "models a string": ('models = "gpt-4"', "models", 'found "gpt-4" (a string); allowed: [models.<name>]'),
    "models a list": ('[[models]]\nname = "x"', "models", "found a list; allowed: [models.<name>] tables"),
    "no name under models": ('[models]\nname = "x"', "models.name", "allowed: a [models.<name>] table"),
    "a model a list": (
        '[[models.a]]\nname = "x"',
        "models.a",
        "found a list; allowed: a [models.<name>] table",
    ),
    "no models": ("[logging]\n", "models", "at least one [models.<name>] table"),
    "settings without a table": ('name = "x"\n', "name", "in [models.<name>] or in [defaults]"),
    "a dot in a name": (
        '[models.gpt-4.1]\nname = "x"\nprovider = "openai"',
        "models.gpt-4.1",
        'needs quotes: [models."gpt-4.1"]',
    ),
    "unknown table": (MINIMAL + "[loging]", "loging", 'unknown key; did you mean "logging"?'),
    "unknown default": (
        'default_model = "b"\n' + MINIMAL,
        "default_model",
        'found "b" (a string); allowed: "a"',
    ),
    "default a number": ("default_model = 4\n" + MINIMAL, "default_model", "found 4 (an integer)"),
    "default needed": (
        MINIMAL + '[models.b]\nname = "x"\nprovider = "openai"',
        "default_model",
        'missing, and there are several models; allowed: "a", "b"',
    ),
    "defaults a list": (
        "defaults = []\n" + MINIMAL,
        "defaults",
        "found [] (a list); allowed: a [defaults] table",
    ),
    "wrong in defaults": ("[defaults]\ntimeout = 0\n" + MINIMAL, "defaults.timeout", "seconds above 0"),
    "unknown in defaults": ("[defaults]\ntime_out = 1\n" + MINIMAL, "defaults.time_out", 'mean "timeout"?'),
    "unused wrong default": (
        "[defaults]\ntimeout = 0\n" + MINIMAL + "timeout = 1",
        "defaults.timeout",
        "seconds above 0",
    ),
    "wait crossed by a default": (
        "[defaults]\nretry_min_wait = 5\n" + MINIMAL + "retry_max_wait = 1",
        "models.a.retry_min_wait",
        "at most retry_max_wait",
    ),
    "level": (MINIMAL + '[logging]\nlevel = "LOUD"', "logging.level", 'allowed: one of "DEBUG", "INFO"'),
    "level a number": (MINIMAL + "[logging]\nlevel = 10", "logging.level", "found 10 (an integer)"),
    "format's style": (MINIMAL + "[logging]\nformat = '{message}'", "logging.format", "Invalid format"),
    "format's field": (
        MINIMAL + "[logging]\nformat = '%(mesage)s'",
        "logging.format",
        "'mesage'; allowed: a format",
    ),
    "format's type": (MINIMAL + "[logging]\nformat = '%(message)d'", "logging.format", "allowed: a format"),
    "logging's key": (MINIMAL + "[logging]\nlevl = 'INFO'", "logging.levl", 'did you mean "level"?'),
    "logging a string": ("logging = 'INFO'\n" + MINIMAL, "logging", "allowed: a [logging] table"),
    "budget zero": (MINIMAL + "[budget]\nmax_cost = 0", "budget.max_cost", "USD, a number above 0"),
    "budget infinite": (MINIMAL + "[budget]\nmax_cost = inf", "budget.max_cost", "found inf"),
}


@pytest.mark.parametrize("content, key, text", FILE_CASES.values(), ids=FILE_CASES)
def test_wrong_file(load: Load, content: str | bytes, key: str, text: str) -> None:
    """A wrong file is one ConfigError naming the file, where the problem is, and what is allowed."""
    with pytest.raises(ConfigError) as caught:
        load(content)
    assert "config.toml" in str(caught.value)
    assert [problem.key for problem in caught.value.problems] == [key], str(caught.value)
    assert text in caught.value.problems[0].message
    assert caught.value.__context__ is None


def test_all_problems_at_once(load: Load) -> None:
    """One error tells all that is wrong in a file, each in a line of its own, in the order found."""
    with pytest.raises(ConfigError) as caught:
        load(
            'default_model = "c"\nmodles = 1\n[models.a]\nname = "x"\ntemperature = 2\nretry_min_wait = 5\n'
            'retry_max_wait = 1\n[models."b.1"]\nname = "x"\nprovider = "y"\nstream = 1\n'
            '[logging]\nlevel = "x"\n[budget]\nmax_cots = 1\n'
        )
    keys = [problem.key for problem in caught.value.problems]
    assert keys == [
        "modles",
        "models.a.provider",
        "models.a.temperature",
        "models.a.retry_min_wait",
        'models."b.1".stream',
        "default_model",
        "logging.level",
        "budget.max_cots",
    ]
    assert str(caught.value).count("\n  ") == len(keys) == 8


def test_default_is_told_once(load: Load) -> None:
    """A wrong value in [defaults] is one problem, however many models it is beneath."""
    models = "".join(f'[models.m{n}]\nname = "x"\nprovider = "y"\n' for n in range(5))
    with pytest.raises(ConfigError) as caught:
        load('default_model = "m0"\n[defaults]\ntimeout = "x"\n' + models)
    assert [problem.key for problem in caught.value.problems] == ["defaults.timeout"]


@pytest.mark.parametrize(
    "make, text",
    [
        (lambda folder: folder / "none.toml", "there is no such file"),
        (lambda folder: folder / "no" / "folder.toml", "does not exist either"),
        (lambda folder: folder, "is a directory"),
        (lambda folder: folder / "nul\0l.toml", "cannot be read"),
    ],
)
def test_unreadable_path(tmp_path: Path, make: Callable[[Path], Path], text: str) -> None:
    """A path that is no readable file is a ConfigError with the path and the reason."""
    path = make(tmp_path)
    with pytest.raises(ConfigError, match=text) as caught:
        load_config(path)
    assert caught.value.path == path


def test_permission_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that may not be read is told as such (by a stand-in: tests may run as root)."""

    def denied(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(ConfigError, match="permission denied"):
        load_config(tmp_path / "config.toml")


@pytest.mark.parametrize("brackets", ["[" * 5000 + "]" * 5000, "{a=" * 500 + "1" + "}" * 500])
def test_endless_nesting(load: Load, brackets: str) -> None:
    """Nesting without end is a ConfigError, not a RecursionError."""
    with pytest.raises(ConfigError):
        load(MINIMAL + f"extra_body = {{ x = {brackets} }}\n")


# Keys stay unseen


@pytest.fixture
def secretive() -> Config:
    """A config with the canary everywhere that a key can be."""
    model = {
        "name": "x",
        "provider": "openai",
        "api_key": CANARY,
        "base_url": f"https://user:{CANARY}@host:8000/v1?key={CANARY}",
        "extra_headers": {"Authorization": f"Bearer {CANARY}"},
        "extra_body": {"key": CANARY},
    }
    return read_config({"models": {"a": model}})


def test_no_key_in_any_text(secretive: Config) -> None:
    """A literal key is in no repr, str or key of a config, its settings or its credentials."""
    model = secretive.models["a"]
    credentials = model.resolve(model="a")
    for value in (secretive, model, model.api_key, model.extra_headers, credentials, [credentials]):
        assert CANARY not in f"{value!r} {value}"
    assert CANARY not in repr(
        {name: value for name, value in model if name not in {"base_url", "extra_body"}}
    )
    assert "host:8000/v1" in repr(model)
    assert "Authorization" in repr(model)


def test_no_key_in_a_dump(secretive: Config) -> None:
    """A dump of settings, to Python or JSON, shows no key."""
    hidden = {"models": {"a": {"extra_body"}}}  # told in the README: extra_body is data
    assert CANARY not in repr(secretive.model_dump(exclude=hidden))
    assert CANARY not in secretive.model_dump_json(exclude=hidden)


@pytest.mark.parametrize(
    "values",
    [
        {"api_key": CANARY},
        {"base_url": f"https://user:{CANARY}@host"},
        {"base_url": f"https://host?key={CANARY}"},
        {"extra_headers": {"Authorization": CANARY}},
    ],
    ids=" ".join,
)
def test_literal_key_is_not_pickled(values: dict[str, Any]) -> None:
    """Pickling settings with a key in them is an error that says to use env:."""
    with pytest.raises(pickle.PicklingError, match="env:VARIABLE") as caught:
        pickle.dumps(settings_of(**values))
    assert CANARY not in str(caught.value)


def test_credentials_are_not_pickled() -> None:
    """What was looked up in the environment never gets into a pickle."""
    model = settings_of(api_key="env:K")
    with pytest.raises(pickle.PicklingError, match="env:VARIABLE"):
        pickle.dumps(model.resolve(model="m", environ={"K": CANARY}))


def test_references_are_pickled(load: Load) -> None:
    """A config with env: references comes through a pickle whole, references included."""
    config = load(
        MINIMAL + 'api_key = "env:K"\nextra_headers = { x = "env:H" }\n'
        f'stop = ["a"]\ntools = [{TOOL}]\ncapabilities = {{ tools = true }}\n'
    )
    twin = repickled(config)
    assert twin == config
    assert twin.models["a"].key() == config.models["a"].key()
    assert twin.models["a"].model_fields_set == config.models["a"].model_fields_set
    with pytest.raises(TypeError):
        twin.models["a"].extra_headers["x"] = "y"


@pytest.mark.parametrize(
    "line",
    [
        f'api_key = "{CANARY}"\ntemperature = 2',
        f'api_key = ["{CANARY}"]',
        f'api_key = "{CANARY}\\n"',
        f'api_key = "env:{CANARY}"',
        f'api_kye = "{CANARY}"',
        f'base_url = "user:{CANARY}@host"',
        f'api_version = ["{CANARY}"]',
        f'extra_headers = "{CANARY}"',
        f'extra_headers = {{ x = ["{CANARY}"] }}',
        f'name = ["{CANARY}"]',
        f'temperature = "{CANARY}"',
        f'api_key = "{CANARY}',
        f'api_key = "{CANARY}" "',
        f'[models]\napi_key = "{CANARY}"',
        f'[models.b]\nname = "x"\nprovider = "y"\n[defaults]\napi_key = "{CANARY}"\ntimeout = 0',
    ],
)
def test_no_key_in_an_error(load: Load, line: str) -> None:
    """No ConfigError shows a key: in its text, its traceback, its parts or its pickle."""
    with pytest.raises(ConfigError) as caught:
        load(MINIMAL + line + "\n")
    error = caught.value
    assert CANARY not in "".join(traceback.format_exception(error))
    assert CANARY not in repr(error.problems)
    assert CANARY.encode() not in pickle.dumps(error)
    assert error.__cause__ is None
    assert error.__context__ is None


def test_no_key_in_an_error_of_a_direct_construction() -> None:
    """Settings made without a config do not show a key either, when they are refused."""
    with pytest.raises(ValueError) as caught:
        ModelSettings(name="x", provider="y", api_key=CANARY, temperature=3)  # type: ignore[arg-type]
    assert CANARY not in str(caught.value)


# env:


def test_references_are_resolved_on_demand() -> None:
    """env: references are looked up by `resolve`, in all four places, and stay references in settings."""
    model = settings_of(
        api_key="env:K", base_url="env:U", api_version="env:V", extra_headers={"A": "env:H", "B": "plain"}
    )
    environ = {"K": " key\n", "U": "https://host/v1", "V": "2024-06-01", "H": "secret"}
    credentials = model.resolve(model="m", environ=environ)
    assert credentials.api_key == "key"
    assert credentials.base_url == "https://host/v1"
    assert credentials.api_version == "2024-06-01"
    assert credentials.extra_headers == {"A": "secret", "B": "plain"}
    assert set(credentials.secrets()) == {"key", "secret", "plain"}
    assert "env:K" in repr(model)


def test_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without another place to look, variables are those of the process at that moment."""
    model = settings_of(api_key="env:AGENTLESS_TEST_KEY")
    monkeypatch.setenv("AGENTLESS_TEST_KEY", "now")
    assert model.resolve(model="m").api_key == "now"


def test_nothing_to_resolve() -> None:
    """Where there is no key there is none: the provider's usual variable is another's business."""
    credentials = settings_of().resolve(model="m", environ={})
    assert (credentials.api_key, credentials.base_url, credentials.secrets()) == (None, None, ())


@pytest.mark.parametrize(
    "values, environ, key, text",
    [
        ({"api_key": "env:K"}, {}, "api_key", "K is not set"),
        ({"api_key": "env:K"}, {"K": ""}, "api_key", "K is empty"),
        ({"api_key": "env:K"}, {"K": " \n"}, "api_key", "K is empty"),
        ({"api_key": "env:K"}, {"K": f"{CANARY}\n{CANARY}"}, "api_key", "K has control characters in it"),
        ({"base_url": "env:K"}, {"K": CANARY}, "base_url", "K does not hold an http:// or https:// address"),
        ({"api_version": "env:K"}, {}, "api_version", "K is not set"),
        ({"extra_headers": {"x-a": "env:K"}}, {}, "extra_headers.x-a", "K is not set"),
    ],
)
def test_missing_variable(values: dict[str, Any], environ: dict[str, str], key: str, text: str) -> None:
    """A variable that is not there is a CredentialError with variable, key path and model, not the key."""
    with pytest.raises(CredentialError, match=text) as caught:
        settings_of(**values).resolve(model="gpt-4.1", environ=environ)
    assert f'models."gpt-4.1".{key}:' in str(caught.value)
    assert (caught.value.model, caught.value.variable) == ("gpt-4.1", "K")
    assert CANARY not in str(caught.value)


# Overrides


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


def edit_tool() -> dict[str, Any]:
    """A tool's definition, new every time."""
    return {"type": "function", "function": {"name": "edit", "parameters": {"type": "object"}}}


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


# Frozen


def test_nothing_can_be_changed(load: Load) -> None:
    """A config, its tables, its models and all that they hold refuse to change."""
    config = load(MINIMAL + f"tools = [{TOOL}]\nextra_body = {{ a = [1] }}\n")
    model = config.models["a"]
    attempts: list[Callable[[], Any]] = [
        lambda: setattr(config, "default_model", "b"),
        lambda: setattr(model, "temperature", 1.0),
        lambda: config.models.update(b=model),  # type: ignore[attr-defined]
        lambda: config.models.__setitem__("b", model),  # type: ignore[attr-defined]
        lambda: model.tools[0]["function"].__setitem__("name", "b"),
        lambda: model.extra_body.pop("a"),  # type: ignore[attr-defined]
        lambda: model.extra_body["a"].append(2),
    ]
    for attempt in attempts:
        with pytest.raises((TypeError, ValueError, AttributeError)):
            attempt()
    assert config == load(MINIMAL + f"tools = [{TOOL}]\nextra_body = {{ a = [1] }}\n")


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


# Properties

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
    ).map(lambda function: {"type": "function", "function": function}),
    max_size=3,
    unique_by=lambda tool: tool["function"]["name"],
)
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
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=150)
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
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_any_table_is_a_config_or_a_config_error(table: dict[str, Any]) -> None:
    """Whatever is in a file, it is a config or a ConfigError with key paths, never another exception."""
    assert problems_of(table) != ()


@given(model_tables, st.sampled_from(list(ModelSettings.model_fields)), json_values)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_any_value_is_taken_or_refused_by_name(table: dict[str, Any], key: str, value: Any) -> None:
    """Whatever one setting is given, it is taken, or refused by its own key path."""
    good = {name: each for name, each in table.items() if name not in {"retry_min_wait", "tool_choice"}}
    problems = problems_of({"models": {"m": {**good, key: value}}}) or ()
    named = {problem.key.split(".")[2].split("[")[0] for problem in problems}
    assert named <= {key, "retry_min_wait"}  # the second is told where the two waits cross


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


# Cost


def test_loading_imports_nothing_heavy(tmp_path: Path) -> None:
    """Loading a config without tools or logging imports neither litellm nor any other heavy package."""
    (tmp_path / "config.toml").write_text(MINIMAL)
    code = (
        "import sys\nfrom agentless.config import load_config\nload_config('config.toml')\n"
        "print(sorted({'litellm', 'openai', 'httpx', 'asyncio', 'jsonschema'} & set(sys.modules)))"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True
    )
    assert (run.stdout.strip(), run.stderr) == ("[]", "")
