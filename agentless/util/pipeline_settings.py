"""From the pipeline's arguments and a config to a model's settings.

The config is the file that `AGENTLESS_CONFIG` names, else `config.toml` in the working directory, if there
is one; a model without a table in it is one of the backend's own.
"""

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from agentless.config import Config, ModelSettings, load_config
from agentless.errors import ConfigError, Problem
from agentless.llm import providers
from agentless.llm.budget import Budget
from agentless.llm.ledger import Ledger
from agentless.llm.options import BUDGETS, effort_word
from agentless.locks import ForkLock
from agentless.problems import key_path

VARIABLE = "AGENTLESS_CONFIG"
DEFAULT = "config.toml"
_lock = ForkLock()

# Without a config: a failed instance ends the pipeline's whole run of hours, so failures that pass are
# waited for as long as a service's bad quarter of an hour takes.
_PATIENCE = {"num_retries": 10, "retry_max_wait": 60.0}


class Source(NamedTuple):
    """A config that was found, with the books and the money that all its models share."""

    config: Config
    ledger: Ledger
    budget: Budget | None


class Found(NamedTuple):
    """A model's settings before the pipeline has its say; `source` is `None` where there is no config."""

    settings: ModelSettings
    source: Source | None


def find(name: str, backend: str) -> Found:
    """The model `name`: the config's, or the backend's model of that name.

    Raises:
        ConfigError: There is a config, and it is wrong; or the variable names a file that is none.
    """
    source = _source()
    if source is not None and name in source.config.models:
        return Found(source.config.models[name], source)
    return Found(_checked({"name": name, "provider": backend, **_PATIENCE}), source)


def settle(
    found: ModelSettings,
    *,
    batch_size: int,
    temperature: float,
    max_new_tokens: int,
    system_message: str | None,
    key_variables: Sequence[str],
    key: str,
) -> ModelSettings:
    """The settings with what the pipeline asks for in their place.

    The pipeline's temperature wins, and its `max_new_tokens` too, apart from room to reason in. Its
    `batch_size` cannot exceed the config's, which knows what the server takes. Tools are the pipeline's
    business: of the config's own, its post-processing knows nothing.

    Args:
        found: As `find` returns them.
        batch_size: The most samples of one request; 0 counts as 1.
        temperature: Of this stage.
        max_new_tokens: Of this stage.
        system_message: Where the config has none.
        key_variables: Where the key may be besides in the provider's own variable.
        key: The pipeline's name of the model, for errors.

    Raises:
        ConfigError: What the pipeline asks for is out of bounds.
        CredentialError: There are other variables for the key, and none is set.
    """
    values: dict[str, Any] = {field: getattr(found, field) for field in found.model_fields_set}
    for field in ("tools", "tool_choice"):
        values.pop(field, None)
    most = max(1, batch_size)
    values["batch_size"] = min(most, found.batch_size) if "batch_size" in values else most
    values["temperature"] = temperature
    values["max_new_tokens"] = _room(found, max_new_tokens)
    if system_message is not None:
        values.setdefault("system_message", system_message)
    if key_variables and found.api_key is None:
        values.update(_other_key(found, key_variables, key))
    return _checked(values)


def _room(found: ModelSettings, asked: int) -> int:
    """The tokens of a reply, where `asked` is what the pipeline wants of text.

    It asks for 300 to 2048, which a model that reasons within that limit would spend on reasoning: there
    the config's own limit holds if it is larger, and a budget for thinking comes on top.
    """
    capabilities = providers.capabilities_of(found)
    effort = None
    if found.reasoning_effort is not None and capabilities.supports_reasoning_effort:
        effort = effort_word(found.reasoning_effort, capabilities.effort_words)
    reasons = effort not in {None, "none"}
    if not reasons and (effort == "none" or capabilities.supports_temperature):
        return asked
    if "max_new_tokens" in found.model_fields_set:
        return max(asked, found.max_new_tokens)
    budget = BUDGETS.get(effort or "", 0) if capabilities.effort_style == "budget" else 0
    return asked + budget


def _other_key(found: ModelSettings, variables: Sequence[str], key: str) -> dict[str, str]:
    seller = providers.provider_of(found)
    if any(os.environ.get(variable, "").strip() for variable in seller.key_variables):
        return {}
    providers.resolve_credentials(found, model=key, also=variables)  # names all of them if none is set
    held = next(variable for variable in variables if os.environ.get(variable, "").strip())
    return {"api_key": f"env:{held}"}


def _source() -> Source | None:
    named = os.environ.get(VARIABLE, "").strip()
    path = Path(named or DEFAULT).absolute()
    try:
        state = path.stat()
        changed, size = state.st_mtime_ns, state.st_size
    except OSError:
        if not named:
            return None
        changed, size = 0, 0  # reading it says what is wrong
    try:
        with _lock:  # all threads are to share one budget
            return _read(path, changed, size)
    except ConfigError as error:
        if not named:
            error.add_note(
                f"{DEFAULT} of the working directory is read where {VARIABLE} names no other file."
            )
        raise


@lru_cache(maxsize=8)
def _read(path: Path, changed: int, size: int) -> Source:  # noqa: ARG001  # part of the key of the cache
    """The config, read once: the pipeline makes a model for every prompt."""
    config = load_config(path)
    most = config.budget.max_cost
    return Source(config, Ledger(), None if most is None else Budget(most))


def _checked(values: dict[str, Any]) -> ModelSettings:
    settings = ModelSettings.checked(values)
    if isinstance(settings, list):
        raise ConfigError.of(Problem(key_path(path), text) for path, text in settings)
    return settings
