"""Blocking and awaiting callers, from any thread and any event loop, onto one engine loop.

litellm does not survive several event loops in one process (1.105.3: its logging worker complains on
stderr, clients of a closed loop raise after the request was sent, so a retry pays twice). So every call
runs on one loop of our own, in one background thread, started at the first call. A caller waits for the
result (`run`), awaits it (`run_async`), or takes pieces as they come (`streams.py`).

Waits end with the caller: an exception that interrupts the wait (Ctrl-C), a cancelled task, or a
stream that is dropped cancels the work on the engine at once.
"""

import asyncio
import concurrent.futures
import contextvars
import os
import queue
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Generic, TypeVar

from agentless.llm import exits

T = TypeVar("T")

_lock = threading.Lock()
_engine: "Engine | None" = None
_MOST_WORKERS = 32

_closers: list[Callable[[], Coroutine[Any, Any, None]]] = []
_fork_hooks: list[Callable[[], None]] = []


def engine() -> "Engine":
    """The process's engine, started if it is not running."""
    global _engine  # noqa: PLW0603  # one engine a process is the point
    with _lock:
        if _engine is None or _engine.closed:
            _engine = Engine()
        return _engine


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` on the engine and block until it is done.

    Raises: whatever `work` raises. An exception that interrupts the wait cancels `work` and passes on.
    """
    job = engine().submit(work)
    try:
        return job.future.result()
    except BaseException:
        job.cancel()
        raise


async def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` on the engine and await it from the caller's loop; cancellation passes through."""
    job = engine().submit(work)
    try:
        return await asyncio.wrap_future(job.future)
    finally:
        job.cancel()


async def in_own_thread(work: Callable[[], T]) -> T:
    """`work()`, awaited on the engine, in a thread that is there for nothing else."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001  # who awaits gets it
            failure = error
        with suppress(RuntimeError):  # the loop has closed meanwhile
            loop.call_soon_threadsafe(_settle, future, result, failure)

    threading.Thread(target=run, name="agentless-tool", daemon=True).start()
    return await future


def on_exit(closer: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Have the engine await `closer()` before it stops (connections are closed on their own loop)."""
    if closer not in _closers:
        _closers.append(closer)


def on_fork(hook: Callable[[], None]) -> None:
    """Have `hook()` run in a forked child, before anything else can use the engine there."""
    _fork_hooks.append(hook)


class Job(Generic[T]):
    """Work submitted to the engine: `future` is its outcome, `cancel` ends it (from any thread)."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._loop = loop
        self._task: asyncio.Task[T] | None = None
        self._cancelled = False

    def start(self, work: Coroutine[Any, Any, T], engine: "Engine") -> None:
        """Begin `work` (called on the engine's loop)."""
        self._task = self._loop.create_task(work)
        engine.tasks.add(self._task)
        self._task.add_done_callback(lambda task: self._finish(task, engine))

    def cancel(self) -> None:
        """Cancel the work if it still runs: once, because a second time would cut its clean-up short."""
        if self._cancelled or (self._task is not None and self._task.done()):
            return
        self._cancelled = True
        try:
            self._loop.call_soon_threadsafe(lambda: self._task.cancel() if self._task else None)
        except RuntimeError:  # the loop is closed: the work ended with it
            return

    def _finish(self, task: "asyncio.Task[T]", engine: "Engine") -> None:
        engine.tasks.discard(task)
        if engine.closing:
            # At exit only daemon threads can still wait: an answer now would print their tracebacks.
            if not task.cancelled():
                task.exception()
            return
        if not self.future.set_running_or_notify_cancel():
            if not task.cancelled():
                task.exception()
            return
        if task.cancelled():
            self.future.set_exception(concurrent.futures.CancelledError())
        elif (error := task.exception()) is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(task.result())


class Engine:
    """One event loop in one daemon thread."""

    def __init__(self) -> None:
        self.loop = _EngineLoop()
        self.loop.slow_callback_duration = 5.0  # litellm's first calls import for 0.3 s: no news
        self.tasks: set[asyncio.Task[Any]] = set()
        self.closing = False
        self.closed = False
        self._thread = threading.Thread(target=self._run, name="agentless-engine", daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, T]) -> Job[T]:
        """Start `work` in the caller's context; returns at once.

        Raises:
            RuntimeError: called on the engine's own loop, or at interpreter exit.
        """
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("a blocking call from the engine's own loop would wait for itself")
        job: Job[T] = Job(self.loop)
        context = contextvars.copy_context()
        try:
            self.loop.call_soon_threadsafe(job.start, work, self, context=context)
        except RuntimeError:
            work.close()
            raise RuntimeError("the interpreter is shutting down: no new calls") from None
        return job

    def close(self) -> None:
        """Cancel what runs, close the clients, stop the loop and join its thread."""
        self.closing = True
        if not self._thread.is_alive():
            return
        self.loop.call_soon_threadsafe(self._begin_close)
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.closed = True
            self.loop.close()

    def _begin_close(self) -> None:
        self._closing_task = self.loop.create_task(self._wind_down())

    async def _wind_down(self) -> None:
        try:
            async with asyncio.timeout(2.0):
                for task in list(self.tasks):
                    task.cancel()
                await asyncio.gather(*self.tasks, return_exceptions=True)
                for closer in _closers:
                    await closer()
                rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
                for task in rest:
                    task.cancel()
                await asyncio.gather(*rest, return_exceptions=True)
                await self.loop.shutdown_asyncgens()
        except TimeoutError:
            pass  # a worker that does not end is cut off with the process, not waited for
        finally:
            self.loop.stop()


