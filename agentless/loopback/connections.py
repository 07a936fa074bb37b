"""One connection: requests in through h11, plans carried out.

This is the only place that waits. It is an `asyncio.Protocol` rather than a pair of streams because the
client's leaving is then an event, heard at once whatever the reply is doing, not the outcome of a read that
somebody would have to keep pending.
"""

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from typing import Final

import h11

from agentless.loopback.draft import End, Plan
from agentless.loopback.journal import Headers
from agentless.loopback.provider import Exchange, Provider, Request
from agentless.loopback.wire import head

_BEFORE_RESET: Final = 0.02
"""Seconds between the last bytes and a reset: a reset may overtake what the client has not read yet."""


class Connection(asyncio.Protocol):
    """One client's connection, kept for any number of requests."""

    def __init__(
        self, provider: Provider, number: int, sock: socket.socket, lost: Callable[["Connection"], None]
    ) -> None:
        self.sock = sock
        self._provider = provider
        self._number = number
        self._lost = lost
        self._parser = h11.Connection(h11.SERVER)
        self._request: h11.Request | None = None
        self._body: list[bytes] = []
        self._exchange: Exchange | None = None
        self._last = False
        self._task: asyncio.Task[None] | None = None
        self._flushed: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio has set TCP_NODELAY already."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # a narrowing for the type checker
        self._transport = transport
        # With no buffer above the kernel's, "written" means handed over, and times in the journal are right.
        transport.set_write_buffer_limits(high=0)

    def data_received(self, data: bytes) -> None:
        """A piece of a request, or the beginning of the next one."""
        if self._transport.is_closing():
            return
        self._parser.receive_data(data)
        if self._exchange is None:
            self._read()

    def eof_received(self) -> None:
        """The client has closed its side: it is not interested in the reply any more."""
        self._abandon()
        if not self._transport.is_closing():
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Both sides are closed."""
        del exc
        self._abandon()
        self._lost(self)

    def pause_writing(self) -> None:
        """The kernel has no room for what was written."""
        self._flushed = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """All of it is with the kernel now."""
        if self._flushed is not None and not self._flushed.done():
            self._flushed.set_result(None)
        self._flushed = None

    def drop(self) -> asyncio.Task[None] | None:
        """Close without further ado: the server is closed. What remains to be awaited is given back."""
        self._exchange, task = None, self._task
        if task is not None:
            task.cancel()
        self._transport.abort()
        return task

    def _read(self) -> None:
        while True:
            try:
                event = self._parser.next_event()
            except h11.RemoteProtocolError as error:
                message = str(error).encode()
                self._transport.write(head(400, {"content-length": str(len(message))}) + message)
                self._transport.close()
                return
            if isinstance(event, h11.Request):
                self._request, self._body = event, []
            elif isinstance(event, h11.Data):
                self._body.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage) and self._request is not None:
                self._begin(self._request, b"".join(self._body))
                return
            else:
                if self._parser.they_are_waiting_for_100_continue:
                    go_on = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
                    self._transport.write(self._parser.send(go_on) or b"")
                return

    def _begin(self, event: h11.Request, raw: bytes) -> None:
        headers = Headers((k.decode("latin-1"), v.decode("latin-1")) for k, v in event.headers)
        path = event.target.decode("latin-1")
        request = Request(event.method.decode("latin-1"), path, headers, raw, self._number)
        self._last = event.http_version < b"1.1" or "close" in headers.get("connection", "").lower()
        self._exchange = self._provider.answer(request)
        plan = self._exchange.plan
        only = plan.steps[0] if isinstance(plan.steps, list) and len(plan.steps) == 1 else None
        if isinstance(only, bytes):  # most replies are one write: no task is needed
            self._write(self._exchange, only, last=True)
            if self._flushed is None:
                self._end()
                return
            plan = Plan([])
        self._task = asyncio.get_running_loop().create_task(self._carry_out(self._exchange, plan))

    async def _carry_out(self, exchange: Exchange, plan: Plan) -> None:
        try:
            if self._flushed is not None:
                await self._flushed
                self._mark_ended(exchange)
            steps = iter(plan.steps)
            step = next(steps, None)
            clock = asyncio.get_running_loop().time
            due = clock()  # pauses add up to their sum: one that took longer is made up for in the next
            while step is not None:
                following = next(steps, None)
                if isinstance(step, bytes):
                    self._write(exchange, step, last=following is None)
                    if self._flushed is not None:
                        await self._flushed
                        if following is None:
                            self._mark_ended(exchange)
                elif isinstance(step, End):
                    await self._break_off(exchange, step)
                    return
                else:
                    due += step
                    await asyncio.sleep(due - clock())
                step = following
        except Exception as error:  # noqa: BLE001  # told to the server's owner, who sees it at close
            self._provider.errors.append(error)
            self.drop()
            return
        self._end()

    def _write(self, exchange: Exchange, data: bytes, *, last: bool) -> None:
        entry = exchange.entry
        if entry.started is None:
            entry.status = exchange.plan.status
            entry.started = time.monotonic()
            exchange.start()
            self._provider.journal.touch()
        if last:  # before the bytes go: a client that has read its whole reply finds a finished entry
            entry.ended = time.monotonic()
        self._transport.write(data)
        if last and self._flushed is not None:  # the kernel had no room: it has not ended yet
            entry.ended = None
        elif last:
            self._provider.journal.touch()

    async def _break_off(self, exchange: Exchange, end: End) -> None:
        if end is End.HANG:
            await asyncio.get_running_loop().create_future()  # only a cancellation ends this
        if end is End.RESET:
            if exchange.entry.started is not None:
                await asyncio.sleep(_BEFORE_RESET)
            linger = struct.pack("ii", 1, 0)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._mark_ended(exchange)
        self._exchange = self._task = None
        if end is End.RESET:
            self._transport.abort()
        else:
            self._transport.close()

    def _end(self) -> None:
        self._exchange = self._task = None
        if self._last:
            self._transport.close()
            return
        data, _ = self._parser.trailing_data
        self._parser = h11.Connection(h11.SERVER)
        if data:
            asyncio.get_running_loop().call_soon(self.data_received, data)

    def _mark_ended(self, exchange: Exchange) -> None:
        exchange.entry.ended = time.monotonic()
        self._provider.journal.touch()

    def _abandon(self) -> None:
        exchange, task = self._exchange, self._task
        self._exchange = self._task = None
        if exchange is not None:
            exchange.entry.client_left = time.monotonic()
            self._provider.journal.touch()
        if task is not None:
            task.cancel()
