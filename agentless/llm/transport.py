"""Sends one request and reads one reply, by one of two doors: `direct` where it can, else `litellm_door`.

litellm's types stop here; what goes out are `Event`s, and litellm's own exceptions.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx

from agentless.llm import bridge, direct, importing, litellm_door, secrets, wire
from agentless.llm.replies import Event, UnreadableError
from agentless.llm.retries import status_of
from agentless.llm.service_words import error_in, in_one_line, is_page, parse_json

_SHOWN = 300  # characters of a reply that cannot be read


class _Written(NamedTuple):
    """A request for the direct door."""

    template: direct.Template
    request: direct.WireRequest


@dataclass(slots=True)
class Plan:
    """A request, the same for each sample and attempt of a call: written once, when the first goes out."""

    arguments: Mapping[str, Any] = field(repr=False)  # the key is among them
    """Keyword arguments of `litellm.acompletion`, as `providers.build_request` makes them."""
    _written: _Written | None = field(default=None, repr=False)
    _is_litellms: bool = False

    @property
    def model(self) -> str:
        """Litellm's name of the model, its provider's first."""
        return str(self.arguments["model"])

    @property
    def route(self) -> str:
        """Litellm's name of the provider."""
        return self.model.split("/", 1)[0]

    def written(self) -> _Written | None:
        """The request as it goes out by the direct door; `None`: litellm has to send it.

        Raises:
            ValueError: It cannot be written as JSON.
            litellm's exceptions: An option or a message is refused.
        """
        if self._written is None and not self._is_litellms:
            messages = self.arguments["messages"]
            template = direct.template_of(self.arguments, streams=bool(self.arguments.get("stream")))
            self._is_litellms = template is None or not template.takes(messages)
            if template is not None and not self._is_litellms:
                self._written = _Written(template, template.write(messages))
        return self._written


async def prepare(plan: Plan) -> None:
    """Do what the first requests do slowly, off the loop and before a deadline runs: import and set up."""
    await importing.warm()
    if plan.route in _prepared or litellm_door.is_wanted():
        return
    with suppress(Exception):  # the attempt meets it again, and tells
        await asyncio.get_running_loop().run_in_executor(None, _set_up, plan)
    _prepared.add(plan.route)


_prepared: set[str] = set()
bridge.on_fork(_prepared.clear)


def _set_up(plan: Plan) -> None:
    written = plan.written()
    if written is not None:
        importing.transport_to(written.request.url)


async def send(plan: Plan, exchange: wire.Exchange) -> list[Event]:
    """Send one request and read its whole reply; `exchange` is filled in with what happened.

    Raises:
        litellm's exceptions (all derive from `openai.OpenAIError`), and `httpx` exceptions where the
        connection fails (`failures.as_litellm` turns those into litellm's).
    """
    try:
        written = None if litellm_door.is_wanted() else plan.written()
        if written is None:
            return await litellm_door.send(plan.arguments, exchange)
        return _read_whole(written.template, await _post(written, exchange))
    finally:
        await exchange.close()


async def stream(plan: Plan, exchange: wire.Exchange) -> AsyncGenerator[Event, None]:
    """Send one request and read its reply as it comes; raises as `send`."""
    try:
        written = None if litellm_door.is_wanted() else plan.written()
        if written is None:
            async with aclosing(litellm_door.stream(plan.arguments, exchange)) as pieces:
                async for piece in pieces:
                    yield piece
            return
        response = await _post(written, exchange)
        if not exchange.has_events:  # a server that does not stream
            for piece in _read_whole(written.template, response):
                yield piece
            return
        read = written.template.dialect.format.stream_reader()
        async with aclosing(exchange.read_events()) as events:
            async for event in events:
                for piece in read(event):
                    yield piece
    finally:
        await exchange.close()


async def _post(written: _Written, exchange: wire.Exchange) -> httpx.Response:
    """A good reply's response; all of it has come, unless it is a stream of events."""
    request = written.request.to_httpx()
    response = await importing.transport_to(written.request.url).send(request, exchange)
    response.request = request
    if not exchange.has_events:
        await response.aread()
    if not response.is_success and not direct.is_length_reply(response):
        text = secrets.redacted(_text(response))
        if is_page(text):
            text = in_one_line(text)
        raise written.template.error(response.status_code, text, response.headers)
    return response


def _read_whole(template: direct.Template, response: httpx.Response) -> list[Event]:
    if not response.is_success:
        return [Event(finish_reason="length")]
    why = "it is no JSON"
    try:
        return template.dialect.format.read_whole(parse_json(response.content))
    except UnreadableError as error:
        why = secrets.redacted(str(error))
    except ValueError:
        pass
    # Raised here, outside: an exception's frames hold the body, in which a service may echo the key.
    if (said := _error_in(response)) is not None:
        raise template.error(status_of(said), json.dumps({"error": said}), response.headers)
    raise importing.load().APIError(
        status_code=response.status_code,
        message=f"the reply of {response.request.url} cannot be read, {why}; check base_url: "
        f"{in_one_line(secrets.redacted(_text(response)))[:_SHOWN]}",
        llm_provider=template.provider,
        model=template.model,
    )


def _error_in(response: httpx.Response) -> dict[str, Any] | None:
    """The error that a service tells with a good status."""
    try:
        return error_in(parse_json(secrets.redacted(_text(response))))
    except ValueError:
        return None


def _text(response: httpx.Response) -> str:
    """The body, which is UTF-8 whatever its charset is said to be."""
    return response.content.decode(errors="replace")
