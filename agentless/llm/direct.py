"""The direct door: litellm's class for a provider writes the request, and our connection sends it.

litellm's stack is neither entered nor left: what its `completion` does before it sends comes down to three
methods of the provider's class (`validate_environment`, `get_complete_url`, `transform_request`) after one
mapping of the options (`get_optional_params`), which is the same for all requests with the same settings and
so is kept in a `Template`. `make sweep` holds the JSON, the address and the
authentication of both doors against each other for every chat model of the registry.
"""

import functools
import hashlib
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx

from agentless.credentials import Hidden, HiddenValues, hidden_url
from agentless.llm import bridge, reaches
from agentless.llm.formats import ANTHROPIC, GEMINI, OPENAI, Format
from agentless.llm.importing import load, no_warnings

_MOST_TEMPLATES = 256


@dataclass(frozen=True, slots=True)
class WireRequest:
    """A request as it goes out: the same for every attempt and for every sample of a call."""

    url: httpx.URL = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    def to_httpx(self) -> httpx.Request:
        """A fresh one for one attempt; made here, so that no frame which waits holds the headers."""
        return httpx.Request("POST", self.url, headers=dict(self.headers), content=self.body)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one of litellm's providers is spoken to."""

    format: Format
    """Of its replies."""
    admits: Callable[[Mapping[str, Any]], bool] = lambda _: True
    """Which of its requests go this way, by the arguments of `litellm.acompletion`."""
    base: str | None = None
    """The service's usual address, where the class does not know it."""
    url: Callable[["Template", str], str] | None = None
    """The address where the class's own is not all of it."""
    headers: Callable[["Template"], Mapping[str, str]] | None = None
    """Headers that litellm's dispatch adds outside the class; the caller's own win."""
    write: Callable[["Template", list[dict[str, Any]]], tuple[str, dict[str, str], dict[str, Any]]] | None = (
        None
    )
    """Address, headers and body, where the class does not write them by the three methods."""


@dataclass(frozen=True, slots=True)
class Template:
    """All of a request but its messages, with litellm's class for the provider, which adds them."""

    dialect: Dialect
    config: Any
    """litellm's class for the provider (a `BaseConfig`)."""
    provider: str
    model: str
    """Without the provider's prefix."""
    options: Mapping[str, Any] = field(repr=False)
    """As the provider's own parameters."""
    api_key: str | None = field(repr=False)
    api_base: str | None
    api_version: str | None
    extra_headers: Mapping[str, str] = field(repr=False)
    streams: bool

    def write(self, messages: list[dict[str, Any]]) -> WireRequest:
        """The request for these messages, which the class may change.

        Raises:
            ValueError: The messages cannot be written as JSON (half of a surrogate pair, NaN).
            litellm's exceptions: The class refuses them.
        """
        write = self.dialect.write or _by_class
        url, headers, data = write(self, messages)
        body = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        said = HiddenValues({"accept": _accepts(self.streams), **_once(headers, self.extra_headers)})
        return WireRequest(_parsed(url), said, body.encode())

    def takes(self, messages: list[dict[str, Any]]) -> bool:
        """Whether the reply to these is as it was asked for: litellm puts a begun answer before Claude's."""
        return self.dialect.format is not ANTHROPIC or not any(each.get("prefix") for each in messages)

    def litellm_params(self) -> dict[str, Any]:
        """What the class may look up beside the options."""
        return HiddenValues(
            api_base=self.api_base,
            api_key=self.api_key,
            api_version=self.api_version,
            custom_llm_provider=self.provider,
        )

    def error(self, status: int, text: str, headers: Mapping[str, str]) -> Exception:
        """The exception that litellm raises for a refusal with this status and body."""
        plain = httpx.Headers(dict(headers))
        error = self.config.get_error_class(error_message=text, status_code=status, headers=plain)
        return mapped(error, self.model, self.provider)


@functools.lru_cache(maxsize=64)
def _parsed(url: str) -> httpx.URL:
    return httpx.URL(url)


