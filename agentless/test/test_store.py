"""The store's protocol, on every engine: what is there, whose turn it is, what it cost, what is kept."""

import asyncio
import io
import logging
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from agentless.errors import StoreError, StoreMissError
from agentless.settings import StoreSettings
from agentless.store import (
    Attempt,
    Claim,
    Finished,
    Outcome,
    Request,
    Run,
    Selection,
    Store,
    awaited,
    open_store,
)
from agentless.store.runs import PATIENCE
from agentless.test.stores import ENGINES, Engine, fetch, request_of, trajectory_of

CANARY = "sk-canary-store-0123456789"


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """Each engine, empty."""
    made = ENGINES[request.param](tmp_path)
    yield made
    made.close()


@pytest.fixture
def store(engine: Engine) -> Store:
    """A process that uses it."""
    return engine.open()


def claim(store: Store, *indexes: int, request: Request | None = None) -> tuple[Claim, ...]:
    """Claims on indexes that nobody has."""
    plan = store.ask(request or request_of(), indexes).result()
    assert [each.index for each in plan.claims] == list(indexes)
    return plan.claims


def begin(store: Store, *indexes: int, request: Request | None = None) -> Attempt:
    """An attempt for indexes that nobody has."""
    return store.begin(claim(store, *indexes, request=request)).result()


def put(store: Store, *texts: str, request: Request | None = None, first: int = 0) -> Attempt:
    """Samples, from index `first` on, of one attempt."""
    attempt = begin(store, *range(first, first + len(texts)), request=request)
    samples = {first + number: trajectory_of(text) for number, text in enumerate(texts)}
    store.record(attempt, Finished(samples, usage={"prompt_tokens": len(texts)}, cost=0.5)).result()
    return attempt


def texts(store: Store, request: Request | None = None) -> dict[int, str]:
    """All that is stored of a request."""
    found = store.look(request or request_of(), range(1000)).result()
    return {index: sample.trajectory["response"] for index, sample in sorted(found.items())}


def states(store: Store) -> list[str]:
    """The ledger's states, in order."""
    return [row["state"] for row in store.attempts().result()]


# Samples and claims


def test_a_sample_is_there_for_everyone_as_it_was(engine: Engine, store: Store) -> None:
    """Recorded is durable: another process has it at once, with all that it was recorded with."""
    trajectory = {**trajectory_of("naïve 漢字 😀 \ud800 \x00"), "latency": 0.1, "huge": 10**30}
    attempt = begin(store, 0)
    (recorded,) = store.record(attempt, Finished({0: trajectory})).result()
    assert (recorded.index, recorded.stored_index, recorded.winner) == (0, 0, None)
    (hit,) = engine.open().ask(request_of(), [0]).result().hits.values()
    assert hit.trajectory == trajectory
    assert list(hit.trajectory) == list(trajectory)
    assert hit.attempt == attempt.id
    assert abs(hit.created - time.time()) < 60


def test_a_mixture_of_both(store: Store) -> None:
    """What is there is a hit, the rest is a claim: growing a run pays for the difference alone."""
    put(store, "a", "b", "c")
    plan = store.ask(request_of(), range(5)).result()
    assert sorted(plan.hits) == [0, 1, 2]
    assert [each.index for each in plan.claims] == [3, 4]
    assert plan.waits == ()


def test_requests_do_not_meet(store: Store) -> None:
    """A sample of one request is none of another's."""
    put(store, "a")
    assert store.ask(request_of("another"), [0]).result().hits == {}
    assert store.look(request_of(temperature=0.7), [0]).result() == {}


def test_one_is_under_way_once(engine: Engine, store: Store) -> None:
    """Another caller, of this process or another, waits, and gets the sample that comes."""
    attempt = begin(store, 0)
    waiting = []
    for other in (store, engine.open()):
        plan = other.ask(request_of(), [0, 1]).result()
        assert plan.waits == (0,)
        other.release(plan.claims).result()
        waiting.append(other.wait(request_of(), [0]))
    assert not any(each.done() for each in waiting)
    store.record(attempt, Finished({0: trajectory_of("came")})).result()
    for each in waiting:
        each.result(10)
    assert texts(store) == {0: "came"}


