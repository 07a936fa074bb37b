"""Gemini's `generateContent`: replies, streams and failures as bytes. AI Studio and Vertex AI speak it."""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, Final

from agentless.loopback import gemini_checks
from agentless.loopback.gemini_fields import read
from agentless.loopback.journal import Entry
from agentless.loopback.prompt_cache import Block, PromptCache, PromptUse
from agentless.loopback.replies import Ending, Reply, ToolCall, Usage
from agentless.loopback.wire import Events, Failure, Rules, Served, dumps

_OVERLOADED: Final = "The model is overloaded. Please try again later."
_PLEASE_CHECK: Final = (
    "You exceeded your current quota, please check your plan and billing details. For more information on"
    " this error, head to: https://ai.google.dev/gemini-api/docs/rate-limits."
)


def _quota(limit: str) -> Mapping[str, Any]:
    """Which limit was met, as the details of a 429 tell it."""
    return {
        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
        "violations": [
            {
                "quotaMetric": "generativelanguage.googleapis.com/generate_content_paid_tier_requests",
                "quotaId": f"GenerateRequests{limit}PerProjectPerModel-PaidTier",
            }
        ],
    }


QUOTA_EXHAUSTED: Final = Failure(429, _PLEASE_CHECK, "RESOURCE_EXHAUSTED", details=(_quota("PerDay"),))
_FAILURES: Final = {
    400: Failure(400, "Request contains an invalid argument.", "INVALID_ARGUMENT"),
    401: Failure(401, "Request had invalid authentication credentials.", "UNAUTHENTICATED"),
    402: Failure(402, "Payment required.", "FAILED_PRECONDITION"),
    403: Failure(403, "The caller does not have permission", "PERMISSION_DENIED"),
    404: Failure(404, "Requested entity was not found.", "NOT_FOUND"),
    408: Failure(408, "The request timed out.", "DEADLINE_EXCEEDED"),
    409: Failure(409, "The operation was aborted.", "ABORTED"),
    413: Failure(413, "Request payload size exceeds the limit: 20971520 bytes.", "INVALID_ARGUMENT"),
    422: Failure(422, "The request could not be processed.", "INVALID_ARGUMENT"),
    429: Failure(
        429,
        "Resource has been exhausted (e.g. check quota).",
        "RESOURCE_EXHAUSTED",
        details=(_quota("PerMinute"),),
    ),
    500: Failure(500, "An internal error has occurred. Please retry.", "INTERNAL"),
    502: Failure(502, "Bad gateway.", "UNAVAILABLE"),
    503: Failure(503, _OVERLOADED, "UNAVAILABLE"),
    504: Failure(504, "The request timed out. Please try again.", "DEADLINE_EXCEEDED"),
    529: Failure(529, _OVERLOADED, "UNAVAILABLE"),
}
_FINISH_REASONS: Final = {
    "stop": "STOP",
    "length": "MAX_TOKENS",
    "tool_calls": "STOP",
    "content_filter": "SAFETY",
}
_SIGNATURE: Final = "bG9vcGJhY2stc2lnbmF0dXJl"
_SIGNING: Final = re.compile("gemini-[3-9]")
"""Models that sign their function calls whether or not they tell their thoughts."""


def refuse(entry: Entry, rules: Rules) -> None:
    """Raise `RefusedError` for what the service refuses."""
    gemini_checks.refuse(entry, rules, prompt_tokens=lambda: sum(b.tokens for b in blocks(entry.body)))


def blocks(body: Mapping[str, Any]) -> list[Block]:
    """The prompt in the order in which it is cached: tools, the system's instruction, then the contents."""
    asked, _ = read(body)
    texts = [dumps(f) for tool in asked.get("tools", ()) for f in tool.get("function_declarations", ())]
    for content in [asked.get("system_instruction", {}), *asked["contents"]]:
        for part in content.get("parts", ()):
            texts += _texts(part)
    return [Block(text) for text in texts]


