"""What is asked of a store by name: is it whole, what is in it, less of it."""

import json
from typing import Any

from agentless.store.connections import Connection
from agentless.store.keys import Request
from agentless.store.protocol import Pruned, Selection, Stats

_STRAY = (
    ("sample", "a sample without its request", "request NOT IN (SELECT id FROM request)"),
    ("attempt", "an attempt without its request", "request NOT IN (SELECT id FROM request)"),
    ("sample", "a sample without its attempt", "attempt NOT IN (SELECT id FROM attempt)"),
)


def verify(db: Connection) -> list[str]:
    """What is wrong: with the file, with keys, with what belongs together."""
    found = [str(row[0]) for row in db.execute("PRAGMA integrity_check") if row[0] != "ok"]
    if found:
        return found
    for table, text, condition in _STRAY:
        ((count,),) = db.execute(f"SELECT count(*) FROM {table} WHERE {condition}")  # noqa: S608 - ours
        if count:
            found.append(f"{text}: {count}")
    for key, text in db.stream("SELECT key, request FROM request"):
        if not _is_right(key, text):
            found.append(f"request {key}: its text has another key")
    for key, index, text in db.stream(
        "SELECT r.key, s.idx, s.trajectory FROM sample s JOIN request r ON r.id = s.request"
    ):
        try:
            whole = isinstance(json.loads(text), dict)
        except ValueError:
            whole = False
        if not whole:
            found.append(f"sample {index} of request {key}: is not a JSON object")
    return found


def stats(db: Connection) -> Stats:
    """What it holds."""
    result = Stats()
    ((result.requests,),) = db.execute("SELECT count(*) FROM request")
    ((result.samples,),) = db.execute("SELECT count(*) FROM sample")
    for state, count, cost in db.execute(
        "SELECT state, count(*), coalesce(sum(cost), 0) FROM attempt GROUP BY state ORDER BY state"
    ):
        result.attempts[state] = count
        result.cost += cost
        if state != "done":
            result.wasted += cost
    for provider, model, count in db.execute(
        "SELECT r.provider, r.model, count(*) FROM sample s JOIN request r ON r.id = s.request "
        "GROUP BY r.provider, r.model ORDER BY r.provider, r.model"
    ):
        result.models[f"{provider}/{model}"] = count
    ((pages,),), ((size,),) = db.execute("PRAGMA page_count"), db.execute("PRAGMA page_size")
    result.bytes = pages * size
    return result


def prune(db: Connection, selection: Selection) -> Pruned:
    """Remove requests with all that belongs to them; those with a claim are under way, and stay."""
    conditions: list[tuple[str, Any]] = [
        (f"{name} = ?", value)
        for name, value in (
            ("key", selection.key),
            ("provider", selection.provider),
            ("model", selection.model),
        )
        if value is not None
    ]
    if selection.before is not None:
        conditions.append(
            (
                "NOT EXISTS (SELECT 1 FROM sample s WHERE s.request = request.id AND s.created >= ?)",
                selection.before,
            )
        )
    conditions.append(("id NOT IN (SELECT request FROM claim WHERE idx >= ?)", 0))
    where = " AND ".join(condition for condition, _ in conditions)
    values = tuple(value for _, value in conditions)
    counts = {}
    for table in ("sample", "attempt"):
        inner = f"request IN (SELECT id FROM request WHERE {where})"  # noqa: S608 - ours
        counts[table] = _remove(db, table, inner, values)
    return Pruned(_remove(db, "request", where, values), counts["sample"], counts["attempt"])


def vacuum(db: Connection) -> None:
    """Give room back."""
    db.execute("VACUUM")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _remove(db: Connection, table: str, where: str, values: tuple[Any, ...]) -> int:
    ((count,),) = db.execute(f"SELECT count(*) FROM {table} WHERE {where}", values)  # noqa: S608 - ours
    db.execute(f"DELETE FROM {table} WHERE {where}", values)  # noqa: S608
    return int(count)


def _is_right(key: str, text: str) -> bool:
    try:
        return Request.read(text).key == key
    except (ValueError, AttributeError):
        return False
