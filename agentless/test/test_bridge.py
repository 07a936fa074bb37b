"""Callers of every kind on the one engine loop: results, exceptions, pieces, and the end."""

import asyncio
import concurrent.futures
import contextvars
import gc
import inspect
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from agentless.llm import bridge
from agentless.llm.bridge import engine
from agentless.llm.streams import AsyncStream, Pipe, Stream

name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")

Emit = Callable[[int], None]


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """The engine has no work of a test's when that is over."""
    yield
    gc.collect()
    deadline = time.monotonic() + 2
    while engine().tasks and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not engine().tasks


def numbers(count: int, pause: float = 0.0, failure: Exception | None = None) -> Callable[[Emit], Any]:
    """Work that emits so many numbers, and may fail after them."""

    async def produce(emit: Emit) -> None:
        for number in range(count):
            emit(number)
            if pause:
                await asyncio.sleep(pause)
        if failure is not None:
            raise failure

    return produce


class Endless:
    """Work that emits one number and goes on until it is cancelled; it counts how often it was."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.ended = threading.Event()
        self.cancelled = 0

    async def __call__(self, emit: Emit) -> None:
        """Emit a first number and wait."""
        emit(0)
        await self.wait()

    async def wait(self) -> None:
        """Wait for the cancellation, and take some time over it."""
        self.started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled += 1
            try:
                await asyncio.sleep(0.05)  # a second cancellation would cut this short
            except asyncio.CancelledError:
                self.cancelled += 1
            raise
        finally:
            self.ended.set()


async def fail(error: BaseException) -> None:
    """Raise it."""
    raise error


async def get(value: Any) -> Any:
    """Give it back."""
    return value


# One result


def test_a_result_and_an_exception_come_back() -> None:
    """What the work returns or raises is what the caller gets, the same object."""
    value, error = object(), ValueError("x")
    assert bridge.run(get(value)) is value
    assert asyncio.run(bridge.run_async(get(value))) is value
    with pytest.raises(ValueError, match="x") as caught:
        bridge.run(fail(error))
    assert caught.value is error
    with pytest.raises(ValueError, match="x") as caught:
        asyncio.run(bridge.run_async(fail(ValueError("x"))))


def test_all_work_runs_on_one_loop() -> None:
    """From any thread and any loop: connections and limits are of the process."""

    async def where() -> tuple[int, int]:
        return id(asyncio.get_running_loop()), threading.get_ident()

    async def from_a_loop() -> Any:
        return await asyncio.gather(*(bridge.run_async(where()) for _ in range(8)))

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        places = list(pool.map(lambda _: bridge.run(where()), range(64)))
        for found in pool.map(lambda _: asyncio.run(from_a_loop()), range(8)):
            places += found
    assert len(set(places)) == 1
    assert places[0][1] != threading.get_ident()


def test_context_goes_along() -> None:
    """The work sees the context variables of its caller, and each caller's own."""

    async def read() -> str:
        return name.get()

    async def produce(emit: Callable[[str], None]) -> None:
        emit(name.get())

    token = name.set("main")
    try:
        assert bridge.run(read()) == "main"
        assert asyncio.run(bridge.run_async(read())) == "main"
        assert list(Stream(produce)) == ["main"]
        other = contextvars.Context()
        assert other.run(bridge.run, read()) == "nobody"
    finally:
        name.reset(token)


def test_what_the_work_sets_stays_with_it() -> None:
    """A context variable that the work sets is not set at the caller, nor in other work."""

    async def change() -> None:
        name.set("changed")

    bridge.run(change())
    assert name.get() == "nobody"
    assert bridge.run(get(None)) is None


def test_a_blocking_call_on_the_engine_is_refused() -> None:
    """It would wait for itself for ever; the work that it brought is closed without a warning."""

    async def inside() -> None:
        bridge.run(get(1))

    with pytest.raises(RuntimeError, match="engine's own loop"):
        bridge.run(inside())


