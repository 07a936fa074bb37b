"""The embedded provider, over real sockets: its formats, its strictness, its faults, its life."""

import asyncio
import contextlib
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentless.loopback import Ending, Entry, Loopback, Reply, ToolCall, faults, shared
from agentless.loopback.faults import Fault
from agentless.loopback.replies import count_tokens

WIRES = ("openai", "anthropic", "gemini")
PATHS = {
    "openai": "/v1/chat/completions",
    "anthropic": "/v1/messages",
    "gemini": "/v1beta/models/gemini-2.5-flash:generateContent",
}
GEMINI_STREAM = "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"
MODELS = {"openai": "gpt-4", "anthropic": "claude-sonnet-4-20250514", "gemini": "gemini-2.5-flash"}
KEY = "sk-canary-123"
HEADERS = {
    "openai": {"authorization": f"Bearer {KEY}"},
    "anthropic": {"x-api-key": KEY, "anthropic-version": "2023-06-01"},
    "gemini": {"x-goog-api-key": KEY},
}
OPENAI_TOOL = {"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}
ANTHROPIC_TOOL = {"name": "search", "input_schema": {"type": "object"}}
GEMINI_TOOL = {"functionDeclarations": [{"name": "search", "parameters": {"type": "OBJECT"}}]}
NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # httpx would load them for each client
TOOLS = {"openai": [OPENAI_TOOL], "anthropic": [ANTHROPIC_TOOL], "gemini": [GEMINI_TOOL]}


@pytest.fixture
def server() -> Iterator[Loopback]:
    """A running server."""
    with Loopback() as running:
        yield running


@pytest.fixture(params=WIRES)
def wire(request: pytest.FixtureRequest) -> str:
    """Every format."""
    return str(request.param)


@pytest.fixture(params=[False, True], ids=["whole", "stream"])
def stream(request: pytest.FixtureRequest) -> bool:
    """Whole and streamed."""
    return bool(request.param)


def body(wire: str, **fields: Any) -> dict[str, Any]:
    """A right request, changed by the fields; `...` removes one. Gemini's path has the model and `stream`."""
    if wire == "gemini":
        fields = {"model": ..., "stream": ..., **fields} | {"model": ..., "stream": ...}
        contents = [{"role": "user", "parts": [{"text": "hello"}]}]
        return {k: v for k, v in {"contents": contents, **fields}.items() if v is not ...}
    basic: dict[str, Any] = {"model": MODELS[wire], "messages": [{"role": "user", "content": "hello"}]}
    if wire == "anthropic":
        basic["max_tokens"] = 100
    return {k: v for k, v in {**basic, **fields}.items() if v is not ...}


def path_of(wire: str, fields: dict[str, Any]) -> str:
    """The path of a request with these fields."""
    if wire != "gemini":
        return PATHS[wire]
    path = GEMINI_STREAM if fields.get("stream") else PATHS[wire]
    return path.replace(MODELS[wire], fields.get("model", MODELS[wire]))


def ask(server: Loopback, wire: str = "openai", *, timeout: float = 5, **fields: Any) -> httpx.Response:
    """One request on a connection of its own."""
    url = server.anthropic_url + path_of(wire, fields)
    return httpx.post(
        url,
        headers=HEADERS[wire],
        json=body(wire, **fields),
        timeout=timeout,
        trust_env=False,
        verify=NO_CERTIFICATES,
    )


def raw_request(wire: str = "openai", extra: str = "", **fields: Any) -> bytes:
    """The bytes of a request."""
    data = json.dumps(body(wire, **fields)).encode()
    headers = "".join(f"{k}: {v}\r\n" for k, v in HEADERS[wire].items())
    lines = f"host: x\r\n{headers}{extra}content-length: {len(data)}\r\n\r\n"
    start = f"POST {path_of(wire, fields)} HTTP/1.1\r\n{lines}"
    return start.encode() + data


@contextlib.contextmanager
def asking(server: Loopback, wire: str) -> Iterator[httpx.Response]:
    """A stream, as it arrives."""
    url, fields = server.anthropic_url + path_of(wire, {"stream": True}), body(wire, stream=True)
    with (
        httpx.Client(trust_env=False) as client,
        client.stream("POST", url, headers=HEADERS[wire], json=fields) as response,
    ):
        yield response


@contextlib.contextmanager
def connected(server: Loopback) -> Iterator[socket.socket]:
    """A raw connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
        yield sock


def received(sock: socket.socket) -> bytes:
    """Everything until the server closes."""
    data = b""
    while piece := sock.recv(65536):
        data += piece
    return data


def events(text: str) -> list[Any]:
    """The JSON of each SSE event; `[DONE]` and what is not JSON as text."""
    found = []
    for event in text.replace("\r\n", "\n").split("\n\n")[:-1]:
        data = next((line[6:] for line in event.split("\n") if line.startswith("data: ")), None)
        if data is not None:
            with contextlib.suppress(ValueError):
                data = json.loads(data)
            found.append(data)
    return found


def gemini_text(response: dict[str, Any]) -> str:
    """The text in one response of Gemini's, without the thoughts."""
    parts = [p for c in response.get("candidates", ()) for p in c["content"].get("parts", ())]
    return "".join(p.get("text", "") for p in parts if not p.get("thought"))


def unchunked(data: bytes) -> str:
    """The text in a chunked body that may break off."""
    text = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        text, data = text + data[: int(size, 16)], data[int(size, 16) + 2 :]
    return text.decode()


def streamed_text(wire: str, sse: list[Any]) -> str:
    """The text in a stream's events."""
    if wire == "anthropic":
        return "".join(e["delta"].get("text", "") for e in sse if e["type"] == "content_block_delta")
    if wire == "gemini":
        return "".join(gemini_text(e) for e in sse)
    choices = [c for e in sse if isinstance(e, dict) for c in e["choices"]]
    return "".join(c["delta"].get("content") or "" for c in choices)


def text_of(wire: str, response: httpx.Response) -> str:
    """The reply's text, whole or streamed."""
    if response.headers["content-type"].startswith("text/event-stream"):
        return streamed_text(wire, events(response.text))
    if wire == "anthropic":
        return "".join(b.get("text", "") for b in response.json()["content"])
    if wire == "gemini":
        return gemini_text(response.json())
    return str(response.json()["choices"][0]["message"]["content"])


class TestOpenAIFormat:
    """OpenAI's replies and streams."""

    def test_a_whole_reply_has_the_services_shape(self, server: Loopback) -> None:
        """A whole reply has id, object, created, model, choices and usage, and the service's headers."""
        response = ask(server.script("hi there"))
        reply = response.json()
        assert reply["id"].startswith("chatcmpl-")
        assert (reply["object"], reply["model"]) == ("chat.completion", "gpt-4")
        assert reply["choices"] == [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hi there", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ]
        assert reply["usage"]["prompt_tokens"] == count_tokens("hello")
        assert reply["usage"]["completion_tokens"] == count_tokens("hi there")
        assert reply["usage"]["total_tokens"] == 4
        assert response.headers["x-request-id"].startswith("req_")
        assert response.headers["content-type"] == "application/json"

    def test_a_stream_has_the_services_events(self, server: Loopback) -> None:
        """Role, words, finish reason, usage with no choices, then `[DONE]`, all under one id."""
        response = ask(server.script("hi there you"), stream=True, stream_options={"include_usage": True})
        assert response.headers["content-type"].startswith("text/event-stream")
        *chunks, usage, done = events(response.text)
        assert done == "[DONE]"
        assert usage["choices"] == []
        assert usage["usage"]["completion_tokens"] == 3
        assert all(c["usage"] is None for c in chunks)
        assert {c["object"] for c in [*chunks, usage]} == {"chat.completion.chunk"}
        assert len({c["id"] for c in [*chunks, usage]}) == 1
        deltas = [c["choices"][0]["delta"] for c in chunks]
        assert deltas == [
            {"role": "assistant", "content": ""},
            {"content": "hi "},
            {"content": "there "},
            {"content": "you"},
            {},
        ]
        assert [c["choices"][0]["finish_reason"] for c in chunks] == [None, None, None, None, "stop"]

    def test_usage_is_streamed_only_when_asked_for(self, server: Loopback) -> None:
        """Without `include_usage` no event has usage, yet the bill does."""
        sse = events(ask(server, stream=True).text)
        assert not any("usage" in e for e in sse if isinstance(e, dict))
        assert server.bill["completion_tokens"] > 0

    def test_usage_may_be_streamed_unasked(self) -> None:
        """With `usage_unasked` a stream has its usage all the same, as Mistral's has."""
        with Loopback(usage_unasked=True) as server:
            *_, usage, done = events(ask(server, stream=True).text)
            assert (usage["usage"]["prompt_tokens"], done) == (2, "[DONE]")

    def test_native_n_gives_different_choices(self, server: Loopback) -> None:
        """The built-in reply differs by choice, and the prompt is charged once."""
        reply = ask(server, n=3).json()
        texts = [c["message"]["content"] for c in reply["choices"]]
        assert len(set(texts)) == 3
        assert [c["index"] for c in reply["choices"]] == [0, 1, 2]
        assert reply["usage"]["prompt_tokens"] == count_tokens("hello")
        assert reply["usage"]["completion_tokens"] == sum(map(count_tokens, texts))

    def test_streamed_choices_take_turns(self, server: Loopback) -> None:
        """The choices of a stream interleave by index, each with a finish reason of its own."""
        server.script(["a b c", Reply("d e", finish_reason="length")])
        choices = [e["choices"][0] for e in events(ask(server, stream=True, n=2).text)[:-1]]
        assert [c["index"] for c in choices] == [0, 1, 0, 1, 0, 1, 0, 0, 1]
        finishes = {c["index"]: c["finish_reason"] for c in choices if c["finish_reason"]}
        assert finishes == {0: "stop", 1: "length"}
        assert "".join(c["delta"].get("content", "") for c in choices if c["index"] == 1) == "d e"

    def test_tool_calls(self, server: Loopback) -> None:
        """A call is whole in a whole reply, and comes in several pieces of arguments in a stream."""
        call = ToolCall("search", {"query": "größe"})
        server.script(Reply(tool_calls=[call]), Reply("text too", tool_calls=[call, ToolCall("f", "{bad")]))
        message = ask(server).json()["choices"][0]["message"]
        assert message["content"] is None
        assert message["tool_calls"][0]["type"] == "function"
        assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == {"query": "größe"}
        choices = [e["choices"][0] for e in events(ask(server, stream=True).text)[:-1]]
        calls = [d for c in choices for d in c["delta"].get("tool_calls", ())]
        assert [d["function"].get("name") for d in calls if "id" in d] == ["search", "f"]
        arguments = ["".join(d["function"]["arguments"] for d in calls if d["index"] == i) for i in (0, 1)]
        assert json.loads(arguments[0]) == {"query": "größe"}
        assert arguments[1] == "{bad"
        assert sum(d["index"] == 0 for d in calls) > 2
        assert choices[-1]["finish_reason"] == "tool_calls"

    def test_reasoning(self, server: Loopback) -> None:
        """Reasoning is in `reasoning_content`, and counted among the completion's tokens."""
        server.default = Reply("text", reasoning="some thoughts")
        reply = ask(server).json()
        assert reply["choices"][0]["message"]["reasoning_content"] == "some thoughts"
        assert reply["usage"]["completion_tokens_details"]["reasoning_tokens"] == 4
        assert reply["usage"]["completion_tokens"] == 5
        deltas = [e["choices"][0]["delta"] for e in events(ask(server, stream=True).text)[:-1]]
        assert "".join(d.get("reasoning_content", "") for d in deltas) == "some thoughts"

    def test_other_places_for_the_same_endpoint(self, server: Loopback) -> None:
        """Azure's, DeepSeek's and other prefixes lead to the same endpoint; Azure's names the model."""
        with httpx.Client(base_url=server.anthropic_url, trust_env=False) as client:
            for path in ("/chat/completions", "/beta/chat/completions", "/openai/v1/chat/completions"):
                assert client.post(path, headers=HEADERS["openai"], json=body("openai")).status_code == 200
            path = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-02-01"
            azure = client.post(path, headers={"api-key": KEY}, json=body("openai", model=...))
        assert azure.json()["model"] == "gpt-4o"

    def test_deepseek_counts_hits_and_misses(self, server: Loopback) -> None:
        """DeepSeek's usage tells cached tokens as hits and the others as misses."""
        usage = ask(server, model="deepseek-chat").json()["usage"]
        assert (usage["prompt_cache_hit_tokens"], usage["prompt_cache_miss_tokens"]) == (0, 2)


class TestAnthropicFormat:
    """Anthropic's replies and streams."""

    def test_a_whole_reply_has_the_services_shape(self, server: Loopback) -> None:
        """A whole reply is a message with content blocks, stop reason and usage."""
        response = ask(server.script("hi there"), "anthropic")
        reply = response.json()
        assert (reply["type"], reply["role"], reply["stop_reason"]) == ("message", "assistant", "end_turn")
        assert reply["content"] == [{"type": "text", "text": "hi there"}]
        assert reply["usage"]["input_tokens"] == 2
        assert reply["usage"]["output_tokens"] == 2
        assert response.headers["request-id"].startswith("req_")

    def test_a_stream_has_the_services_events(self, server: Loopback) -> None:
        """Thinking, text and tool use each in a block, in the order of the service's events."""
        server.script(Reply("one two", reasoning="hm so", tool_calls=[ToolCall("search", {"q": 1})]))
        response = ask(server, "anthropic", stream=True)
        sse = events(response.text)
        names = [line[7:] for line in response.text.splitlines() if line.startswith("event: ")]
        assert names == [e["type"] for e in sse]
        assert names[:2] == ["message_start", "ping"]
        assert names[-2:] == ["message_delta", "message_stop"]
        blocks: dict[int, list[dict[str, Any]]] = {}
        for event in sse[2:-2]:
            blocks.setdefault(event["index"], []).append(event)
        assert [b[0]["content_block"]["type"] for b in blocks.values()] == ["thinking", "text", "tool_use"]
        for block in blocks.values():
            assert block[0]["type"] == "content_block_start"
            assert block[-1]["type"] == "content_block_stop"
        deltas = [[e["delta"] for e in b[1:-1]] for b in blocks.values()]
        assert [d["type"] for d in deltas[0]] == ["thinking_delta", "thinking_delta", "signature_delta"]
        assert "".join(d["text"] for d in deltas[1]) == "one two"
        assert blocks[2][0]["content_block"]["input"] == {}
        assert json.loads("".join(d["partial_json"] for d in deltas[2])) == {"q": 1}
        assert len(deltas[2]) > 1
        assert sse[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}

    def test_usage_starts_with_the_prompt_and_ends_with_the_whole(self, server: Loopback) -> None:
        """`message_start` counts the prompt, `message_delta` everything."""
        sse = events(ask(server.script("one two three"), "anthropic", stream=True).text)
        start, end = sse[0]["message"]["usage"], sse[-2]["usage"]
        assert (start["input_tokens"], start["output_tokens"]) == (2, 1)
        assert (end["input_tokens"], end["output_tokens"]) == (2, 4)

    def test_a_whole_tool_call_has_its_input_as_an_object(self, server: Loopback) -> None:
        """A tool call's input is an object; text that is not JSON stays text."""
        server.script(Reply(tool_calls=[ToolCall("f", {"a": 1}, id="toolu_x"), ToolCall("f", "{bad")]))
        content = ask(server, "anthropic").json()["content"]
        assert content[0] == {"type": "tool_use", "id": "toolu_x", "name": "f", "input": {"a": 1}}
        assert content[1]["input"] == "{bad"

    @pytest.mark.parametrize(
        "finish, stop_reason",
        [("length", "max_tokens"), ("content_filter", "refusal"), ("pause_turn", "pause_turn")],
    )
    def test_finish_reasons_are_translated(self, server: Loopback, finish: str, stop_reason: str) -> None:
        """OpenAI's words become Anthropic's; others are sent as they are."""
        server.script(Reply("x", finish_reason=finish))
        assert ask(server, "anthropic").json()["stop_reason"] == stop_reason


class TestGeminiFormat:
    """Gemini's replies and streams."""

    def test_a_whole_reply_has_the_services_shape(self, server: Loopback) -> None:
        """A whole reply has candidates with parts, a finish reason, usage, and the model's version."""
        reply = ask(server.script("hi there"), "gemini").json()
        assert reply["candidates"] == [
            {
                "content": {"parts": [{"text": "hi there"}], "role": "model"},
                "finishReason": "STOP",
                "index": 0,
            }
        ]
        assert reply["usageMetadata"] == {
            "promptTokenCount": 2,
            "candidatesTokenCount": 2,
            "totalTokenCount": 4,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 2}],
        }
        assert reply["modelVersion"] == "gemini-2.5-flash"
        assert reply["responseId"]

    def test_a_stream_has_the_services_events(self, server: Loopback) -> None:
        """Each event is a response with what is new; lines end in CRLF; there is no end mark."""
        response = ask(server.script("hi there"), "gemini", stream=True)
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.text.count("\r\n\r\n") == 3
        sse = events(response.text)
        assert [gemini_text(e) for e in sse] == ["hi ", "there", ""]
        assert [e["candidates"][0].get("finishReason") for e in sse] == [None, None, "STOP"]
        assert [e["usageMetadata"]["totalTokenCount"] for e in sse] == [2, 2, 4]
        assert len({e["responseId"] for e in sse}) == 1

    @pytest.mark.parametrize(
        "ending, texts, reasons",
        [
            (Ending("after"), ["a ", "b", ""], [None, None, "STOP"]),
            (Ending("with"), ["a ", "b"], [None, "STOP"]),
            (Ending("before"), ["a ", "", "b"], [None, "STOP", None]),
        ],
        ids=["after", "with", "before"],
    )
    def test_endings(
        self, server: Loopback, ending: Ending, texts: list[str], reasons: list[str | None]
    ) -> None:
        """The finish reason stands where the ending says."""
        sse = events(ask(server.script(Reply("a b", ending=ending)), "gemini", stream=True).text)
        assert [gemini_text(e) for e in sse] == texts
        assert [e["candidates"][0].get("finishReason") for e in sse] == reasons

    def test_usage_and_line_ends_can_be_left_out(self, server: Loopback) -> None:
        """An ending without usage has none in any event; lines may end in LF."""
        server.script(Reply("a b", ending=Ending(usage=False, newline="\n")))
        response = ask(server, "gemini", stream=True)
        assert "usageMetadata" not in response.text
        assert "\r" not in response.text
        assert server.bill["completion_tokens"] == 1

    @pytest.mark.parametrize("finish", ["after", "with", "before"])
    def test_a_truncated_stream_has_no_finish_reason(self, server: Loopback, finish: Any) -> None:
        """Not even where the finish reason would come along with the last piece."""
        server.script(faults.TruncatedStream(9, reply=Reply("a b", ending=Ending(finish))))
        assert "finishReason" not in ask(server, "gemini", stream=True).text

    def test_thoughts_and_calls(self, server: Loopback, stream: bool) -> None:
        """Thoughts are parts that say so, and counted apart; the first call carries their signature."""
        calls = [ToolCall("search", {"q": "größe"}), ToolCall("f", {}, id="own")]
        server.script(Reply("so", reasoning="hm well", tool_calls=calls))
        response = ask(server, "gemini", stream=stream)
        replies = events(response.text) if stream else [response.json()]
        parts = [p for e in replies for p in e["candidates"][0]["content"]["parts"]]
        assert "".join(p["text"] for p in parts if p.get("thought")) == "hm well"
        assert "".join(map(gemini_text, replies)) == "so"
        first, second = (p for p in parts if "functionCall" in p)
        assert first["functionCall"] == {"name": "search", "args": {"q": "größe"}}
        assert first["thoughtSignature"]
        assert second == {"functionCall": {"id": "own", "name": "f", "args": {}}}
        assert replies[-1]["candidates"][0]["finishReason"] == "STOP"
        usage = replies[-1]["usageMetadata"]
        assert usage["thoughtsTokenCount"] == 2
        assert usage["candidatesTokenCount"] + 2 == server.bill["completion_tokens"]

    @pytest.mark.parametrize(
        "finish, reason",
        [("length", "MAX_TOKENS"), ("content_filter", "SAFETY"), ("RECITATION", "RECITATION")],
    )
    def test_finish_reasons_are_translated(self, server: Loopback, finish: str, reason: str) -> None:
        """OpenAI's words become Gemini's; others are sent as they are."""
        server.script(Reply("x", finish_reason=finish))
        assert ask(server, "gemini").json()["candidates"][0]["finishReason"] == reason

    def test_several_candidates(self, server: Loopback, stream: bool) -> None:
        """`candidateCount` gives so many, each with its index; more scripted ones are the script's error."""
        server.script(["a b", Reply("c", finish_reason="length")])
        response = ask(server, "gemini", stream=stream, generationConfig={"candidateCount": 2})
        replies = events(response.text) if stream else [response.json()]
        candidates = [c for e in replies for c in e["candidates"]]
        texts = ["", ""]
        for candidate in candidates:
            texts[candidate["index"]] += candidate["content"]["parts"][0]["text"]
        assert texts == ["a b", "c"]
        assert {c["index"]: c["finishReason"] for c in candidates if "finishReason" in c} == {
            0: "STOP",
            1: "MAX_TOKENS",
        }

    def test_a_blocked_prompt_has_no_candidates(self, server: Loopback, stream: bool) -> None:
        """A refused prompt is a 200 with the reason; the prompt is charged."""
        response = ask(server.script(faults.PromptBlocked("SAFETY")), "gemini", stream=stream)
        reply = events(response.text)[0] if stream else response.json()
        assert reply["promptFeedback"] == {"blockReason": "SAFETY"}
        assert "candidates" not in reply
        assert (server.bill["prompt_tokens"], server.bill["completion_tokens"]) == (2, 0)

    @pytest.mark.parametrize("wire", ["openai", "anthropic"])
    def test_others_refuse_a_prompt_with_a_400(self, server: Loopback, wire: str) -> None:
        """Where there is no such reply it is a refusal about the content."""
        response = ask(server.script(faults.PromptBlocked()), wire)
        assert response.status_code == 400
        assert "content" in response.text

    def test_a_rate_limit_says_how_long_to_wait(self, server: Loopback) -> None:
        """The details of a 429 name the quota, and with `retry_delay` the seconds."""
        server.script(faults.Status(429, retry_delay=2.5), faults.Status(429))
        quota, retry = ask(server, "gemini").json()["error"]["details"]
        assert quota["@type"].endswith("QuotaFailure")
        assert retry == {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "2.5s"}
        assert len(ask(server, "gemini").json()["error"]["details"]) == 1

    @pytest.mark.parametrize(
        "path",
        [
            "/models/M:generateContent",
            "/v1/models/M:generateContent",
            "/v1alpha/models/M:generateContent",
            "/v1/projects/p/locations/l/publishers/google/models/M:generateContent",
            "/v1beta1/projects/p/locations/l/publishers/google/models/M:generateContent",
        ],
    )
    def test_other_places_for_the_same_endpoint(self, server: Loopback, path: str) -> None:
        """AI Studio's and Vertex AI's prefixes lead to the same endpoint."""
        path = path.replace("M", "gemini-3-pro")
        url, fields = f"http://127.0.0.1:{server.port}{path}", body("gemini")
        response = httpx.post(url, headers={"authorization": f"Bearer {KEY}"}, json=fields, trust_env=False)
        assert response.json()["modelVersion"] == server.journal[0].model == "gemini-3-pro"

    def test_a_key_may_stand_in_the_address(self, server: Loopback) -> None:
        """`?key=` is taken, is in the journal's path, and in none of its texts; Vertex AI wants a token."""
        url = f"{server.gemini_url}/models/gemini-2.5-flash:generateContent?key={KEY}"
        assert httpx.post(url, json=body("gemini"), trust_env=False).status_code == 200
        (entry,) = server.journal
        assert KEY in entry.path
        assert KEY not in f"{entry!r} {server.journal}"
        vertex = (
            f"{server.anthropic_url}/v1/projects/p/locations/l/publishers/google/models/m:generateContent"
        )
        assert httpx.post(vertex, json=body("gemini"), trust_env=False).json()["error"]["code"] == 401


