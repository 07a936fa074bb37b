"""Do both doors put the same on the wire, for every chat model of litellm's registry?

For each model of a provider that is spoken to directly, and for each option, tool turns, images, cache marks
and extra fields: the request by the direct door and the one by `litellm.acompletion`, taken from the
connection before anything is sent. JSON, address, authentication and the caller's headers have to be the
same; what may differ is listed in `MAY_DIFFER`.

Usage: `python benchmarks/doors.py [ROUTE ...]` (all direct ones by default; another route of litellm's is
tried as if it spoke OpenAI's format). The exit status is 1 if anything differs.
"""

import asyncio
import copy
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from agentless.credentials import Credentials
from agentless.frozen import FrozenDict
from agentless.llm import direct, importing, litellm_door, wire
from agentless.llm.capabilities import Capabilities
from agentless.llm.formats import OPENAI
from agentless.llm.messages import prepare
from agentless.llm.provider_rows import find_provider
from agentless.llm.providers import build_request, capabilities_of, normalised_url, provider_of
from agentless.settings import ModelSettings
from benchmarks.sweep import EVERYTHING, OPTIONS, TOOL, VALUES, chat_models

CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "str_replace_editor", "arguments": '{"path": "a"}'},
}
TURNS = [
    {"role": "system", "content": "You repair software."},
    {"role": "user", "content": "Repair this."},
    {"role": "assistant", "content": "Reading.", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "done"},
]
IMAGE = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
        ],
    }
]
CASES: tuple[tuple[str, Any, Mapping[str, Any]], ...] = (
    ("plain", "Repair this.", {}),
    *((name, "Repair this.", values) for name, values in OPTIONS.items()),
    *((str(values), "Repair this.", values) for values in VALUES),
    ("everything", "Repair this.", EVERYTHING),
    ("tool turns", TURNS, {"tools": [TOOL]}),
    ("tool turns, cached", TURNS, {"tools": [TOOL], "prompt_cache": True}),
    ("image", IMAGE, {}),
    ("extra body", "Repair this.", {"extra_body": {"custom_field": 1}}),
)

MAY_DIFFER = frozenset({("azure_ai", "extra_headers")})
"""Fields of a provider's body that need not be the same: litellm (1.105.3 to 1.110.2) writes the caller's
headers into Azure AI's, keys and all."""

SAME_HEADERS = (
    "authorization",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "anthropic-version",
    "anthropic-beta",
)
"""What has to be the same, with the caller's own and those that a row of `DIALECTS` adds."""


