"""Sends one request and reads one reply, by one of two doors.

The direct door (`direct`) for the providers whose formats are read here; litellm's own `acompletion` for all
others, where an application listens to what litellm does or has a say in it, and with `AGENTLESS_DIRECT=0`.
litellm's types stop here; what goes out are `Event`s, and litellm's own exceptions.
"""

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import httpx

from agentless.llm import bridge, direct, importing, litellm_replies, wire
from agentless.llm.importing import load
from agentless.llm.replies import Event
from agentless.llm.retries import status_of

# One value for all: litellm builds a new OpenAI client for each distinct time-out, and its time-out is
# per read. Deadlines are kept outside, in attempts.py.
_NO_TIMEOUT = 1e6

_UNWRITTEN = object()
_SHOWN = 200  # characters of a reply that cannot be read

is_direct = os.environ.get("AGENTLESS_DIRECT", "1") != "0"
"""False: litellm sends every request and reads every reply."""


@dataclass(slots=True)
class Plan:
    """A request, the same for each sample and attempt of a call: written once, when the first goes out."""

    arguments: Mapping[str, Any] = field(repr=False)  # the key is among them
    """Keyword arguments of `litellm.acompletion`, as `providers.build_request` makes them."""
    template: direct.Template | None = None
    _written: Any = field(default=_UNWRITTEN, repr=False)

    @property
    def model(self) -> str:
        """Litellm's name of the model, its provider's first."""
        return str(self.arguments["model"])

    @property
    def route(self) -> str:
        """Litellm's name of the provider."""
        return self.model.split("/", 1)[0]

    def written(self) -> direct.WireRequest | None:
        """The request as it goes out by the direct door; `None`: litellm has to send it.

        Raises:
            ValueError: It cannot be written as JSON.
            litellm's exceptions: An option or a message is refused.
        """
        if self._written is _UNWRITTEN:
            streams = bool(self.arguments.get("stream"))
            messages = self.arguments["messages"]
            self.template = direct.template_of(self.arguments, streams) if is_direct else None
            takes = self.template is not None and self.template.takes(messages)
            self._written = self.template.write(messages) if self.template and takes else None
        written: direct.WireRequest | None = self._written
        return written


async def prepare(plan: Plan) -> None:
    """Do what the first requests do slowly, off the loop and before a deadline runs: import and set up."""
    await importing.warm()
    if plan.route in _prepared:
        return
    with suppress(Exception):  # the attempt meets it again, and tells
        await asyncio.get_running_loop().run_in_executor(None, _set_up, plan)
    _prepared.add(plan.route)


_prepared: set[str] = set()
bridge.on_fork(_prepared.clear)


def _set_up(plan: Plan) -> None:
    written = plan.written()
    if written is not None:
        importing.transport_to(written.url)


async def send(plan: Plan, exchange: wire.Exchange) -> list[Event]:
    """Send one request and read its whole reply; `exchange` is filled in with what happened.

    Raises:
        litellm's exceptions (all derive from `openai.OpenAIError`), and `httpx` exceptions where the
        connection fails (`failures.as_litellm` turns those into litellm's).
    """
    try:
        written = None if _is_instrumented() else plan.written()
        if written is None:
            return litellm_replies.read_whole(await _complete(plan, plan.arguments, exchange))
        response = await _post(plan, written, exchange)
        return _read_whole(plan, response)
    finally:
        await exchange.close()


async def stream(plan: Plan, exchange: wire.Exchange) -> AsyncGenerator[Event, None]:
    """Send one request and read its reply as it comes; raises as `send`."""
    watched = wire.current.set(exchange)  # some routes (Gemini's) send when the first piece is asked for
    try:
        written = None if _is_instrumented() else plan.written()
        if written is None:
            streamed = {**plan.arguments, "stream": True, "stream_options": {"include_usage": True}}
            reply = await _complete(plan, streamed, exchange)
            async for piece in litellm_replies.read_stream(reply, exchange):
                yield piece
            return
        response = await _post(plan, written, exchange)
        if not exchange.has_events:  # a server that does not stream
            for piece in _read_whole(plan, response):
                yield piece
            return
        assert plan.template is not None  # noqa: S101  # a request was written by one
        read = plan.template.dialect.format.stream_reader()
        async with aclosing(exchange.read_events()) as events:
            async for event in events:
                for piece in read(event):
                    yield piece
    finally:
        wire.current.reset(watched)
        await exchange.close()


async def _post(plan: Plan, written: direct.WireRequest, exchange: wire.Exchange) -> httpx.Response:
    """A good reply's response; all of it has come, unless it is a stream of events."""
    assert plan.template is not None  # noqa: S101  # a request was written by one
    request = httpx.Request("POST", written.url, headers=dict(written.headers), content=written.body)
    response = await importing.transport_to(written.url).send(request, exchange)
    response.request = request
    if not exchange.has_events:
        await response.aread()
    if not response.is_success and not direct.is_length_reply(response):
        raise plan.template.error(response.status_code, response.text, response.headers)
    return response


def _read_whole(plan: Plan, response: httpx.Response) -> list[Event]:
    assert plan.template is not None  # noqa: S101  # a request was written by one
    if not response.is_success:
        return [Event(finish_reason="length")]
    try:
        body = json.loads(response.content)
        return plan.template.dialect.format.read_whole(body)
    except ValueError as error:
        said = _error_in(response)
        if said is not None:
            raise plan.template.error(status_of(said), json.dumps({"error": said}), response.headers) from error
        raise load().APIError(
            status_code=response.status_code,
            message=f"the reply of {response.request.url} cannot be read ({error}); check base_url: "
            f"{response.text[:_SHOWN]!r}",
            llm_provider=plan.route,
            model=plan.model,
        ) from error


def _error_in(response: httpx.Response) -> dict[str, Any] | None:
    """The error that a service tells with a good status."""
    try:
        body = json.loads(response.content)
    except ValueError:
        return None
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, dict) else {"message": str(error)} if error else None


async def _complete(plan: Plan, arguments: Mapping[str, Any], exchange: wire.Exchange) -> Any:
    """litellm's own reply."""
    litellm = load()
    from litellm._internal_context import is_internal_call

    watched = wire.current.set(exchange)
    # Its logging worker only serves callbacks, and costs a task a call.
    quiet = is_internal_call.set(not _has_callbacks(litellm))
    try:
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


def _is_instrumented() -> bool:
    """Whether the application listens to what litellm does, or has a say in it."""
    litellm = load()
    return (
        _has_callbacks(litellm)
        or any(getattr(litellm, name, None) for name in _SETTINGS)
        or _is_wrapped(litellm.acompletion, "litellm.")
        or _is_wrapped(httpx.AsyncClient.send, "httpx.")
    )


def _has_callbacks(litellm: Any) -> bool:
    return any(getattr(litellm, name, None) for name in _CALLBACKS)


def _is_wrapped(function: Any, package: str) -> bool:
    # Where calls are traced, something else stands in its place, though it may bear its name and globals.
    return not (type(function) is FunctionType and function.__globals__["__name__"].startswith(package))


# By which requests come out differently from call to call, or by another client.
_SETTINGS = (
    "aclient_session",
    "api_base",
    "api_key",
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
