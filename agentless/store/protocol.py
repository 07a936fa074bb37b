"""What a store of samples does, whatever engine holds it.

A sample is known by `(key, index)`. One way through it, for a caller that wants some indexes of a request:

    plan = ask(request, indexes)    what is there; what is now mine to get; what another is getting
    attempt = begin(plan.claims)    written down before the request goes out
    record(attempt, samples)        durable when its future is done
    fail(attempt, "failed")         no sample came of it; what it cost is kept
    release(plan.claims)            always, at the end: what was not got is anybody's again
    wait(request, plan.waits)       until another's has come, or will not come; then ask again

Who holds claims goes on with them whatever it waits for, so that two callers never wait for each other.

Each method gives a `concurrent.futures.Future`, for threads (`.result()`) and for asyncio (`awaited`).
What was handed in is done whoever still waits for it: only a `wait` can be cancelled. Errors are
`agentless.errors.StoreError`s.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, Protocol, TypedDict, TypeVar

from agentless.store.differences import Nearest
from agentless.store.keys import Request

T = TypeVar("T")

Json = Mapping[str, Any]

Outcome = Literal["failed", "empty", "truncated", "filtered", "cancelled", "unknown"]
"""What became of an attempt that brought no sample; `unknown`: perhaps billed, nobody can say."""

OUTCOMES: tuple[Outcome, ...] = ("failed", "empty", "truncated", "filtered", "cancelled", "unknown")


@dataclass(frozen=True, slots=True)
class StoredSample:
    """One sample: `trajectory` is as it was recorded, with its original usage."""

    index: int
    trajectory: dict[str, Any]
    attempt: str
    created: float


@dataclass(frozen=True, slots=True)
class Claim:
    """The right, and the duty, to get one sample, for as long as its owner lives; `fence` tells it apart."""

    request: Request
    index: int
    fence: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do about the indexes that were asked for: each is in one of the three."""

    hits: Mapping[int, StoredSample]
    claims: tuple[Claim, ...] = ()
    """Mine to get."""
    waits: tuple[int, ...] = ()
    """Another's, who is about it."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request to a service, as written down before it was sent.

    Only `claims` may be sent for; `lost` are those that another has meanwhile taken over, which happens if
    this process was stopped for longer than a lease. Without any claims nothing was written down.
    """

    id: str
    claims: tuple[Claim, ...]
    lost: tuple[Claim, ...] = ()
    number: int = 0
    """From 1, of all attempts for this request by anyone."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """Where a sample was stored: at `index`, or elsewhere, where that has a `winner` or is another's."""

    index: int
    stored_index: int
    sample: StoredSample
    """As it was stored."""
    winner: StoredSample | None = None


class AttemptRow(TypedDict):
    """One line of the ledger. `state` is `sent`, `done` or an `Outcome`; times are seconds since 1970."""

    id: str
    key: str
    indexes: list[int]
    number: int
    state: str
    begun: float
    ended: float | None
    usage: dict[str, Any] | None
    cost: float | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Finished:
    """What an attempt brought: samples by index, and those beyond what was asked for.

    An attempt can be recorded in several steps, as its streamed samples end: all but the last have `more`.
    """

    samples: Mapping[int, Json]
    extra: Sequence[Json] = ()
    usage: Json | None = None
    """Of the whole attempt, as it was billed."""
    cost: float | None = None
    """In USD; `None` where no price is known."""
    more: bool = False
    """Claims that the attempt is still under way."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What `prune` has removed."""

    requests: int
    samples: int
    attempts: int


@dataclass(frozen=True, slots=True)
class Selection:
    """What to prune: all that is true of a request at once; at least one has to be said."""

    key: str | None = None
    provider: str | None = None
    model: str | None = None
    before: float | None = None
    """No sample of the request is younger: seconds since 1970."""
    everything: bool = False

    def __post_init__(self) -> None:
        if not self.everything and {self.key, self.provider, self.model, self.before} == {None}:
            raise ValueError("prune needs to be told what: key, provider, model, before, or everything=True")