def test_an_interrupted_wait_cancels_the_work() -> None:
    """Ctrl-C while a caller waits: the work ends, once, and with time to clean up."""
    work = Endless()
    interrupted: list[BaseException] = []

    class InterruptedFuture(concurrent.futures.Future[Any]):
        def result(self, timeout: float | None = None) -> Any:
            del timeout
            work.started.wait(5)
            raise KeyboardInterrupt

    real = bridge.Job.__init__

    def init(self: Any, loop: Any) -> None:
        real(self, loop)
        self.future = InterruptedFuture()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bridge.Job, "__init__", init)
        try:
            bridge.run(work.wait())
        except KeyboardInterrupt as error:
            interrupted.append(error)
    assert interrupted
    assert work.ended.wait(2)
    assert work.cancelled == 1


def test_a_cancelled_task_cancels_the_work_once() -> None:
    """Cancellation passes through to the engine, and a second one does not cut the clean-up short."""
    work = Endless()

    async def main() -> None:
        task = asyncio.create_task(bridge.run_async(work.wait()))
        await asyncio.to_thread(work.started.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert work.ended.wait(2)
    assert work.cancelled == 1


def test_work_that_is_cancelled_before_it_began_does_not_begin() -> None:
    """Cancelling in the moment between submission and start is a cancellation all the same."""
    began: list[int] = []
    gate = threading.Event()

    async def work() -> None:
        began.append(1)
        await asyncio.sleep(60)

    engine().loop.call_soon_threadsafe(gate.wait, 2)  # nothing starts while the loop is held
    job = engine().submit(work())
    job.cancel()
    gate.set()
    with pytest.raises(concurrent.futures.CancelledError):
        job.future.result(2)
    assert began == []


def test_cancelling_what_is_over_does_nothing() -> None:
    """A late cancellation neither raises nor changes the result."""
    job = engine().submit(get(7))
    assert job.future.result(2) == 7
    job.cancel()
    job.cancel()
    assert job.future.result(0) == 7


# Pieces


def test_pieces_come_in_order_and_end() -> None:
    """All that was emitted, then the end, again and again."""
    stream = Stream(numbers(100))
    assert list(stream) == list(range(100))
    assert list(stream) == []
    with pytest.raises(StopIteration):
        next(stream)

    async def collect() -> list[int]:
        return [number async for number in AsyncStream(numbers(100, pause=0.0001))]

    assert asyncio.run(collect()) == list(range(100))


def test_pieces_that_are_there_are_handed_over_together() -> None:
    """A consumer that is behind is not woken for each piece: one wake-up for all that has come."""
    wakes: list[int] = []
    pipe: Pipe[int] = Pipe(numbers(1000))
    pipe.start()
    taken: list[int] = []
    deadline = time.monotonic() + 5
    while not pipe.ended and time.monotonic() < deadline:
        arrived = threading.Event()

        def wake(arrived: threading.Event = arrived) -> None:
            wakes.append(1)
            arrived.set()

        piece = pipe.take(wake)
        if piece is not None:
            taken.append(piece)
        elif not pipe.ended:
            arrived.wait(1)
    assert taken == list(range(1000))
    assert len(wakes) <= 3  # the first piece, perhaps the rest, the end


def test_no_piece_takes_more_than_one_wake_up() -> None:
    """Even where each piece is waited for, there is one thread hop for it and one for the end."""
    calls = 0
    real = engine().loop.call_soon_threadsafe

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return real(*arguments, **options)

    async def main() -> int:
        nonlocal calls
        loop = asyncio.get_running_loop()
        own = loop.call_soon_threadsafe
        hops = 0

        def hop(*arguments: Any, **options: Any) -> Any:
            nonlocal hops
            hops += 1
            return own(*arguments, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "call_soon_threadsafe", hop)
            patch.setattr(engine().loop, "call_soon_threadsafe", counted)
            assert [number async for number in AsyncStream(numbers(50, pause=0.002))] == list(range(50))
        return hops

    assert asyncio.run(main()) <= 51
    assert calls == 1  # the start


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_failure_comes_after_the_pieces_before_it(count: int) -> None:
    """The consumer gets all that had come, and then the exception itself, once."""
    error = ValueError("the producer's")
    stream = Stream(numbers(count, failure=error))
    taken: list[int] = []
    with pytest.raises(ValueError, match="producer") as caught:
        taken.extend(stream)
    assert caught.value is error
    assert list(Stream(numbers(count))) == list(range(count))
    assert list(stream) == []

    async def collect() -> list[int]:
        stream = AsyncStream(numbers(count, failure=ValueError("producer")))
        found = [await anext(stream) for _ in range(count)]
        with pytest.raises(ValueError, match="producer"):
            await anext(stream)
        assert [number async for number in stream] == []
        return found

    assert asyncio.run(collect()) == list(range(count))


def test_nothing_begins_before_the_first_next() -> None:
    """A stream that nobody reads does no work, and closing it is no error."""
    begun: list[int] = []

    async def produce(emit: Emit) -> None:
        begun.append(1)
        emit(1)

    for make in (Stream[int], AsyncStream[int]):
        stream = make(produce)
        del stream
    closed = Stream(produce)
    closed.close()
    assert list(closed) == []
    gc.collect()
    time.sleep(0.02)
    assert begun == []


@pytest.mark.parametrize("leave", ["close", "with", "exception", "del", "cycle"])
def test_leaving_a_stream_cancels_its_work_once(leave: str) -> None:
    """However it is left; in a cycle, when the garbage is collected."""
    work = Endless()
    stream = Stream(work)
    assert next(stream) == 0
    if leave == "close":
        stream.close()
        stream.close()
        assert list(stream) == []
    elif leave == "with":
        with stream:
            pass
    elif leave == "exception":
        with pytest.raises(ZeroDivisionError), stream:
            raise ZeroDivisionError
    elif leave == "del":
        del stream
    else:
        ring: list[Any] = [stream]
        ring.append(ring)
        del stream, ring
        gc.collect()
    assert work.ended.wait(2)
    assert work.cancelled == 1


def test_garbage_collected_inside_the_pipe_does_not_block_it() -> None:
    """A collection while a piece is emitted may finalise that very pipe's stream, on the engine's thread."""
    ended = threading.Event()
    holder: list[Any] = []

    async def produce(emit: Emit) -> None:
        try:
            for number in range(1000):
                with stream_pipe._lock:  # as inside `_emit`
                    if number == 10:
                        holder.clear()
                        gc.collect()
                    emit(number)
                await asyncio.sleep(0)
        finally:
            ended.set()

    holder.append(Stream(produce))
    stream_pipe = holder[0]._pipe
    assert next(holder[0]) == 0
    assert ended.wait(2)


def test_a_stream_closed_by_another_thread_ends_the_one_that_waits() -> None:
    """A consumer that waits for the next piece is not left waiting."""
    work = Endless()
    stream = Stream(work)
    assert next(stream) == 0
    closing = threading.Timer(0.05, stream.close)
    closing.start()
    assert list(stream) == []
    closing.join()


def test_nothing_comes_after_closing() -> None:
    """What the work emits while its cancellation is on its way reaches nobody."""
    closed, emitted = threading.Event(), threading.Event()

    async def produce(emit: Emit) -> None:
        emit(0)
        closed.wait(5)  # on the loop: the cancellation cannot come in between
        emit(1)
        emitted.set()

    stream = Stream(produce)
    assert next(stream) == 0
    stream.close()
    closed.set()
    assert emitted.wait(2)
    assert list(stream) == []


def test_an_async_stream_outlives_its_loop() -> None:
    """A loop that is closed while its stream goes on: no exception on the engine, and the work ends."""
    work = Endless()
    kept: list[AsyncStream[int]] = []

    async def begin() -> None:
        stream = AsyncStream(work)
        assert await anext(stream) == 0
        kept.append(stream)

    asyncio.run(begin())
    kept.clear()
    assert work.ended.wait(2)


def test_a_slow_consumer_does_not_hold_up_the_producer() -> None:
    """The provider is read as fast as it sends, so that nobody is taken for stalled."""
    done = threading.Event()

    async def produce(emit: Emit) -> None:
        for number in range(5000):
            emit(number)
        done.set()

    stream = Stream(produce)
    assert next(stream) == 0
    assert done.wait(2)
    assert list(stream) == list(range(1, 5000))


# The executor


def on_the_engine(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run it there."""
    return bridge.run(work())


def test_blocking_work_runs_beside_the_loop() -> None:
    """As much of it at once as is asked for, and the loop goes on meanwhile."""
    barrier = threading.Barrier(8)

    async def work() -> list[int]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(None, barrier.wait, 5) for _ in range(8)))

    for _ in range(20):  # workers that are idle are used again, and none is waited behind
        assert sorted(on_the_engine(work)) == list(range(8))
    workers = [thread for thread in threading.enumerate() if thread.name == "agentless-worker"]
    assert len(workers) <= bridge._MOST_WORKERS


def test_exceptions_of_blocking_work_come_back() -> None:
    """The awaiting caller gets them."""

    def explode() -> None:
        raise ZeroDivisionError

    async def work() -> None:
        await asyncio.get_running_loop().run_in_executor(None, explode)

    with pytest.raises(ZeroDivisionError):
        on_the_engine(work)


def test_a_coroutine_that_nobody_awaits_any_more_is_closed() -> None:
    """A call that is cancelled while litellm builds its coroutine in a thread leaves no warning."""
    release = threading.Event()
    made: list[Any] = []

    def build() -> Any:
        release.wait(5)
        made.append(get(1))
        return made[-1]

    async def work() -> None:
        waiting = asyncio.get_running_loop().run_in_executor(None, build)
        await asyncio.sleep(0.02)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        release.set()

    on_the_engine(work)
    deadline = time.monotonic() + 2
    while (
        not made or inspect.getcoroutinestate(made[0]) != inspect.CORO_CLOSED
    ) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert inspect.getcoroutinestate(made[0]) == inspect.CORO_CLOSED


def python(script: str) -> str:
    """What a script of its own prints; it must not say anything on stderr."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


def test_a_pool_outlives_the_main_thread() -> None:
    """Worker threads finish their queue after the main thread's last line, blocking work included."""
    script = """
        import asyncio, threading, time
        from agentless.llm import bridge, streams

        async def work():
            await asyncio.sleep(0.05)
            return await asyncio.get_running_loop().run_in_executor(None, lambda: "done")

        def later():
            threading.main_thread().join()
            print(bridge.run(work()), list(streams.Stream(produce)))

        async def produce(emit):
            emit(1)
            await asyncio.sleep(0.01)
            emit(2)

        bridge.run(work())
        threading.Thread(target=later).start()
    """
    assert python(script) == "done [1, 2]\n"


def test_what_still_runs_at_exit_is_ended_in_silence() -> None:
    """Work, streams and daemon threads that wait: no traceback, no warning, no delay."""
    script = """
        import asyncio, threading, time
        from agentless.llm import bridge, streams

        async def endless(emit=None):
            if emit:
                emit(0)
            try:
                await asyncio.sleep(60)
            finally:
                print("ended", flush=True)

        async def closer():
            print("closed", flush=True)

        bridge.on_exit(closer)
        bridge.on_exit(closer)
        stream = streams.Stream(endless)
        next(stream)
        threading.Thread(target=lambda: bridge.run(endless()), daemon=True).start()
        time.sleep(0.2)
    """
    began = time.monotonic()
    assert python(script) == "ended\nended\nclosed\n"
    assert time.monotonic() - began < 10


def test_a_child_gets_an_engine_of_its_own() -> None:
    """After a fork the parent's loop is not used, and what is to be forgotten is forgotten first."""
    script = """
        import os, sys, warnings
        warnings.simplefilter("ignore")
        from agentless.llm import bridge

        async def work():
            return os.getpid()

        hooks = []
        bridge.on_fork(lambda: hooks.append(1))
        assert bridge.run(work()) == os.getpid()
        parents = bridge.engine()
        child = os.fork()
        if child == 0:
            ok = bridge.run(work()) == os.getpid() and bridge.engine() is not parents and hooks == [1]
            sys.stdout.write(f"child {ok}\\n")
            sys.stdout.flush()
            os._exit(0)
        os.waitpid(child, 0)
        print("parent", bridge.run(work()) == os.getpid(), hooks)
    """
    assert python(script) == "child True\nparent True []\n"