class TestReplies:
    """What a `Reply` can be told."""

    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(text=st.text(max_size=60), wire=st.sampled_from(WIRES))
    def test_streams_join_to_the_text(self, server: Loopback, text: str, wire: str) -> None:
        """Any text, streamed in any format, joins to exactly itself."""
        server.reset()
        server.default = text
        assert text_of(wire, ask(server, wire, stream=True)) == text
        assert text_of(wire, ask(server, wire)) == text

    def test_chunks_are_sent_as_given(self, server: Loopback) -> None:
        """`chunks` are the stream's pieces and join to the text."""
        reply = Reply(chunks=["a", "", "bc"])
        assert reply.text == "abc"
        sse = events(ask(server.script(reply), stream=True).text)
        assert [e["choices"][0]["delta"].get("content") for e in sse[1:4]] == ["a", "", "bc"]

    def test_a_contradictory_reply_is_refused(self) -> None:
        """Chunks that do not join to the text, and unknown kinds of usage, are errors at once."""
        with pytest.raises(ValueError, match="chunks join to 'ab'"):
            Reply("abc", chunks=["a", "b"])
        with pytest.raises(ValueError, match="usage has no"):
            Reply("x", usage={"tokens": 1})

    def test_a_lone_surrogate_is_sent_as_an_escape(self, server: Loopback, stream: bool) -> None:
        """Text without a UTF-8 form is escaped, as JSON allows."""
        response = ask(server.script("a\ud800b"), stream=stream)
        assert b"a\\ud800b" in response.content

    def test_headers_model_and_usage_can_be_set(self, server: Loopback, wire: str, stream: bool) -> None:
        """A reply may carry headers, name another model and count other tokens."""
        server.script(Reply("x", headers={"X-Own": "1"}, model="other", usage={"completion_tokens": 77}))
        response = ask(server, wire, stream=stream)
        assert response.headers["x-own"] == "1"
        assert ('"modelVersion":"other"' if wire == "gemini" else '"model":"other"') in response.text
        assert server.bill["completion_tokens"] == 77
        assert list(server.bill_by_model) == [MODELS[wire]]

    def test_delays(self, server: Loopback, wire: str) -> None:
        """Nothing comes before `delay`; pieces come `chunk_delay` apart, each when it is sent."""
        server.script(Reply("a b c", delay=0.1, chunk_delay=0.2))
        begin = time.monotonic()
        piece = {"openai": '"delta":{"content":', "anthropic": '"text_delta"', "gemini": '"text":"'}[wire]
        with asking(server, wire) as response:
            lines = (line for line in response.iter_lines() if piece in line and '"text":""' not in line)
            arrivals = [(time.monotonic() - begin, server.journal[0].ended) for _ in lines]
        assert len(arrivals) == 3
        assert all(at >= 0.1 + i * 0.2 for i, (at, _) in enumerate(arrivals))
        assert arrivals[0][1] is None

    def test_the_default_reply_heeds_max_tokens(self, server: Loopback, wire: str) -> None:
        """The built-in reply is cut at `max_tokens` and says so."""
        most = {"generationConfig": {"maxOutputTokens": 3}} if wire == "gemini" else {"max_tokens": 3}
        reply = ask(server, wire, **most).text
        words = {"openai": "length", "anthropic": "max_tokens", "gemini": "MAX_TOKENS"}
        assert f'"{words[wire]}"' in reply
        assert server.bill["completion_tokens"] == 3