class _Recorder(wire.WatchedTransport):
    """Takes a request, and sends none."""

    taken: httpx.Request | None = None

    @classmethod
    def forget(cls) -> None:
        """Take the next."""
        cls.taken = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Keep the first."""
        if _Recorder.taken is None:
            await request.aread()
            _Recorder.taken = request
        raise httpx.ConnectError("nothing is sent")


class Seen:
    """One request, in what is compared."""

    def __init__(self, url: str, headers: Mapping[str, str], body: bytes) -> None:
        self.url = url
        lower = {name.lower(): value for name, value in headers.items()}
        self.headers = {
            name: lower[name]
            for name in (*SAME_HEADERS, "x-mine", "http-referer", "x-title")
            if name in lower
        }
        self.json = json.loads(body)
        if self.json.get("stream") is False:  # the default, said by one door
            del self.json["stream"]

    def differences(self, other: "Seen") -> Iterator[str]:
        """What is not the same, named."""
        if self.url != other.url:
            yield f"address {self.url} | {other.url}"
        if self.headers != other.headers:
            yield f"headers {self.headers} | {other.headers}"
        for name in sorted({*self.json, *other.json}):
            ours, theirs = self.json.get(name, "-"), other.json.get(name, "-")
            if ours != theirs:
                yield f"{name}: {json.dumps(ours)[:160]} | {json.dumps(theirs)[:160]}"


async def by_litellm(arguments: Mapping[str, Any], streams: bool) -> Seen | str:
    """The request that litellm makes, or why there is none."""
    _Recorder.forget()
    extra = {"stream_options": {"include_usage": True}} if streams else {}
    try:
        asked = {**copy.deepcopy(dict(arguments)), **extra}
        reply = await litellm_door._complete(asked, wire.Exchange())  # noqa: SLF001  # unread
        async for _ in reply:
            break
    except Exception as error:  # noqa: BLE001  # whatever is raised is the finding
        why = f"{type(error).__name__}: {error}"[:200]
    else:
        why = "answered"
    request = _Recorder.taken
    return why if request is None else Seen(str(request.url), request.headers, request.content)


def by_template(arguments: Mapping[str, Any], streams: bool) -> Seen | str:
    """The request by the direct door, or why there is none."""
    try:
        template = direct.template_of(arguments, streams)
        if template is None:
            return "litellm's"
        written = template.write(copy.deepcopy(arguments["messages"]))
    except Exception as error:  # noqa: BLE001  # whatever is raised is the finding
        return f"{type(error).__name__}: {error}"[:200]
    return Seen(str(written.url), written.headers, written.body)


async def compare(provider: str, name: str, tally: Counter[str], found: dict[str, list[str]]) -> None:
    """All cases of one model."""
    for label, message, values in CASES:
        given: dict[str, Any] = {"provider": provider, "name": name, **values}
        if "reasoning_effort" in values:
            given["max_new_tokens"] = 2048
        settings = ModelSettings(**given)
        capabilities = capabilities_of(settings)
        for streams in (False, True):
            arguments = _arguments(settings, capabilities, message, label, streams)
            ours = by_template(arguments, streams)
            if ours == "litellm's":
                tally["litellm's"] += 1
                continue
            theirs = await by_litellm(arguments, streams)
            if isinstance(ours, str) or isinstance(theirs, str):
                same = isinstance(ours, str) and isinstance(theirs, str)
                tally["same" if same else "different"] += 1
                if not same:
                    shown = [each if isinstance(each, str) else "sent" for each in (ours, theirs)]
                    found[f"{shown[0]} | {shown[1]}"].append(f"{name} {label} {streams}")
                continue
            apart = {f"{field}:" for route, field in MAY_DIFFER if route == provider}
            differences = [each for each in ours.differences(theirs) if each.split(" ", 1)[0] not in apart]
            tally["different" if differences else "same"] += 1
            for each in differences:
                found[each].append(f"{name} {label} {streams}")


def _arguments(
    settings: ModelSettings, capabilities: Capabilities, message: Any, label: str, streams: bool
) -> dict[str, Any]:
    messages, _ = prepare(
        message, capabilities=capabilities, system_message=settings.system_message, model=settings.name
    )
    seller = provider_of(settings)
    url = (
        None
        if label == "plain" and not seller.self_hosted
        else normalised_url("https://provider.invalid", seller)
    )
    credentials = Credentials(
        "sk-key", url, "2024-10-21" if settings.provider == "azure" else None, FrozenDict({"x-mine": "1"})
    )
    n = 2 if label == "n" and capabilities.native_n and (capabilities.streams_native_n or not streams) else 1
    return build_request(settings, capabilities, messages, n=n, stream=streams, credentials=credentials)


async def run(routes: list[str], most: int = 0) -> int:
    """Compare, and print what differs."""
    importing.load()
    from litellm.llms.custom_httpx import http_handler

    for name in ("create_async_transport", "_create_async_transport"):
        if hasattr(http_handler.AsyncHTTPHandler, name):
            setattr(http_handler.AsyncHTTPHandler, name, staticmethod(lambda *_, **__: _Recorder()))
    rows: dict[str, direct.Dialect] = direct.DIALECTS  # type: ignore[assignment]
    for route in routes:
        rows.setdefault(route, direct.Dialect(OPENAI))
    wanted = routes or list(rows)
    models: dict[str, list[str]] = defaultdict(list)
    for _, provider, name in chat_models():
        row = find_provider(provider, name)
        if row is not None and row.route in wanted:
            models[provider].append(name)
    sold = {row.route for row in map(find_provider, models) if row is not None}
    for route in wanted:
        if route not in sold:
            models[route].append("some-model")
    bad = 0
    for provider, every in models.items():
        names = every[:: max(1, len(every) // most)] if most else every
        tally: Counter[str] = Counter()
        found: dict[str, list[str]] = defaultdict(list)
        for name in names:
            try:
                await compare(provider, name, tally, found)
            except Exception as error:  # noqa: BLE001  # whatever is raised is the finding
                found[f"FAILED {type(error).__name__} {error}"[:200]].append(name)
        bad += tally["different"]
        print(f"{provider}: {len(names)} models, {dict(tally)}", flush=True)
        for text, where in list(found.items())[:8]:
            print(f"    {text}\n        {len(where)}: {where[0]}", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    numbers = [int(each) for each in sys.argv[1:] if each.isdecimal()]
    sys.exit(asyncio.run(run([each for each in sys.argv[1:] if not each.isdecimal()], *numbers)))
