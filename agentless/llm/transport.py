"""The one door to litellm: imports it without its side effects, sends one request, reads one reply.

litellm's types stop here; what goes out are `Event`s, and litellm's own exceptions. Measured on 1.105.3.
"""

import asyncio
import atexit
import copyreg
import gc
import logging
import os
import threading
import warnings
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import httpx

from agentless.llm import bridge, wire
from agentless.llm.replies import Event, ToolPiece, read_tokens
from agentless.llm.retries import status_of

# Set around the import and taken back after it. The cost map is else fetched from the network at import
# (a trickling server hung it for over 60 s), a `.env` is loaded from a folder above site-packages, and
# 101 logging threads are made ready.
_IMPORT_ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_MODE": "PRODUCTION",
    "LOGGING_EXECUTOR_MAX_THREADS": "1",
}
_IMPORT_LOGGERS = ("httpx", "apscheduler.executors.default", "apscheduler.scheduler")

# One value for all: litellm builds a new OpenAI client for each distinct time-out, and its time-out is
# per read. Deadlines are kept outside, in attempts.py.
_NO_TIMEOUT = 1e6

_lock = threading.Lock()
_litellm: ModuleType | None = None


def load() -> ModuleType:
    """litellm, imported at the first call (2-3 s) without a trace in logging, warnings, environment.

    Thread-safe; an application that imported litellm before keeps its own settings, apart from those
    that keep litellm quiet and from sending requests again.
    """
    global _litellm  # noqa: PLW0603  # imported once, lazily
    if _litellm is None:
        with _lock:
            if _litellm is None:
                with _no_traces():
                    import litellm
                    import openai.resources  # litellm needs it at the first call: 0.3 s on the loop

                    # Their schemas are built at first use, with a warning that only the import's filters hide.
                    litellm.ModelResponse()
                    litellm.ModelResponseStream()
                _set_up(litellm)
                _litellm = litellm
    return _litellm


def is_loaded() -> bool:
    """Claims that `load` has nothing left to do."""
    return _litellm is not None


async def send(request: Mapping[str, Any], exchange: wire.Exchange) -> list[Event]:
    """Send one request and read its whole reply.

    Args:
        request: keyword arguments of `litellm.acompletion`, as `providers.build_request` makes them.
        exchange: filled in with what happened on the connection.

    Raises:
        litellm's exceptions (all derive from `openai.OpenAIError`).
    """
    litellm = load()
    token = wire.current.set(exchange)
    try:
        response = await litellm.acompletion(**_arguments(request))
        return _read_whole(response)
    finally:
        wire.current.reset(token)
        await exchange.close()


async def stream(request: Mapping[str, Any], exchange: wire.Exchange) -> AsyncIterator[Event]:
    """Send one request and read its reply as it comes.

    Raises:
        litellm's exceptions where the request is refused, and `httpx` or SDK exceptions where the stream
        breaks (`as_litellm` turns those into litellm's).
    """
    litellm = load()
    token = wire.current.set(exchange)
    try:
        response = await litellm.acompletion(
            **{**_arguments(request), "stream": True, "stream_options": {"include_usage": True}}
        )
    finally:
        wire.current.reset(token)
    try:
        single = request.get("n", 1) == 1
        async for piece in _pieces(response):
            event = _read_piece(piece, single)
            if event is not None:
                yield event
    finally:
        await exchange.close()


def as_litellm(error: Exception, request: Mapping[str, Any]) -> Exception:
    """`error` as the exception of litellm's that a whole call would have raised for it."""
    litellm = load()
    model = str(request.get("model"))
    provider = str(request.get("custom_llm_provider") or model.split("/", 1)[0])
    names = {"model": model, "llm_provider": provider}
    cause = _wire_fault(error)
    if isinstance(cause, wire.ErrorEventError):
        message = f"the service failed in the stream: {dict(cause.error)}"
        return _for_status(litellm, status_of(cause.error), message, names)
    if isinstance(error, tuple(litellm.LITELLM_EXCEPTION_TYPES)):
        return error
    text = f"{type(error).__name__}: {error}"
    connection_error: Exception = litellm.APIConnectionError(message=text, **names)
    return connection_error


