"""The connection breaks, stalls or speaks nonsense."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from agentless.loopback.draft import Draft, End, Plan, Step
from agentless.loopback.faults.fault import Fault, ReplyFault
from agentless.loopback.wire import chunk

When = Literal["request", "headers", "body", "stream"]


@dataclass(frozen=True)
class _Break(ReplyFault):
    """The connection ends at a point of the exchange.

    `request`: the request was read, nothing was sent (a server that crashes; not charged).
    `headers`: after the reply's headers. `body`: in the middle of the body, for streams in the middle of
    the event after `after_chunks` pieces. `stream`: between two events, after `after_chunks` pieces; in a
    whole reply the same as `body`. All but the first are charged: the reply was made.
    """

    when: When = "request"
    after_chunks: int = 1
    end: ClassVar[End]

    def plan(self, draft: Draft) -> Plan:
        """The reply up to that point, and the end."""
        if self.when == "request":
            return Plan([self.end], None, charged=False)
        if not draft.entry.stream:
            head = draft.head(len(draft.body))
            return Plan([head if self.when == "headers" else head + _half(draft.body), self.end])
        if self.when == "headers":
            return Plan([draft.head(), self.end])
        sent = [draft.opening(), *draft.paused(draft.events.pieces[: self.after_chunks])]
        if self.when == "body":
            remaining = draft.events.pieces[self.after_chunks :] or draft.events.finish
            sent.append(_half(chunk(remaining[0])))
        pause = [draft.chunk_delay] if draft.chunk_delay else []
        return Plan([*sent, *pause, self.end])


@dataclass(frozen=True)
class Reset(_Break):
    """The connection is reset (RST), as by a crashing server or a load balancer."""

    end: ClassVar[End] = End.RESET


@dataclass(frozen=True)
class CleanClose(_Break):
    """The connection is closed (FIN) without the rest, as by a server that is restarted."""

    end: ClassVar[End] = End.CLOSE


@dataclass(frozen=True)
class HalfHeaders(Fault):
    """The connection is closed in the middle of the headers. Not charged: no reply had begun."""

    def plan(self, draft: Draft) -> Plan:
        """Half of the head."""
        return Plan([_half(draft.head()), End.CLOSE], None, charged=False)


@dataclass(frozen=True)
class Garbage(Fault):
    """Bytes that are not HTTP, then a close: a TLS port, or a proxy that is something else."""

    data: bytes = b"\x15\x03\x01\x00\x02\x02\x46 this is not HTTP\r\n\r\n"

    def plan(self, draft: Draft) -> Plan:
        """The bytes."""
        del draft
        return Plan([self.data, End.CLOSE], None, charged=False)


@dataclass(frozen=True)
class CutBody(ReplyFault):
    """The body ends before its announced length; a stream after `after_chunks` pieces, without HTTP's end."""

    after_chunks: int = 1

    def plan(self, draft: Draft) -> Plan:
        """Part of the reply, then a clean close."""
        if not draft.entry.stream:
            return Plan([draft.head(len(draft.body)) + _half(draft.body), End.CLOSE])
        pieces = draft.paused(draft.events.pieces[: self.after_chunks])
        return Plan([draft.opening(), *pieces, End.CLOSE])


@dataclass(frozen=True)
class EndlessHeaders(Fault):
    """A status line, and then one header after another for ever: no read ever times out. Not charged."""

    interval: float = 0.1

    def plan(self, draft: Draft) -> Plan:
        """Headers without end."""
        del draft

        def steps() -> Iterator[Step]:
            yield b"HTTP/1.1 200 OK\r\n"
            number = 0
            while True:
                yield self.interval
                yield b"x-padding-%d: 0\r\n" % number
                number += 1

        return Plan(steps(), charged=False)


@dataclass(frozen=True)
class Drip(ReplyFault):
    """The right reply, one byte per `interval`, after the headers: outlives any time-out per read."""

    interval: float = 1.0

    def plan(self, draft: Draft) -> Plan:
        """The body byte by byte."""
        events = draft.events.all() if draft.entry.stream else []
        data = b"".join(map(chunk, [*events, b""])) if draft.entry.stream else draft.body
        head = draft.head() if draft.entry.stream else draft.head(len(data))

        def steps() -> Iterator[Step]:
            yield head
            for i in range(len(data)):
                yield self.interval
                yield data[i : i + 1]

        return Plan(steps())


@dataclass(frozen=True)
class Stall(ReplyFault):
    """Silence: at once (the request is accepted and never answered; not charged), or after part of a reply.

    With `after_chunks`: a stream stops after so many pieces, a whole reply in the middle of its body.
    """

    after_chunks: int | None = None

    def plan(self, draft: Draft) -> Plan:
        """Nothing, or part of the reply; then nothing."""
        if self.after_chunks is None:
            return Plan([End.HANG], None, charged=False)
        if not draft.entry.stream:
            return Plan([draft.head(len(draft.body)) + _half(draft.body), End.HANG])
        pieces = draft.paused(draft.events.pieces[: self.after_chunks])
        return Plan([draft.opening(), *pieces, End.HANG])


@dataclass(frozen=True)
class SlowStart(ReplyFault):
    """The right reply, late: a busy server's queue, or a long prompt.

    With `headers_first` the headers come at once and only the body is late, as from proxies.
    """

    seconds: float = 1.0
    headers_first: bool = False

    def plan(self, draft: Draft) -> Plan:
        """The reply after the wait."""
        steps = list(draft.plan().steps)
        if not self.headers_first:
            return Plan([self.seconds, *steps])
        head, body = bytes(steps[0]).split(b"\r\n\r\n", 1)  # type: ignore[arg-type]  # a plan opens with bytes
        return Plan([head + b"\r\n\r\n", self.seconds, body, *steps[1:]])


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]
