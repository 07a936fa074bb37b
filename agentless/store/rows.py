"""What happens in the tables, as functions of a database within a transaction: the same for every engine.

The SQL is what SQLite (3.24 and later) and PostgreSQL both speak, with `?` for values; what they do each in
their own way is behind `database.Database`. Nothing here waits, commits or knows of threads.
"""

import json
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agentless.store.database import Database
from agentless.store.differences import Nearest, nearest_of
from agentless.store.keys import KEY_VERSION, Request
from agentless.store.leases import Owner, bury_if_dead, is_dead, renew
from agentless.store.protocol import (
    Attempt,
    AttemptRow,
    Claim,
    Finished,
    Outcome,
    Plan,
    Recorded,
    StoredSample,
)

_CANDIDATES = 50  # requests that are looked at for the nearest one


def look(db: Database, request: Request, indexes: Sequence[int]) -> dict[int, StoredSample]:
    """The samples that are there."""
    rows = db.execute(
        "SELECT s.idx, s.trajectory, s.attempt, s.created FROM sample s JOIN request r ON r.id = s.request "
        "WHERE r.key = ? AND s.idx BETWEEN ? AND ?",
        (request.key, min(indexes, default=0), max(indexes, default=-1)),
    )
    wanted = set(indexes)
    return {row[0]: _sample(*row) for row in rows if row[0] in wanted}


def ask(db: Database, owner: Owner, request: Request, indexes: Sequence[int]) -> Plan:
    """What is there, and claims on the rest, as far as nobody who lives has them."""
    known = _number(db, request)
    number = add_request(db, request) if known is None else known
    hits = look(db, request, indexes) if known is not None else {}
    taken = _taken(db, number) if known is not None else {}
    claims, waits = [], []
    for index in dict.fromkeys(indexes):
        if index in hits:
            continue
        holder = taken.get(index)
        if holder is not None and (holder == owner.id or not bury_if_dead(db, holder)):
            waits.append(index)
            continue
        claim = Claim(request, index, owner.fence())
        db.execute(
            "INSERT INTO claim (request, idx, owner, fence) VALUES (?, ?, ?, ?)",
            (number, index, owner.id, claim.fence),
        )
        claims.append(claim)
    if claims:
        renew(db, owner)
    return Plan(hits, tuple(claims), tuple(waits))


def is_blocked(db: Database, owner: Owner, request: Request, index: int) -> bool:
    """Whether somebody who lives is getting this sample, and it has not come yet."""
    rows = db.execute(
        "SELECT c.owner FROM claim c JOIN request r ON r.id = c.request WHERE r.key = ? AND c.idx = ?",
        (request.key, index),
    )
    return bool(rows) and (rows[0][0] == owner.id or not is_dead(db, rows[0][0]))


def begin(db: Database, owner: Owner, claims: Sequence[Claim], body: Mapping[str, Any] | None) -> Attempt:
    """Write an attempt down, for those of the claims that still hold."""
    rows = db.execute(
        "SELECT r.id, c.idx, c.fence FROM claim c JOIN request r ON r.id = c.request WHERE r.key = ?",
        (claims[0].request.key,),
    )
    held = {index: fence for _, index, fence in rows}
    mine = tuple(each for each in claims if held.get(each.index) == each.fence)
    lost = tuple(each for each in claims if each not in mine)
    # Begins with the time: what is written together lies together.
    attempt = f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
    if not mine:
        return Attempt(attempt, (), lost)
    number = rows[0][0]
    if body is not None:
        db.execute("UPDATE request SET body = ? WHERE id = ? AND body IS NULL", (json.dumps(body), number))
    before = db.execute("SELECT count(*) FROM attempt WHERE request = ?", (number,))[0][0]
    db.execute(
        "INSERT INTO attempt (id, request, indexes, number, owner, state, begun) "
        "VALUES (?, ?, ?, ?, ?, 'sent', ?)",
        (attempt, number, json.dumps([each.index for each in mine]), before + 1, owner.id, time.time()),
    )
    renew(db, owner)
    return Attempt(attempt, mine, lost, before + 1)


