"""One run's way with a store: which index a call asks for, and what to do where there is no sample.

run = Run(store)
indexes = run.indexes(request, 10)          in the caller's thread, when the call is made
plan = await run.ask(request, indexes)      on the loop that will send what is missing
"""

import logging
import threading
import time
from collections.abc import Sequence
from typing import Literal

from agentless.errors import StoreMissError
from agentless.store.keys import Request
from agentless.store.protocol import Plan, Store, awaited

Mode = Literal["read_write", "replay", "refresh"]
Repeat = Literal["next", "same"]

PATIENCE = 20
"""Requests of a run without a single hit before it is told that this may be a mistake."""


class Indexes:
    """How far each request has been asked for: equal requests of a run go on where the last one stopped."""

    def __init__(self) -> None:
        self._next: dict[str, int] = {}
        self._lock = threading.Lock()

    def take(self, key: str, n: int) -> int:
        """The first of the next `n` indexes."""
        with self._lock:
            first = self._next.get(key, 0)
            self._next[key] = first + n
            return first


class Run:
    """A run: one factory's calls, from any thread.

    Args:
        store: Where samples are.
        mode: `read_write`; `replay`: nothing is sent, a miss is an error; `refresh`: every sample is a new
            one, at the next free indexes.
        repeat: `next`: an equal request wants further samples; `same`: the same ones, as from a cache.
        logger: Instead of the `agentless` logger.
    """

    def __init__(
        self,
        store: Store,
        *,
        mode: Mode = "read_write",
        repeat: Repeat = "next",
        logger: logging.Logger | None = None,
    ) -> None:
        self.store = store
        self.mode = mode
        self.repeat = repeat
        self._logger = logger or logging.getLogger("agentless")
        self._indexes = Indexes()
        self._lock = threading.Lock()
        self._floors: dict[str, int] = {}
        self._hits = 0
        self._misses: set[str] = set()
        self._told = False
        self._begun = time.time()

    def indexes(self, request: Request, n: int, *, offset: int | None = None) -> tuple[int, ...]:
        """The indexes that this call asks for.

        Args:
            request: The call's.
            n: How many samples it wants.
            offset: `sample_offset` of the call: it says itself which, and others do not count it.
        """
        if offset is not None:
            return tuple(range(offset, offset + n))
        floor = self._floor(request) if self.mode == "refresh" else 0
        is_same = request.is_repeatable or self.repeat == "same"
        first = floor + (0 if is_same else self._indexes.take(request.key, n))
        return tuple(range(first, first + n))

    async def ask(self, request: Request, indexes: Sequence[int]) -> Plan:
        """What is there, and claims on the rest; claims of a caller that is cancelled meanwhile are released.

        Raises:
            StoreMissError: In replay, where something is missing.
            StoreError: The store cannot be used.
        """
        if self.mode == "replay":
            hits = await awaited(self.store.look(request, indexes))
            if missing := [index for index in indexes if index not in hits]:
                raise await self._miss(request, missing)
            return Plan(hits)
        future = self.store.ask(request, indexes)
        plan = await awaited(future, undo=lambda late: self.store.release(late.claims))
        await self._count(request, plan)
        return plan

    def _floor(self, request: Request) -> int:
        """In a refresh: where what was there before this run ends."""
        with self._lock:
            floor = self._floors.get(request.key)
            if floor is None:
                floor = self._floors[request.key] = self.store.next_free(request).result()
            return floor

    async def _miss(self, request: Request, missing: Sequence[int]) -> StoreMissError:
        path = self.store.path
        what = f"sample {missing[0]}" if len(missing) == 1 else f"samples {missing[0]} to {missing[-1]}"
        there = await awaited(self.store.next_free(request))
        nearest = await awaited(self.store.nearest(request))
        if there:
            why = f"of this request it has {there}; a run with fewer samples or calls has filled it"
        elif nearest is None:
            why = f"it has no request of {request.provider}/{request.model}"
        else:
            why = f"the nearest request ({nearest.key[:12]}) differs: {nearest}"
        return StoreMissError(
            f"{path}: has no {what} of request {request.key[:12]} ({request.model}), and in replay nothing "
            f"is sent; {why}",
            path=path,
            key=request.key,
            indexes=missing,
            nearest=nearest.key if nearest else None,
            differences=nearest.differences if nearest else (),
        )

    async def _count(self, request: Request, plan: Plan) -> None:
        """Warn, once, of a run that pays for everything although much of it may be there."""
        if self._told or self._hits or self.mode == "refresh":
            return
        with self._lock:
            if request.key not in self._misses:  # or it is this run's own
                self._hits += len(plan.hits) + len(plan.waits)
            self._misses.add(request.key)
            if self._hits or len(self._misses) != PATIENCE:
                return
            self._told = True
        nearest = await awaited(self.store.nearest(request, before=self._begun))
        if nearest is not None:
            self._logger.warning(
                "%s: none of this run's first %d requests was in the store, although it knows %s; the "
                "nearest request differs: %s",
                self.store.path,
                PATIENCE,
                request.model,
                nearest,
            )
