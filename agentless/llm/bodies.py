"""The body of a reply, watched as it comes: bytes for those above, or the events in them.

In a stream of server-sent events, a corrupt event and an error event end it with an exception exactly where
they stand. Measured on litellm 1.105.3 and httpx 0.28.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import httpx

from agentless.llm.service_words import error_in, in_one_line, parse_json

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
                    yield b"".join(lines)
                if self._exchange.done and (rest := await _read_out(parts)):
                    yield b"".join(rest)

    async def _judged(self) -> AsyncGenerator[tuple[list[bytes], list[Any]], None]:
        """Whole lines, and the events in them; a fault comes after what stands before it."""
        reader = _EventReader(self._exchange)
        lines = _Lines()
        try:
            async for part in self._inner:
                try:
                    for line in lines.add(part):
                        was_done = self._exchange.done
                        reader.read(line)
                        if self._exchange.done and not was_done:  # SDKs stop reading at the end mark
                            last = reader.good.pop()
                            yield reader.taken()
                            reader.good.append(last)
                except WireFault:
                    yield reader.taken()
                    raise
                if reader.good or reader.events:
                    yield reader.taken()
            try:
                if last := lines.rest():
                    reader.read(last)
                reader.end()
            except WireFault:
                yield reader.taken()
                raise
            if reader.good or reader.events:
                yield reader.taken()
        except Exception as error:
            self._exchange.failure = error
            raise


class _Lines:
    """Splits bytes into lines as the standard of server-sent events has them: by LF, CRLF or CR."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []  # of a line that has not ended: joined once, however many they are
        self._begins = True
        self._skips_lf = False  # the last line ended with a CR, whose LF may come with the next part

    def add(self, part: bytes) -> list[bytes]:
        """The lines that end in `part`."""
        if self._skips_lf and part:
            self._skips_lf = False
            part = part.removeprefix(b"\n")
        if b"\n" not in part and b"\r" not in part:
            self._parts.append(part)
            return []
        text = b"".join((*self._parts, part))
        self._skips_lf = text.endswith(b"\r")
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, last = text.split(b"\n")
        self._parts = [last]
        return self._unmarked(lines)

    def rest(self) -> bytes:
        """The last line, which has no end."""
        return b"".join(self._unmarked([b"".join(self._parts)]))

    def _unmarked(self, lines: list[bytes]) -> list[bytes]:
        if self._begins:
            self._begins = False
            lines[0] = lines[0].removeprefix(_MARK)
        return lines


_MARK = "\ufeff".encode()


class _EventReader:
    """Reads lines into events, and says where they are none."""

    def __init__(self, exchange: "Exchange") -> None:
        self.good: list[bytes] = []
        """Lines to pass on, of which each event has one."""
        self.events: list[Any] = []
        self._exchange = exchange
        self._name = b""  # of the event whose lines are being read
        self._data: list[bytes] = []  # of an event whose JSON has not ended
        self._strays: list[bytes] = []  # what is no stream's line
        self._strays_size = 0

    def taken(self) -> tuple[list[bytes], list[Any]]:
        """What has been read since the last time."""
        taken = (self.good, self.events)
        self.good, self.events = [], []
        return taken

    def read(self, line: bytes) -> None:
        """Take in a line; raises `WireFault` where it says that the service failed, or nothing readable."""
        if line.startswith(b"data:"):
            self._add_data(line[5:].strip(), line)
        elif not line.strip():
            self._end_event()
            self.good.append(b"\n")
        elif line.startswith(b"event:"):
            self._name = line[6:].strip()
            self.good.append(line + b"\n")
        elif line.startswith(b"error:"):  # llama.cpp's
            self._fail(line[6:].strip())
        elif line.startswith((b":", b"id:", b"retry:")) or line in {b"data", b"event", b"id", b"retry"}:
            self.good.append(line + b"\n")
        elif self._strays_size < _MOST_STRAY:
            self._strays.append(line)
            self._strays_size += len(line)

    def end(self) -> None:
        """The body has ended."""
        self._end_event()
        text = b"\n".join(self._strays).strip()
        if not text:
            return
        try:
            body = parse_json(text)
        except ValueError:
            if self._exchange.events == 0:
                said = in_one_line(text[:_MOST_STRAY].decode(errors="replace"))
                raise CorruptEventError(f"not a stream of events: {said}") from None
            return
        if error := error_in(body):
            raise ErrorEventError(error)
        if self._exchange.events == 0:  # a whole reply in the stream's place
            self._take(body, text.replace(b"\n", b" "))
            self.good.append(b"\n")

    def _add_data(self, text: bytes, line: bytes) -> None:
        if self._data:
            self._data.append(text)
        elif text == b"[DONE]":
            self._exchange.done = True
            self.good.append(line + b"\n")
        elif not text:
            self.good.append(line + b"\n")
        elif not text.startswith(b":"):  # a comment that a gateway sends on as data
            try:
                event = parse_json(text)
            except ValueError:
                self._data.append(text)  # its JSON may go on in the next line
            else:
                self._take(event, text, line)

    def _end_event(self) -> None:
        name, data = self._name, self._data
        self._name, self._data = b"", []
        if not data or name.lower() in _SIGNS_OF_LIFE:
            return
        text = b" ".join(data)  # JSON has no raw line ends within texts
        self._name = name
        try:
            event = parse_json(text)
        except ValueError:
            if name == b"error":
                self._fail(text)
            raise CorruptEventError(f"a stream event is not JSON: {text[:200]!r}") from None
        self._take(event, text)
        self._name = b""

    def _take(self, event: Any, text: bytes, line: bytes | None = None) -> None:
        is_error = self._name == b"error" or (isinstance(event, dict) and event.get("type") == "error")
        error = error_in(event) if self._exchange.events == 0 or is_error or _is_error(event) else None
        if is_error and error is None:
            error = {"message": text.decode(errors="replace")[:500]}
        if error is not None:
            raise ErrorEventError(error)
        if isinstance(event, dict) and event.get("type") == "message_stop":
            self._exchange.done = True
        self._exchange.note_event(event)
        self.events.append(event)
        self.good.append(_escaped(line or b"data: " + text) + b"\n")

    def _fail(self, text: bytes) -> None:
        try:
            body = parse_json(text)
        except ValueError:
            body = None
        said = text.decode(errors="replace")
        raise ErrorEventError(error_in({"error": body}) or {"message": said} if body else {"message": said})


def _is_error(event: Any) -> bool:
    return isinstance(event, dict) and not event.keys().isdisjoint(_ERROR_FIELDS)


_ERROR_FIELDS = frozenset({"error", "detail", "base_resp", "code", "object"})
_SIGNS_OF_LIFE = frozenset({b"ping", b"heartbeat", b"keepalive", b"keep-alive", b"keep_alive"})
_MOST_STRAY = 1_048_576  # bytes


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
        and "html" not in kind
        and "amazon.eventstream" not in kind
        and response.headers.get("content-encoding", "identity") == "identity"
    )


def _escaped(text: bytes) -> bytes:
    for raw, escape in _RAW_LINE_ENDS:
        if raw in text:
            text = text.replace(raw, escape)
    return text
