"""litellm, imported without its side effects and with its connections watched."""

import asyncio
import atexit
import concurrent.futures.thread  # noqa: F401  # see `_wait`
import copy
import gc
import importlib
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx

from agentless.errors import UnsupportedLitellmError
from agentless.llm import bridge, reaches, secrets, watch, wire
from agentless.llm.tokens import load_tables

# Set around the import and taken back after it. The cost map is else fetched from the network at import
# (a trickling server hung it for over 60 s), a `.env` is loaded from a folder above site-packages, and
# 101 logging threads are made ready.
_IMPORT_ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_MODE": "PRODUCTION",
    "LOGGING_EXECUTOR_MAX_THREADS": "1",
}
# The import sets it at first use of a tokenizer, which `load` brings about.
_SET_BY_LITELLM = "TIKTOKEN_CACHE_DIR"
_IMPORT_LOGGERS = ("httpx", "apscheduler.executors.default", "apscheduler.scheduler")
# They write every request to stderr or stdout at INFO, with handlers of their own, and the headers too at
# DEBUG; an application that wants that sets their level itself.
_LOUD_LOGGERS = ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy", "openai")

_lock = threading.Lock()
_warming = asyncio.Lock()
_litellm: Any = None
_client: Any = None
_thread: threading.Thread | None = None
_loader: int | None = None
_is_held = False
_is_tested = True
_refusal: UnsupportedLitellmError | None = None


def load() -> Any:
    """litellm, imported at the first call (2-3 s) without a trace in logging, warnings, environment.

    Thread-safe; an application that imported litellm before keeps its own settings, apart from those
    that keep litellm quiet and from sending requests again.
    """
    if _litellm is None:
        with _lock:
            _load_locked()
    return _litellm


def _load_locked() -> None:
    global _litellm, _loader  # noqa: PLW0603  # imported once, lazily
    if _litellm is not None:
        return
    _loader = threading.get_ident()
    with _no_collections(), _no_traces(), _ignoring():
        import litellm

        # What the first call would do on the engine's loop, in 0.3 s; and schemas that are built
        # at first use, with a warning that only the import's own filters hide.
        for name in reaches.WARM_MODULES:
            with suppress(ImportError):
                importlib.import_module(name)
        litellm.ModelResponse()
        litellm.ModelResponseStream()
        _set_up(litellm)
    load_tables()
    _litellm = litellm


def begin() -> None:
    """Let a thread `load` meanwhile. A fork, and the interpreter's end, wait for it."""
    global _thread  # noqa: PLW0603  # one is enough
    if not _lock.acquire(blocking=False):
        return  # somebody loads already
    if _litellm is not None or _thread is not None:
        _lock.release()
        return
    # No daemon: one that is ended within an extension module takes the process with it. The lock goes to the
    # thread as it is: a fork may come before its first step.
    _thread = threading.Thread(target=_load_and_unlock, args=(_lock,), name="agentless-import", daemon=False)
    try:
        _thread.start()
    except RuntimeError:  # no thread to be had: the first call loads
        _lock.release()


def _load_and_unlock(lock: threading.Lock) -> None:
    try:
        with suppress(Exception):  # the first call tries again, and tells
            _load_locked()
    finally:
        lock.release()


def _wait() -> None:
    # A child would have the half of it, and the import system's locks, which nobody opens. (What the import
    # itself registers for forks comes too late: `concurrent.futures.thread` does, so it is imported above.)
    global _is_held  # noqa: PLW0603  # from before a fork to after it
    _is_held = _loader != threading.get_ident() and _lock.acquire()


def _go_on() -> None:
    if _is_held:
        _lock.release()


os.register_at_fork(before=_wait, after_in_parent=_go_on)


def is_loaded() -> bool:
    """Claims that `load` has nothing left to do."""
    return _litellm is not None


def is_tested() -> bool:
    """Claims that this litellm is one of those that were tested; else it does everything itself."""
    return _is_tested


async def warm() -> None:
    """Import litellm off the loop, so that the first call's deadline does not pay for it.

    Raises:
        UnsupportedLitellmError: litellm does not send by our connection.
    """
    if not is_loaded():
        async with _warming:  # one of the engine's threads is enough
            if not is_loaded():
                await _load_in_thread()
    if _refusal is not None:
        raise copy.copy(_refusal)  # each call its own, with its own traceback


async def _load_in_thread() -> None:
    """`load` off the loop, in a thread that the interpreter's end waits for.

    Cut off within an import, a daemon keeps that module's lock; who imports it at the end (litellm's clients
    do, when they are torn down) then waits for ever. So after Ctrl-C in the first call the rest of the
    import, some 2 s, is waited for.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[None] = loop.create_future()

    def tell(error: BaseException | None) -> None:
        if not outcome.done():
            outcome.set_result(None) if error is None else outcome.set_exception(error)

    def work() -> None:
        failure = None
        try:
            load()
        except BaseException as error:  # noqa: BLE001  # the awaiting call gets it
            failure = error
        with suppress(RuntimeError):  # the loop has closed meanwhile
            loop.call_soon_threadsafe(tell, failure)

    threading.Thread(target=work, name="agentless-import", daemon=False).start()  # the engine's is one
    await outcome


@contextmanager
def _no_collections() -> Iterator[None]:
    """One garbage collection after the import instead of many in it, and none of what it made.

    The import makes 370,000 objects that stay. Collections that look through them in vain take a quarter of
    its time; and later each full one stops all calls and streams for 0.3 s, and with 256 callers takes a
    third of the time. So what is there after the import is frozen: it is freed by its reference counts as
    ever, but a cycle that was there already, and is given up later, stays.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
            gc.collect()
            gc.freeze()