class TestScript:
    """What comes next."""

    def test_steps_are_taken_in_order_and_then_the_default(self, server: Loopback) -> None:
        """One step per request, then the default for ever."""
        server.script("a", Reply("b"), faults.Status(500), lambda entry: f"{entry.prompt}!")
        server.default = "z"
        assert text_of("openai", ask(server)) == "a"
        assert text_of("openai", ask(server)) == "b"
        assert ask(server).status_code == 500
        assert text_of("openai", ask(server)) == "hello!"
        assert [text_of("openai", ask(server)) for _ in range(2)] == ["z", "z"]

    def test_a_refused_request_takes_no_step(self, server: Loopback) -> None:
        """A request that the service refuses leaves the script as it is."""
        server.script("a")
        assert ask(server, nonsense=1).status_code == 400
        assert text_of("openai", ask(server)) == "a"

    def test_a_broken_step_is_not_passed_over(self) -> None:
        """What a callable raises is a 500 to the client, and raised again at close."""

        def broken(_: Entry) -> str:
            raise LookupError("my mistake")

        server = Loopback().start()
        server.script(broken, 42)  # type: ignore[arg-type]  # a step that is none
        assert ask(server).status_code == 500
        assert ask(server).status_code == 500
        with pytest.raises(LookupError, match="my mistake") as caught:
            server.close()
        assert "answered request 1" in caught.value.__notes__[0]
        assert "a step is a str" in caught.value.__notes__[1]
        server.close()

    def test_a_broken_step_does_not_hide_the_tests_own_error(self) -> None:
        """In a `with` block that raises, the script's error becomes a note."""
        with pytest.raises(KeyError) as caught, Loopback() as server:  # noqa: PT012  # the block is the point
            ask(server.script(lambda _: 1 / 0))  # type: ignore[arg-type, return-value]
            raise KeyError("own")
        assert "ZeroDivisionError" in caught.value.__notes__[0]

    def test_more_replies_than_choices_is_a_broken_script(self) -> None:
        """A list longer than the n that was asked for is the script's error."""
        with pytest.raises(ValueError, match="3 replies"), Loopback() as server:
            ask(server.script(["a", "b", "c"]), n=2)

    def test_fewer_replies_than_choices_is_a_service_that_returns_fewer(self, server: Loopback) -> None:
        """A shorter list, `max_n` and `ignores_n` all give fewer choices than asked for."""
        assert len(ask(server.script(["a"]), n=3).json()["choices"]) == 1
        with Loopback(max_n=2) as limited, Loopback(ignores_n=True) as ignorant:
            assert len(ask(limited, n=3).json()["choices"]) == 2
            assert len(ask(ignorant, n=3).json()["choices"]) == 1

    def test_sometimes_is_repeatable(self) -> None:
        """The same seed gives the same faults, another seed others; no step is lost to a fault."""

        def run(seed: int) -> list[int]:
            with Loopback(seed=seed) as server:
                server.sometimes(faults.Status(500), 0.5).script("kept")
                server.default = "d"
                statuses = [ask(server).status_code for _ in range(20)]
                texts = [e.fault for e in server.journal]
                assert [f == "Status" for f in texts] == [s == 500 for s in statuses]
                return statuses

        assert run(1) == run(1)
        assert run(1) != run(2)
        assert {200, 500} == set(run(1))
        with pytest.raises(ValueError, match="probability"):
            Loopback().sometimes(faults.Garbage(), 2)

    def test_reset_forgets_everything(self, server: Loopback) -> None:
        """After `reset` there is no script, journal, bill or default of before."""
        server.script("a", "b")
        server.default = "c"
        ask(server)
        server.reset()
        assert not server.journal
        assert sum(server.bill.values()) == 0
        assert "loopback" in text_of("openai", ask(server))
        assert server.journal[0].number == 1


class TestJournal:
    """What the server has seen."""

    def test_an_entry_says_what_was_asked_and_answered(self, server: Loopback, wire: str) -> None:
        """An entry has the request as it came, the status, what was charged and the times in order."""
        ask(server, wire)
        (entry,) = server.journal
        assert (entry.number, entry.format, entry.method) == (1, wire, "POST")
        assert entry.path == PATHS[wire]
        assert entry.body == body(wire) == json.loads(entry.raw)
        assert (entry.model, entry.stream, entry.status, entry.fault) == (MODELS[wire], False, 200, None)
        assert entry.usage is not None
        assert entry.usage.as_dict() == server.bill
        assert entry.started is not None
        assert entry.ended is not None
        assert entry.arrived <= entry.started <= entry.ended
        assert entry.client_left is None

    def test_keys_are_there_but_never_shown(self, server: Loopback, wire: str) -> None:
        """Headers hold the key; no `repr` or `str` of them or of the entry shows it."""
        ask(server, wire)
        (entry,) = server.journal
        assert KEY in "".join(entry.headers.values())
        assert KEY not in f"{entry!r} {entry} {entry.headers!r} {entry.headers} {server.journal}"

    def test_connections_are_counted_and_told_apart(self, server: Loopback) -> None:
        """A kept connection has one number for all its requests; the server knows how many are open."""
        with httpx.Client(trust_env=False) as client:
            for _ in range(3):
                client.post(
                    f"{server.openai_url}/chat/completions", headers=HEADERS["openai"], json=body("openai")
                )
            ask(server)
            assert server.connections_open >= 1
        assert [e.connection for e in server.journal] == [1, 1, 1, 2]
        assert server.connections_made == 2
        deadline = time.monotonic() + 2
        while server.connections_open and time.monotonic() < deadline:
            time.sleep(0.005)
        assert server.connections_open == 0

    @pytest.mark.parametrize(
        "step",
        [
            Reply("x", delay=30),
            Reply("a b c d", chunk_delay=30),
            faults.Stall(),
            faults.Drip(30),
            faults.EndlessHeaders(0.01),
            faults.DripEvents(0.01),
        ],
        ids=lambda step: type(step).__name__,
    )
    @pytest.mark.parametrize("how", ["close", "reset", "shutdown"])
    def test_a_client_that_leaves_is_noticed_at_once(
        self, server: Loopback, step: Reply | Fault, how: str, wire: str
    ) -> None:
        """The client's leaving is in the journal at once (in 0.1 s, if not busy), and ends the reply."""
        server.script(step)
        with connected(server) as sock:
            sock.sendall(raw_request(wire, stream=True))
            server.wait_for(1)
            time.sleep(0.03)
            if how == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            left = time.monotonic()
            if how == "shutdown":
                sock.shutdown(socket.SHUT_WR)
            else:
                sock.close()
            (entry,) = server.wait_for(lambda journal: journal[0].client_left is not None)
        assert entry.client_left is not None
        assert entry.client_left - left < 0.3
        assert entry.ended is None

    def test_waiting_in_vain_raises_with_the_journal(self, server: Loopback) -> None:
        """`wait_for` raises `TimeoutError`, and its text shows what did arrive."""
        ask(server)
        with pytest.raises(TimeoutError, match=r"no 2 requests within 0.05 s.*Entry 1"):
            server.wait_for(2, timeout=0.05)
        with pytest.raises(TimeoutError, match="the condition"):
            server.wait_for(lambda journal: not journal, timeout=0.05)

    def test_the_journal_keeps_the_latest(self) -> None:
        """`journal_size` bounds the journal, not the bill."""
        with Loopback(journal_size=2) as server:
            for _ in range(3):
                ask(server)
            assert [e.number for e in server.journal] == [2, 3]
            assert server.bill["prompt_tokens"] == 6

    async def test_many_clients_at_once(self, server: Loopback) -> None:
        """A hundred concurrent streams all arrive whole, each charged once."""
        server.default = lambda entry: Reply(f"for {entry.prompt}", chunk_delay=0.005)
        async with httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_connections=100)) as client:

            async def one(i: int) -> str:
                fields = body("openai", stream=True, messages=[{"role": "user", "content": str(i)}])
                url = f"{server.openai_url}/chat/completions"
                return text_of("openai", await client.post(url, headers=HEADERS["openai"], json=fields))

            assert await asyncio.gather(*map(one, range(100))) == [f"for {i}" for i in range(100)]
        assert len(server.journal) == 100


