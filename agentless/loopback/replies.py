"""What can be scripted as a reply, and how its tokens are counted.

The counting rule, the same for prompts and completions: a text costs one token per four bytes of its
UTF-8 form, rounded up, each text for itself (`count_tokens`). Texts are: every text part of every message,
the system prompt, names and arguments of tool calls, and the compact JSON of each tool definition and of
each part that is not text. It is not any vendor's tokenizer; it is exact, repeatable and cheap, so that a
test can compute a bill.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

_WORDS = re.compile(r"\S+\s*|\s+")
_ARGUMENT_PIECES = 3


def count_tokens(text: str) -> int:
    """One token per four bytes of UTF-8, rounded up."""
    return (len(text.encode("utf-8", "surrogatepass")) + 3) // 4


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens by kind; `prompt_tokens` includes the cached ones, `completion_tokens` the reasoning."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cache_creation_token: int = 0
    cache_read_input_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Usage)))

    def as_dict(self) -> dict[str, int]:
        """The counts by name, JSON-ready."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool in a reply.

    `arguments` is a dict, or the raw text for arguments a model got wrong. An Anthropic reply that is
    not streamed has no place for text that is not JSON: there `input` is that string, as are Gemini's
    `args` in all replies. `id` is made up when it is not given.
    """

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict)
    id: str | None = None

    @property
    def raw_arguments(self) -> str:
        """The arguments as the text that a model writes."""
        return self.arguments if isinstance(self.arguments, str) else _json(self.arguments)

    @property
    def argument_pieces(self) -> list[str]:
        """The raw arguments in the pieces they are streamed in."""
        raw = self.raw_arguments
        size = max(1, -(-len(raw) // _ARGUMENT_PIECES))
        return [raw[i : i + size] for i in range(0, len(raw), size)]


@dataclass(frozen=True, slots=True)
class Ending:
    """How a stream in Gemini's format ends: all of these are well-formed, and come from the real services."""

    finish: Literal["after", "with", "before"] = "after"
    """The finish reason comes in an event after the last piece, with the last piece, or before it."""
    usage: bool = True
    """Every event carries usage, the last the whole; or none does."""
    newline: Literal["\r\n", "\n"] = "\r\n"
    """What ends a line."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A scripted reply, for any wire format, whole or streamed.

    Sent as written: it is not cut at the request's `max_tokens` (give `finish_reason="length"` to play
    that; only the built-in default reply is cut).
    """

    text: str = ""
    """The reply's text. Streamed word by word, unless `chunks` says how."""
    chunks: Sequence[str] | None = None
    """The pieces to stream; they join to `text`, which may then be left out."""
    tool_calls: Sequence[ToolCall] = ()
    finish_reason: str | None = None
    """In OpenAI's words (`stop`, `length`, `tool_calls`, `content_filter`), translated for Anthropic and
    Gemini; any other word is sent as it is. Default: `tool_calls` if there are some, else `stop`."""
    reasoning: str | None = None
    """`reasoning_content` as DeepSeek and vLLM send it; an Anthropic thinking block; a part of
    Gemini's that is a thought."""
    usage: Mapping[str, int] | None = None
    """Fields of `Usage` that replace the counted ones."""
    delay: float = 0.0
    """Seconds before the first byte."""
    chunk_delay: float = 0.0
    """Seconds between streamed pieces; nothing waits in a whole reply."""
    headers: Mapping[str, str] = field(default_factory=dict)
    model: str | None = None
    """The model it says it is, if not the one that was asked for."""
    ending: Ending = Ending()
    """How it ends in a stream of Gemini's."""

    def __post_init__(self) -> None:
        if self.chunks is not None:
            joined = "".join(self.chunks)
            if self.text and joined != self.text:
                raise ValueError(f"chunks join to {joined!r}, which is not the text {self.text!r}")
            object.__setattr__(self, "text", joined)
        unknown = set(self.usage or ()) - {f.name for f in fields(Usage)}
        if unknown:
            raise ValueError(f"usage has no {sorted(unknown)}; it has {[f.name for f in fields(Usage)]}")

    @property
    def finish(self) -> str:
        """The finish reason, derived if it is not given."""
        return self.finish_reason or ("tool_calls" if self.tool_calls else "stop")

    @property
    def pieces(self) -> list[str]:
        """The text in the pieces it is streamed in."""
        return list(self.chunks) if self.chunks is not None else _WORDS.findall(self.text)

    @property
    def reasoning_tokens(self) -> int:
        """What the reasoning costs."""
        return count_tokens(self.reasoning or "")

    @property
    def completion_tokens(self) -> int:
        """What the reply costs, reasoning included."""
        calls = sum(count_tokens(c.name) + count_tokens(c.raw_arguments) for c in self.tool_calls)
        return count_tokens(self.text) + calls + self.reasoning_tokens


def _json(arguments: Mapping[str, Any]) -> str:
    return json.dumps(dict(arguments), ensure_ascii=False)


def charged(prompt: Usage, replies: Sequence[Reply]) -> Usage:
    """The usage of a request: its prompt once, and all of its replies."""
    completions = (Usage(0, r.completion_tokens, 0, 0, r.reasoning_tokens) for r in replies)
    total = sum(completions, prompt)
    for reply in replies:
        total = replace(total, **reply.usage) if reply.usage else total
    return total


def default_reply(prompt: str, index: int, max_tokens: int | None) -> Reply:
    """The reply to give when nothing is scripted: made from the prompt and the choice's index alone."""
    text = f"This is the loopback's reply to: {prompt[:200]}" + (f" (choice {index})" if index else "")
    if max_tokens is not None and count_tokens(text) > max_tokens:
        kept = text.encode("utf-8", "surrogatepass")[: 4 * max_tokens].decode("utf-8", "ignore")
        return Reply(kept, finish_reason="length")
    return Reply(text)
