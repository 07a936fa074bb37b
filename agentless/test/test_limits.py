"""Limits of one service, over all threads and calls: places, rates, and what a refusal does."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from agentless.errors import RateLimitError
from agentless.llm import bridge, limits
from agentless.llm.codegen import CodegenModel
from agentless.llm.limits import Gate, Limits
from agentless.loopback import Entry, Loopback, Reply, faults

MakeModel = Callable[..., CodegenModel]


class RateLimited:
    """A service that takes so many requests in a sliding window, and refuses the rest with a 429."""

    def __init__(self, most: int, window: float, *, retry_after: bool = True) -> None:
        self.most, self.window, self.retry_after = most, window, retry_after
        self.taken: deque[float] = deque()
        self.refused = 0

    def __call__(self, entry: Entry) -> Any:
        """The reply, or the refusal with the time until there is room."""
        while self.taken and self.taken[0] <= entry.arrived - self.window:
            self.taken.popleft()
        if len(self.taken) < self.most:
            self.taken.append(entry.arrived)
            return Reply("ok", delay=0.01)
        self.refused += 1
        wait = self.taken[0] + self.window - entry.arrived
        return faults.Status(
            429, headers={"retry-after-ms": f"{1000 * wait:.0f}"} if self.retry_after else {}
        )


def call_from_threads(model: CodegenModel, threads: int, calls: int) -> int:
    """So many callers, each making so many calls one after the other; returns the replies."""

    def work(_: int) -> int:
        return sum(bool(model.codegen("hi")[0]["response"]) for _ in range(calls))

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(work, range(threads)))


def on_engine(work: Coroutine[Any, Any, Any]) -> Any:
    """Run on the engine's loop, where gates live."""
    return bridge.run(work)


def test_the_configured_rate_is_kept(
    server: Loopback, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 callers of a service that takes 50 a minute, and is known to: under 5 % are refused."""
    monkeypatch.setattr(limits, "MINUTE", 0.6)  # the machine's hiccups do not shrink with the minute
    service = RateLimited(50, 0.5)
    server.default = service
    model = make_model("openai", requests_per_minute=50, max_concurrency=64, num_retries=5)
    assert call_from_threads(model, 64, 3) == 192
    assert service.refused < 0.05 * len(server.journal)


def test_the_rate_is_learned_from_refusals(server: Loopback, make_model: MakeModel) -> None:
    """The same where nobody has said the rate: after the first burst, the refusals teach it."""
    service = RateLimited(50, 0.5)
    server.default = service
    assert call_from_threads(make_model("openai", num_retries=8), 64, 6) == 384
    at_once = 32  # under way when the first was refused
    assert service.refused < at_once + 0.05 * len(server.journal)


@pytest.mark.soak
def test_the_rate_is_learned_for_good(server: Loopback, make_model: MakeModel) -> None:
    """Over a longer time, with that first burst, under 5 % are refused."""
    service = RateLimited(50, 0.5)
    server.default = service
    assert call_from_threads(make_model("openai", num_retries=8), 64, 30) == 1920
    assert service.refused < 0.05 * len(server.journal)


def test_a_refusal_without_a_time_slows_down_too(server: Loopback, make_model: MakeModel) -> None:
    """Where a 429 does not say how long, the model waits `retry_min_wait`."""
    service = RateLimited(50, 0.5, retry_after=False)
    server.default = service
    model = make_model("openai", num_retries=20, retry_min_wait=0.1, retry_max_wait=0.2)
    assert call_from_threads(model, 64, 5) == 320
    assert service.refused < 0.25 * len(server.journal)


def test_nobody_sends_before_the_time_that_the_service_asked_for(
    server: Loopback, make_model: MakeModel
) -> None:
    """One caller's Retry-After holds back the others of that model."""
    server.script(faults.Status(429, headers={"retry-after-ms": "400"}))
    model = make_model("openai")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(model.codegen, "first")
        while not model.ledger.snapshot()["total"]["attempts"]:  # polled: the refusal is told to nobody else
            assert not first.done(), first.result()
            time.sleep(0.005)
        refused = server.journal[0].arrived
        model.codegen("second")
        first.result()
    assert all(entry.arrived - refused > 0.35 for entry in server.journal[1:])
    assert len(server.journal) == 3


def test_one_early_refusal_is_soon_over(server: Loopback, make_model: MakeModel) -> None:
    """Where the first request meets a window that others have used up, the next ones are not slow for it."""
    server.script(faults.Status(429, headers={"retry-after-ms": "300"}))
    model = make_model("openai")
    began = time.monotonic()
    for _ in range(30):
        model.codegen("hi")
    assert len(server.journal) == 31
    assert time.monotonic() - began < 4  # 0.3 s apart, they would take 9


def test_no_more_at_once_than_allowed(server: Loopback, make_model: MakeModel) -> None:
    """`max_concurrency` counts all threads and calls of the process."""
    server.default = Reply("ok", delay=0.05)
    model = make_model("openai", max_concurrency=3, temperature=0.5)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: model.codegen("hi", num_samples=4), range(4)))
    spans = [(entry.arrived, entry.ended or 0.0) for entry in server.journal]
    assert len(spans) == 16
    assert max(sum(start <= moment < end for start, end in spans) for moment, _ in spans) <= 3


