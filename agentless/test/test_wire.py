"""The watch on an attempt's connection: which requests pass, and what a stream's bytes become."""

import asyncio
import gzip
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentless.llm import bodies, connections, wire
from agentless.llm.wire import (
    CorruptEventError,
    ErrorEventError,
    Exchange,
    SecondRequestError,
    WatchedTransport,
)
from agentless.loopback import Loopback, Reply, faults

pytestmark = pytest.mark.litellm

CHUNK = {"id": "1", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "hé"}}]}
OPENAI = (
    b": keep-alive\n\n"
    b"data: " + json.dumps(CHUNK).encode() + b"\n\n"
    b"data:" + json.dumps(CHUNK, ensure_ascii=False).encode() + b"\r\n\r\n"
    b"\n: another\ndata: \n\ndata: [DONE]\n\n"
)
ANTHROPIC = (
    b'event: message_start\ndata: {"type": "message_start", "message": {"id": "m"}}\n\n'
    b'event: ping\ndata: {"type": "ping"}\n\n'
    b'event: content_block_delta\ndata: {"type": "content_block_delta", "delta": {"text": "a\\nb"}}\n\n'
    b'event: message_stop\ndata: {"type": "message_stop"}'
)
STREAMS = {"openai": (OPENAI, 2), "anthropic": (ANTHROPIC, 4)}


class Parts(httpx.AsyncByteStream):
    """A body in these parts of the network's, and perhaps an exception in the end."""

    def __init__(self, parts: Sequence[bytes], failure: Exception | None = None) -> None:
        self.parts = parts
        self.failure = failure
        self.closed = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            yield part
        if self.failure is not None:
            raise self.failure

    async def aclose(self) -> None:
        """Count it."""
        self.closed += 1


def watched(
    body: httpx.AsyncByteStream, exchange: Exchange, kind: str = "text/event-stream", **headers: str
) -> httpx.AsyncByteStream:
    """The body of a reply as an attempt's client reads it."""
    response = httpx.Response(200, headers={"content-type": kind, **headers}, stream=body)
    exchange.note_response(response)
    assert isinstance(response.stream, httpx.AsyncByteStream)
    return response.stream


def read(
    parts: Sequence[bytes],
    failure: Exception | None = None,
    kind: str = "text/event-stream",
    is_streaming: bool = True,
) -> tuple[bytes, Exchange, Exception | None]:
    """What is passed on of these parts, what the exchange noted, and what it ended with."""
    exchange = Exchange(is_streaming=is_streaming)
    body = watched(Parts(parts, failure), exchange, kind)
    passed: list[bytes] = []

    async def collect() -> None:
        async for part in body:
            passed.append(part)  # noqa: PERF401  # what came before an exception counts

    error: Exception | None = None
    try:
        asyncio.run(collect())
    except httpx.TransportError as caught:
        error = caught
    return b"".join(passed), exchange, error


def read_events(
    parts: Sequence[bytes], body: Parts | None = None
) -> tuple[list[Any], Exchange, Exception | None]:
    """The same, read as events."""
    exchange = Exchange(is_streaming=True)
    watched(body or Parts(parts), exchange)
    assert exchange.has_events
    events: list[Any] = []

    async def collect() -> None:
        async for event in exchange.read_events():
            events.append(event)  # noqa: PERF401  # as above

    error: Exception | None = None
    try:
        asyncio.run(collect())
    except httpx.TransportError as caught:
        error = caught
    return events, exchange, error


