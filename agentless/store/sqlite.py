"""The embedded engine: one SQLite file, for all threads and processes of one machine.

A process has one connection that writes, in a thread of its own, and one that reads, in the callers' threads.
Before a fork both are closed (SQLite does not survive it) and each side opens its own again at need.
"""

import atexit
import contextlib
import functools
import logging
import os
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import IO, Any, Self, TypeVar

from agentless.errors import StoreError
from agentless.store import exchange, rows, upkeep
from agentless.store.connections import (
    Connection,
    check_version,
    meaning,
    open_reader,
    prepare,
)
from agentless.store.differences import Nearest
from agentless.store.files import Guard, Life, check_folder
from agentless.store.keys import Request
from agentless.store.process import Process
from agentless.store.protocol import (
    OUTCOMES,
    Attempt,
    AttemptRow,
    Claim,
    Finished,
    Outcome,
    Plan,
    Pruned,
    Recorded,
    Selection,
    Stats,
    StoredSample,
    Transfer,
)

T = TypeVar("T")

LEASE = 60.0
"""Seconds for which a process that was stopped keeps its claims; one that died keeps none."""

PATIENCE = 60.0
"""Seconds to wait for another process's commit."""


class SQLiteStore:
    """`protocol.Store` in one file.

    Args:
        path: The file; it is made if it is not there.
        read_only: Nothing is written into it; where nothing can be, nothing is written beside it either.
        power: What has been recorded survives a power failure, and not only the process's death.
        lease: See `LEASE`.
        patience: See `PATIENCE`.
        logger: Instead of the `agentless` logger.

    Raises:
        StoreError: It cannot be opened, or is no store.
        StoreVersionError: It was written by a newer version.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        read_only: bool = False,
        power: bool = False,
        lease: float = LEASE,
        patience: float = PATIENCE,
        logger: logging.Logger | None = None,
    ) -> None:
        self._file = Path(path).absolute()
        self._read_only = read_only
        self._power = power
        self._lease = lease
        self._patience = patience
        self._logger = logger or logging.getLogger("agentless")
        self._open()
        self._parts = self._make_parts()
        _stores.add(self)

    @property
    def path(self) -> str:
        """The file."""
        return str(self._file)

    def look(self, request: Request, indexes: Sequence[int]) -> "Future[dict[int, StoredSample]]":
        """See `Store`; read in the caller's thread."""
        return self._read(lambda db: rows.look(db, request, indexes))

    def ask(self, request: Request, indexes: Sequence[int]) -> "Future[Plan]":
        """See `Store`; hits are read in the caller's thread."""
        found = self.look(request, indexes)
        if found.exception() is not None or found.result().keys() >= set(indexes):
            return _then(found, Plan)
        parts = self._parts

        def work(db: Connection) -> Plan:
            plan = rows.ask(db, parts.owner, request, indexes)
            parts.ticker.hold(claim.fence for claim in plan.claims)
            return plan

        return self._write(work)

    def wait(self, request: Request, indexes: Sequence[int]) -> "Future[None]":
        """See `Store`."""
        return self._parts.ticker.wait(request, tuple(indexes))

    def begin(self, claims: Sequence[Claim], *, body: Mapping[str, Any] | None = None) -> "Future[Attempt]":
        """See `Store`."""
        owner = self._parts.owner
        return self._write(lambda db: rows.begin(db, owner, claims, body))

    def record(self, attempt: Attempt, finished: Finished) -> "Future[list[Recorded]]":
        """See `Store`."""
        future = self._write(
            lambda db: rows.record(db, attempt, finished),
            durable=True,
            samples=[*finished.samples.values(), *finished.extra],
        )
        over = [claim for claim in attempt.claims if claim.index in finished.samples]
        return self._let_go(over, future)

    def fail(
        self,
        attempt: Attempt,
        outcome: Outcome,
        *,
        error: str | None = None,
        usage: Mapping[str, Any] | None = None,
        cost: float | None = None,
    ) -> "Future[None]":
        """See `Store`."""
        if outcome not in OUTCOMES:
            raise ValueError(f"an attempt's outcome is one of {', '.join(OUTCOMES)}, not {outcome!r}")
        return self._write(lambda db: rows.fail(db, attempt, outcome, error, usage, cost), durable=True)

    def release(self, claims: Iterable[Claim]) -> "Future[None]":
        """See `Store`."""
        ticker = self._parts.ticker
        given = [claim for claim in claims if ticker.holds(claim.fence)]
        if not given:
            return _then(_done(lambda: None), lambda none: none)
        return self._let_go(given, self._write(lambda db: rows.release(db, given)))

    def next_free(self, request: Request) -> "Future[int]":
        """See `Store`."""
        return self._read(lambda db: rows.next_free(db, request))

    def nearest(self, request: Request, *, before: float | None = None) -> "Future[Nearest | None]":
        """See `Store`."""
        return self._read(lambda db: rows.nearest(db, request, before))

    def attempts(
        self, *, request: Request | None = None, state: str | None = None
    ) -> "Future[list[AttemptRow]]":
        """See `Store`."""
        return self._read(lambda db: rows.attempts(db, request, state))

    def export_to(self, target: Path | str | IO[str]) -> Transfer:
        """See `Store`; what is written meanwhile is not in it."""
        with self._own_connection() as connection:
            return exchange.export_to(connection, target)

    def import_from(self, source: Path | str | IO[str]) -> Transfer:
        """See `Store`; what was taken in before an error stays."""
        return exchange.import_from(lambda work: self._write(work, durable=True).result(), source)

    def verify(self) -> list[str]:
        """See `Store`."""
        with self._own_connection() as connection:
            return upkeep.verify(connection)

    def stats(self) -> Stats:
        """See `Store`."""
        with self._own_connection() as connection:
            return upkeep.stats(connection)

    def prune(self, selection: Selection) -> Pruned:
        """See `Store`."""
        return self._write(lambda db: upkeep.prune(db, selection)).result()

    def vacuum(self) -> None:
        """See `Store`; nothing else is written meanwhile."""
        self._write(upkeep.vacuum, alone=True).result()

    def close(self) -> None:
        """See `Store`."""
        self._parts.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        again = functools.partial(
            SQLiteStore,
            read_only=self._read_only,
            power=self._power,
            lease=self._lease,
            patience=self._patience,
        )
        return again, (str(self._file),)

    def __repr__(self) -> str:
        return f"SQLiteStore({str(self._file)!r})"

    def _open(self) -> None:
        try:
            check_folder(self._file, must_exist=self._read_only)
            if self._read_only:
                check_version(self._file, Life(self._file), todays=True)
                return
            guard = Guard(self._file, self._patience)
            try:
                with guard:
                    prepare(self._file, Life(self._file))
            finally:
                guard.abandon()
        except Exception as error:
            told = meaning(error, self._file)
            if told is error:
                raise
            raise told from error

    def _make_parts(self) -> "Process":
        parts = Process(
            self._file,
            read_only=self._read_only,
            power=self._power,
            lease=self._lease,
            patience=self._patience,
            logger=self._logger,
        )
        self._finalizer = weakref.finalize(self, parts.close)
        self._finalizer.atexit = False  # see `_close_all`
        return parts

    def _read(self, work: Callable[[Connection], T]) -> "Future[T]":
        return _done(lambda: self._parts.reader.read(work))

    def _write(
        self,
        work: Callable[[Connection], T],
        *,
        durable: bool = False,
        alone: bool = False,
        samples: Sequence[Mapping[str, Any]] = (),
    ) -> "Future[T]":
        if self._read_only:

            def refuse() -> T:
                raise StoreError(f"{self._file}: is open for reading only", path=self._file)

            return _done(refuse)
        parts = self._parts
        future = parts.writer.submit(work, durable=durable, alone=alone, samples=samples)
        # What was renewed in a transaction that failed was not.
        future.add_done_callback(lambda done: parts.owner.forget() if done.exception() else None)
        return future

    def _let_go(self, claims: Sequence[Claim], future: "Future[T]") -> "Future[T]":
        if claims:
            ticker, fences = self._parts.ticker, [claim.fence for claim in claims]

            def let_go(done: "Future[T]") -> None:
                if done.exception() is None:
                    ticker.let_go(claims[0].request, fences)

            future.add_done_callback(let_go)
        return future

    @contextlib.contextmanager
    def _own_connection(self) -> Any:
        parts = self._parts
        with parts.guarded():
            connection = open_reader(self._file, parts.life)
        try:
            yield connection
        except Exception as error:
            told = meaning(error, self._file)
            if told is error:
                raise
            raise told from error
        finally:
            with parts.guarded():
                connection.close()


