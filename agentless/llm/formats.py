"""The wire formats that are read without litellm's objects: most of a stream's time, and half a call's.

They are for routes on which litellm reads the same into a reply, and for requests that it does not answer
for itself (1.105.3); what else there is goes its way. `test_shortcuts.py` holds both to the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agentless.llm import anthropic_format, openai_format, shortcuts
from agentless.llm.replies import Event, UnreadableError

Read = Callable[[Any], list[Event]]


@dataclass(frozen=True, slots=True)
class Format:
    """How a provider's JSON becomes events; what is something else is an `UnreadableError`."""

    path: str
    """How the address of its requests ends: litellm asks for some models elsewhere (OpenAI's responses)."""
    read_whole: Read
    """A whole reply's."""
    stream_reader: Callable[[], Read]
    """Makes the reader of one stream, which takes one event's JSON after the other."""


def _careful(read: Read) -> Read:
    def read_or_tell(body: Any) -> list[Event]:
        try:
            return read(body)
        except (AttributeError, KeyError, TypeError) as error:
            raise UnreadableError(f"{body!r:.200}") from error

    return read_or_tell


OPENAI = Format(
    "/chat/completions", _careful(openai_format.read_whole), lambda: _careful(openai_format.read_event)
)
ANTHROPIC = Format(
    "/messages", _careful(anthropic_format.read_whole), lambda: _careful(anthropic_format.StreamReader())
)

_BY_ROUTE = {"openai": OPENAI, "deepseek": OPENAI, "hosted_vllm": OPENAI, "anthropic": ANTHROPIC}


def format_of(route: str, arguments: Mapping[str, Any]) -> Format | None:
    """The format of the replies to this request; `None` where litellm has to read them."""
    form = _BY_ROUTE.get(route) if shortcuts.taken else None
    return None if form is ANTHROPIC and _is_rewritten(arguments) else form


def _is_rewritten(arguments: Mapping[str, Any]) -> bool:
    """Claims that litellm asks Claude for something else, and turns its reply into what was asked for."""
    # A schema may become a tool that has to be called; a prefix comes back in front of the text.
    return "response_format" in arguments or any(each.get("prefix") for each in arguments["messages"])
