"""What one attempt does on the connection, watched and held to one request.

litellm (1.105.3) sends a POST again after a reset, a clean close, garbage, or a body cut midway; skips
corrupt stream events unseen; and names the same fault differently by provider. All its HTTP goes through
httpx, so a transport of ours under its clients sees what really happened, whatever the provider:

- a second POST to the same address within one attempt is refused: it never reaches the server;
- status, headers and the body of a refusal are kept for the retry decision;
- in a stream of server-sent events, a corrupt event and an error event end the stream with an exception
  exactly where they stand, and each well-formed event is reported (deadlines count those, not bytes);
- the response can be closed at once, whatever litellm's layers above do.

Requests outside an attempt (an application's own use of litellm) pass through untouched.
"""

import asyncio
import contextvars
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx

current: contextvars.ContextVar["Exchange | None"] = contextvars.ContextVar(
    "agentless_exchange", default=None
)

# Of a reply that cannot be used, as much as tells what it is about.
_KEPT_BYTES = 65_536
# After so long without a request a connection is closed: services close theirs after a minute or so.
_IDLE_SECONDS = 30.0
# httpx's `aiter_lines` (0.28) also splits at these, which JSON may hold raw inside a string.
_RAW_LINE_ENDS = (
    ("\u2028".encode(), rb"\u2028"),
    ("\u2029".encode(), rb"\u2029"),
    ("\x85".encode(), rb"\u0085"),
)


class WireFault(httpx.TransportError):
    """A fault that HTTP itself does not show."""


class CorruptEventError(WireFault):
    """A stream event that is not JSON."""


class ErrorEventError(WireFault):
    """A stream event by which the service says that it failed; `error` is its JSON object."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(str(error.get("message") or error))
        self.error = error


class TruncatedStreamError(WireFault):
    """A stream that ended in good order, but without the provider's finish reason."""


class SecondRequestError(WireFault):
    """Something below us tried to send an attempt's request again."""


class Exchange:
    """What one attempt sent and got; filled in by the transport while the attempt runs."""

    def __init__(self, is_streaming: bool = False) -> None:
        self.is_streaming = is_streaming
        self.on_event: Callable[[], None] | None = None
        self.requests = 0
        self.status: int | None = None
        self.headers: Mapping[str, str] = {}
        self.failure: Exception | None = None
        self.events = 0
        self.done = False
        """Claims that the stream's own end mark came (`[DONE]`, `message_stop`)."""
        self._body: list[bytes] = []
        self._sent: set[str] = set()
        self._responses: list[_Body] = []

    def admit(self, request: httpx.Request) -> None:
        """Count `request`, or refuse it where it is the same POST again.

        Raises:
            httpx.TransportError: the first request's own failure, or `SecondRequestError`.
        """
        if request.method != "POST":
            return  # a poll or a look-up, not a completion
        address = str(request.url)
        if address in self._sent:
            raise self.failure or SecondRequestError("a second request within one attempt was not sent")
        self._sent.add(address)
        self.requests += 1

    def note_response(self, response: httpx.Response, body: "_Body") -> None:
        """Keep what `response` says, and `body` to be closed."""
        self.status = response.status_code
        self.headers = response.headers
        self._responses.append(body)

    @property
    def text(self) -> str:
        """The body of a reply that was not a stream, as far as it was read."""
        return b"".join(self._body)[:_KEPT_BYTES].decode(errors="replace")

    def note_body(self, part: bytes) -> None:
        """Keep `part` for the case that nobody above can read it."""
        self._body.append(part)

    def note_event(self) -> None:
        """Count one well-formed event of a stream."""
        self.events += 1
        if self.on_event is not None:
            self.on_event()

    async def close(self) -> None:
        """Close the connections that are still open for this attempt; idempotent.

        In a task of its own, so that a second cancellation of the caller does not leave one open.
        """
        still_open = [response for response in self._responses if not response.is_closed]
        self._responses.clear()
        if still_open:
            closing = asyncio.gather(*(response.aclose() for response in still_open))
            await asyncio.shield(closing)


@dataclass(eq=False, slots=True)
class _Lane:
    """One connection at a time, in a transport of its own."""

    transport: httpx.AsyncHTTPTransport
    idle_since: float = 0.0

    def is_idle(self) -> bool:
        """What litellm asks of a pool's connections before it closes a client it has put away."""
        return self.idle_since > 0


