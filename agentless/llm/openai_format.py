"""Replies in the format of OpenAI's chat completions, from their JSON to events; pure.

Sources: OpenAI's API reference (chat completions, whole and streamed); `reasoning_content` is DeepSeek's,
`reasoning` vLLM's and OpenRouter's.
"""

import json
from collections.abc import Mapping
from typing import Any

from agentless.llm.replies import Event, ToolPiece, UnreadableError, read_tokens


def read_whole(body: Any) -> list[Event]:
    """The events of a whole reply: one for its usage, and one for each choice.

    Raises:
        UnreadableError: It is something else, such as an error in a reply's place.
    """
    if not isinstance(body, dict) or body.get("error") or not isinstance(body.get("choices"), list):
        raise UnreadableError("no choices")
    model, request_id = body.get("model"), body.get("id")
    events = [Event(usage=read_tokens(body.get("usage")), model=model, request_id=request_id)]
    for index, choice in enumerate(body["choices"]):
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(message, dict):
            raise UnreadableError("a choice without a message")
        reason = choice.get("finish_reason") or "stop"  # some servers say nothing of a whole reply's end
        events.append(_event(index, message, reason, None, model, request_id))
    return events


def read_event(event: Any) -> list[Event]:
    """The events of one event of a stream.

    Raises:
        UnreadableError: It is something else.
    """
    if not isinstance(event, dict):
        raise UnreadableError(f"{event!r:.100}")
    model, request_id = event.get("model"), event.get("id")
    usage, choices = read_tokens(event.get("usage")), event.get("choices")
    if not choices:
        return [Event(usage=usage, model=model, request_id=request_id)]
    events = []
    for choice in choices:
        if not isinstance(choice, dict):
            raise UnreadableError(f"{choice!r:.100}")
        reason = choice.get("finish_reason") or None
        delta = choice.get("delta") or {}
        events.append(_event(choice.get("index") or 0, delta, reason, usage, model, request_id))
    return events


def _event(
    index: int, said: Mapping[str, Any], reason: str | None, usage: Any, model: Any, request_id: Any
) -> Event:
    content, calls = said.get("content") or "", said.get("tool_calls")
    return Event(
        index,
        content if isinstance(content, str) else _joined(content),
        said.get("reasoning_content") or said.get("reasoning") or "",
        tuple(map(_piece, range(len(calls)), calls)) if calls else (),
        reason,
        usage,
        model,
        request_id,
    )


def _joined(parts: Any) -> str:
    """The text of content that came as a list of typed parts."""
    if not isinstance(parts, list):
        raise UnreadableError(f"content {parts!r:.100}")
    return "".join(part.get("text") or "" for part in parts if isinstance(part, dict))


def _piece(position: int, call: Any) -> ToolPiece:
    if not isinstance(call, dict):
        raise UnreadableError(f"tool call {call!r:.100}")
    slot, function = call.get("index"), call.get("function") or {}
    name, arguments = function.get("name"), function.get("arguments") or ""
    if name == "multi_tool_use.parallel":
        raise UnreadableError(f"{name} stands for several calls")  # litellm takes it apart
    return ToolPiece(
        slot=position if slot is None else slot,
        id=call.get("id"),
        name=name,
        arguments=arguments if isinstance(arguments, str) else json.dumps(arguments),
    )
