"""Many calls at many random faults: each ends well or in a typed error, and nothing is left over."""

import asyncio
import concurrent.futures
import gc
import random
import re
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import openai
import pytest

from agentless.config import read_config
from agentless.errors import AgentlessError
from agentless.llm import bridge
from agentless.llm.codegen import CodegenModel
from agentless.loopback import Entry, Loopback, faults
from agentless.test.ways import KEY, MODELS, PROVIDERS
from agentless.util.model_factory import ModelFactory

FAULTS = (
    faults.Status(500),
    faults.Status(502),
    faults.Status(503),
    faults.Status(529),
    faults.Reset("request"),
    faults.Reset("body", after_chunks=2),
    faults.CleanClose("request"),
    faults.CleanClose("stream", after_chunks=3),
    faults.HalfHeaders(),
    faults.Garbage(),
    faults.CutBody(after_chunks=2),
    faults.TruncatedStream(after_chunks=2),
    faults.CorruptEvent(at=2),
    faults.ErrorEvent(at=1),
    faults.EmptyText(),
    faults.EmptyChoices(),
    faults.MalformedBody(),
    faults.Status(400),
)
RATE = 0.3
TYPED = (openai.OpenAIError, AgentlessError)
SETTINGS = {
    "num_retries": 2,
    "retry_min_wait": 0.0,
    "retry_max_wait": 0.01,
    "timeout": 20,
    "temperature": 0.5,
    "max_concurrency": 16,
}


@dataclass
class Tally:
    """What came of the calls."""

    good: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def text(self, prompt: str, text: str) -> None:
        """A call that ended with this text."""
        with self.lock:
            self.good += 1
            if text != answer(prompt):
                self.wrong.append(f"{prompt}: {text!r}")

    def error(self, prompt: str, error: BaseException) -> None:
        """A call that ended so; its note says how many attempts there were."""
        with self.lock:
            self.errors[type(error).__name__] += 1
            notes = " ".join(getattr(error, "__notes__", ()))
            if not isinstance(error, TYPED) or re.search(r"\b[1-3] attempts? in", notes) is None:
                self.wrong.append(f"{prompt}: {error!r} {notes}")


def answer(prompt: str) -> str:
    """What the server says to it."""
    return f"one two three four five {prompt}"


def reply(entry: Entry) -> str:
    """The same, for the server."""
    return answer(entry.prompt)


def blocking(model: CodegenModel, prompt: str, streams: bool, tally: Tally) -> None:
    """One call from a thread."""
    try:
        if streams:
            text = "".join(chunk["response"] for chunk in model.codegen_stream(prompt))
        else:
            [trajectory] = model.codegen(prompt)
            text = trajectory["response"]
    except Exception as error:  # noqa: BLE001  # the tally judges it
        tally.error(prompt, error)
    else:
        tally.text(prompt, text)


async def awaited(model: CodegenModel, prompt: str, streams: bool, tally: Tally) -> None:
    """One call from a task."""
    try:
        if streams:
            text = "".join([chunk["response"] async for chunk in model.codegen_stream_async(prompt)])
        else:
            [trajectory] = await model.codegen_async(prompt)
            text = trajectory["response"]
    except Exception as error:  # noqa: BLE001  # as above
        tally.error(prompt, error)
    else:
        tally.text(prompt, text)


async def awaited_together(jobs: list[tuple[CodegenModel, str, bool]], tally: Tally) -> None:
    """These calls, sixteen at a time."""
    places = asyncio.Semaphore(16)

    async def one(model: CodegenModel, prompt: str, streams: bool) -> None:
        async with places:
            await awaited(model, prompt, streams, tally)

    await asyncio.gather(*(one(*job) for job in jobs))