def test_what_is_released_is_anybodys(engine: Engine, store: Store) -> None:
    """A caller that gives up lets the next one go on."""
    claims, other = claim(store, 0), engine.open()
    waiting = other.wait(request_of(), other.ask(request_of(), [0]).result().waits)
    store.release(claims).result()
    waiting.result(10)
    claim(other, 0)
    store.release(claims).result()  # not any more his
    assert store.ask(request_of(), [0]).result().waits == (0,)


def test_a_wait_can_be_called_off(store: Store) -> None:
    """And disturbs nobody."""
    attempt = begin(store, 0)
    waiting, called_off = store.wait(request_of(), [0]), store.wait(request_of(), [0])
    assert called_off.cancel()
    store.record(attempt, Finished({0: trajectory_of("a")})).result()
    waiting.result(10)


def test_a_wait_for_what_is_there_is_over(store: Store) -> None:
    """What came between asking and waiting is seen."""
    put(store, "a")
    store.wait(request_of(), [0]).result(10)


def test_a_dead_owners_claims_are_free(engine: Engine, store: Store) -> None:
    """At once, since its death can be seen; what it had sent is unknown."""
    begin(store, 0)
    other = engine.open()
    waiting = other.wait(request_of(), [0])
    engine.crash(store)
    waiting.result(10)
    claim(other, 0)
    assert states(other) == ["unknown"]


def test_a_stopped_owners_claims_are_free(engine: Engine, store: Store) -> None:
    """After its lease, although it lives; when it goes on, it sends for what is still its own alone."""
    claims, other = claim(store, 0, 1), engine.open()
    engine.stop(store)
    claim(other, 0)
    late = store.begin(claims).result()
    assert late.claims == ()
    assert late.lost == claims
    assert states(store) == []


def test_a_zombies_result_fills_the_next_free_index(engine: Engine, store: Store) -> None:
    """Nothing that was paid for is thrown away, and nothing is overwritten: the first wins."""
    late, other = begin(store, 0, 1), engine.open()
    engine.stop(store)
    put(other, "first")
    (there, own) = store.record(late, Finished({0: trajectory_of("late"), 1: trajectory_of("own")})).result()
    assert (there.index, there.stored_index) == (0, 1)
    assert there.winner is not None
    assert there.winner.trajectory["response"] == "first"
    assert own.stored_index == 2
    assert texts(other) == {0: "first", 1: "late", 2: "own"}
    assert states(other) == ["done", "done"]


def test_a_zombie_that_is_first_does_not_take_the_others_turn(engine: Engine, store: Store) -> None:
    """An index that another is about is left to it."""
    late, other = begin(store, 0), engine.open()
    engine.stop(store)
    second = begin(other, 0)
    (recorded,) = store.record(late, Finished({0: trajectory_of("late")})).result()
    assert (recorded.stored_index, recorded.winner) == (1, None)
    other.record(second, Finished({0: trajectory_of("second")})).result()
    assert texts(store) == {0: "second", 1: "late"}


def test_a_zombie_without_a_rival_has_its_index(engine: Engine, store: Store) -> None:
    """Nobody asked meanwhile."""
    late = begin(store, 0)
    engine.stop(store)
    assert store.record(late, Finished({0: trajectory_of("late")})).result()[0].stored_index == 0


def test_more_than_was_asked_for_is_kept(store: Store) -> None:
    """A service that gives three choices for two is billed for three."""
    attempt = begin(store, 0, 1)
    finished = Finished({0: trajectory_of("a"), 1: trajectory_of("b")}, extra=[trajectory_of("c")])
    assert [each.stored_index for each in store.record(attempt, finished).result()] == [0, 1, 2]
    assert texts(store) == {0: "a", 1: "b", 2: "c"}