class WatchedTransport(httpx.AsyncBaseTransport):
    """httpx's transport, with the attempt it runs in looking on; as many connections as there are requests.

    Each request has a connection to itself, the one that was used last: httpcore's own pool (1.0.9) asks
    every idle connection's socket at every request, which with 256 of them takes longer than the request.
    """

    def __init__(self, **options: Any) -> None:
        """Take the options of `httpx.AsyncHTTPTransport`, apart from `limits`."""
        limits = httpx.Limits(
            max_connections=None, max_keepalive_connections=1, keepalive_expiry=_IDLE_SECONDS
        )
        self._options = {**options, "limits": limits}
        self._idle: deque[_Lane] = deque()
        self._busy: set[_Lane] = set()

    @property
    def _pool(self) -> "WatchedTransport":
        return self  # where litellm looks for `connections`

    @property
    def connections(self) -> tuple[_Lane, ...]:
        """The connections that are kept, busy and idle."""
        return (*self._busy, *self._idle)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request`, if the current attempt admits it."""
        exchange = current.get()
        if exchange is not None:
            exchange.admit(request)
        await self._let_go_of_old()
        lane = self._idle.pop() if self._idle else _Lane(httpx.AsyncHTTPTransport(**self._options))
        lane.idle_since = 0.0
        self._busy.add(lane)
        try:
            response = await lane.transport.handle_async_request(request)
        except BaseException as error:
            if exchange is not None and isinstance(error, Exception):
                exchange.failure = error
            self._release(lane)
            raise
        stream = response.stream
        assert isinstance(stream, httpx.AsyncByteStream)  # noqa: S101  # an async transport's
        release = partial(self._release, lane)
        if exchange is None:
            response.stream = _Body(stream, release)
        else:
            response.stream = body = _WatchedBody(stream, release, exchange, _has_event_lines(response))
            exchange.note_response(response, body)
            # On a refusal the OpenAI SDK else waits and sends again where litellm loses `max_retries=0`.
            response.headers["x-should-retry"] = "false"
        return response

    async def aclose(self) -> None:
        """Close every connection."""
        lanes = self.connections
        self._idle.clear()
        self._busy.clear()
        for lane in lanes:
            await lane.transport.aclose()

    def _release(self, lane: _Lane) -> None:
        if lane in self._busy:
            self._busy.discard(lane)
            lane.idle_since = time.monotonic()
            self._idle.append(lane)

    async def _let_go_of_old(self) -> None:
        while self._idle and time.monotonic() - self._idle[0].idle_since > _IDLE_SECONDS:
            await self._idle.popleft().transport.aclose()


class _Body(httpx.AsyncByteStream):
    """A response's body, whose connection is free for another request when it is closed."""

    def __init__(self, inner: httpx.AsyncByteStream, release: Callable[[], None]) -> None:
        self.is_closed = False
        self._inner = inner
        self._release = release

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._inner:
            yield part

    async def aclose(self) -> None:
        self.is_closed = True
        try:
            await self._inner.aclose()
        finally:
            self._release()


class _WatchedBody(_Body):
    """A body that passes on what it reads, and says what is wrong with it."""

    def __init__(
        self,
        inner: httpx.AsyncByteStream,
        release: Callable[[], None],
        exchange: Exchange,
        may_have_events: bool,
    ) -> None:
        super().__init__(inner, release)
        self._exchange = exchange
        self._has_events = may_have_events and exchange.is_streaming

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._events() if self._has_events else self._whole():
                yield part
        except Exception as error:
            self._exchange.failure = error
            raise

    async def _whole(self) -> AsyncIterator[bytes]:
        async for part in self._inner:
            self._exchange.note_body(part)
            yield part

    async def _events(self) -> AsyncIterator[bytes]:
        """Whole lines only, so that an exception stands exactly between the events it separates."""
        rest = b""
        data: list[bytes] = []
        async for part in self._inner:
            *lines, rest = (rest + part).split(b"\n")
            good: list[bytes] = []
            for line in lines:
                try:
                    self._read_line(line, data)
                except WireFault:
                    if good:
                        yield b"\n".join(good) + b"\n"
                    raise
                good.append(_escaped(line))
            if good:
                yield b"\n".join(good) + b"\n"
        if rest:
            self._read_line(rest, data)
            yield _escaped(rest)
        self._read_event(data)

    def _read_line(self, line: bytes, data: list[bytes]) -> None:
        line = line.rstrip(b"\r")
        if line.startswith(b"data:"):
            data.append(line[5:])
            # All formats we know send an event's data on one line: judge it here, before it is passed on.
            self._read_event(data)

    def _read_event(self, data: list[bytes]) -> None:
        if not data:
            return
        text = b"\n".join(data).strip()
        data.clear()
        if text == b"[DONE]":
            self._exchange.done = True
            return
        if not text:
            return
        try:
            event = json.loads(text)
        except ValueError:
            raise CorruptEventError(f"a stream event is not JSON: {text[:200]!r}") from None
        if isinstance(event, dict) and (event.get("type") == "error" or event.get("error")):
            error = event.get("error")
            raise ErrorEventError(error if isinstance(error, dict) else {"message": str(error or event)})
        if isinstance(event, dict) and event.get("type") == "message_stop":
            self._exchange.done = True
        self._exchange.note_event()


def _has_event_lines(response: httpx.Response) -> bool:
    # By what it is not: servers exist that send events under `text/plain` or no type at all.
    # A compressed stream cannot be read here; litellm asks for none, and providers send none.
    kind = response.headers.get("content-type", "")
    return (
        response.is_success
        and "json" not in kind
        and "amazon.eventstream" not in kind
        and response.headers.get("content-encoding", "identity") == "identity"
    )


def _escaped(line: bytes) -> bytes:
    if line.startswith(b"data:"):
        for raw, escape in _RAW_LINE_ENDS:
            if raw in line:
                line = line.replace(raw, escape)
    return line
