"""Pieces from the engine to a consumer that blocks or awaits; who leaves early stops the work."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from agentless.llm.bridge import Job, engine

T = TypeVar("T")


class Pipe(Generic[T]):
    """Pieces from the engine to one consumer, in order; what is there is handed over together.

    `produce(emit)` runs on the engine when the first piece is asked for, and calls `emit(piece)` for
    each. The buffer has no bound: the provider is read as fast as it sends, so a slow consumer is never
    taken for a stalled provider.
    """

    def __init__(self, produce: Callable[[Callable[[T], None]], Coroutine[Any, Any, Any]]) -> None:
        self._produce = produce
        self._buffer: deque[T] = deque()
        # Re-entrant: a garbage collection inside `_emit` may finalise this very pipe's stream.
        self._lock = threading.RLock()
        self._wake: Callable[[], None] | None = None
        self._job: Job[Any] | None = None
        self._waking = False
        self._ended = False
        self._closed = False

    def start(self) -> None:
        """Begin the work, once; after `close` there is none to begin."""
        with self._lock:
            if self._job is not None or self._closed:
                return
            self._job = engine().submit(self._produce(self._emit))
        self._job.future.add_done_callback(lambda _: self._end())

    def ready(self) -> T | None:
        """The next piece if it is there."""
        try:
            return self._buffer.popleft()
        except IndexError:
            return None

    def take(self, wake: Callable[[], None]) -> T | None:
        """The next piece; `None` when there is none yet (then `wake` is called once) or no more."""
        with self._lock:
            if self._buffer:
                return self._buffer.popleft()
            if not self._ended:
                self._wake = wake
            return None

    @property
    def ended(self) -> bool:
        """Claims that nothing more will come."""
        with self._lock:
            return self._ended and not self._buffer

    def outcome(self) -> None:
        """Raise what ended the work, if it failed."""
        if self._job is not None and not self._closed:
            self._job.future.result()

    def close(self) -> None:
        """Stop the work and drop what is buffered; idempotent, callable from any thread."""
        with self._lock:
            self._closed = self._ended = True
            self._buffer.clear()
        if self._job is not None:
            self._job.cancel()

    def _emit(self, piece: T) -> None:
        with self._lock:
            if self._closed:  # the cancellation is on its way
                return
            self._buffer.append(piece)
            waits = self._wake is not None and not self._waking
            self._waking = self._waking or waits
        if waits:  # once for all that is emitted in this turn of the loop
            asyncio.get_running_loop().call_soon(self._wake_consumer)

    def _wake_consumer(self) -> None:
        with self._lock:
            self._waking = False
            wake, self._wake = self._wake, None
        if wake is not None:
            wake()

    def _end(self) -> None:
        with self._lock:
            self._ended = True
        self._wake_consumer()


class Stream(Iterator[T], Generic[T]):
    """A blocking iterator over a pipe; leaving it (close, `with`, garbage collection) stops the work."""

    def __init__(self, produce: Callable[[Callable[[T], None]], Coroutine[Any, Any, Any]]) -> None:
        self._pipe: Pipe[T] = Pipe(produce)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        pipe = self._pipe
        if (piece := pipe.ready()) is not None:
            return piece
        try:
            pipe.start()
            while True:
                arrived = threading.Lock()
                arrived.acquire()
                piece = pipe.take(arrived.release)
                if piece is not None:
                    return piece
                if pipe.ended:
                    pipe.outcome()
                    raise StopIteration  # noqa: TRY301  # the end of an iterator is no failure
                arrived.acquire()
        except StopIteration:
            raise
        except BaseException:
            pipe.close()
            raise

    def close(self) -> None:
        """Stop the work at the provider; nothing more is yielded."""
        self._pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self._pipe.close()


class AsyncStream(AsyncIterator[T], Generic[T]):
    """An async iterator over a pipe; leaving it (aclose, `async with`, garbage collection) stops the work."""

    def __init__(self, produce: Callable[[Callable[[T], None]], Coroutine[Any, Any, Any]]) -> None:
        self._pipe: Pipe[T] = Pipe(produce)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        pipe = self._pipe
        if (piece := pipe.ready()) is not None:
            return piece
        try:
            pipe.start()
            while True:
                loop = asyncio.get_running_loop()
                arrived: asyncio.Future[None] = loop.create_future()
                piece = pipe.take(lambda: _wake_loop(loop, arrived))  # noqa: B023  # taken within this turn
                if piece is not None:
                    return piece
                if pipe.ended:
                    pipe.outcome()
                    raise StopAsyncIteration  # noqa: TRY301  # as above
                await arrived
        except StopAsyncIteration:
            raise
        except BaseException:
            pipe.close()
            raise

    async def aclose(self) -> None:
        """Stop the work at the provider; nothing more is yielded."""
        self._pipe.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        self._pipe.close()


def _wake_loop(loop: asyncio.AbstractEventLoop, arrived: "asyncio.Future[None]") -> None:
    try:
        loop.call_soon_threadsafe(lambda: None if arrived.done() else arrived.set_result(None))
    except RuntimeError:  # the consumer's loop is closed: nobody waits any more
        return
