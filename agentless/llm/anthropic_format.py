"""Replies in the format of Anthropic's messages, from their JSON to events; pure.

Source: Anthropic's API reference (messages, streaming, extended thinking). Blocks and events of kinds that
are not named there are passed over, as it asks clients to.
"""

import json
from collections.abc import Mapping
from typing import Any

from agentless.llm.replies import Event, Tokens, ToolPiece, UnreadableError, count_of, text_of
from agentless.llm.service_words import error_in


def read_whole(body: Any) -> list[Event]:
    """The events of a whole reply, one a content block; raises as `formats.Format`."""
    if error_in(body) or not isinstance(body["content"], list):
        raise UnreadableError("no content")
    model, request_id = body.get("model"), body.get("id")
    events = [Event(usage=_tokens(body.get("usage")), model=model, request_id=request_id)]
    for slot, block in enumerate(body["content"]):
        events.append(_opening(slot, block))
        if block.get("type") == "tool_use":
            events.append(Event(tools=(ToolPiece(slot, arguments=_written(block["input"])),)))
    events.append(Event(finish_reason=body.get("stop_reason") or "stop"))
    return events


class StreamReader:
    """Reads one stream."""

    def __init__(self) -> None:
        self._calls: set[int] = set()  # the content blocks that are calls of the caller's tools
        self._inputs: dict[int, Any] = {}  # what came whole with such a block's beginning (gateways)

    def __call__(self, event: Mapping[str, Any]) -> list[Event]:
        """The events of one event of the stream."""
        slot = event.get("index", 0)
        match event.get("type"):
            case "message":  # a whole reply in a stream's place
                return read_whole(event)
            case "content_block_delta":
                return [self._delta(slot, event["delta"])]
            case "message_start":
                message = event["message"]
                usage = _tokens(message.get("usage"))
                return [Event(usage=usage, model=message.get("model"), request_id=message.get("id"))]
            case "content_block_start":
                block = event["content_block"]
                if block.get("type") == "tool_use":
                    self._calls.add(slot)
                    if block.get("input"):
                        self._inputs[slot] = block["input"]
                return [_opening(slot, block)]
            case "content_block_stop":
                return self._whole_input(slot)
            case "message_delta":
                reason = event["delta"].get("stop_reason")
                late = [piece for each in list(self._inputs) for piece in self._whole_input(each)]
                return [*late, Event(finish_reason=reason, usage=_tokens(event.get("usage")))]
            case _:
                return []

    def _whole_input(self, slot: int) -> list[Event]:
        if slot not in self._inputs:
            return []
        return [Event(tools=(ToolPiece(slot, arguments=_written(self._inputs.pop(slot))),))]

    def _delta(self, slot: int, delta: Mapping[str, Any]) -> Event:
        match delta.get("type"):
            case "text_delta":
                return Event(text=text_of(delta["text"]))
            case "thinking_delta":
                return Event(reasoning=text_of(delta["thinking"]))
            case "input_json_delta" if slot in self._calls:
                text = text_of(delta["partial_json"])
                if text:
                    self._inputs.pop(slot, None)
                return Event(tools=(ToolPiece(slot, arguments=text),))
            case _:
                return Event()


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _opening(slot: int, block: Mapping[str, Any]) -> Event:
    """What a content block begins with; in a whole reply, that is all of it."""
    match block.get("type"):
        case "text":
            return Event(text=text_of(block.get("text")))
        case "thinking":
            return Event(reasoning=text_of(block.get("thinking")))
        case "tool_use":
            return Event(tools=(ToolPiece(slot, id=block.get("id"), name=block.get("name")),))
        case _:
            return Event()


def _tokens(usage: Any) -> Tokens | None:
    """Anthropic counts cached tokens apart from `input_tokens`, and thinking within `output_tokens`."""
    if not isinstance(usage, Mapping):
        return None
    # With compaction, the totals are of its last turn, and all turns are charged.
    turns = usage.get("iterations") or [usage]

    def total(name: str) -> int:
        return sum(count_of(turn, name) for turn in turns)

    written, read = total("cache_creation_input_tokens"), total("cache_read_input_tokens")
    return Tokens(
        prompt=total("input_tokens") + written + read,
        completion=total("output_tokens"),
        cache_written=written,
        cache_read=read,
        reasoning=count_of(usage.get("output_tokens_details"), "thinking_tokens"),
    )
