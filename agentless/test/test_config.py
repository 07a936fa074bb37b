"""`config.toml`: what loads, what is refused and how it is told, and that keys stay unseen."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentless.config import Config, ModelSettings, load_config, read_config
from agentless.errors import ConfigError

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
        "inline_thinking": "split",
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
    "another library's name": ("rpm = 3", "rpm", 'did you mean "requests_per_minute"?'),
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
    "tool without a type": (
        'tools = [{ function = { name = "a" } }]',
        "tools[0].type",
        'missing; allowed: "function"',
    ),
    "tool's description": (
        'tools = [{ type = "function", function = { name = "a", description = 1 } }]',
        "tools[0].function.description",
        "found 1 (an integer); allowed: a string",
    ),
    "tool's strict": (
        'tools = [{ type = "function", function = { name = "a", strict = "yes" } }]',
        "tools[0].function.strict",
        "allowed: true or false",
    ),
    "tool's parameters": (
        'tools = [{ type = "function", function = { name = "a", parameters = [] } }]',
        "tools[0].function.parameters",
        "allowed: a table (a JSON Schema)",
    ),
    "date in a tool": (
        'tools = [{ type = "function", function = { name = "a", parameters = { default = 2024-06-01 } } }]',
        "tools[0].function.parameters.default",
        "found 2024-06-01 (a date)",
    ),
    "tool's key": (
        'tools = [{ type = "function", function = { name = "a", parametres = {} } }]',
        "tools[0].function.parametres",
        'did you mean "parameters"?',
    ),
    "tool's schema": (
        (
            'tools = [{ type = "function", function = { name = "a", parameters = {'
            ' type = "object", properties = { x = { type = "strin" } } } } }]'
        ),
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
    "dots in a name": (
        '[models.claude-3.5.sonnet]\nname = "x"\nprovider = "y"',
        "models.claude-3.5",
        'needs quotes: [models."claude-3.5.sonnet"]',
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


# Cost


def test_loading_and_making_a_model_import_nothing_heavy(tmp_path: Path) -> None:
    """A config with everyday tools and a model of it need neither litellm nor any other heavy package."""
    parameters = '{ type = "object", properties = { x = { type = "string" } }, required = ["x"] }'
    tool = f'{{ type = "function", function = {{ name = "a", parameters = {parameters} }} }}'
    (tmp_path / "config.toml").write_text(f"{MINIMAL}api_key = 'k'\ntools = [{tool}]\n")
    code = (
        "import sys\nfrom agentless import ModelFactory, load_config\n"
        "print(ModelFactory(load_config('config.toml')).create_model().capabilities.supports_tools)\n"
        "print(sorted({'litellm', 'openai', 'httpx', 'asyncio', 'jsonschema'} & set(sys.modules)))"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True
    )
    assert (run.stdout.strip(), run.stderr) == ("True\n[]", "")


def test_a_pipe_is_no_config(tmp_path: Path) -> None:
    """It is refused at once: to open it could wait for ever."""
    pipe = tmp_path / "config.toml"
    os.mkfifo(pipe)
    with pytest.raises(ConfigError, match="is a pipe"):
        load_config(pipe)


@pytest.mark.parametrize("key", [1, None, 2.5, b"x", ("a", 1)], ids=repr)
def test_a_key_that_is_no_text(key: Any) -> None:
    """It is told where it stands."""
    for table in ({key: 1, "models": {}}, {"models": {"m": {"name": "x", "provider": "openai", key: 1}}}):
        with pytest.raises(ConfigError, match="unknown key"):
            read_config(table)