def record(db: Database, attempt: Attempt, finished: Finished) -> list[Recorded]:
    """Keep an attempt's samples: at their index if that is theirs or nobody's, else at the next free one."""
    request = attempt.claims[0].request
    found = db.execute(
        "SELECT id, (SELECT count(*) FROM sample WHERE attempt = ?) FROM request WHERE key = ?",
        (attempt.id, request.key),
    )
    number, before = found[0] if found else (add_request(db, request), 0)  # pruned meanwhile
    fences = {claim.index: claim.fence for claim in attempt.claims}
    wanted: list[int | None] = [*finished.samples, *([None] * len(finished.extra))]
    now = time.time()
    recorded = []
    for choice, (index, sample) in enumerate(
        zip(wanted, [*finished.samples.values(), *finished.extra], strict=True), before
    ):
        at = index if index is not None and _may_have(db, number, index, fences) else _free(db, number)
        _insert_sample(db, number, at, attempt.id, choice, json.dumps(sample), now)
        winner = None if index in {None, at} else _sample_at(db, number, index or 0)
        stored = StoredSample(at, dict(sample), attempt.id, now)
        recorded.append(Recorded(at if index is None else index, at, stored, winner))
    over = [claim for claim in attempt.claims if claim.index in finished.samples]
    _delete_claims(db, number, over)
    if not finished.more:
        _end(db, attempt, "done", None, finished.usage, finished.cost)
    return recorded


def fail(
    db: Database,
    attempt: Attempt,
    outcome: Outcome,
    error: str | None,
    usage: Mapping[str, Any] | None,
    cost: float | None,
) -> None:
    """Keep what an attempt cost."""
    brought = db.execute("SELECT 1 FROM sample WHERE attempt = ?", (attempt.id,))
    _end(db, attempt, "done" if brought else outcome, error, usage, cost)


def release(db: Database, claims: Iterable[Claim]) -> None:
    """Give up claims."""
    for claim in claims:
        number = _number(db, claim.request)
        if number is not None:
            _delete_claims(db, number, [claim])


def next_free(db: Database, request: Request) -> int:
    """The lowest index above every sample and every claim."""
    highest = [
        db.execute(
            f"SELECT max(t.idx) FROM {table} t JOIN request r ON r.id = t.request WHERE r.key = ?",  # noqa: S608
            (request.key,),
        )[0][0]
        for table in ("sample", "claim")
    ]
    return max(-1 if each is None else each for each in highest) + 1


def nearest(db: Database, request: Request, before: float | None) -> Nearest | None:
    """The request that is most like this one: the same messages first, then the same settings, then any."""
    for condition, values in (
        ("messages_hash = ? AND model = ?", (request.messages_hash, request.model)),
        ("messages_hash = ?", (request.messages_hash,)),
        ("settings_hash = ?", (request.settings_hash,)),
        ("provider = ? AND model = ?", (request.provider, request.model)),
        ("model = ?", (request.model,)),
    ):
        rows = db.execute(
            "SELECT request FROM request r WHERE key <> ? AND created < ? AND "  # noqa: S608 - the conditions are ours
            f"EXISTS (SELECT 1 FROM sample s WHERE s.request = r.id) AND {condition} "
            "ORDER BY id LIMIT ?",
            (request.key, 1e300 if before is None else before, *values, _CANDIDATES),
        )
        if rows:
            return nearest_of(request, (Request.read(text) for (text,) in rows))
    return None


def attempts(db: Database, request: Request | None, state: str | None) -> list[AttemptRow]:
    """The ledger."""
    rows = db.execute(
        "SELECT a.id, r.key, a.indexes, a.number, a.state, a.begun, a.ended, a.usage, a.cost, a.error "
        "FROM attempt a JOIN request r ON r.id = a.request "
        "WHERE (? = '' OR r.key = ?) AND (? = '' OR a.state = ?) ORDER BY a.begun, a.number",
        (*[request.key if request else ""] * 2, *[state or ""] * 2),
    )
    return [
        AttemptRow(
            id=row[0],
            key=row[1],
            indexes=json.loads(row[2]),
            number=row[3],
            state=row[4],
            begun=row[5],
            ended=row[6],
            usage=None if row[7] is None else json.loads(row[7]),
            cost=row[8],
            error=row[9],
        )
        for row in rows
    ]


