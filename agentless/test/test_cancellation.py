"""Cancel means cancel: the request ends at the server, at once, and none follows."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable

import pytest

from agentless.errors import SamplesIncompleteError, StreamInterruptedError
from agentless.llm import bridge
from agentless.llm.codegen import CodegenModel
from agentless.llm.streams import AsyncStream
from agentless.llm.trajectory import Chunk
from agentless.loopback import Entry, Loopback, Reply, faults

MakeModel = Callable[..., CodegenModel]

SLOW = Reply("one two three four five six", delay=20)
ENDLESS = Reply(chunks=["piece "] * 2000, chunk_delay=0.02)


def assert_left(server: Loopback, began: float, requests: int = 1) -> None:
    """The client has closed the connection within a second of `began`, and no other request follows."""

    def all_left(journal: list[Entry]) -> bool:
        return len(journal) >= requests and all(entry.client_left is not None for entry in journal)

    server.wait_for(all_left, timeout=3)
    left = [entry.client_left for entry in server.journal]
    assert max(moment for moment in left if moment is not None) - began < 1.0
    time.sleep(0.1)  # longer than the longest wait between retries here
    assert len(server.journal) == requests


@pytest.fixture(params=["openai", "anthropic", "deepseek", "generic"])
def model(request: pytest.FixtureRequest, make_model: MakeModel, server: Loopback) -> CodegenModel:
    """A warm model of each provider."""
    made = make_model(request.param, num_retries=3)
    made.codegen("warm up")
    list(made.codegen_stream("warm up"))
    server.reset()
    return made


def test_a_cancelled_task_closes_its_request(server: Loopback, model: CodegenModel) -> None:
    """Cancelling the task that awaits `codegen_async` closes the connection, and nothing is tried again."""
    server.default = SLOW

    async def main() -> float:
        task = asyncio.create_task(model.codegen_async("hi"))
        await asyncio.to_thread(server.wait_for, 1)
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return began

    assert_left(server, asyncio.run(main()))


def test_a_time_out_around_an_async_call_closes_its_requests(server: Loopback, model: CodegenModel) -> None:
    """`asyncio.timeout` of the caller's own ends all of a call's samples."""
    server.default = SLOW

    async def call() -> None:
        async with asyncio.timeout(None) as limit:
            task = asyncio.create_task(model.codegen_async("hi", num_samples=4, temperature=0.5))
            await asyncio.to_thread(server.wait_for, 4)
            limit.reschedule(0)  # now
            await task

    async def main() -> float:
        with pytest.raises(TimeoutError):
            await call()
        return time.monotonic()

    assert_left(server, asyncio.run(main()), requests=4)


def test_a_wait_between_retries_is_cancelled_too(server: Loopback, make_model: MakeModel) -> None:
    """A call that is cancelled while it waits for its next attempt sends no other request."""
    server.default = faults.Status(503)
    model = make_model(num_retries=3, retry_min_wait=0.5, retry_max_wait=0.5)

    async def main() -> None:
        task = asyncio.create_task(model.codegen_async("hi"))
        await asyncio.to_thread(server.wait_for, 1, 10)
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    time.sleep(0.7)
    assert len(server.journal) == 1


@pytest.mark.parametrize("leave", ["break", "exception", "close", "garbage"])
def test_leaving_a_stream_early_stops_it(server: Loopback, model: CodegenModel, leave: str) -> None:
    """However a `for` over a stream is left, the provider's connection closes within a second."""
    server.default = ENDLESS
    stream = model.codegen_stream("hi")
    began = 0.0
    if leave == "break":
        for chunk in stream:
            assert chunk["response"] == "piece "
            began = time.monotonic()
            break
        del stream
    elif leave == "exception":
        next(stream)
        began = time.monotonic()
        with pytest.raises(ZeroDivisionError), stream:
            raise ZeroDivisionError
    elif leave == "close":
        next(stream)
        began = time.monotonic()
        stream.close()
        assert list(stream) == []
    else:
        next(stream)
        del stream
        gc.collect()
        began = time.monotonic()
    assert_left(server, began)


