"""One thread that keeps a process's leases alive, and sees when others have done what is waited for."""

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future

from agentless.store.keys import Request

_SOONEST, _LATEST = 0.005, 0.05  # seconds between two looks at what other processes have done


class Ticker:
    """Renews while claims are held; looks while something is waited for; else it sleeps."""

    def __init__(
        self, renew: Callable[[], object], is_blocked: Callable[[Request, int], bool], period: float
    ) -> None:
        self._renew = renew
        self._is_blocked = is_blocked
        self._period = period
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._held: set[int] = set()
        self._waits: dict[Future[None], tuple[Request, tuple[int, ...]]] = {}
        self._changed: set[str] = set()
        self._pause = _SOONEST
        self._thread: threading.Thread | None = None
        self._closed = False

    def hold(self, fences: Iterable[int]) -> None:
        """These claims are this process's."""
        with self._lock:
            self._held.update(fences)
            self._start()

    def holds(self, fence: int) -> bool:
        """Whether this claim is not over yet, as far as this process knows."""
        with self._lock:
            return fence in self._held

    def let_go(self, request: Request, fences: Iterable[int]) -> None:
        """These claims are over; whoever waits for this request's samples looks again."""
        with self._lock:
            self._held.difference_update(fences)
            self._changed.add(request.key)
        self._woken.set()

    def wait(self, request: Request, indexes: tuple[int, ...]) -> "Future[None]":
        """Done when one of them is not under way by another any more."""
        future: Future[None] = Future()
        with self._lock:
            self._waits[future] = (request, indexes)
            self._pause = _SOONEST
            self._start()
        self._woken.set()
        return future

    def close(self) -> None:
        """End; whoever still waits looks for himself."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
            waits, self._waits = self._waits, {}
        self._woken.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        for future in waits:
            _settle(future, None)

    def _start(self) -> None:
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._run, name="agentless-store-ticker", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        renewal, look = time.monotonic() + self._period, 0.0
        while True:
            with self._lock:
                if self._closed:
                    return
                now = time.monotonic()
                holds, changed = bool(self._held), self._changed
                self._changed = set()
                waits = list(self._waits.items())
            if not holds:
                renewal = now + self._period  # who claims anew renews thereby
            elif now >= renewal:
                self._renew()
                renewal = now + self._period
            everything = now >= look
            for future, (request, indexes) in waits:
                if everything or request.key in changed:
                    self._look(future, request, indexes)
            if everything:
                look = time.monotonic() + self._pause
                self._pause = min(self._pause * 1.5, _LATEST)
            ends = ([renewal] if holds else []) + ([look] if waits else [])
            self._woken.wait(max(0.0, min(ends) - time.monotonic()) if ends else None)
            self._woken.clear()

    def _look(self, future: "Future[None]", request: Request, indexes: tuple[int, ...]) -> None:
        failure: Exception | None = None
        try:
            if not future.cancelled() and all(self._is_blocked(request, each) for each in indexes):
                return
        except Exception as error:  # noqa: BLE001 - who waits gets it
            failure = error
        with self._lock:
            self._waits.pop(future, None)
        _settle(future, failure)


def _settle(future: "Future[None]", failure: Exception | None) -> None:
    if future.done() or not future.set_running_or_notify_cancel():
        return
    if failure is None:
        future.set_result(None)
    else:
        future.set_exception(failure)