def prompt_use(cache: PromptCache, model: str, blocks: Sequence[Block]) -> PromptUse:
    """Implicit caching: nothing in the request asks for it."""
    return cache.automatic(model, blocks)


def choices(body: Mapping[str, Any], rules: Rules) -> int:
    """`candidateCount`, as far as this server heeds it."""
    wanted: int = 1 if rules.ignores_n else _config(body).get("candidate_count", 1)
    return wanted if rules.max_n is None else min(wanted, rules.max_n)


def max_tokens(body: Mapping[str, Any]) -> int | None:
    """The most tokens that the reply may have."""
    wanted: int | None = _config(body).get("max_output_tokens")
    return wanted


def whole(served: Served, replies: Sequence[Reply]) -> bytes:
    """The body of a whole reply."""
    candidates = [_candidate(i, _parts(served, i, reply), _finish(reply)) for i, reply in enumerate(replies)]
    return dumps(_response(served, candidates, _usage(served.usage)))


def events(served: Served, replies: Sequence[Reply]) -> Events:
    """The events of a streamed reply: each a response, with what is new in it; the candidates take turns."""
    ending = replies[0].ending if replies else Ending()
    early = _usage(Usage(served.usage.prompt_tokens)) if ending.usage else None
    usage = _usage(served.usage) if ending.usage else None

    def event(index: int, parts: Sequence[Any], finish: str | None = None) -> bytes:
        counts = early if finish is None else usage
        return _event(_response(served, [_candidate(index, parts, finish)], counts), ending.newline)

    pieces: list[list[bytes]] = []
    finish: list[bytes] = []
    for i, reply in enumerate(replies):
        parts = _streamed_parts(served, i, reply)
        last = [] if ending.finish == "after" else parts[-1:]
        # A stream's events differ in one text: only that one is rendered per piece.
        before, after = event(i, [{"text": "\0"}]).split(b'"\\u0000"')
        pieces.append(
            [
                before + dumps(part["text"]) + after if part.keys() == {"text"} else event(i, [part])
                for part in parts[: len(parts) - len(last)]
            ]
        )
        if ending.finish == "before":
            finish += [event(i, [{"text": ""}], _finish(reply)), *(event(i, [part]) for part in last)]
        else:
            finish.append(event(i, last or [{"text": ""}], _finish(reply)))
    return Events(
        head=[],
        pieces=[piece for turn in zip_longest(*pieces) for piece in turn if piece is not None],
        finish=finish or [_event(_response(served, [], usage), ending.newline)],
        usage=[],
        done=[],
    )


def blocked(served: Served, reason: str, *, stream: bool) -> bytes:
    """What comes instead of candidates when the prompt itself is refused: a whole reply, or its one event."""
    feedback = {"promptFeedback": {"blockReason": reason}}
    response = {**feedback, **_response(served, [], _usage(served.usage))}
    return _event(response) if stream else dumps(response)


def failure(status: int, message: str | None = None) -> Failure:
    """The failure that the service would answer with this status."""
    known = _FAILURES.get(status) or Failure(status, f"Status {status}", "UNKNOWN")
    return known if message is None else Failure(status, message, known.type, details=known.details)


def error(failure: Failure, request_id: str) -> Mapping[str, Any]:
    """The body of a failure; the request's id is in the headers only."""
    del request_id
    details = list(failure.details)
    if failure.retry_delay is not None:
        delay = f"{failure.retry_delay:.9g}s"
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay})
    described = {
        "code": failure.status,
        "message": failure.message,
        "status": failure.type or "INVALID_ARGUMENT",
    }
    return {"error": {**described, "details": details} if details else described}


def error_event(failure: Failure, request_id: str) -> bytes:
    """A failure in the middle of a stream: a data event with the error's body."""
    return _event(error(failure, request_id))


