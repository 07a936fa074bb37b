"""Replies in the format of OpenAI's chat completions, from their JSON to events; pure.

Sources: OpenAI's API reference (chat completions, whole and streamed); `reasoning_content` is DeepSeek's,
`reasoning` vLLM's and OpenRouter's.
"""

import json
import uuid
from collections.abc import Mapping
from typing import Any

from agentless.llm.replies import Event, ToolPiece, UnreadableError, read_tokens, text_of


def read_whole(body: Any) -> list[Event]:
    """The events of a whole reply: its usage, and one for each choice; raises as `formats.Format`."""
    if body.get("error") or not isinstance(body["choices"], list):
        raise UnreadableError("no choices")
    model, request_id = body.get("model"), body.get("id")
    events = [Event(usage=read_tokens(body.get("usage")), model=model, request_id=request_id)]
    for index, choice in enumerate(body["choices"]):
        reason = choice.get("finish_reason") or "stop"  # some servers say nothing of a whole reply's end
        said = {**choice["message"]}
        if said.get("tool_calls"):
            said["tool_calls"] = [_completed(*each) for each in enumerate(said["tool_calls"])]
        events.append(_event(index, said, reason, None, model, request_id))
    return events


def read_event(event: Any) -> list[Event]:
    """The events of one event of a stream; raises as `formats.Format`."""
    model, request_id = event.get("model"), event.get("id")
    usage, choices = read_tokens(event.get("usage")), event.get("choices")
    if not choices:
        return [Event(usage=usage, model=model, request_id=request_id)]
    events = []
    for choice in choices:
        reason = choice.get("finish_reason") or None
        delta = choice.get("delta") or {}
        events.append(_event(choice.get("index") or 0, delta, reason, usage, model, request_id))
    return events


def _event(
    index: int, said: Mapping[str, Any], reason: str | None, usage: Any, model: Any, request_id: Any
) -> Event:
    content, calls = said.get("content"), said.get("tool_calls")
    return Event(
        index,
        _joined(content) if isinstance(content, list) else text_of(content),
        text_of(said.get("reasoning_content") or said.get("reasoning")),
        tuple(map(_piece, range(len(calls)), calls)) if calls else (),
        reason,
        usage,
        model,
        request_id,
    )


def _joined(parts: list[Any]) -> str:
    """The text of content that came as a list of typed parts."""
    return "".join(text_of(part.get("text")) for part in parts)


def _completed(position: int, call: Mapping[str, Any]) -> dict[str, Any]:
    """A whole call, with what some servers leave out."""
    call["function"]["name"]  # a call has one
    return {**call, "index": position, "id": call.get("id") or f"call_{uuid.uuid4().hex}"}


def _piece(position: int, call: Mapping[str, Any]) -> ToolPiece:
    slot, function = call.get("index"), call.get("function") or {}
    name, arguments = function.get("name"), function.get("arguments") or ""
    return ToolPiece(
        slot=position if slot is None else slot,
        id=call.get("id"),
        name=name,
        arguments=arguments if isinstance(arguments, str) else json.dumps(arguments),
    )
