"""litellm's OpenAI route without the SDK's walk through every value, which is a third of a call's time.

The request that litellm hands to the OpenAI SDK is JSON already, and of the reply it wants a `dict`; in
between, the SDK (2.x) compares each value with its annotated type, both ways. Here the SDK's client gives
its address, headers and connections, and its exceptions for what goes wrong; requests that are not ours
take its own way. Measured on litellm 1.105.3.
"""

import json
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from agentless.credentials import HiddenValues
from agentless.llm import shortcuts, wire

_SDK_OPTIONS = frozenset({"extra_headers", "extra_query", "extra_body"})


@dataclass(frozen=True, slots=True)
class _Parsed:
    """A reply in the one respect that litellm asks of the SDK's."""

    body: Any

    def model_dump(self) -> Any:
        """The reply's JSON."""
        return self.body


def set_up() -> None:
    """Put our way before the SDK's."""
    from litellm.llms.openai import openai as module

    OpenAIChatCompletion = module.OpenAIChatCompletion  # noqa: N806  # a class
    by_sdk = OpenAIChatCompletion.make_openai_chat_completion_request

    async def make(
        self: Any, openai_aclient: Any, data: dict[str, Any], **options: Any
    ) -> tuple[dict[str, str], Any]:
        if wire.current.get() is None or not shortcuts.taken or data.get("extra_query"):
            answer: tuple[dict[str, str], Any] = await by_sdk(
                self, openai_aclient=openai_aclient, data=data, **options
            )
            return answer
        import openai

        try:
            return await _complete(openai_aclient, data)
        except openai.BadRequestError as error:  # as the way that this one replaces does
            if not module.is_output_token_limit_error(error):
                raise
            made: tuple[dict[str, str], Any] = module.build_output_token_limit_response(
                e=error, data=data, is_async=True
            )
            return made

    OpenAIChatCompletion.make_openai_chat_completion_request = make


async def _complete(client: Any, data: Mapping[str, Any]) -> tuple[dict[str, str], Any]:
    """One request on the SDK's `client`: the reply's headers, and the reply or its stream."""
    import openai

    streams = bool(data.get("stream"))
    request = _request(client, data)
    try:
        response = await client._client.send(request, stream=streams)  # noqa: SLF001  # as litellm does
    except httpx.TimeoutException as error:
        raise openai.APITimeoutError(request=request) from error
    except Exception as error:
        raise openai.APIConnectionError(request=request) from error
    if not response.is_success:
        if not response.is_closed:
            await response.aread()
        raise client._make_status_error_from_response(response)  # noqa: SLF001  # one class to each status
    headers = dict(response.headers)
    if streams:
        from openai.types.chat import ChatCompletionChunk

        return headers, openai.AsyncStream(cast_to=ChatCompletionChunk, response=response, client=client)
    try:
        return headers, _Parsed(json.loads(response.content))
    except ValueError as error:
        raise ValueError(f"the reply is not JSON, check base_url: {response.text[:200]!r}") from error


def _request(client: Any, data: Mapping[str, Any]) -> httpx.Request:
    body = {name: value for name, value in data.items() if name not in _SDK_OPTIONS}
    body.update(data.get("extra_body") or {})
    own = data.get("extra_headers") or {}
    url, said = _address(client)
    return httpx.Request(
        "POST",
        url,
        headers={**said, **{name.lower(): value for name, value in own.items()}},
        content=json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode(),
    )


def _address(client: Any) -> tuple[httpx.URL, dict[str, str]]:
    """Where the SDK's client sends chat completions, and its headers; worked out once a client."""
    if client not in _addresses:
        base: httpx.URL = client.base_url  # ends with a slash
        headers = HiddenValues(
            {**client._client.headers, **client.auth_headers, **client.default_headers}  # noqa: SLF001
        )
        _addresses[client] = (
            base.copy_with(raw_path=base.raw_path + b"chat/completions"),
            HiddenValues({name.lower(): value for name, value in headers.items() if isinstance(value, str)}),
        )
    return _addresses[client]


_addresses: weakref.WeakKeyDictionary[Any, tuple[httpx.URL, dict[str, str]]] = weakref.WeakKeyDictionary()