def add_request(
    db: Database, request: Request, *, body: str | None = None, created: float | None = None
) -> int:
    """The request's number in this database; it is written down if it is new."""
    number = _number(db, request)
    if number is not None:
        return number
    db.execute(
        "INSERT INTO request "
        "(key, key_version, provider, model, settings_hash, messages_hash, request, body, created) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING",
        (
            request.key,
            KEY_VERSION,
            request.provider,
            request.model,
            request.settings_hash,
            request.messages_hash,
            request.text,
            body,
            time.time() if created is None else created,
        ),
    )
    number = _number(db, request)
    assert number is not None  # noqa: S101 - it was written a line above
    return number


def add_sample(
    db: Database, number: int, index: int, attempt: str, choice: int, trajectory: str, created: float
) -> bool:
    """Take in a sample from elsewhere, unless it is here already; says whether it was new."""
    if db.execute("SELECT 1 FROM sample WHERE attempt = ? AND choice = ?", (attempt, choice)):
        return False
    claimed = db.execute("SELECT 1 FROM claim WHERE request = ? AND idx = ?", (number, index))
    at = _free(db, number) if claimed or _sample_at(db, number, index) else index
    _insert_sample(db, number, at, attempt, choice, trajectory, created)
    return True


def _insert_sample(
    db: Database, number: int, index: int, attempt: str, choice: int, trajectory: str, created: float
) -> None:
    db.execute(
        "INSERT INTO sample (request, idx, attempt, choice, trajectory, created) VALUES (?, ?, ?, ?, ?, ?)",
        (number, index, attempt, choice, trajectory, created),
    )


def _may_have(db: Database, number: int, index: int, fences: Mapping[int, int]) -> bool:
    """Whether the index is not filled, and nobody else is about to."""
    ((fence, sample),) = db.execute(
        "SELECT (SELECT fence FROM claim WHERE request = ? AND idx = ?), "
        "(SELECT 1 FROM sample WHERE request = ? AND idx = ?)",
        (number, index) * 2,
    )
    return sample is None and fence in {None, fences.get(index)}


def _delete_claims(db: Database, number: int, claims: Iterable[Claim]) -> None:
    for claim in claims:
        db.execute(
            "DELETE FROM claim WHERE request = ? AND idx = ? AND fence = ?",
            (number, claim.index, claim.fence),
        )


def _number(db: Database, request: Request) -> int | None:
    rows = db.execute("SELECT id FROM request WHERE key = ?", (request.key,))
    return int(rows[0][0]) if rows else None


def _taken(db: Database, number: int) -> dict[int, str]:
    return dict(db.execute("SELECT idx, owner FROM claim WHERE request = ?", (number,)))


def _sample_at(db: Database, number: int, index: int) -> StoredSample | None:
    rows = db.execute(
        "SELECT idx, trajectory, attempt, created FROM sample WHERE request = ? AND idx = ?", (number, index)
    )
    return _sample(*rows[0]) if rows else None


def _sample(index: int, trajectory: str, attempt: str, created: float) -> StoredSample:
    return StoredSample(index, json.loads(trajectory), attempt, created)


def _free(db: Database, number: int) -> int:
    """The lowest index that has neither a sample nor a claim."""
    taken = {
        row[0]
        for table in ("sample", "claim")
        for row in db.execute(f"SELECT idx FROM {table} WHERE request = ?", (number,))  # noqa: S608
    }
    return next(index for index in range(len(taken) + 1) if index not in taken)


def _end(
    db: Database,
    attempt: Attempt,
    state: str,
    error: str | None,
    usage: Mapping[str, Any] | None,
    cost: float | None,
) -> None:
    db.execute(
        "UPDATE attempt SET state = ?, ended = ?, error = ?, usage = ?, cost = ? WHERE id = ?",
        (state, time.time(), error, None if usage is None else json.dumps(usage), cost, attempt.id),
    )