@dataclass(frozen=True, slots=True)
class Transfer:
    """What an export has written, or an import has added."""

    requests: int = 0
    samples: int = 0
    attempts: int = 0


@dataclass(slots=True)
class Stats:
    """What a store holds; `cost` is what all attempts have cost, `wasted` those that brought no sample."""

    requests: int = 0
    samples: int = 0
    attempts: dict[str, int] = field(default_factory=dict)
    """By state; of those `sent`, some may be under way just now."""
    cost: float = 0.0
    wasted: float = 0.0
    models: dict[str, int] = field(default_factory=dict)
    """Samples by `provider/model`."""
    bytes: int = 0


class Store(Protocol):
    """The narrow waist: see the module's text."""

    @property
    def path(self) -> str:
        """Where it is, without a password."""

    def look(self, request: Request, indexes: Sequence[int]) -> "Future[dict[int, StoredSample]]":
        """Those of the samples that are there; nothing is written."""

    def ask(self, request: Request, indexes: Sequence[int]) -> "Future[Plan]":
        """What is there, and claims on the rest."""

    def wait(self, request: Request, indexes: Sequence[int]) -> "Future[None]":
        """Done when one of them, at least, is no longer under way by another."""

    def begin(self, claims: Sequence[Claim], *, body: Json | None = None) -> "Future[Attempt]":
        """Write down that a request for these claims, all of one request, is about to be sent."""

    def record(self, attempt: Attempt, finished: Finished) -> "Future[list[Recorded]]":
        """Keep what an attempt brought; its claims are over with it. The error has what could not be kept."""

    def fail(
        self,
        attempt: Attempt,
        outcome: Outcome,
        *,
        error: str | None = None,
        usage: Json | None = None,
        cost: float | None = None,
    ) -> "Future[None]":
        """Keep what an attempt cost; its other claims stay, for the next attempt.

        One that has brought samples before it broke is `done` all the same.
        """

    def release(self, claims: Iterable[Claim]) -> "Future[None]":
        """Give up claims; those that are over already are passed by."""

    def next_free(self, request: Request) -> "Future[int]":
        """The lowest index above every sample and every claim."""

    def nearest(self, request: Request, *, before: float | None = None) -> "Future[Nearest | None]":
        """The stored request that is most like this one, itself apart: of those from before that time."""

    def attempts(
        self, *, request: Request | None = None, state: str | None = None
    ) -> "Future[list[AttemptRow]]":
        """The ledger, in the order of its beginning."""

    def export_to(self, target: Path | str | IO[str]) -> Transfer:
        """Write everything as JSON lines; a file is there when it is whole."""

    def import_from(self, source: Path | str | IO[str]) -> Transfer:
        """Take in what an export has written; what is here already stays as it is."""

    def verify(self) -> list[str]:
        """What is wrong, one text each."""

    def stats(self) -> Stats:
        """What it holds."""

    def prune(self, selection: Selection) -> Pruned:
        """Remove requests with their samples and attempts, for good."""

    def vacuum(self) -> None:
        """Give the room of what was removed back to the system."""

    def close(self) -> None:
        """Finish what was handed in, give up all claims and let go of everything; silent, and repeatable."""


async def awaited(future: "Future[T]", undo: Callable[[T], object] | None = None) -> T:
    """The future's result, without a detour where it is there already.

    Args:
        future: Of one of a store's methods.
        undo: Called with the result if the caller is cancelled while it waits: whoever is no longer there
            has to give back what it was given (`lambda plan: store.release(plan.claims)`).
    """
    if future.done():
        return future.result()
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        if undo is not None:
            future.add_done_callback(lambda done: _undo(done, undo))
        raise


def _undo(done: "Future[T]", undo: Callable[[T], object]) -> None:
    if not done.cancelled() and done.exception() is None:
        undo(done.result())