@pytest.mark.parametrize("leave", ["break", "cancel", "aclose", "garbage", "loop ends"])
def test_leaving_an_async_stream_early_stops_it(server: Loopback, model: CodegenModel, leave: str) -> None:
    """However an `async for` over a stream is left, the provider's connection closes within a second."""
    server.default = ENDLESS

    async def main() -> float:
        stream = model.codegen_stream_async("hi")
        if leave == "break":
            async for _ in stream:
                break
        elif leave == "cancel":
            task = asyncio.create_task(_consume(stream))
            await asyncio.to_thread(server.wait_for, 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            await anext(stream)
            if leave == "aclose":
                await stream.aclose()
        if leave == "loop ends":
            return time.monotonic()
        del stream
        if leave == "garbage":
            gc.collect()
        began = time.monotonic()
        await asyncio.sleep(0.5)
        return began

    assert_left(server, asyncio.run(main()))


async def _consume(stream: AsyncStream[Chunk]) -> None:
    async for _ in stream:
        pass


def test_a_stream_that_is_never_iterated_sends_nothing(server: Loopback, make_model: MakeModel) -> None:
    """The request goes out at the first `next`: a stream that nobody reads costs nothing."""
    stream = make_model().codegen_stream("hi")
    time.sleep(0.1)
    del stream
    assert server.journal == []


def test_one_sample_that_breaks_leaves_the_others_be(server: Loopback, model: CodegenModel) -> None:
    """A broken stream among several is a failure of that sample alone."""
    server.script(faults.TruncatedStream(after_chunks=1), "fine", "fine")
    with pytest.raises(SamplesIncompleteError, match="2 of 3 samples arrived") as caught:
        list(model.codegen_stream("hi", num_samples=3, temperature=0.5))
    [(index, failure)] = caught.value.failures.items()
    assert isinstance(failure, StreamInterruptedError)
    assert failure.index == index
    assert failure.text == "This "
    assert {sample["response"] for sample in caught.value.trajectories.values()} == {"fine"}


def test_ctrl_c_ends_a_sync_call() -> None:
    """SIGINT in a blocking `codegen`: KeyboardInterrupt within a second, one request, which is closed."""
    script = """
        import os, signal, sys, threading, time
        from agentless.config import read_config
        from agentless.loopback import Loopback, Reply
        from agentless.util.model_factory import ModelFactory

        with Loopback() as server:
            table = {"name": "gpt-4", "provider": "openai", "api_key": "sk-x", "base_url": server.openai_url}
            model = ModelFactory(read_config({"models": {"m": table}})).create_model()
            model.codegen("warm up")
            server.reset()
            server.default = Reply("late", delay=30)
            sent = []
            def interrupt():
                server.wait_for(1)
                time.sleep(1)
                sent.append(time.monotonic())
                os.kill(os.getpid(), signal.SIGINT)
            threading.Thread(target=interrupt).start()
            try:
                model.codegen("hi")
            except KeyboardInterrupt:
                ended = time.monotonic()
            server.wait_for(lambda journal: journal[0].client_left is not None, timeout=2)
            [entry] = server.journal
            print(f"{ended - sent[0]:.3f} {entry.client_left - sent[0]:.3f}")
    """
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.stderr == ""
    ended, left = map(float, done.stdout.split())
    assert ended < 1.0
    assert left < 1.0


def test_ctrl_c_in_a_stream_ends_it(server: Loopback, make_model: MakeModel) -> None:
    """SIGINT while a blocking stream waits for its next piece stops it at the server."""
    model = make_model()
    list(model.codegen_stream("warm up"))
    server.reset()
    server.default = faults.Stall(after_chunks=1)
    began: list[float] = []

    def interrupt() -> None:
        server.wait_for(1)
        time.sleep(0.3)
        began.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        list(model.codegen_stream("hi"))
    thread.join()
    assert_left(server, began[0])


def test_nothing_is_left_on_the_engine(server: Loopback, model: CodegenModel) -> None:
    """After calls that ended well, badly and early, the engine has no task of theirs."""
    server.script("fine", faults.Status(400), ENDLESS)
    model.codegen("hi")
    with pytest.raises(Exception, match="400"):
        model.codegen("hi")
    next(model.codegen_stream("hi"))
    gc.collect()
    deadline = time.monotonic() + 2
    while bridge.engine().tasks and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not bridge.engine().tasks
