"""The one door to litellm: sends one request, reads one reply.

litellm's types stop here; what goes out are `Event`s, and litellm's own exceptions. Measured on 1.105.3.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from agentless.llm import bridge, litellm_replies, wire
from agentless.llm.formats import Format, format_of
from agentless.llm.importing import load
from agentless.llm.replies import Event

# One value for all: litellm builds a new OpenAI client for each distinct time-out, and its time-out is
# per read. Deadlines are kept outside, in attempts.py.
_NO_TIMEOUT = 1e6


@dataclass(slots=True)
class Plan:
    """A request: the arguments that litellm takes, and once it has gone out, what went out.

    The requests of a fan-out and its retries are all the same. litellm builds the first of them in over a
    millisecond; the others go out as the same bytes.
    """

    arguments: Mapping[str, Any]
    """Keyword arguments of `litellm.acompletion`, as `providers.build_request` makes them."""
    sent: wire.Sent | None = None
    format: Format | None = field(init=False)
    """Of the replies, where they are read without litellm."""

    def __post_init__(self) -> None:
        self.format = format_of(self.route, self.arguments)

    @property
    def model(self) -> str:
        """Litellm's name of the model, its provider's first."""
        return str(self.arguments["model"])

    @property
    def route(self) -> str:
        """Litellm's name of the provider."""
        return self.model.split("/", 1)[0]

    def has_gone_out(self) -> bool:
        """Claims that it need not be built again."""
        return self.sent is not None


@asynccontextmanager
async def turn_to_send(plan: Plan, exchange: wire.Exchange) -> AsyncIterator[None]:
    """Within it, this request is the only one being built, until its bytes are out.

    Building takes litellm over a millisecond of computing with pauses between. Side by side, many requests
    would all go out when the last one is built; one after the other, the first goes out at once.
    """
    if plan.has_gone_out() or plan.route not in _ASYNC_ROUTES:
        yield
        return
    await _building.acquire()
    if plan.has_gone_out():
        _building.release()
        yield
        return

    def go_on() -> None:
        if _form_of(plan) is not None:
            plan.sent = exchange.sent
        _building.release()

    exchange.on_sent.append(go_on)
    try:
        yield
    finally:
        exchange.note_sent()


_building = asyncio.Lock()


def _forget_lock() -> None:
    global _building  # noqa: PLW0603  # a forked child has another loop
    _building = asyncio.Lock()


bridge.on_fork(_forget_lock)


async def send(plan: Plan, exchange: wire.Exchange) -> list[Event]:
    """Send one request and read its whole reply; `exchange` is filled in with what happened.

    Raises:
        litellm's exceptions (all derive from `openai.OpenAIError`).
    """
    try:
        form = _form_of(plan)
        if form is not None and await _take(plan, plan.arguments, exchange):
            assert exchange.response is not None  # noqa: S101  # it is good
            try:
                return form.read_whole(json.loads(exchange.response.content))
            except ValueError:
                exchange.answer = exchange.response  # litellm says what is wrong with it
        return litellm_replies.read_whole(await _complete(plan, plan.arguments, exchange))
    finally:
        await exchange.close()


async def stream(plan: Plan, exchange: wire.Exchange) -> AsyncGenerator[Event, None]:
    """Send one request and read its reply as it comes.

    Raises:
        litellm's exceptions where the request is refused, and `httpx` or SDK exceptions where the stream
        breaks (`as_litellm` turns those into litellm's).
    """
    watched = wire.current.set(exchange)  # some routes (Gemini's) send when the first piece is asked for
    streamed = {**plan.arguments, "stream": True, "stream_options": {"include_usage": True}}
    form = _form_of(plan)
    try:
        if form is not None and await _take(plan, streamed, exchange):
            read = form.stream_reader()
            async with aclosing(exchange.read_events()) as events:
                async for event in events:
                    for piece in read(event):
                        yield piece
            return
        wrapper = await _complete(plan, streamed, exchange)
        async for piece in litellm_replies.read_stream(wrapper, exchange):
            yield piece
    finally:
        wire.current.reset(watched)
        await exchange.close()


def _form_of(plan: Plan) -> Format | None:
    """The plan's format, unless an application listens to what litellm does."""
    return None if _has_callbacks(load()) else plan.format


async def _take(plan: Plan, arguments: Mapping[str, Any], exchange: wire.Exchange) -> bool:
    """Send the request, and claims that its reply is good and to be read from `exchange`.

    Else litellm has to say, in its own exceptions, what came of it: `exchange.answer`.
    """
    try:
        if plan.sent is not None:
            await plan.sent.again(exchange)
        else:
            exchange.takes_reply = True
            await _complete(plan, arguments, exchange)
    except wire.ReplyTaken:
        pass
    except httpx.HTTPError as error:
        exchange.answer = error
        return False
    finally:
        exchange.takes_reply = False
    if not exchange.has_good_reply:
        exchange.answer = exchange.response
        return False
    if not exchange.is_streaming and exchange.response is not None:
        try:
            await exchange.response.aread()
        except httpx.HTTPError as error:
            exchange.answer = error
            return False
    return True


async def _complete(plan: Plan, arguments: Mapping[str, Any], exchange: wire.Exchange) -> Any:
    litellm = load()
    from litellm._internal_context import is_internal_call

    watched = wire.current.set(exchange)
    # Its logging worker only serves callbacks, and costs a task a call.
    quiet = is_internal_call.set(not _has_callbacks(litellm))
    try:
        with bridge.inline(plan.route in _ASYNC_ROUTES):
            return await litellm.acompletion(**arguments, **_retries(plan.route), timeout=_NO_TIMEOUT)
    finally:
        is_internal_call.reset(quiet)
        wire.current.reset(watched)


def _retries(route: str) -> dict[str, int]:
    # Both must be 0: unset, openai sends 3 requests and azure 9. (Routes that ignore `max_retries` have it
    # allowed by name in routes.py, and wire.py refuses a repeated POST anyway.)
    return {} if route in _REFUSE_RETRIES else {"num_retries": 0, "max_retries": 0}


_REFUSE_RETRIES = frozenset({"gradient_ai"})
"""Routes that raise `UnsupportedParamsError` for either; they retry nothing by themselves."""


def _has_callbacks(litellm: Any) -> bool:
    return any(getattr(litellm, name, None) for name in _CALLBACKS)


_CALLBACKS = (
    "callbacks",
    "input_callback",
    "success_callback",
    "failure_callback",
    "_async_input_callback",
    "_async_success_callback",
    "_async_failure_callback",
)


# `acompletion` runs `completion` in a thread to get a coroutine from it. On these routes that takes a
# millisecond of computing and never blocks (read in 1.105.3), so the engine's own thread does it.
_ASYNC_ROUTES = frozenset(
    {
        "anthropic",
        "azure",
        "deepseek",
        "fireworks_ai",
        "groq",
        "hosted_vllm",
        "mistral",
        "openai",
        "openrouter",
        "together_ai",
        "xai",
    }
)