BROKEN = httpx.RemoteProtocolError
RESET = httpx.ReadError


class TestFaults:
    """Every fault, in both formats, whole and streamed where it matters."""

    @pytest.mark.parametrize(
        "code", [400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504, 529, 418]
    )
    def test_statuses_have_the_services_body(self, server: Loopback, wire: str, code: int) -> None:
        """Any status comes with the format's own error body and the headers given, and is not charged."""
        server.script(faults.Status(code, headers={"Retry-After": "2"}))
        response = ask(server, wire)
        assert response.status_code == code
        assert response.headers["retry-after"] == "2"
        error = response.json()["error"]
        assert error["message"]
        if wire == "openai":
            assert set(error) == {"message", "type", "param", "code"}
        elif wire == "gemini":
            assert error["code"] == code
            assert error["status"].isupper()
        else:
            assert response.json()["type"] == "error"
            assert response.json()["request_id"] == response.headers["request-id"]
        (entry,) = server.journal
        assert (entry.status, entry.fault, entry.usage) == (code, "Status", None)
        assert sum(server.bill.values()) == 0

    def test_a_status_may_have_its_own_words_body_and_delay(self, server: Loopback) -> None:
        """Message, body (JSON, HTML) and delay of a status can be given."""
        server.script(
            faults.Status(503, "busy", delay=0.05),
            faults.Status(502, body="<html>bad gateway</html>"),
            faults.Status(400, body={"detail": "no"}),
        )
        begin = time.monotonic()
        assert ask(server).json()["error"]["message"] == "busy"
        assert time.monotonic() - begin >= 0.05
        page = ask(server)
        assert (page.text, page.headers["content-type"]) == ("<html>bad gateway</html>", "text/html")
        assert ask(server).json() == {"detail": "no"}

    @pytest.mark.parametrize(
        "wire, model, status, words",
        [
            ("openai", "gpt-4", 429, "insufficient_quota"),
            ("openai", "deepseek-chat", 402, "Insufficient Balance"),
            ("anthropic", "claude-x", 400, "credit balance is too low"),
            ("gemini", "gemini-2.5-pro", 429, "GenerateRequestsPerDayPerProjectPerModel"),
        ],
    )
    def test_an_exhausted_quota(
        self, server: Loopback, wire: str, model: str, status: int, words: str
    ) -> None:
        """Each service says in its own way that there is no money left."""
        response = ask(server.script(faults.QuotaExhausted()), wire, model=model)
        assert response.status_code == status
        assert words in response.text

    def test_an_invalid_key_is_quoted_by_openai(self, server: Loopback, wire: str) -> None:
        """A 401, from Gemini a 400; OpenAI's message holds the key."""
        response = ask(server.script(faults.InvalidKey()), wire)
        assert response.status_code == (400 if wire == "gemini" else 401)
        assert (KEY in response.text) == (wire == "openai")

    def test_a_context_exceeded(self, server: Loopback, wire: str) -> None:
        """A 400 with the limit in it."""
        response = ask(server.script(faults.ContextExceeded(limit=5000)), wire)
        assert response.status_code == 400
        assert "5000" in response.text
        assert ("context_length_exceeded" in response.text) == (wire == "openai")

    @pytest.mark.parametrize(
        "fault, error, charged",
        [
            (faults.Reset(), RESET, False),
            (faults.Reset("headers"), RESET, True),
            (faults.Reset("body"), RESET, True),
            (faults.Reset("stream", after_chunks=2), RESET, True),
            (faults.CleanClose(), BROKEN, False),
            (faults.CleanClose("headers"), BROKEN, True),
            (faults.CleanClose("body"), BROKEN, True),
            (faults.CleanClose("stream"), BROKEN, True),
            (faults.HalfHeaders(), BROKEN, False),
            (faults.Garbage(), BROKEN, False),
            (faults.CutBody(), BROKEN, True),
        ],
        ids=lambda value: (
            f"{type(value).__name__}-{getattr(value, 'when', '')}" if isinstance(value, Fault) else ""
        ),
    )
    def test_broken_connections(
        self,
        server: Loopback,
        wire: str,
        *,
        stream: bool,
        fault: Fault,
        error: type[Exception],
        charged: bool,
    ) -> None:
        """The client sees the connection break; charged is what got as far as the headers."""
        server.script(fault)
        with pytest.raises(error):
            ask(server, wire, stream=stream)
        (entry,) = server.wait_for(lambda journal: journal[0].ended is not None)
        assert entry.fault == type(fault).__name__
        assert entry.client_left is None
        assert (entry.usage is not None) == charged
        assert (sum(server.bill.values()) > 0) == charged
        assert ask(server, wire).status_code == 200

    @pytest.mark.parametrize("kind", [faults.Reset, faults.CleanClose])
    def test_a_stream_breaks_after_as_many_pieces_as_said(
        self, server: Loopback, wire: str, kind: type[faults.Reset]
    ) -> None:
        """All pieces before the break arrive; with `body` half of the next event does, too."""
        for when in ("stream", "body"):
            server.script(kind(when, after_chunks=3, reply="a b c d e"))
            with connected(server) as sock:
                sock.sendall(raw_request(wire, stream=True))
                data = b""
                with contextlib.suppress(ConnectionResetError):
                    while piece := sock.recv(65536):
                        data += piece
            head, chunks = data.split(b"\r\n\r\n", 1)
            assert head.startswith(b"HTTP/1.1 200 OK")
            text = unchunked(chunks).replace("\r\n", "\n")
            *_, rest = text.split("\n\n")
            assert streamed_text(wire, events(text)) == "a b c "
            assert bool(rest) == (when == "body")

    def test_endless_headers(self, server: Loopback, wire: str) -> None:
        """Headers come one after another and never end; the client leaves."""
        server.script(faults.EndlessHeaders(0.01))
        with connected(server) as sock:
            sock.sendall(raw_request(wire))
            data = b""
            while data.count(b"x-padding") < 5:
                data += sock.recv(1000)
        assert data.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\n\r\n" not in data
        assert sum(server.bill.values()) == 0

    def test_drip(self, server: Loopback, wire: str, stream: bool) -> None:
        """The right reply comes byte by byte."""
        server.script(faults.Drip(0.0, reply="drop"))
        assert text_of(wire, ask(server, wire, stream=stream)) == "drop"
        server.script(faults.Drip(0.25))
        with connected(server) as sock:
            sock.sendall(raw_request(wire, stream=stream))
            assert sock.recv(100_000).endswith(b"\r\n\r\n")
            begin = time.monotonic()
            assert [len(sock.recv(100)) for _ in range(2)] == [1, 1]
            assert time.monotonic() - begin > 0.2

    def test_stall(self, server: Loopback, wire: str, stream: bool) -> None:
        """Nothing comes at all (not charged), or the first part of a reply and then nothing (charged)."""
        server.script(faults.Stall())
        with pytest.raises(httpx.ReadTimeout):
            ask(server, wire, stream=stream, timeout=0.1)
        assert sum(server.bill.values()) == 0
        server.script(faults.Stall(after_chunks=2, reply="a b c"))
        with connected(server) as sock:
            sock.sendall(raw_request(wire, stream=stream))
            assert sock.recv(65536).startswith(b"HTTP/1.1 200 OK")
            sock.settimeout(0.1)
            with pytest.raises(TimeoutError):
                received(sock)
            assert server.journal[-1].ended is None
        assert server.bill["completion_tokens"] == 2

    def test_slow_start(self, server: Loopback, wire: str, stream: bool) -> None:
        """The right reply comes late: all of it, or all but its headers."""
        server.script(faults.SlowStart(0.3, reply="late"))
        server.script(faults.SlowStart(0.3, headers_first=True, reply="late"))
        for headers_late in (True, False):
            begin = time.monotonic()
            with connected(server) as sock:
                sock.sendall(raw_request(wire, extra="connection: close\r\n", stream=stream))
                data = sock.recv(65536)
                assert (time.monotonic() - begin >= 0.3) == headers_late
                data += received(sock)
                assert time.monotonic() - begin >= 0.3
            assert b"late" in data

    def test_drip_events(self, server: Loopback, wire: str) -> None:
        """A stream's pieces come for ever; a whole reply's body is blank lines for ever."""
        server.script(faults.DripEvents(0.005, reply="a b c"), faults.DripEvents(0.005))
        with connected(server) as sock:
            sock.sendall(raw_request(wire, stream=True))
            data = b""
            while data.count(b'"b "') < 10:
                data += sock.recv(65536)
        assert b"finish_reason" not in data.replace(b'"finish_reason":null', b"")
        assert b"finishReason" not in data
        with connected(server) as sock:
            sock.sendall(raw_request(wire))
            data = b""
            while data.count(b"1\r\n\n\r\n") < 10:
                data += sock.recv(65536)
        assert b"{" not in data

    def test_comments(self, server: Loopback, wire: str, stream: bool) -> None:
        """Signs of life come before the right reply, which parses all the same; or for ever."""
        server.script(faults.Comments(0.01, count=3, reply="alive"), faults.Comments(0.005))
        response = ask(server, wire, stream=stream)
        assert response.text.startswith(": keep-alive\n\n" * 3 if stream else "\n\n\n")
        assert text_of(wire, response) == "alive"
        with pytest.raises(httpx.ReadTimeout), connected(server) as sock:  # noqa: PT012
            sock.sendall(raw_request(wire, stream=stream))
            data = b""
            while data.count(b"keep-alive" if stream else b"1\r\n\n\r\n") < 10:
                data += sock.recv(65536)
            raise httpx.ReadTimeout("left")

    @pytest.mark.parametrize("done", [False, True])
    def test_truncated_stream(self, server: Loopback, wire: str, done: bool) -> None:
        """The stream ends as HTTP has it after the pieces, without a finish reason."""
        server.script(faults.TruncatedStream(2, done=done, reply="a b c d"))
        response = ask(server, wire, stream=True)
        sse = events(response.text)
        assert streamed_text(wire, [e for e in sse if e != "[DONE]"]) == "a b "
        assert "message_delta" not in response.text
        assert '"finish_reason":"' not in response.text
        assert "finishReason" not in response.text
        has_mark = ("[DONE]" in response.text) or ("message_stop" in response.text)
        assert has_mark == (done and wire != "gemini")
        assert server.bill["completion_tokens"] == 2

    @pytest.mark.parametrize("then_continue", [False, True])
    def test_corrupt_event(self, server: Loopback, wire: str, then_continue: bool) -> None:
        """One event's data is not JSON; the rest follows or does not."""
        server.script(faults.CorruptEvent(1, then_continue=then_continue, reply="a b c"))
        sse = events(ask(server, wire, stream=True).text)
        good = [e for e in sse if isinstance(e, dict)]
        assert len([e for e in sse if isinstance(e, str) and e != "[DONE]"]) == 1
        assert streamed_text(wire, good) == ("a b c" if then_continue else "a ")
        ends = sse[-1] == "[DONE]" or good[-1].get("type") == "message_stop" or "STOP" in str(good[-1])
        assert ends == then_continue

    def test_error_event(self, server: Loopback, wire: str) -> None:
        """The service gives up in the middle, in its own words or in given ones; a whole reply is a 5xx."""
        server.script(
            faults.ErrorEvent(2, reply="a b c"),
            faults.ErrorEvent(0, message="own", type="rate_limit_error", code="x"),
            faults.ErrorEvent(),
        )
        response = ask(server, wire, stream=True)
        *good, last = events(response.text)
        assert streamed_text(wire, good) == "a b "
        kinds = {"openai": "server_error", "anthropic": "overloaded_error", "gemini": "UNAVAILABLE"}
        assert last["error"]["status" if wire == "gemini" else "type"] == kinds[wire]
        assert ("event: error\n" in response.text) == (wire == "anthropic")
        assert events(ask(server, wire, stream=True).text)[-1]["error"]["message"] == "own"
        assert ask(server, wire).status_code == {"openai": 500, "anthropic": 529, "gemini": 503}[wire]
        assert server.journal[-1].usage is None

    @pytest.mark.parametrize(
        "fault",
        [faults.MalformedBody(), faults.TruncatedStream(), faults.CorruptEvent()],
        ids=lambda fault: type(fault).__name__,
    )
    def test_malformed_whole_replies(self, server: Loopback, wire: str, fault: Fault) -> None:
        """A 200 whose JSON breaks off; the same for the faults of streams."""
        response = ask(server.script(fault), wire)
        assert response.status_code == 200
        with pytest.raises(json.JSONDecodeError):
            response.json()
        assert server.bill["completion_tokens"] > 0

    def test_a_page_instead_of_a_reply(self, server: Loopback, wire: str, stream: bool) -> None:
        """A 200 with a page of HTML."""
        response = ask(server.script(faults.MalformedBody(html=True)), wire, stream=stream)
        assert (response.status_code, response.headers["content-type"]) == (200, "text/html")
        assert response.text.startswith("<!DOCTYPE")

    def test_empty_choices(self, server: Loopback, wire: str, stream: bool) -> None:
        """A completion without any choice or content; only the prompt is charged."""
        response = ask(server.script(faults.EmptyChoices()), wire, stream=stream)
        assert response.status_code == 200
        if stream:
            assert streamed_text(wire, [e for e in events(response.text) if e != "[DONE]"]) == ""
            assert "content_block_start" not in response.text
            assert "candidates" not in response.text.replace("candidatesTokenCount", "")
        else:
            reply = response.json()
            assert reply.get("choices", reply.get("content", reply.get("candidates", []))) == []
        assert (server.bill["prompt_tokens"], server.bill["completion_tokens"]) == (2, 0)

    def test_empty_text(self, server: Loopback, wire: str, stream: bool) -> None:
        """A completion that stops at once, properly."""
        response = ask(server.script(faults.EmptyText()), wire, stream=stream)
        assert text_of(wire, response).replace("[DONE]", "") == ""
        assert any(word in response.text for word in ('"stop"', '"end_turn"', '"STOP"'))
        assert server.bill["completion_tokens"] == 0

    def test_every_fault_is_exported(self) -> None:
        """Every fault there is can be had from `faults`, and has a docstring."""

        def below(kind: type[Fault]) -> Iterator[type[Fault]]:
            for sub in kind.__subclasses__():
                if sub.__module__.startswith(Fault.__module__.rpartition(".")[0]):
                    yield sub
                    yield from below(sub)

        for kind in below(Fault):
            assert kind.__doc__
            assert kind.__name__.startswith("_") or getattr(faults, kind.__name__) is kind

    def test_a_fault_sends_the_default_reply_unless_it_has_one(self, server: Loopback) -> None:
        """The reply in a fault is its own, else the default's, even a callable's."""
        server.default = lambda entry: f"for {entry.prompt}"
        server.script(faults.Drip(0.0), faults.Drip(0.0, reply="own"))
        assert text_of("openai", ask(server)) == "for hello"
        assert text_of("openai", ask(server)) == "own"


