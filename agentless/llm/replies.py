"""A provider's reply, whole or in pieces, folded into trajectories; pure.

Both kinds arrive as `Event`s (a whole reply is one event a choice), so that text, tool calls, finish
reasons and usage are read in one place, and any split of a stream folds to the same trajectories.
"""

import math
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from agentless.llm.finish_reasons import finish_reason, is_failure, is_known
from agentless.llm.service_words import parse_json
from agentless.llm.trajectory import ToolCall, Usage, no_usage


class UnreadableError(ValueError):
    """This is not a reply in the format that it should have."""


def text_of(value: Any) -> str:
    """`value`, where it is a text or nothing.

    Raises:
        UnreadableError: It is something else.
    """
    if value is None or isinstance(value, str):
        return value or ""
    raise UnreadableError(f"{value!r:.100} in a text's place")


class ToolPiece(NamedTuple):
    """A piece of a tool call: what is new of it; `slot` says to which of the sample's calls it belongs."""

    slot: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(slots=True)
class Event:
    """One piece of a reply; every field is what this piece adds."""

    index: int = 0
    text: str = ""
    reasoning: str = ""
    tools: tuple[ToolPiece, ...] = ()
    finish_reason: str | None = None
    usage: "Tokens | None" = None
    model: str | None = None
    request_id: str | None = None
    refusal: str = ""
    error: Mapping[str, Any] | None = None
    """What the service says of its own failure within the reply."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token counts as a provider reports them, cached ones included in `prompt`."""

    prompt: int = 0
    completion: int = 0
    cache_written: int = 0
    cache_read: int = 0
    reasoning: int = 0

    def later(self, other: "Tokens") -> "Tokens":
        """This report brought up to date by a later one of the same reply.

        Reports in a stream are cumulative, and some leave out what an earlier one said (Anthropic's
        first has the prompt, its last the completion), so the larger of each holds.
        """
        return Tokens(
            max(self.prompt, other.prompt),
            max(self.completion, other.completion),
            max(self.cache_written, other.cache_written),
            max(self.cache_read, other.cache_read),
            max(self.reasoning, other.reasoning),
        )

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(
            self.prompt + other.prompt,
            self.completion + other.completion,
            self.cache_written + other.cache_written,
            self.cache_read + other.cache_read,
            self.reasoning + other.reasoning,
        )

    def usage(self, cost: float | None) -> Usage:
        """As the public dict, with `cost` in USD."""
        return Usage(
            completion_tokens=self.completion,
            prompt_tokens=self.prompt,
            cache_creation_token=self.cache_written,
            cache_read_input_tokens=self.cache_read,
            reasoning_tokens=self.reasoning,
            cost=cost,
        )


@dataclass(frozen=True, slots=True)
class Bill:
    """What one attempt was charged, as far as the service has said; what it refused is charged nothing."""

    tokens: Tokens = Tokens()
    is_known: bool = True
    """Claims that this is all. After a time-out or a broken stream the rest is not known."""


@dataclass(slots=True)
class Sample:
    """One choice of a reply, as far as it has come."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    refusal: list[str] = field(default_factory=list)
    """What the model says instead of an answer, where the service tells that apart."""
    calls: list["_Call"] = field(default_factory=list)
    finish_reason: str | None = None
    _slots: dict[int, "_Call"] = field(default_factory=dict)

    @property
    def response(self) -> str:
        """The text so far."""
        return "".join(self.text)

    @property
    def tool_calls(self) -> list[ToolCall]:
        """The calls so far, in the order the model began them."""
        return [each for call in self.calls for each in _apart(call.read())]

    @property
    def is_empty(self) -> bool:
        """Claims that the model stopped of itself without having thought, said or asked for anything."""
        stopped = self.finish_reason not in {None, "length", "content_filter"}
        return stopped and not self.calls and not any((*self.text, *self.reasoning, *self.refusal))

    def add_call(self, piece: ToolPiece) -> None:
        """Take in a piece of a call; some servers put several, one after the other, into one slot."""
        call = self._slots.get(piece.slot)
        if call is None or call.is_over(piece):
            # Without a name of its own, it is a call of the same tool.
            call = self._slots[piece.slot] = _Call(name="" if call is None else piece.name or call.name)
            self.calls.append(call)
        call.id = call.id or piece.id or ""
        call.name = call.name or piece.name or ""
        call.arguments.append(piece.arguments)


def _apart(call: ToolCall) -> list[ToolCall]:
    """The calls that one stands for: OpenAI's models sometimes put several into one of their own."""
    uses = call["arguments"].get("tool_uses") if call["name"] == "multi_tool_use.parallel" else None
    if not isinstance(uses, list) or not all(
        isinstance(use, dict) and "recipient_name" in use for use in uses
    ):
        return [call]
    return [
        ToolCall(
            id=f"{call['id']}_{number}",
            name=str(use.get("recipient_name")).removeprefix("functions."),
            arguments=use["parameters"] if isinstance(use.get("parameters"), dict) else {},
        )
        for number, use in enumerate(uses)
    ]


