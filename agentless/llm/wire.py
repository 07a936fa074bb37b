"""What one attempt does on the connection, watched and held to one request.

litellm (1.105.3) sends a POST again after a reset, a clean close, garbage, or a body cut midway; skips
corrupt stream events unseen; and names the same fault differently by provider. All its HTTP goes through
httpx, so a transport of ours under its clients sees what really happened, whatever the provider:

- a second POST to the same address within one attempt is refused: it never reaches the server;
- status, headers and the body of a refusal are kept for the retry decision;
- in a stream of server-sent events, a corrupt event and an error event end the stream with an exception
  exactly where they stand, and each well-formed event is reported (deadlines count those, not bytes);
- the response can be closed at once, whatever litellm's layers above do;
- a redirect is a failure: nothing goes to another address, where httpx would send key, headers and prompt;
- a request that has gone out keeps neither key nor headers, since errors, logs and replies hold it.

Requests outside an attempt (an application's own use of litellm) pass through untouched.
"""

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, cast
from urllib.parse import urljoin

import httpx

from agentless.credentials import HiddenURL, shown_url
from agentless.llm.bodies import (
    CorruptEventError,
    ErrorEventError,
    TruncatedStreamError,
    WatchedBody,
    WireFault,
    has_event_lines,
)
from agentless.llm.connections import Connections
from agentless.llm.secrets import remember_address

__all__ = [
    "CorruptEventError",
    "ErrorEventError",
    "Exchange",
    "RedirectFault",
    "SecondRequestError",
    "TruncatedStreamError",
    "WatchedTransport",
    "WireFault",
    "current",
]

current: contextvars.ContextVar["Exchange | None"] = contextvars.ContextVar(
    "agentless_exchange", default=None
)

# Of a reply that cannot be used, as much as tells what it is about.
_KEPT_BYTES = 65_536


class SecondRequestError(WireFault):
    """Something below us tried to send an attempt's request again."""


class RedirectFault(WireFault):
    """The service says to send the request elsewhere (3xx), which is not done."""

    def __init__(self, status: int, address: str, location: str | None) -> None:
        points = f"redirects to {location}" if location else "redirects, without saying where to"
        super().__init__(f"HTTP {status}: {address} {points}")
        self.status = status
        self.address = address
        self.location = location


class Exchange:
    """What one attempt sent and got; filled in by the transport while the attempt runs."""

    def __init__(self, is_streaming: bool = False) -> None:
        self.is_streaming = is_streaming
        self.on_event: Callable[[], None] | None = None
        self.on_sent: list[Callable[[], None]] = []
        """Called once the request is out."""
        self.requests = 0
        self.is_unwatched = False
        """Claims that requests of this attempt may go out, and be paid for, without being seen here."""
        self.response: httpx.Response | None = None
        self.status: int | None = None
        self.headers: Mapping[str, str] = {}
        self.failure: Exception | None = None
        self.events = 0
        self.is_unfinished: bool | None = None
        """Claims that choices (Gemini's candidates) came, and no finish reason; `None`: no choices came."""
        self.has_usage: bool | None = None
        """Claims that usage came with such choices; `None`: no choices came."""
        self.done = False
        """Claims that the stream's own end mark came (`[DONE]`, `message_stop`)."""
        self._kept: list[bytes] = []
        self._addresses: set[str] = set()
        self._bodies: list[WatchedBody] = []

    def admit(self, request: httpx.Request) -> None:
        """Count `request`, or refuse it where it is the same POST again.

        Raises:
            httpx.TransportError: the first request's own failure, or `SecondRequestError`.
        """
        if isinstance(self.failure, RedirectFault):
            raise self.failure
        if request.method != "POST":
            return  # a poll or a look-up, not a completion
        address = HiddenURL(request.url)
        if address in self._addresses:
            raise self.failure or SecondRequestError("a second request within one attempt was not sent")
        self._addresses.add(address)
        self.requests += 1

    async def trace(self, name: str, _: Mapping[str, Any]) -> None:
        """Take httpcore's account of a request's progress."""
        if name.endswith("send_request_body.complete"):
            while self.on_sent:
                self.on_sent.pop()()

    def note_response(self, response: httpx.Response) -> None:
        """Keep what `response` says, and watch its body from here on."""
        self.status = response.status_code
        self.headers = response.headers
        stream = cast("httpx.AsyncByteStream", response.stream)  # an async transport's
        body = WatchedBody(stream, self, self.is_streaming and has_event_lines(response))
        self._bodies.append(body)
        self.response = response
        response.stream = body

    @property
    def has_events(self) -> bool:
        """Whether the reply is a stream of server-sent events."""
        return bool(self._bodies) and self._bodies[-1].has_events

    def read_events(self) -> AsyncGenerator[Any, None]:
        """The JSON of a good stream's events as they come."""
        return self._bodies[-1].events()

    @property
    def text(self) -> str:
        """The body of a reply that was not a stream, as far as it was read."""
        return b"".join(self._kept)[:_KEPT_BYTES].decode(errors="replace")

    def note_body(self, part: bytes) -> None:
        """Keep `part` for the case that nobody above can read it."""
        self._kept.append(part)

    def note_event(self, event: Any) -> None:
        """Count one well-formed event of a stream; look for a finish reason and usage."""
        self.events += 1
        if isinstance(event, dict):
            self._note_ending(event)
        if self.on_event is not None:
            self.on_event()

    def _note_ending(self, event: Mapping[str, Any]) -> None:
        feedback = event.get("promptFeedback")
        if isinstance(feedback, dict) and feedback.get("blockReason"):  # all that comes of a refused prompt
            self.is_unfinished = False
        choices = event.get("choices") or event.get("candidates")
        if choices and isinstance(choices, list):
            reasons = [
                choice.get("finish_reason") or choice.get("finishReason")
                for choice in choices
                if isinstance(choice, dict)
            ]
            self.is_unfinished = not any(reasons) and self.is_unfinished is not False
        if self.is_unfinished is not None:
            usage = event.get("usage") or event.get("usageMetadata")
            self.has_usage = bool(usage) or self.has_usage is True

    async def close(self) -> None:
        """Close the connections that are still open for this attempt; idempotent.

        In a task of its own, so that a second cancellation of the caller does not leave one open.
        """
        still_open = [body for body in self._bodies if not body.is_closed]
        self._bodies.clear()
        if still_open:
            closing = asyncio.gather(*(body.aclose() for body in still_open))
            await asyncio.shield(closing)


