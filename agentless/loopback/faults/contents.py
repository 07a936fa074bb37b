"""HTTP is in order, the completion in it is not. All of these are 200s, and charged."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from agentless.loopback.draft import Draft, Plan, Step, failed, request_id
from agentless.loopback.faults.fault import Fault, ReplyFault
from agentless.loopback.replies import Reply
from agentless.loopback.wire import JSON, LAST_CHUNK, Failure, chunk

_KEEP_ALIVE = {True: b": keep-alive\n\n", False: b"\n"}  # by stream: DeepSeek sends both under load
_CORRUPT = {
    "openai": b'data: {"id": "chatcmpl-loopback", "choices": [{"index": 0, "del\n\n',
    "anthropic": b'event: content_block_delta\ndata: {"type": "content_block_delta", "index": 0, "del\n\n',
    "gemini": b'data: {"candidates": [{"content": {"parts": [{"te\r\n\r\n',
}
_GIVES_UP = {"openai": 500, "anthropic": 529, "gemini": 503}
"""The status whose failure a service tells of in the middle of a stream."""
_PAGE = b"<!DOCTYPE html>\n<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>\n"


@dataclass(frozen=True)
class TruncatedStream(ReplyFault):
    """The stream ends as HTTP has it, but without a finish reason: the service lost the model's worker.

    `done`: the end marker (`[DONE]`, `message_stop`; Gemini has none) is sent all the same. A whole reply's
    JSON breaks off in the middle.
    """

    after_chunks: int = 1
    done: bool = False

    def plan(self, draft: Draft) -> Plan:
        """The first pieces, then the end."""
        if not draft.entry.stream:
            return MalformedBody(reply=self.reply).plan(draft)
        tail = draft.events.done if self.done else ()
        return Plan(draft.paced(draft.events.pieces[: self.after_chunks], tail))


@dataclass(frozen=True)
class CorruptEvent(ReplyFault):
    """An event whose data is not JSON, after `at` pieces; with `then_continue` the rest follows.

    A whole reply's JSON breaks off in the middle.
    """

    at: int = 1
    then_continue: bool = True

    def plan(self, draft: Draft) -> Plan:
        """The stream with that event in it."""
        if not draft.entry.stream:
            return MalformedBody(reply=self.reply).plan(draft)
        pieces = draft.events.pieces
        corrupt = _CORRUPT[draft.entry.format]
        if self.then_continue:
            return Plan(draft.paced([*pieces[: self.at], corrupt, *pieces[self.at :]]))
        return Plan(draft.paced([*pieces[: self.at], corrupt], ()))


@dataclass(frozen=True)
class ErrorEvent(ReplyFault):
    """The service gives up in the middle of a stream and says so in an event, after `at` pieces.

    Anthropic sends `event: error` with `overloaded_error` under load, OpenAI and Gemini a data event with an
    `error` object; then the stream ends. Before a whole reply it is a plain 500 (529 for `overloaded_error`,
    503 for `UNAVAILABLE`), which is not charged.
    """

    at: int = 1
    message: str | None = None
    type: str | None = None
    """Default: `overloaded_error` for Anthropic, `server_error` for OpenAI, `UNAVAILABLE` for Gemini."""
    code: str | None = None

    def plan(self, draft: Draft) -> Plan:
        """The stream up to that event."""
        usual = draft.format.failure(_GIVES_UP[draft.entry.format])
        kind = self.type or usual.type
        status = usual.status if kind == usual.type else 500
        failure = Failure(status, self.message or usual.message, kind, self.code)
        if not draft.entry.stream:
            return failed(draft.entry, draft.format, failure)
        event = draft.format.error_event(failure, request_id(draft.entry))
        return Plan(draft.paced(draft.events.pieces[: self.at], [event]))


@dataclass(frozen=True)
class DripEvents(ReplyFault):
    """A stream that goes on for ever, one piece per `interval`; a whole reply of blank lines without end."""

    interval: float = 0.05

    def plan(self, draft: Draft) -> Plan:
        """The reply's pieces again and again."""
        if not draft.entry.stream:
            return Comments(interval=self.interval).plan(draft)
        opening, pieces = draft.opening(), list(map(chunk, draft.events.pieces))
        # An Anthropic block opens with its first piece and stops with its last: only the middle repeats.
        middle = pieces[1:-1] or pieces[:1]

        def steps() -> Iterator[Step]:
            yield opening
            for piece in itertools.chain(pieces[:1], itertools.cycle(middle)):
                yield piece
                yield self.interval

        return Plan(steps())


@dataclass(frozen=True)
class Comments(ReplyFault):
    """Signs of life without content: SSE comments, or blank lines before a whole reply's JSON.

    DeepSeek sends them while a request waits, for up to half an hour. `count`: so many, and then the right
    reply; `None`: for ever.
    """

    interval: float = 0.05
    count: int | None = None

    def plan(self, draft: Draft) -> Plan:
        """The comments, then the reply if there is an end of them."""
        comment = chunk(_KEEP_ALIVE[draft.entry.stream])
        numbers = itertools.count() if self.count is None else range(self.count)
        events = draft.events.all() if draft.entry.stream else [draft.body]

        def steps() -> Iterator[Step]:
            yield draft.head()
            for _ in numbers:
                yield comment
                yield self.interval
            yield b"".join(map(chunk, events)) + LAST_CHUNK

        return Plan(steps())


@dataclass(frozen=True)
class MalformedBody(ReplyFault):
    """A 200 whose body is not a completion: JSON that breaks off, or (`html`) a gateway's page."""

    html: bool = False

    def plan(self, draft: Draft) -> Plan:
        """The body; a stream is answered with it too."""
        if self.html:
            return Plan([draft.whole(_PAGE, content_type="text/html")])
        whole = draft.body
        return Plan([draft.whole(whole[: len(whole) // 2], content_type=JSON)])


@dataclass(frozen=True)
class EmptyChoices(Fault):
    """A completion without a single choice, for Anthropic without content, for Gemini without candidates.

    The prompt is charged.
    """

    def plan(self, draft: Draft) -> Plan:
        """A reply that holds none."""
        return draft.plan()


@dataclass(frozen=True)
class EmptyText(ReplyFault):
    """A completion that stops at once, with an empty text."""

    reply: Reply | str | None = field(default=Reply(""), kw_only=True)

    def plan(self, draft: Draft) -> Plan:
        """That reply."""
        return draft.plan()
