"""What a service says of a failure, in whatever shape, as one object and one readable line; pure."""

import html
import json
import re
from collections.abc import Mapping
from typing import Any

_MOST = 500  # characters of a service's words in a message
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_HTML = re.compile(r"\s*(<!doctype html|<html|<head|<body|<\?xml)", re.IGNORECASE)
_REPLY_FIELDS = frozenset({"choices", "candidates", "content", "delta", "usage", "usageMetadata"})
_FIRST_ERROR = 400


def parse_json(text: str | bytes | bytearray) -> Any:
    """`text` as JSON.

    Raises:
        ValueError: It is not JSON, or nested deeper than can be read; nothing else is raised.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("JSON that is nested too deep") from None


def error_in(body: Any) -> dict[str, Any] | None:
    """The error that a reply's JSON tells of, at least with a `message`; `None` where it tells of none.

    Shapes: OpenAI's and Anthropic's `error` object, a text in its place, a list around it (Gemini), vLLM's
    `object: error`, FastAPI's `detail`, a bare `message`, MiniMax's `base_resp`.
    """
    if isinstance(body, list):
        return next(filter(None, map(error_in, body[:1])), None)
    if not isinstance(body, Mapping):
        return None
    if error := body.get("error"):
        return _with_message(error, body)
    if body.get("type") == "error" or body.get("object") == "error":
        return _with_message(dict(body), body)
    state = body.get("base_resp")
    if isinstance(state, Mapping) and state.get("status_code"):
        return {"message": str(state.get("status_msg") or state), "code": state["status_code"]}
    if body.keys() & _REPLY_FIELDS and not _has_error_status(body):
        return None
    for name in ("detail", "message", "errors", "error_msg", "msg"):
        if body.get(name) and (name == "detail" or not isinstance(body.get("type"), str)):
            return _with_message(body[name], body)
    return None


def _has_error_status(body: Mapping[str, Any]) -> bool:
    code = body.get("code") or body.get("status")
    return isinstance(code, int) and code >= _FIRST_ERROR


def _with_message(error: Any, body: Mapping[str, Any]) -> dict[str, Any]:
    codes = {name: body[name] for name in ("code", "status", "type") if name in body}
    if isinstance(error, list) and error:
        error = error[0]
    if not isinstance(error, Mapping):
        return {**codes, "message": str(error)}
    message = error.get("message") or error.get("msg") or error.get("detail")
    return {**error, "message": message if isinstance(message, str) and message else json.dumps(dict(error))}


def in_one_line(text: str) -> str:
    """A body's words, short: an HTML page's title with a hint, JSON's message, or the text itself."""
    if is_page(text):
        found = _TITLE.search(text)
        title = " ".join(html.unescape(found[1]).split()) if found else ""
        titled = f" titled {title[:_MOST]!r}" if title else ""
        return f"an HTML page{titled}, not the service's API: check base_url"
    try:
        error = error_in(parse_json(text))
    except ValueError:
        error = None
    line = " ".join((error["message"] if error else text).split())
    return line if len(line) <= _MOST else line[:_MOST] + "…"


def is_page(text: str) -> bool:
    """Whether `text` is an HTML page."""
    return bool(_HTML.match(text.lstrip("\ufeff")[:1000]))
