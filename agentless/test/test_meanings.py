"""What a reply means: odd ones in OpenAI's format, the same on each provider, whole and streamed."""

# ruff: noqa: E501  # a row is read better on one line

import json
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agentless.config import read_config
from agentless.errors import StreamInterruptedError
from agentless.llm import error_table, quotas
from agentless.llm.codegen import CodegenModel
from agentless.llm.inline_thinking import Splitter
from agentless.llm.replies import Event, fold
from agentless.llm.retries import Fault, Kind, Verdict, decide, retry_after, unusable
from agentless.test.ways import KEY, QUICK
from agentless.util.model_factory import ModelFactory

PROVIDERS = ("openai", "groq", "mistral", "openrouter", "azure", "deepseek", "hosted_vllm", "xai")
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


class Service:
    """A socket that says byte for byte what a test wants: `says(number, streamed)` is the whole response."""

    def __init__(self, says: Any) -> None:
        self.says, self.requests = says, 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            text = b""
            while b"\r\n\r\n" not in text:
                text += connection.recv(65536)
            head, _, body = text.partition(b"\r\n\r\n")
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            while len(body) < int(lengths[0].split(b":")[1]):
                body += connection.recv(65536)
            number, self.requests = self.requests, self.requests + 1
            connection.sendall(self.says(number, bool(json.loads(body).get("stream"))))

    def close(self) -> None:
        """Take no more."""
        self._socket.close()


@contextmanager
def serving(says: Any, provider: str = "openai", **more: Any) -> Iterator[tuple[CodegenModel, Service]]:
    """A model of this provider that talks to such a service."""
    service = Service(says)
    base = f"http://127.0.0.1:{service.port}" + ("" if provider == "azure" else "/v1")
    extra = {"api_version": "2024-06-01"} if provider == "azure" else {}
    table = {
        "name": "my-model",
        "provider": provider,
        "base_url": base,
        "api_key": KEY,
        **QUICK,
        **extra,
        **more,
    }
    try:
        yield ModelFactory(read_config({"models": {"m": table}})).create_model("m"), service
    finally:
        service.close()


def whole(body: Any, status: int = 200, kind: str = "application/json") -> bytes:
    """A whole response."""
    data = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    return head.encode() + data


def events(*pieces: Any) -> bytes:
    """A response of events; bytes stand as they are."""
    lines = [
        each
        if isinstance(each, bytes)
        else b"data: " + json.dumps(each, ensure_ascii=False).encode() + b"\n\n"
        for each in pieces
    ]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=latin-1\r\nConnection: close\r\n\r\n"
    return head + b"".join(lines)


DONE = b"data: [DONE]\n\n"


def piece(delta: Any, finish: str | None = None) -> dict[str, Any]:
    """One event of a stream."""
    return {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def reply(message: Any, finish: str | None = "stop", **more: Any) -> dict[str, Any]:
    """One whole reply."""
    return {
        "id": "c",
        "model": "m",
        "choices": [{"message": message, "finish_reason": finish}],
        "usage": USAGE,
        **more,
    }


def says(message: Any, deltas: list[Any], finish: str = "stop") -> Any:
    """The same reply whole and streamed."""

    def answer(_: int, streamed: bool) -> bytes:
        if streamed:
            end = {"id": "c", "model": "m", "choices": None, "usage": USAGE}
            return events(*map(piece, deltas), piece({}, finish), end, DONE)
        return whole(reply(message, finish))

    return answer


def calls_of(*calls: Any) -> dict[str, Any]:
    """A message with calls alone."""
    return {"content": None, "tool_calls": list(calls)}


MEANINGS: dict[str, tuple[Any, list[Any], str, str, str | None, str | None]] = {
    # name: message, deltas, finish word, response, reasoning, refusal
    "text": ({"content": "hi"}, [{"content": "h"}, {"content": "i"}], "stop", "hi", None, None),
    "reasoning alone": ({"content": None, "reasoning_content": "42"}, [{"reasoning_content": "4"}, {"reasoning_content": "2"}], "stop", "", "42", None),
    "reasoning of vLLM's": ({"content": "", "reasoning": "42"}, [{"reasoning": "42"}], "stop", "", "42", None),
    "refusal": ({"content": None, "refusal": "no, no"}, [{"refusal": "no, "}, {"refusal": "no"}], "stop", "", None, "no, no"),
    "parts": (
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "hi"}]},
        [{"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}, {"content": [{"type": "text", "text": "h"}]}, {"content": "i"}],
        "stop", "hi", "hm", None,
    ),
    "part that refuses": ({"content": [{"type": "refusal", "refusal": "no"}]}, [{"content": [{"type": "refusal", "refusal": "no"}]}], "stop", "", None, "no"),
    "inline": ({"content": "\n<think>\nhm</think>\n\nhi"}, [{"content": each} for each in "\n<think>\nhm</think>\n\nhi"], "stop", "hi", "\nhm", None),
    "inline, not": ({"content": "<thin ice"}, [{"content": "<thi"}, {"content": "n ice"}], "stop", "<thin ice", None, None),
    "inline, later": ({"content": "a <think>b</think>"}, [{"content": "a <think>"}, {"content": "b</think>"}], "stop", "a <think>b</think>", None, None),
    "inline, unfinished": ({"content": "<think>hm </thi"}, [{"content": "<think>hm"}, {"content": " </thi"}], "length", "", "hm </thi", None),
}  # fmt: skip


