"""SQLite's own ways: opening a store's file, what its connections are set to, what its errors mean.

The standard library's `sqlite3`, by measurement (two cores, Python 3.11, 100,000 samples of 4 KB, medians):

    library           hit      put      put, fsync   8 processes       import    size
    sqlite3 (3.40)    16 µs    41 µs    3.9 ms       4,100 commits/s   21 ms     -
    apsw (3.54)       12 µs    34 µs    4.0 ms       3,700 commits/s   with it   11 MB
    SQLAlchemy Core   85 µs    158 µs   7.1 ms       not measured      850 ms    29 MB

apsw brings an SQLite without the WAL-reset bug, but another library on the same file must not be in the
process (closing a file drops the other's locks), and anything may import `sqlite3`. `files.Guard` closes the
bug off, and costs nothing: 5,000 commits/s without it and 4,100 to 5,100 with it, by 8 processes.
"""

import errno
import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from agentless.errors import AgentlessError, StoreError, StoreLockedError, StoreVersionError
from agentless.store.files import Life
from agentless.store.schema import APPLICATION_ID, SCHEMA_VERSION, TABLES, steps

_PATIENCE = 60.0  # seconds; the guard has its own, this is for other programs with the file
_MEANINGS = {
    sqlite3.SQLITE_FULL: "the disk is full; make room, and start again",
    sqlite3.SQLITE_READONLY: 'may not be written; give it the right, or open it with mode = "replay"',
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: its folder may not be written, or is not there",
    sqlite3.SQLITE_PERM: "may not be opened: permission denied",
    sqlite3.SQLITE_IOERR: "the disk cannot be read or written",
    sqlite3.SQLITE_NOTADB: "is not a store, nor any SQLite file; nothing was changed",
    sqlite3.SQLITE_CORRUPT: (
        "is damaged; nothing more is written. Take a copy, and export what can still be read"
    ),
}
_LOCKED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


class Connection:
    """A connection that `rows` can use; transactions are begun and ended by hand."""

    def __init__(self, path: Path, life: Life, *, mode: str = "rw") -> None:
        self.path = path
        self.synchronous = ""
        """As it was set."""
        self._life = life
        uri = path.resolve().as_uri() + ("?immutable=1" if mode == "immutable" else f"?mode={mode}")
        self._raw = sqlite3.connect(
            uri, uri=True, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
        )

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement."""
        return self._raw.execute(sql, values).fetchall()

    def stream(self, sql: str) -> sqlite3.Cursor:
        """Rows as they are read."""
        return self._raw.execute(sql)

    @property
    def in_transaction(self) -> bool:
        """False too after an error that has rolled everything back."""
        return self._raw.in_transaction

    def now(self) -> float:
        """The machine's clock since its start, the same for all its processes: no one sets it."""
        return time.monotonic()

    def is_alive(self, slot: int) -> bool:
        """Whether the process with this slot lives."""
        return self._life.is_alive(slot)

    def close(self) -> None:
        """Let go of the file."""
        with suppress(sqlite3.Error):
            self._raw.close()


def prepare(path: Path, life: Life) -> None:
    """Make the store, or make an older one today's; within the guard.

    Raises:
        StoreError: It is no store, it is damaged, it may not be written.
        StoreVersionError: It is newer than this package.
    """
    if path.exists() and path.stat().st_size:
        check_version(path, life)
    connection = Connection(path, life, mode="rwc")
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        ((found,),) = connection.execute("PRAGMA user_version")
        for statement in steps(found) if found else TABLES:
            if found < SCHEMA_VERSION:
                connection.execute(statement)
        if found < SCHEMA_VERSION:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    finally:
        connection.close()


def check_version(path: Path, life: Life, *, todays: bool = False) -> int:
    """The version of a file that is a store; reading it changes nothing, and makes no file beside it.

    Raises:
        StoreError: It is none.
        StoreVersionError: It is newer than this package; or older, where it has to be of today's version.
    """
    connection = Connection(path, life, mode=_reading_mode(path))
    try:
        ((application,),) = connection.execute("PRAGMA application_id")
        ((found,),) = connection.execute("PRAGMA user_version")
        ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_master")
    finally:
        connection.close()
    if application != APPLICATION_ID and tables:
        raise StoreError(f"{path}: is another program's SQLite file; nothing was changed", path=path)
    if found > SCHEMA_VERSION:
        raise StoreVersionError(
            f"{path}: was written by a newer version (its format is {found}, this package knows those up to "
            f"{SCHEMA_VERSION}); nothing was changed. Upgrade agentless-litellm",
            path=path,
            found=found,
            supported=SCHEMA_VERSION,
        )
    if todays and found < SCHEMA_VERSION:
        raise StoreVersionError(
            f"{path}: is of an older version ({found}, today's is {SCHEMA_VERSION}); open it once with "
            'mode = "read_write" to make it today\'s',
            path=path,
            found=found,
            supported=SCHEMA_VERSION,
        )
    return int(found)


def open_writer(path: Path, life: Life) -> Connection:
    """The one connection of a process that writes; within the guard."""
    connection = Connection(path, life)
    try:
        connection.execute("PRAGMA foreign_keys = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def open_reader(path: Path, life: Life) -> Connection:
    """A connection that reads; within the guard where the file can be written.

    Raises:
        StoreVersionError: Of an older version, and not to be changed.
    """
    check_version(path, life, todays=True)
    if not is_writable(path):
        return Connection(path, life, mode=_reading_mode(path))
    # The last connection to close takes the log's files away, which one in mode "ro" cannot do.
    connection = Connection(path, life)
    try:
        connection.execute("PRAGMA query_only = 1")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
    except BaseException:
        connection.close()
        raise
    return connection


def is_writable(path: Path) -> bool:
    """Whether a store could be written there."""
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def _reading_mode(path: Path) -> str:
    """Without a log the file is all there is, and can be read even where SQLite's own files cannot be."""
    log = path.with_name(path.name + "-wal")
    return "ro" if log.exists() and log.stat().st_size else "immutable"


def meaning(error: BaseException, path: Path) -> BaseException:
    """The error as callers get it: our own as it is, SQLite's in plain words."""
    if isinstance(error, AgentlessError):
        return error
    if isinstance(error, sqlite3.Error):
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
        if code in _LOCKED:
            text = f"another program has held it for {_PATIENCE:g} seconds; end that program"
            return StoreLockedError(f"{path}: {text}", path=path)
        return StoreError(f"{path}: {_MEANINGS.get(code, f'cannot be used: {error}')}", path=path)
    if isinstance(error, OSError):
        if error.errno == errno.ENOSPC:
            return StoreError(f"{path}: {_MEANINGS[sqlite3.SQLITE_FULL]}", path=path)
        return StoreError(f"{path}: {error.strerror or error}", path=path)
    return error
