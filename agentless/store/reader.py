"""One connection that reads, for all threads in turn: a hit takes some microseconds, a hand-over more."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from agentless.errors import StoreError
from agentless.store.connections import Connection, meaning

T = TypeVar("T")


class Reader:
    """Reads what is committed."""

    def __init__(
        self, path: Path, guard: AbstractContextManager[None], opener: Callable[[], Connection]
    ) -> None:
        self._path = path
        self._guard = guard
        self._opener = opener
        self._connection: Connection | None = None
        self._closed = False
        self.lock = threading.RLock()

    def read(self, work: Callable[[Connection], T]) -> T:
        """`work` on the connection.

        Raises:
            StoreError: It cannot be read.
        """
        try:
            with self.lock:
                return work(self._connected())
        except Exception as error:
            told = meaning(error, self._path)
            if told is error:
                raise
            raise told from error

    def disconnect(self) -> None:
        """Let go of the file until it is read again; within the guard."""
        with self.lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def close(self) -> None:
        """Let go of the file."""
        with self.lock:
            self._closed = True
            if self._connection is not None:
                with self._guard:
                    self.disconnect()

    def _connected(self) -> Connection:
        if self._closed:
            raise StoreError(f"{self._path}: the store is closed", path=self._path)
        if self._connection is None:
            with self._guard:
                connection = self._opener()
                try:
                    # Now, while it is guarded: the first to open a log reads it through, and may mend it.
                    connection.execute("SELECT count(*) FROM owner")
                except BaseException:
                    connection.close()
                    raise
                self._connection = connection
        return self._connection
