"""Replies in the format of OpenAI's chat completions, from their JSON to events; pure.

Sources: OpenAI's API reference (chat completions, whole and streamed); `reasoning_content` is DeepSeek's,
`reasoning` vLLM's and OpenRouter's.
"""

import json
from collections.abc import Mapping
from typing import Any

from agentless.llm.replies import Event, ToolPiece, UnreadableError, read_tokens, text_of
from agentless.llm.service_words import error_in


def read_whole(body: Any) -> list[Event]:
    """The events of a whole reply: its usage, and one for each choice; raises as `formats.Format`."""
    if error_in(body) or not isinstance(body["choices"], list):
        raise UnreadableError("no choices")
    model, request_id = body.get("model"), body.get("id")
    events = [Event(usage=read_tokens(body.get("usage")), model=model, request_id=request_id)]
    for index, choice in enumerate(body["choices"]):
        reason = choice.get("finish_reason") or "stop"  # some servers say nothing of a whole reply's end
        said = {**choice["message"]}
        if said.get("tool_calls"):
            said["tool_calls"] = [{**call, "index": slot} for slot, call in enumerate(said["tool_calls"])]
            _ = [call["function"]["name"] for call in said["tool_calls"]]  # each has one
        event = _event(index, said, reason, None, model, request_id)
        event.error = _error_of(choice)
        events.append(event)
    return events


def _error_of(choice: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """A failure that is told within a choice (OpenRouter)."""
    return error_in({"error": choice["error"]}) if choice.get("error") else None


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
        if "delta" not in choice and choice.get("message"):  # a whole reply in a stream's place
            delta, reason = choice["message"], reason or "stop"
        piece = _event(choice.get("index") or 0, delta, reason, usage, model, request_id)
        piece.error = _error_of(choice)
        events.append(piece)
    return events


def _event(
    index: int, said: Mapping[str, Any], reason: str | None, usage: Any, model: Any, request_id: Any
) -> Event:
    content, calls = said.get("content"), said.get("tool_calls")
    if isinstance(content, Mapping):
        content = [content]
    text, thoughts, refusal = _sorted(content) if isinstance(content, list) else (text_of(content), "", "")
    names = ("reasoning_content", "reasoning", "thinking")
    thought = next((said[name] for name in names if said.get(name) not in (None, "")), None)
    if isinstance(thought, list):
        thought = _thoughts(thought)
    if not calls and isinstance(said.get("function_call"), Mapping):  # the form before tools
        calls = [{"function": said["function_call"]}]
    return Event(
        index,
        text,
        text_of(thought) or thoughts,
        tuple(map(_piece, range(len(calls)), calls)) if calls else (),
        reason,
        usage,
        model,
        request_id,
        refusal=text_of(said.get("refusal")) or refusal,
    )


def _sorted(parts: list[Any]) -> tuple[str, str, str]:
    """(text, reasoning, refusal) of content that came as a list of typed parts."""
    text, thoughts, refusal = [], [], []
    for part in parts:
        if isinstance(part, str):
            text.append(part)
            continue
        kind = part.get("type")
        if kind in _THINKING:
            thoughts.append(_thoughts(part))
        elif kind == "refusal":
            refusal.append(text_of(part.get("refusal") or part.get("text")))
        else:
            said = part.get("text")
            text.append(text_of(said["value"] if isinstance(said, Mapping) and "value" in said else said))
    return "".join(text), "".join(thoughts), "".join(refusal)


_THINKING = frozenset({"thinking", "reasoning", "thought", "reasoning_content"})


def _thoughts(part: Any) -> str:
    """The text in a part of thinking: Mistral's and Databricks' hold lists of parts."""
    if isinstance(part, list):
        return "".join(map(_thoughts, part))
    if not isinstance(part, Mapping):
        return text_of(part)
    names = ("thinking", "reasoning", "reasoning_content", "text", "summary", "content")
    found = next((part[name] for name in names if part.get(name)), None)
    return _thoughts(found)


def _piece(position: int, call: Mapping[str, Any]) -> ToolPiece:
    slot, function = call.get("index"), call.get("function") or call  # some servers leave a level out
    name, arguments = function.get("name"), function.get("arguments") or ""
    return ToolPiece(
        slot=position if slot is None else slot,
        id=call.get("id"),
        name=name,
        arguments=arguments if isinstance(arguments, str) else json.dumps(arguments),
    )