class WatchedTransport(httpx.AsyncBaseTransport):
    """A transport with the attempt it runs in looking on."""

    def __init__(self, **options: Any) -> None:
        """Take the options of `httpx.AsyncHTTPTransport`, apart from `limits`."""
        if isinstance(proxy := options.get("proxy"), str):
            options["proxy"] = proxy = HiddenURL(proxy)
            remember_address(proxy)
        # By this name litellm finds out whether a client that it has put away is still in use.
        self._pool = Connections(**options)

    @property
    def is_closed(self) -> bool:
        """Claims that it keeps no connection any more."""
        return self._pool.is_closed

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request`, if the current attempt admits it."""
        exchange = current.get()
        if exchange is None:
            return await self._pool.handle_async_request(request)
        try:
            return await self.send(request, exchange)
        finally:
            _strip(request)

    async def send(self, request: httpx.Request, exchange: Exchange) -> httpx.Response:
        """Send `request` for the attempt of `exchange`, if that admits it."""
        try:
            exchange.admit(request)
            request.extensions["trace"] = exchange.trace
            response = await self._pool.handle_async_request(request)
            await _refuse_redirect(request, response, exchange)
        except Exception as error:
            exchange.failure = error
            raise
        finally:
            _strip(request)
        exchange.note_response(response)
        # On a refusal the OpenAI SDK else waits and sends again where litellm loses `max_retries=0`.
        response.headers["x-should-retry"] = "false"
        return response

    async def aclose(self) -> None:
        """Close every connection."""
        await self._pool.aclose()


def _is_redirect(request: httpx.Request, response: httpx.Response) -> bool:
    """Claims that the response sends on a request that has more in it than anybody may see."""
    if response.status_code not in _REDIRECTS:
        return False
    # What litellm looks up for a prompt, such as an image, goes without a key and may be elsewhere.
    return request.method == "POST" or not request.headers.keys() <= _PUBLIC_HEADERS


async def _refuse_redirect(request: httpx.Request, response: httpx.Response, exchange: Exchange) -> None:
    if not _is_redirect(request, response):
        return
    await response.aclose()
    exchange.status, exchange.headers = response.status_code, response.headers
    address = HiddenURL(request.url)
    target = _target(address, response.headers.get("location"))
    raise RedirectFault(response.status_code, shown_url(address) or "", target and target[:_SHOWN_CHARACTERS])


def _target(address: str, location: str | None) -> str | None:
    try:
        return location and shown_url(urljoin(address, location))
    except ValueError:  # no address
        return "an address that cannot be read"


_REDIRECTS = range(300, 400)
_SHOWN_CHARACTERS = 500
_PUBLIC_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "host",
        "transfer-encoding",
        "user-agent",
    }
)


def _is_public(name: str) -> bool:
    # The OpenAI SDK finds in its own what it has promised its caller to return.
    return name in _PUBLIC_HEADERS or name.startswith("x-stainless-")


def _strip(request: httpx.Request) -> None:
    """Take out of a request that has gone out what may be a key; its address stays, its query does not."""
    kept = [(name, text) for name, text in request.headers.multi_items() if _is_public(name.lower())]
    request.headers = type(request.headers)(kept)
    if request.url.userinfo or request.url.query or request.url.fragment:
        request.url = type(request.url)(shown_url(str(request.url)) or "")
    request.extensions = {}  # `trace` leads to the attempt, and to its request as it was
