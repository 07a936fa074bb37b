"""A budget is never overshot, and nearly used up; over real HTTP."""

import asyncio
import multiprocessing
import os
import pickle
import random
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest

from agentless.config import Config, read_config
from agentless.errors import (
    BudgetExceededError,
    ConfigError,
    SamplesIncompleteError,
    StreamInterruptedError,
)
from agentless.llm import bridge
from agentless.llm.budget import Budget
from agentless.loopback import Entry, Loopback, Reply, faults
from agentless.loopback.draft import Draft, Plan
from agentless.loopback.wire import JSON
from agentless.test.ways import KEY, MODELS, QUICK, WAYS, Way
from agentless.util.model_factory import ModelFactory

MakeConfig = Callable[..., Config]
PRICES: dict[str, Any] = {"input_cost_per_token": 1e-6, "output_cost_per_token": 5e-6}


def billed(server: Loopback) -> float:
    """What the server has charged, at `PRICES`."""
    bill = server.bill
    return bill["prompt_tokens"] * 1e-6 + bill["completion_tokens"] * 5e-6


def factory_of(server: Loopback, max_cost: float, **settings: Any) -> ModelFactory:
    """A factory with a budget and one model without caching, at `PRICES`."""
    table = {
        **MODELS["generic"],
        **QUICK,
        "base_url": server.openai_url,
        "api_key": KEY,
        **PRICES,
        **settings,
    }
    return ModelFactory(read_config({"models": {"m": table}, "budget": {"max_cost": max_cost}}))


def spend_all(factory: ModelFactory, seed: int, callers: int = 64) -> None:
    """So many callers keep calling, by all ways, until the budget refuses them."""
    model = factory.create_model()

    def work(number: int) -> None:
        chance = random.Random(seed * 1000 + number)
        while True:
            try:
                way = chance.choice(WAYS)
                way.call(model, "word " * chance.randint(1, 60), num_samples=chance.choice((1, 1, 3)))
            except SamplesIncompleteError as error:
                if any(isinstance(each, BudgetExceededError) for each in error.failures.values()):
                    return
            except BudgetExceededError:
                return
            except StreamInterruptedError:
                pass

    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(work, range(callers)))


@pytest.mark.parametrize("runs", [5, pytest.param(100, marks=pytest.mark.soak)])
def test_a_budget_is_never_overshot(runs: int) -> None:
    """64 callers, with faults: the bill stays within the budget in every run, and uses 90 % of it.

    Without faults that may have been charged for; those count at their worst, so the bill stays lower.
    """
    for seed in range(runs):
        chance = random.Random(seed)
        faulty = seed % 2 == 1
        with Loopback(seed=seed) as server:
            if faulty:
                server.sometimes(faults.Status(500), 0.05)
                server.sometimes(faults.EmptyText(), 0.05)
                server.sometimes(faults.TruncatedStream(after_chunks=1), 0.05)

            def reply(_: Entry, chance: random.Random = chance) -> Reply:
                return Reply("word " * chance.randint(1, 80), delay=chance.random() * 0.02)

            server.default = reply
            factory = factory_of(
                server, 0.05, max_new_tokens=100, temperature=0.7, batch_size=3, max_concurrency=64
            )
            spend_all(factory, seed)
            assert factory.budget is not None
            assert billed(server) <= 0.05 * (1 + 1e-9), seed
            assert factory.budget.spent <= 0.05 * (1 + 1e-9), seed
            assert factory.budget.spent >= 0.9 * 0.05, seed
            assert factory.budget.reserved == 0
            if not faulty:
                assert billed(server) >= 0.9 * 0.05, seed
                assert factory.budget.spent == pytest.approx(billed(server))
                assert factory.ledger.cost == pytest.approx(billed(server))


def test_what_could_overshoot_is_not_sent(server: Loopback, way: Way) -> None:
    """The error has what is spent and asked; the server has not been asked."""
    factory = factory_of(server, 0.001, max_new_tokens=1000)
    with pytest.raises(BudgetExceededError) as caught:
        way.call(factory.create_model())
    assert server.journal == []
    assert (caught.value.spent, caught.value.reserved) == (0.0, 0.0)
    assert caught.value.asked > 0.005


def test_a_budget_is_for_all_models(server: Loopback) -> None:
    """Models of one factory spend from the same sum; another factory has its own."""
    factory = factory_of(server, 0.01, max_new_tokens=1000)
    server.default = Reply("word " * 800)
    factory.create_model().codegen("hi")
    with pytest.raises(BudgetExceededError):
        factory.create_model(temperature=0.9).codegen("hi")
    factory_of(server, 0.01, max_new_tokens=1000).create_model().codegen("hi")
    assert len(server.journal) == 2


