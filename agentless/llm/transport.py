"""The door to litellm: sends one request, reads one reply.

litellm's types stop here; what goes out are `Event`s, and litellm's own exceptions. Measured on 1.105.3.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import httpx

from agentless.llm import bridge, litellm_replies, molds, wire
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

    arguments: Mapping[str, Any] = field(repr=False)  # the key is among them
    """Keyword arguments of `litellm.acompletion`, as `providers.build_request` makes them."""
    sent: wire.Sent | None = None
    format: Format | None = field(init=False)
    """Of the replies, where they are read without litellm."""
    shape: molds.Shape | None = field(init=False)
    """By which it is known that litellm has built one of its kind."""

    def __post_init__(self) -> None:
        self.format = format_of(self.route, self.arguments)
        self.shape = None if self.format is None else molds.Shape.of(self.arguments)

    @property
    def model(self) -> str:
        """Litellm's name of the model, its provider's first."""
        return str(self.arguments["model"])

    @property
    def route(self) -> str:
        """Litellm's name of the provider."""
        return self.model.split("/", 1)[0]

    def is_built(self) -> bool:
        """Claims that litellm need not build it."""
        if self.sent is None:
            self.sent = molds.find(self.shape)
        return self.sent is not None


@asynccontextmanager
async def turn_to_send(plan: Plan, exchange: wire.Exchange) -> AsyncIterator[None]:
    """Within it, this request is the only one being built, until its bytes are out.

    Building takes litellm over a millisecond of computing with pauses between. Side by side, many requests
    would all go out when the last one is built; one after the other, the first goes out at once.
    """
    if plan.is_built() or plan.route not in _ASYNC_ROUTES:
        yield
        return
    await _building.acquire()
    if plan.is_built():
        _building.release()
        yield
        return

    def go_on() -> None:
        plan.sent = exchange.sent
        try:
            molds.keep(plan.shape, plan.sent)
        finally:
            _building.release()

    exchange.on_idle.append(go_on)
    try:
        yield
    finally:
        exchange.note_idle()


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
        reply = await _ask(plan, form, plan.arguments, exchange)
        if form is not None and reply is None and exchange.response is not None:
            with suppress(ValueError):  # whose frames hold the body, so that nothing is raised from it
                return form.read_whole(json.loads(exchange.response.content))
            # litellm says what is wrong with it
            reply = await _tell(plan, plan.arguments, exchange, exchange.response)
        return litellm_replies.read_whole(reply)
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
    try:
        form = _form_of(plan)
        reply = await _ask(plan, form, streamed, exchange)
        if form is not None and reply is None:
            read = form.stream_reader()
            async with aclosing(exchange.read_events()) as events:
                async for event in events:
                    for piece in read(event):
                        yield piece
            return
        async for piece in litellm_replies.read_stream(reply, exchange):
            yield piece
    finally:
        wire.current.reset(watched)
        await exchange.close()


def _form_of(plan: Plan) -> Format | None:
    """The plan's format, unless an application listens to what litellm does, or has a say in it."""
    litellm = load()
    has_say = (
        _has_callbacks(litellm)
        or any(getattr(litellm, name, None) for name in _SETTINGS)
        or _is_wrapped(litellm.acompletion, "litellm.")
        or _is_wrapped(httpx.AsyncClient.send, "httpx.")
    )
    return None if has_say else plan.format


async def _ask(plan: Plan, form: Format | None, arguments: Mapping[str, Any], exchange: wire.Exchange) -> Any:
    """Send the request, once: litellm's reply, or `None` where a good one is to be read from `exchange`.

    What went wrong with a request that litellm has not sent itself, it is told, and says it in its own
    exceptions.
    """
    if form is None:
        return await _complete(plan, arguments, exchange)
    if plan.sent is None:
        exchange.takes = form.path
        try:
            return await _complete(plan, arguments, exchange)
        except wire.ReplyTaken:
            pass
        finally:
            exchange.takes = None
    else:
        try:
            response = await plan.sent.again(exchange)
        except httpx.HTTPError as error:
            return await _tell(plan, arguments, exchange, error)
        if not exchange.has_good_reply:
            return await _tell(plan, arguments, exchange, response)
    if not exchange.is_streaming and exchange.response is not None:
        try:
            await exchange.response.aread()
        except httpx.HTTPError as error:
            return await _tell(plan, arguments, exchange, error)
    return None


async def _tell(
    plan: Plan, arguments: Mapping[str, Any], exchange: wire.Exchange, answer: httpx.Response | Exception
) -> Any:
    """Have litellm make the request once more and get this `answer`, without it being sent."""
    exchange.answer = answer
    return await _complete(plan, arguments, exchange)


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


def _is_wrapped(function: Any, package: str) -> bool:
    # Where calls are traced, something else stands in its place, though it may bear its name and globals.
    return not (type(function) is FunctionType and function.__globals__["__name__"].startswith(package))


# By which requests come out differently from call to call, or by another client.
_SETTINGS = (
    "aclient_session",
    "headers",
    "model_alias_map",
    "model_fallbacks",
    "modify_params",
    "organization",
    "proxy_auth",
)
_CALLBACKS = (
    "callbacks",
    "pre_call_rules",
    "post_call_rules",
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