@dataclass(slots=True)
class _Call:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)

    def is_over(self, piece: ToolPiece) -> bool:
        """Whether `piece` begins another call: by its id, or its name after this one's."""
        if piece.id and self.id:
            return piece.id != self.id
        if piece.name and self.name and piece.name != self.name:
            return True
        return piece.arguments.lstrip().startswith("{") and self._is_complete()

    def _is_complete(self) -> bool:
        text = "".join(self.arguments)
        try:
            return text.rstrip().endswith("}") and isinstance(parse_json(text), dict)
        except ValueError:
            return False

    def read(self) -> ToolCall:
        self.id = self.id or f"call_{uuid.uuid4().hex}"
        text = "".join(self.arguments)
        if not text.strip():
            return ToolCall(id=self.id, name=self.name, arguments={})  # a tool without parameters
        try:
            arguments = parse_json(text)
        except ValueError:
            arguments = None
        if isinstance(arguments, str):
            text = arguments  # litellm writes Anthropic's `input` as JSON once more
        if not isinstance(arguments, dict):
            return ToolCall(id=self.id, name=self.name, arguments={}, invalid_arguments=text)
        return ToolCall(id=self.id, name=self.name, arguments=arguments)


@dataclass(slots=True)
class Reply:
    """One request's reply, as far as it has come."""

    samples: dict[int, Sample] = field(default_factory=dict)
    tokens: Tokens | None = None
    model: str | None = None
    request_id: str | None = None
    error: Mapping[str, Any] | None = None
    """What the service says of its own failure; the reply is none then."""
    unknown: set[str] = field(default_factory=set)
    """Words for a reply's end that are in no table."""

    def add(self, event: Event) -> None:
        """Take in the next piece."""
        self.model = event.model or self.model
        self.request_id = event.request_id or self.request_id
        if event.usage is not None:
            self.tokens = event.usage if self.tokens is None else self.tokens.later(event.usage)
        self.error = self.error or event.error
        if event.finish_reason and is_failure(event.finish_reason):
            self.error = self.error or {
                "message": f"the service ended the reply with finish_reason {event.finish_reason!r}",
                "type": "server_error",
            }
        if not (event.text or event.reasoning or event.tools or event.finish_reason or event.refusal):
            return
        sample = self.samples.setdefault(event.index, Sample())
        if event.text:
            sample.text.append(event.text)
        if event.reasoning:
            sample.reasoning.append(event.reasoning)
        for piece in event.tools:
            sample.add_call(piece)
        if event.refusal:
            sample.refusal.append(event.refusal)
        if event.finish_reason and not is_failure(event.finish_reason):
            sample.finish_reason = finish_reason(event.finish_reason, bool(sample.calls))
            if not is_known(event.finish_reason):
                self.unknown.add(event.finish_reason)

    @property
    def is_counted(self) -> bool:
        """Claims that the tokens can have been counted: no prompt is of none, and no text either."""
        said = any(any(sample.text) or sample.calls for sample in self.samples.values())
        tokens = self.tokens or Tokens()
        return tokens.prompt > 0 and (tokens.completion > 0 or not said)

    @property
    def is_finished(self) -> bool:
        """Claims that the provider itself said of every sample why it ended."""
        return bool(self.samples) and all(sample.finish_reason for sample in self.samples.values())


def fold(events: Iterable[Event]) -> Reply:
    """The reply that `events` make up."""
    reply = Reply()
    for event in events:
        reply.add(event)
    return reply


def read_tokens(usage: Any) -> Tokens | None:
    """Counts from a usage object of litellm's, of the OpenAI SDK's, or a mapping; `None` without one.

    Source: the field names of OpenAI's chat completions, DeepSeek's cache hits, and litellm's `Usage`
    (1.105.3), which counts cached tokens into `prompt_tokens` for every provider.
    """
    if usage is None:
        return None
    prompt_details = _get(usage, "prompt_tokens_details")
    prompt, completion = count_of(usage, "prompt_tokens"), count_of(usage, "completion_tokens")
    reasoning = count_of(_get(usage, "completion_tokens_details"), "reasoning_tokens")
    if reasoning and count_of(usage, "total_tokens") == prompt + completion + reasoning:
        completion += reasoning  # xAI counts them beside the completion's, all others within
    return Tokens(
        prompt=prompt,
        completion=completion,
        cache_written=count_of(usage, "cache_creation_input_tokens")
        or count_of(prompt_details, "cache_creation_tokens")
        or count_of(prompt_details, "cache_write_tokens"),
        cache_read=count_of(usage, "cache_read_input_tokens")
        or count_of(prompt_details, "cached_tokens")
        or count_of(usage, "prompt_cache_hit_tokens"),
        reasoning=reasoning,
    )


def split_usage(tokens: Tokens | None, cost: float | None, samples: int) -> list[Usage]:
    """A request's usage over its samples: all of it on the first, zeros on the rest.

    So the sum over trajectories is what was charged.
    """
    if tokens is None or samples == 0:
        return [Tokens().usage(None) for _ in range(samples)]
    return [tokens.usage(cost)] + [no_usage() for _ in range(samples - 1)]


def _get(source: Any, name: str) -> Any:
    if isinstance(source, Mapping):
        return source.get(name)
    return getattr(source, name, None)


def count_of(source: Any, name: str) -> int:
    """The number of this name in a usage object or mapping; 0 where there is none."""
    value = _get(source, name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return int(value) if 0 < value < math.inf else 0
