"""The wire formats that are read without litellm's objects: most of a stream's time, and half a call's.

They are for routes on which litellm reads the same into a reply, and for requests that it does not answer
for itself (1.105.3); what else there is goes its way. `test_stream_paths.py` holds both to the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agentless.llm import anthropic_format, openai_format, shortcuts
from agentless.llm.replies import Event


@dataclass(frozen=True, slots=True)
class Format:
    """How a provider's JSON becomes events."""

    read_whole: Callable[[Any], list[Event]]
    """A whole reply's; raises `UnreadableError`."""
    stream_reader: Callable[[], Callable[[Any], list[Event]]]
    """Makes the reader of one stream: one event's JSON to events; raises `UnreadableError`."""


OPENAI = Format(openai_format.read_whole, lambda: openai_format.read_event)
ANTHROPIC = Format(anthropic_format.read_whole, anthropic_format.StreamReader)

_BY_ROUTE = {"openai": OPENAI, "deepseek": OPENAI, "hosted_vllm": OPENAI, "anthropic": ANTHROPIC}


def format_of(route: str, arguments: Mapping[str, Any]) -> Format | None:
    """The format of the replies to this request; `None` where litellm has to read them."""
    form = _BY_ROUTE.get(route) if shortcuts.taken else None
    return None if form is ANTHROPIC and _is_rewritten(arguments) else form


def _is_rewritten(arguments: Mapping[str, Any]) -> bool:
    """Claims that litellm asks Claude for something else, and turns its reply into what was asked for."""
    # A schema may become a tool that has to be called; a prefix comes back in front of the text.
    return "response_format" in arguments or any(each.get("prefix") for each in arguments["messages"])
