"""`[logging]`: each line once, in its format, and nothing else touched."""

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path

import pytest

from agentless.config import LoggingSettings
from agentless.errors import ConfigError
from agentless.logs import configure_logging

SHORT = LoggingSettings(level="INFO", format="%(levelname)s|%(message)s")


@pytest.fixture(autouse=True)
def logger() -> Iterator[logging.Logger]:
    """The `agentless` logger, put back as it was after the test."""
    ours = logging.getLogger("agentless")
    before = (ours.level, ours.propagate, list(ours.handlers))
    yield ours
    for handler in set(ours.handlers) - set(before[2]):
        handler.close()
    ours.level, ours.propagate, ours.handlers = before
    logging.getLogger("agentless").manager._clear_cache()  # type: ignore[attr-defined]


def test_each_line_once_in_its_format(capsys: pytest.CaptureFixture[str]) -> None:
    """A record of ours is on stderr once, in the config's format, from the config's level on."""
    configure_logging(SHORT)
    logging.getLogger("agentless.llm").info("hello")
    logging.getLogger("agentless").debug("unheard")
    assert capsys.readouterr() == ("", "INFO|hello\n")


def test_second_call_replaces_the_handler(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A second call puts its handler in place of the first, whatever kinds they are."""
    count = len(logger.handlers)
    configure_logging(LoggingSettings(file=str(tmp_path / "a.log")))
    first = logger.handlers[-1]
    configure_logging(SHORT)
    configure_logging(LoggingSettings(level="ERROR", format="%(message)s"))
    logger.error("once")
    assert capsys.readouterr().err == "once\n"
    assert len(logger.handlers) == count + 1
    assert isinstance(first, logging.FileHandler)
    assert first.stream is None, "the file was not closed"


def test_others_are_left_alone(logger: logging.Logger) -> None:
    """The application's handlers stay: on the root logger, and on ours."""
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    theirs = logging.StreamHandler(io.StringIO())
    logger.addHandler(theirs)
    configure_logging(SHORT)
    configure_logging(SHORT)
    assert (root.level, list(root.handlers)) == before
    assert theirs in logger.handlers
    assert len(logger.handlers) == 2
    assert not logger.propagate


def test_stderr_of_the_moment(logger: logging.Logger) -> None:
    """Lines go to what sys.stderr is when they are logged, not when logging was set up."""
    configure_logging(SHORT)
    with redirect_stderr(io.StringIO()) as caught:
        logger.warning("here")
    assert caught.getvalue() == "WARNING|here\n"
    assert "here" not in getattr(sys.stderr, "getvalue", str)()


def test_file(logger: logging.Logger, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """With `file`, lines are appended to it in UTF-8, and stderr stays empty."""
    file = tmp_path / "out.log"
    file.write_text("before\n")
    configure_logging(LoggingSettings(format="%(message)s", file=str(file)))
    logger.info("é")
    assert file.read_text("utf-8") == "before\né\n"
    assert capsys.readouterr().err == ""


def test_file_that_cannot_be_written(logger: logging.Logger, tmp_path: Path) -> None:
    """A file that cannot be opened is a ConfigError, and what was set up before stays."""
    configure_logging(SHORT)
    before = list(logger.handlers)
    with pytest.raises(ConfigError, match=r"logging\.file: cannot write .*No such file or directory"):
        configure_logging(LoggingSettings(file=str(tmp_path / "no" / "out.log")))
    assert logger.handlers == before


def test_no_table_changes_nothing(logger: logging.Logger) -> None:
    """Without a [logging] table the logger is as the application made it."""
    before = (logger.level, logger.propagate, list(logger.handlers))
    configure_logging(None)
    assert (logger.level, logger.propagate, list(logger.handlers)) == before


@pytest.mark.parametrize("level, kept", [("debug", "DEBUG"), ("Warn", "WARNING"), ("fatal", "CRITICAL")])
def test_level_in_any_case(level: str, kept: str) -> None:
    """Level names are taken in any case, aliases included."""
    assert LoggingSettings(level=level).level == kept