def test_a_sample_that_is_no_json_is_in_the_error(store: Store) -> None:
    """It was paid for, whatever is wrong with it."""
    attempt = begin(store, 0)
    odd = {"response": object()}
    with pytest.raises(StoreError, match="a sample cannot be stored: Object of type object") as caught:
        store.record(attempt, Finished({0: odd})).result()
    assert caught.value.samples == (odd,)
    store.release(attempt.claims).result()
    claim(store, 0)


# Attempts


def test_an_attempt_is_written_down_before_it_is_sent(engine: Engine, store: Store) -> None:
    """Another process can see it, and that nobody knows yet what it costs."""
    attempt = store.begin(claim(store, 2, 3), body={"messages": []}).result()
    (row,) = engine.open().attempts().result()
    assert (row["id"], row["key"], row["indexes"]) == (attempt.id, request_of().key, [2, 3])
    assert (row["number"], row["state"], row["cost"], row["ended"]) == (1, "sent", None, None)


def test_what_an_attempt_cost_is_kept(store: Store) -> None:
    """Usage as it was billed, for all samples of a native n together."""
    put(store, "a", "b")
    (row,) = store.attempts().result()
    assert (row["state"], row["usage"], row["cost"]) == ("done", {"prompt_tokens": 2}, 0.5)
    assert row["ended"] is not None
    assert row["ended"] >= row["begun"]


@pytest.mark.parametrize("outcome", ["failed", "empty", "truncated", "filtered", "cancelled", "unknown"])
def test_what_brought_no_sample_is_an_attempt(store: Store, outcome: Outcome) -> None:
    """Its cost is kept, its claim stays for the next attempt, and there is no sample."""
    claims = claim(store, 0)
    attempt = store.begin(claims).result()
    store.fail(attempt, outcome, error="500", usage={"prompt_tokens": 3}, cost=0.25).result()
    assert texts(store) == {}
    again = store.begin(claims).result()
    assert again.number == 2
    assert again.claims == claims
    first, second = store.attempts(request=request_of()).result()
    assert (first["state"], first["error"], first["cost"]) == (outcome, "500", 0.25)
    assert second["state"] == "sent"
    assert store.attempts(state=outcome).result() == [first]
    assert store.stats().wasted == 0.25


def test_an_outcome_that_is_none_is_refused(store: Store) -> None:
    """The ledger has a closed list of words."""
    with pytest.raises(ValueError, match="an attempt's outcome is one of failed, empty"):
        store.fail(begin(store, 0), "done")  # type: ignore[arg-type]


def test_samples_of_a_stream_come_one_by_one(engine: Engine, store: Store) -> None:
    """Each is durable when it ends; the attempt goes on, and is done even if it breaks."""
    attempt = begin(store, 0, 1, 2)
    store.record(attempt, Finished({1: trajectory_of("b")}, more=True)).result()
    assert states(store) == ["sent"]
    store.record(attempt, Finished({0: trajectory_of("a")}, more=True)).result()
    store.fail(attempt, "truncated", cost=0.1).result()
    assert texts(engine.open()) == {0: "a", 1: "b"}
    (row,) = store.attempts().result()
    assert (row["state"], row["cost"]) == ("done", 0.1)
    assert store.ask(request_of(), [2]).result().waits == (2,)


def test_what_a_process_leaves_is_unknown(engine: Engine) -> None:
    """After a crash, and after a close in mid-flight: perhaps billed, and listed."""
    closed, crashed = engine.open(), engine.open()
    begin(closed, 0)
    begin(crashed, 1)
    closed.close()
    engine.crash(crashed)
    other = engine.open()
    claim(other, 0, 1)
    assert states(other) == ["unknown", "unknown"]


# Runs


def run_of(store: Store, **options: Any) -> Run:
    """A run, as a factory has one."""
    return Run(store, **options)


async def send(claim: Claim, attempt: str) -> dict[str, Any]:
    """A service that is never the same."""
    await asyncio.sleep(0)
    return trajectory_of(f"{claim.index}-{attempt}")


