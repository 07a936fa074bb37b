"""What one process has of an SQLite store: its connections, its threads, its sign of life."""

import contextlib
import logging
from concurrent.futures import Future
from pathlib import Path

from agentless.errors import StoreError
from agentless.store import rows
from agentless.store.connections import Connection, is_writable, open_reader, open_writer
from agentless.store.files import Guard, Life
from agentless.store.keys import Request
from agentless.store.leases import Owner, bury, bury_the_dead, renew
from agentless.store.reader import Reader
from agentless.store.ticker import Ticker
from agentless.store.writer import Writer


class Process:
    """What a process has of a store; a forked child has its own."""

    def __init__(
        self,
        file: Path,
        *,
        read_only: bool,
        power: bool,
        lease: float,
        patience: float,
        logger: logging.Logger,
    ) -> None:
        self.guard = Guard(file, patience) if not read_only or is_writable(file) else None
        self.life = Life(file)
        self.owner = Owner(self.life.slot, lease)
        self.reader = Reader(file, self.guarded(), lambda: open_reader(file, self.life))
        self.writer = Writer(file, self.guard or Guard(file, patience), self._open_writer, power=power)
        self.ticker = Ticker(self._renew, self._is_blocked, lease / 3)
        self._file = file
        self._logger = logger
        self._opened = False

    def guarded(self) -> contextlib.AbstractContextManager[None]:
        """One at a time, where something may be written."""
        return self.guard or contextlib.nullcontext()

    def close(self) -> None:
        """See `Store.close`."""
        self.ticker.close()
        if self._opened:
            self.writer.submit(lambda db: bury(db, self.owner.id))
        # The writer last: who closes last takes the log away, and leaves one whole file.
        with contextlib.suppress(StoreError):
            self.reader.close()
        if self.guard is not None:
            self.writer.close()
        self.life.end()
        if self.guard is not None:
            self.guard.abandon()

    def freeze(self) -> None:
        """Before a fork."""
        self.reader.lock.acquire()
        try:
            if self.guard is not None:
                self.guard.freeze(self._disconnect)
            else:
                self._disconnect()
        except BaseException:
            self.reader.lock.release()
            raise

    def thaw(self) -> None:
        """After a fork, in the parent."""
        if self.guard is not None:
            self.guard.thaw()
        self.reader.lock.release()

    def abandon(self) -> None:
        """After a fork, in the child: what is here is the parent's."""
        self.life.end()
        if self.guard is not None:
            self.guard.abandon()

    def _disconnect(self) -> None:
        self.reader.disconnect()
        self.writer.disconnect()

    def _open_writer(self) -> Connection:
        self.life.begin()
        connection = open_writer(self._file, self.life)
        try:
            connection.execute("BEGIN IMMEDIATE")
            bury_the_dead(connection)
            connection.execute("COMMIT")
        except BaseException:
            connection.close()  # or its transaction would keep everyone out
            raise
        self._opened = True
        return connection

    def _is_blocked(self, request: Request, index: int) -> bool:
        return self.reader.read(lambda db: rows.is_blocked(db, self.owner, request, index))

    def _renew(self) -> None:
        future = self.writer.submit(lambda db: renew(db, self.owner))

        def tell(done: "Future[None]") -> None:
            error = done.exception()
            if error is not None:
                self._logger.warning("the store's leases could not be renewed: %s", error)

        future.add_done_callback(tell)