def test_two_configs_may_differ_about_one_service(server: Loopback, make_config: Any) -> None:
    """Both count the same requests, and each keeps to its own limit."""
    from agentless.util.model_factory import ModelFactory

    server.default = Reply("ok", delay=0.1)
    factory = ModelFactory(make_config("openai", temperature=0.5))
    wide, narrow = factory.create_model(), factory.create_model(max_concurrency=1)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(wide.codegen, "wide", num_samples=5)
        server.wait_for(5)
        second = pool.submit(narrow.codegen, "narrow", num_samples=2)
        first.result(), second.result()
    of_narrow = [entry for entry in server.journal if entry.prompt == "narrow"]
    of_wide = [entry for entry in server.journal if entry.prompt == "wide"]
    assert min(entry.arrived for entry in of_narrow) >= max(entry.ended or 0.0 for entry in of_wide) - 0.02
    assert of_narrow[1].arrived >= (of_narrow[0].ended or 0.0)


@pytest.mark.parametrize("limit", [5.0, 2.5, 0.5], ids=["5", "2.5", "one in two minutes"])
def test_no_window_has_more_than_the_limit(limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """In no minute, whenever it begins, are more than `requests_per_minute` sent."""
    monkeypatch.setattr(limits, "MINUTE", 0.2)
    count = max(3, int(3 * limit))

    async def burst() -> list[float]:
        gate, times = Gate(), []
        rules = Limits(100, requests_per_minute=limit)

        async def one() -> None:
            async with gate.place(rules):
                times.append(asyncio.get_running_loop().time())

        await asyncio.gather(*(one() for _ in range(count)))
        return times

    times = on_engine(burst())
    most = max(1, int(limit))
    window = 0.2 * most / limit
    assert all(later - earlier > window for earlier, later in zip(times, times[most:], strict=False))


def test_a_request_counts_from_when_it_is_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is built for long after its turn came is in the minute in which the service sees it."""
    monkeypatch.setattr(limits, "MINUTE", 0.4)

    async def main() -> float:
        gate, rules = Gate(), Limits(100, requests_per_minute=1)
        async with gate.place(rules) as turn:
            await asyncio.sleep(0.2)
            out = asyncio.get_running_loop().time()
            gate.departed(turn)
        async with gate.place(rules):
            return asyncio.get_running_loop().time() - out

    assert on_engine(main()) >= 0.4


def test_tokens_of_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens count as estimated until they are known, and a request too large for any minute goes alone."""
    monkeypatch.setattr(limits, "MINUTE", 0.2)

    async def three() -> list[float]:
        gate, times = Gate(), []
        rules = Limits(100, tokens_per_minute=1000)
        loop = asyncio.get_running_loop()

        async def one(estimate: int, known: int | None) -> None:
            async with gate.place(rules, estimate) as turn:
                times.append(loop.time())
                await asyncio.sleep(0.02)
                if known is not None:
                    gate.correct(turn, known)

        await asyncio.gather(one(900, 100), one(900, None), one(5000, None))
        return times

    first, second, third = on_engine(three())
    assert 0.01 < second - first < 0.19  # as soon as the first is known to be small
    assert third - second > 0.19


def test_tokens_per_minute_in_a_config(
    server: Loopback, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server never sees more tokens in a window than the config allows."""
    monkeypatch.setattr(limits, "MINUTE", 1.0)  # longer than the server's: see above
    server.default = Reply("word " * 40, delay=0.02)
    model = make_model("openai", tokens_per_minute=1000, max_new_tokens=100)
    call_from_threads(model, 8, 5)
    entries = server.journal
    assert len(entries) == 40
    for start in entries:
        window = [each for each in entries if 0 <= each.arrived - start.arrived < 0.6]
        assert (
            sum(each.usage.prompt_tokens + each.usage.completion_tokens for each in window if each.usage)
            <= 1000
        )


def test_first_come_first_served() -> None:
    """Turns are given in the order in which they were asked for."""

    async def queue() -> list[int]:
        gate, order = Gate(), []

        async def one(number: int) -> None:
            async with gate.place(Limits(2)):
                order.append(number)
                await asyncio.sleep(0)

        await asyncio.gather(*(one(number) for number in range(20)))
        return order

    assert on_engine(queue()) == list(range(20))


def test_cancelled_waits_lose_nothing() -> None:
    """Whoever leaves the queue, at whatever moment, leaves their place to the next."""

    async def churn() -> int:
        gate, done = Gate(), 0

        async def one() -> None:
            nonlocal done
            async with gate.place(Limits(1, requests_per_minute=1e6)):
                await asyncio.sleep(0)
                done += 1

        for round_ in range(50):
            tasks = [asyncio.create_task(one()) for _ in range(4)]
            for _ in range(round_ % 7):
                await asyncio.sleep(0)
            tasks[round_ % 4].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(1):
            await one()
        return done

    assert on_engine(churn()) > 150


@pytest.mark.parametrize("what", ["a place", "a rate", "a hold", "tokens"])
def test_a_refused_account_ends_all_waits(what: str) -> None:
    """Whatever they wait for, those who wait get the error; who comes later is not affected."""

    async def wait_and_end() -> list[Any]:
        gate = Gate()
        rules = {
            "a place": Limits(1),
            "a rate": Limits(9, requests_per_minute=1),
            "a hold": Limits(9),
            "tokens": Limits(9, tokens_per_minute=10),
        }[what]

        async def one() -> None:
            async with gate.place(rules, 10):
                await asyncio.sleep(0.05 if what == "a place" else 0)

        first = asyncio.create_task(one())
        await asyncio.sleep(0)
        if what == "a hold":
            gate.hold(30)
        others = [asyncio.create_task(one()) for _ in range(3)]
        await asyncio.sleep(0.01)
        gate.end_waits(ConnectionError("refused"))
        results = await asyncio.gather(first, *others, return_exceptions=True)
        async with gate.place(Limits(1), 0) if what != "a hold" else asyncio.timeout(1):
            return results

    first, *others = on_engine(wait_and_end())
    assert first is None
    assert [type(each) for each in others] == [ConnectionError] * 3


def test_refusals_for_ever_end(server: Loopback, make_model: MakeModel) -> None:
    """A service that refuses everything is asked `num_retries` times more, and no more."""
    server.default = faults.Status(429, headers={"retry-after-ms": "20"})
    with pytest.raises(RateLimitError):
        make_model("openai", num_retries=2).codegen("hi")
    assert len(server.journal) == 3