class _EngineLoop(asyncio.SelectorEventLoop):
    """An event loop whose blocking work is its own business.

    asyncio's default executor refuses work once the main thread has ended, while a pool of callers still
    has paid calls to make; and a call that is cancelled while litellm builds its coroutine in a thread
    leaves that coroutine behind, with a warning on stderr.
    """

    def __init__(self) -> None:
        super().__init__()
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._workers = 0
        self._unfinished = 0

    def run_in_executor(  # type: ignore[override]  # typeshed's variadics, for what we pass on as it is
        self,
        executor: Any,  # noqa: ARG002  # there is only this one
        func: Any,
        *args: Any,
    ) -> "asyncio.Future[Any]":
        """`func(*args)` in a worker thread."""
        future = self.create_future()

        def work() -> None:
            result, failure = None, None
            try:
                result = func(*args)
            except BaseException as error:  # noqa: BLE001  # as above
                failure = error
            try:
                self.call_soon_threadsafe(self._finish, future, result, failure)
            except RuntimeError:  # the loop has closed meanwhile
                _settle(None, result, failure)

        # Counted on the loop's thread alone: nothing waits behind a worker that only seems to be idle.
        self._unfinished += 1
        self._work.put(work)
        if self._unfinished > self._workers and self._workers < _MOST_WORKERS:
            self._workers += 1
            threading.Thread(target=self._serve, name="agentless-worker", daemon=True).start()
        return future

    def _finish(self, future: "asyncio.Future[Any]", result: Any, failure: BaseException | None) -> None:
        self._unfinished -= 1
        _settle(future, result, failure)

    def _serve(self) -> None:
        while True:
            self._work.get()()


def _settle(future: "asyncio.Future[Any] | None", result: Any, failure: BaseException | None) -> None:
    if future is None or future.done():
        if asyncio.iscoroutine(result):
            result.close()
    elif failure is not None:
        future.set_exception(failure)
    else:
        future.set_result(result)


def _close_when_alone() -> None:
    """Stop the engine when every other thread that keeps the interpreter alive has ended.

    Worker threads of a pool still finish their queue after the main thread's last line, and their
    replies are paid for: the engine has to outlive them.
    """
    while others := [
        thread
        for thread in threading.enumerate()
        if not thread.daemon and thread not in {threading.current_thread(), threading.main_thread()}
    ]:
        for thread in others:
            thread.join()
    if _engine is not None:
        _engine.close()


def _at_exit() -> None:
    if _engine is not None and not _engine.closed:
        threading.Thread(target=_close_when_alone, name="agentless-exit").start()


def _after_fork() -> None:
    global _engine, _lock  # noqa: PLW0603  # a forked child has none of the parent's threads
    _engine = None
    _lock = threading.Lock()
    for hook in _fork_hooks:
        hook()


exits.before_threads_are_joined(_at_exit)
os.register_at_fork(after_in_child=_after_fork)
