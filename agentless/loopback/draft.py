"""A reply about to be sent: what it looks like on the wire, and the plan by which it is sent.

A plan is plain data (bytes to write, seconds to wait, an end): faults are made by changing plans, without
I/O, and `connections` is the only place that carries them out.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property

from agentless.loopback.journal import Entry
from agentless.loopback.prompt_cache import PromptUse
from agentless.loopback.replies import Reply, charged
from agentless.loopback.wire import JSON, LAST_CHUNK, SSE, Events, Failure, Format, Served, chunk, dumps, head


class End(Enum):
    """How a plan can end, other than by keeping the connection for the next request."""

    CLOSE = auto()
    """FIN after all that was written."""
    RESET = auto()
    """RST."""
    HANG = auto()
    """Nothing more, until the client leaves or the server is closed."""


Step = bytes | float | End


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send and when to wait."""

    steps: Iterable[Step]
    status: int | None = 200
    """The status that is sent; `None` if none is."""
    charged: bool = True
    """The service bills the request, from the reply's first byte on."""


@dataclass(frozen=True)
class Draft:
    """A request and the replies to it; `Draft.plan()` is the plan without any fault."""

    entry: Entry
    format: Format
    replies: Sequence[Reply]
    prompt: PromptUse
    created: int
    wants_usage: bool = True

    @cached_property
    def served(self) -> Served:
        """What the reply says about itself."""
        model = next((r.model for r in self.replies if r.model), None) or self.entry.model
        usage = charged(self.prompt.usage, self.replies)
        return Served(self.entry.number, self.created, model, usage, self.wants_usage)

    @cached_property
    def body(self) -> bytes:
        """The body of a whole reply."""
        return self.format.whole(self.served, self.replies)

    @cached_property
    def events(self) -> Events:
        """The events of a streamed reply."""
        return self.format.events(self.served, self.replies)

    @property
    def delay(self) -> float:
        """Seconds before the first byte."""
        return max((r.delay for r in self.replies), default=0.0)

    @property
    def chunk_delay(self) -> float:
        """Seconds between streamed pieces."""
        return max((r.chunk_delay for r in self.replies), default=0.0)

    def head(self, length: int | None = None, *, content_type: str | None = None) -> bytes:
        """The reply's status line and headers; without a length the body comes in chunks."""
        framing = {"transfer-encoding": "chunked"} if length is None else {"content-length": str(length)}
        headers = {
            "content-type": content_type or (SSE if self.entry.stream else JSON),
            **framing,
            **self.format.headers(request_id(self.entry)),
        }
        for reply in self.replies:
            headers |= {k.lower(): v for k, v in reply.headers.items()}
        return head(200, headers)

    def plan(self) -> Plan:
        """The right reply."""
        return Plan(self.paced() if self.entry.stream else [self.whole()])

    def whole(self, body: bytes | None = None, *, content_type: str | None = None) -> bytes:
        """Head and body together."""
        sent = self.body if body is None else body
        return self.head(len(sent), content_type=content_type) + sent

    def paced(self, pieces: Sequence[bytes] | None = None, tail: Sequence[bytes] | None = None) -> list[Step]:
        """A properly ended stream of these pieces (default: all) and this tail, with the pauses between."""
        events = self.events
        opening = self.opening()
        pieces = events.pieces if pieces is None else pieces
        tail = [*events.finish, *events.usage, *events.done] if tail is None else tail
        closing = b"".join(map(chunk, tail)) + LAST_CHUNK
        if not self.chunk_delay:
            return [opening + b"".join(map(chunk, pieces)) + closing]
        return [opening, *self.paused(pieces), closing]

    def opening(self) -> bytes:
        """The head of a stream, and the events before its content."""
        return self.head() + b"".join(map(chunk, self.events.head))

    def paused(self, pieces: Sequence[bytes]) -> list[Step]:
        """Pieces of a stream with the pauses between them."""
        steps: list[Step] = []
        for piece in pieces:
            steps += [self.chunk_delay, chunk(piece)] if steps and self.chunk_delay else [chunk(piece)]
        return steps


def request_id(entry: Entry) -> str:
    """The identifier that the service gives a request."""
    return f"req_loopback{entry.number:08d}"


def failed(
    entry: Entry,
    wire: Format,
    failure: Failure,
    headers: Mapping[str, str] | None = None,
    body: object = None,
) -> Plan:
    """The plan of a reply that is not a 200, its body in the format's words unless another is given."""
    identifier = request_id(entry)
    content_type = JSON
    if isinstance(body, str | bytes):
        data = body.encode() if isinstance(body, str) else body
        content_type = "text/html" if data.lstrip().startswith(b"<") else "text/plain"
    else:
        data = dumps(wire.error(failure, identifier) if body is None else body)
    lines = {"content-type": content_type, "content-length": str(len(data)), **wire.headers(identifier)}
    lines |= {k.lower(): v for k, v in (headers or {}).items()}
    return Plan([head(failure.status, lines) + data], failure.status, charged=False)