@contextmanager
def _no_traces() -> Iterator[None]:
    environment = {name: os.environ.get(name) for name in (*_IMPORT_ENVIRONMENT, _SET_BY_LITELLM)}
    is_first = "litellm" not in sys.modules
    filters = list(warnings.filters)
    levels = {name: logging.getLogger(name).level for name in _IMPORT_LOGGERS}
    os.environ.update(_IMPORT_ENVIRONMENT)
    for logger in map(logging.getLogger, _LOUD_LOGGERS):
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for name in _LOUD_LOGGERS if is_first else ():
            logging.getLogger(name).handlers.clear()
        # Only what the import added: an application's filters may have changed meanwhile.
        for entry in [entry for entry in warnings.filters if entry not in filters]:
            warnings.filters.remove(entry)  # type: ignore[attr-defined]  # typed as a Sequence
        warnings._filters_mutated()  # type: ignore[attr-defined]  # noqa: SLF001  # else stale caches


# pydantic says so where litellm's modules make their schemas: some at the import, others at a first call.
_READ_ONLY = r"Items? .* using the `ReadOnly` qualifier"
_quiet_kinds: set[Any] = set()


@contextmanager
def no_warnings(kind: Hashable) -> Iterator[None]:
    """Within it, the first time for calls of this `kind`, pydantic does not warn of litellm's schemas."""
    if kind in _quiet_kinds:
        yield
        return
    _quiet_kinds.add(kind)
    with _ignoring():
        yield


@contextmanager
def _ignoring() -> Iterator[None]:
    # `catch_warnings` would put back what another thread has changed meanwhile.
    filters: list[Any] = warnings.filters  # type: ignore[assignment]  # typed as a Sequence
    entry = ("ignore", re.compile(_READ_ONLY), UserWarning, None, 0)
    filters.insert(0, entry)
    warnings._filters_mutated()  # type: ignore[attr-defined]  # noqa: SLF001  # else stale caches
    try:
        yield
    finally:
        with suppress(ValueError):  # an application has put its own back
            warnings.filters.remove(entry)  # type: ignore[attr-defined]  # as above
        warnings._filters_mutated()  # type: ignore[attr-defined]  # noqa: SLF001  # as above


def _set_up(litellm: Any) -> None:
    global _is_tested, _refusal  # noqa: PLW0603  # found out once, at the import
    from agentless.llm.failures import let_errors_travel  # it imports this module

    litellm.suppress_debug_info = True  # banners on stdout
    litellm.disable_streaming_logging = True
    litellm.REPEATED_STREAMING_CHUNK_LIMIT = sys.maxsize  # 100 equal chunks in a row were an error
    litellm.disable_stop_sequence_limit = True  # else more than 4 are cut in silence; options.py counts
    if getattr(litellm, "disable_hf_tokenizer_download", None) is None:
        # Pricing a stream before it begins, litellm counts the tokens of an empty text, for Llama and
        # Command R with a tokenizer that it downloads: on the loop, 23-46 s where the host is out of reach.
        litellm.disable_hf_tokenizer_download = True
    let_errors_travel()
    secrets.watch_logs()
    watch.set_up()
    reaches.AIOHTTP_END.replace(_in_silence)
    _is_tested = watch.warn_of_version()
    _refusal = watch.check()
    bridge.on_exit(_close_clients)
    # Tearing down litellm's modules takes over a second; frozen objects are not looked at (0.15 s).
    atexit.register(gc.freeze)


def _in_silence(end: Any) -> Any:
    """A `__del__` that does not complain where its module's names are gone, as at a forked child's end."""

    def end_in_silence(self: Any) -> None:
        try:  # noqa: SIM105  # no name of this module's is there then either
            end(self)
        except Exception:  # noqa: BLE001, S110  # as above
            pass

    return end_in_silence


def transport_to(url: httpx.URL) -> wire.WatchedTransport:
    """The connections to `url`, with the certificates and proxies that litellm's own clients would use."""
    global _client  # noqa: PLW0603  # one a process
    if _client is None or _client.client.is_closed:
        _client = reaches.CLIENT.find()(timeout=None)
    transport = _client.client._transport_for_url(url)  # noqa: SLF001  # by the proxies' patterns
    if not isinstance(transport, wire.WatchedTransport):
        raise TypeError(f"litellm's connections to {url.host} are not ours: {type(transport).__name__}")
    return transport


async def _close_clients() -> None:
    close = reaches.CLOSE_CLIENTS.find()
    if close is not None:
        await close()
    if _client is not None:
        await _client.client.aclose()


_graveyard: list[Any] = []


def _forget_clients() -> None:
    """In a forked child: the parent's connections are not ours to use, nor to close."""
    global _lock, _warming, _client  # noqa: PLW0603  # another thread of the parent may have held them
    _lock, _warming = threading.Lock(), asyncio.Lock()
    _graveyard.append(_client)
    _client = None
    if _litellm is None:
        return
    cache = reaches.CLIENTS.find()
    for name in ("cache_dict", "ttl_dict"):
        if hasattr(cache, name):
            _graveyard.append(dict(getattr(cache, name)))
            getattr(cache, name).clear()
    worker = reaches.LOGGING_WORKER.find()
    for name, make in reaches.WORKER_FIELDS.items():
        if hasattr(worker, name):
            _graveyard.append(getattr(worker, name))
            setattr(worker, name, None if make is None else make())


bridge.on_fork(_forget_clients)
