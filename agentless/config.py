"""`config.toml`, read and checked: what is wrong is told at once, with key paths; keys stay unseen.

    config = load_config("config.toml")
    config.models["gpt-4"].temperature

What a key may be is said in `settings.py`. Nothing here looks into the environment or imports litellm.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator

from agentless import problems
from agentless.credentials import Credentials, Secret, hide_keys
from agentless.errors import ConfigError, Problem
from agentless.frozen import FrozenDict
from agentless.problems import Finding, did_you_mean, found, key_path, kind_of, listed
from agentless.settings import BudgetSettings, LoggingSettings, ModelSettings, SettingsTable

__all__ = [
    "BudgetSettings",
    "Config",
    "ConfigError",
    "Credentials",
    "LoggingSettings",
    "ModelSettings",
    "Secret",
    "load_config",
    "read_config",
]

_TABLES = ("models", "defaults", "logging", "budget")
_KEYS = ("default_model", *_TABLES)
Section = TypeVar("Section", bound=SettingsTable)


class Config(SettingsTable):
    """A whole config, immutable.

    `default_model` is the name in `models` that is used where none is given. `logging` is `None` without
    a `[logging]` table, `path` is `None` for a config that was not read from a file.
    """

    default_model: str
    models: Annotated[Mapping[str, ModelSettings], AfterValidator(FrozenDict)]
    logging: LoggingSettings | None = None
    budget: BudgetSettings = BudgetSettings()
    path: Path | None = None


def load_config(path: str | os.PathLike[str]) -> Config:
    """Read a config file in TOML.

    Args:
        path: The file, relative to the working directory.

    Raises:
        ConfigError: The file cannot be read, is not TOML, or holds wrong settings; `problems` has all.
        TypeError: `path` is neither a `str` nor a `Path`.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"load_config takes the path of a file, a str or a Path, not {found(path)[6:]}")
    file = Path(path)
    # The errors are made here, outside of any except block: the parser's own hold the file's text, in
    # which there may be keys, and would come along as context.
    text = _text(file)
    if isinstance(text, Problem):
        raise ConfigError.of([text], file)
    table = _table(text)
    text = ""  # a traceback with its variables would show the keys in it
    if isinstance(table, Problem):
        raise ConfigError.of([table], file)
    return read_config(table, path=file)


def read_config(table: Mapping[str, Any], *, path: Path | None = None) -> Config:
    """Check a config that is already a dict, such as a test's or a notebook's.

    Args:
        table: What the TOML file would hold.
        path: The file it came from, for errors and `Config.path`.

    Raises:
        ConfigError: With everything that is wrong.
    """
    if not isinstance(table, Mapping):
        raise TypeError(f"read_config takes a dict, not {found(table)[6:]}")
    table = hide_keys(table)
    findings: list[Finding] = list(_top_findings(table))
    sections = {name: _subtable(table, name, findings) for name in _TABLES}
    models = _models(sections["models"], sections["defaults"], findings)
    names = tuple(map(str, sections["models"]))
    if not names and not findings:
        findings.append((("models",), _no_models(table)))
    default = table.get("default_model", names[0] if len(names) == 1 else None)
    if names:
        findings += _default_findings(default, names)
    logging = _section(LoggingSettings, "logging", sections, findings) if "logging" in table else None
    budget = _section(BudgetSettings, "budget", sections, findings)
    if findings or budget is None:
        told = dict.fromkeys(Problem(key_path(where), text) for where, text in findings)
        raise ConfigError.of(told, path)
    return Config(default_model=default, models=models, logging=logging, budget=budget, path=path)


def _text(file: Path) -> str | Problem:
    try:
        if file.is_fifo():  # opening it could wait for ever
            return Problem("", "is a pipe; allowed: a TOML file")
        content = file.read_bytes()
    except FileNotFoundError:
        return Problem("", f"there is no such file (in {_folder(file)})")
    except IsADirectoryError:
        return Problem("", "is a directory; allowed: a TOML file")
    except PermissionError:
        return Problem("", "may not be read: permission denied")
    except (OSError, ValueError) as error:
        return Problem("", f"cannot be read: {error}")
    try:
        return content.decode("utf-8-sig")  # editors on Windows begin a file with a byte order mark
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        what = "UTF-16" if content[:2] in {b"\xff\xfe", b"\xfe\xff"} else f"byte 0x{content[error.start]:02x}"
        return Problem("", f"is not UTF-8 (line {line}: {what}); allowed: a TOML file, saved as UTF-8")


def _folder(file: Path) -> Path | str:
    folder = file.parent
    try:
        return folder.resolve() if folder.is_dir() else f"{folder}, which does not exist either"
    except OSError:
        return folder


