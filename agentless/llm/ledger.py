"""What has been asked for and what it cost: by model, by factory, and over a block of code.

    with factory.ledger.block() as spent:
        model.codegen(...)
    spent.snapshot()["total"]["cost"]

Everything is counted once, when an attempt ends: the tokens that the service reported, whatever became of
them. So a trajectory's usage is here, and so are replies that were paid for and thrown away (empty ones, for
instance). What was cut off before the service said its price (a time-out, a broken stream, a cancelled call)
is counted as far as it is known, and told as `unknown`.
"""

import contextvars
import logging
import operator
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from typing import NamedTuple, TypedDict


class Spend(TypedDict):
    """Sums over some time.

    `requests` were asked for, one for all samples of a native `n`; `attempts` are the HTTP requests that
    this took, `unknown` those of them whose bill is not fully known. Tokens are as in `Usage`. `cost` is in
    USD; `None` where there are tokens without a known price.
    """

    requests: int
    attempts: int
    unknown: int
    samples: int
    prompt_tokens: int
    completion_tokens: int
    cache_creation_token: int
    cache_read_input_tokens: int
    reasoning_tokens: int
    cost: float | None


class Snapshot(TypedDict):
    """A ledger at one moment, JSON-ready; `models` is by the names in the config."""

    total: Spend
    models: dict[str, Spend]


class Entry(NamedTuple):
    """Something to add; `unpriced` are attempts with tokens whose price is not known."""

    requests: int = 0
    attempts: int = 0
    unknown: int = 0
    samples: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cache_creation_token: int = 0
    cache_read_input_tokens: int = 0
    reasoning_tokens: int = 0
    cost: float = 0.0
    unpriced: int = 0

    def plus(self, other: "Entry") -> "Entry":
        """Both together."""
        return Entry(*map(operator.add, self, other))

    def spend(self) -> Spend:
        """As the public dict."""
        sums = self._asdict()
        unpriced = sums.pop("unpriced")
        return Spend(**{**sums, "cost": None if unpriced else self.cost})  # type: ignore[typeddict-item]


class Ledger:
    """Sums of what was spent.

    Written on the engine's loop alone, and replaced whole with each entry: any thread reads without a lock.

    Attributes:
        parent: what this is a part of.
    """

    def __init__(self, parent: "Ledger | None" = None, *, logger: logging.Logger | None = None) -> None:
        self.parent = parent
        self._logger = logger or logging.getLogger("agentless")
        self._models: Mapping[str, Entry] = {}
        self._watchers: set[Ledger] = set()
        self._warned: set[str] = set()

    def snapshot(self) -> Snapshot:
        """The sums so far; a plain dict of the caller's own."""
        models = self._models
        self.warn_of_unpriced(name for name, entry in models.items() if entry.unpriced)
        total = reduce(Entry.plus, models.values(), Entry())
        return Snapshot(total=total.spend(), models={name: entry.spend() for name, entry in models.items()})

    @property
    def cost(self) -> float | None:
        """USD so far; `None` where there are tokens without a known price."""
        return self.snapshot()["total"]["cost"]

    @contextmanager
    def block(self, *, all_threads: bool = False) -> Iterator["Ledger"]:
        """A ledger of what is spent in this block alone.

        It counts the calls that are begun in the block (by this thread, or by this task and those that it
        starts), to their ends, even after the block. Another thread that runs at the same time is not in
        it, a pool's workers included: let each worker have a block of its own, or ask for `all_threads`.

        Args:
            all_threads: Count whatever is spent between the block's beginning and its end, by whom ever.
        """
        inner = Ledger(logger=self._logger)
        if all_threads:
            self._watchers.add(inner)
            try:
                yield inner
            finally:
                self._watchers.discard(inner)
            return
        token = _blocks.set((*_blocks.get(), (self, inner)))
        try:
            yield inner
        finally:
            _blocks.reset(token)

    def record(self, model: str, entry: Entry) -> None:
        """Add an entry here, in all that this is part of, and in the blocks of the running context."""
        ledgers = [self]
        while (above := ledgers[-1].parent) is not None:
            ledgers.append(above)
        for outer, inner in _blocks.get():
            if outer in ledgers:
                ledgers.append(inner)
        for ledger in ledgers:
            ledger.add(model, entry)

    def add(self, model: str, entry: Entry) -> None:
        """Add an entry here, and where somebody counts along."""
        self._models = {**self._models, model: self._models.get(model, Entry()).plus(entry)}
        for watcher in list(self._watchers):
            watcher.add(model, entry)

    def warn_of_unpriced(self, models: Iterable[str]) -> None:
        """Say once of each model that its cost is not known."""
        # Not before somebody asks: who does not care what a model costs need not set its price.
        for name in models:
            if name not in self._warned:
                self._warned.add(name)
                self._logger.warning(
                    "%s: its cost is not known, because its price is not; set input_cost_per_token and "
                    "output_cost_per_token",
                    name,
                )

    def __repr__(self) -> str:
        total = self.snapshot()["total"]
        return f"Ledger(requests={total['requests']}, attempts={total['attempts']}, cost={total['cost']})"


_blocks: contextvars.ContextVar[tuple[tuple[Ledger, Ledger], ...]] = contextvars.ContextVar(
    "agentless_blocks", default=()
)
