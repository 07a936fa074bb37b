"""Anthropic messages: replies, streams and failures as bytes."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from agentless.loopback import anthropic_checks
from agentless.loopback.journal import Entry
from agentless.loopback.prompt_cache import Block, PromptCache, PromptUse
from agentless.loopback.replies import Reply, ToolCall, Usage
from agentless.loopback.wire import Events, Failure, Rules, Served, dumps

_FAILURES: Final = {
    400: Failure(400, "Bad request", "invalid_request_error"),
    401: Failure(401, "invalid x-api-key", "authentication_error"),
    402: Failure(402, "There is a problem with your billing.", "billing_error"),
    403: Failure(403, "Your API key does not have permission for this resource.", "permission_error"),
    404: Failure(404, "Not found", "not_found_error"),
    408: Failure(408, "Request timed out", "timeout_error"),
    409: Failure(409, "The resource is locked by another request.", "invalid_request_error"),
    413: Failure(413, "Request exceeds the maximum size", "request_too_large"),
    422: Failure(422, "Unprocessable request", "invalid_request_error"),
    429: Failure(429, "This request would exceed your organization's rate limit.", "rate_limit_error"),
    500: Failure(500, "Internal server error", "api_error"),
    502: Failure(502, "Bad gateway", "api_error"),
    503: Failure(503, "Service unavailable", "api_error"),
    504: Failure(504, "Gateway timeout", "timeout_error"),
    529: Failure(529, "Overloaded", "overloaded_error"),
}
_STOP_REASONS: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
_SIGNATURE: Final = "bG9vcGJhY2stc2lnbmF0dXJl"


def refuse(entry: Entry, rules: Rules) -> None:
    """Raise `RefusedError` for what the service refuses."""
    anthropic_checks.refuse(entry, rules, prompt_tokens=lambda: sum(b.tokens for b in blocks(entry.body)))


def blocks(body: Mapping[str, Any]) -> list[Block]:
    """The prompt in the order in which it is cached: tools, then system, then messages."""
    found = [Block(dumps(_uncached(tool)), "cache_control" in tool) for tool in body.get("tools") or ()]
    found += _content_blocks(body.get("system"))
    for message in body["messages"]:
        found += _content_blocks(message.get("content"))
    if body.get("cache_control") and found:  # on the request itself: the last block is the breakpoint
        found[-1] = Block(found[-1].text, breakpoint=True)
    return found


def prompt_use(cache: PromptCache, model: str, blocks: Sequence[Block]) -> PromptUse:
    """Explicit caching, by breakpoints."""
    return cache.explicit(model, blocks)


def choices(body: Mapping[str, Any], rules: Rules) -> int:
    """There is no native n here."""
    del body, rules
    return 1


def max_tokens(body: Mapping[str, Any]) -> int | None:
    """Required by this service."""
    return body.get("max_tokens")


def whole(served: Served, replies: Sequence[Reply]) -> bytes:
    """The body of a whole reply."""
    content: list[dict[str, Any]] = []
    for reply in replies[:1]:
        if reply.reasoning is not None:
            content.append({"type": "thinking", "thinking": reply.reasoning, "signature": _SIGNATURE})
        if reply.text or not reply.tool_calls:
            content.append({"type": "text", "text": reply.text})
        content += [
            {**_tool_use(served, i, call), "input": _input(call)} for i, call in enumerate(reply.tool_calls)
        ]
    return dumps(_message(served, content, _stop_reason(replies), _usage(served.usage)))


def events(served: Served, replies: Sequence[Reply]) -> Events:
    """The events of a streamed reply."""
    # The first event counts the prompt, and the first token; the rest is counted at the end.
    opening = {**_usage(served.usage), "output_tokens": min(1, served.usage.completion_tokens)}
    start = {"type": "message_start", "message": _message(served, [], None, opening)}
    ending = {
        "type": "message_delta",
        "delta": {"stop_reason": _stop_reason(replies), "stop_sequence": None},
        "usage": _usage(served.usage, closing=True),
    }
    pieces = [p for i, parts in enumerate(_parts(served, replies[:1])) for p in _block_events(i, *parts)]
    return Events(
        head=[_event(start), _event({"type": "ping"})],
        pieces=pieces,
        finish=[_event(ending)],
        usage=[],
        done=[_event({"type": "message_stop"})],
    )


def failure(status: int, message: str | None = None) -> Failure:
    """The failure that the service would answer with this status."""
    known = _FAILURES.get(status) or Failure(status, f"Status {status}", "api_error")
    return known if message is None else Failure(status, message, known.type)


def error(failure: Failure, request_id: str) -> Mapping[str, Any]:
    """The body of a failure."""
    details = {"type": failure.type or "invalid_request_error", "message": failure.message}
    return {"type": "error", "error": details, "request_id": request_id}


def error_event(failure: Failure, request_id: str) -> bytes:
    """A failure in the middle of a stream: an event of its own name."""
    return _event(error(failure, request_id))


def headers(request_id: str) -> dict[str, str]:
    """The service's own headers."""
    return {"request-id": request_id, "anthropic-organization-id": "loopback"}


