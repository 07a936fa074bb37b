"""OpenAI chat completions: replies, streams and failures as bytes. DeepSeek, vLLM and Azure speak it too."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, Final

from agentless.loopback import openai_checks
from agentless.loopback.journal import Entry
from agentless.loopback.prompt_cache import Block, PromptCache, PromptUse
from agentless.loopback.replies import Reply, ToolCall, Usage
from agentless.loopback.wire import Events, Failure, Rules, Served, dumps

_OVERLOADED = "The engine is currently overloaded, please try again later"
_SERVER_ERROR = "The server had an error while processing your request. Sorry about that!"
_INVALID: Final = "invalid_request_error"
_FAILURES: Final = {
    400: Failure(400, "Bad request", _INVALID),
    401: Failure(401, "Incorrect API key provided.", _INVALID, "invalid_api_key"),
    402: Failure(402, "Insufficient Balance", "unknown_error", "invalid_request_error"),
    403: Failure(403, "You are not allowed to access this resource.", _INVALID, "permission_denied"),
    404: Failure(404, "The model does not exist or you do not have access.", _INVALID, "model_not_found"),
    408: Failure(408, "Request timed out.", _INVALID),
    409: Failure(409, "The resource is locked by another request.", _INVALID),
    413: Failure(413, "The request is too large.", _INVALID),
    422: Failure(422, "The request could not be processed.", _INVALID),
    429: Failure(
        429, "Rate limit reached for requests. Please try again.", "requests", "rate_limit_exceeded"
    ),
    500: Failure(500, _SERVER_ERROR, "server_error"),
    502: Failure(502, "Bad gateway.", "server_error"),
    503: Failure(503, _OVERLOADED, "server_error"),
    504: Failure(504, "Gateway timeout.", "server_error"),
    529: Failure(529, _OVERLOADED, "server_error"),
}


def refuse(entry: Entry, rules: Rules) -> None:
    """Raise `RefusedError` for what the service refuses."""
    openai_checks.refuse(entry, rules, prompt_tokens=lambda: sum(b.tokens for b in blocks(entry.body)))


def blocks(body: Mapping[str, Any]) -> list[Block]:
    """The prompt in the order in which it is cached: tools, then the messages' texts and tool calls."""
    texts: list[bytes] = [dumps(tool) for tool in body.get("tools") or ()]
    for message in body["messages"]:
        content = message.get("content")
        for part in [content] if isinstance(content, str) else content or ():
            text = part if isinstance(part, str) else part.get("text")
            texts.append(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else dumps(part))
        for call in message.get("tool_calls") or ():
            function = call.get("function") or {}
            texts += [str(function.get("name", "")).encode(), str(function.get("arguments", "")).encode()]
    return [Block(text) for text in texts]


def prompt_use(cache: PromptCache, model: str, blocks: Sequence[Block]) -> PromptUse:
    """Automatic caching: nothing in the request asks for it."""
    return cache.automatic(model, blocks)


def choices(body: Mapping[str, Any], rules: Rules) -> int:
    """Native n, as far as this server heeds it."""
    wanted = 1 if rules.ignores_n else body.get("n") or 1
    return wanted if rules.max_n is None else min(wanted, rules.max_n)


def max_tokens(body: Mapping[str, Any]) -> int | None:
    """The newer name wins."""
    return body.get("max_completion_tokens") or body.get("max_tokens")


def whole(served: Served, replies: Sequence[Reply]) -> bytes:
    """The body of a whole reply."""
    body = _envelope(served, "chat.completion")
    body["choices"] = [
        {"index": i, "message": _message(served, i, reply), "logprobs": None, "finish_reason": reply.finish}
        for i, reply in enumerate(replies)
    ]
    body["usage"] = _usage(served.usage, served.model)
    return dumps(body)


