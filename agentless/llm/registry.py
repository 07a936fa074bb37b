"""litellm's registry of models, read from its own file: importing litellm for it takes two seconds.

The file (3 MB, ~10 ms) is read once, at the first question, by the parser that pydantic has: the quickest
that is there. Without it work goes on with our own rows, and a warning says so.
"""

import importlib.util
import logging
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from pydantic_core import from_json

FILE = "model_prices_and_context_window_backup.json"

ALIAS = "alias_of"
"""The key that a name's entry has which stands for another's: which one."""


class Entry(NamedTuple):
    """One row of the registry."""

    key: str
    """Its name there; of an alias, the name of what it stands for."""

    row: Mapping[str, Any]
    """What it says."""


@cache
def load_registry() -> Mapping[str, Mapping[str, Any]]:
    """The entries by their keys, an alias with what it stands for; without the file none, and a warning."""
    return with_aliases(_read(_file()))


def _file() -> Path | None:
    """Where the file is, if litellm is anywhere; it need not be there."""
    found = importlib.util.find_spec("litellm")
    places = (found.submodule_search_locations or []) if found else []
    return next((Path(place) / FILE for place in places), None)


def _read(path: Path | None) -> Mapping[str, Mapping[str, Any]]:
    try:
        if path is None:
            raise FileNotFoundError("litellm is not installed")
        entries = from_json(path.read_bytes())
        if not isinstance(entries, dict):
            raise ValueError("it is not a table of models")  # noqa: TRY004, TRY301  # told like the others
    except (OSError, ValueError) as error:
        logging.getLogger("agentless").warning(
            "litellm's registry of models (%s) cannot be read: %s; what models can do and cost is known only "
            "of our own table and the config's capabilities. To mend it, install litellm again",
            path or FILE,
            error,
        )
        return {}
    return {key: entry for key, entry in entries.items() if isinstance(entry, dict)}


def with_aliases(entries: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
    """The entries, those that only name another (`alias_of`) with its facts and the last name of the chain.

    A chain that ends nowhere, or in itself, says nothing, and is left out.
    """
    found = dict(entries)
    for key in [key for key, entry in entries.items() if ALIAS in entry]:
        target, seen = key, set[str]()
        while target not in seen and (entry := entries.get(target)) is not None and ALIAS in entry:
            seen.add(target)
            target = str(entry[ALIAS])
        row = entries.get(target)
        if row is None or ALIAS in row:
            del found[key]
        else:
            found[key] = {**row, ALIAS: target}
    return found


def look_up(names: Iterable[str], services: Iterable[str]) -> Entry | None:
    """The first entry of these keys that belongs to one of these services.

    The registry divides some services (`vertex_ai-anthropic_models`, `bedrock_converse`); see `service_of`.
    """
    wanted = frozenset(services)
    entries = load_registry()
    for name in names:
        row = entries.get(name)
        if row is not None and service_of(row) in wanted:
            return Entry(row.get(ALIAS, name), row)
    return None


def service_of(entry: Mapping[str, Any]) -> str:
    """The service that an entry belongs to, in the names that litellm's routes have."""
    given = str(entry.get("litellm_provider", ""))
    service = given.split("-", 1)[0] if given.startswith("vertex_ai-") else given
    return SAME_SERVICE.get(service, service)


SAME_SERVICE: Mapping[str, str] = {
    "bedrock_converse": "bedrock",
    "cohere": "cohere_chat",
    "ai21": "ai21_chat",
    "ollama": "ollama_chat",
    "azure_text": "azure",
}
"""Registry names of services that are another route's models."""
