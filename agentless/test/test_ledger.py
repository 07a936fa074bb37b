"""The books: what was asked for and what it cost, down to the token; over real HTTP."""

import asyncio
import json
import logging
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from agentless.config import Config, read_config
from agentless.errors import DeadlineExceededError, SamplesIncompleteError, StreamInterruptedError
from agentless.llm.codegen import CodegenModel
from agentless.llm.ledger import Snapshot
from agentless.llm.trajectory import Trajectory
from agentless.loopback import Loopback, Reply, ToolCall, faults
from agentless.test.ways import KEY, MODELS, PROVIDERS, QUICK, WAYS, Way
from agentless.util.model_factory import ModelFactory

MakeModel = Callable[..., CodegenModel]
TOOL = {"type": "function", "function": {"name": "edit", "parameters": {"type": "object"}}}


def total(snapshot: Snapshot) -> dict[str, Any]:
    """The total as a plain dict."""
    return dict(snapshot["total"])


def assert_billed(server: Loopback, snapshot: Snapshot) -> None:
    """The books say what the server has charged."""
    for kind, count in server.bill.items():
        assert total(snapshot)[kind] == count, kind


def test_books_are_kept(server: Loopback, make_model: MakeModel, way: Way, provider: str) -> None:
    """A call is in the ledger: one request, one attempt, one sample, the server's tokens, and the cost."""
    model = make_model(provider)
    [trajectory] = way.call(model)
    snapshot = model.ledger.snapshot()
    assert_billed(server, snapshot)
    counts = total(snapshot)
    assert (counts["requests"], counts["attempts"], counts["samples"], counts["unknown"]) == (1, 1, 1, 0)
    assert counts["cost"] == trajectory["usage"]["cost"]
    assert (counts["cost"] is None) == (provider == "generic")
    assert json.loads(json.dumps(snapshot)) == snapshot
    assert list(snapshot["models"]) == ["m"]


@pytest.mark.parametrize("fault", [faults.EmptyText(), faults.EmptyChoices()], ids=["text", "choices"])
def test_an_empty_reply_is_paid_for(
    server: Loopback, make_model: MakeModel, way: Way, provider: str, fault: faults.Fault
) -> None:
    """What was thrown away and tried again is in the books, though not in the trajectory."""
    server.script(fault, "fine")
    model = make_model(provider)
    [trajectory] = way.call(model)
    assert_billed(server, model.ledger.snapshot())
    counts = total(model.ledger.snapshot())
    assert (counts["requests"], counts["attempts"], counts["unknown"]) == (1, 2, 0)
    assert trajectory["usage"]["prompt_tokens"] < counts["prompt_tokens"]


def test_a_refusal_costs_nothing(server: Loopback, make_model: MakeModel, way: Way) -> None:
    """An attempt that the service refused is counted, at no cost."""
    server.script(faults.Status(503), faults.Reset(), "fine")
    model = make_model("openai")
    way.call(model)
    counts = total(model.ledger.snapshot())
    assert_billed(server, model.ledger.snapshot())
    assert counts["attempts"] == 3
    assert counts["unknown"] == 1  # whoever resets the connection may have charged for it


def test_what_is_not_known_is_told(server: Loopback, make_model: MakeModel) -> None:
    """A time-out and a broken stream are counted as far as they are known, and as unknown."""
    server.script(faults.Stall(), faults.TruncatedStream(after_chunks=2, reply=Reply("one two three four")))
    model = make_model("anthropic", timeout=1, num_retries=0)
    with pytest.raises(DeadlineExceededError):
        model.codegen("hi")
    with pytest.raises(StreamInterruptedError):
        list(model.codegen_stream("hi"))
    counts = total(model.ledger.snapshot())
    assert (counts["attempts"], counts["unknown"], counts["samples"]) == (2, 2, 0)
    assert 0 < counts["prompt_tokens"] <= server.bill["prompt_tokens"]  # Anthropic says it first


def test_a_cancelled_call_is_told(server: Loopback, make_model: MakeModel) -> None:
    """Leaving a stream does not make it free: it is in the books, with an unknown end."""
    server.default = Reply("one two three four", chunk_delay=0.05)
    model = make_model("openai")
    for _ in model.codegen_stream("hi"):
        break
    deadline = time.monotonic() + 5
    while not total(model.ledger.snapshot())["unknown"] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert total(model.ledger.snapshot())["unknown"] == 1