def redact(error: BaseException, secrets: Iterator[str] | tuple[str, ...]) -> None:
    """Take `secrets` out of an exception and of what it was caused by: a service may echo the key."""
    words = [secret for secret in secrets if len(secret) >= 4]  # a shorter one is a placeholder
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        link = todo.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        link.args = tuple(_without(value, words) for value in link.args)
        for name, value in list(vars(link).items()):
            if isinstance(value, httpx.Response):
                _redact_response(value, words)
            elif isinstance(value, (str, bytes, dict, list, tuple)):
                setattr(link, name, _without(value, words))
        todo += [link.__cause__, link.__context__]


def _without(value: Any, words: list[str]) -> Any:
    for word in words:
        if isinstance(value, str):
            value = value.replace(word, "[redacted]")
        elif isinstance(value, bytes):
            value = value.replace(word.encode(), b"[redacted]")
    if isinstance(value, dict):
        return {key: _without(item, words) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_without(item, words) for item in value)
    return value


def _redact_response(response: httpx.Response, words: list[str]) -> None:
    content = getattr(response, "_content", None)
    if isinstance(content, bytes):
        response._content = _without(content, words)  # noqa: SLF001  # httpx has no setter
        response.__dict__.pop("_text", None)


def _arguments(request: Mapping[str, Any]) -> dict[str, Any]:
    # Both must be 0: unset, openai sends 3 requests and azure 9. Providers that drop `max_retries` from
    # what they map need it allowed by name; wire.py refuses a repeated request in any case.
    return {
        **request,
        "num_retries": 0,
        "max_retries": 0,
        "timeout": _NO_TIMEOUT,
        "allowed_openai_params": [*request.get("allowed_openai_params", ()), "max_retries"],
    }


def _read_whole(response: Any) -> list[Event]:
    shared = {"model": response.model, "request_id": response.id}
    events = [Event(usage=read_tokens(getattr(response, "usage", None)), **shared)]
    for choice in response.choices:
        message = choice.message
        events.append(
            Event(
                index=choice.index,
                text=message.content or "",
                reasoning=getattr(message, "reasoning_content", None) or "",
                tools=_tool_pieces(message.tool_calls or ()),
                finish_reason=choice.finish_reason,
                **shared,
            )
        )
    return events


async def _pieces(response: Any) -> AsyncIterator[Any]:
    """The provider's own events, under litellm's wrapper where their kind is known.

    The wrapper reports a truncated stream as `stop` with made-up usage, keeps only the first choice's
    finish reason, and costs 3-8 times as much per chunk.
    """
    inner = getattr(response, "completion_stream", None)
    if inner is None or f"{type(inner).__module__}.{type(inner).__name__}" not in _KNOWN_STREAMS:
        async for piece in response:
            yield piece
        if getattr(response, "received_finish_reason", "") is None:
            raise httpx.RemoteProtocolError("the stream ended without a finish reason")
        return
    async for piece in inner:
        if not isinstance(piece, dict):  # litellm's markers between events; on [DONE] they fake a `stop`
            yield piece


_KNOWN_STREAMS = frozenset(
    {
        "openai.AsyncStream",
        "litellm.llms.anthropic.chat.handler.ModelResponseIterator",
        "litellm.llms.openai.chat.gpt_transformation.OpenAIChatCompletionStreamingHandler",
    }
)


def _read_piece(piece: Any, single: bool) -> Event | None:
    usage = read_tokens(getattr(piece, "usage", None))
    shared = {"model": piece.model, "request_id": piece.id}
    if not piece.choices:
        return Event(usage=usage, **shared)
    choice = piece.choices[0]
    delta = choice.delta
    return Event(
        index=0 if single else choice.index,  # Anthropic's is the content block's number
        text=getattr(delta, "content", None) or "",
        reasoning=getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None) or "",
        tools=_tool_pieces(getattr(delta, "tool_calls", None) or ()),
        finish_reason=choice.finish_reason or None,
        usage=usage,
        **shared,
    )


def _tool_pieces(calls: Any) -> tuple[ToolPiece, ...]:
    pieces = []
    for position, call in enumerate(calls):
        slot = getattr(call, "index", None)
        function = call.function
        pieces.append(
            ToolPiece(
                slot=position if slot is None else slot,
                id=call.id,
                name=function.name if function else None,
                arguments=(function.arguments if function else None) or "",
            )
        )
    return tuple(pieces)


def _wire_fault(error: BaseException) -> BaseException:
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, wire.WireFault):
            return link
        link = link.__cause__ or link.__context__
    return error


