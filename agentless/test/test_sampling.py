"""One prompt to exactly n samples, in as few requests as the service allows; over real HTTP."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import pytest

from agentless.config import read_config
from agentless.errors import AuthenticationError, BadRequestError, SamplesIncompleteError
from agentless.llm.codegen import CodegenModel
from agentless.loopback import Loopback, Reply, faults
from agentless.test.ways import MODELS, QUICK, Way
from agentless.util.model_factory import ModelFactory

MakeModel = Callable[..., CodegenModel]

SERVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "native n": ("openai", {}),
    "no native n": ("anthropic", {}),
    "ignores n": ("openai", {"ignores_n": True}),
    "gives two at most": ("openai", {"max_n": 2}),
}
LONG = "A prompt that is long enough to be cached. " * 1_861  # 80,023 bytes, 20,006 of the server's tokens


def fewest_requests(n: int, batch: int, at_most: int) -> int:
    """What it takes where the first round shows how many a request brings."""
    first = [min(batch, n - start) for start in range(0, n, batch)]
    missing = n - sum(min(size, at_most) for size in first)
    return len(first) + math.ceil(missing / min(at_most, batch))


@pytest.mark.parametrize("kind", SERVERS)
def test_exactly_n_in_the_fewest_requests(way: Way, kind: str) -> None:
    """Every n and batch size on every kind of server: n samples, each once, and no request too many."""
    provider, rules = SERVERS[kind]
    at_most = {"native n": 40, "no native n": 1, "ignores n": 1, "gives two at most": 2}[kind]
    for n, batch in product((1, 2, 7, 40), (1, 3, 40)):
        with Loopback(**rules) as server:
            url = server.anthropic_url if provider == "anthropic" else server.openai_url
            table = {**MODELS[provider], **QUICK, "base_url": url, "api_key": "sk-0000", "temperature": 0.8}
            config = read_config({"models": {"m": {**table, "batch_size": batch, "max_concurrency": 40}}})
            model = ModelFactory(config).create_model()
            trajectories = way.call(model, num_samples=n)
            assert [bool(each["response"]) for each in trajectories] == [True] * n
            expected = n if kind == "no native n" else fewest_requests(n, batch, at_most)
            assert len(server.journal) == expected, (n, batch)
            if at_most == 40 or provider == "anthropic":
                assert sum(entry.body.get("n", 1) for entry in server.journal) == n
            total = model.ledger.snapshot()["total"]
            assert (total["samples"], total["requests"], total["attempts"]) == (n, expected, expected)
            assert total["completion_tokens"] == server.bill["completion_tokens"]


def test_choices_keep_their_numbers_and_the_missing_are_asked_for(server: Loopback, way: Way) -> None:
    """A service that leaves out the last choice is asked for that one alone."""
    server.script(["a", "b"], ["c"])
    table = {**MODELS["openai"], **QUICK, "base_url": server.openai_url, "api_key": "sk-0000"}
    config = read_config({"models": {"m": {**table, "temperature": 1.0, "batch_size": 3}}})
    trajectories = way.call(ModelFactory(config).create_model())
    assert [each["response"] for each in trajectories] == ["a", "b", "c"]
    assert [entry.body.get("n", 1) for entry in server.journal] == [3, 1]


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_streams_interleave(server: Loopback, make_model: MakeModel, provider: str) -> None:
    """Chunks of several samples come as they are made, each with its sample's number."""
    server.default = Reply("one two three four", chunk_delay=0.03)
    chunks = list(make_model(provider, temperature=0.8).codegen_stream("hi", num_samples=3))
    ends = [position for position, chunk in enumerate(chunks) if chunk["finish_reason"]]
    assert {chunk["index"] for chunk in chunks[: ends[0]]} == {0, 1, 2}
    assert sorted(chunks[position]["index"] for position in ends) == [0, 1, 2]


def test_failures_leave_the_others(server: Loopback, make_model: MakeModel, way: Way) -> None:
    """Three of ten fail for good: the error has the seven, by number, and the ledger what they cost."""
    server.script(*[faults.Status(400)] * 3, *["fine"] * 7)
    model = make_model("openai", temperature=0.8)
    with pytest.raises(SamplesIncompleteError) as caught:
        way.call(model, num_samples=10)
    finished, failed = caught.value.trajectories, caught.value.failures
    assert len(finished) == 7
    assert sorted([*finished, *failed]) == list(range(10))
    assert all(isinstance(failure, BadRequestError) for failure in failed.values())
    assert len(server.journal) == 10
    total = model.ledger.snapshot()["total"]
    for kind, count in server.bill.items():
        assert total[kind] == count == sum(each["usage"][kind] for each in finished.values())  # type: ignore[literal-required]
    assert (total["samples"], total["attempts"]) == (7, 10)


