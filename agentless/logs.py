"""The `[logging]` table put into effect: one handler on the `agentless` logger, nothing elsewhere."""

import logging
import sys
from typing import TextIO

from agentless.errors import ConfigError, Problem
from agentless.locks import ForkLock
from agentless.settings import LoggingSettings

LOGGER = "agentless"
_lock = ForkLock()


def configure_logging(settings: LoggingSettings | None) -> None:
    """Give the `agentless` logger the level and one handler with the format of a `[logging]` table.

    A handler from a call before is replaced; the application's own are left, and so is the root logger.
    Records stop here (`propagate = False`), so that no line appears twice. `None` changes nothing.

    Raises:
        ConfigError: The file cannot be written.
    """
    if settings is None:
        return
    handler = _handler(settings)
    handler.setFormatter(logging.Formatter(settings.format))
    logger = logging.getLogger(LOGGER)
    with _lock:
        for before in [each for each in logger.handlers if isinstance(each, _Stderr | _File)]:
            logger.removeHandler(before)
            before.close()
        logger.addHandler(handler)
        logger.setLevel(settings.level)
        logger.propagate = False


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what `sys.stderr` is at that moment, as `logging.lastResort` does.

    Test runners and notebooks put another in its place, and close it.
    """

    def __init__(self) -> None:
        logging.Handler.__init__(self)  # StreamHandler's own would keep today's stream

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


class _File(logging.FileHandler):
    """Ours by its type, so that a second call finds it."""


def _handler(settings: LoggingSettings) -> logging.Handler:
    if settings.file is None:
        return _Stderr()
    try:
        return _File(settings.file, encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    raise ConfigError.of([Problem("logging.file", f'cannot write "{settings.file}": {reason}')])