def _table(text: str) -> dict[str, Any] | Problem:
    import tomli

    if not text.strip():
        return Problem("", "is empty; allowed: at least one [models.<name>] table")
    try:
        return hide_keys(tomli.loads(text))  # type: ignore[no-any-return]  # a dict of its own kind
    except tomli.TOMLDecodeError as error:
        return Problem("", f"is not TOML: {error.msg} (line {error.lineno}, column {error.colno})")
    except RecursionError:
        return Problem("", "is nested too deeply")
    except ValueError as error:  # an integer of more than 4300 digits
        return Problem("", f"is not TOML: {error}")


def _top_findings(table: Mapping[str, Any]) -> Iterator[Finding]:
    for key in table:
        if key in _KEYS:
            continue
        if key in ModelSettings.model_fields:
            yield (key,), "is a model's setting; allowed: in [models.<name>] or in [defaults]"
        else:
            yield (key,), problems.unknown_key(str(key), _KEYS)


def _subtable(table: Mapping[str, Any], name: str, findings: list[Finding]) -> Mapping[str, Any]:
    value = table.get(name, {})
    if isinstance(value, Mapping):
        return value
    shape = "[models.<name>] tables" if name == "models" else f"a [{name}] table"
    findings.append(((name,), f"{found(value)}; allowed: {shape}"))
    return {}


def _models(
    tables: Mapping[str, Any], defaults: Mapping[str, Any], findings: list[Finding]
) -> dict[str, ModelSettings]:
    own_defaults = _without_strays(defaults, ("defaults",), findings)
    # By themselves first, so that a wrong default is told once, and even where no model uses it.
    wrong_defaults = ModelSettings.faults({"name": "-", "provider": "-", **own_defaults})
    findings += [(("defaults", *where), text) for where, text in wrong_defaults]
    models = {}
    for name, table in tables.items():
        path = ("models", str(name))
        if not isinstance(table, Mapping):
            # Only the kind: someone may have written api_key = "..." right below [models].
            findings.append((path, f"found {kind_of(table)}; allowed: a [models.<name>] table"))
            continue
        own = _without_strays(table, path, findings)
        if table and not own:
            continue
        settings = ModelSettings.checked({**own_defaults, **own})
        if isinstance(settings, ModelSettings):
            models[str(name)] = settings
        else:
            findings += [
                ((*path, *where), text) for where, text in settings if (where, text) not in wrong_defaults
            ]
    return models


def _without_strays(table: Mapping[str, Any], path: problems.Path, findings: list[Finding]) -> dict[str, Any]:
    """The table without what was meant to be elsewhere, which is told: two traps of TOML."""
    kept = {}
    for key, value in table.items():
        known = key in ModelSettings.model_fields or did_you_mean(str(key), ModelSettings.model_fields)
        if key in _KEYS:
            findings.append(((*path, key), "belongs at the top of the file, before the first [table]"))
        elif isinstance(value, Mapping) and not known and path[0] == "models":
            dotted = f"{path[-1]}.{_dotted(key, value)}"
            hint = f'a name with a dot in it needs quotes: [models."{dotted}"]'
            findings.append(((*path, key), f"unknown table; {hint}"))
        else:
            kept[key] = value
    return kept


def _dotted(key: str, table: Mapping[str, Any]) -> str:
    """`5.sonnet`, of what TOML makes of `[models.claude-3.5.sonnet]`."""
    while len(table) == 1 and isinstance(inner := next(iter(table.values())), Mapping):
        key, table = f"{key}.{next(iter(table))}", inner
    return key


def _default_findings(default: Any, names: tuple[str, ...]) -> Iterator[Finding]:
    allowed = f"allowed: {listed(names)}"
    if default is None:
        yield ("default_model",), f"missing, and there are several models; {allowed}"
    elif not isinstance(default, str):
        yield ("default_model",), f"{found(default)}; {allowed}"
    elif default not in names:
        yield ("default_model",), f"{found(default)}; {allowed}{did_you_mean(default, names)}"


def _no_models(table: Mapping[str, Any]) -> str:
    if "name" in table or "provider" in table:
        return "missing; put the model's settings in a [models.<name>] table"
    return "missing; allowed: at least one [models.<name>] table, with a name and a provider"


def _section(
    kind: type[Section], name: str, sections: Mapping[str, Mapping[str, Any]], findings: list[Finding]
) -> Section | None:
    settings: Section | list[Finding] = kind.checked(sections[name])
    if isinstance(settings, list):
        findings += [((name, *where), text) for where, text in settings]
        return None
    return settings
