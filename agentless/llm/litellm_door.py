"""The litellm door: `litellm.acompletion` sends the request and reads the reply, over our watched connection.

For providers that are not spoken to directly, where an application listens to what litellm does or has a say
in it, with `AGENTLESS_DIRECT=0`, and for a litellm newer than those that were tested.
"""

import contextvars
import os
from collections.abc import AsyncGenerator, Mapping
from types import FunctionType
from typing import Any

import httpx

from agentless.llm import importing, litellm_replies, reaches, watch, wire
from agentless.llm.replies import Event
from agentless.llm.routes import find_route

# One value for all: litellm builds a new OpenAI client for each distinct time-out, and its time-out is
# per read. Deadlines are kept outside, in attempts.py.
_NO_TIMEOUT = 1e6

_sends_all = os.environ.get("AGENTLESS_DIRECT", "1") == "0"

_NOBODYS: contextvars.ContextVar[bool] = contextvars.ContextVar("agentless_unused", default=False)


def is_wanted() -> bool:
    """Whether everything has to go by this door."""
    litellm = importing.load()
    return (
        _sends_all
        or not importing.is_tested()
        or _has_callbacks(litellm)
        or any(getattr(litellm, name, None) for name in reaches.CLIENT_SETTINGS)
        or _is_wrapped(litellm.acompletion, "litellm.")
        or _is_wrapped(httpx.AsyncClient.send, "httpx.")
    )


async def send(arguments: Mapping[str, Any], exchange: wire.Exchange) -> list[Event]:
    """Send one request and read its whole reply; raises litellm's exceptions, and as `watch.note_answer`."""
    reply = await _complete(arguments, exchange)
    watch.note_answer(_route(arguments), arguments["model"], exchange)
    return litellm_replies.read_whole(reply)


async def stream(arguments: Mapping[str, Any], exchange: wire.Exchange) -> AsyncGenerator[Event, None]:
    """Send one request and read its reply as it comes; raises as `send`, and what breaks a stream."""
    watched = wire.current.set(exchange)  # some routes (Gemini's) send when the first piece is asked for
    streamed = {**arguments, "stream": True, "stream_options": {"include_usage": True}}
    try:
        reply = await _complete(streamed, exchange)
        async for piece in litellm_replies.read_stream(reply, exchange):
            watch.note_answer(_route(arguments), arguments["model"], exchange)
            yield piece
        watch.note_answer(_route(arguments), arguments["model"], exchange)  # there was not a piece
    finally:
        wire.current.reset(watched)


async def _complete(arguments: Mapping[str, Any], exchange: wire.Exchange) -> Any:
    litellm, route = importing.load(), _route(arguments)
    is_internal_call = reaches.INTERNAL_CALL.find(_NOBODYS)
    exchange.is_unwatched = watch.is_unwatched(route)
    watched = wire.current.set(exchange)
    # Its logging worker only serves callbacks, and costs a task a call.
    quiet = is_internal_call.set(not _has_callbacks(litellm))
    try:
        with importing.no_warnings((route, frozenset(arguments))):
            return await litellm.acompletion(**_spread(arguments), **_retries(route), timeout=_NO_TIMEOUT)
    finally:
        is_internal_call.reset(quiet)
        wire.current.reset(watched)


def _spread(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments; `extra_body` among them where litellm writes it into the body under that name."""
    if "extra_body" not in arguments or not find_route(_route(arguments)).spreads_extra_body:
        return arguments
    rest = {name: value for name, value in arguments.items() if name != "extra_body"}
    return {**rest, **arguments["extra_body"]}


def _route(arguments: Mapping[str, Any]) -> str:
    """Litellm's name of the provider."""
    return str(arguments["model"]).split("/", 1)[0]


def _retries(route: str) -> dict[str, int]:
    # Both must be 0: unset, openai sends 3 requests and azure 9. (Routes that ignore `max_retries` have it
    # allowed by name in routes.py, and wire.py refuses a repeated POST anyway.)
    return {} if route in _REFUSE_RETRIES else {"num_retries": 0, "max_retries": 0}


_REFUSE_RETRIES = frozenset({"gradient_ai", "huggingface", "ragflow"})
"""Routes that raise `UnsupportedParamsError` for either, or send it to the service, which may refuse it.

They retry nothing by themselves.
"""


def _has_callbacks(litellm: Any) -> bool:
    return any(getattr(litellm, name, None) for name in reaches.CALLBACKS)


def _is_wrapped(function: Any, package: str) -> bool:
    # Where calls are traced, something else stands in its place, though it may bear its name and globals.
    return not (type(function) is FunctionType and function.__globals__["__name__"].startswith(package))
