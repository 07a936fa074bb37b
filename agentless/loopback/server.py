"""`Loopback`: the server, its thread, and what a test says to it."""

import asyncio
import atexit
import os
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

from agentless.loopback.connections import Connection
from agentless.loopback.faults.fault import Fault
from agentless.loopback.journal import Entry, Journal
from agentless.loopback.provider import Provider
from agentless.loopback.replies import Usage
from agentless.loopback.script import Script, Step
from agentless.loopback.wire import Rules

_BACKLOG: Final = 1024
_BREATHER: Final = 0.05
"""Seconds until the next attempt when there are no file descriptors left."""


class Loopback:
    """A provider of completions on 127.0.0.1, for tests, demonstrations and benchmarks.

    Starts with `start()` or as a context manager, and ends with `close()`, which raises what a scripted
    callable raised. Scripted callables run in the server's thread: a slow one holds up every request (for
    a slow reply, return a `Reply` with a `delay`).

    Args:
        port: 0 for any free one.
        default: what to send when the script is at its end: any step. `None`: a text made from the last
            user message and the index of the choice.
        seed: for `sometimes`.
        context_size: longer prompts (with the reply's `max_tokens`) are refused.
        api_key: other keys are refused; `None` takes any key that is not empty.
        lenient: takes unknown fields, as vLLM does.
        ignores_n: sends one choice, whatever is asked for.
        max_n: sends at most so many choices, whatever is asked for.
        usage_unasked: streams in OpenAI's format have usage though it is not asked for, as Mistral's have.
        journal_size: how many of the latest requests the journal keeps.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        default: Step | None = None,
        seed: int = 0,
        context_size: int | None = None,
        api_key: str | None = None,
        lenient: bool = False,
        ignores_n: bool = False,
        max_n: int | None = None,
        usage_unasked: bool = False,
        journal_size: int = 100_000,
    ) -> None:
        rules = Rules(
            api_key=api_key,
            context_size=context_size,
            lenient=lenient,
            ignores_n=ignores_n,
            max_n=max_n,
            usage_unasked=usage_unasked,
        )
        self._provider = Provider(rules, Script(default, seed), Journal(journal_size))
        self._wanted_port = port
        self._connections_made = 0
        self._connections: set[Connection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    # What a test says

    def script(self, *steps: Step) -> Self:
        """Add steps: one per request that is not refused, in order of arrival.

        A step is a text, a `Reply`, a fault, a list of texts or replies (one per choice under native n; a
        shorter list is a service that returns fewer), or a callable that takes the `Entry` and returns one
        of these.
        """
        self._provider.script.extend(steps)
        return self

    @property
    def default(self) -> Step | None:
        """The step for requests after the script's end."""
        return self._provider.script.default

    @default.setter
    def default(self, step: Step | None) -> None:
        self._provider.script.default = step

    def sometimes(self, fault: Fault, probability: float) -> Self:
        """Play a fault at random, by the server's seed; the request then takes no step of the script."""
        self._provider.script.sometimes(fault, probability)
        return self

    def reset(self) -> None:
        """Forget script, default, journal, bill, prompt cache and errors; connections stay."""
        self._provider.reset()

    # What it tells a test

    @property
    def port(self) -> int:
        """The port it listens on."""
        if self._listener is None:
            raise RuntimeError("the loopback is not running: start() it, or use it as a context manager")
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def openai_url(self) -> str:
        """The base URL for OpenAI's format."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def anthropic_url(self) -> str:
        """The base URL for Anthropic's format."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def gemini_url(self) -> str:
        """The base URL for Gemini's format."""
        return f"http://127.0.0.1:{self.port}/v1beta"

    @property
    def journal(self) -> list[Entry]:
        """The requests so far, in order of arrival: a new list of the live entries."""
        return self._provider.journal.snapshot()

    def wait_for(self, condition: int | Callable[[list[Entry]], bool], timeout: float = 5.0) -> list[Entry]:
        """Block until there are so many requests, or the predicate holds for the journal; give the journal.

        Raises `TimeoutError` with the journal in it. In async code: `await asyncio.to_thread(...)`.
        """
        return self._provider.journal.wait_for(condition, timeout)

    @property
    def bill(self) -> dict[str, int]:
        """Tokens by kind over everything the service has charged.

        A request is charged when the headers of a 200 go out: in full, also if the reply is then cut,
        corrupt, empty or unwanted. What is refused, or broken before that, is not charged.
        """
        return sum(self._provider.bill().values(), Usage()).as_dict()

    @property
    def bill_by_model(self) -> dict[str, dict[str, int]]:
        """The bill of each model that was asked for."""
        return {model: usage.as_dict() for model, usage in self._provider.bill().items()}

    @property
    def connections_open(self) -> int:
        """How many connections clients hold now."""
        return len(self._connections)

    @property
    def connections_made(self) -> int:
        """How many connections there have been."""
        return self._connections_made

    # Life

    def start(self) -> Self:
        """Listen; a server that is running stays as it is."""
        if self._thread is not None:
            return self
        self._listener = socket.create_server(("127.0.0.1", self._wanted_port), backlog=_BACKLOG)
        self._listener.settimeout(0)
        # Not asyncio.run: the policy's loop may be another kind, debug mode would time scripted callables.
        self._loop = asyncio.SelectorEventLoop()
        self._loop.set_debug(False)
        self._stop = asyncio.Event()
        name = f"agentless-loopback-{self.port}"
        self._thread = threading.Thread(
            target=_serve, args=(self._loop, self._main(self._listener, self._stop)), name=name, daemon=True
        )
        _running.add(self)
        self._thread.start()
        return self

    def close(self) -> None:
        """End: connections are dropped, the thread is gone. Raises what scripted callables raised."""
        self._shut_down()
        errors, self._provider.errors = self._provider.errors, []
        if errors:
            for other in errors[1:]:
                errors[0].add_note(f"another error of the script: {other!r}")
            raise errors[0]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Exception as own:
            if error is None:
                raise
            error.add_note(f"the loopback's script had failed: {own!r}")

    def __repr__(self) -> str:
        state = "closed" if self._listener is None else f"on 127.0.0.1:{self.port}"
        return f"<Loopback {state}>"

    def _shut_down(self) -> None:
        _running.discard(self)
        thread, self._thread = self._thread, None
        if thread is None or self._loop is None or self._stop is None:
            return
        self._loop.call_soon_threadsafe(self._stop.set)
        thread.join()
        self._loop = self._stop = self._listener = None

    def _disown(self) -> None:
        """In a forked child: the parent serves. Copies of its sockets here would hide that it closed them."""
        for connection in self._connections:
            connection.sock.close()
        if self._listener is not None:
            self._listener.close()
        self._thread = self._listener = None
        self._connections = set()
        self._connecting = set()
        self._provider.disown()

    async def _main(self, listener: socket.socket, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(listener, self._accept, listener)
        await stop.wait()
        loop.remove_reader(listener)
        listener.close()
        await asyncio.gather(*self._connecting)
        tasks = [task for c in list(self._connections) if (task := c.drop()) is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        while self._connections:  # noqa: ASYNC110  # a turn or two of the loop, and all are told
            await asyncio.sleep(0)

    def _accept(self, listener: socket.socket) -> None:
        # Without a coroutine, which could be cancelled between accepting a socket and owning it.
        loop = asyncio.get_running_loop()
        try:
            sock, _ = listener.accept()
        except BlockingIOError:  # the client is gone again
            return
        except OSError:  # out of file descriptors: clients wait in the backlog
            loop.remove_reader(listener)
            loop.call_later(_BREATHER, self._accept_again, listener)
            return
        sock.settimeout(0)
        self._connections_made += 1
        lost = self._connections.discard
        connection = Connection(self._provider, self._connections_made, sock, lost)
        self._connections.add(connection)
        task = loop.create_task(_connect(connection))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def _accept_again(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)


def shared() -> Loopback:
    """The process's own server, started on first use: what `provider = "loopback"` talks to.

    A forked child gets one of its own. It ends with the process, silently.
    """
    global _shared  # noqa: PLW0603  # one per process is its point
    with _shared_lock:
        if _shared is None:
            _shared = Loopback()
        return _shared.start()


async def _connect(connection: Connection) -> None:
    await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, connection.sock)


def _serve(loop: asyncio.AbstractEventLoop, main: Any) -> None:
    try:
        loop.run_until_complete(main)
    finally:
        loop.close()


_running: set[Loopback] = set()
_shared: Loopback | None = None
_shared_lock = threading.Lock()


@atexit.register
def _close_all() -> None:
    # A client may still hold connections; what scripts raised is for those who close their server.
    for server in list(_running):
        server._shut_down()  # noqa: SLF001  # this module's own


def _after_fork() -> None:
    global _shared, _shared_lock
    for server in list(_running):
        server._disown()  # noqa: SLF001
    _running.clear()
    _shared, _shared_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
