"""litellm's registry of models, read from its own file: importing litellm for it takes two seconds.

The file (3 MB, ~10 ms) is read once, at the first question, by the parser that pydantic has: the quickest
that is there.
"""

import importlib.util
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic_core import from_json

FILE = "model_prices_and_context_window_backup.json"


@cache
def load_registry() -> Mapping[str, Mapping[str, Any]]:
    """The entries by their keys; empty where litellm is not installed or has moved its file."""
    found = importlib.util.find_spec("litellm")
    places = (found.submodule_search_locations or []) if found else []
    for place in places:
        path = Path(place) / FILE
        if path.is_file():
            entries: dict[str, dict[str, Any]] = from_json(path.read_bytes())
            return entries
    return {}


def look_up(names: Iterable[str], services: Iterable[str]) -> Mapping[str, Any] | None:
    """The first entry of these keys that belongs to one of these services.

    The registry divides some services (`vertex_ai-anthropic_models`, `bedrock_converse`); see `service_of`.
    """
    wanted = frozenset(services)
    entries = load_registry()
    for name in names:
        entry = entries.get(name)
        if entry is not None and service_of(entry) in wanted:
            return entry
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