def _done(work: Callable[[], T]) -> "Future[T]":
    """A future that is done already."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()
    try:
        future.set_result(work())
    except Exception as error:  # noqa: BLE001 - who waits gets it
        future.set_exception(error)
    return future


def _then(done: "Future[Any]", change: Callable[[Any], T]) -> "Future[T]":
    return _done(lambda: change(done.result()))


_stores: "weakref.WeakSet[SQLiteStore]" = weakref.WeakSet()
_frozen: list[Process] = []


def _before_fork() -> None:
    for store in sorted(_stores, key=id):  # in one order, so that two forks at once cannot block each other
        parts = store._parts  # noqa: SLF001 - this module's own
        try:
            parts.freeze()
        except StoreError:
            continue  # another process is stopped with the lock: this fork has to do without
        _frozen.append(parts)


def _after_fork_in_parent() -> None:
    while _frozen:
        _frozen.pop().thaw()


def _after_fork_in_child() -> None:
    _frozen.clear()
    for store in list(_stores):
        store._finalizer.detach()  # noqa: SLF001
        store._parts.abandon()  # noqa: SLF001
        store._parts = store._make_parts()  # noqa: SLF001


def _close_all() -> None:
    for store in list(_stores):
        with contextlib.suppress(Exception):
            store.close()


# After all threads that are waited for, the calls' engine among them: what they finished is written.
atexit.register(_close_all)
os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)