def split(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """The data, cut at these places."""
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    return [data[begin:end] for begin, end in itertools.pairwise(places)]


cuts = st.lists(st.integers(0, 700), max_size=30)


@given(st.sampled_from(sorted(STREAMS)), cuts)
@example("openai", list(range(700)))
@example("anthropic", list(range(700)))
def test_any_split_of_a_stream_is_the_same_stream(name: str, places: list[int]) -> None:
    """However the network cuts a good stream, the same bytes come out, and the same events are counted."""
    data, events = STREAMS[name]
    passed, exchange, error = read(split(data, places))
    assert error is None
    assert passed.rstrip() == data.replace(b"\r\n", b"\n").rstrip()
    assert exchange.events == events
    assert exchange.done
    assert exchange.failure is None
    assert exchange.text == ""


BAD = {
    "corrupt": (b'data: {"id": "chatcmpl-1", "choices": [{"ind\n\n', CorruptEventError),
    "openai error": (b'data: {"error": {"message": "lost", "code": "server_error"}}\n\n', ErrorEventError),
    "anthropic error": (
        b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error", "message": "x"}}\n\n',
        ErrorEventError,
    ),
    "bare error": (b'data: {"type": "error", "message": "x"}\n\n', ErrorEventError),
    "text error": (b'data: {"error": "x"}\n\n', ErrorEventError),
}


@given(st.sampled_from(sorted(BAD)), cuts, st.integers(0, 3))
@example("corrupt", [], 1)
@example("anthropic error", list(range(700)), 0)
def test_a_bad_event_ends_the_stream_where_it_stands(name: str, places: list[int], before: int) -> None:
    """All lines before it are passed on and none of its own data, however the network cuts; none follows."""
    bad, kind = BAD[name]
    good = b'data: {"n": 1}\n\n'
    lead, _, _ = bad.rpartition(b"data:")
    passed, exchange, error = read(split(good * before + bad + good, places))
    assert type(error) is kind
    assert exchange.failure is error
    assert passed == good * before + lead
    assert exchange.events == before


def test_an_error_event_keeps_its_object() -> None:
    """The retry decision reads it; an error that is a mere text has it as its message."""
    for name, expected in (
        ("openai error", {"message": "lost", "code": "server_error"}),
        ("text error", {"message": "x"}),
    ):
        _, _, error = read([BAD[name][0]])
        assert isinstance(error, ErrorEventError)
        assert error.error == expected
        assert str(error) == expected["message"]


def test_a_line_that_breaks_off_is_corrupt() -> None:
    """A stream whose last line is half an event does not end in good order."""
    passed, exchange, error = read([b'data: {"n": 1}\n\ndata: {"n"'])
    assert isinstance(error, CorruptEventError)
    assert passed == b'data: {"n": 1}\n\n'
    assert not exchange.done


@pytest.mark.parametrize(
    "event", [b"null", b"[]", b"1", b'"text"', b'{"error": null}', b'{"error": {}}', b'{"type": "errors"}']
)
def test_json_that_is_no_error_passes(event: bytes) -> None:
    """What is JSON and no error object is for those above to judge."""
    data = b"data: " + event + b"\n\n"
    passed, exchange, error = read([data])
    assert (passed, error, exchange.events) == (data, None, 1)


@given(st.sampled_from(sorted(STREAMS)), cuts)
@example("openai", list(range(700)))
def test_any_split_of_a_stream_has_the_same_events(name: str, places: list[int]) -> None:
    """Read as events, a stream is the JSON in its bytes, raw line separators included."""
    data, count = STREAMS[name]
    data = data.replace(b'"role"', '"\u2028\x85"'.encode())
    events, exchange, error = read_events(split(data, places))
    lines = [line[5:].strip() for line in data.split(b"\n") if line.startswith(b"data:")]
    assert events == [json.loads(line) for line in lines if line not in {b"", b"[DONE]"}]
    assert (len(events), error, exchange.done) == (count, None, True)


@given(st.sampled_from(sorted(BAD)), cuts, st.integers(0, 3))
def test_a_bad_event_comes_after_the_good_ones(name: str, places: list[int], before: int) -> None:
    """Read as events, a stream ends where the fault is, too."""
    bad, kind = BAD[name]
    good = b'data: {"n": 1}\n\n'
    events, exchange, error = read_events(split(good * before + bad + good, places))
    assert type(error) is kind
    assert exchange.failure is error
    assert events == [{"n": 1}] * before


def test_nothing_is_waited_for_after_the_end_mark() -> None:
    """A service that does not end its body is left soon; one that breaks it has said all before."""

    class Endless(Parts):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for part in super().__aiter__():
                yield part
            await asyncio.sleep(60)

    for body in (Endless([OPENAI]), Parts([OPENAI], httpx.ReadError("reset"))):
        began = time.monotonic()
        events, exchange, error = read_events([], body=body)
        assert (len(events), error, exchange.done) == (2, None, True)
        assert time.monotonic() - began < 10


@pytest.mark.parametrize("raw", ["\u2028", "\u2029", "\x85"])
def test_separators_in_json_are_escaped(raw: str) -> None:
    """The line splitter above takes these for line ends: as escapes they are the same JSON."""
    event = {"text": f"a{raw}b"}
    data = b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n: " + raw.encode() + b"\n"
    passed, exchange, error = read(split(data, range(len(data))))
    assert error is None
    assert exchange.events == 1
    first = passed.decode().splitlines()[0]
    assert json.loads(first.removeprefix("data: ")) == event
    assert raw not in first


def test_comments_and_empty_events_are_no_events() -> None:
    """Signs of life without content do not keep an attempt's deadline away."""
    beats: list[int] = []
    exchange = Exchange(is_streaming=True)
    exchange.on_event = lambda: beats.append(1)
    data = b": keep-alive\n\n\n\nevent: ping\nid: 7\nretry: 100\ndata:\n\ndata: [DONE]\n\n"
    body = watched(Parts([data] * 3), exchange)

    async def collect() -> bytes:
        return b"".join([part async for part in body])

    assert asyncio.run(collect()) == data * 3
    assert exchange.events == 0
    assert beats == []
    assert exchange.done


def test_each_event_is_reported_as_it_comes() -> None:
    """The deadline between events is moved by each of them, before the ones behind it have come."""
    exchange = Exchange(is_streaming=True)
    reported: list[int] = []
    exchange.on_event = lambda: reported.append(exchange.events)
    body = watched(Parts([b'data: {"n"', b": 1}\n", b"\n", b"data: {}\n\ndata: {}\n\n"]), exchange)

    async def collect() -> list[list[int]]:
        return [list(reported) async for _ in body]

    assert asyncio.run(collect()) == [[1], [1], [1, 2, 3]]


@given(cuts)
def test_what_is_no_event_stream_is_untouched(places: list[int]) -> None:
    """A whole reply, JSON or compressed, passes byte for byte, and is kept for the retry decision."""
    data = b'{"a": "\xe2\x80\xa8", "error": {"code": 1}}\ndata: {"error": 1}\ndata: {'
    for kind, is_streaming in (("application/json", True), ("text/event-stream", False)):
        passed, exchange, error = read(split(data, places), None, kind, is_streaming)
        assert (passed, error, exchange.events) == (data, None, 0)
        assert exchange.text == data.decode()


@pytest.mark.parametrize(
    "status, headers, has_events",
    [
        (200, {"content-type": "text/event-stream"}, True),
        (200, {"content-type": "text/event-stream; charset=utf-8"}, True),
        (200, {"content-type": "text/plain"}, True),
        (200, {}, True),
        (200, {"content-type": "application/json"}, False),
        (200, {"content-type": "application/x-ndjson"}, False),
        (200, {"content-type": "application/vnd.amazon.eventstream"}, False),
        (200, {"content-type": "text/event-stream", "content-encoding": "gzip"}, False),
        (200, {"content-type": "text/event-stream", "content-encoding": "identity"}, True),
        (500, {"content-type": "text/event-stream"}, False),
        (301, {}, False),
    ],
    ids=str,
)
def test_which_replies_are_read_as_events(status: int, headers: dict[str, str], has_events: bool) -> None:
    """Any success that is not JSON, not compressed and not in a format of its own."""
    assert bodies.has_event_lines(httpx.Response(status, headers=headers)) is has_events


def test_a_compressed_stream_is_untouched() -> None:
    """It cannot be read here, and is not to be broken either."""
    data = gzip.compress(OPENAI)
    body = watched(Parts([data]), Exchange(is_streaming=True), **{"content-encoding": "gzip"})

    async def collect() -> bytes:
        return b"".join([part async for part in body])

    assert asyncio.run(collect()) == data


def test_what_breaks_in_the_network_is_kept_and_passed_on() -> None:
    """The retry decision sees the very exception that the client above may wrap or swallow."""
    failure = httpx.ReadError("reset")
    for is_streaming in (True, False):
        passed, exchange, error = read([b'data: {"n": 1}\n\nda'], failure, is_streaming=is_streaming)
        assert error is exchange.failure is failure
        assert passed.startswith(b'data: {"n": 1}\n')


def test_a_very_long_line_takes_time_by_its_length() -> None:
    """A line in thousands of parts is joined once (0.3 s here), not once a part (minutes)."""
    data = b'data: "' + b"x" * (4096 * 16_000) + b'"\n\n'
    began = time.monotonic()
    passed, exchange, error = read(split(data, range(0, len(data), 4096)))
    assert time.monotonic() - began < 20
    assert (len(passed), exchange.events, error) == (len(data), 1, None)


def test_text_is_no_more_than_tells_what_it_is_about() -> None:
    """A body of megabytes is not searched for the words of a refusal, nor are bytes that are no text."""
    exchange = Exchange()
    for _ in range(100):
        exchange.note_body(b"\xff" * 1000)
    assert len(exchange.text) == 65_536


# Requests


@contextmanager
def within(exchange: Exchange | None) -> Iterator[None]:
    """As inside an attempt."""
    token = wire.current.set(exchange)
    try:
        yield
    finally:
        wire.current.reset(token)


def transact(work: Callable[[httpx.AsyncClient], Any], exchange: Exchange | None) -> Any:
    """Run `work(client)` with a watched client, inside an attempt."""

    async def main() -> Any:
        async with httpx.AsyncClient(transport=WatchedTransport()) as client:
            with within(exchange):
                return await work(client)

    return asyncio.run(main())


BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
KEY = {"authorization": "Bearer sk-test"}


def test_a_client_that_is_closed_lets_its_replies_come(server: Loopback) -> None:
    """Litellm closes clients that it has put away: a stream goes on, and its connection is closed then."""
    server.default = Reply("one two three", chunk_delay=0.05)
    url = f"{server.openai_url}/chat/completions"

    async def main() -> tuple[int, str, int]:
        transport = WatchedTransport()
        client = httpx.AsyncClient(transport=transport)
        await client.post(url, json=BODY, headers=KEY)
        async with client.stream("POST", url, json={**BODY, "stream": True}, headers=KEY) as response:
            await transport.aclose()
            kept = server.connections_open
            text = "".join([line async for line in response.aiter_lines()])
        await asyncio.sleep(0.1)
        await client.aclose()
        return kept, text, server.connections_open

    kept, text, left = asyncio.run(main())
    assert (kept, left) == (1, 0)
    assert text.endswith("[DONE]")


def test_a_second_post_is_not_sent(server: Loopback) -> None:
    """The same address twice in one attempt: the second never reaches the server."""
    url = f"{server.openai_url}/chat/completions"

    async def twice(client: httpx.AsyncClient) -> None:
        await client.post(url, json=BODY, headers=KEY)
        await client.post(url, json=BODY, headers=KEY)

    exchange = Exchange()
    with pytest.raises(SecondRequestError):
        transact(twice, exchange)
    assert len(server.journal) == exchange.requests == 1


@pytest.mark.parametrize(
    "fault", [faults.Reset(), faults.CleanClose(), faults.HalfHeaders(), faults.Garbage()]
)
def test_a_second_post_ends_as_the_first(server: Loopback, fault: faults.Fault) -> None:
    """What the first one failed with is what a client that tries again gets, and may wrap."""
    server.default = fault
    caught: list[Exception] = []

    async def again(client: httpx.AsyncClient) -> None:
        for _ in range(3):
            try:
                await client.post(f"{server.openai_url}/chat/completions", json=BODY, headers=KEY)
            except httpx.TransportError as error:
                caught.append(error)

    exchange = Exchange()
    transact(again, exchange)
    assert len(server.journal) == 1
    assert caught[0] is caught[1] is caught[2] is exchange.failure
    assert exchange.status is None


def test_other_addresses_and_methods_pass(server: Loopback) -> None:
    """A token that is fetched, a job that is polled, another model's address: none is the same request."""

    async def several(client: httpx.AsyncClient) -> None:
        await client.post(f"{server.openai_url}/chat/completions?deployment=a", json=BODY, headers=KEY)
        await client.post(f"{server.openai_url}/chat/completions?deployment=b", json=BODY, headers=KEY)
        for _ in range(3):
            await client.get(f"{server.openai_url}/models", headers=KEY)

    exchange = Exchange()
    transact(several, exchange)
    assert len(server.journal) == 5
    assert exchange.requests == 2


def test_outside_an_attempt_nothing_is_watched(server: Loopback) -> None:
    """An application's own requests may be sent as often as it likes, and are not changed."""
    server.default = faults.Status(429)

    async def several(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [
            await client.post(f"{server.openai_url}/chat/completions", json=BODY, headers=KEY)
            for _ in range(3)
        ]

    replies = transact(several, None)
    assert len(server.journal) == 3
    assert all("x-should-retry" not in reply.headers for reply in replies)


def test_a_refusal_is_kept(server: Loopback) -> None:
    """Status, headers and body, as the retry decision needs them, and an SDK is told not to try again."""
    server.default = faults.Status(429, "slow down", headers={"retry-after": "7"})

    async def post(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post(f"{server.openai_url}/chat/completions", json=BODY, headers=KEY)

    exchange = Exchange(is_streaming=True)
    reply = transact(post, exchange)
    assert exchange.status == 429
    assert exchange.headers["retry-after"] == "7"
    assert "slow down" in exchange.text
    assert reply.headers["x-should-retry"] == "false"


def test_two_attempts_side_by_side_do_not_see_each_other(server: Loopback) -> None:
    """Each task has its own exchange, through one client."""
    exchanges = [Exchange() for _ in range(8)]

    async def main() -> None:
        async with httpx.AsyncClient(transport=WatchedTransport()) as client:

            async def one(exchange: Exchange) -> None:
                with within(exchange):
                    await client.post(f"{server.openai_url}/chat/completions", json=BODY, headers=KEY)

            await asyncio.gather(*map(one, exchanges))

    asyncio.run(main())
    assert len(server.journal) == 8
    assert [exchange.requests for exchange in exchanges] == [1] * 8
    assert len({exchange.headers["x-request-id"] for exchange in exchanges}) == 8


def test_closing_an_exchange_closes_its_connection(server: Loopback) -> None:
    """The server sees the client leave at once, whatever still holds the response."""
    server.default = Reply(chunks=["piece "] * 1000, chunk_delay=0.02)

    async def leave(client: httpx.AsyncClient) -> None:
        request = client.build_request(
            "POST", f"{server.openai_url}/chat/completions", json={**BODY, "stream": True}, headers=KEY
        )
        response = await client.send(request, stream=True)
        parts = response.aiter_raw()
        await anext(parts)
        await exchange.close()
        await exchange.close()  # idempotent
        await asyncio.to_thread(server.wait_for, lambda journal: journal[0].client_left is not None, 1)
        await response.aclose()

    exchange = Exchange(is_streaming=True)
    transact(leave, exchange)
    assert len(server.journal) == 1


def test_closing_goes_on_though_its_caller_is_cancelled() -> None:
    """A second cancellation does not leave a connection open."""
    exchange = Exchange()

    class Slow(Parts):
        async def aclose(self) -> None:
            await asyncio.sleep(0.05)
            await super().aclose()

    inner = Slow([])
    watched(inner, exchange)

    async def main() -> None:
        closing = asyncio.create_task(exchange.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await asyncio.sleep(0.2)

    asyncio.run(main())
    assert inner.closed == 1


def test_connections_are_used_again_and_let_go(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other takes one connection; one that was idle too long is closed and not used."""

    async def several(client: httpx.AsyncClient) -> None:
        url = f"{server.openai_url}/chat/completions"
        for _ in range(5):
            await client.post(url, json=BODY, headers=KEY)
        assert server.connections_made == 1
        monkeypatch.setattr(connections, "_IDLE_SECONDS", 0.01)
        await asyncio.sleep(0.05)
        await client.post(url, json=BODY, headers=KEY)
        assert server.connections_made == 2

    transact(several, None)
    deadline = time.monotonic() + 2
    while server.connections_open and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.connections_open == 0


def test_a_connection_that_broke_is_not_used_again(server: Loopback) -> None:
    """After a reset, or a body that was not read to its end, the next request has a good connection."""
    server.script(faults.Reset(), faults.CutBody(), faults.Reset("body"), "fine")

    async def several(client: httpx.AsyncClient) -> str:
        for _ in range(3):
            with pytest.raises(httpx.TransportError):
                await client.post(f"{server.openai_url}/chat/completions", json=BODY, headers=KEY)
        async with client.stream("POST", f"{server.openai_url}/chat/completions", json=BODY, headers=KEY):
            pass
        reply = await client.post(f"{server.openai_url}/chat/completions", json=BODY, headers=KEY)
        return str(reply.json()["choices"][0]["message"]["content"])

    assert transact(several, None) == "This is the loopback's reply to: hi"
