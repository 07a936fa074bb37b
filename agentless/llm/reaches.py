"""Every reach into litellm's inside, in one table: what we call, read or replace, and how it has been named.

A name proves nothing (an alias that nobody calls can be replaced without effect), so of what is replaced
every spelling that is there is, and `watch.py` looks at what litellm then does. A reach that is gone is no
error here: each row says what happens without it.
"""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

OLDEST = "1.105.3"
TESTED_UP_TO = "1.110.2"
_BROKEN = "1.106."
"""Every release that begins so needs a package that it does not ask for as soon as tools are sent."""

SUPPORTED = f">={OLDEST},<={TESTED_UP_TO},!={_BROKEN}*"


@dataclass(frozen=True, slots=True)
class Reach:
    """Something of litellm's, by every name that it has had from `OLDEST` to `TESTED_UP_TO`."""

    what: str
    names: tuple[str, ...]
    """`module:attribute.of.it`."""
    without: str
    """What happens where there is none of them."""
    is_late: bool = False
    """Claims that the oldest versions have none of it, and need none."""

    def find(self, default: Any = None) -> Any:
        """What stands under the first name that is there."""
        return next((getattr(owner, name) for owner, name in self._places()), default)

    def replace(self, make: Callable[[Any], Any]) -> int:
        """Put `make(what is there)` under every name that is there; how many there were."""
        places = list(self._places())
        made: dict[int, Any] = {}  # two names of one thing stay so
        for owner, name in places:
            was = getattr(owner, name)
            setattr(owner, name, made.setdefault(id(was), make(was)))
        return len(places)

    def _places(self) -> Iterator[tuple[Any, str]]:
        for name in self.names:
            module, _, path = name.partition(":")
            *outer, last = path.split(".")
            try:
                owner: Any = importlib.import_module(module)
                for each in outer:
                    owner = getattr(owner, each)
            except (ImportError, AttributeError):
                continue
            if hasattr(owner, last):
                yield owner, last


_HTTP = "litellm.llms.custom_httpx.http_handler"
_OPENAI = "litellm.llms.openai.openai"
_REFUSED = "litellm is refused by the look at its clients"

TRANSPORTS = Reach(
    "makes the transports of litellm's async clients, of the OpenAI SDK's too",
    (
        f"{_HTTP}:AsyncHTTPHandler.create_async_transport",  # from 1.106.12 on, where the other is an alias
        f"{_HTTP}:AsyncHTTPHandler._create_async_transport",
    ),
    _REFUSED,
)
PROXIED_TRANSPORT = Reach(
    "the class of its proxies' transports", (f"{_HTTP}:AsyncHTTPTransport",), f"behind a proxy, {_REFUSED}"
)
GENERIC_CLIENT = Reach("gives a client of litellm's own", (f"{_HTTP}:get_async_httpx_client",), _REFUSED)
CLIENT = Reach("makes one", (f"{_HTTP}:AsyncHTTPHandler",), _REFUSED)
OPENAI_ROUTE = Reach("sends by the OpenAI SDK", (f"{_OPENAI}:OpenAIChatCompletion",), _REFUSED)
INTERNAL_CALL = Reach(
    "the context's mark of calls that no callback hears of",
    ("litellm._internal_context:is_internal_call",),
    "its logging worker has a task a call",
)
CLIENTS = Reach(
    "keeps clients", ("litellm:in_memory_llm_clients_cache",), "a forked child has its parent's clients"
)
CLOSE_CLIENTS = Reach(
    "closes them", ("litellm:close_litellm_async_clients",), "the end of the process closes them"
)
LOGGING_WORKER = Reach(
    "queues work for callbacks",
    ("litellm.litellm_core_utils.logging_worker:GLOBAL_LOGGING_WORKER",),
    "a forked child has its parent's queue",
)
AIOHTTP_END = Reach(
    "ends an aiohttp client, four of which litellm makes when it is imported",
    ("litellm.llms.custom_httpx.aiohttp_transport:LiteLLMAiohttpTransport.__del__",),
    "a forked child may complain at its end",
    is_late=True,
)
EXCEPTIONS = Reach(
    "its exceptions' classes",
    ("litellm.exceptions:LITELLM_EXCEPTION_TYPES", "litellm:LITELLM_EXCEPTION_TYPES"),
    "whatever is an exception in litellm.exceptions is taken, as it is anyway",
)

