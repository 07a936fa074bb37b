"""What an SQLite store needs of its folder: a local disk, a lock, a sign of life of each process.

Beside `samples.db` there is `samples.db-lock`, which is empty and stays.
"""

import fcntl
import os
import random
import re
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from agentless.errors import StoreError, StoreLockedError

NETWORK = frozenset(
    {
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "fuse.glusterfs",
        "fuse.s3fs",
        "fuse.sshfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "smb3",
        "smbfs",
    }
)
"""File systems of several machines, by Linux's names: SQLite's log needs memory that its users share."""

_MOUNTS = Path("/proc/self/mountinfo")
_FLOCK = "hhqqi4x"  # struct flock: type, whence, start, length, pid
_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC


def lock_path(path: Path) -> Path:
    """The lock's file."""
    return path.with_name(path.name + "-lock")


def check_folder(path: Path, mounts: str | None = None, *, must_exist: bool = False) -> None:
    """Refuse a place where no store can be.

    Raises:
        StoreError: It is a folder, it would be in none, or it is on a network file system.
    """
    if path.is_dir():
        raise StoreError(f"{path}: is a folder; a store is a file", path=path)
    if not path.parent.is_dir():
        raise StoreError(f"{path}: there is no folder {path.parent}; make it first", path=path)
    if must_exist and not path.exists():
        raise StoreError(f"{path}: there is no such store", path=path)
    kind = file_system_of(path.parent.resolve(), _read_mounts() if mounts is None else mounts)
    if kind in NETWORK:
        raise StoreError(
            f"{path}: is on a network file system ({kind}), where SQLite loses data; "
            "put the store on a disk of this machine",
            path=path,
        )


def file_system_of(folder: Path, mounts: str) -> str | None:
    """The kind of the file system that a folder is on, by the text of Linux's mountinfo."""
    best: tuple[int, str | None] = (-1, None)
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:  # noqa: PLR2004 - proc(5): the fifth is the mount point
            continue
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
        if folder.is_relative_to(point) and len(point) >= best[0]:
            best = len(point), after.split(" ")[0]
    return best[1]


def _read_mounts() -> str:
    try:
        return _MOUNTS.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return ""


class Guard:
    """One at a time, over threads and processes: around every commit, checkpoint, opening and closing.

    SQLite 3.7.0 to 3.51.2 can lose a commit when connections reset the log at the same time ("WAL-reset
    bug"); Python's own is often older. It also queues up better than SQLite's own busy handler.
    """

    def __init__(self, path: Path, patience: float) -> None:
        self.path = lock_path(path)
        self.patience = patience
        self._store = path
        self._lock = threading.Lock()
        self._file: int | None = None

    def __enter__(self) -> None:
        self._lock.acquire()
        try:
            if self._file is None:
                self._file = os.open(self.path, _OPEN, 0o666)
            self._wait(self._file)
        except BaseException as error:
            self._lock.release()
            if isinstance(error, OSError) and not isinstance(error, StoreError):
                raise StoreError(
                    f"{self._store}: nothing can be written in its folder ({error.strerror}: "
                    f'{self.path.name}); give it the right, or open it with mode = "replay"',
                    path=self._store,
                ) from error
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        self._lock.release()

    def freeze(self, disconnect: Callable[[], None]) -> None:
        """Before a fork: let go of all connections, and keep this process's threads from making new ones."""
        self.__enter__()
        try:
            disconnect()
        finally:
            if self._file is not None:
                fcntl.flock(self._file, fcntl.LOCK_UN)  # other stores of this process want it, too

    def thaw(self) -> None:
        """After a fork, in the parent."""
        self._lock.release()

    def abandon(self) -> None:
        """Let go of the lock's file; in a forked child of the parent's, whose lock stays the parent's."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _wait(self, file: int) -> None:
        # flock itself cannot be told to give up; a stopped process would hang all others without a word.
        pause, end = 0.0002, time.monotonic() + self.patience
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            if time.monotonic() > end:
                raise StoreLockedError(
                    f"{self._store}: another process has held its lock for {self.patience:g} seconds; "
                    f"look for one that is stopped (fuser {self.path})",
                    path=self._store,
                )
            time.sleep(pause)  # between two tries; `patience` bounds them all
            pause = min(pause * 1.5, 0.005)


class Life:
    """A process's sign of life: a lock on one byte, its slot, that the kernel takes back with the process.

    Where the system has no such locks, everyone may be alive, and leases alone decide.
    """

    can_tell = hasattr(fcntl, "F_OFD_SETLK")

    def __init__(self, path: Path) -> None:
        self._path = lock_path(path)
        self._file: int | None = None
        self.slot = random.randrange(1, 2**62)  # noqa: S311 - not a secret

    def begin(self) -> None:
        """Be seen to be alive."""
        if self._file is None:
            self._file = os.open(self._path, _OPEN, 0o666)
            if self.can_tell:
                fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _byte(fcntl.F_WRLCK, self.slot))

    def is_alive(self, slot: int) -> bool:
        """Whether the process with this slot lives."""
        if slot == self.slot or not self.can_tell:
            return True
        self.begin()
        assert self._file is not None  # noqa: S101 - begin has opened it
        answer = fcntl.fcntl(self._file, fcntl.F_OFD_GETLK, _byte(fcntl.F_WRLCK, slot))
        return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)

    def end(self) -> None:
        """Be alive no longer; in a forked child: let go of the parent's file, who stays alive."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _byte(kind: int, slot: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, slot, 1, 0)