def _once(headers: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """The headers by their names in small letters; the user's own win, but for what a class adds to.

    Anthropic's class adds its beta features to the user's.
    """
    lower = {name.lower(): value for name, value in headers.items()}
    added = {"anthropic-beta"}
    return lower | {name.lower(): value for name, value in own.items() if name.lower() not in added}


def _accepts(streams: bool) -> str:
    return "text/event-stream" if streams else "application/json"


def template_of(arguments: Mapping[str, Any], streams: bool) -> Template | None:
    """The template for these arguments of `litellm.acompletion`; `None` where only litellm can send them.

    Made once for all requests that differ in their messages alone.

    Raises:
        litellm's exceptions: an option is refused.
    """
    with no_warnings((arguments["model"], "template")):
        if not arguments.get("api_key"):
            return _make(arguments, streams)  # the class looks for one in the environment, which may change
        digest = hashlib.sha256(_said(arguments, streams)).digest()
        template = _templates.get(digest, _UNKNOWN)
        if isinstance(template, _Unknown):
            template = _make(arguments, streams)
    with _lock:
        _templates[digest] = template
        _templates.move_to_end(digest)
        while len(_templates) > _MOST_TEMPLATES:
            _templates.popitem(last=False)
    return template


class _Unknown:
    """Stands for a template that has not been made."""


_UNKNOWN = _Unknown()
_lock = threading.Lock()  # the first request of a route is prepared off the loop
_templates: "OrderedDict[bytes, Template | None]" = OrderedDict()


def _forget() -> None:
    global _lock  # noqa: PLW0603  # another thread of the parent may have held it
    _lock = threading.Lock()
    _templates.clear()


bridge.on_fork(_forget)


def _said(arguments: Mapping[str, Any], streams: bool) -> bytes:
    """All that a template is made of."""
    # Unsorted: the order of a schema's keys is the order in which a model fills them in.
    said = {name: value for name, value in arguments.items() if name not in {"messages", "stream"}}
    return json.dumps([said, streams], default=repr).encode()


_NOT_OPTIONS = frozenset(
    {
        "model",
        "messages",
        "api_key",
        "api_base",
        "api_version",
        "extra_headers",
        "stream",
        "allowed_openai_params",
    }
)


def _make(arguments: Mapping[str, Any], streams: bool) -> Template | None:
    load()
    route = str(arguments["model"]).split("/", 1)[0]
    dialect = DIALECTS.get(route)
    if dialect is None or not dialect.admits(arguments):
        return None
    if any(reach.find() is None for reach in reaches.DIRECT):
        return None
    model, provider, key, base = reaches.PROVIDER_OF.find()(
        model=arguments["model"], api_base=arguments.get("api_base"), api_key=arguments.get("api_key")
    )
    options = {name: value for name, value in arguments.items() if name not in _NOT_OPTIONS}
    base = base or dialect.base
    names = reaches.PROVIDER_NAMES.find()
    if provider not in {each.value for each in names}:
        return None
    config = reaches.PROVIDER_CLASS.find()(model=model, provider=names(provider))
    if config is None or provider != route or _is_bridged(model, provider, base, options):
        return None
    if streams and (config.has_custom_stream_wrapper or _fakes_streams(config, model, provider)):
        return None
    if streams:
        options |= {"stream": True, "stream_options": {"include_usage": True}}
    mapped_options = reaches.OPTIONS.find()(
        model=model,
        custom_llm_provider=provider,
        messages=[],
        max_retries=0,
        api_version=arguments.get("api_version"),
        allowed_openai_params=arguments.get("allowed_openai_params"),
        **options,
    )
    if mapped_options.pop("fake_stream", False) and streams:
        return None
    if mapped_options.pop("json_mode", False) or (
        dialect.format is ANTHROPIC and "response_format" in options
    ):
        return None  # litellm turns the reply into what was asked for
    for name in ("max_retries", "extra_headers"):
        mapped_options.pop(name, None)
    return Template(
        dialect=dialect,
        config=config,
        provider=provider,
        model=model,
        options=mapped_options,
        api_key=Hidden(key) if key else arguments.get("api_key"),
        api_base=None if base is None else hidden_url(base),
        api_version=arguments.get("api_version"),
        extra_headers=HiddenValues(arguments.get("extra_headers") or {}),
        streams=streams,
    )


def _is_bridged(model: str, provider: str, base: str | None, options: Mapping[str, Any]) -> bool:
    """Whether litellm asks for this model at `/responses`."""
    check = reaches.BRIDGE.find()
    info, _ = check(
        model=model,
        custom_llm_provider=provider,
        tools=options.get("tools"),
        reasoning_effort=options.get("reasoning_effort"),
        api_base=base,
    )
    return bool(info.get("mode") == "responses")


def _fakes_streams(config: Any, model: str, provider: str) -> bool:
    return bool(config.should_fake_stream(model=model, stream=True, custom_llm_provider=provider))


def _by_class(
    template: Template, messages: list[dict[str, Any]]
) -> tuple[str, dict[str, str], dict[str, Any]]:
    """Address, headers and body by the class's three methods, in litellm's order."""
    config, options, params = template.config, _copied(template.options), template.litellm_params()
    extra_body = options.pop("extra_body", None)
    shared = {"model": template.model, "optional_params": options, "litellm_params": params}
    access = HiddenValues(api_key=template.api_key, api_base=template.api_base)
    own = template.dialect.headers(template) if template.dialect.headers else {}
    said = HiddenValues({**own, **template.extra_headers})
    headers = HiddenValues(config.validate_environment(headers=said, messages=messages, **access, **shared))
    url = config.get_complete_url(stream=template.streams, **access, **shared)
    if template.dialect.url is not None:
        url = template.dialect.url(template, url)
    data = config.transform_request(messages=messages, headers=headers, **shared)
    if extra_body:
        data = {**data, **extra_body}
    if template.streams and config.supports_stream_param_in_request_body:
        data["stream"] = True
    elif not template.streams:
        data.pop("stream", None)
    return url, headers, data


def _copied(value: Any) -> Any:
    """A copy of JSON-like `value` that shares nothing with it."""
    if isinstance(value, dict):
        return {name: _copied(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return value


def _messages_url(template: Template, url: str) -> str:
    """Anthropic's class takes the base for the whole address."""
    base = template.api_base or url
    return base if base.endswith("/v1/messages") else base.rstrip("/").removesuffix("/v1") + "/v1/messages"


def _write_gemini(
    template: Template, messages: list[dict[str, Any]]
) -> tuple[str, dict[str, str], dict[str, Any]]:
    """Gemini's body comes from functions beside the class, which raises `NotImplementedError`."""
    options = _copied(template.options)
    options.pop("stream", None)
    data = reaches.GEMINI_BODY.find()(
        messages=messages,
        model=template.model,
        optional_params=options,
        custom_llm_provider=template.provider,
        litellm_params=template.litellm_params(),
        cached_content=None,
    )
    authentication, url = reaches.GEMINI_ADDRESS.find()()._get_token_and_url(  # noqa: SLF001  # has no other
        model=template.model,
        auth_header=None,
        gemini_api_key=template.api_key,
        vertex_project=None,
        vertex_location=None,
        vertex_credentials=None,
        stream=template.streams,
        custom_llm_provider=template.provider,
        api_base=template.api_base,
    )
    said = {"Content-Type": "application/json", **(authentication or {}), **template.extra_headers}
    headers = HiddenValues(said)
    return url, headers, dict(data)


def _write_azure(
    template: Template, messages: list[dict[str, Any]]
) -> tuple[str, dict[str, str], dict[str, Any]]:
    """Azure's deployments have the version in the address and the key in a header of their own."""
    options = _copied(template.options)
    extra_body = options.pop("extra_body", None) or {}
    key = template.api_key or ""
    headers = HiddenValues({"Content-Type": "application/json", "api-key": key, **template.extra_headers})
    data = template.config.transform_request(
        model=template.model,
        messages=messages,
        optional_params=options,
        litellm_params=template.litellm_params(),
        headers=headers,
    )
    version = template.api_version or load().AZURE_DEFAULT_API_VERSION
    base = (template.api_base or "").rstrip("/")
    place = base if "/deployments/" in base else f"{base}/openai/deployments/{quote(template.model, safe='')}"
    return f"{place}/chat/completions?api-version={version}", headers, {**data, **extra_body}


def _azure_with_key(arguments: Mapping[str, Any]) -> bool:
    """Tokens of Microsoft's, and the versionless API, are litellm's."""
    has_key = arguments.get("api_key") and arguments.get("api_base")
    return bool(has_key) and arguments.get("api_version") not in {"v1", "latest", "preview"}


def _is_not_claude(arguments: Mapping[str, Any]) -> bool:
    """Azure AI has Claude, agents and a router at addresses of their own."""
    name = str(arguments["model"]).lower()
    return not any(word in name for word in ("claude", "agents/", "router"))


def _attribution(_: Template) -> dict[str, str]:
    """Whom OpenRouter counts the call for."""
    return {
        "HTTP-Referer": os.environ.get("OR_SITE_URL") or "https://litellm.ai",
        "X-Title": os.environ.get("OR_APP_NAME") or "liteLLM",
    }


_OPENAI_ROUTES = """
    baseten bigmodel cerebras charity_engine chutes codestral dashscope databricks deepinfra deepseek edenai
    featherless_ai fireworks_ai friendliai galadriel github groq helicone heroku hosted_vllm hyperbolic
    inception lambda_ai llamafile lm_studio meta_llama minimax mistral moonshot morph nebius novita nscale
    nvidia_nim ovhcloud perplexity poe publicai sambanova synthetic together_ai vercel_ai_gateway volcengine
    wandb xai xiaomi_mimo zai
    """.split()  # noqa: SIM905  # names are read better so

DIALECTS: Mapping[str, Dialect] = {
    **dict.fromkeys(_OPENAI_ROUTES, Dialect(OPENAI)),
    "anthropic": Dialect(ANTHROPIC, base="https://api.anthropic.com", url=_messages_url),
    "azure": Dialect(OPENAI, admits=_azure_with_key, write=_write_azure),
    "azure_ai": Dialect(OPENAI, admits=_is_not_claude),
    "gemini": Dialect(GEMINI, write=_write_gemini),
    "openai": Dialect(OPENAI, base="https://api.openai.com/v1"),
    "openrouter": Dialect(OPENAI, base="https://openrouter.ai/api/v1", headers=_attribution),
}
"""litellm's providers that are spoken to directly. A provider is added here: one row, once `make sweep` finds
the same on the wire by both doors."""


def is_length_reply(response: httpx.Response) -> bool:
    """Whether this refusal of OpenAI's says that the thoughts took all of the reply's length."""
    return response.status_code == httpx.codes.BAD_REQUEST and _LENGTH_WORDS in response.text


_LENGTH_WORDS = "Could not finish the message because max_tokens or model output limit was reached"


def mapped(error: Exception, model: str, provider: str) -> Exception:
    """`error` as the exception that litellm raises for it."""
    try:
        reaches.NAME_ERROR.find()(
            model=model,
            original_exception=error,
            custom_llm_provider=provider,
            completion_kwargs={},
            extra_kwargs={},
        )
    except Exception as known:  # noqa: BLE001  # it is what is asked for
        return known
    return error
