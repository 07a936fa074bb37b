"""Keys stay unseen, and `env:` references are looked up when they are needed."""

import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentless.config import Config, ModelSettings, load_config, read_config
from agentless.errors import ConfigError, CredentialError

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
        ModelSettings(name="x", api_key=CANARY)  # type: ignore[call-arg, arg-type]
    assert CANARY not in str(caught.value)


# env:


def test_references_are_resolved_on_demand() -> None:
    """env: references are looked up by `resolve`, in all four places, and stay references in settings."""
    model = settings_of(
        api_key="env:K", base_url="env:U", api_version="env:V", extra_headers={"A": "env:H", "B": "plain"}
    )
    environ = {"K": " key\n", "U": "https://host/v1", "V": "2024-06-01", "H": "secret-token"}
    credentials = model.resolve(model="m", environ=environ)
    assert credentials.api_key == "key"
    assert credentials.base_url == "https://host/v1"
    assert credentials.api_version == "2024-06-01"
    assert credentials.extra_headers == {"A": "secret-token", "B": "plain"}
    assert set(map(str, credentials.secrets())) == {"key", "secret-token"}
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
