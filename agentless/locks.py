"""Locks that a forked child finds open, whoever held them in the parent."""

# It registers for forks what must not come while one is waiting here.
import concurrent.futures.thread  # noqa: F401
import os
import threading
import weakref
from contextlib import suppress
from types import TracebackType

_MOST_WAIT = 10.0  # seconds that a fork waits for an import
_locks: "weakref.WeakSet[ForkLock]" = weakref.WeakSet()
_delaying: "list[ForkLock]" = []  # the few of modules: they stay


class ForkLock:
    """A lock for threads; `with lock:` around what two must not do at once.

    A child of a fork has none of the parent's threads, and a lock that one of them held would never open.
    """

    def __init__(self, *, delays_forks: bool = False) -> None:
        """Make it.

        Args:
            delays_forks: Let a fork wait until it is free: what is done under it imports modules, and the
                import system's own locks are not made anew in the child.
        """
        self._lock = threading.RLock()
        self._is_held_for_fork = False
        _locks.add(self)
        if delays_forks:
            _delaying.append(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(RuntimeError):  # its holder has forked: the child's is another
            self._lock.release()

    def before_fork(self) -> None:
        """Wait for who imports under it."""
        self._is_held_for_fork = self._lock.acquire(timeout=_MOST_WAIT)

    def after_fork(self) -> None:
        """Let go, in the parent."""
        if self._is_held_for_fork:
            self._is_held_for_fork = False
            self._lock.release()

    def begin_anew(self) -> None:
        """Be open, in the child."""
        self._is_held_for_fork = False
        self._lock = threading.RLock()


def _before_fork() -> None:
    for lock in _delaying:
        lock.before_fork()


def _after_fork() -> None:
    for lock in _delaying:
        lock.after_fork()


def _begin_anew() -> None:
    for lock in list(_locks):
        lock.begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_begin_anew)


IMPORTS = ForkLock(delays_forks=True)
"""Around an import within a function, which another thread's fork could meet half done."""
