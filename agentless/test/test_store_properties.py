"""Whatever happens in whatever order: no index twice, none lost, the bill is the ledger."""

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agentless.store import Attempt, Claim, Finished, Request, Selection, Store
from agentless.store.protocol import OUTCOMES, Outcome
from agentless.test.stores import ENGINES, Engine, request_of, trajectory_of

REQUESTS = [request_of("one"), request_of("two"), request_of("greedy", temperature=0.0)]
numbers = st.integers(0, 2**16)


@dataclass
class Process:
    """One that uses the store, with what it is about."""

    store: Store
    claims: list[tuple[Claim, ...]] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    is_stopped: bool = False
    """Its leases were over at some time: what it holds may be another's."""


class AnyOrder(RuleBasedStateMachine):
    """Processes that ask, send, record, fail, give up, are stopped and are killed."""

    engine_name = "sqlite"

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.engine: Engine = ENGINES[self.engine_name](self.folder)
        self.processes: list[Process] = []
        self.bill: dict[str, set[str]] = {}
        """By attempt: the states that it may be in."""
        self.paid: dict[str, tuple[Request, int | None]] = {}
        """By a sample's text: whose it is, and where it has to be, if that is known."""

    def teardown(self) -> None:
        """Away with it."""
        self.engine.close()
        shutil.rmtree(self.folder)

    def process(self, number: int) -> Process:
        """One of those there are."""
        return self.processes[number % len(self.processes)]

    @precondition(lambda self: len(self.processes) < 3)
    @rule()
    def come(self) -> None:
        """Another process."""
        self.processes.append(Process(self.engine.open()))

    @precondition(lambda self: self.processes)
    @rule(who=numbers, what=st.sampled_from(REQUESTS), first=st.integers(0, 4), n=st.integers(1, 4))
    def ask(self, who: int, what: Request, first: int, n: int) -> None:
        """Top-ups and resumptions: each index is a hit, a claim or a wait, and a claim is nobody else's."""
        process = self.process(who)
        self.claim(process, what, range(first, first + n))

    @precondition(lambda self: self.processes)
    @rule(who=numbers, what=st.sampled_from(REQUESTS))
    def refresh(self, who: int, what: Request) -> None:
        """New samples, where nobody has been."""
        process = self.process(who)
        index = process.store.next_free(what).result()
        assert index not in process.store.look(what, [index]).result()
        self.claim(process, what, range(index, index + 1))

    def claim(self, process: Process, what: Request, indexes: range) -> None:
        """Ask, and hold the answer against what others hold."""
        plan = process.store.ask(what, indexes).result()
        claimed = [each.index for each in plan.claims]
        assert sorted([*plan.hits, *claimed, *plan.waits]) == list(indexes)
        held = {
            (claim.request, claim.index)
            for other in self.processes
            if not other.is_stopped
            for claims in other.claims
            for claim in claims
        }
        assert not held & {(what, index) for index in claimed}
        if plan.claims:
            process.claims.append(plan.claims)

    @precondition(lambda self: any(process.claims for process in self.processes))
    @rule(who=numbers, which=numbers)
    def begin(self, who: int, which: int) -> None:
        """A request goes out."""
        process = self.process(who)
        if process.claims:
            claims = process.claims[which % len(process.claims)]
            attempt = process.store.begin(claims).result()
            assert not attempt.lost or process.is_stopped
            if attempt.claims:
                process.attempts.append(attempt)
                self.bill[attempt.id] = {"sent", "unknown"} if process.is_stopped else {"sent"}

    @precondition(lambda self: any(process.attempts for process in self.processes))
    @rule(who=numbers, which=numbers, less=st.integers(0, 2), extra=st.integers(0, 1), more=st.booleans())
    def record(self, who: int, which: int, less: int, extra: int, more: bool) -> None:
        """It brings what was asked for, or less, or more; at once, or one after another."""
        process = self.process(who)
        if not process.attempts:
            return
        attempt = process.attempts[which % len(process.attempts)]
        claims = attempt.claims[: max(1, len(attempt.claims) - less)]
        texts = [f"{attempt.id} {len(self.paid) + each}" for each in range(len(claims) + extra)]
        samples = {claim.index: trajectory_of(text) for claim, text in zip(claims, texts, strict=False)}
        rest = [trajectory_of(text) for text in texts[len(claims) :]]
        recorded = process.store.record(attempt, Finished(samples, extra=rest, more=more)).result()
        assert len(recorded) == len(texts)
        for text, where in zip(texts, recorded, strict=True):
            self.paid[text] = (attempt.claims[0].request, where.stored_index)
            if where.winner is not None:
                assert where.stored_index != where.index
        if not more:
            self.bill[attempt.id] = {"done"}
            process.attempts.remove(attempt)
        self.forget(process, claims)

    @precondition(lambda self: any(process.attempts for process in self.processes))
    @rule(who=numbers, which=numbers, outcome=st.sampled_from(OUTCOMES))
    def fail(self, who: int, which: int, outcome: Outcome) -> None:
        """It brings nothing more."""
        process = self.process(who)
        if process.attempts:
            attempt = process.attempts.pop(which % len(process.attempts))
            process.store.fail(attempt, outcome, cost=0.1).result()
            brought = any(text.startswith(attempt.id) for text in self.paid)
            self.bill[attempt.id] = {"done" if brought else outcome}

    @precondition(lambda self: any(process.claims for process in self.processes))
    @rule(who=numbers, which=numbers)
    def release(self, who: int, which: int) -> None:
        """A caller gives up."""
        process = self.process(who)
        if process.claims:
            process.store.release(process.claims.pop(which % len(process.claims))).result()

    @precondition(lambda self: self.processes)
    @rule(who=numbers)
    def crash(self, who: int) -> None:
        """Killed, with -9."""
        process = self.process(who)
        self.engine.crash(process.store)
        self.leave(process)

    @precondition(lambda self: self.processes)
    @rule(who=numbers)
    def close(self, who: int) -> None:
        """It ends in good order, in the midst of something."""
        process = self.process(who)
        process.store.close()
        self.leave(process)

    def leave(self, process: Process) -> None:
        """What it had sent, nobody knows any more."""
        self.processes.remove(process)
        for attempt in process.attempts:
            self.bill[attempt.id] = {"sent", "unknown"}

    @precondition(lambda self: self.processes)
    @rule(who=numbers)
    def stop(self, who: int) -> None:
        """SIGSTOP until its leases are over, and SIGCONT."""
        process = self.process(who)
        self.engine.stop(process.store)
        process.is_stopped = True
        for attempt in process.attempts:
            self.bill[attempt.id] = {"sent", "unknown"}

    @precondition(lambda self: self.processes)
    @rule(who=numbers)
    def merge(self, who: int) -> None:
        """An export of its own comes back: nothing changes."""
        store = self.process(who).store
        store.export_to(self.folder / "all.jsonl")
        taken = store.import_from(self.folder / "all.jsonl")
        assert (taken.requests, taken.samples, taken.attempts) == (0, 0, 0)

    @precondition(lambda self: self.processes)
    @rule(who=numbers)
    def prune_nothing(self, who: int) -> None:
        """A selection that fits nothing removes nothing."""
        assert self.process(who).store.prune(Selection(model="another")).samples == 0

    def forget(self, process: Process, claims: tuple[Claim, ...]) -> None:
        """These are over."""
        process.claims = [
            rest for each in process.claims if (rest := tuple(claim for claim in each if claim not in claims))
        ]

    @precondition(lambda self: self.processes)
    @invariant()
    def nothing_is_lost_and_nothing_is_twice(self) -> None:
        """Each sample is where it was stored, once; the ledger has each request, in a state that fits."""
        store = self.processes[0].store
        stored = {
            (request, index): sample.trajectory["response"]
            for request in REQUESTS
            for index, sample in store.look(request, range(1000)).result().items()
        }
        assert stored == {(request, index): text for text, (request, index) in self.paid.items()}
        ledger = {row["id"]: row["state"] for row in store.attempts().result()}
        assert ledger.keys() == self.bill.keys()
        assert {name: state for name, state in ledger.items() if state not in self.bill[name]} == {}


@pytest.mark.parametrize("engine", ENGINES)
def test_any_order(engine: str) -> None:
    """In `make test` a short one."""
    run(engine, examples=25, steps=30)


@pytest.mark.soak
@pytest.mark.parametrize("engine", ENGINES)
def test_any_order_for_long(engine: str) -> None:
    """The same, for as long as it takes."""
    run(engine, examples=1500, steps=80)


def run(engine: str, *, examples: int, steps: int) -> None:
    """Let hypothesis look for an order that breaks it."""
    from hypothesis.stateful import run_state_machine_as_test

    machine = type("Machine", (AnyOrder,), {"engine_name": engine})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=examples, stateful_step_count=steps, deadline=None)
    )
