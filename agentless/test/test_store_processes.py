"""Processes that share a store, and are killed: nothing is lost, nothing is paid twice without a word."""

import json
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentless.errors import StoreError, StoreLockedError
from agentless.store import Finished
from agentless.store.files import Guard, Life
from agentless.store.sqlite import SQLiteStore
from agentless.test.stores import request_of, trajectory_of

ROOT = Path(__file__).parent.parent.parent


class Field:
    """A store, a service's bills, and workers."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "samples.db"
        self.bills = folder / "bills"
        self._workers: list[subprocess.Popen[bytes]] = []

    def start(
        self, mode: str, prompts: int, samples: int, in_flight: int, milliseconds: int
    ) -> "subprocess.Popen[bytes]":
        """Another worker."""
        numbers = map(str, (prompts, samples, in_flight, milliseconds))
        command = [sys.executable, "-m", "agentless.test.store_worker"]
        worker = subprocess.Popen(
            [*command, str(self.store), str(self.bills), mode, *numbers], cwd=ROOT, stderr=subprocess.PIPE
        )
        self._workers.append(worker)
        return worker

    def end(self) -> None:
        """No worker outlives its test, however that ends."""
        for worker in self._workers:
            if worker.poll() is None:
                worker.kill()
                worker.communicate()
            if worker.stderr is not None:
                worker.stderr.close()

    def lines(self, kind: str) -> list[dict[str, Any]]:
        """The lines of a kind: bill, got, finished."""
        text = self.bills.read_text() if self.bills.exists() else ""
        return [line for line in map(json.loads, text.splitlines()) if kind in line]

    def check(self, wanted: int, most_extra: int) -> int:
        """Everything is there, once, and each request beyond what was wanted is known; says how many."""
        bills = self.lines("bill")
        with SQLiteStore(self.store) as store:
            assert store.verify() == []
            stats = store.stats()
            ledger = {row["id"]: row for row in store.attempts().result()}
            # Asking writes: what the last kill has left is looked through.
            store.release(store.ask(request_of("another"), [0]).result().claims).result()
            unknown = {row["id"] for row in store.attempts(state="unknown").result()}
            assert store.attempts(state="sent").result() == []
        assert stats.samples == wanted
        assert {line["bill"] for line in bills} <= set(ledger)
        extra = len(bills) - wanted
        assert extra <= most_extra
        # A request beyond what was wanted is told as unknown; more may be, that were never sent.
        assert extra <= len(unknown) <= most_extra
        texts = Counter((line["key"], line["index"], line["got"]) for line in self.lines("got"))
        slots = Counter((key, index) for key, index, _ in texts)
        assert set(slots.values()) == {1}  # whoever got a sample got the same
        assert len(slots) == wanted
        return extra


@pytest.fixture
def field(tmp_path: Path) -> Iterator[Field]:
    """An empty one."""
    made = Field(tmp_path)
    yield made
    made.end()


def kill_and_resume(
    field: Field, mode: str, *, prompts: int, samples: int, in_flight: int, kills: int
) -> int:
    """Kill it at random moments, start it again, until all is there."""
    numbers = (prompts, samples, in_flight, 4)
    killed = 0
    for _ in range(kills):
        worker = field.start(mode, *numbers)
        before, goal = len(field.lines("bill")), random.randrange(prompts * samples // kills + 1)
        while worker.poll() is None and len(field.lines("bill")) < before + goal:
            time.sleep(0.005)
        worker.kill()
        _, told = worker.communicate()
        killed += worker.returncode == -signal.SIGKILL
        assert told == b""
    last = field.start(mode, *numbers)
    assert last.communicate(timeout=120)[1] == b""
    assert len(field.lines("finished")) >= 1
    return field.check(prompts * samples, killed * in_flight * samples)


@pytest.mark.parametrize("mode", ["threads", "asyncio"])
def test_a_killed_run_goes_on(field: Field, mode: str) -> None:
    """Killed and started again, until done: what was returned is there, what was billed twice is known."""
    kill_and_resume(field, mode, prompts=20, samples=3, in_flight=4, kills=3)


@pytest.mark.soak
@pytest.mark.parametrize("mode", ["threads", "asyncio"])
def test_a_run_that_is_killed_fifty_times(field: Field, mode: str) -> None:
    """200 prompts x 5 samples, 50 kills at random moments."""
    extra = kill_and_resume(field, mode, prompts=200, samples=5, in_flight=8, kills=50)
    print(f"{mode}: 1,000 wanted, {1000 + extra} billed")  # noqa: T201 - a soak tells


def together(field: Field, *, processes: int, prompts: int, in_flight: int, kills: int) -> int:
    """Processes that want the same."""
    workers = [field.start("threads", prompts, 1, in_flight, 20) for _ in range(processes)]
    for kill in range(kills):
        while len(field.lines("bill")) < (kill + 1) * prompts // (kills + 1):
            time.sleep(0.005)
        victim = workers.pop(0)
        victim.kill()
        victim.communicate()
        workers.append(field.start("threads", prompts, 1, in_flight, 20))
    for worker in workers:
        assert worker.communicate(timeout=300)[1] == b""
    assert len(field.lines("finished")) >= processes
    return field.check(prompts, kills * in_flight)


def test_processes_that_want_the_same_pay_once(field: Field) -> None:
    """Single flight over processes and threads: each sample is billed once, and all get it."""
    assert together(field, processes=4, prompts=120, in_flight=8, kills=0) == 0
    assert len(field.lines("got")) == 4 * 120


def test_processes_that_want_the_same_survive_kills(field: Field) -> None:
    """Whoever waited for one that was killed gets the sample itself."""
    together(field, processes=3, prompts=80, in_flight=8, kills=2)


@pytest.mark.soak
@pytest.mark.parametrize("kills", [0, 10])
def test_eight_processes_of_sixteen_threads(field: Field, kills: int) -> None:
    """1,000 samples, wanted by all."""
    extra = together(field, processes=8, prompts=1000, in_flight=16, kills=kills)
    assert extra == 0 or kills
    print(f"{kills} kills: 1,000 wanted, {1000 + extra} billed")  # noqa: T201 - a soak tells


def run_code(code: str, *arguments: object) -> str:
    """What a process of its own prints; it says nothing else."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=ROOT,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