def test_a_refused_key_stops_the_rest(server: Loopback, make_model: MakeModel, way: Way) -> None:
    """After a 401 nothing more is sent; what was finished before is in the error."""
    server.script("fine", "fine")
    server.default = faults.InvalidKey()
    model = make_model("openai", temperature=0.8, max_concurrency=1)
    with pytest.raises(SamplesIncompleteError) as caught:
        way.call(model, num_samples=10)
    assert len(server.journal) == 3
    assert len(caught.value.trajectories) == 2
    assert all(isinstance(failure, AuthenticationError) for failure in caught.value.failures.values())


@pytest.mark.parametrize("provider", ["openai", "anthropic", "deepseek"])
def test_one_request_warms_the_cache(
    server: Loopback, make_model: MakeModel, way: Way, provider: str
) -> None:
    """Ten samples of a long prompt: one request writes the cache, nine read it."""
    server.default = Reply("ok", delay=0.05)
    model = make_model(provider, temperature=0.8, prompt_cache=True)
    trajectories = way.call(model, LONG, num_samples=10)
    read = [entry.usage.cache_read_input_tokens for entry in server.journal if entry.usage]
    assert len(server.journal) == len(trajectories) == 10
    assert [tokens > 19_000 for tokens in read] == [False] + [True] * 9
    if provider == "anthropic":
        written = [entry.usage.cache_creation_token for entry in server.journal if entry.usage]
        assert [tokens > 0 for tokens in written] == [True] + [False] * 9


def test_the_warm_cache_is_worth_it(server: Loopback, make_model: MakeModel) -> None:
    """It costs at most 0.19 of the same requests sent together."""
    server.default = Reply("ok", delay=0.5)
    model = make_model("anthropic", temperature=0.8, prompt_cache=True)
    with model.ledger.block() as warm:
        model.codegen(LONG, num_samples=10)
    server.reset()
    server.default = Reply("ok", delay=0.5)
    with model.ledger.block(all_threads=True) as naive, ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda _: model.codegen(LONG), range(10)))
    assert warm.cost is not None
    assert naive.cost is not None
    assert server.bill["cache_read_input_tokens"] == 0
    assert warm.cost <= 0.19 * naive.cost


def test_a_short_prompt_is_not_held_back(server: Loopback, make_model: MakeModel) -> None:
    """What no service would cache goes out all at once, unstreamed."""
    model = make_model("anthropic", temperature=0.8, prompt_cache=True)
    model.codegen("short", num_samples=4)
    assert [entry.stream for entry in server.journal] == [False] * 4


def test_a_leader_that_stumbles_is_replaced(server: Loopback, make_model: MakeModel, way: Way) -> None:
    """While the first request waits for its second attempt, the next warms the cache in its place."""
    server.script(faults.Status(500))
    model = make_model("anthropic", temperature=0.8, prompt_cache=True, retry_min_wait=1, retry_max_wait=1)
    assert len(way.call(model, LONG, num_samples=3)) == 3
    first, second, third, fourth = server.journal
    assert second.arrived - first.arrived < 0.9
    assert third.arrived - first.arrived < 0.9
    assert fourth.arrived - first.arrived > 0.9
    assert [entry.usage.cache_creation_token > 0 for entry in (second, third, fourth) if entry.usage] == [
        True,
        False,
        False,
    ]


def test_a_leader_that_fails_for_good_is_the_last(server: Loopback, make_model: MakeModel, way: Way) -> None:
    """A request that the service refuses is not followed by nine like it."""
    server.default = faults.Status(400)
    with pytest.raises(BadRequestError):
        way.call(make_model("anthropic", temperature=0.8, prompt_cache=True), LONG, num_samples=10)
    assert len(server.journal) == 1


def test_native_n_warms_the_cache_too(server: Loopback, make_model: MakeModel, way: Way) -> None:
    """With several samples in a request, the first request goes first, whole where streams lack n."""
    server.default = Reply("ok", delay=0.05)
    capabilities = {"streams_native_n": way.streams}
    model = make_model("openai", temperature=0.8, prompt_cache=True, batch_size=3, capabilities=capabilities)
    assert len(way.call(model, LONG, num_samples=7)) == 7
    sizes = [entry.body.get("n", 1) for entry in server.journal]
    assert (sizes[0], sorted(sizes)) == (3, [1, 3, 3])
    assert [entry.usage.cache_read_input_tokens > 0 for entry in server.journal if entry.usage] == [
        False,
        True,
        True,
    ]


def test_no_more_samples_than_can_be_kept(server: Loopback, make_model: MakeModel) -> None:
    """A number beyond all memory is an error at once."""
    with pytest.raises(ValueError, match="at most 1,000,000"):
        make_model(temperature=0.5).codegen("hi", num_samples=10**30)
    assert server.journal == []
