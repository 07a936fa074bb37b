"""Replies as litellm's own objects, read into events. Measured on litellm 1.105.3."""

from collections.abc import AsyncIterator
from enum import Enum
from typing import Any

from agentless.llm import reaches, wire
from agentless.llm.replies import Event, ToolPiece, read_tokens


def read_whole(response: Any) -> list[Event]:
    """The events of a whole reply."""
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


class _Kind(Enum):
    """What a stream's pieces are."""

    OPENAI = "choices with an index of their own"
    CLAUDE = "one choice, whose index is a content block's"
    OTHER = "whatever litellm's wrapper makes of them"


def _kind_of(wrapper: Any) -> _Kind:
    kinds = type(getattr(wrapper, "completion_stream", None)).__mro__
    names = {f"{kind.__module__}.{kind.__name__}" for kind in kinds}
    if reaches.CLAUDE_STREAM in names:
        return _Kind.CLAUDE
    return _Kind.OPENAI if names & reaches.OPENAI_STREAMS else _Kind.OTHER


async def read_stream(wrapper: Any, exchange: wire.Exchange) -> AsyncIterator[Event]:
    """The events of a stream: the provider's own pieces where their kind is known, else the wrapper's."""
    kind = _kind_of(wrapper)
    only = None if kind is _Kind.OPENAI else 0  # several samples are asked for in OpenAI's streams alone
    async for piece in _pieces(wrapper, kind, exchange):
        for event in _read_piece(piece, only):
            yield event


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
    async for piece in _raising(wrapper, exchange):
        if last or any(choice.finish_reason for choice in piece.choices):
            last.append(piece)
        else:
            yield piece
    # What came over the wire is right where it is known: the wrapper takes `[DONE]` for a finish reason on
    # some routes, and does not take note of Gemini's (though it gives it).
    unfinished = exchange.is_unfinished
    if unfinished is None:
        unfinished = getattr(wrapper, "received_finish_reason", "") is None
        if unfinished and exchange.done:
            return  # an orderly stream without a single choice: the wrapper has made one up
    if unfinished:
        raise wire.TruncatedStreamError(_CUT)
    for piece in last:
        if exchange.has_usage is False:
            piece.usage = None  # made up
        yield piece


_CUT = "the stream ended without the provider's finish reason"


async def _raising(wrapper: Any, exchange: wire.Exchange) -> AsyncIterator[Any]:
    """The wrapper's pieces, and what went wrong under its own name."""
    failure: Exception | None = None
    try:
        async for piece in wrapper:
            yield piece
    except Exception as error:  # noqa: BLE001  # raised below, where Python does not link the two in a ring
        failure = error
    if failure is None:
        return
    ended = exchange.is_unfinished or "ended before a finish_reason" in str(failure)
    if ended and exchange.failure is None:  # 1.110 sees it, and calls it an overload
        raise wire.TruncatedStreamError(_CUT) from failure
    # Routes that send when the first piece is asked for hide a refusal in an error of the stream's middle.
    hidden = getattr(failure, "original_exception", None)
    if type(failure).__name__ == "MidStreamFallbackError" and isinstance(hidden, Exception):
        failure = hidden
    raise failure


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
