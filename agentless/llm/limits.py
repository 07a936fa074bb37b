"""How many requests of one model may be under way, and when; process-wide, on the engine's loop.

A `Gate` belongs to a service and model, whatever the thread, the model object or the call: `max_concurrency`
counts all of them, a `Retry-After` holds all of them back, and a refusal of the account ends all that wait.
"""

import asyncio
import copy
from collections import deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

from agentless.llm import bridge

_gates: dict[Hashable, "Gate"] = {}


def gate_of(key: Hashable, max_concurrency: int) -> "Gate":
    """The gate of this model; the first caller's is everyone's."""
    gate = _gates.get((key, max_concurrency))
    if gate is None:
        gate = _gates.setdefault((key, max_concurrency), Gate(max_concurrency))
    return gate


class Gate:
    """Places for requests, first come first served; every method belongs on the engine's loop."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._queue: deque[asyncio.Future[None]] = deque()
        self._waiting: set[asyncio.Future[None]] = set()
        self._held_until = 0.0

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """A place for one attempt, from when it is free and nothing holds the model back.

        Raises:
            Exception: what `end_waits` was called with while this waited.
        """
        await self._enter()
        try:
            while (seconds := self._held_until - self._now()) > 0:
                await self.sleep(seconds)
            yield
        finally:
            self._leave()

    async def sleep(self, seconds: float) -> None:
        """Wait `seconds`, unless `end_waits` ends it with an error."""
        loop = asyncio.get_running_loop()
        over = loop.create_future()
        timer = loop.call_later(seconds, _finish, over)
        try:
            await self._wait(over)
        finally:
            timer.cancel()

    def hold(self, seconds: float) -> None:
        """Let no attempt begin for `seconds`: the service asked for it."""
        self._held_until = max(self._held_until, self._now() + seconds)

    def end_waits(self, error: Exception) -> None:
        """End all that wait here, for a place or a retry, with `error`; later comers are not affected."""
        for future in list(self._waiting):
            if not future.done():
                twin = copy.copy(error)
                twin.add_note(
                    "This call was waiting, and was not sent: the service refused another of this model."
                )
                future.set_exception(twin)

    async def _enter(self) -> None:
        if self._free > 0:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await self._wait(turn)
        except BaseException:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._leave()  # the place came together with the cancellation: pass it on
            raise

    def _leave(self) -> None:
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    async def _wait(self, future: "asyncio.Future[None]") -> None:
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _finish(over: "asyncio.Future[None]") -> None:
    if not over.done():
        over.set_result(None)


bridge.on_fork(_gates.clear)
