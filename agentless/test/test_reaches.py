"""The table of what is reached for in litellm's inside, and the range of versions it is for."""

import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from agentless.llm import reaches
from agentless.llm.reaches import Reach


@pytest.mark.parametrize("reach", reaches.REACHES, ids=lambda reach: reach.what)
def test_every_row_is_there(reach: Reach) -> None:
    """In each version that is supported, one name of each row leads to something, but what came later."""
    assert reach.find() is not None or (reach.is_late and reaches.version() == reaches.OLDEST)
    assert reach.without


def test_the_table_is_complete() -> None:
    """No row is forgotten where all are listed."""
    assert {each for each in vars(reaches).values() if isinstance(each, Reach)} == set(reaches.REACHES)


@pytest.fixture
def made_up() -> Iterator[Any]:
    """A module of the name `made_up`, with a class that has two names for one method."""

    class Handler:
        @staticmethod
        def create() -> str:
            return "theirs"

        _create = create

    module = ModuleType("made_up")
    module.__dict__.update(Handler=Handler, setting=None)
    sys.modules["made_up"] = module
    yield module
    del sys.modules["made_up"]


def test_every_spelling_is_replaced(made_up: Any) -> None:
    """An alias that nobody calls and the name that is called: both, and they stay one."""
    reach = Reach("", ("made_up:Handler._create", "made_up:Handler.gone", "made_up:Handler.create"), "")
    seen: list[str] = []

    def make(was: Any) -> Any:
        seen.append(was())
        return staticmethod(lambda: "ours")

    assert reach.replace(make) == 2
    assert made_up.Handler.create is made_up.Handler._create
    assert (made_up.Handler.create(), seen[0]) == ("ours", "theirs")


@pytest.mark.parametrize(
    "name", ["made_up:Gone.create", "made_up:Handler.gone", "gone:Handler.create", "made_up.gone:x"]
)
def test_what_has_moved_is_no_error(made_up: Any, name: str) -> None:
    """Not a module, nor a class, nor a method that is gone."""
    reach = Reach("", (name,), "")
    assert reach.find() is None
    assert reach.find(made_up) is made_up
    assert reach.replace(lambda was: was) == 0


def test_what_is_there_and_empty_is_found(made_up: Any) -> None:
    """A setting that is `None` is one that is there."""
    assert Reach("", ("made_up:setting",), "").find("default") is None


def test_exceptions_are_found_without_their_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is an exception beside it is taken."""
    listed = {kind for kind in reaches.exceptions() if kind.__module__ == "litellm.exceptions"}
    monkeypatch.setattr(reaches, "EXCEPTIONS", SimpleNamespace(find=lambda: None))
    assert listed <= set(reaches.exceptions())


@pytest.mark.parametrize(
    "version, is_supported",
    [
        (reaches.OLDEST, True),
        (reaches.TESTED_UP_TO, True),
        ("1.105.4", True),
        ("1.107.0", True),
        ("1.110.2rc1", True),
        ("1.105.2", False),
        ("1.106.0", False),
        ("1.106.12", False),
        ("1.110.3", False),
        ("1.110.10", False),
        ("1.999.0", False),
        ("2.0", False),
        ("", False),
        ("nightly", False),
    ],
)
def test_which_versions_are_supported(version: str, is_supported: bool) -> None:
    """From the oldest to the newest that was tried, without the series that breaks tools."""
    assert reaches.is_supported(version) is is_supported


def test_the_installed_litellm_is_one_of_them() -> None:
    """The tests say nothing of another."""
    assert reaches.is_supported(reaches.version())
