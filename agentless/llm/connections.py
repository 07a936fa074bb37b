"""A connection to each request: the one that was used last, or a new one."""

import asyncio
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import httpx

# After so long without a request a connection is closed: services close theirs after a minute or so.
_IDLE_SECONDS = 30.0

_closing: set[asyncio.Task[None]] = set()  # the loop itself holds tasks weakly


@dataclass(eq=False, slots=True)
class _Connection:
    """One connection at a time, in a transport of its own."""

    transport: httpx.AsyncHTTPTransport
    idle_since: float = 0.0

    def is_idle(self) -> bool:
        """What litellm asks of a pool's connections before it closes a client that it has put away."""
        return self.idle_since > 0


class Connections(httpx.AsyncBaseTransport):
    """An httpx transport with as many connections as there are requests, and no search among them.

    httpcore's own pool (1.0.9) asks every idle connection's socket at every request, which with 256 of them
    takes longer than the request.
    """

    def __init__(self, **options: Any) -> None:
        """Take the options of `httpx.AsyncHTTPTransport`, apart from `limits`."""
        limits = httpx.Limits(
            max_connections=None, max_keepalive_connections=1, keepalive_expiry=_IDLE_SECONDS
        )
        self._options = {**options, "limits": limits}
        self._kept = _Kept()
        # litellm drops its clients now and then without closing them.
        weakref.finalize(self, self._kept.close_soon).atexit = False

    @property
    def connections(self) -> tuple[_Connection, ...]:
        """Those that are kept, busy and idle."""
        return self._kept.all()

    @property
    def is_closed(self) -> bool:
        """Claims that a connection is not kept after its request."""
        return self._kept.is_closed

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request`; its connection is free again when the response is closed."""
        await self._kept.close_old()
        connection = self._kept.take() or _Connection(httpx.AsyncHTTPTransport(**self._options))
        self._kept.busy.add(connection)
        try:
            response = await connection.transport.handle_async_request(request)
        except BaseException:
            self._kept.release(connection)
            raise
        stream = cast("httpx.AsyncByteStream", response.stream)  # an async transport's
        response.stream = _Body(stream, partial(self._kept.release, connection))
        return response

    async def aclose(self) -> None:
        """Close every connection: a busy one when it is free.

        litellm closes a client that it has put away once nobody holds it; a reply that is still coming holds
        the connection alone.
        """
        await self._kept.close()


class _Kept:
    """The connections of a transport; it outlives the transport until they are closed."""

    def __init__(self) -> None:
        self.busy: set[_Connection] = set()
        self._idle: deque[_Connection] = deque()
        self.is_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def all(self) -> tuple[_Connection, ...]:
        return (*self.busy, *self._idle)

    def take(self) -> _Connection | None:
        self._loop = asyncio.get_running_loop()
        if not self._idle:
            return None
        connection = self._idle.pop()
        connection.idle_since = 0.0
        return connection

    def release(self, connection: _Connection) -> None:
        if connection in self.busy:
            self.busy.discard(connection)
            connection.idle_since = time.monotonic()
            self._idle.append(connection)
            if self.is_closed:
                self._begin_close()

    async def close_old(self) -> None:
        while self._idle and time.monotonic() - self._idle[0].idle_since > _IDLE_SECONDS:
            await self._idle.popleft().transport.aclose()

    async def close(self) -> None:
        self.is_closed = True
        while self._idle:
            await self._idle.pop().transport.aclose()

    def close_soon(self) -> None:
        """Close them from wherever the garbage is collected."""
        if self._loop is not None and not self._loop.is_closed() and self.all():
            self._loop.call_soon_threadsafe(self._begin_close)

    def _begin_close(self) -> None:
        task = asyncio.get_running_loop().create_task(self.close())
        _closing.add(task)
        task.add_done_callback(_closing.discard)


class _Body(httpx.AsyncByteStream):
    """A response's body that tells when it is closed."""

    def __init__(self, inner: httpx.AsyncByteStream, release: Callable[[], None]) -> None:
        self._inner = inner
        self._release = release

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._inner:
            yield part

    async def aclose(self) -> None:
        try:
            await self._inner.aclose()
        finally:
            self._release()
