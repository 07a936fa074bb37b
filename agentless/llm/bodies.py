"""The body of a reply, watched as it comes: bytes for those above, or the events in them.

In a stream of server-sent events, a corrupt event and an error event end it with an exception exactly where
they stand. Measured on litellm 1.105.3 and httpx 0.28.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from agentless.llm.wire import Exchange

# Seconds between a stream's own end mark and the end of its body.
_LINGER = 0.5
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


class WatchedBody(httpx.AsyncByteStream):
    """A response's body that passes on what it reads, and says what is wrong with it."""

    def __init__(self, inner: httpx.AsyncByteStream, exchange: "Exchange", has_events: bool) -> None:
        self.is_closed = False
        self.has_events = has_events
        self._inner = inner
        self._exchange = exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async with aclosing(self._lines() if self.has_events else self._parts()) as parts:
            async for part in parts:
                yield part

    async def events(self) -> AsyncGenerator[Any, None]:
        """The events' JSON, instead of the bytes."""
        async with aclosing(self._judged()) as parts:
            async for _, events in parts:
                for event in events:
                    yield event
                if self._exchange.done:
                    await _read_out(parts)

    async def aclose(self) -> None:
        """Close the connection's part of it."""
        self.is_closed = True
        await self._inner.aclose()

    async def _parts(self) -> AsyncGenerator[bytes, None]:
        try:
            async for part in self._inner:
                self._exchange.note_body(part)
                yield part
        except Exception as error:
            self._exchange.failure = error
            raise

    async def _lines(self) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._judged()) as parts:
            async for lines, _ in parts:
                if lines:
                    yield b"".join(map(_escaped, lines))
                if self._exchange.done and (rest := await _read_out(parts)):
                    yield b"".join(map(_escaped, rest))

    async def _judged(self) -> AsyncGenerator[tuple[list[bytes], list[Any]], None]:
        """Whole lines, and the events in them; a fault comes after what stands before it."""
        rest: list[bytes] = []  # of a line that has not ended: joined once, however many parts it comes in
        try:
            async for part in self._inner:
                rest.append(part)
                if b"\n" not in part:
                    continue
                *lines, last = b"".join(rest).split(b"\n")
                rest = [last]
                good: list[bytes] = []
                events: list[Any] = []
                try:
                    for line in lines:
                        was_done = self._exchange.done
                        self._read_line(line, events)
                        if self._exchange.done and not was_done:  # SDKs stop reading at the end mark
                            yield good, events
                            good, events = [], []
                        good.append(line + b"\n")
                except WireFault:
                    yield good, events
                    raise
                yield good, events
            if last := b"".join(rest):
                events = []
                self._read_line(last, events)
                yield [last], events
        except Exception as error:
            self._exchange.failure = error
            raise

    def _read_line(self, line: bytes, events: list[Any]) -> None:
        # All formats we know send an event's data on one line: judged here, before it is passed on.
        if line.startswith(b"data:"):
            self._read_event(line[5:].strip(), events)

    def _read_event(self, text: bytes, events: list[Any]) -> None:
        if text == b"[DONE]":
            self._exchange.done = True
            return
        if not text:
            return
        try:
            event = json.loads(text)
        except ValueError:
            raise CorruptEventError(f"a stream event is not JSON: {text[:200]!r}") from None
        if isinstance(event, dict):
            kind, error = event.get("type"), event.get("error")
            if kind == "error" or error:
                raise ErrorEventError(error if isinstance(error, dict) else {"message": str(error or event)})
            if kind == "message_stop":
                self._exchange.done = True
        self._exchange.note_event(event)
        events.append(event)


async def _read_out(parts: AsyncIterator[tuple[list[bytes], Any]]) -> list[bytes]:
    """The rest of the body, so that the connection can be used again; but do not wait for it."""
    rest: list[bytes] = []
    try:
        async with asyncio.timeout(_LINGER):
            async for lines, _ in parts:
                rest += lines
    except (TimeoutError, httpx.TransportError):
        pass  # the reply was complete before
    return rest


def has_event_lines(response: httpx.Response) -> bool:
    """Claims that the body is a stream of events that can be read here."""
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
