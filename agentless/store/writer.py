"""One thread that writes: what is handed in while it commits goes into the next commit together."""

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from agentless.errors import StoreError
from agentless.store.connections import Connection, meaning
from agentless.store.files import Guard

T = TypeVar("T")

_MOST = 256  # operations in one commit


@dataclass(slots=True)
class Operation(Generic[T]):
    """Something to do in a transaction; `future` is done when it is durable."""

    work: Callable[[Connection], T]
    durable: bool
    """Claims that it has to survive a power failure, where the store is set to."""
    alone: bool
    """Claims that it cannot be in a transaction."""
    samples: Sequence[Mapping[str, Any]] = ()
    """What is lost unless the error has it."""
    future: "Future[T]" = field(default_factory=Future)

    def settle(self, result: T | None, failure: BaseException | None) -> None:
        """Tell who waits."""
        if failure is None:
            self.future.set_result(result)  # type: ignore[arg-type]  # T may be None
            return
        if self.samples:
            if not isinstance(failure, StoreError):
                cause, failure = failure, StoreError(f"a sample cannot be stored: {failure}")
                failure.__cause__ = cause
            failure.samples = tuple(self.samples)
            failure.add_note(f"Finished and not stored: {len(self.samples)}, in this error's `samples`.")
        self.future.set_exception(failure)


class Writer:
    """Operations in the order they came; each for itself all or nothing."""

    def __init__(self, path: Path, guard: Guard, opener: Callable[[], Connection], *, power: bool) -> None:
        self._path = path
        self._guard = guard
        self._opener = opener
        self._power = power
        self._queue: queue.SimpleQueue[Operation[Any] | None] = queue.SimpleQueue()
        self._connection: Connection | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = False

    def submit(
        self,
        work: Callable[[Connection], T],
        *,
        durable: bool = False,
        alone: bool = False,
        samples: Sequence[Mapping[str, Any]] = (),
    ) -> "Future[T]":
        """Have it done; it is not called off any more."""
        operation = Operation(work, durable, alone, samples)
        operation.future.set_running_or_notify_cancel()
        with self._lock:
            if self._closed:
                operation.settle(None, StoreError(f"{self._path}: the store is closed", path=self._path))
                return operation.future
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="agentless-store", daemon=True)
                self._thread.start()
            self._queue.put(operation)
        return operation.future

    def close(self) -> None:
        """Finish what was handed in, then let go of the file."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            if thread is not threading.current_thread():
                thread.join()
        with suppress(Exception), self._guard:
            self.disconnect()

    def disconnect(self) -> None:
        """Let go of the file until the next operation; within the guard."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            group, last = [first], False
            while len(group) < _MOST and not last:
                try:
                    following = self._queue.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    last = True
                else:
                    group.append(following)
            self._commit_all(group)
            if last:
                return

    def _commit_all(self, group: list[Operation[Any]]) -> None:
        rest = [each for each in group if not each.alone]
        for part in ([rest] if rest else []) + [[each] for each in group if each.alone]:
            settle = self._commit(part)
            if settle is None:  # one has spoilt it for all: each by itself
                for each in part:
                    again = self._commit([each])
                    assert again is not None  # noqa: S101 - one alone has an outcome
                    again()
            else:
                settle()

    def _commit(self, group: list[Operation[Any]]) -> Callable[[], None] | None:
        """Do them in one commit; returns what tells the callers, or `None` where several failed as one."""
        outcomes: list[tuple[Any, BaseException | None]] = []
        try:
            with self._guard:
                try:
                    outcomes = self._within(group)
                except BaseException:
                    if self._connection is not None and self._connection.in_transaction:
                        with suppress(Exception):
                            self._connection.execute("ROLLBACK")
                    raise
        except BaseException as error:  # noqa: BLE001 - who waits gets it
            if len(group) > 1:
                return None
            outcomes = [(None, meaning(error, self._path))]

        def settle() -> None:
            for operation, (result, failure) in zip(group, outcomes, strict=True):
                operation.settle(result, failure)

        return settle

    def _within(self, group: list[Operation[Any]]) -> list[tuple[Any, BaseException | None]]:
        if self._connection is None:
            self._connection = self._opener()
        connection = self._connection
        if group[0].alone:
            return [(group[0].work(connection), None)]
        level = "FULL" if self._power and any(each.durable for each in group) else "NORMAL"
        if level != connection.synchronous:
            connection.execute(f"PRAGMA synchronous = {level}")
            connection.synchronous = level
        connection.execute("BEGIN IMMEDIATE")
        outcomes: list[tuple[Any, BaseException | None]] = []
        for each in group:
            if len(group) > 1:
                connection.execute("SAVEPOINT operation")
            try:
                outcomes.append((each.work(connection), None))
            except BaseException as error:  # its caller's
                if len(group) == 1 or not connection.in_transaction:
                    raise
                connection.execute("ROLLBACK TO operation")
                outcomes.append((None, meaning(error, self._path)))
            if len(group) > 1:
                connection.execute("RELEASE operation")
        connection.execute("COMMIT")
        return outcomes