def headers(request_id: str) -> dict[str, str]:
    """The service's own headers."""
    return {"server": "scaffolding on HTTPServer2", "x-request-id": request_id}


def _config(body: Mapping[str, Any]) -> Mapping[str, Any]:
    config: Mapping[str, Any] = read(body)[0].get("generation_config", {})
    return config


def _texts(part: Mapping[str, Any]) -> list[bytes]:
    if "text" in part:
        return [part["text"].encode("utf-8", "surrogatepass")]
    if "function_call" in part:
        call = part["function_call"]
        return [str(call.get("name", "")).encode("utf-8", "surrogatepass"), dumps(call.get("args", {}))]
    return [dumps(part)]


def _finish(reply: Reply) -> str:
    return _FINISH_REASONS.get(reply.finish, reply.finish)


def _parts(served: Served, index: int, reply: Reply) -> list[dict[str, Any]]:
    """The parts of a whole reply."""
    parts: list[dict[str, Any]] = []
    if reply.reasoning is not None:
        parts.append({"text": reply.reasoning, "thought": True})
    if reply.text:
        parts.append({"text": reply.text})
    return parts + _calls(served, index, reply)


def _streamed_parts(served: Served, index: int, reply: Reply) -> list[dict[str, Any]]:
    """The parts in the pieces they are streamed in; a call comes whole."""
    thoughts = Reply(reply.reasoning).pieces if reply.reasoning is not None else []
    texts = [{"text": piece} for piece in reply.pieces]
    return [
        *({"text": thought, "thought": True} for thought in thoughts),
        *texts,
        *_calls(served, index, reply),
    ]


def _calls(served: Served, index: int, reply: Reply) -> list[dict[str, Any]]:
    """The function calls; the first of them carries the signature of the thoughts before it."""
    calls: list[dict[str, Any]] = [
        {"functionCall": _call(served, f"{index}_{i}", call)} for i, call in enumerate(reply.tool_calls)
    ]
    if calls and (reply.reasoning is not None or _SIGNING.match(served.model)):
        calls[0]["thoughtSignature"] = _SIGNATURE
    return calls


def _call(served: Served, place: str, call: ToolCall) -> dict[str, Any]:
    try:
        arguments = json.loads(call.raw_arguments)
    except ValueError:
        arguments = call.arguments
    named = {"name": call.name, "args": arguments}
    if call.id is None and not _SIGNING.match(served.model):
        return named  # older models give none
    return {"id": call.id or f"call_{served.number}_{place}", **named}


def _candidate(index: int, parts: Sequence[Mapping[str, Any]], finish: str | None) -> dict[str, Any]:
    content = {"parts": parts, "role": "model"} if parts else {"role": "model"}
    ending = {"finishReason": finish} if finish is not None else {}
    return {"content": content, **ending, "index": index}


def _response(
    served: Served, candidates: Sequence[Mapping[str, Any]], usage: Mapping[str, Any] | None
) -> dict[str, Any]:
    return {
        **({"candidates": candidates} if candidates else {}),
        **({"usageMetadata": usage} if usage is not None else {}),
        "modelVersion": served.model,
        "responseId": f"loopback{served.number:08d}",
    }


def _event(data: Mapping[str, Any], newline: str = "\r\n") -> bytes:
    return b"data: %b%b" % (dumps(data), newline.encode() * 2)


def _usage(usage: Usage) -> dict[str, Any]:
    """The counts that are not zero: thoughts are counted apart from the candidates, cached tokens are not."""
    counts = {
        "candidatesTokenCount": usage.completion_tokens - usage.reasoning_tokens,
        "thoughtsTokenCount": usage.reasoning_tokens,
        "cachedContentTokenCount": usage.cache_read_input_tokens,
    }
    return {
        "promptTokenCount": usage.prompt_tokens,
        **{name: count for name, count in counts.items() if count},
        "totalTokenCount": usage.prompt_tokens + usage.completion_tokens,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": usage.prompt_tokens}],
    }