def outcome(model: CodegenModel, streamed: bool) -> tuple[str, str, str | None, str | None]:
    """(response, finish reason, reasoning, refusal)."""
    if not streamed:
        [each] = model.codegen("hi")
        return each["response"], each["finish_reason"], each["reasoning"], each.get("refusal")
    chunks = list(model.codegen_stream("hi"))
    last = chunks[-1]
    text = "".join(chunk["response"] for chunk in chunks)
    return text, last["finish_reason"] or "", last.get("reasoning"), last.get("refusal")


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_meanings_are_the_same_everywhere(provider: str, streamed: bool) -> None:
    """One request brings each reply with all that was paid for in it."""
    for name, (message, deltas, finish, *wanted) in MEANINGS.items():
        with serving(says(message, deltas, finish), provider) as (model, service):
            response, end, reasoning, refusal = outcome(model, streamed)
            assert [response, reasoning, refusal] == wanted, name
            assert end == finish, name
            assert service.requests == 1, name


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_words_of_failure_are_no_sample(provider: str, streamed: bool) -> None:
    """A service that failed is asked again, unless something has reached the caller."""
    for word in ("error", "Network_Error", "abort", "insufficient_system_resource"):
        good = says({"content": "hi"}, [{"content": "hi"}])
        bad = says({"content": "half"}, [{"reasoning_content": "half"}], word)
        with serving(lambda n, s, bad=bad, good=good: (bad if n == 0 else good)(n, s), provider) as (
            model,
            service,
        ):
            assert outcome(model, streamed)[:2] == ("hi", "stop"), word
            assert service.requests == 2, word


def test_a_failure_after_the_first_chunk_cuts_the_stream() -> None:
    """What has reached the caller is not asked for again."""
    with serving(says(None, [{"content": "half"}], "error")) as (model, service):
        with pytest.raises(StreamInterruptedError, match="finish_reason 'error'") as caught:
            list(model.codegen_stream("hi"))
        assert caught.value.text == "half"
        assert service.requests == 1


def test_an_unknown_word_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """It counts as `stop`, with one warning that names it."""
    with serving(says({"content": "hi"}, [], "tomorrow")) as (model, _), caplog.at_level(logging.WARNING):
        assert [model.codegen("hi")[0]["finish_reason"] for _ in "12"] == ["stop", "stop"]
    assert sum("'tomorrow'" in each.getMessage() for each in caplog.records) == 1


def test_thinking_can_be_kept() -> None:
    """`inline_thinking = "keep"` leaves the text as it came."""
    text = "<think>hm</think>hi"
    with serving(says({"content": text}, [{"content": text}]), inline_thinking="keep") as (model, _):
        assert outcome(model, streamed=False)[0] == outcome(model, streamed=True)[0] == text


@pytest.mark.parametrize(
    "text", ["<think>a</think>b", " <think>a</thinkb</think> c", "<thinking>x</thinking>", "<", "<think"]
)
def test_any_split_is_the_same_thinking(text: str) -> None:
    """However a stream cuts the tags."""

    def read(*pieces: str) -> tuple[str, str]:
        split = Splitter()
        given = [*(Event(text=each) for each in pieces), Event(finish_reason="stop")]
        sample = fold(map(split, given)).samples[0]
        return sample.response, "".join(sample.reasoning)

    for first in range(len(text) + 1):
        for second in range(first, len(text) + 1):
            assert read(text[:first], text[first:second], text[second:]) == read(text)