def test_finished_samples_survive_the_budget(server: Loopback) -> None:
    """Where the money ends in the middle, the error holds what was bought."""
    server.default = Reply("word " * 100)  # 125 tokens of at most 200
    factory = factory_of(server, 0.003, max_new_tokens=200, temperature=0.7, capabilities={"native_n": False})
    with pytest.raises(SamplesIncompleteError) as caught:
        factory.create_model().codegen("hi", num_samples=10)
    failures = caught.value.failures.values()
    assert all(isinstance(failure, BudgetExceededError) for failure in failures)
    assert len(caught.value.trajectories) == len(server.journal) == 4


def test_others_are_waited_for(server: Loopback) -> None:
    """A request that only lacks what others have set aside is sent when they have settled."""
    server.default = Reply("ok", delay=0.1)
    factory = factory_of(server, 0.0085, max_new_tokens=1000)  # the worst case of one, not of two
    with ThreadPoolExecutor(5) as pool:
        replies = list(pool.map(lambda _: factory.create_model().codegen("hi"), range(5)))
    assert len(replies) == len(server.journal) == 5
    times = [(entry.arrived, entry.ended or 0.0) for entry in server.journal]
    assert all(later[0] >= earlier[1] - 0.02 for earlier, later in pairwise(times))


def test_an_unknown_bill_stays_at_its_worst(server: Loopback) -> None:
    """A time-out may have been charged for: its reservation is kept."""
    server.script(faults.Stall(), "ok")
    factory = factory_of(server, 1.0, max_new_tokens=1000, timeout=1)
    factory.create_model().codegen("hi")
    assert factory.budget is not None
    assert 0.005 < factory.budget.spent < 0.006
    assert factory.budget.reserved == 0
    assert (factory.ledger.cost or 0) < 0.001


def test_a_refusal_gives_its_money_back(server: Loopback) -> None:
    """What the service refused, or never got, is not spent."""
    server.default = faults.Status(400)
    factory = factory_of(server, 0.01, max_new_tokens=1000)
    for _ in range(5):
        with pytest.raises(Exception, match="400"):
            factory.create_model().codegen("hi")
    assert factory.budget is not None
    assert (factory.budget.spent, factory.budget.reserved) == (0.0, 0.0)


def test_a_cancelled_wait_gives_its_place_back(server: Loopback) -> None:
    """Cancelling a call that waits for money lets the next one have it."""
    server.default = Reply("ok", delay=0.2)
    model = factory_of(server, 0.0085, max_new_tokens=1000).create_model()

    async def cancel_second() -> None:
        tasks = [asyncio.create_task(model.codegen_async("hi")) for _ in range(3)]
        await asyncio.to_thread(server.wait_for, 1)
        tasks[1].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(each, asyncio.CancelledError) for each in results] == [False, True, False]

    asyncio.run(cancel_second())
    assert len(server.journal) == 2


def test_a_budget_needs_a_price(server: Loopback, make_config: MakeConfig) -> None:
    """A model without a known price cannot be made with a budget; the error says what to set."""
    config = make_config("generic")
    ModelFactory(config).create_model()
    with pytest.raises(ConfigError) as caught:
        ModelFactory(config, max_cost=1.0).create_model()
    assert {problem.key for problem in caught.value.problems} == {
        "models.m.input_cost_per_token",
        "models.m.output_cost_per_token",
    }
    ModelFactory(config, max_cost=1.0).create_model(**PRICES)


@pytest.mark.parametrize("wrong", [0, -1, "1", True, float("nan")])
def test_a_budget_is_a_number_above_zero(make_config: MakeConfig, wrong: Any) -> None:
    """Anything else is refused, by argument as in the config."""
    with pytest.raises(ConfigError, match="max_cost"):
        ModelFactory(make_config(), max_cost=wrong)


def test_the_argument_wins(server: Loopback) -> None:
    """`max_cost` as an argument stands in place of the config's."""
    config = factory_of(server, 5.0).config
    factory = ModelFactory(config, max_cost=2.0)
    assert factory.budget is not None
    assert factory.budget.max_cost == 2.0
    assert ModelFactory(read_config({"models": {"m": MODELS["openai"]}})).budget is None


def test_caching_is_reserved_at_its_price(server: Loopback, make_config: MakeConfig) -> None:
    """Writing the cache costs more than reading the prompt, and is set aside with prompt caching on."""
    plain = ModelFactory(make_config("anthropic", api_key="env:K_1"), max_cost=1e-9)
    os.environ["K_1"] = KEY
    try:
        model = plain.create_model()
    finally:
        del os.environ["K_1"]
    asked = []
    for caches in (False, True):
        with pytest.raises(BudgetExceededError) as caught:
            model.codegen("word " * 10_000, prompt_cache=caches)
        asked.append(caught.value.asked)
    assert asked[1] > 1.2 * asked[0]
    with pytest.raises(TypeError, match="max_cost"):
        pickle.dumps(model)


def test_a_forked_child_counts_on() -> None:
    """In a forked child the parent's open reservations count as spent, and nobody waits for them."""

    async def reserve_and_fork() -> tuple[float, float]:
        budget = Budget(1.0)
        async with budget.reserve(0.4, lambda future: future):
            receive, send = multiprocessing.Pipe(duplex=False)
            child = os.fork()
            if child == 0:
                send.send((budget.spent, budget.reserved))
                os._exit(0)
            seen: tuple[float, float] = await asyncio.to_thread(receive.recv)
            await asyncio.to_thread(os.waitpid, child, 0)
            return seen

    assert bridge.run(reserve_and_fork()) == (0.4, 0.0)