def changed_fields(value: Any) -> str:
    """The test's name: the fields that it changes."""
    return ",".join(value) if isinstance(value, dict) else ""


def system(text: str) -> list[dict[str, str]]:
    """A conversation with a system message."""
    return [{"role": "system", "content": text}, {"role": "user", "content": "x"}]


CALLING = {"role": "assistant", "content": None, "tool_calls": [
    {"id": "c1", "type": "function", "function": {"name": "search", "arguments": "{}"}}]}  # fmt: skip
ANSWER = {"role": "tool", "tool_call_id": "c1", "content": "ok"}
USER = {"role": "user", "content": "x"}
USING = {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "search", "input": {}}]}
RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "ok"}]}
MARK = {"cache_control": {"type": "ephemeral"}}
GEMINI_CALL = {"role": "model", "parts": [{"functionCall": {"name": "search", "args": {"q": "x"}}}]}
GEMINI_ANSWER = {
    "role": "user",
    "parts": [{"functionResponse": {"name": "search", "response": {"content": "ok"}}}],
}
GEMINI_USER = {"role": "user", "parts": [{"text": "x"}]}
GEMINI_TURNS = [GEMINI_USER, GEMINI_CALL, GEMINI_ANSWER]


class TestOpenAIStrictness:
    """What OpenAI refuses and takes."""

    @pytest.mark.parametrize(
        "fields, words",
        [
            ({"max_new_tokens": 5}, "Unrecognized request argument supplied: max_new_tokens"),
            ({"model": ...}, "you must provide a model parameter"),
            ({"messages": ...}, "Missing required parameter: 'messages'"),
            ({"messages": []}, "empty_array"),
            ({"messages": "hello"}, "Invalid type for 'messages'"),
            ({"messages": ["hello"]}, "Invalid type for 'messages[0]'"),
            ({"messages": [{"role": "robot", "content": "x"}]}, "Invalid value: 'robot'"),
            ({"messages": [{"role": "user", "content": None}]}, "expected a string, got null"),
            ({"messages": [{"role": "user", "content": 5}]}, "Invalid type for 'messages[0].content'"),
            ({"messages": [{"role": "user", "content": []}]}, "empty_array"),
            ({"messages": [{**USER, **MARK}]}, "Unknown parameter: 'messages[0].cache_control'"),
            (
                {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", **MARK}]}]},
                "Unknown parameter: 'messages[0].content[0].cache_control'",
            ),
            (
                {"messages": [{"role": "user", "content": [{"type": "tool_use"}]}]},
                "Invalid value: 'tool_use'",
            ),
            ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "content[0].text"),
            ({"messages": [USER, ANSWER]}, "must be a response to a preceeding message"),
            ({"messages": [USER, CALLING]}, "did not have response messages: c1"),
            ({"messages": [USER, CALLING, USER, ANSWER]}, "did not have response messages: c1"),
            ({"messages": [USER, CALLING, {"role": "tool", "content": "x"}]}, "tool_call_id"),
            (
                {"messages": [USER, {"role": "assistant", "tool_calls": [{"type": "function"}]}]},
                "tool_calls[0].id",
            ),
            ({"temperature": 3}, "decimal_above_max_value"),
            ({"temperature": -1}, "decimal_below_min_value"),
            ({"temperature": "hot"}, "Invalid type for 'temperature'"),
            ({"n": 0}, "integer_below_min_value"),
            ({"n": True}, "Invalid type for 'n': expected an integer, but got a boolean instead"),
            ({"stop": ["a", "b", "c", "d", "e"]}, "array_above_max_length"),
            ({"stop": [1]}, "Invalid type for 'stop'"),
            ({"stream_options": {"include_usage": True}}, "only allowed when 'stream' is enabled"),
            ({"max_tokens": 5, "max_completion_tokens": 5}, "at the same time"),
            ({"max_tokens": 9000}, "max_tokens is too large: 9000"),
            ({"reasoning_effort": "low"}, "Unrecognized request argument supplied: reasoning_effort"),
            ({"model": "o3", "reasoning_effort": 0.5}, "Invalid type for 'reasoning_effort'"),
            ({"model": "o3", "reasoning_effort": "some"}, "Invalid value: 'some'"),
            ({"model": "o3", "temperature": 0.5}, "unsupported_value"),
            ({"model": "o3", "stop": "x"}, "Unsupported parameter: 'stop'"),
            ({"model": "o1", "max_tokens": 5}, "Use 'max_completion_tokens' instead"),
            ({"model": "gpt-5-mini", "top_p": 0.5}, "Unsupported parameter: 'top_p'"),
            ({"model": "o1-mini", "messages": system("x")}, "does not support 'system'"),
            ({"model": "o1-preview", "tools": [OPENAI_TOOL]}, "Unsupported parameter: 'tools'"),
            ({"model": "deepseek-chat", "n": 2}, "currently only n = 1 is supported"),
            ({"tool_choice": "auto"}, "only allowed when 'tools' are specified"),
            ({"tools": []}, "empty_array"),
            ({"tools": [{"name": "search"}]}, "Supported values are: 'function'"),
            ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
            ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "does not match pattern"),
            ({"tools": [{**OPENAI_TOOL, **MARK}]}, "Unknown parameter: 'tools[0].cache_control'"),
            (
                {
                    "tools": [
                        {"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}
                    ]
                },
                "invalid_function_parameters",
            ),
            ({"tools": [OPENAI_TOOL], "tool_choice": "maybe"}, "Invalid value: 'maybe'"),
            (
                {"tools": [OPENAI_TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
                "Tool choice 'g' not found",
            ),
            ({"response_format": {"type": "xml"}}, "response_format.type"),
            ({"response_format": {"type": "json_object"}}, "must contain the word 'json'"),
        ],
        ids=changed_fields,
    )
    def test_what_the_service_refuses_is_refused(
        self, server: Loopback, fields: dict[str, Any], words: str
    ) -> None:
        """A 400 in the service's words, nothing charged."""
        response = ask(server, **fields)
        assert response.status_code == 400, response.text
        assert words in response.text.replace('\\"', '"')
        assert response.json()["error"]["type"] == "invalid_request_error"
        assert sum(server.bill.values()) == 0

    @pytest.mark.parametrize(
        "fields",
        [
            {"temperature": 0.5, "top_p": 0.5, "stop": ["a"], "seed": 1, "user": "u", "metadata": {}},
            {"logprobs": True, "top_logprobs": 2, "service_tier": "auto", "n": 2, "temperature": None},
            {"tools": [OPENAI_TOOL], "tool_choice": "auto", "parallel_tool_calls": False},
            {"messages": [USER, CALLING, ANSWER, USER], "tools": [OPENAI_TOOL]},
            {"messages": [{"role": "developer", "content": [{"type": "text", "text": "x"}]}, USER]},
            {"model": "o3", "reasoning_effort": "high", "temperature": 1, "max_completion_tokens": 5},
            {"model": "o1", "stop": ["x"]},
            {"model": "llama-3", "reasoning_effort": "low", "max_tokens": 100_000},
            {"model": "deepseek-chat", "thinking": {"type": "enabled"}, "stop": list("abcdef")},
            {
                "model": "deepseek-chat",
                "messages": [USER, {**USER, "role": "assistant", "reasoning_content": "r"}],
            },
            {"response_format": {"type": "json_object"}, "messages": system("answer in JSON")},
        ],
        ids=",".join,
    )
    def test_what_the_service_takes_is_taken(self, server: Loopback, fields: dict[str, Any]) -> None:
        """Known fields, in every combination that the service knows, are accepted."""
        response = ask(server, **fields)
        assert response.status_code == 200, response.text

    def test_a_lenient_server_takes_unknown_fields(self) -> None:
        """`lenient=True` takes fields of its own, as vLLM does."""
        with Loopback(lenient=True) as server:
            assert (
                ask(server, chat_template_kwargs={"a": 1}, messages=[{**USER, "own": 1}]).status_code == 200
            )
            assert ask(server, "anthropic", own=1).status_code == 200
            assert ask(server, temperature=3).status_code == 400


class TestAnthropicStrictness:
    """What Anthropic refuses and takes."""

    @pytest.mark.parametrize(
        "fields, words",
        [
            ({"n": 2}, "n: Extra inputs are not permitted"),
            ({"max_tokens": ...}, "max_tokens: Field required"),
            ({"model": ...}, "model: Field required"),
            ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
            ({"max_tokens": "5"}, "max_tokens: Input should be a valid integer"),
            ({"temperature": 1.5}, "temperature: Input should be less than or equal to 1"),
            ({"stop_sequences": [" "]}, "each stop sequence must contain non-whitespace"),
            ({"messages": []}, "at least one message is required"),
            ({"messages": ["x"]}, "messages.0: Input should be a valid dictionary"),
            ({"messages": system("x")}, 'Unexpected role "system"'),
            ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
            ({"messages": [{"role": "assistant", "content": "x"}]}, 'must use the "user" role'),
            ({"messages": [{"role": "user"}]}, "messages.0.content: Field required"),
            (
                {"messages": [{"role": "user", "content": 5}]},
                "messages.0.content: Input should be a valid list",
            ),
            ({"messages": [{"role": "user", "content": ""}]}, "must have non-empty content"),
            ({"messages": [{"role": "user", "content": " "}]}, "must contain non-whitespace text"),
            ({"messages": [{**USER, "name": "n"}]}, "messages.0.name: Extra inputs are not permitted"),
            (
                {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]},
                "messages: text content blocks must be non-empty",
            ),
            (
                {"messages": [{"role": "user", "content": [{"type": "text", "text": "\n"}]}]},
                "must contain non-whitespace text",
            ),
            (
                {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
                "Input should be a valid string",
            ),
            ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "Input tag 'image_url'"),
            (
                {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "own": 1}]}]},
                "messages.0.content.0.text.own: Extra inputs are not permitted",
            ),
            (
                {
                    "messages": [
                        {"role": "user", "content": [{"type": "text", "text": "x", "cache_control": 1}]}
                    ]
                },
                "cache_control",
            ),
            (
                {"messages": [USER, {"role": "assistant", "content": "so "}]},
                "cannot end with trailing whitespace",
            ),
            ({"system": [{"type": "text", "text": ""}]}, "system: text content blocks must be non-empty"),
            ({"system": [{"type": "image"}]}, "expected tags: 'text'"),
            ({"messages": [USER, USING, USER], "tools": [ANTHROPIC_TOOL]}, "without `tool_result` blocks"),
            ({"messages": [USER, USING], "tools": [ANTHROPIC_TOOL]}, "without `tool_result` blocks"),
            ({"messages": [RESULT], "tools": [ANTHROPIC_TOOL]}, "unexpected `tool_use_id`"),
            ({"messages": [USER, USING, RESULT]}, "must define tools"),
            ({"tools": ["x"]}, "tools.0: Input should be a valid dictionary"),
            ({"tools": [{"input_schema": {}}]}, "tools.0.custom.name: Field required"),
            ({"tools": [{"name": "a b", "input_schema": {"type": "object"}}]}, "should match pattern"),
            ({"tools": [{"name": "f"}]}, "tools.0.custom.input_schema: Field required"),
            ({"tools": [{"name": "f", "input_schema": {}}]}, "input_schema.type: Field required"),
            ({"tools": [{"name": "f", "input_schema": {"type": "string"}}]}, "Input should be 'object'"),
            ({"tools": [{**ANTHROPIC_TOOL, "function": {}}]}, "function: Extra inputs are not permitted"),
            ({"tools": [ANTHROPIC_TOOL, ANTHROPIC_TOOL]}, "Tool names must be unique"),
            ({"tool_choice": {"type": "auto"}}, "while providing `tools`"),
            ({"tools": [ANTHROPIC_TOOL], "tool_choice": {"type": "function"}}, "tool_choice: Input tag"),
            ({"tools": [ANTHROPIC_TOOL], "tool_choice": {"type": "tool", "name": "g"}}, "Tool 'g' not found"),
            ({"thinking": {"type": "on"}}, "thinking: Input tag 'on'"),
            ({"thinking": {"type": "enabled"}}, "budget_tokens: Field required"),
            ({"thinking": {"type": "enabled", "budget_tokens": "1"}}, "should be a valid integer"),
            ({"thinking": {"type": "enabled", "budget_tokens": 500}}, "greater than or equal to 1024"),
            (
                {"thinking": {"type": "enabled", "budget_tokens": 2000}, "max_tokens": 2000},
                "must be greater than",
            ),
            (
                {
                    "thinking": {"type": "enabled", "budget_tokens": 1024},
                    "max_tokens": 2000,
                    "temperature": 0.5,
                },
                "may only be set to 1 when thinking is enabled",
            ),
            ({"thinking": {"type": "adaptive"}, "top_p": 0.5}, "0.95"),
            ({"thinking": {"type": "adaptive"}, "top_k": 5}, "`top_k` must be unset"),
            (
                {"thinking": {"type": "adaptive"}, "tools": [ANTHROPIC_TOOL], "tool_choice": {"type": "any"}},
                "forces tool use",
            ),
            (
                {"model": "claude-3-haiku-20240307", "thinking": {"type": "adaptive"}},
                "does not support thinking",
            ),
            ({"model": "claude-3-opus-20240229", "max_tokens": 5000}, "5000 > 4096"),
            ({"model": "claude-sonnet-4-5", "temperature": 0.5, "top_p": 0.5}, "cannot both be specified"),
            ({"model": "claude-opus-4-8", "temperature": 0.5}, "`temperature` is deprecated"),
            (
                {"model": "claude-opus-4-8", "thinking": {"type": "enabled", "budget_tokens": 1024}},
                "thinking.type.adaptive",
            ),
            (
                {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", **MARK}] * 5}]},
                "A maximum of 4 blocks with cache_control may be provided. Found 5.",
            ),
        ],
        ids=changed_fields,
    )
    def test_what_the_service_refuses_is_refused(
        self, server: Loopback, fields: dict[str, Any], words: str
    ) -> None:
        """A 400 in the service's words, nothing charged."""
        response = ask(server, "anthropic", **fields)
        assert response.status_code == 400, response.text
        assert words in response.json()["error"]["message"]
        assert response.json()["error"]["type"] == "invalid_request_error"
        assert sum(server.bill.values()) == 0

    @pytest.mark.parametrize(
        "fields",
        [
            {
                "temperature": 0.5,
                "top_p": 0.5,
                "top_k": 5,
                "stop_sequences": ["x"],
                "system": "s",
                "metadata": {},
            },
            {
                "messages": [USER, USING, RESULT, {"role": "assistant", "content": "so"}],
                "tools": [ANTHROPIC_TOOL],
            },
            {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2000, "temperature": 1},
            {
                "tools": [ANTHROPIC_TOOL],
                "tool_choice": {"type": "tool", "name": "search"},
                "output_config": {},
            },
            {"tools": [{"type": "bash_20250124", "name": "bash"}], "messages": [USER, USER]},
            {"messages": [{"role": "user", "content": [{"type": "container_upload", "file_id": "x"}]}]},
            {"model": "claude-opus-4-8", "temperature": 1, "thinking": {"type": "adaptive"}},
            {"model": "vendor/own-model", "temperature": 0.5, "top_p": 0.5},
        ],
        ids=",".join,
    )
    def test_what_the_service_takes_is_taken(self, server: Loopback, fields: dict[str, Any]) -> None:
        """Known fields, in every combination that the service knows, are accepted."""
        response = ask(server, "anthropic", **fields)
        assert response.status_code == 200, response.text