CALLS: dict[str, list[list[Any]]] = {
    "no ids": [[{"index": 0, "function": {"name": "f", "arguments": "{}"}}, {"index": 1, "function": {"name": "g", "arguments": "{}"}}]],
    "second name": [[{"index": 0, "function": {"name": "f", "arguments": "{}"}}], [{"index": 0, "function": {"name": "g", "arguments": "{}"}}]],
    "whole arguments": [[{"function": {"name": "f", "arguments": '{"a": 1}'}}], [{"function": {"name": "f", "arguments": '{"a": 2}'}}]],
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_calls_are_told_apart(name: str) -> None:
    """Calls without ids or index are two calls, with ids."""
    with serving(says(None, [calls_of(*each) for each in CALLS[name]], "stop")) as (model, _):
        last = list(model.codegen_stream("hi"))[-1]
    assert len(last["tool_calls"]) == 2
    assert len({call["id"] for call in last["tool_calls"]} - {""}) == 2
    assert last["finish_reason"] == "tool_calls"


FIRST, LAST = json.dumps(piece({"content": "\u00e9 hi"})), json.dumps(piece({}, "stop"))
STREAMS = {
    "byte order mark": f"\ufeffdata: {FIRST}\n\ndata: {LAST}\n\n",
    "CR": f"data: {FIRST}\r\rdata: {LAST}\r\r",
    "CRLF": f"event: x\r\ndata:{FIRST}\r\n\r\ndata:{LAST}\r\n\r\n",
    "several lines": "".join(f"data: {each}\n" for each in json.dumps(piece({"content": "\u00e9 hi"}), indent=1).split("\n")) + f"\ndata: {LAST}\n\n",
    "comment as data": f"data: : PROCESSING\n\ndata: {FIRST}\n\ndata: {LAST}\n\n",
    "ping": f"event: ping\ndata: now\n\ndata: {FIRST}\n\ndata: {LAST}\n\n",
    "whole reply": json.dumps(reply({"content": "\u00e9 hi"}), indent=2),
}  # fmt: skip


@pytest.mark.parametrize("name", STREAMS)
def test_streams_as_the_standard_has_them(name: str) -> None:
    """Line ends, marks, comments and events of several lines."""
    with serving(lambda _, __: events(STREAMS[name].encode())) as (model, _):
        assert outcome(model, streamed=True)[:2] == ("\u00e9 hi", "stop")


@pytest.mark.parametrize(
    "body",
    [
        {"error": "too much cheese"},
        {"detail": "too much cheese"},
        {"object": "error", "message": "too much cheese", "code": 500},
        {"base_resp": {"status_code": 1000, "status_msg": "too much cheese"}},
        {"choices": [{"error": {"message": "too much cheese", "code": 502}, "message": {"content": ""}, "finish_reason": "error"}]},
    ],
)  # fmt: skip
def test_the_services_words_reach_the_user(body: Any) -> None:
    """Whole and in a stream's place, with a good status."""
    for answer in (whole(body), events(body), events(b"error: " + json.dumps(body).encode() + b"\n\n")):
        for streamed in (False, True):
            if not streamed and b"event-stream" in answer:
                continue
            with (
                serving(lambda _, __, answer=answer: answer, num_retries=0) as (model, _),
                pytest.raises(Exception, match="too much cheese"),
            ):
                outcome(model, streamed)


def test_pages_are_cut_to_their_title() -> None:
    """A page is no API: base_url is wrong, or a gateway failed."""
    page = b"<!DOCTYPE html><html><head><title>Welcome &amp; more</title></head>" + b"<p>x</p>" * 9999
    for status in (200, 404):
        for streamed in (False, True):
            with serving(lambda _, __, status=status: whole(page, status, "text/html"), num_retries=0) as (
                model,
                _,
            ):
                with pytest.raises(
                    Exception, match=r"Welcome & more.*base_url|base_url.*Welcome & more"
                ) as caught:
                    outcome(model, streamed)
                assert len(str(caught.value)) < 1000


def test_json_without_end_is_a_fault_like_any_other() -> None:
    """A parser that raises something else would end the call untyped."""
    deep = "[" * 200_000
    assert unusable(200, deep).kind is Kind.MALFORMED
    assert decide(Fault(Kind.REFUSED, 429, {}, deep)).verdict is Verdict.RETRY
    for date in (
        "Fri, 31 Dec 9999 23:59:59 -9959",
        "Fri, 31 Dec 0000 23:59:59 GMT",
        "1 Jan 99999999999 1:1:1 +9",
    ):
        assert (retry_after({"retry-after": date}) or 0.0) >= 0.0
    with serving(lambda n, _: whole(deep.encode()) if n == 0 else whole(reply({"content": "hi"}))) as (
        model,
        _,
    ):
        assert model.codegen("hi")[0]["response"] == "hi"


@pytest.mark.parametrize("row", quotas.WORDS, ids=str)
def test_used_up_accounts_end_at_once(row: quotas.Row) -> None:
    """Each sentence by itself, with the remedy of its row or one before it."""
    for word in row.words:
        body = json.dumps({"error": {"message": f"Sorry: {word}."}})
        assert decide(Fault(Kind.REFUSED, 429, {}, body)).verdict is Verdict.HOPELESS
        assert quotas.used_up(body)


@pytest.mark.parametrize(
    "message, seconds",
    [
        ("Please try again in 7.66s.", 7.66),
        ("try again in 1m2s", 62.0),
        ("Please try again in 20ms. Visit us", 0.02),
        ("Please retry after 3 seconds.", 3.0),
        ("Please wait for 2 minutes", 120.0),
        ("Rate limit", None),
    ],
)
def test_waits_in_sentences(message: str, seconds: float | None) -> None:
    """What services say in place of a header."""
    asked = decide(Fault(Kind.REFUSED, 429, {}, json.dumps({"error": {"message": message}}))).retry_after
    assert asked == (None if seconds is None else pytest.approx(seconds))


def test_used_up_limits_are_reset() -> None:
    """Only the limit that has nothing left is waited for."""
    headers = {
        "x-ratelimit-remaining-requests": "10",
        "x-ratelimit-reset-requests": "9m",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "1m1.5s",
    }
    assert decide(Fault(Kind.REFUSED, 429, headers)).retry_after == 61.5


def test_the_table_is_up_to_date() -> None:
    """docs/errors.md is what the tables in code say."""
    path = Path(__file__).parents[2] / "docs" / "errors.md"
    assert path.read_text("utf-8") == error_table.table()
