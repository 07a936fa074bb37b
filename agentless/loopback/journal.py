"""The journal: what arrived, what was answered, what was charged, and when the client left."""

import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from agentless.loopback.replies import Usage

_SECRET_HEADERS = frozenset(
    {"authorization", "x-api-key", "x-goog-api-key", "api-key", "proxy-authorization", "cookie"}
)


_KEY = re.compile(r"(?<=[?&]key=)[^&]*")


class Headers(dict[str, str]):
    """Headers by their lower-case names; keys are there to be read, but never shown."""

    def __repr__(self) -> str:
        return repr({k: "<hidden>" if k in _SECRET_HEADERS else v for k, v in self.items()})

    __str__ = __repr__


@dataclass(eq=False, slots=True)
class Entry:
    """One request and what became of it. Times are `time.monotonic()`, `None` for what did not happen.

    It is there as soon as the request's body has arrived, and is filled in as the reply goes on.
    """

    number: int
    """From 1, in order of arrival."""
    format: str
    """`openai`, `anthropic` or `gemini`, by the path."""
    method: str
    path: str
    headers: Headers
    raw: bytes
    """The body as it came."""
    connection: int
    """The same number for requests over the same connection."""
    body: Any = None
    """The body as JSON; `None` where it is not JSON."""
    model: str = ""
    stream: bool = False
    arrived: float = field(default_factory=time.monotonic)
    started: float | None = None
    """First byte of the reply."""
    ended: float | None = None
    """Last byte of the reply, or the connection closed by a fault."""
    client_left: float | None = None
    """The client closed the connection before the reply's end."""
    status: int | None = None
    usage: Usage | None = None
    """What the service charges for it; `None` for nothing."""
    fault: str | None = None
    """The name of the fault that was played."""

    @property
    def prompt(self) -> str:
        """The text of the last user message: handy in a scripted callable."""
        body = self.body if isinstance(self.body, dict) else {}
        messages = body.get("messages") or body.get("contents")
        for message in reversed(messages if isinstance(messages, list) else []):
            if isinstance(message, dict) and message.get("role") == "user":
                return text_of(message.get("content") or message.get("parts"))
        return ""

    def __repr__(self) -> str:
        what = "stream" if self.stream else "whole"
        left = ", client left" if self.client_left is not None else ""
        return (
            f"<Entry {self.number}: {self.method} {_KEY.sub('<hidden>', self.path)} {self.model!r} {what}"
            f" -> {self.status}, fault {self.fault}{left}>"
        )


def text_of(content: Any) -> str:
    """The text in a message's content: a string, or the text parts of a list."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(p["text"] for p in parts if isinstance(p, dict) and isinstance(p.get("text"), str))


def parse(raw: bytes) -> Any:
    """The body as JSON, or `None`."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


class Journal:
    """The latest entries in order of arrival: written by the server's thread, awaited by any other."""

    def __init__(self, size: int) -> None:
        self._changed = threading.Condition()
        self._entries: deque[Entry] = deque(maxlen=size)

    def snapshot(self) -> list[Entry]:
        """The entries so far; the list is the caller's own."""
        with self._changed:
            return list(self._entries)

    def add(self, entry: Entry) -> None:
        """Show a new entry."""
        with self._changed:
            self._entries.append(entry)
            self._changed.notify_all()

    def touch(self) -> None:
        """Tell those who wait that an entry has changed."""
        with self._changed:
            self._changed.notify_all()

    def unlock(self) -> None:
        """In a forked child, where nobody is left to release the lock."""
        self._changed = threading.Condition()

    def clear(self) -> None:
        """Forget all entries."""
        with self._changed:
            self._entries.clear()

    def wait_for(self, condition: int | Callable[[list[Entry]], bool], timeout: float) -> list[Entry]:
        """Block until there are so many entries, or the predicate holds for them."""

        def holds() -> bool:
            if isinstance(condition, int):
                return len(self._entries) >= condition
            return condition(list(self._entries))

        with self._changed:
            if not self._changed.wait_for(holds, timeout):
                wanted = f"{condition} requests" if isinstance(condition, int) else "the condition"
                journal = list(self._entries)
                raise TimeoutError(f"no {wanted} within {timeout} s; the journal: {journal}")
            return list(self._entries)