def test_a_factorys_books_hold_all_its_models(server: Loopback) -> None:
    """The factory's ledger is the sum, by the names in the config; each model's is its own."""
    tables = {
        name: {**table, **QUICK, "api_key": KEY, "base_url": server.openai_url}
        for name, table in MODELS.items()
        if name not in {"anthropic", "gemini"}  # at other addresses
    }
    factory = ModelFactory(read_config({"models": tables, "default_model": "openai"}))
    for number, name in enumerate(tables, 1):
        for _ in range(number):
            factory.create_model(name).codegen("hi")
    snapshot = factory.ledger.snapshot()
    assert {name: spend["requests"] for name, spend in snapshot["models"].items()} == {
        "openai": 1,
        "deepseek": 2,
        "generic": 3,
    }
    assert factory.create_model("deepseek").ledger.snapshot()["total"]["requests"] == 2
    assert snapshot["total"]["cost"] is None  # one of them has no price


def test_blocks_of_threads_are_apart(make_config: Callable[..., Config], server: Loopback) -> None:
    """64 threads at once, each with a block of its own: each block has its own calls, and only these."""
    factory = ModelFactory(make_config("openai"))
    model = factory.create_model()

    def instance(number: int) -> tuple[int, int]:
        with factory.ledger.block() as spent:
            for _ in range(number % 4 + 1):
                model.codegen("x" * 4 * (number + 1))
        return number, total(spent.snapshot())["attempts"]

    books, pool = factory.ledger, ThreadPoolExecutor(64)
    with books.block() as outside, books.block(all_threads=True) as stage, pool:
        results = list(pool.map(instance, range(64)))
    assert all(attempts == number % 4 + 1 for number, attempts in results)
    assert total(outside.snapshot())["attempts"] == 0
    assert stage.snapshot() == factory.ledger.snapshot()
    assert total(stage.snapshot())["attempts"] == 160
    model.codegen("later")
    assert total(stage.snapshot())["attempts"] == 160


def test_blocks_of_tasks_are_apart(server: Loopback, make_model: MakeModel) -> None:
    """The same for tasks of one event loop, whose streams and calls overlap."""
    model = make_model("openai", temperature=0.5)
    server.default = Reply("one two", delay=0.02)

    async def instance(number: int) -> int:
        with model.ledger.block() as spent:
            await model.codegen_async("hi", num_samples=number + 1)
            async for _ in model.codegen_stream_async("hi"):
                pass
        return int(total(spent.snapshot())["samples"])

    async def every() -> list[int]:
        return await asyncio.gather(*(instance(number) for number in range(8)))

    assert asyncio.run(every()) == [number + 2 for number in range(8)]


def test_blocks_nest(server: Loopback, make_model: MakeModel) -> None:
    """An inner block's calls are in the outer one too, in a block of a block, and in nobody else's."""
    model, other = make_model("openai"), make_model("deepseek")
    with model.ledger.block() as outer:
        model.codegen("hi")
        with model.ledger.block() as inner, outer.block() as nested:
            model.codegen("hi")
            other.codegen("hi")
    counts = [total(each.snapshot())["attempts"] for each in (outer, inner, nested, model.ledger)]
    assert counts == [2, 1, 1, 2]


def test_an_unknown_price_is_told_to_who_asks(
    server: Loopback, make_model: MakeModel, caplog: pytest.LogCaptureFixture
) -> None:
    """Its cost is `None`, not 0; there is one warning, and only once somebody looks at the books."""
    with caplog.at_level(logging.WARNING):
        model = make_model("generic")
        [trajectory] = model.codegen("hi")
        assert trajectory["usage"]["cost"] is None
        assert caplog.records == []
        assert model.ledger.cost is None
        assert model.ledger.cost is None
    [record] = caplog.records
    assert record.name == "agentless"
    assert "input_cost_per_token" in record.getMessage()


def test_the_configs_price_is_used(server: Loopback, make_model: MakeModel) -> None:
    """With a price in the config the same model has a cost."""
    model = make_model("generic", input_cost_per_token=1e-3, output_cost_per_token=2e-3)
    server.default = Reply("12345678")
    [trajectory] = model.codegen("12345678")
    assert trajectory["usage"]["cost"] == pytest.approx(2 * 1e-3 + 2 * 2e-3)
    assert model.ledger.cost == pytest.approx(trajectory["usage"]["cost"])


def test_a_quote_bounds_the_bill(server: Loopback, make_model: MakeModel, provider: str) -> None:
    """What a call will cost is between its quote's two costs, and asking for it sends nothing."""
    prices = {"input_cost_per_token": 1e-6, "output_cost_per_token": 4e-6} if provider == "generic" else {}
    model = make_model(
        provider, temperature=0.5, batch_size=2, prompt_cache=True, max_new_tokens=50, **prices
    )
    for message in ("A few words of prose. " * 3, "A few words of prose. " * 2_000):
        quote = model.quote(message, 5)
        assert json.loads(json.dumps(quote)) == quote
        before = len(server.journal)
        assert before in {0, quote["requests"]}
        with model.ledger.block() as spent:
            model.codegen(message, 5)
        assert len(server.journal) - before == quote["requests"]
        assert quote["fits"]
        assert quote["cost_low"] is not None
        assert quote["cost_high"] is not None
        # The server's tokenizer is not the model's: a fifth less or more.
        assert 0.8 * quote["cost_low"] <= (spent.cost or 0) <= 1.25 * quote["cost_high"]
        assert quote["max_completion_tokens"] == 250
        server.reset()


