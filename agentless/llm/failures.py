"""litellm's exceptions: made where it makes none, freed of keys, and fit to travel between processes."""

import copyreg
from collections.abc import Iterable, Mapping
from typing import Any

import httpx

from agentless.llm import reaches, wire
from agentless.llm.importing import load
from agentless.llm.retries import status_of

_SHORTEST_SECRET = 4  # a shorter one is a placeholder, and part of many words


def as_litellm(error: Exception, request: Mapping[str, Any]) -> Exception:
    """`error` as the exception of litellm's that a whole call would have raised for it."""
    litellm = load()
    model = str(request.get("model"))
    provider = str(request.get("custom_llm_provider") or model.split("/", 1)[0])
    names = {"model": model, "llm_provider": provider}
    cause = _wire_fault(error)
    if isinstance(cause, wire.ErrorEventError):
        message = f"the service failed in the stream: {dict(cause.error)}"
        return _for_status(litellm, status_of(cause.error), message, names)
    if isinstance(error, tuple(reaches.exceptions())):
        return error
    text = f"{type(error).__name__}: {error}"
    connection_error: Exception = litellm.APIConnectionError(message=text, **names)
    return connection_error


def redact(error: BaseException, secrets: Iterable[str]) -> None:
    """Take `secrets` out of an exception and of all that are behind it: a service may echo the key."""
    words = [secret for secret in secrets if len(secret) >= _SHORTEST_SECRET]
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        link = todo.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        link.args = tuple(_shown_without(value, words) for value in link.args)
        for name, value in list(vars(link).items()):
            if isinstance(value, httpx.Response):
                _redact_response(value, words)
            elif isinstance(value, BaseException):  # litellm's `original_exception`
                todo.append(value)
            elif isinstance(value, (str, bytes, dict, list, tuple, httpx.Headers)):
                setattr(link, name, _without(value, words))
        todo += [link.__cause__, link.__context__]


def _shown_without(value: Any, words: list[str]) -> Any:
    """An exception's argument; one whose text would show a secret (aiohttp's request) becomes that text."""
    value = _without(value, words)
    text = repr(value)
    return _without(text, words) if any(word in text for word in words) else value


def _without(value: Any, words: list[str]) -> Any:
    for word in words:
        if isinstance(value, str):
            value = value.replace(word, "[redacted]")
        elif isinstance(value, bytes):
            value = value.replace(word.encode(), b"[redacted]")
    if isinstance(value, httpx.Headers):
        return httpx.Headers([(name, _without(text, words)) for name, text in value.multi_items()])
    if isinstance(value, dict):
        return {key: _without(item, words) for key, item in value.items()}
    if type(value) in {list, tuple}:
        return type(value)(_without(item, words) for item in value)
    return value


def _redact_response(response: httpx.Response, words: list[str]) -> None:
    content = getattr(response, "_content", None)
    if isinstance(content, bytes):
        response._content = _without(content, words)  # noqa: SLF001  # httpx has no setter
        response.__dict__.pop("_text", None)
    response.headers = _without(response.headers, words)


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