def test_equal_requests_go_on() -> None:
    """Asking again means wanting new samples; another run begins at 0; an offset says it itself."""
    store: Any = None
    run, request = run_of(store), request_of()
    assert run.indexes(request, 3) == (0, 1, 2)
    assert run.indexes(request_of("another"), 2) == (0, 1)
    assert run.indexes(request, 2) == (3, 4)
    assert run.indexes(request, 2, offset=7) == (7, 8)
    assert run.indexes(request, 1) == (5,)
    assert run_of(store).indexes(request, 2) == (0, 1)


@pytest.mark.parametrize("values", [{"temperature": 0.0}, {"seed": 4}])
def test_what_can_be_repeated_is_the_same_sample(values: dict[str, Any]) -> None:
    """At temperature 0 and with a seed there is nothing new to be had."""
    store: Any = None
    run = run_of(store)
    assert run.indexes(request_of(**values), 2) == run.indexes(request_of(**values), 2) == (0, 1)


def test_a_plain_cache() -> None:
    """With repeat = "same" equal requests are always the same samples."""
    store: Any = None
    run = run_of(store, repeat="same")
    assert run.indexes(request_of(), 2) == run.indexes(request_of(), 2) == (0, 1)


def test_threads_share_a_runs_indexes() -> None:
    """No two calls of a run get the same, however they meet."""
    store: Any = None
    run, taken, lock = run_of(store), list[int](), threading.Lock()

    def take() -> None:
        for _ in range(200):
            indexes = run.indexes(request_of(), 3)
            with lock:
                taken.extend(indexes)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(taken) == list(range(8 * 200 * 3))


async def test_a_second_run_gets_the_same_for_nothing(engine: Engine) -> None:
    """In the same order, two equal calls included; and a run that grows pays for the difference."""
    first = run_of(engine.open())
    paid = [await fetch(first, request_of(), 10, send) for _ in range(2)]
    second = run_of(engine.open())
    assert [await fetch(second, request_of(), 10, send) for _ in range(2)] == paid
    assert len(states(second.store)) == 20
    grown = await fetch(run_of(engine.open()), request_of(), 40, send)
    assert grown[:20] == paid[0] + paid[1]
    assert len(states(second.store)) == 40


async def test_replay_never_sends(engine: Engine) -> None:
    """What is there is given; a miss names the nearest request and what differs."""
    store = engine.open()
    paid = await fetch(run_of(store), request_of(), 3, send)
    replay = run_of(store, mode="replay")
    assert await fetch(replay, request_of(), 3, send) == paid
    with pytest.raises(StoreMissError, match=r"has no sample 3 .*of this request it has 3") as caught:
        await fetch(replay, request_of(), 1, send)
    assert caught.value.indexes == (3,)
    with pytest.raises(StoreMissError) as caught:
        await fetch(replay, request_of(temperature=0.7, top_p=0.9), 2, send)
    assert caught.value.nearest == request_of().key
    assert caught.value.differences == (
        "options.temperature: 0.7, stored is 0.8",
        "options.top_p: 0.9, stored is absent",
    )
    assert "options.temperature: 0.7" in str(caught.value)
    with pytest.raises(StoreMissError, match=r"messages\[0\]\.content: \"help\", stored is \"hello\""):
        await fetch(replay, request_of("help"), 1, send)
    with pytest.raises(StoreMissError, match="it has no request of ollama/x"):
        await fetch(replay, Request.of("ollama", "x", []), 1, send)
    assert len(states(store)) == 3


async def test_refresh_takes_new_ones(engine: Engine) -> None:
    """At the next free indexes; those that were there stay, and a greedy one is still one sample."""
    store = engine.open()
    greedy = request_of(temperature=0.0)
    old = await fetch(run_of(store), request_of(), 3, send)
    await fetch(run_of(store), greedy, 1, send)
    refresh = run_of(store, mode="refresh")
    new = await fetch(refresh, request_of(), 2, send) + await fetch(refresh, request_of(), 1, send)
    assert [each.index for each in new] == [3, 4, 5]
    again = await fetch(refresh, greedy, 1, send)
    assert again == await fetch(refresh, greedy, 1, send)
    assert again[0].index == 1
    assert await fetch(run_of(store), request_of(), 6, send) == old + new


