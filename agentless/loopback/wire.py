"""What the wire formats share: HTTP heads, SSE events, the shape of a failure, the interface of a format."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Protocol

from agentless.loopback.journal import Entry
from agentless.loopback.prompt_cache import Block, PromptCache, PromptUse
from agentless.loopback.replies import Reply, Usage

JSON: Final = "application/json"
SSE: Final = "text/event-stream; charset=utf-8"
LAST_CHUNK: Final = b"0\r\n\r\n"


def dumps(value: Any) -> bytes:
    """Compact JSON in UTF-8, as the services send it."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8 form, only an escape
        return json.dumps(value, separators=(",", ":")).encode()


def head(status: int, headers: Mapping[str, str]) -> bytes:
    """The status line and headers of a reply."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:  # 529 and its like are not in the standard
        phrase = "Overloaded" if status == 529 else "Unknown"  # noqa: PLR2004  # the service's own code
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{k}: {v}" for k, v in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


@dataclass(frozen=True, slots=True)
class Failure:
    """A reply that is not a 200, before it is put in a format's words."""

    status: int
    message: str
    type: str | None = None
    code: str | None = None
    param: str | None = None
    details: Sequence[Mapping[str, Any]] = ()
    """What Gemini tells beside the message."""
    retry_delay: float | None = None
    """Seconds that Gemini's body asks to wait; the others have headers for it."""


class RefusedError(Exception):
    """The request is one that the real service refuses."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Rules:
    """What this server insists on."""

    api_key: str | None = None
    context_size: int | None = None
    lenient: bool = False
    ignores_n: bool = False
    max_n: int | None = None
    usage_unasked: bool = False


@dataclass(frozen=True, slots=True)
class Served:
    """What a reply says about itself."""

    number: int
    """The request's number; identifiers are made from it."""
    created: int
    model: str
    usage: Usage
    wants_usage: bool = True
    """OpenAI streams carry usage only when asked for it."""


@dataclass(frozen=True, slots=True)
class Events:
    """A streamed reply as SSE events, in the parts where faults cut."""

    head: Sequence[bytes]
    """Before any content."""
    pieces: Sequence[bytes]
    """The content, in the pieces that `after_chunks` and `at` count."""
    finish: Sequence[bytes]
    """The finish reasons."""
    usage: Sequence[bytes]
    """OpenAI's own event for it; the others' is part of the finish."""
    done: Sequence[bytes]
    """`[DONE]`, `message_stop`; Gemini has none."""

    def all(self) -> list[bytes]:
        """Every event in order."""
        return [*self.head, *self.pieces, *self.finish, *self.usage, *self.done]


class Format(Protocol):
    """A wire format: pure functions, one module each."""

    def refuse(self, entry: Entry, rules: Rules) -> None:
        """Raise `RefusedError` for what the service refuses."""

    def blocks(self, body: Mapping[str, Any]) -> list[Block]:
        """The prompt in the order in which it is cached."""

    def prompt_use(self, cache: PromptCache, model: str, blocks: Sequence[Block]) -> PromptUse:
        """The prompt's usage under the service's caching."""

    def choices(self, body: Mapping[str, Any], rules: Rules) -> int:
        """How many choices the reply has."""

    def max_tokens(self, body: Mapping[str, Any]) -> int | None:
        """The most tokens that the reply may have."""

    def whole(self, served: Served, replies: Sequence[Reply]) -> bytes:
        """The body of a whole reply."""

    def events(self, served: Served, replies: Sequence[Reply]) -> Events:
        """The events of a streamed reply."""

    def failure(self, status: int, message: str | None = None) -> Failure:
        """The failure that the service would answer with this status."""

    def error(self, failure: Failure, request_id: str) -> Mapping[str, Any]:
        """The body of a failure."""

    def error_event(self, failure: Failure, request_id: str) -> bytes:
        """A failure in the middle of a stream."""

    def headers(self, request_id: str) -> dict[str, str]:
        """The service's own headers."""
