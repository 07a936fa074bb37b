"""A process that gets samples of a pretended service through a store, until it has all or is killed.

    python -m agentless.test.store_worker STORE BILLS MODE PROMPTS SAMPLES IN_FLIGHT MILLISECONDS

BILLS gets a line for each request that the service has answered and bills, and one for each sample that a
caller has got.
"""

import asyncio
import concurrent.futures
import json
import logging
import os
import random
import sys
from typing import Any

from agentless.store import Claim, Run
from agentless.store.sqlite import SQLiteStore
from agentless.test.stores import fetch, request_of, run_alone, trajectory_of


class Service:
    """Answers, and bills: a line in a file outlives whoever asked."""

    def __init__(self, path: str, seconds: float) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self._seconds = seconds

    async def send(self, claim: Claim, attempt: str) -> dict[str, Any]:
        """One answer, unlike all others."""
        self.note(bill=attempt, key=claim.request.key, index=claim.index)
        await asyncio.sleep(self._seconds * random.uniform(0.5, 1.5))
        return trajectory_of(attempt)

    def note(self, **line: Any) -> None:
        """Append a line in one piece."""
        os.write(self._file, (json.dumps(line) + "\n").encode())


def main(arguments: list[str]) -> None:
    """Get them all."""
    path, bills, mode, *numbers = arguments
    prompts, samples, in_flight, milliseconds = map(int, numbers)
    service = Service(bills, milliseconds / 1000)
    quiet = logging.getLogger("quiet")
    quiet.disabled = True  # who begins later than others may have no hit for long
    run = Run(SQLiteStore(path), logger=quiet)
    order = list(range(prompts))
    random.shuffle(order)

    async def one(number: int) -> None:
        request = request_of(f"prompt {number}")
        for each in await fetch(run, request, samples, service.send):
            service.note(got=each.trajectory["response"], key=request.key, index=each.index)

    if mode == "threads":
        with concurrent.futures.ThreadPoolExecutor(in_flight) as pool:
            list(pool.map(lambda number: run_alone(one(number)), order))
    else:

        async def every() -> None:
            gate = asyncio.Semaphore(in_flight)

            async def next_one(number: int) -> None:
                async with gate:
                    await one(number)

            await asyncio.gather(*map(next_one, order))

        asyncio.run(every())
    service.note(finished=os.getpid())


if __name__ == "__main__":
    main(sys.argv[1:])