def _for_status(litellm: ModuleType, status: int, message: str, names: dict[str, str]) -> Exception:
    kind = {
        400: litellm.BadRequestError,
        401: litellm.AuthenticationError,
        404: litellm.NotFoundError,
        408: litellm.Timeout,
        429: litellm.RateLimitError,
        500: litellm.InternalServerError,
        503: litellm.ServiceUnavailableError,
    }.get(status)
    error: Exception
    if kind is None:
        error = litellm.APIError(status_code=status, message=message, **names)
    else:
        error = kind(message=message, **names)
    return error


@contextmanager
def _no_traces() -> Iterator[None]:
    environment = {name: os.environ.get(name) for name in _IMPORT_ENVIRONMENT}
    filters = list(warnings.filters)
    levels = {name: logging.getLogger(name).level for name in _IMPORT_LOGGERS}
    os.environ.update(_IMPORT_ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        # Only what the import added: an application's filters may have changed meanwhile.
        for entry in [entry for entry in warnings.filters if entry not in filters]:
            warnings.filters.remove(entry)  # type: ignore[attr-defined]  # typed as a Sequence
        warnings._filters_mutated()  # type: ignore[attr-defined]  # noqa: SLF001  # else stale caches


def _set_up(litellm: ModuleType) -> None:
    litellm.suppress_debug_info = True  # banners on stdout
    litellm.disable_streaming_logging = True
    litellm.disable_stop_sequence_limit = True  # else more than 4 are cut in silence; options.py counts
    _watch_connections()
    _let_errors_travel(litellm)
    bridge.on_exit(_close_clients)
    bridge.on_fork(_forget_clients)
    # Tearing down litellm's modules takes over a second; frozen objects are not looked at (0.15 s).
    atexit.register(gc.freeze)


def _watch_connections() -> None:
    from litellm.llms.custom_httpx import http_handler

    # The two places that make the transports of litellm's async clients, openai's included.
    assert hasattr(http_handler.AsyncHTTPHandler, "_create_async_transport")  # noqa: S101  # pinned litellm
    assert hasattr(http_handler, "AsyncHTTPTransport")  # noqa: S101

    def create_transport(ssl_context: Any = None, ssl_verify: Any = None, shared_session: Any = None) -> Any:
        verify = ssl_context if ssl_context is not None else ssl_verify if ssl_verify is not None else True
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=256, keepalive_expiry=30.0)
        return wire.WatchedTransport(verify=verify, limits=limits)

    http_handler.AsyncHTTPHandler._create_async_transport = staticmethod(create_transport)  # noqa: SLF001
    http_handler.AsyncHTTPTransport = wire.WatchedTransport  # its proxies' transports


async def _close_clients() -> None:
    litellm = load()
    await litellm.close_litellm_async_clients()


_graveyard: list[Any] = []


def _forget_clients() -> None:
    """In a forked child: the parent's connections are not ours to use, nor to close."""
    if _litellm is None:
        return
    cache = _litellm.in_memory_llm_clients_cache
    _graveyard.append(dict(cache.cache_dict))
    cache.cache_dict.clear()
    cache.ttl_dict.clear()


def _let_errors_travel(litellm: ModuleType) -> None:
    for kind in {*litellm.LITELLM_EXCEPTION_TYPES}:
        copyreg.pickle(kind, _reduce_error)


def _reduce_error(error: Exception) -> tuple[Any, ...]:
    plain = (str, int, float, bool, type(None))
    state = {name: value for name, value in vars(error).items() if isinstance(value, plain)}
    for name in ("litellm_response_headers", "body", "headers"):
        value = getattr(error, name, None)
        if isinstance(value, Mapping):
            state[name] = {str(key): item for key, item in value.items() if isinstance(item, plain)}
    state["__notes__"] = list(getattr(error, "__notes__", ()))
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    return _rebuild_error, (type(error).__name__, tuple(map(str, error.args)), state, status)


def _rebuild_error(name: str, args: tuple[str, ...], state: dict[str, Any], status: int | None) -> Exception:
    litellm = load()
    kind = getattr(litellm, name, None) or getattr(litellm.exceptions, name)
    error: Exception = kind.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    if status is not None:
        request = httpx.Request("POST", "http://unknown")
        error.__dict__["response"] = httpx.Response(status, request=request)
        error.__dict__["request"] = request
    return error


async def warm() -> None:
    """Import litellm off the loop, so that the first call's deadline does not pay for it."""
    if not is_loaded():
        await asyncio.get_running_loop().run_in_executor(None, load)