FORK = """
import os, sys
from agentless.store import Finished
from agentless.store.sqlite import SQLiteStore
from agentless.test.stores import request_of, trajectory_of
store = SQLiteStore(sys.argv[1])
def get(index):
    plan = store.ask(request_of(), [index]).result(20)
    attempt = store.begin(plan.claims).result(20)
    store.record(attempt, Finished({index: trajectory_of(str(os.getpid()))})).result(20)
get(0)
mine = store.ask(request_of(), [9]).result(20)
children = []
for index in range(1, 5):
    child = os.fork()
    if not child:
        # Nothing of the parent's SQLite is open here: it would take the parent's locks for its own.
        open_files = [os.path.realpath(f"/proc/self/fd/{each}") for each in os.listdir("/proc/self/fd")]
        assert not [each for each in open_files if "samples.db" in each], open_files
        assert store.ask(request_of(), [0, 9]).result(20).waits == (9,)
        get(index)
        os._exit(0)
    children.append(child)
    get(10 + index)
assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
attempt = store.begin(mine.claims).result(20)
store.record(attempt, Finished({9: trajectory_of("kept")})).result(20)
print(sorted(store.look(request_of(), range(20)).result()), store.verify())
"""


def test_forked_children_have_connections_of_their_own(tmp_path: Path) -> None:
    """Before, while and after: parent and children write, and the parent's claims stay the parent's."""
    printed = run_code(FORK, tmp_path / "samples.db")
    assert printed == f"{[*range(5), 9, *range(11, 15)]} []\n"


EXIT = """
import sys, threading
from agentless.store import Finished
from agentless.store.sqlite import SQLiteStore
from agentless.test.stores import request_of, trajectory_of
store = SQLiteStore(sys.argv[1])
plan = store.ask(request_of(), range(50)).result()
attempt = store.begin(plan.claims).result()
def late():
    threading.main_thread().join()
    for index in range(50):
        store.record(attempt, Finished({index: trajectory_of(str(index))}, more=index < 49))
threading.Thread(target=late).start()
"""


def test_what_was_handed_in_is_written_at_exit(tmp_path: Path) -> None:
    """A thread that outlives the main one hands samples in and waits for none: all are there, silently."""
    assert run_code(EXIT, tmp_path / "samples.db") == ""
    with SQLiteStore(tmp_path / "samples.db") as store:
        assert len(store.look(request_of(), range(50)).result()) == 50
        assert store.ask(request_of(), [50]).result().claims


def _in_child(store: SQLiteStore, index: int) -> None:
    plan = store.ask(request_of(), [index]).result()
    attempt = store.begin(plan.claims).result()
    store.record(attempt, Finished({index: trajectory_of("spawned")})).result()


def test_a_spawned_child_makes_it_again(tmp_path: Path) -> None:
    """A store travels as its settings."""
    with SQLiteStore(tmp_path / "samples.db", power=True, lease=7.0) as store:
        again = pickle.loads(pickle.dumps(store))  # noqa: S301 - made in the same line
        assert (again.path, again._power, again._lease) == (store.path, True, 7.0)
        again.close()
        context = multiprocessing.get_context("spawn")
        child = context.Process(target=_in_child, args=(store, 3))
        child.start()
        child.join(60)
        assert child.exitcode == 0
        assert store.look(request_of(), [3]).result()[3].trajectory == trajectory_of("spawned")


def test_a_process_that_holds_the_lock_for_ever_is_told_of(tmp_path: Path) -> None:
    """A stopped process: an error with the file's name, and not a silent hang."""
    path = tmp_path / "samples.db"
    told = r"samples\.db: another process has held its lock"
    with (
        SQLiteStore(path, patience=0.2) as store,
        Guard(path, 1.0),
        pytest.raises(StoreLockedError, match=told),
    ):
        store.ask(request_of(), [0]).result()


def test_a_sign_of_life_ends_with_its_process(tmp_path: Path) -> None:
    """Seen by others for as long as it lives, however it ends, and not by its forked children."""
    path = tmp_path / "samples.db"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom agentless.store.files import Life\n"
        "life = Life(Path(sys.argv[1]))\nlife.begin()\nprint(life.slot, flush=True)\ntime.sleep(60)"
    )
    worker = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert worker.stdout is not None
    slot, life = int(worker.stdout.readline()), Life(path)
    assert life.is_alive(slot)
    assert not life.is_alive(slot + 1)
    os.kill(worker.pid, signal.SIGSTOP)
    assert life.is_alive(slot)
    worker.kill()
    worker.communicate()
    assert not life.is_alive(slot)
    life.end()


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    """Also of a sample that comes too late: the error has it."""
    store = SQLiteStore(tmp_path / "samples.db")
    attempt = store.begin(store.ask(request_of(), [0]).result().claims).result()
    store.close()
    store.close()
    late = trajectory_of("late")
    with pytest.raises(StoreError, match="the store is closed") as caught:
        store.record(attempt, Finished({0: late})).result()
    assert caught.value.samples == (late,)
    with pytest.raises(StoreError, match="the store is closed"):
        store.look(request_of(), [0]).result()