def _uncached(block: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in block.items() if k != "cache_control"}


def _content_blocks(content: Any) -> list[Block]:
    found = []
    for part in [{"type": "text", "text": content}] if isinstance(content, str) else content or ():
        text = part.get("text")
        data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else dumps(_uncached(part))
        found.append(Block(data, bool(part.get("cache_control"))))
    return found


def _message(
    served: Served, content: Sequence[Mapping[str, Any]], stop_reason: str | None, usage: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "id": f"msg_loopback{served.number:08d}",
        "type": "message",
        "role": "assistant",
        "model": served.model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": usage,
    }


def _stop_reason(replies: Sequence[Reply]) -> str:
    finish = replies[0].finish if replies else "stop"
    return _STOP_REASONS.get(finish, finish)


def _tool_use(served: Served, index: int, call: ToolCall) -> dict[str, Any]:
    identifier = call.id or f"toolu_loopback_{served.number}_{index}"
    return {"type": "tool_use", "id": identifier, "name": call.name, "input": {}}


def _input(call: ToolCall) -> Any:
    try:
        return json.loads(call.raw_arguments)
    except ValueError:
        return call.arguments


_Delta = tuple[str, str]  # the delta's type, and its field
_THINKING: Final = ("thinking_delta", "thinking")
_TEXT: Final = ("text_delta", "text")
_ARGUMENTS: Final = ("input_json_delta", "partial_json")


def _parts(
    served: Served, replies: Sequence[Reply]
) -> list[tuple[Mapping[str, Any], _Delta, Sequence[str], str | None]]:
    """The content blocks: how each opens, the kind and the pieces of its deltas, its signature."""
    parts: list[tuple[Mapping[str, Any], _Delta, Sequence[str], str | None]] = []
    for reply in replies:
        if reply.reasoning is not None:
            opening = {"type": "thinking", "thinking": "", "signature": ""}
            parts.append((opening, _THINKING, Reply(reply.reasoning).pieces, _SIGNATURE))
        if reply.text or not reply.tool_calls:
            parts.append(({"type": "text", "text": ""}, _TEXT, reply.pieces, None))
        for i, call in enumerate(reply.tool_calls):
            parts.append((_tool_use(served, i, call), _ARGUMENTS, call.argument_pieces, None))
    return parts


def _block_events(
    index: int, opening: Mapping[str, Any], delta: _Delta, pieces: Sequence[str], signature: str | None
) -> list[bytes]:
    """A block's deltas; its start goes along with the first, its stop with the last."""
    kind, field = delta
    template = {"type": "content_block_delta", "index": index, "delta": {"type": kind, field: "\0"}}
    # A block's deltas differ in one string: only that one is rendered per piece.
    before, after = _event(template).split(b'"\\u0000"')
    rendered = [before + dumps(piece) + after for piece in pieces] or [b""]
    rendered[0] = (
        _event({"type": "content_block_start", "index": index, "content_block": opening}) + rendered[0]
    )
    if signature is not None:
        signed = {"type": "signature_delta", "signature": signature}
        rendered[-1] += _event({"type": "content_block_delta", "index": index, "delta": signed})
    rendered[-1] += _event({"type": "content_block_stop", "index": index})
    return rendered


def _event(data: Mapping[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (str(data["type"]).encode(), dumps(data))


def _usage(usage: Usage, *, closing: bool = False) -> dict[str, Any]:
    written, read = usage.cache_creation_token, usage.cache_read_input_tokens
    counts: dict[str, Any] = {
        "input_tokens": usage.prompt_tokens - written - read,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": usage.completion_tokens,
    }
    if not closing:
        lifetimes = {"ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": 0}
        counts |= {"cache_creation": lifetimes, "service_tier": "standard"}
    return counts