def soak(server: Loopback, models: list[CodegenModel], calls: int, seed: int) -> Tally:
    """That many calls, by all four ways and on all models, from threads, and from tasks of two loops."""
    tally = Tally()
    dice = random.Random(seed)
    jobs = [(dice.choice(models), f"call {number} of {seed}", dice.random() < 0.5) for number in range(calls)]
    sync, tasks = jobs[: calls // 2], jobs[calls // 2 :]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        waiting = [pool.submit(blocking, *job, tally) for job in sync]
        waiting += [
            pool.submit(asyncio.run, awaited_together(half, tally)) for half in (tasks[::2], tasks[1::2])
        ]
        for each in waiting:
            each.result()
    return tally


def settle(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Whether it comes to hold."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize(
    "calls", [200, pytest.param(2000, marks=pytest.mark.soak)], ids=lambda calls: f"{calls} calls"
)
def test_random_faults(calls: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Every call ends in its text or a typed error; each request is one attempt; nothing is left over."""
    seed = random.SystemRandom().randrange(2**32)
    with Loopback(seed=seed) as server:
        models = [make(server, provider) for provider in PROVIDERS]
        counts = Counter[str]()
        real = count_attempts(counts)
        try:
            soak(server, models, 40, seed)  # connections, clients, threads and caches are there
            threads = threading.active_count()
            server.reset()
            counts.clear()
            server.default = reply
            each = 1 - (1 - RATE) ** (1 / len(FAULTS))
            for fault in FAULTS:
                server.sometimes(fault, each)
            tally = soak(server, models, calls, seed)
        finally:
            real()
        requests, played = len(server.journal), sum(entry.fault is not None for entry in server.journal)
        with capsys.disabled():  # the seed is what a failure is looked into with
            print(f"\n  seed {seed}: {calls} calls, {requests} requests, {played} faults,", end=" ")  # noqa: T201
            print(f"{tally.good} good, {dict(tally.errors)}", end=" ")  # noqa: T201
        assert tally.wrong == [], f"seed {seed}"
        assert tally.good + tally.errors.total() == calls
        assert requests == counts["attempts"], f"seed {seed}"
        assert 0.1 < played / requests < 0.5
        assert tally.good > 0.7 * calls
        assert tally.errors.total() > 0
        server.sometimes(FAULTS[0], 0)
        gc.collect()
        assert settle(lambda: not bridge.engine().tasks), bridge.engine().tasks
        # What is open is idle: as many as there were requests at once, at the most.
        assert server.connections_open <= 16 * len(PROVIDERS)
        assert settle(lambda: threading.active_count() <= threads + 4), threading.enumerate()


def make(server: Loopback, provider: str) -> CodegenModel:
    """A model of this provider's on the server."""
    address = server.anthropic_url if provider == "anthropic" else server.openai_url
    table = {**MODELS[provider], "base_url": address, "api_key": KEY, **SETTINGS}
    return ModelFactory(read_config({"models": {"m": table}})).create_model()


def count_attempts(counts: Counter[str]) -> Callable[[], None]:
    """Count the attempts that outcomes tell of; what is returned takes the counting back."""
    from agentless.llm import attempts

    run = attempts.run

    async def counted(call: Any) -> Any:
        outcome = await run(call)
        counts["attempts"] += outcome.attempts
        return outcome

    attempts.run = counted
    return lambda: setattr(attempts, "run", run)


@pytest.mark.soak
def test_memory_does_not_grow() -> None:
    """After thousands of calls, good and bad, as much memory is held as after the first hundreds."""
    with Loopback(journal_size=10) as server:
        models = [make(server, provider) for provider in PROVIDERS]
        server.default = reply
        for fault in FAULTS:
            server.sometimes(fault, RATE / len(FAULTS))
        soak(server, models, 400, 1)
        tracemalloc.start()
        try:
            sizes: list[int] = []
            for seed in range(2, 5):
                soak(server, models, 400, seed)
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
    # 400 calls more, and not a kilobyte a call more.
    assert sizes[-1] - sizes[0] < 800 * 1024, sizes