def test_a_quote_says_what_does_not_fit(server: Loopback, make_model: MakeModel) -> None:
    """A prompt over the context window is told, not raised."""
    quote = make_model("openai", max_input_tokens=50).quote("word " * 100)
    assert not quote["fits"]
    assert quote["prompt_tokens"] > 50
    assert server.journal == []


FAULTS: tuple[tuple[faults.Fault, float], ...] = (
    (faults.Status(500), 0.05),
    (faults.Status(429, headers={"retry-after-ms": "5"}), 0.03),
    (faults.Reset(), 0.03),
    (faults.EmptyText(), 0.05),
    (faults.EmptyChoices(), 0.03),
    (faults.TruncatedStream(after_chunks=1), 0.03),
    (faults.MalformedBody(), 0.02),
)
UNREPORTED = {"anthropic": "reasoning_tokens"}
"""What litellm makes up by its own count."""
REPLIES = (
    Reply("some words of a reply"),
    Reply("", tool_calls=[ToolCall("edit", {"path": "a.py"}), ToolCall("edit", {"path": "b.py"})]),
    Reply("thought over", reasoning="first this, then that"),
)


@pytest.mark.parametrize("calls", [60, pytest.param(1_500, marks=pytest.mark.soak)])
def test_every_token_is_accounted_for(calls: int) -> None:
    """With faults, native n, streams, tools and caching: books and trajectories are the server's own bill.

    But for what was cut before the service said its usage: that is what the server charged for exactly
    those requests, and the books count them as unknown. Anthropic does not report reasoning tokens.
    """
    for provider in PROVIDERS:
        chance = random.Random(calls)
        with Loopback(seed=calls) as server:
            for fault, probability in FAULTS:
                server.sometimes(fault, probability)
            server.default = lambda _: chance.choice(REPLIES)  # noqa: B023  # within this turn
            url = server.anthropic_url if provider == "anthropic" else server.openai_url
            settings = {"temperature": 0.7, "num_retries": 9, "prompt_cache": True, "batch_size": 3}
            table = {**MODELS[provider], **QUICK, "base_url": url, "api_key": KEY, **settings}
            tools = {} if provider == "generic" else {"tools": [TOOL]}
            model = ModelFactory(read_config({"models": {"m": {**table, **tools}}})).create_model()
            trajectories = _call_at_random(model, calls, calls)
            usages: list[dict[str, Any]] = [dict(each["usage"]) for each in trajectories]
            snapshot = model.ledger.snapshot()
            cut = [each for each in server.journal if each.fault in {"TruncatedStream", "MalformedBody"}]
            resets = [each for each in server.journal if each.fault == "Reset"]
            assert total(snapshot)["unknown"] == len(cut) + len(resets)
            assert total(snapshot)["attempts"] == len(server.journal)
            bill = {kind: count for kind, count in server.bill.items() if kind != UNREPORTED.get(provider)}
            for kind, billed in bill.items():
                unseen = sum(getattr(each.usage, kind) for each in cut)
                booked = total(snapshot)[kind]
                # Anthropic tells the prompt's tokens before it is cut.
                least, most = billed - unseen, billed if provider == "anthropic" else billed - unseen
                assert least <= booked <= most, (provider, kind)
                wasted = sum(
                    getattr(each.usage, kind) for each in server.journal if each.usage and each.fault
                )
                got = sum(usage[kind] for usage in usages)
                assert got == billed - wasted, (provider, kind)


def _call_at_random(model: CodegenModel, calls: int, seed: int) -> list[Trajectory]:
    """What arrived, whole calls and what their errors hold."""

    def one(number: int) -> list[Trajectory]:
        chance = random.Random(seed + number)
        prompt = f"{number % 7} " + "words " * chance.choice((1, 50, 1_500))
        try:
            return chance.choice(WAYS).call(model, prompt, num_samples=chance.choice((1, 2, 7)))
        except (SamplesIncompleteError, StreamInterruptedError) as error:
            return list(error.trajectories.values())

    with ThreadPoolExecutor(8) as pool:
        return [trajectory for each in pool.map(one, range(calls)) for trajectory in each]
