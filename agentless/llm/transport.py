"""The one door to litellm: sends one request, reads one reply.

litellm's types stop here; what goes out are `Event`s, and litellm's own exceptions. Measured on 1.105.3.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from enum import Enum
from typing import Any

from agentless.llm import bridge, wire
from agentless.llm.importing import load
from agentless.llm.replies import Event, ToolPiece, read_tokens

# Streams are read under litellm's wrapper where their kind is known (see `_pieces`); 0 turns that off.
READS_UNDER_WRAPPER = os.environ.get("AGENTLESS_FAST_STREAMS", "1") != "0"

# One value for all: litellm builds a new OpenAI client for each distinct time-out, and its time-out is
# per read. Deadlines are kept outside, in attempts.py.
_NO_TIMEOUT = 1e6


@asynccontextmanager
async def turn_to_send(request: Mapping[str, Any], exchange: wire.Exchange) -> AsyncIterator[None]:
    """Within it, this request is the only one being built, until its bytes are out.

    Building takes litellm over a millisecond of computing with pauses between. Side by side, many requests
    would all go out when the last one is built; one after the other, the first goes out at once.
    """
    if not _returns_at_once(request):
        yield
        return
    await _building.acquire()
    exchange.on_sent = _building.release
    try:
        yield
    finally:
        exchange.note_sent()


_building = asyncio.Lock()


def _forget_lock() -> None:
    global _building  # noqa: PLW0603  # a forked child has another loop
    _building = asyncio.Lock()


bridge.on_fork(_forget_lock)


async def send(request: Mapping[str, Any], exchange: wire.Exchange) -> list[Event]:
    """Send one request and read its whole reply.

    Args:
        request: keyword arguments of `litellm.acompletion`, as `providers.build_request` makes them.
        exchange: filled in with what happened on the connection.

    Raises:
        litellm's exceptions (all derive from `openai.OpenAIError`).
    """
    try:
        return _read_whole(await _complete(request, exchange))
    finally:
        await exchange.close()


async def stream(request: Mapping[str, Any], exchange: wire.Exchange) -> AsyncGenerator[Event, None]:
    """Send one request and read its reply as it comes.

    Raises:
        litellm's exceptions where the request is refused, and `httpx` or SDK exceptions where the stream
        breaks (`as_litellm` turns those into litellm's).
    """
    streamed = {**request, "stream": True, "stream_options": {"include_usage": True}}
    watched = wire.current.set(exchange)  # some routes (Gemini's) send when the first piece is asked for
    try:
        wrapper = await _complete(streamed, exchange)
        kind = _kind_of(wrapper)
        only = None if kind is _Kind.OPENAI else 0  # several samples are asked for in OpenAI's streams alone
        async for piece in _pieces(wrapper, kind, exchange):
            for event in _read_piece(piece, only):
                yield event
    finally:
        wire.current.reset(watched)
        await exchange.close()


async def _complete(request: Mapping[str, Any], exchange: wire.Exchange) -> Any:
    litellm = load()
    from litellm._internal_context import is_internal_call

    watched = wire.current.set(exchange)
    # Its logging worker only serves callbacks, and costs a task a call.
    quiet = is_internal_call.set(not _has_callbacks(litellm))
    try:
        with bridge.inline(_returns_at_once(request)):
            return await litellm.acompletion(**request, **_retries(request), timeout=_NO_TIMEOUT)
    finally:
        is_internal_call.reset(quiet)
        wire.current.reset(watched)


def _retries(request: Mapping[str, Any]) -> dict[str, int]:
    # Both must be 0: unset, openai sends 3 requests and azure 9. (Routes that ignore `max_retries` have it
    # allowed by name in routes.py, and wire.py refuses a repeated POST anyway.)
    return {} if _route(request) in _REFUSE_RETRIES else {"num_retries": 0, "max_retries": 0}


_REFUSE_RETRIES = frozenset({"gradient_ai"})
"""Routes that raise `UnsupportedParamsError` for either; they retry nothing by themselves."""


def _route(request: Mapping[str, Any]) -> str:
    return str(request["model"]).split("/", 1)[0]


def _has_callbacks(litellm: Any) -> bool:
    return any(getattr(litellm, name, None) for name in _CALLBACKS)


_CALLBACKS = (
    "callbacks",
    "input_callback",
    "success_callback",
    "failure_callback",
    "_async_input_callback",
    "_async_success_callback",
    "_async_failure_callback",
)


def _returns_at_once(request: Mapping[str, Any]) -> bool:
    return _route(request) in _ASYNC_ROUTES


# `acompletion` runs `completion` in a thread to get a coroutine from it. On these routes that takes a
# millisecond of computing and never blocks (read in 1.105.3), so the engine's own thread does it.
_ASYNC_ROUTES = frozenset(
    {
        "anthropic",
        "azure",
        "deepseek",
        "fireworks_ai",
        "groq",
        "hosted_vllm",
        "mistral",
        "openai",
        "openrouter",
        "together_ai",
        "xai",
    }
)


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


# Streams whose pieces are OpenAI's, told by their class or one it derives from; read in 1.105.3.
_OPENAI_STREAMS = frozenset(
    {
        "openai.AsyncStream",
        "litellm.llms.openai.chat.gpt_transformation.OpenAIChatCompletionStreamingHandler",
        "litellm.llms.openrouter.chat.transformation.OpenRouterChatCompletionStreamingHandler",
    }
)
_CLAUDE_STREAM = "litellm.llms.anthropic.chat.handler.ModelResponseIterator"


class _Kind(Enum):
    """What a stream's pieces are."""

    OPENAI = "choices with an index of their own"
    CLAUDE = "one choice, whose index is a content block's"
    OTHER = "whatever litellm's wrapper makes of them"


def _kind_of(wrapper: Any) -> _Kind:
    kinds = type(getattr(wrapper, "completion_stream", None)).__mro__
    names = {f"{kind.__module__}.{kind.__name__}" for kind in kinds}
    if not READS_UNDER_WRAPPER:
        return _Kind.OTHER
    return (
        _Kind.CLAUDE if _CLAUDE_STREAM in names else _Kind.OPENAI if names & _OPENAI_STREAMS else _Kind.OTHER
    )


async def _pieces(wrapper: Any, kind: _Kind, exchange: wire.Exchange) -> AsyncIterator[Any]:
    """The provider's own events, under litellm's wrapper where their kind is known.

    The wrapper reports a truncated stream as `stop` with made-up usage, keeps only the first choice's
    finish reason, and costs 3-8 times as much per chunk.
    """
    if kind is not _Kind.OTHER:
        async for piece in wrapper.completion_stream:
            if not isinstance(piece, dict):  # litellm's marks between events; on [DONE] they fake a `stop`
                yield piece
        return
    last: list[Any] = []  # from the finish reason on, which may be made up: held back until that is known
    async for piece in wrapper:
        if last or any(choice.finish_reason for choice in piece.choices):
            last.append(piece)
        else:
            yield piece
    # The wrapper takes `[DONE]` for a finish reason on some routes.
    if getattr(wrapper, "received_finish_reason", "") is None or exchange.is_unfinished:
        if exchange.done and exchange.is_unfinished is None:
            return  # an orderly stream without a single choice: the wrapper has made one up
        raise wire.TruncatedStreamError("the stream ended without the provider's finish reason")
    for piece in last:
        yield piece


def _read_piece(piece: Any, only: int | None) -> list[Event]:
    """The events of one piece; `only` is the index of all its choices, where their own say otherwise."""
    model, request_id = piece.model, piece.id
    usage = read_tokens(getattr(piece, "usage", None))
    if not piece.choices:
        return [Event(usage=usage, model=model, request_id=request_id)]
    events = []
    for choice in piece.choices:
        delta = choice.delta
        event = Event(
            index=choice.index if only is None else only,
            text=getattr(delta, "content", None) or "",
            reasoning=getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None) or "",
            tools=_tool_pieces(getattr(delta, "tool_calls", None) or ()),
            finish_reason=choice.finish_reason or None,
            usage=usage,
            model=model,
            request_id=request_id,
        )
        events.append(event)
    return events


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
