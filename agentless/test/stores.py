"""The engines that hold samples, and what happens to the processes that use them, played in one process."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from agentless.store import Claim, Finished, Request, Run, Store, StoredSample, awaited
from agentless.store.sqlite import SQLiteStore


class Engine(Protocol):
    """One place where samples are; each `open` is a process of its own to all others."""

    def open(self) -> Store:
        """A process comes."""

    def crash(self, store: Store) -> None:
        """A process is killed."""

    def stop(self, store: Store) -> None:
        """A process is stopped until its leases are over, and goes on."""

    def close(self) -> None:
        """All are gone."""


class SQLiteEngine:
    """One file."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "samples.db"
        self._stores: list[SQLiteStore] = []

    def open(self) -> SQLiteStore:
        """A process comes."""
        store = SQLiteStore(self.path)
        self._stores.append(store)
        return store

    def crash(self, store: Store) -> None:
        """The kernel takes its sign of life back; nothing is said to the store."""
        assert isinstance(store, SQLiteStore)
        parts = store._parts
        parts._opened = False
        parts.close()

    def stop(self, store: Store) -> None:
        """Its lease is over by the clock."""
        assert isinstance(store, SQLiteStore)
        owner = store._parts.owner
        sql = "UPDATE owner SET until = until - 3 * lease WHERE id = ?"
        owner.forget()
        store._parts.writer.submit(lambda db: db.execute(sql, (owner.id,))).result()

    def close(self) -> None:
        """All are gone."""
        for store in self._stores:
            store.close()


ENGINES: dict[str, Callable[[Path], Engine]] = {"sqlite": SQLiteEngine}
"""PostgreSQL joins here."""


def request_of(text: str = "hello", **values: Any) -> Request:
    """A request that is sampled, unless `temperature` says otherwise."""
    values = {"temperature": 0.8, "max_tokens": 64, **values}
    return Request.of("openai", "gpt-4", [{"role": "user", "content": text}], values)


def trajectory_of(text: str) -> dict[str, Any]:
    """What a call would give back, as far as a store cares."""
    return {"response": text, "usage": {"prompt_tokens": 1, "cost": 0.5}, "cached": False}


Send = Callable[[Claim, str], Awaitable[dict[str, Any]]]
"""(claim, attempt's id) -> trajectory"""


async def fetch(
    run: Run, request: Request, n: int, send: Send, indexes: Sequence[int] | None = None
) -> list[StoredSample]:
    """What sampling does with a store: an attempt for each sample that nobody has and nobody gets."""
    store = run.store
    got: dict[int, StoredSample] = {}
    wanted = run.indexes(request, n) if indexes is None else indexes

    async def one(claim: Claim) -> None:
        attempt = await awaited(store.begin([claim]))
        if attempt.claims:
            trajectory = await send(claim, attempt.id)
            (recorded,) = await awaited(store.record(attempt, Finished({claim.index: trajectory})))
            got[claim.index] = recorded.winner or recorded.sample

    while missing := [index for index in wanted if index not in got]:
        plan = await run.ask(request, missing)
        got.update(plan.hits)
        try:
            await asyncio.gather(*map(one, plan.claims))
        finally:
            await awaited(store.release(plan.claims))
        if plan.waits and not plan.claims:
            await awaited(store.wait(request, plan.waits))
    return [got[index] for index in wanted]


def run_alone(work: Awaitable[Any]) -> Any:
    """Await it in a loop of its own: a thread's."""

    async def main() -> Any:
        with suppress(asyncio.CancelledError):
            return await work

    return asyncio.run(main())