def events(served: Served, replies: Sequence[Reply]) -> Events:
    """The events of a streamed reply: the choices' pieces take turns."""
    pieces = zip_longest(*(_pieces(served, i, reply) for i, reply in enumerate(replies)))
    usage = {**_envelope(served, _CHUNK), "choices": [], "usage": _usage(served.usage, served.model)}
    return Events(
        head=[_delta(served, i, {"role": "assistant", "content": ""}) for i in range(len(replies))],
        pieces=[piece for turn in pieces for piece in turn if piece is not None],
        finish=[_delta(served, i, {}, reply.finish) for i, reply in enumerate(replies)],
        usage=[_event(dumps(usage))] if served.wants_usage else [],
        done=[_event(b"[DONE]")],
    )


def failure(status: int, message: str | None = None) -> Failure:
    """The failure that the service would answer with this status."""
    known = _FAILURES.get(status) or Failure(status, f"Status {status}", _INVALID)
    return known if message is None else Failure(status, message, known.type, known.code)


def error(failure: Failure, request_id: str) -> Mapping[str, Any]:
    """The body of a failure; the request's id is in the headers only."""
    del request_id
    return {
        "error": {
            "message": failure.message,
            "type": failure.type or _INVALID,
            "param": failure.param,
            "code": failure.code,
        }
    }


def error_event(failure: Failure, request_id: str) -> bytes:
    """A failure in the middle of a stream: a data event with the error's body."""
    return _event(dumps(error(failure, request_id)))


def headers(request_id: str) -> dict[str, str]:
    """The service's own headers."""
    return {"x-request-id": request_id, "openai-version": "2020-10-01", "openai-processing-ms": "1"}


_CHUNK: Final = "chat.completion.chunk"


def _envelope(served: Served, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-loopback{served.number:08d}",
        "object": kind,
        "created": served.created,
        "model": served.model,
        "service_tier": "default",
        "system_fingerprint": "fp_loopback",
    }


def _message(served: Served, index: int, reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None}
    if reply.reasoning is not None:
        message["reasoning_content"] = reply.reasoning
    if reply.tool_calls:
        message["content"] = reply.text or None
        message["tool_calls"] = [
            _call(served, index, i, call, call.raw_arguments) for i, call in enumerate(reply.tool_calls)
        ]
    return message


def _call(served: Served, choice: int, index: int, call: ToolCall, arguments: str) -> dict[str, Any]:
    return {
        "id": call.id or f"call_{served.number}_{choice}_{index}",
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }


def _pieces(served: Served, choice: int, reply: Reply) -> list[bytes]:
    # A stream's events differ in one string: only that one is rendered per piece.
    before, after = _delta(served, choice, {"content": "\0"}).split(b'"\\u0000"')
    pieces = [before + dumps(piece) + after for piece in reply.pieces]
    if reply.reasoning is not None:
        words = Reply(reply.reasoning).pieces
        pieces[:0] = [_delta(served, choice, {"reasoning_content": word}) for word in words]
    for i, call in enumerate(reply.tool_calls):
        opening = {"index": i, **_call(served, choice, i, call, "")}
        pieces.append(_delta(served, choice, {"tool_calls": [opening]}))
        for arguments in call.argument_pieces:
            more = {"index": i, "function": {"arguments": arguments}}
            pieces.append(_delta(served, choice, {"tool_calls": [more]}))
    return pieces


def _delta(served: Served, index: int, delta: Mapping[str, Any], finish: str | None = None) -> bytes:
    body = _envelope(served, _CHUNK)
    body["choices"] = [{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}]
    if served.wants_usage:
        body["usage"] = None
    return _event(dumps(body))


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


def _usage(usage: Usage, model: str) -> dict[str, Any]:
    counts: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read_input_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    if model.startswith("deepseek"):
        counts["prompt_cache_hit_tokens"] = usage.cache_read_input_tokens
        counts["prompt_cache_miss_tokens"] = usage.prompt_tokens - usage.cache_read_input_tokens
    return counts
