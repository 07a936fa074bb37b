"""What a call gives back: plain, JSON-ready dicts that belong to the caller."""

from typing import Any, NotRequired, TypedDict


class ToolCall(TypedDict):
    """One call of a tool that the model asks for.

    `arguments` is the parsed JSON object. Where the model wrote invalid JSON (or JSON that is not an
    object), `arguments` is `{}` and `invalid_arguments` holds its text: a reply that was paid for is
    never lost to a parse error.
    """

    id: str
    name: str
    arguments: dict[str, Any]
    invalid_arguments: NotRequired[str]


class Usage(TypedDict):
    """Tokens and money, as the provider counted them.

    `prompt_tokens` includes cached tokens (litellm's convention for every provider); the two `cache_*`
    fields say how many of them were written to and read from the cache. `completion_tokens` includes
    `reasoning_tokens`. `cost` is in USD; `None` where no price is known, never 0 for unknown.
    `cache_creation_token` is spelt as the Agentless pipeline reads it.
    """

    completion_tokens: int
    prompt_tokens: int
    cache_creation_token: int
    cache_read_input_tokens: int
    reasoning_tokens: int
    cost: float | None


class Trajectory(TypedDict):
    """One finished sample.

    `finish_reason` is one of `stop`, `length`, `tool_calls`, `content_filter`; `model` is the name the
    service says it served; `attempts` counts the HTTP requests this sample took (1 = no retry);
    `latency` is in seconds, waits included; `cached` is true where the sample came from a store and
    nothing was sent. `refusal` is there where the model declined and its service tells that apart from
    the text (OpenAI's `refusal`).
    """

    response: str
    usage: Usage
    finish_reason: str
    tool_calls: list[ToolCall]
    model: str
    request_id: str | None
    reasoning: str | None
    attempts: int
    latency: float
    cached: bool
    refusal: NotRequired[str]


class Chunk(TypedDict):
    """One piece of a streamed sample.

    `response` is the new text (joined over a sample's chunks: its whole text), `index` the sample's
    number from 0. `finish_reason` is `None`, `usage` all zero and `tool_calls` empty until the sample's
    last chunk, which has all three, and the sample's `reasoning` and `refusal` where there are any.
    """

    response: str
    index: int
    usage: Usage
    finish_reason: str | None
    tool_calls: list[ToolCall]
    reasoning: NotRequired[str]
    refusal: NotRequired[str]


def no_usage() -> Usage:
    """A fresh usage of nothing: what a chunk carries before the last."""
    return Usage(
        completion_tokens=0,
        prompt_tokens=0,
        cache_creation_token=0,
        cache_read_input_tokens=0,
        reasoning_tokens=0,
        cost=0.0,
    )