_BY_LITELLM = "everything goes by the litellm door"
PROVIDER_OF = Reach(
    "tells a model's provider, its key and its address", ("litellm:get_llm_provider",), _BY_LITELLM
)
PROVIDER_NAMES = Reach("the names of its providers", ("litellm.types.utils:LlmProviders",), _BY_LITELLM)
PROVIDER_CLASS = Reach(
    "finds a provider's class",
    ("litellm.utils:ProviderConfigManager.get_provider_chat_config",),
    _BY_LITELLM,
)
OPTIONS = Reach("maps options to a provider's", ("litellm.utils:get_optional_params",), _BY_LITELLM)
BRIDGE = Reach(
    "tells which models are asked at /responses",
    (
        "litellm.main:responses_api_bridge_check",
        "litellm.responses.bridge_check:responses_api_bridge_check",
    ),
    _BY_LITELLM,
)
NAME_ERROR = Reach("names a refusal by its own exceptions", ("litellm:exception_type",), _BY_LITELLM)
GEMINI_BODY = Reach(
    "writes Gemini's body",
    (
        "litellm.llms.vertex_ai.gemini.transformation:transform_request_body",  # from 1.106.12 on
        "litellm.llms.vertex_ai.gemini.transformation:_transform_request_body",
    ),
    "Gemini's requests are refused",
)
GEMINI_ADDRESS = Reach(
    "tells Gemini's address and authentication",
    ("litellm.llms.vertex_ai.vertex_llm_base:VertexBase",),
    "Gemini's requests are refused",
)

DIRECT = (
    PROVIDER_OF,
    PROVIDER_NAMES,
    PROVIDER_CLASS,
    OPTIONS,
    BRIDGE,
    NAME_ERROR,
    GEMINI_BODY,
    GEMINI_ADDRESS,
)
"""What the direct door needs."""

REACHES = (
    *DIRECT,
    TRANSPORTS,
    PROXIED_TRANSPORT,
    GENERIC_CLIENT,
    CLIENT,
    OPENAI_ROUTE,
    INTERNAL_CALL,
    CLIENTS,
    CLOSE_CLIENTS,
    LOGGING_WORKER,
    AIOHTTP_END,
    EXCEPTIONS,
)
"""All of them; `test_reaches.py` holds each to be there in the litellm that is installed."""

WARM_MODULES = ("openai.resources", "litellm.litellm_core_utils.default_encoding")
"""What the first call imports on the engine's loop, in 0.3 s; without them it is as slow as that."""

WORKER_FIELDS: dict[str, Any] = {
    "_queue": None,
    "_sem": None,
    "_worker_task": None,
    "_bound_loop": None,
    "_timeout_summary_task": None,  # from 1.109 on, as the next two
    "_overflow_tasks": set,
    "_pending_enqueues": dict,
    "_dequeued_tasks": dict,
    "_running_tasks": set,
}
"""Of `LOGGING_WORKER`, what belongs to a loop, and what a forked child has instead (made anew)."""

OPENAI_STREAMS = frozenset(
    {
        "openai.AsyncStream",
        "litellm.llms.openai.chat.gpt_transformation.OpenAIChatCompletionStreamingHandler",
        "litellm.llms.openrouter.chat.transformation.OpenRouterChatCompletionStreamingHandler",
    }
)
"""Streams whose pieces are OpenAI's, told by their class or one it derives from; others go by the wrapper."""
CLAUDE_STREAM = "litellm.llms.anthropic.chat.handler.ModelResponseIterator"

CALLBACKS = (
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
"""Litellm's lists of who listens to calls, or has a say in them."""

OWN_CLIENTS = ("aclient_session", "network_mock")
"""Litellm's settings by which an application puts a client of its own under the OpenAI SDK."""

CLIENT_SETTINGS = (
    *OWN_CLIENTS,
    "api_base",
    "api_key",
    "headers",
    "model_alias_map",
    "model_fallbacks",
    "modify_params",
    "organization",
    "proxy_auth",
)
"""Its settings by which requests come out differently from call to call, or by another client."""


def exceptions() -> list[type[Exception]]:
    """Those of litellm: more than the list of its types, which lacks what a stream of some routes raises."""
    module = importlib.import_module("litellm.exceptions")
    kinds = {*(EXCEPTIONS.find() or ()), *(each for each in vars(module).values() if isinstance(each, type))}
    return [kind for kind in kinds if issubclass(kind, Exception) and kind.__module__ == module.__name__]


def version() -> str:
    """The installed litellm's; empty where that cannot be told."""
    try:
        return metadata.version("litellm")
    except metadata.PackageNotFoundError:
        return ""


def is_supported(version: str) -> bool:
    """Claims that this version of litellm is one of those that were tested, or between them."""
    numbers = _numbers(version)
    return _numbers(OLDEST) <= numbers <= _numbers(TESTED_UP_TO) and not version.startswith(_BROKEN)


def _numbers(version: str) -> tuple[int, ...]:
    numbers = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
        if digits != part:  # 1.110.0rc1
            break
    return tuple(numbers)
