"""The wire formats that are read here, without litellm's objects."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agentless.llm import anthropic_format, gemini_format, openai_format
from agentless.llm.replies import Event, UnreadableError

Read = Callable[[Any], list[Event]]


@dataclass(frozen=True, slots=True)
class Format:
    """How a provider's JSON becomes events; what is something else is an `UnreadableError`."""

    read_whole: Read
    """A whole reply's."""
    stream_reader: Callable[[], Read]
    """Makes the reader of one stream, which takes one event's JSON after the other."""


def _careful(read: Read) -> Read:
    def read_or_tell(body: Any) -> list[Event]:
        try:
            return read(body)
        except (AttributeError, IndexError, KeyError, RecursionError, TypeError) as error:
            raise UnreadableError(f"{body!r:.200}") from error

    return read_or_tell


OPENAI = Format(_careful(openai_format.read_whole), lambda: _careful(openai_format.read_event))
ANTHROPIC = Format(_careful(anthropic_format.read_whole), lambda: _careful(anthropic_format.StreamReader()))
GEMINI = Format(_careful(gemini_format.read_whole), lambda: _careful(gemini_format.Reader()))
