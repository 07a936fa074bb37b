"""What a request gets: routes, refusals, script, prompt cache and bill. Nothing here waits."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import unquote

from agentless.loopback import anthropic_format, gemini_format, openai_format
from agentless.loopback.draft import Draft, Plan, Step, failed, request_id
from agentless.loopback.journal import Entry, Headers, Journal, parse
from agentless.loopback.prompt_cache import PromptCache
from agentless.loopback.replies import Usage
from agentless.loopback.script import Script, Turn
from agentless.loopback.wire import JSON, Failure, Format, RefusedError, Rules, dumps, head

_FORMATS: Final[dict[str, Format]] = {
    "openai": openai_format,
    "anthropic": anthropic_format,
    "gemini": gemini_format,
}
# By the path's end, since services put it under /v1, /beta, /openai/deployments/NAME, /openai/v1, ...
_ENDPOINTS: Final = (
    (re.compile("/chat/completions$"), "openai"),
    (re.compile("/messages$"), "anthropic"),
    # Under /v1beta/models, /v1/projects/P/locations/L/publishers/google/models, /tunedModels, /endpoints, ...
    (re.compile("/(?P<model>[^/:]+):(generate|(?P<streams>streamGenerate))Content$"), "gemini"),
)
# Where nothing is asked for that there is: whose words the client expects, by a header.
_BY_HEADER: Final = {"anthropic-version": "anthropic", "x-goog-api-key": "gemini"}
_NO_RULES: Final = Rules()


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came."""

    method: str
    path: str
    headers: Headers
    raw: bytes
    connection: int


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and what to do about it."""

    entry: Entry
    plan: Plan
    start: Callable[[], None] = lambda: None
    """To be called at the reply's first byte."""


class Provider:
    """Answers requests, one after the other; read and scripted from any thread."""

    def __init__(self, rules: Rules, script: Script, journal: Journal) -> None:
        self.journal = journal
        self.script = script
        self.errors: list[Exception] = []
        self._rules = rules
        self._lock = threading.Lock()
        self._cache = PromptCache()
        self._bill: dict[str, Usage] = {}
        self._requests = 0

    def reset(self) -> None:
        """Forget everything; what is being answered is charged to the old bill."""
        with self._lock:
            self._cache, self._bill, self._requests, self.errors = PromptCache(), {}, 0, []
        self.script.clear()
        self.journal.clear()

    def disown(self) -> None:
        """In a forked child: what happens is the parent's, and nobody is left to release the locks."""
        self.errors = []
        self._lock = threading.Lock()
        self.script.unlock()
        self.journal.unlock()

    def bill(self) -> dict[str, Usage]:
        """What each model's requests have cost."""
        with self._lock:
            return dict(self._bill)

    def answer(self, request: Request) -> Exchange:
        """Decide what a request gets; called in order of arrival."""
        path = request.path.partition("?")[0].rstrip("/")
        found = next(((m, wire) for end, wire in _ENDPOINTS if (m := end.search(path))), None)
        entry = self._arrived(request, path, found)
        if found is None or request.method != "POST":
            return Exchange(entry, _elsewhere(entry, path, known=found is not None))
        wire = _FORMATS[entry.format]
        try:
            wire.refuse(entry, self._rules)
            choices = wire.choices(entry.body, self._rules)
            asked = wire.choices(entry.body, _NO_RULES)
            turn = self.script.turn(entry, asked, choices, wire.max_tokens(entry.body))
            return self._exchange(entry, wire, turn)
        except RefusedError as refused:
            return Exchange(entry, failed(entry, wire, refused.failure))
        except Exception as error:  # noqa: BLE001  # whatever a script raises: closing raises it again
            error.add_note(f"raised while the loopback answered request {entry.number}")
            self.errors.append(error)
            failure = Failure(500, f"The loopback failed, probably in its script: {error!r}", "server_error")
            return Exchange(entry, failed(entry, wire, failure))

    def _arrived(self, request: Request, path: str, found: tuple[re.Match[str], str] | None) -> Entry:
        told = (wire for header, wire in _BY_HEADER.items() if header in request.headers)
        wire = found[1] if found is not None else next(told, "openai")
        self._requests += 1
        entry = Entry(
            number=self._requests,
            format=wire,
            method=request.method,
            path=request.path,
            headers=request.headers,
            raw=request.raw,
            connection=request.connection,
            body=parse(request.raw),
        )
        if found is not None and wire == "gemini":
            entry.model = unquote(found[0]["model"])
            entry.stream = found[0]["streams"] is not None
        elif isinstance(entry.body, dict):
            deployment = path.partition("/deployments/")[2].partition("/")[0]  # Azure names it there
            entry.model = str(entry.body.get("model") or deployment)
            entry.stream = entry.body.get("stream") is True
        self.journal.add(entry)
        return entry

    def _exchange(self, entry: Entry, wire: Format, turn: Turn) -> Exchange:
        cache, bill = self._cache, self._bill
        options = entry.body.get("stream_options") or {}
        draft = Draft(
            entry=entry,
            format=wire,
            replies=turn.replies,
            prompt=wire.prompt_use(cache, entry.model, wire.blocks(entry.body)),
            created=int(time.time()),
            wants_usage=self._rules.usage_unasked or bool(options.get("include_usage")),
        )
        entry.fault = turn.fault.name if turn.fault else None
        plan = turn.fault.plan(draft) if turn.fault else draft.plan()
        if draft.delay:
            plan = replace(plan, steps=_delayed(draft.delay, plan))

        def start() -> None:
            if plan.charged:
                cache.commit(draft.prompt)
                entry.usage = draft.served.usage
                with self._lock:
                    bill[entry.model] = bill.get(entry.model, Usage()) + entry.usage

        return Exchange(entry, plan, start)


def _elsewhere(entry: Entry, path: str, *, known: bool) -> Plan:
    """The list of models, or that there is nothing here."""
    if entry.method == "GET" and path.endswith("/models"):
        model = {"id": "loopback", "object": "model", "type": "model", "owned_by": "agentless"}
        gemini = {"name": "models/loopback", "supportedGenerationMethods": ["generateContent"]}
        listed = {"object": "list", "data": [model], "has_more": False}
        data = dumps({"models": [gemini]} if entry.format == "gemini" else listed)
        headers = {"content-type": JSON, "content-length": str(len(data)), "x-request-id": request_id(entry)}
        return Plan([head(200, headers) + data], charged=False)
    words = "Not allowed to" if known else "Invalid URL"
    failure = Failure(405 if known else 404, f"{words} ({entry.method} {path})")
    return failed(entry, _FORMATS[entry.format], failure)


def _delayed(delay: float, plan: Plan) -> Iterator[Step]:
    yield delay
    yield from plan.steps