def test_what_was_never_sent_is_not_spent(server: Loopback) -> None:
    """A call that has its money but no place yet, and is cancelled, gives all of it back."""
    server.default = Reply("ok", delay=0.3)
    factory = factory_of(server, 1.0, max_new_tokens=1000, max_concurrency=1)
    model = factory.create_model()

    async def cancel_second() -> None:
        first = asyncio.create_task(model.codegen_async("hi"))
        await asyncio.to_thread(server.wait_for, 1)
        second = asyncio.create_task(model.codegen_async("hi"))
        await asyncio.sleep(0.1)
        second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)

    asyncio.run(cancel_second())
    assert len(server.journal) == 1
    assert factory.budget is not None
    assert factory.budget.reserved == 0
    assert factory.budget.spent == pytest.approx(billed(server))


@dataclass(frozen=True)
class WrongUsage(faults.ReplyFault):
    """A right reply with a usage that nobody can have counted."""

    usage: bytes = b"{}"

    def plan(self, draft: Draft) -> Plan:
        """The reply with that usage, wherever it has one."""
        if not draft.entry.stream:
            return Plan([draft.whole(self._wrong(draft.body), content_type=JSON)])
        events = draft.events
        tail = [*events.finish, *events.usage, *events.done]
        return Plan(draft.paced(events.pieces, [self._wrong(each) for each in tail]))

    def _wrong(self, text: bytes) -> bytes:
        return re.sub(rb'"usage": ?\{(?:[^{}]|\{[^{}]*\})*\}', b'"usage": ' + self.usage, text)


@pytest.mark.parametrize(
    "usage",
    [
        b"{}",
        b"null",
        b'"none"',
        b'{"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}',
        b'{"prompt_tokens": "9", "completion_tokens": "9", "total_tokens": "18"}',
        b'{"prompt_tokens": -9, "completion_tokens": -900000, "total_tokens": -900009}',
        b'{"prompt_tokens": 9, "completion_tokens": 0, "total_tokens": 9}',
        b'{"prompt_tokens": 1e999, "completion_tokens": true, "total_tokens": 9}',
    ],
)
def test_a_usage_that_says_nothing_is_an_unknown_bill(server: Loopback, usage: bytes, way: Way) -> None:
    """It counts at its worst case, and the ledger says that it is unknown."""
    server.script(WrongUsage(reply="word " * 100, usage=usage))
    factory = factory_of(server, 1.0, max_new_tokens=1000)
    assert way.call(factory.create_model())[0]["response"] == "word " * 100
    assert factory.budget is not None
    assert 0.005 < factory.budget.spent < 0.006
    assert factory.ledger.snapshot()["total"]["unknown"] == 1


@pytest.mark.parametrize(
    "extra, tokens",
    [
        ({"max_tokens": 50_000}, 50_000),
        ({"max_tokens": "50000"}, 50_000),
        ({"max_completion_tokens": 5e4}, 50_000),
        ({"generationConfig": {"maxOutputTokens": 50_000}}, 50_000),
        ({"n": 7}, 700),
        ({"n": "7"}, 700),
        ({"n": 7.0, "max_tokens": 200}, 1_400),
        ({"max_tokens": None}, 8_000),
        ({"max_tokens": -1}, 8_000),
    ],
    ids=str,
)
def test_extra_body_counts_for_the_budget(server: Loopback, extra: dict[str, Any], tokens: int) -> None:
    """A limit or a number of replies in it is what may be charged, in whatever type it is written."""
    factory = factory_of(
        server, 1e-9, max_new_tokens=100, extra_body=extra, capabilities={"max_output_tokens": 8_000}
    )
    with pytest.raises(BudgetExceededError) as caught:
        factory.create_model().codegen("hi")
    assert tokens * 5e-6 <= caught.value.asked < tokens * 5e-6 + 0.002
    assert server.journal == []


def test_what_extra_body_adds_to_the_prompt_is_charged(server: Loopback) -> None:
    """Its bytes are tokens at the worst."""
    tools = [{"type": "function", "function": {"name": "f", "description": "word " * 20_000}}]
    factory = factory_of(server, 1e-9, max_new_tokens=1, extra_body={"tools": tools})
    with pytest.raises(BudgetExceededError) as caught:
        factory.create_model().codegen("hi")
    assert caught.value.asked > 0.1


def test_a_budget_needs_a_limit_in_extra_body_too(server: Loopback) -> None:
    """Where extra_body takes the limit away and the model's own is not known, the model cannot be made."""
    with pytest.raises(ConfigError, match=r"models\.m\.capabilities\.max_output_tokens"):
        factory_of(server, 1.0, extra_body={"max_tokens": None}).create_model()