def gemini_config(**fields: Any) -> dict[str, Any]:
    """A request with this `generationConfig`."""
    return {"generationConfig": fields}


def gemini_tool(**fields: Any) -> dict[str, Any]:
    """A request with one function, changed by the fields."""
    return {"tools": [{"functionDeclarations": [{"name": "f", **fields}]}]}


class TestGeminiStrictness:
    """What Gemini refuses and takes."""

    @pytest.mark.parametrize(
        "fields, words",
        [
            ({"temperature": 1}, 'Unknown name "temperature": Cannot find field.'),
            ({"contents": ...}, "contents is not specified"),
            ({"contents": []}, "contents is not specified"),
            ({"contents": ["x"]}, "Invalid value at 'contents[0]' (type.googleapis.com/google.ai."),
            ({"contents": [{"role": "user"}]}, "contents[0].parts: contents.parts must not be empty."),
            (
                {"contents": [{"parts": [{"thought": True}]}]},
                "contents[0].parts[0].data: required oneof field 'data' must have one initialized field",
            ),
            ({"contents": [{"role": "system", "parts": [{"text": "x"}]}]}, "use a valid role: user, model."),
            (
                {"contents": [{"role": "assistant", "parts": [{"text": "x"}]}]},
                "use a valid role: user, model.",
            ),
            (
                {"contents": [{**GEMINI_USER, "name": "n"}]},
                "Unknown name \"name\" at 'contents[0]': Cannot find",
            ),
            (
                {"contents": [{"parts": [{"text": 5}]}]},
                "Invalid value at 'contents[0].parts[0].text' (TYPE_STRING), 5",
            ),
            ({"contents": [{"parts": [{"text": {}}]}]}, "Starting an object on a scalar field"),
            (
                {"contents": [{"parts": [{"text": ["x"]}]}]},
                "Proto field is not repeating, cannot start list.",
            ),
            ({"contents": [GEMINI_USER, GEMINI_CALL]}, "number of function response parts is equal"),
            ({"contents": [GEMINI_USER, GEMINI_CALL, GEMINI_USER]}, "number of function response parts"),
            ({"contents": [GEMINI_ANSWER]}, "number of function response parts is equal"),
            ({"contents": [GEMINI_CALL, GEMINI_ANSWER]}, "function call turn comes immediately after a user"),
            ({"systemInstruction": {"parts": []}}, "system_instruction.parts: contents.parts must not be"),
            (gemini_tool(name="a b"), "Invalid function name"),
            (gemini_tool(strict=True), "Unknown name \"strict\" at 'tools[0].function_declarations[0]'"),
            (
                gemini_tool(parameters={"type": "object", "properties": {"a": {"const": 1}}}),
                "\"const\" at 'tools[0].function_declarations[0].parameters.properties[0].value'",
            ),
            (gemini_tool(parameters={"type": "thing"}), 'v1beta.Type), "thing"'),
            (
                gemini_tool(parameters={"type": "OBJECT", "required": ["a"]}),
                "parameters.required[0]: property is not defined",
            ),
            (
                gemini_tool(parameters={"type": "STRING", "properties": {}}),
                "properties: only allowed for OBJECT",
            ),
            (
                gemini_tool(parameters={"type": "OBJECT", "properties": {"a": {"type": "ARRAY"}}}),
                "parameters.properties[a].items: missing field.",
            ),
            ({"tools": [GEMINI_TOOL, GEMINI_TOOL]}, "Duplicate function declaration found: search"),
            (
                {
                    "tools": [GEMINI_TOOL],
                    "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["g"]}},
                },
                "Allowed function name g is not found",
            ),
            (
                {
                    "tools": [GEMINI_TOOL],
                    "toolConfig": {"functionCallingConfig": {"allowedFunctionNames": ["search"]}},
                },
                "should only be set when",
            ),
            ({"toolConfig": {"functionCallingConfig": {"mode": "required"}}}, "FunctionCallingConfig.Mode"),
            ({"safetySettings": [{"category": "RUDE"}]}, "Invalid value at 'safety_settings[0].category'"),
            (gemini_config(stop=["x"]), "Unknown name \"stop\" at 'generation_config': Cannot find field."),
            (gemini_config(temperature=2.5), "temperature must be in the range [0, 2]"),
            (gemini_config(topP=1.5), "top_p must be in the range [0, 1]"),
            (gemini_config(candidateCount=9), "candidate_count must be in the range [1, 8]"),
            (gemini_config(maxOutputTokens=0), "max_output_tokens must be positive"),
            (gemini_config(maxOutputTokens="x"), '(TYPE_INT32), "x"'),
            (gemini_config(maxOutputTokens=1.5), "(TYPE_INT32), 1.5"),
            (gemini_config(stopSequences=list("abcdef")), "the number of stop_sequences must not exceed 5"),
            (gemini_config(responseMimeType="text/html"), "allowed mimetypes are `text/plain`"),
            (gemini_config(responseSchema={"type": "OBJECT"}), "only allowed when response_mime_type is"),
            (
                {"tools": [GEMINI_TOOL], **gemini_config(responseMimeType="application/json")},
                "Function calling with a response mime type: 'application/json' is unsupported",
            ),
            (gemini_config(thinkingConfig={"thinkingLevel": "low"}), "Thinking level is not supported"),
            (
                gemini_config(thinkingConfig={"thinkingBudget": 50_000}),
                "The thinking budget 50000 is invalid",
            ),
            (
                {"model": "gemini-2.5-pro", **gemini_config(thinkingConfig={"thinkingBudget": 0})},
                "Budget 0 is invalid.",
            ),
            (
                {"model": "gemini-2.0-flash", **gemini_config(thinkingConfig={"includeThoughts": True})},
                "Thinking is not supported",
            ),
            (
                {
                    "model": "gemini-3-pro",
                    **gemini_config(thinkingConfig={"thinkingBudget": 1, "thinkingLevel": "LOW"}),
                },
                "only one of thinking budget and thinking level",
            ),
            (
                {"model": "gemini-3-pro", "contents": GEMINI_TURNS},
                "Function call is missing a thought_signature",
            ),
            (
                {
                    "model": "gemini-3.6-flash",
                    "contents": [{"role": "function", "parts": [{"text": "x"}]}],
                },
                "Role 'function' is not supported",
            ),
        ],
        ids=changed_fields,
    )
    def test_what_the_service_refuses_is_refused(
        self, server: Loopback, fields: dict[str, Any], words: str
    ) -> None:
        """A 400 in the service's words, nothing charged."""
        response = ask(server, "gemini", **fields)
        assert response.status_code == 400, response.text
        error = response.json()["error"]
        assert words in error["message"]
        assert (error["code"], error["status"]) == (400, "INVALID_ARGUMENT")
        assert sum(server.bill.values()) == 0

    @pytest.mark.parametrize(
        "fields",
        [
            {"contents": {"parts": {"text": "one for a list of one"}}, "systemInstruction": None},
            {"system_instruction": {"parts": [{"text": "s"}]}, "cached_content": "cachedContents/x"},
            {
                "contents": [
                    {"role": "user", "parts": [{"inlineData": {"mimeType": "image/png", "data": "aGk="}}]}
                ]
            },
            {"contents": GEMINI_TURNS, "tools": [GEMINI_TOOL]},
            {"contents": [*GEMINI_TURNS, GEMINI_USER, {"role": "model", "parts": [{"text": "so"}]}]},
            {"contents": [GEMINI_USER, GEMINI_CALL, {**GEMINI_ANSWER, "role": "function"}]},
            {"model": "gemini-3-pro", "contents": [*GEMINI_TURNS, GEMINI_USER]},  # an earlier turn's call
            gemini_config(temperature=0.5, topP=0.9, topK=40, seed=3, maxOutputTokens="100"),
            gemini_config(stop_sequences=["a", "b", "c", "d", "e"], candidate_count=2, max_output_tokens=5),
            gemini_config(responseMimeType="application/json", responseSchema={"type": "object"}),
            gemini_config(responseMimeType="application/json", responseJsonSchema={"$ref": "#/own"}),
            gemini_config(thinkingConfig={"thinkingBudget": -1, "includeThoughts": True}),
            {"model": "gemini-3-pro", **gemini_config(thinkingConfig={"thinkingLevel": "high"})},
            {
                "model": "gemini-3-pro",
                "tools": [GEMINI_TOOL],
                **gemini_config(responseMimeType="application/json"),
            },
            {
                "tools": [{"googleSearch": {}}, GEMINI_TOOL],
                "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["search"]}},
            },
            {"safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}]},
            gemini_tool(parametersJsonSchema={"type": "object", "additionalProperties": False}),
        ],
        ids=",".join,
    )
    def test_what_the_service_takes_is_taken(self, server: Loopback, fields: dict[str, Any]) -> None:
        """Known fields in both spellings, in every combination that the service knows, are accepted."""
        response = ask(server, "gemini", **fields)
        assert response.status_code == 200, response.text

    def test_all_that_is_wrong_is_told_at_once(self, server: Loopback) -> None:
        """Each unknown field has a line in the message, and a violation in the details."""
        error = ask(server, "gemini", own=1, **gemini_config(stop=["x"])).json()["error"]
        assert error["message"].count("\n") == 1
        assert [v.get("field") for v in error["details"][0]["fieldViolations"]] == [None, "generation_config"]

    def test_a_lenient_server_takes_unknown_fields(self) -> None:
        """With `lenient` unknown fields are overlooked, wrong values are not."""
        with Loopback(lenient=True) as server:
            assert ask(server, "gemini", own=1).status_code == 200
            assert ask(server, "gemini", own=1, **gemini_config(temperature="x")).status_code == 400

    def test_a_stream_is_of_events(self, server: Loopback) -> None:
        """The service's streamed JSON array, without `alt=sse`, is not played."""
        url = f"{server.gemini_url}/models/gemini-2.5-flash:streamGenerateContent"
        response = httpx.post(url, headers=HEADERS["gemini"], json=body("gemini"), trust_env=False)
        assert (response.status_code, "alt=sse" in response.text) == (400, True)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a JSON value with each of its keys."""
    for key, inner in list(value.items()) if isinstance(value, dict) else list(enumerate(value)):
        yield value, key
        if isinstance(inner, dict | list):
            yield from places(inner)


class TestAllStrict:
    """What is refused in every format."""

    def test_a_key_is_needed(self, server: Loopback, wire: str) -> None:
        """Without a key: 401, from Gemini 403. With `api_key=` any other key: 401, from Gemini 400."""
        url = server.anthropic_url + PATHS[wire]
        refusals = (403, 400) if wire == "gemini" else (401, 401)
        assert httpx.post(url, json=body(wire), trust_env=False).status_code == refusals[0]
        with Loopback(api_key="sk-right") as guarded:
            assert ask(guarded, wire).status_code == refusals[1]
            right = {"x-api-key": "sk-right", "x-goog-api-key": "sk-right"}
            headers = {**HEADERS[wire], "authorization": "Bearer sk-right", **right}
            url = guarded.anthropic_url + PATHS[wire]
            assert httpx.post(url, headers=headers, json=body(wire), trust_env=False).status_code == 200

    def test_anthropic_needs_a_version(self, server: Loopback) -> None:
        """Anthropic refuses a request without its version header."""
        url = f"{server.anthropic_url}/v1/messages"
        response = httpx.post(url, headers={"x-api-key": KEY}, json=body("anthropic"), trust_env=False)
        assert (response.status_code, "anthropic-version" in response.text) == (400, True)

    @pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b"[" * 100_000], ids=range(5))
    def test_a_body_that_is_not_a_json_object_is_refused(
        self, server: Loopback, wire: str, data: bytes
    ) -> None:
        """Anything but a JSON object is a 400."""
        url = server.anthropic_url + PATHS[wire]
        response = httpx.post(url, headers=HEADERS[wire], content=data, trust_env=False)
        assert response.status_code == 400
        assert "JSON" in response.text

    @settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data(), wire=st.sampled_from(WIRES))
    def test_no_body_breaks_the_server(self, server: Loopback, data: st.DataObject, wire: str) -> None:
        """Whatever JSON stands in whatever place of a request: a reply or a 400, never a failure of ours."""
        turns: dict[str, dict[str, Any]] = {
            "openai": {"messages": [USER, CALLING, ANSWER], "tool_choice": "auto", "stop": ["x"]},
            "anthropic": {
                "messages": [USER, USING, RESULT],
                "tool_choice": {"type": "auto"},
                "stop_sequences": ["x"],
            },
            "gemini": {
                "contents": GEMINI_TURNS,
                "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["search"]}},
                "generationConfig": {"stopSequences": ["x"], "thinkingConfig": {"thinkingBudget": 1024}},
                "systemInstruction": {"parts": [{"text": "s"}]},
            },
        }
        request = json.loads(json.dumps({**body(wire), **turns[wire], "tools": TOOLS[wire]}))
        request["stream"] = True
        junk: st.SearchStrategy[Any] = st.sampled_from(
            [None, True, 5, 0.5, "", "x", [], {}, ["x"], [[]], [5], {"type": "x"}, {"type": []}]
        )
        spots = list(places(request))
        holder, key = data.draw(st.sampled_from(spots))
        holder[key] = data.draw(junk)
        assert ask(server, wire, **request).status_code in (200, 400)
        assert server.journal[-1].ended is not None

    def test_geminis_context_bounds_the_prompt(self) -> None:
        """`context_size` bounds the prompt alone there; the message has both numbers."""
        with Loopback(context_size=1000) as server:
            assert ask(server, "gemini", **gemini_config(maxOutputTokens=5000)).status_code == 200
            much = ask(server, "gemini", contents=[{"parts": [{"text": "x" * 4400}]}])
            assert much.status_code == 400
            assert "token count (1100) exceeds the maximum number of tokens allowed (1000)" in much.text

    @pytest.mark.parametrize("wire", ["openai", "anthropic"])
    def test_a_prompt_beyond_the_context_is_refused(self, wire: str) -> None:
        """`context_size` bounds prompt and completion together; the message has the numbers."""
        with Loopback(context_size=1000) as server:
            assert ask(server, wire, max_tokens=500).status_code == 200
            much = [{"role": "user", "content": "x" * 2400}]
            both = ask(server, wire, messages=much, max_tokens=500)
            assert both.status_code == 400
            assert "600" in both.text
            alone = ask(server, wire, messages=[{"role": "user", "content": "x" * 8000}], max_tokens=1)
            assert alone.status_code == 400
            assert ("context_length_exceeded" if wire == "openai" else "prompt is too long") in alone.text

    def test_other_paths_and_methods(self, server: Loopback, wire: str) -> None:
        """The list of models is there; other paths are 404, other methods 405, in the format's words."""
        with httpx.Client(base_url=server.anthropic_url, headers=HEADERS[wire], trust_env=False) as client:
            models = client.get("/v1/models").json()
            assert "loopback" in (
                models["models"][0]["name"] if wire == "gemini" else models["data"][0]["id"]
            )
            assert client.post("/v1/embeddings", json={}).status_code == 404
            assert client.get(PATHS[wire]).status_code == 405
            nothing = client.post("/v1/x", json={}).json()
            assert ("type" in nothing) == (wire == "anthropic")
            assert ("status" in nothing["error"]) == (wire == "gemini")
        assert len(server.journal) == 4


def prefix(tokens: int, letter: str = "z") -> str:
    """A text of so many tokens."""
    return letter * (4 * tokens)


class TestPromptCache:
    """Who writes the cache, who reads it."""

    def marked(self, text: str, then: str = "go") -> dict[str, Any]:
        """A prompt with a breakpoint after its first block."""
        blocks = [{"type": "text", "text": text, **MARK}, {"type": "text", "text": then}]
        return {"messages": [{"role": "user", "content": blocks}]}

    def usage(self, server: Loopback, **fields: Any) -> tuple[int, int, int]:
        """Tokens uncached, written and read."""
        usage = ask(server, "anthropic", **fields).json()["usage"]
        return (
            usage["input_tokens"],
            usage["cache_creation_input_tokens"],
            usage["cache_read_input_tokens"],
        )

    def test_a_marked_prefix_is_written_once_and_then_read(self, server: Loopback) -> None:
        """First written, then read, whatever follows; another prefix or model is another entry."""
        assert self.usage(server, **self.marked(prefix(2000))) == (1, 2000, 0)
        assert self.usage(server, **self.marked(prefix(2000), "other end")) == (3, 0, 2000)
        assert self.usage(server, **self.marked(prefix(2000, "y"))) == (1, 2000, 0)
        assert self.usage(server, **self.marked(prefix(2000)), model="claude-x") == (1, 2000, 0)
        assert server.bill["prompt_tokens"] == 2001 * 3 + 2003
        assert server.bill["cache_creation_token"] == 6000
        assert server.bill["cache_read_input_tokens"] == 2000

    def test_short_prefixes_are_not_cached(self, server: Loopback) -> None:
        """Under 1024 tokens nothing is written or read."""
        for _ in range(2):
            assert self.usage(server, **self.marked(prefix(1023))) == (1024, 0, 0)

    def test_a_conversation_extends_its_cache(self, server: Loopback) -> None:
        """A longer conversation reads what was written before and writes only what is new."""
        first = {"role": "user", "content": [{"type": "text", "text": prefix(1500), **MARK}]}
        unmarked = {"role": "user", "content": [{"type": "text", "text": prefix(1500)}]}
        answer = {"role": "assistant", "content": prefix(100, "a")}
        last = {"role": "user", "content": [{"type": "text", "text": prefix(200, "b"), **MARK}]}
        assert self.usage(server, messages=[first]) == (0, 1500, 0)
        assert self.usage(server, messages=[unmarked, answer, last]) == (0, 300, 1500)

    def test_tools_and_system_come_before_messages(self, server: Loopback) -> None:
        """A breakpoint in the system prompt covers the tools, and leaves the messages out."""
        tools = [{**ANTHROPIC_TOOL, "description": prefix(900)}]
        fields = {"tools": tools, "system": [{"type": "text", "text": prefix(500), **MARK}]}
        uncached, written, read = self.usage(server, **fields)
        assert (uncached, read) == (2, 0)
        assert written > 1400
        assert self.usage(server, **fields) == (2, 0, written)
        changed = {**fields, "tools": [{**ANTHROPIC_TOOL, "description": prefix(900, "y")}]}
        assert self.usage(server, **changed) == (2, written, 0)

    def test_a_breakpoint_on_the_request_marks_its_end(self, server: Loopback) -> None:
        """`cache_control` on the request itself caches all of it."""
        fields = {"messages": [{"role": "user", "content": prefix(1100)}], **MARK}
        assert self.usage(server, **fields) == (0, 1100, 0)
        assert self.usage(server, **fields) == (0, 0, 1100)

    @pytest.mark.parametrize("stream", [False, True])
    async def test_an_entry_is_readable_when_the_first_reply_starts(
        self, server: Loopback, stream: bool
    ) -> None:
        """Concurrent first requests each write; one sent after the first has started reads."""
        server.default = Reply("a b c", delay=0.1, chunk_delay=0.2)
        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:

            def go() -> asyncio.Task[httpx.Response]:
                fields = body("anthropic", stream=stream, **self.marked(prefix(2000)))
                url = f"{server.anthropic_url}/v1/messages"
                return asyncio.create_task(client.post(url, headers=HEADERS["anthropic"], json=fields))

            together = [go(), go(), go()]
            await asyncio.to_thread(server.wait_for, lambda j: len(j) == 3 and all(e.started for e in j))
            together.append(go())
            await asyncio.gather(*together)
        used = [e.usage for e in server.journal]
        assert [u.cache_creation_token for u in used if u] == [2000, 2000, 2000, 0]
        assert [u.cache_read_input_tokens for u in used if u] == [0, 0, 0, 2000]

    def test_a_failed_request_writes_nothing(self, server: Loopback) -> None:
        """What never started is not in the cache."""
        server.script(faults.Status(500))
        ask(server, "anthropic", **self.marked(prefix(2000)))
        assert self.usage(server, **self.marked(prefix(2000))) == (1, 2000, 0)

    def test_gemini_caches_by_itself(self, server: Loopback) -> None:
        """The same prefix is read from the second request on, and told as cached content."""
        contents = [{"role": "user", "parts": [{"text": prefix(1100)}]}]
        first = ask(server, "gemini", contents=contents).json()["usageMetadata"]
        second = ask(server, "gemini", contents=contents).json()["usageMetadata"]
        assert "cachedContentTokenCount" not in first
        assert (second["promptTokenCount"], second["cachedContentTokenCount"]) == (1100, 1024)

    def test_openai_caches_by_itself_in_steps(self, server: Loopback) -> None:
        """From 1024 tokens on, in steps of 128, the longest known prefix is read; nothing is marked."""

        def cached(*texts: str) -> int:
            messages = [{"role": "user", "content": text} for text in texts]
            details = ask(server, messages=messages).json()["usage"]["prompt_tokens_details"]
            return int(details["cached_tokens"])

        assert cached(prefix(1023)) == cached(prefix(1023)) == 0
        assert cached(prefix(1400), "one") == 0
        assert cached(prefix(1400), "two") == 1024 + 2 * 128
        assert cached(prefix(1100)) == 1024
        assert cached(prefix(1400, "y")) == 0
        assert server.bill["cache_creation_token"] == 0


class TestHTTP:
    """HTTP itself."""

    def test_a_waiting_client_is_told_to_continue(self, server: Loopback) -> None:
        """`Expect: 100-continue` gets its interim answer, then the reply."""
        request = raw_request(extra="expect: 100-continue\r\nconnection: close\r\n")
        head, data = request.split(b"\r\n\r\n", 1)
        with connected(server) as sock:
            sock.sendall(head + b"\r\n\r\n")
            assert sock.recv(1000).startswith(b"HTTP/1.1 100 ")
            sock.sendall(data)
            assert received(sock).startswith(b"HTTP/1.1 200 ")

    def test_pipelined_requests_are_answered_in_turn(self, server: Loopback) -> None:
        """Requests sent without waiting are answered one after the other."""
        server.script(Reply("first", delay=0.05), "second", "third")
        with connected(server) as sock:
            sock.sendall(raw_request() * 2 + raw_request(extra="connection: close\r\n"))
            data = received(sock)
        assert data.index(b"first") < data.index(b"second") < data.index(b"third")

    def test_a_request_may_come_in_pieces(self, server: Loopback) -> None:
        """A request that arrives byte by byte is the same request, and is journaled when it is whole."""
        request = raw_request(extra="connection: close\r\n")
        with connected(server) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for i in range(len(request) - 1):
                sock.sendall(request[i : i + 1])
            time.sleep(0.02)
            assert server.journal == []
            sock.sendall(request[-1:])
            assert b"200 OK" in received(sock)

    def test_what_is_not_http_is_refused(self, server: Loopback) -> None:
        """Nonsense gets a 400 and a closed connection; the server lives on."""
        with connected(server) as sock:
            sock.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
            assert received(sock).startswith(b"HTTP/1.1 400 ")
        assert server.journal == []
        assert ask(server).status_code == 200

    def test_a_large_reply_to_a_slow_reader_arrives_whole(self, server: Loopback, stream: bool) -> None:
        """Megabytes wait for a client that does not read, and its times are those of the sending."""
        text = "word " * 400_000
        with connected(server.script(Reply(chunks=[text, text]))) as sock:
            sock.sendall(raw_request(extra="connection: close\r\n", stream=stream))
            (entry,) = server.wait_for(lambda journal: bool(journal and journal[0].started))
            time.sleep(0.1)
            assert entry.ended is None
            assert len(received(sock)) > 4_000_000
        server.wait_for(lambda journal: journal[0].ended is not None)

    def test_an_http_1_0_client_sees_the_connection_closed(self, server: Loopback) -> None:
        """An old client is answered, and its connection closed."""
        with connected(server) as sock:
            sock.sendall(raw_request().replace(b"HTTP/1.1", b"HTTP/1.0"))
            assert received(sock).startswith(b"HTTP/1.1 200 OK")


def run_python(code: str, *, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """A script of its own, with every warning an error and asyncio in debug mode."""
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", code]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, cwd=root, env=environment, check=False
    )


ASKING = f"""
import json, os, socket, sys, time
from agentless.loopback import Loopback, Reply, faults, shared

def ask(server, stream=False):
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=5)
    sock.sendall({raw_request()!r} if not stream else {raw_request(stream=True)!r})
    return sock
"""


class TestLife:
    """Starting, ending, forking."""

    def test_close_leaves_nothing_behind(self) -> None:
        """After `close`, however often, there is no thread and nobody listens; it can start again."""
        before = threading.active_count()
        server = Loopback()
        with pytest.raises(RuntimeError, match="not running"):
            _ = server.openai_url
        with server:
            port = server.port
            assert server.start() is server
            assert threading.active_count() == before + 1
            assert ask(server).status_code == 200
        server.close()
        assert threading.active_count() == before
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        assert "closed" in repr(server)
        with server:
            assert ask(server).status_code == 200
        assert len(server.journal) == 2

    def test_a_port_can_be_chosen(self, server: Loopback) -> None:
        """The chosen port is used; one that is taken is an error at `start`."""
        with pytest.raises(OSError, match="in use"):
            Loopback(server.port).start()
        assert server.openai_url == f"http://127.0.0.1:{server.port}/v1"

    def test_close_does_not_wait_for_clients(self) -> None:
        """Kept connections and unfinished replies are dropped at once, without a word."""
        code = f"""{ASKING}
server = Loopback().start()
server.script("x", faults.Stall(), Reply("a b", chunk_delay=60), Reply("x", delay=60))
server.default = faults.DripEvents(0.001)
socks = [ask(server, stream=i > 0) for i in range(5)]
socks.append(socket.create_connection(("127.0.0.1", server.port)))
server.wait_for(5)
begin = time.monotonic()
server.close()
assert time.monotonic() - begin < 0.5
for sock in socks:
    while sock.recv(65536): pass
    sock.close()
"""
        result = run_python(code)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")

    def test_a_shared_server_ends_silently_with_the_process(self) -> None:
        """The process's server is one, and leaves no trace at exit, even with requests under way."""
        code = f"""{ASKING}
server = shared()
assert shared() is server
server.script(faults.Stall())
sock = ask(server)
server.wait_for(1)
other = Loopback().start()
sock.close()
"""
        result = run_python(code)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_a_forked_child_does_not_own_the_server(self) -> None:
        """A child can't close the parent's server, holds none of its sockets, and gets one of its own."""
        code = f"""{ASKING}
import warnings; warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads
with Loopback() as server:
    parents = shared()
    stalled = ask(server.script(faults.Stall()))
    server.wait_for(1)
    pid = os.fork()
    if pid == 0:
        server.close()
        own = shared()
        assert own is not parents and own.port != parents.port if parents._listener else own is not parents
        sock = ask(own); assert b"200 OK" in sock.recv(65536); sock.close()
        with server: sock = ask(server); assert b"200 OK" in sock.recv(65536); sock.close()
        stalled.close()
        time.sleep(0.5)
        sys.exit(0)
    sock = ask(server); assert b"200 OK" in sock.recv(65536); sock.close()
    port = server.port
# The child is still alive here: were it holding copies, these would hang.
assert stalled.recv(100) == b""
stalled.close()
try: socket.create_connection(("127.0.0.1", port)); raise SystemExit("still listening")
except ConnectionRefusedError: pass
assert os.waitpid(pid, 0)[1] == 0
"""
        result = run_python(code)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")

    def test_nothing_heavy_is_imported(self) -> None:
        """The package needs the standard library and h11 only."""
        code = """
import sys
import agentless.loopback
heavy = {"litellm", "pydantic", "httpx", "openai", "tenacity"}
print({name.partition(".")[0] for name in sys.modules} & heavy)
"""
        assert run_python(code).stdout == "set()\n"

    def test_it_runs_by_itself(self) -> None:
        """`python -m agentless.loopback` prints its URLs, serves, and ends on an interrupt."""
        command = [sys.executable, "-m", "agentless.loopback", "--chunks", "3"]
        root = Path(__file__).parents[2]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
            assert process.stdout is not None
            url = process.stdout.readline().split()[0]
            response = httpx.post(
                f"{url}/chat/completions", headers=HEADERS["openai"], json=body("openai"), trust_env=False
            )
            assert text_of("openai", response) == "word0 word1 word2 "
            process.send_signal(2)
            assert process.wait(600) == 0

    def test_shared_is_one_for_all_threads(self) -> None:
        """Threads that ask at once get the same server."""
        found: list[Loopback] = []
        threads = [threading.Thread(target=lambda: found.append(shared())) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(found)) == 1
        found[0].close()

    def test_a_slow_step_does_not_disturb_the_loop(
        self, server: Loopback, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A scripted callable that takes its time is no reason for asyncio's warnings."""

        def slow(_: Entry) -> str:
            time.sleep(0.15)
            return "slow"

        assert text_of("openai", ask(server.script(slow))) == "slow"
        assert caplog.records == []


def test_the_package_docstrings_example_is_right(server: Loopback) -> None:
    """The first example: a rate limit, then the reply, two requests in the journal."""
    server.script(faults.Status(429, headers={"retry-after": "2"}), "the reply")
    assert ask(server).status_code == 429
    assert text_of("openai", ask(server)) == "the reply"
    assert len(server.journal) == 2
