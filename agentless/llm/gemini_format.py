"""Replies in the format of Gemini's `generateContent`, from their JSON to events; pure.

Source: Google's API reference (GenerateContentResponse, Candidate, UsageMetadata). A stream's events have the
same shape as a whole reply, each with what is new.
"""

import json
import uuid
from collections.abc import Mapping
from typing import Any

from agentless.llm.replies import Event, Tokens, ToolPiece, UnreadableError, count_of, text_of


class Reader:
    """Reads one reply: its one object, or each of its stream's in turn."""

    def __init__(self) -> None:
        self._calls: dict[int, int] = {}  # how many each candidate has made

    def __call__(self, body: Mapping[str, Any]) -> list[Event]:
        """The events of one object; raises as `formats.Format`."""
        if not isinstance(body.get("candidates", []), list):
            raise UnreadableError("no candidates")
        model, request_id = body.get("modelVersion"), body.get("responseId")
        events = [Event(usage=_tokens(body.get("usageMetadata")), model=model, request_id=request_id)]
        for position, candidate in enumerate(body.get("candidates") or ()):
            index = candidate.get("index", position)
            parts = (candidate.get("content") or {}).get("parts") or ()
            events.extend(self._part(index, part) for part in parts)
            if reason := candidate.get("finishReason"):
                events.append(Event(index, finish_reason=reason))
        blocked = (body.get("promptFeedback") or {}).get("blockReason")
        if blocked and not body.get("candidates"):
            events.append(Event(finish_reason="content_filter"))
        return events

    def _part(self, index: int, part: Mapping[str, Any]) -> Event:
        if "functionCall" in part:
            call, slot = part["functionCall"], self._calls.get(index, 0)
            self._calls[index] = slot + 1
            name = call.get("id") or f"call_{uuid.uuid4().hex}"
            if signature := part.get("thoughtSignature"):  # it has to come back: litellm looks for it there
                name = f"{name}__thought__{signature}"
            arguments = json.dumps(call.get("args") or {})
            return Event(index, tools=(ToolPiece(slot, name, call.get("name"), arguments),))
        text = text_of(part.get("text"))
        return Event(index, reasoning=text) if part.get("thought") else Event(index, text=text)


def read_whole(body: Any) -> list[Event]:
    """The events of a whole reply; raises as `formats.Format`."""
    if isinstance(body, list) and body:  # a stream's objects as one list, where the address lacks `alt=sse`
        reader = Reader()
        return [event for each in body for event in reader(each)]
    if body.get("error") or not body.keys() & {"candidates", "promptFeedback", "usageMetadata"}:
        raise UnreadableError("no candidates")
    return Reader()(body)


def _tokens(usage: Any) -> Tokens | None:
    """Gemini counts thoughts apart from the candidates' tokens, and cached tokens within the prompt's."""
    if not isinstance(usage, Mapping):
        return None
    thoughts = count_of(usage, "thoughtsTokenCount")
    return Tokens(
        prompt=count_of(usage, "promptTokenCount") + count_of(usage, "toolUsePromptTokenCount"),
        completion=count_of(usage, "candidatesTokenCount") + thoughts,
        cache_read=count_of(usage, "cachedContentTokenCount"),
        reasoning=thoughts,
    )