async def test_a_run_without_hits_is_told_once(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """The store knows its model, and yet nothing fits: one warning says what differs."""
    await fetch(run_of(store), request_of("old"), 1, send)
    caplog.set_level(logging.WARNING, "agentless")
    run = run_of(store)
    for number in range(2 * PATIENCE):
        await fetch(run, request_of("old" if number == PATIENCE - 1 else f"{number}", top_p=0.5), 1, send)
    (record,) = caplog.records
    assert f"none of this run's first {PATIENCE} requests was in the store" in record.message
    assert "options.top_p: 0.5, stored is absent" in record.message


async def test_a_run_with_a_hit_is_not_told(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Nor one of a model that the store does not know."""
    caplog.set_level(logging.WARNING, "agentless")
    await fetch(run_of(store), request_of("old"), 1, send)
    run = run_of(store)
    for number in range(2 * PATIENCE):
        await fetch(run, request_of("old" if number == 0 else f"{number}"), 1, send)
    assert not caplog.records


# Waiting and being cancelled


async def test_a_cancelled_callers_claims_are_released(store: Store) -> None:
    """Whoever is no longer there when its claims come gives them back."""
    slow: Future[Any] = Future()
    slow.set_running_or_notify_cancel()

    class Slow:
        def ask(self, *_: Any) -> "Future[Any]":
            return slow

        release = store.release

    stand_in: Any = Slow()
    task = asyncio.create_task(run_of(stand_in).ask(request_of(), [0]))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    slow.set_result(store.ask(request_of(), [0]).result())
    claim(store, 0)


async def test_a_write_goes_on_without_its_caller(store: Store) -> None:
    """A task that is cancelled while its sample is written has it written."""
    attempt = begin(store, 0)
    future = store.record(attempt, Finished({0: trajectory_of("paid")}))
    task = asyncio.create_task(awaited(future))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    future.result(10)
    assert texts(store) == {0: "paid"}


async def test_many_tasks_and_threads_want_the_same(engine: Engine) -> None:
    """One attempt; all get it."""
    stores = [engine.open() for _ in range(3)]

    async def slow(claim: Claim, attempt: str) -> dict[str, Any]:
        await asyncio.sleep(0.05)
        return await send(claim, attempt)

    greedy = request_of(temperature=0.0)
    runs = [run_of(stores[number % 3]) for number in range(12)]
    got = await asyncio.gather(*(fetch(run, greedy, 1, slow) for run in runs))
    assert all(each == got[0] for each in got)
    assert states(stores[0]) == ["done"]


async def test_a_failure_lets_another_try(engine: Engine) -> None:
    """Who waited for one that failed asks again, and gets it itself."""
    one, other = engine.open(), engine.open()

    async def fail(claim: Claim, attempt: str) -> dict[str, Any]:
        await asyncio.sleep(0.02)
        raise ValueError("the service is down")

    failing = asyncio.create_task(fetch(run_of(one), request_of(), 1, fail))
    await asyncio.sleep(0.01)
    assert len(await fetch(run_of(other), request_of(), 1, send)) == 1
    with pytest.raises(ValueError, match="the service is down"):
        await failing


# Export, import, upkeep


def test_an_export_is_taken_in_once(engine: Engine, store: Store, tmp_path: Path) -> None:
    """Twice changes nothing; what comes out again is the same, byte for byte."""
    put(store, "a", "b \ud800")
    put(store, "c", request=request_of("another"))
    store.fail(begin(store, 2), "failed", error="500", cost=0.5).result()
    written = store.export_to(tmp_path / "run.jsonl")
    assert (written.requests, written.samples, written.attempts) == (2, 3, 3)
    (tmp_path / "elsewhere").mkdir()
    other = ENGINES["sqlite"](tmp_path / "elsewhere")
    try:
        copy = other.open()
        assert copy.import_from(tmp_path / "run.jsonl") == written
        again = copy.import_from(str(tmp_path / "run.jsonl"))
        assert (again.requests, again.samples, again.attempts) == (0, 0, 0)
        assert store.import_from(tmp_path / "run.jsonl") == again
        text = io.StringIO()
        copy.export_to(text)
        assert text.getvalue() == (tmp_path / "run.jsonl").read_text()
        assert copy.verify() == []
        assert texts(copy) == {0: "a", 1: "b \ud800"}
    finally:
        other.close()
    assert [each.name for each in tmp_path.glob("*.part")] == []


def test_two_machines_samples_both_stay(store: Store, tmp_path: Path) -> None:
    """The same index, paid for twice: the second has the next free one, however often it comes."""
    other = ENGINES["sqlite"](_folder(tmp_path / "other"))
    try:
        theirs = other.open()
        put(store, "a", "b")
        put(theirs, "c", "d")
        begin(theirs, 5)
        theirs.export_to(tmp_path / "theirs.jsonl")
    finally:
        other.close()
    for _ in range(2):
        store.import_from(tmp_path / "theirs.jsonl")
        assert texts(store) == {0: "a", 1: "b", 2: "c", 3: "d"}
    assert sorted(states(store)) == ["done", "done", "unknown"]


HEADER = '{"format": "agentless-store", "version": 1}\n'


@pytest.mark.parametrize(
    "text, told",
    [
        ("", None),
        ("hello\n", "line 1: is not an export of a store: no JSON object"),
        ('{"a": 1}\n', "is not an export of a store: its first line is another"),
        ('{"format": "agentless-store", "version": 9}\n', "is an export of version 9; this package reads 1"),
        (HEADER + '{"kind": "order"}\n', "line 2: is not a request, an attempt or a sample"),
        (HEADER + '{"kind": "sample"}\n', "line 2: has no key|line 2: is not whole"),
        (
            HEADER + '{"kind": "request", "key": "ab", "request": {"provider": "p", "model": "m"}}\n',
            "line 2: the request's key is .*, not ab",
        ),
        (
            HEADER + '{"kind": "sample", "key": "ab", "idx": 0, "attempt": "c", "choice": 0, "created": 1, '
            '"trajectory": {}}\n',
            "line 2: its request has not come before it",
        ),
        (HEADER + '{"kind": "request", "key"', "line 2: is not an export of a store: no JSON object"),
    ],
)
def test_what_is_no_export_is_refused(store: Store, tmp_path: Path, text: str, told: str | None) -> None:
    """With file and line; a torn last line as well."""
    (tmp_path / "run.jsonl").write_text(text)
    if told is None:
        assert store.import_from(tmp_path / "run.jsonl").samples == 0
        return
    with pytest.raises(StoreError, match=told) as caught:
        store.import_from(tmp_path / "run.jsonl")
    assert str(caught.value).startswith(str(tmp_path / "run.jsonl"))
    assert store.stats().samples == 0


def test_an_export_is_whole_or_not_there(store: Store, tmp_path: Path) -> None:
    """A target that cannot be written is told, and leaves nothing."""
    with pytest.raises(StoreError, match="cannot be written"):
        store.export_to(tmp_path / "no" / "run.jsonl")
    with pytest.raises(StoreError, match="cannot be read"):
        store.import_from(tmp_path / "no.jsonl")


def test_pruning_is_asked_for_by_name(store: Store) -> None:
    """What is chosen goes with all that belongs to it, but not what is under way."""
    put(store, "a", "b")
    put(store, "c", request=request_of("another"))
    mini = Request.of("openai", "mini", [])
    put(store, "d", request=mini)
    under_way = begin(store, 0, request=request_of("under way"))
    with pytest.raises(ValueError, match="prune needs to be told what"):
        Selection()
    gone = store.prune(Selection(key=request_of("another").key))
    assert (gone.requests, gone.samples, gone.attempts) == (1, 1, 1)
    assert store.prune(Selection(model="gpt-4", before=time.time() - 3600)).requests == 0
    assert store.prune(Selection(provider="openai", model="gpt-4")).samples == 2
    store.record(under_way, Finished({0: trajectory_of("e")})).result()
    assert store.stats().models == {"openai/gpt-4": 1, "openai/mini": 1}
    assert store.prune(Selection(everything=True)).requests == 2
    store.vacuum()
    assert (store.stats().requests, store.stats().attempts) == (0, {})
    assert store.verify() == []


def test_what_was_pruned_under_an_attempt_comes_back(engine: Engine, store: Store) -> None:
    """A zombie's sample is kept, even if all about it is gone."""
    late = begin(store, 0)
    engine.stop(store)
    other = engine.open()
    other.release(claim(other, 0)).result()
    other.prune(Selection(everything=True))
    store.record(late, Finished({0: trajectory_of("late")})).result()
    assert texts(other) == {0: "late"}


def test_what_it_holds(store: Store) -> None:
    """Counts and money, by state and model."""
    put(store, "a", "b")
    store.fail(begin(store, 2), "empty", cost=0.25).result()
    stats = store.stats()
    assert (stats.requests, stats.samples, stats.attempts) == (1, 2, {"done": 1, "empty": 1})
    assert (stats.cost, stats.wasted, stats.models) == (0.75, 0.25, {"openai/gpt-4": 2})
    assert stats.bytes > 0


def test_no_key_is_in_the_file(store: Store, tmp_path: Path) -> None:
    """What a request was made with that is nobody's business is in none of the store's files."""
    values = {"temperature": 0.5, "api_key": CANARY, "extra_headers": {"X-Key": CANARY}}
    url = f"https://{CANARY}:{CANARY}@host/v1?key={CANARY}"
    request = Request.of("openai", "gpt-4", [{"role": "user", "content": "hi"}], values, base_url=url)
    put(store, "a", request=request)
    store.export_to(tmp_path / "run.jsonl")
    store.close()
    files = [each for each in tmp_path.iterdir() if each.is_file()]
    assert len(files) >= 2
    assert b"hi" in b"".join(each.read_bytes() for each in files)
    assert CANARY.encode() not in b"".join(each.read_bytes() for each in files)


def test_the_documents_example_runs() -> None:
    """docs/store.md, as it is written."""
    text = (Path(__file__).parent.parent.parent / "docs" / "store.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    exec(code, {})  # noqa: S102 - our own


# Settings


def test_settings_open_a_store(tmp_path: Path) -> None:
    """The [store] table names a file; in replay it has to be there."""
    settings = StoreSettings(path=str(tmp_path / "samples.db"), durability="power")
    with pytest.raises(StoreError, match=r"samples\.db: there is no such store"):
        open_store(StoreSettings(path=settings.path, mode="replay"))
    assert not (tmp_path / "samples.db").exists()
    store = open_store(settings)
    put(store, "a")
    replay = open_store(StoreSettings(path=settings.path, mode="replay"))
    assert texts(replay) == {0: "a"}
    with pytest.raises(StoreError, match="is open for reading only"):
        replay.ask(request_of(), [1]).result()
    store.close()
    replay.close()


def test_an_engine_that_is_not_there(tmp_path: Path) -> None:
    """No file with such a name is made instead."""
    with pytest.raises(StoreError, match="no engine for stores at mysql://"):
        open_store(StoreSettings(path="mysql://host/db"))


@pytest.mark.parametrize(
    "values, told",
    [
        ({}, "path: missing; allowed: the path of a file"),
        ({"path": "a", "mode": "reply"}, 'mode: found "reply" .*; did you mean "replay"'),
        ({"path": "a", "repeat": "never"}, 'repeat: found "never"'),
        ({"path": "a", "durability": True}, 'durability: found true .*; allowed: "process" or "power"'),
        ({"path": "a", "recoverable": True}, "recoverable: found true .*; allowed: false"),
        ({"path": "a", "expiry": 7}, "expiry: unknown"),
    ],
)
def test_wrong_settings_are_told(values: dict[str, Any], told: str) -> None:
    """With the key, what was found and what is allowed."""
    findings = StoreSettings.checked(values)
    assert isinstance(findings, list)
    assert re.match(told, "; ".join(f"{path[0]}: {text}" for path, text in findings))


def _folder(path: Path) -> Path:
    path.mkdir()
    return path
