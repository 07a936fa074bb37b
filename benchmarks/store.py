"""What the sample store costs: hits, puts, and what a run of 100 ms calls loses to a power-proof one.

python benchmarks/store.py [SAMPLES]    100,000 of 4 KB, unless told
"""

import asyncio
import logging
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentless.store import Claim, Finished, Request, Run, awaited
from agentless.store.sqlite import SQLiteStore
from agentless.test.stores import fetch

TEXT = "x" * 4000
IN_FLIGHT, CALLS, SECONDS = 64, 2560, 0.1
QUIET = logging.getLogger("quiet")
QUIET.disabled = True


def request_of(number: int) -> Request:
    """One of many."""
    message = {"role": "user", "content": f"prompt {number} " + TEXT[:2000]}
    return Request.of("openai", "gpt-4", [message], {"temperature": 0.8})


def put(store: SQLiteStore, request: Request, index: int = 0) -> None:
    """A sample with all that goes before it: three commits."""
    claims = store.ask(request, [index]).result().claims
    attempt = store.begin(claims).result()
    store.record(attempt, Finished({index: {"response": TEXT}}, usage={}, cost=0.01)).result()


def fill(store: SQLiteStore, samples: int) -> float:
    """Many, ten of a request, as fast as they go; seconds."""
    begun = time.perf_counter()
    for first in range(0, samples // 10, 200):
        numbers = range(first, min(first + 200, samples // 10))
        plans = [store.ask(request_of(number), range(10)) for number in numbers]
        attempts = [store.begin(plan.result().claims) for plan in plans]
        finished = Finished({index: {"response": TEXT} for index in range(10)}, usage={}, cost=0.01)
        for each in [store.record(attempt.result(), finished) for attempt in attempts]:
            each.result()
    return time.perf_counter() - begun


def median(work: Callable[[int], object], times: int) -> float:
    """Milliseconds."""
    taken = []
    for number in range(times):
        begun = time.perf_counter()
        work(number)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken) * 1000


async def run_calls(store: SQLiteStore, first: int) -> tuple[float, float]:
    """Calls of 100 ms on average, 64 at a time: what the store adds to one, and to all, as a part of each."""
    gate, run = asyncio.Semaphore(IN_FLIGHT), Run(store, logger=QUIET)
    lengths = [SECONDS * random.uniform(0.5, 1.5) for _ in range(CALLS)]
    added = []

    async def call(number: int) -> None:
        slept = 0.0

        async def send(_claim: Claim, _attempt: str) -> dict[str, Any]:
            nonlocal slept
            begun = time.perf_counter()
            await asyncio.sleep(lengths[number])
            slept = time.perf_counter() - begun
            return {"response": TEXT}

        async with gate:
            begun = time.perf_counter()
            await fetch(run, request_of(first + number), 1, send)
            added.append(time.perf_counter() - begun - slept)

    begun = time.perf_counter()
    await asyncio.gather(*map(call, range(CALLS)))
    taken = time.perf_counter() - begun
    return statistics.median(added) / SECONDS, taken / (sum(lengths) / IN_FLIGHT) - 1


async def hit(store: SQLiteStore, times: int, requests: int) -> float:
    """Milliseconds of a hit on a loop."""
    taken = []
    for number in range(times):
        request = request_of(number * 7919 % requests)
        begun = time.perf_counter()
        await awaited(store.ask(request, [number % 10]))
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken) * 1000


def main() -> None:
    """Print a table."""
    samples = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as folder:
        with SQLiteStore(Path(folder) / "samples.db") as store:
            seconds = fill(store, samples)
            print(f"{samples} samples in {seconds:.1f} s, {samples / seconds:.0f}/s, by tens")
            print(f"hit             {asyncio.run(hit(store, 3000, samples // 10)):.3f} ms")
            requests = [request_of(10**6 + number) for number in range(1000)]
            print(f"put, 3 commits  {median(lambda number: put(store, requests[number]), 1000):.3f} ms")
            claims = store.ask(requests[0], range(1, 1001)).result().claims
            attempts = [store.begin([each]).result() for each in claims]

            def record(number: int) -> None:
                index = attempts[number].claims[0].index
                store.record(attempts[number], Finished({index: {"response": TEXT}})).result()

            print(f"put, the last   {median(record, 1000):.3f} ms")
            show("process", asyncio.run(run_calls(store, 2 * 10**6)))
        with SQLiteStore(Path(folder) / "samples.db", power=True) as store:
            show("power", asyncio.run(run_calls(store, 3 * 10**6)))


def show(durability: str, added: tuple[float, float]) -> None:
    """A line."""
    one, every = added
    print(
        f"{durability:8} {CALLS} calls of 100 ms, {IN_FLIGHT} at once: {one:+.1%} a call, {every:+.1%} in all"
    )


if __name__ == "__main__":
    main()
