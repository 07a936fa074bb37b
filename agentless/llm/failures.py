"""litellm's exceptions: made where it makes none, freed of keys, and fit to travel between processes."""

import copyreg
from collections.abc import Iterable, Mapping
from contextlib import suppress
from enum import Enum
from typing import Any

import httpx

from agentless.credentials import shown_url
from agentless.llm import reaches, wire
from agentless.llm.importing import load
from agentless.llm.retries import status_of
from agentless.llm.secrets import of_proxies, usable, without


def as_litellm(error: Exception, request: Mapping[str, Any]) -> Exception:
    """`error` as the exception of litellm's that a whole call would have raised for it."""
    litellm = load()
    model = str(request.get("model"))
    provider = str(request.get("custom_llm_provider") or model.split("/", 1)[0])
    names = {"model": model, "llm_provider": provider}
    cause = _wire_fault(error)
    if isinstance(cause, wire.ErrorEventError):
        message = f"the service failed: {cause} {dict(cause.error)}"
        return _for_status(litellm, status_of(cause.error), message, names)
    if isinstance(error, tuple(reaches.exceptions())):
        return error
    text = f"{type(error).__name__}: {error}"
    connection_error: Exception = litellm.APIConnectionError(message=text, **names)
    return connection_error


def redact(error: BaseException, secrets: Iterable[str]) -> None:
    """Take `secrets` out of an exception and of all that are behind it: a service may echo the key.

    Requests and responses are replaced by bare ones: those of clients lead to headers, connections and
    proxies. What else an SDK's exception holds becomes its text.
    """
    cleaner = _Cleaner((*usable(secrets), *of_proxies()))
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        link = todo.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        link.args = tuple(map(cleaner.clean, link.args))
        for name, value in list(vars(link).items()):
            if name not in _SAMPLES:
                with suppress(AttributeError):  # a property over another name
                    setattr(link, name, cleaner.clean(value))
        todo += [*cleaner.exceptions, link.__cause__, link.__context__]


_SAMPLES = frozenset({"texts", "trajectories", "usage"})
"""What an error of ours hands over of the replies: as it came."""


class _Cleaner:
    """Makes values that show no secret; exceptions among them are collected, and stay."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self._words = words
        self.exceptions: list[BaseException] = []

    def clean(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float | type | Enum):
            return value
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, bytes):
            return self._bytes(value)
        if isinstance(value, BaseException):
            self.exceptions.append(value)
            return value
        if type(value) in {list, tuple, set, frozenset}:
            return type(value)(map(self.clean, value))
        if isinstance(value, dict):
            return {self.clean(key): self.clean(item) for key, item in value.items()}
        return self._client_s(value)

    def _client_s(self, value: Any) -> Any:
        """What httpx and its like make, by the names of their classes: there are several such libraries."""
        kind = type(value).__name__
        if kind == "Headers":
            return type(value)([(name, self._text(text)) for name, text in value.multi_items()])
        if kind == "Request" and hasattr(value, "url"):
            return type(value)(value.method, self._address(value.url))
        if kind == "Response" and hasattr(value, "status_code"):
            return self._response(value)
        if kind == "URL":
            return type(value)(self._address(value))
        return self._text(repr(value))

    def _response(self, response: Any) -> Any:
        content = getattr(response, "_content", b"")
        headers = [
            (name, self._text(text))
            for name, text in response.headers.multi_items()
            if name.lower() not in {"content-encoding", "transfer-encoding", "set-cookie"}
        ]
        request = getattr(response, "_request", None)
        twin = type(response)(
            response.status_code,
            headers=headers,
            content=self._bytes(content) if isinstance(content, bytes) else b"",
            request=None if request is None else self.clean(request),
        )
        twin.history = []
        return twin

    def _address(self, url: Any) -> str:
        return self._text(shown_url(str(url)) or "")

    def _text(self, text: str) -> str:
        return without(text, self._words)

    def _bytes(self, text: bytes) -> bytes:
        for word in self._words:
            text = text.replace(word.encode(errors="surrogatepass"), b"[redacted]")
        return text


def _wire_fault(error: BaseException) -> BaseException:
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, wire.WireFault):
            return link
        link = link.__cause__ or link.__context__
    return error


def _for_status(litellm: Any, status: int, message: str, names: dict[str, str]) -> Exception:
    kind = {
        400: litellm.BadRequestError,
        401: litellm.AuthenticationError,
        404: litellm.NotFoundError,
        408: litellm.Timeout,
        429: litellm.RateLimitError,
        500: litellm.InternalServerError,
        503: litellm.ServiceUnavailableError,
    }.get(status)
    error: Exception
    if kind is None:
        error = litellm.APIError(status_code=status, message=message, **names)
    else:
        error = kind(message=message, **names)
    return error


def let_errors_travel() -> None:
    """Make litellm's exceptions fit for `pickle` and `copy`: by themselves none can be rebuilt."""
    for kind in {*reaches.exceptions()}:
        copyreg.pickle(kind, _reduce_error)


def _reduce_error(error: Exception) -> tuple[Any, ...]:
    plain = (str, int, float, bool, type(None))
    state: dict[str, Any] = {name: value for name, value in vars(error).items() if isinstance(value, plain)}
    for name in ("litellm_response_headers", "body", "headers"):
        value = getattr(error, name, None)
        if isinstance(value, Mapping):
            state[name] = {str(key): item for key, item in value.items() if isinstance(item, plain)}
    state["__notes__"] = list(getattr(error, "__notes__", ()))
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    return _rebuild_error, (type(error).__name__, tuple(map(str, error.args)), state, status)


def _rebuild_error(name: str, args: tuple[str, ...], state: dict[str, Any], status: int | None) -> Exception:
    litellm = load()
    kind = getattr(litellm, name, None) or getattr(litellm.exceptions, name)
    error: Exception = kind.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    if status is not None:
        request = httpx.Request("POST", "http://unknown")
        error.__dict__["response"] = httpx.Response(status, request=request)
        error.__dict__["request"] = request
    return error
