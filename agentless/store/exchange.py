"""A store as JSON lines, and back: to keep, to publish, to merge what several machines have made.

    {"format": "agentless-store", "version": 1}
    {"kind": "request", "key": "...", "request": {...}, "body": null, "created": ...}
    {"kind": "attempt", "key": "...", "id": "...", "indexes": [0, 1], "state": "done", ...}
    {"kind": "sample", "key": "...", "idx": 0, "attempt": "...", "choice": 0, "trajectory": {...}, ...}

A request comes before what belongs to it. An attempt's id and a choice of it make a sample's identity, so
that taking in the same lines twice changes nothing, and two machines' samples for one index both stay.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

from agentless.errors import StoreError
from agentless.store import rows
from agentless.store.connections import Connection
from agentless.store.keys import Request, canonical
from agentless.store.protocol import Transfer

T = TypeVar("T")

FORMAT = "agentless-store"
VERSION = 1

_LINES = 500  # in one transaction
_TABLES = {
    "request": ("id", "key", "request", "body", "created"),
    "attempt": ("id", "indexes", "number", "state", "begun", "ended", "usage", "cost", "error"),
    "sample": ("idx", "attempt", "choice", "created", "trajectory"),
}


def export_to(db: Connection, target: Path | str | IO[str]) -> Transfer:
    """Write everything, in one state of the store; memory stays small."""
    if not isinstance(target, str | os.PathLike):
        return _write(db, target)
    path = Path(target)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="ascii") as file:
            written = _write(db, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}", path=path) from error
    finally:
        part.unlink(missing_ok=True)
    return written


def import_from(write: Callable[[Callable[[Connection], T]], T], source: Path | str | IO[str]) -> Transfer:
    """Take in what is new.

    Args:
        write: Runs its argument in a transaction.
        source: What `export_to` has written.

    Raises:
        StoreError: A line is none of an export's; those before it may have been taken in.
    """
    if not isinstance(source, str | os.PathLike):
        return _read(write, source, getattr(source, "name", "the export"))
    try:
        with Path(source).open(encoding="utf-8") as file:
            return _read(write, file, str(source))
    except OSError as error:
        raise StoreError(f"{source}: cannot be read: {error.strerror or error}", path=source) from error
    except UnicodeDecodeError as error:
        raise StoreError(f"{source}: is not an export of a store: {error}", path=source) from error


def _write(db: Connection, file: IO[str]) -> Transfer:
    counts = dict.fromkeys(_TABLES, 0)
    file.write(json.dumps({"format": FORMAT, "version": VERSION}) + "\n")
    db.execute("BEGIN")  # all that follows is of one moment
    try:
        for number, *first in db.stream(
            f"SELECT {', '.join(_TABLES['request'])} FROM request ORDER BY key"  # noqa: S608 - ours
        ):
            key = first[0]
            for line in _lines(db, number, first):
                counts[line["kind"]] += 1
                file.write(json.dumps({"kind": line["kind"], "key": key, **line}) + "\n")
    finally:
        db.execute("ROLLBACK")
    return Transfer(counts["request"], counts["sample"], counts["attempt"])


def _lines(db: Connection, number: int, first: list[Any]) -> Iterator[dict[str, Any]]:
    _, request, body, created = first
    yield {"kind": "request", "request": json.loads(request), "body": _loaded(body), "created": created}
    for row in _of(db, "attempt", number, "begun, id"):
        row = {**row, "indexes": _loaded(row["indexes"]), "usage": _loaded(row["usage"])}  # noqa: PLW2901
        yield {"kind": "attempt", **row}
    for row in _of(db, "sample", number, "idx"):
        yield {"kind": "sample", **row, "trajectory": _loaded(row["trajectory"])}


def _of(db: Connection, table: str, number: int, order: str) -> Iterator[dict[str, Any]]:
    names = _TABLES[table]
    sql = f"SELECT {', '.join(names)} FROM {table} WHERE request = ? ORDER BY {order}"  # noqa: S608 - ours
    for row in db.execute(sql, (number,)):
        yield dict(zip(names, row, strict=True))


def _loaded(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _read(write: Callable[[Callable[[Connection], T]], T], file: IO[str], name: str) -> Transfer:
    total = Transfer()
    known: dict[str, Request] = {}
    batch: list[tuple[str, Mapping[str, Any]]] = []

    def flush() -> None:
        nonlocal total
        done: Any = write(lambda db: _add(db, batch, known))  # type: ignore[arg-type,return-value]
        total = Transfer(
            total.requests + done.requests, total.samples + done.samples, total.attempts + done.attempts
        )
        for where, line in batch[-1:]:
            key = _text(line, "key", where)
            for other in [each for each in known if each != key]:
                del known[other]
        batch.clear()

    for where, line in _parsed(file, name):
        batch.append((where, line))
        if len(batch) >= _LINES:
            flush()
    flush()
    return total


def _parsed(file: IO[str], name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, text in enumerate(file, 1):
        where = f"{name}, line {number}"
        line: Any = None
        with contextlib.suppress(ValueError):
            line = json.loads(text)
        if not isinstance(line, dict):
            raise StoreError(f"{where}: is not an export of a store: no JSON object", path=name)
        if number == 1:
            if line.get("format") != FORMAT:
                raise StoreError(f"{name}: is not an export of a store: its first line is another", path=name)
            if line.get("version") != VERSION:
                raise StoreError(
                    f"{name}: is an export of version {line.get('version')}; this package reads {VERSION}",
                    path=name,
                )
        else:
            yield where, line


def _add(db: Connection, batch: list[tuple[str, Mapping[str, Any]]], known: dict[str, Request]) -> Transfer:
    counts = dict.fromkeys(_TABLES, 0)
    for where, line in batch:
        kind = str(line.get("kind"))
        if kind not in _ADDERS:
            raise StoreError(f"{where}: is not a request, an attempt or a sample", path=where)
        try:
            counts[kind] += _ADDERS[kind](db, line, where, known)
        except (KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{where}: is not whole: {error!r}", path=where) from error
    return Transfer(counts["request"], counts["sample"], counts["attempt"])


def _add_request(db: Connection, line: Mapping[str, Any], where: str, known: dict[str, Request]) -> bool:
    request = Request.read(json.dumps(line["request"]))
    if request.key != _text(line, "key", where):
        raise StoreError(f"{where}: the request's key is {request.key}, not {line['key']}", path=where)
    known[request.key] = request
    is_new = not db.execute("SELECT 1 FROM request WHERE key = ?", (request.key,))
    body = None if line.get("body") is None else canonical(line["body"])
    rows.add_request(db, request, body=body, created=float(line["created"]))
    return is_new


def _add_attempt(db: Connection, line: Mapping[str, Any], where: str, known: dict[str, Request]) -> bool:
    if db.execute("SELECT 1 FROM attempt WHERE id = ?", (_text(line, "id", where),)):
        return False
    # What was under way when it was exported: its own store may know more, this one never will.
    state = "unknown" if line["state"] == "sent" else line["state"]
    db.execute(
        "INSERT INTO attempt (id, request, indexes, number, state, begun, ended, usage, cost, error) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            line["id"],
            rows.add_request(db, _request(line, where, known)),
            json.dumps(line["indexes"]),
            line["number"],
            state,
            line["begun"],
            line["ended"],
            None if line["usage"] is None else canonical(line["usage"]),
            line["cost"],
            line["error"],
        ),
    )
    return True


def _add_sample(db: Connection, line: Mapping[str, Any], where: str, known: dict[str, Request]) -> bool:
    number = rows.add_request(db, _request(line, where, known))
    trajectory = line["trajectory"]
    if not isinstance(trajectory, dict) or not isinstance(line["idx"], int):
        raise TypeError("a sample's index is a number, its trajectory an object")
    return rows.add_sample(
        db,
        number,
        line["idx"],
        _text(line, "attempt", where),
        int(line["choice"]),
        json.dumps(trajectory),
        float(line["created"]),
    )


def _request(line: Mapping[str, Any], where: str, known: Mapping[str, Request]) -> Request:
    request = known.get(_text(line, "key", where))
    if request is None:
        raise StoreError(f"{where}: its request has not come before it", path=where)
    return request


def _text(line: Mapping[str, Any], name: str, where: str) -> str:
    value = line.get(name)
    if not isinstance(value, str):
        raise StoreError(f"{where}: has no {name}", path=where)
    return value


_ADDERS = {"request": _add_request, "attempt": _add_attempt, "sample": _add_sample}
