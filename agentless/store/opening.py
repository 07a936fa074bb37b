"""A store by its address: which engine holds it."""

import logging
import re
from collections.abc import Callable

from agentless.errors import StoreError
from agentless.settings import StoreSettings
from agentless.store.protocol import Store
from agentless.store.sqlite import SQLiteStore

_SCHEME = re.compile(r"([a-z][a-z0-9+]+)://")


def open_store(settings: StoreSettings, *, logger: logging.Logger | None = None) -> Store:
    """The store that these settings name; in replay it has to be there, and nothing is written.

    Raises:
        StoreError: It cannot be opened.
    """
    scheme = _SCHEME.match(settings.path)
    engine = _ENGINES.get(scheme[1] if scheme else "")
    if engine is None:
        raise StoreError(
            f"there is no engine for stores at {scheme[1] if scheme else ''}://; allowed: the path of a file"
        )
    return engine(settings, logger)


def _sqlite(settings: StoreSettings, logger: logging.Logger | None) -> Store:
    return SQLiteStore(
        settings.path,
        read_only=settings.mode == "replay",
        power=settings.durability == "power",
        logger=logger,
    )


_ENGINES: dict[str, Callable[[StoreSettings, logging.Logger | None], Store]] = {"": _sqlite}
