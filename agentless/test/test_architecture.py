"""How the modules stand to each other, read from their source."""

import ast
import importlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import agentless

ROOT = Path(agentless.__file__).parent

CHAIN = ("codegen", "sampling", "attempts", "transport")
"""A call's way through `agentless.llm`: each knows only those after it."""

WAITING = {
    *CHAIN,
    "accounts",
    "bodies",
    "bridge",
    "budget",
    "connections",
    "failures",
    "importing",
    "limits",
    "litellm_replies",
    "direct",
    "litellm_door",
    "reaches",
    "streams",
    "tools",
    "watch",
    "wire",
}
"""Modules that wait, send, hold a state of the process or know litellm; every other one is pure."""

MEETING = {
    "agentless.llm.exits",  # the interpreter's threads
    "agentless.llm.orders",  # several threads call one model
    "agentless.llm.ledger",  # a file that threads share
    "agentless.llm.tokens",  # tables are loaded by whichever thread is first
}
"""Pure in what they import of ours, though several threads or tasks meet in them."""

ENGINE = {"connections", "files", "process", "reader", "sqlite", "ticker", "writer"}
"""What of `agentless.store` is SQLite's, or a process's."""

DOORS = {"agentless.llm.importing"}
"""Where litellm is imported; the rest get it from `importing.load`, and its inside by a row of `reaches`."""


@cache
def modules() -> dict[str, Path]:
    """Every module of the package, without its tests."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        if parts[1] != "test":
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


@cache
def tree(name: str) -> ast.Module:
    """The module's source, parsed."""
    return ast.parse(modules()[name].read_text(encoding="utf-8"))


def imports(node: ast.AST) -> Iterator[str]:
    """Full names of what this node's import statements, at any depth, could import."""
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            assert child.module is not None
            for alias in child.names:
                inner = f"{child.module}.{alias.name}"
                yield inner if inner in modules() else child.module


@cache
def needs(name: str, *, at_import: bool = False) -> frozenset[str]:
    """The package's modules that this one imports, at any time or when it is imported itself; types apart."""
    source = [node for node in ast.walk(tree(name)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    later = {
        inner
        for node in ast.walk(tree(name))
        if _is_for_types(node) or (at_import and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))
        for inner in ast.walk(node)
    }
    source = [node for node in source if node not in later]
    return frozenset(found for node in source for found in imports(node) if found in modules()) - {name}


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def in_package(name: str, package: str) -> bool:
    """Whether the module belongs to this part of the package."""
    return name == f"agentless.{package}" or name.startswith(f"agentless.{package}.")


def test_there_is_something_to_read() -> None:
    """The rules below are about modules that are really there."""
    assert len(modules()) > 50
    for name in (*CHAIN, *WAITING):
        assert f"agentless.llm.{name}" in modules()
    assert "agentless.llm.wire" in needs("agentless.llm.attempts")


@pytest.mark.parametrize("name", [name for name in modules() if in_package(name, "llm")])
def test_llm_knows_nothing_of_its_users(name: str) -> None:
    """Imports point one way: util, then llm, then config and errors."""
    assert not {found for found in needs(name) if in_package(found, "util")}
    assert "agentless.util" not in needs(name)


@pytest.mark.parametrize("name", [name for name, path in modules().items() if path.parent == ROOT])
def test_settings_and_errors_stand_below(name: str) -> None:
    """Config and errors import neither llm nor util, apart from types and litellm's names on demand."""
    assert not {found for found in needs(name, at_import=True) if in_package(found, "llm")}
    assert name == "agentless" or not {found for found in needs(name) if in_package(found, "util")}


@pytest.mark.parametrize("name", [name for name in modules() if in_package(name, "store")])
def test_the_store_knows_nothing_of_calls(name: str) -> None:
    """It stands below sampling: of ours it imports errors and settings, and litellm never."""
    below = {"agentless.errors", "agentless.settings"}
    assert not {found for found in needs(name) if not in_package(found, "store")} - below - {"agentless"}


@pytest.mark.parametrize("name", [name for name in modules() if in_package(name, "store")])
def test_one_engine_knows_sqlite(name: str) -> None:
    """What another engine shares with it neither knows SQLite nor waits."""
    found = {each.split(".")[0] for each in imports(tree(name))}
    assert "sqlite3" not in found or name == "agentless.store.connections"
    pure = {"database", "differences", "keys", "leases", "rows", "schema"}
    if name.rpartition(".")[2] in pure:
        assert not found & {"asyncio", "threading", "queue", "fcntl", "concurrent", "sqlite3"}
        assert not needs(name) & {f"agentless.store.{each}" for each in ENGINE}


@pytest.mark.parametrize("name", [name for name in modules() if in_package(name, "loopback")])
def test_the_embedded_provider_stands_alone(name: str) -> None:
    """It is nobody's client: the standard library and h11 are all that it needs."""
    assert not {found for found in needs(name) if not in_package(found, "loopback")} - {"agentless"}


@pytest.mark.parametrize("position", range(1, len(CHAIN)))
def test_a_call_goes_one_way(position: int) -> None:
    """No link of the chain imports one before it."""
    before = {f"agentless.llm.{name}" for name in CHAIN[:position]}
    assert not needs(f"agentless.llm.{CHAIN[position]}") & before


@pytest.mark.parametrize(
    "name",
    [name for name in modules() if in_package(name, "llm") and name.rpartition(".")[2] not in WAITING],
)
def test_the_rest_is_pure(name: str) -> None:
    """What decides neither waits nor sends: it imports none of those that do, nor what they do it with."""
    assert not needs(name) & {f"agentless.llm.{each}" for each in WAITING}
    assert name in MEETING or not set(imports(tree(name))) & {"asyncio", "threading", "httpx", "socket"}


def test_no_module_needs_itself() -> None:
    """Importing any module first works, whichever that is: there is no ring."""
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way, name))
        if name not in done:
            for found in needs(name, at_import=True):
                visit(found, (*way, name))
            done.add(name)

    for name in modules():
        visit(name, ())


@pytest.mark.parametrize("name", modules())
def test_litellm_comes_in_by_one_door(name: str) -> None:
    """It is imported in one place, and never when a module of ours is."""
    found = {each for each in imports(tree(name)) if each.split(".")[0] == "litellm"}
    assert not found or name in DOORS
    top = [node for node in tree(name).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert not {each for node in top for each in imports(node) if each.split(".")[0] == "litellm"}
    if name != "agentless.llm.reaches":
        text = ast.unparse(tree(name))
        assert "import_module('litellm" not in text


@pytest.mark.parametrize("name", modules())
def test_what_is_exported_exists(name: str) -> None:
    """Each name of `__all__` can be had, and each module says what it is for."""
    if name.endswith("__main__"):
        return
    module = importlib.import_module(name)
    assert module.__doc__
    for exported in getattr(module, "__all__", ()):
        assert getattr(module, exported) is not None


def test_the_front_door() -> None:
    """What the package's front offers is what the specification uses."""
    assert {"ModelFactory", "load_config", "__version__"} <= set(agentless.__all__)
