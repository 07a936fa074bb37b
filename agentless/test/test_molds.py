"""Requests that are cast from one of litellm's: the same bytes as if it had built each."""

import functools
import gc
from collections.abc import Callable
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentless.llm import importing, molds, shortcuts
from agentless.llm.codegen import CodegenModel
from agentless.llm.molds import Shape
from agentless.llm.transport import Plan
from agentless.llm.wire import Sent, WatchedTransport
from agentless.loopback import Loopback

MakeModel = Callable[..., CodegenModel]
ARGUMENTS: dict[str, Any] = {"model": "openai/gpt-4o", "temperature": 0.5, "api_key": "sk-0"}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "edit", "parameters": {"type": "object"}}}


@pytest.fixture(autouse=True)
def taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """This is one of the shortcuts."""
    monkeypatch.setattr(shortcuts, "taken", True)


def user(text: Any) -> dict[str, Any]:
    """A user's message."""
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    """A model's message."""
    return {"role": "assistant", "content": text}


def sent(server: Loopback, model: CodegenModel, *arguments: Any, **overrides: Any) -> tuple[Any, ...]:
    """What one call sends: the body's bytes, and the headers that tell of it."""
    server.reset()
    model.codegen(*arguments, **overrides)
    [entry] = server.journal
    headers = {name.lower(): value for name, value in entry.headers.items()}
    return entry.raw, headers.get("content-type"), headers.get("authorization") or headers["x-api-key"]


def outcome(*arguments: Any) -> Any:
    """As `sent`, or the kind of error: half of a surrogate pair cannot be sent."""
    try:
        return sent(*arguments)
    except Exception as error:  # noqa: BLE001  # which one is what is compared
        return type(error)


def plan(model: CodegenModel, message: str, *, stream: bool = False, **overrides: Any) -> Plan:
    """The request that a call would make."""
    order, _ = model._orders.take(model._account, message, 1, None, overrides)
    return Plan(order.build(1, stream))


def built(call: Callable[[], Any]) -> Any:
    """What comes of a call that litellm builds."""
    molds._molds.clear()
    return call()


def conversations(texts: list[str]) -> list[Any]:
    """Prompts and conversations of these four."""
    first, second, third, fourth = texts
    return [
        first,
        [user(first), assistant(second), user(third)],
        [user(first), assistant(second)],
        [{"role": "system", "content": fourth}, user(second)],
        [user([{"type": "text", "text": first}, {"type": "text", "text": third}])],
    ]


# What could be taken for a part of the request around it, or is written in JSON otherwise than it is.
ODD = [
    "user",
    "role",
    "gpt-4o",
    "messages",
    '"',
    "\\",
    '","content":"',
    "\u2028 \x85",
    "\x00",
    "\U0001f600",
    "1",
]
TEXTS = st.one_of(st.text(), st.sampled_from(ODD)).map(lambda text: text if text.strip() else "blank")
FOUR = st.lists(TEXTS, min_size=4, max_size=4)


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(before=FOUR, texts=FOUR)
def test_a_cast_request_is_the_one_that_litellm_builds(
    server: Loopback, make_model: MakeModel, provider: str, before: list[str], texts: list[str]
) -> None:
    """Any texts, in prompts and in conversations, after a first request with others."""
    model = make_model(provider, temperature=0.5, system_message="Be brief.")
    for first, message in zip(conversations(before), conversations(texts), strict=True):
        outcome(server, model, first)
        call = partial(outcome, server, model, message)
        assert call() == built(call)


def test_litellm_builds_one_of_a_kind(server: Loopback, make_model: MakeModel, provider: str) -> None:
    """With other texts only, the next request is there already; with another setting it is not."""
    model = make_model(provider, temperature=0.5)
    kinds: list[dict[str, Any]] = [{}, {"temperature": 0.75}, {"max_new_tokens": 7}, {"tools": [TOOL]}]
    for overrides in kinds:
        assert not plan(model, "a second prompt", **overrides).is_built()
        model.codegen("a first prompt", **overrides)
        assert plan(model, "a second prompt", **overrides).is_built()
        assert not plan(model, "a second prompt", stream=True, **overrides).is_built()


def test_the_prompt_cache_marks_stay(server: Loopback, make_model: MakeModel) -> None:
    """Claude's marks stand where litellm puts them, around other texts."""
    model = make_model("anthropic", temperature=0.5, prompt_cache=True, system_message="s" * 9000)
    model.codegen("first " * 2000)
    prompt = "second " * 2000
    cast = sent(server, model, prompt)
    assert b"cache_control" in cast[0]
    assert plan(model, prompt).is_built()
    assert cast == built(lambda: sent(server, model, prompt))


@pytest.mark.parametrize(
    "messages",
    [
        [user("")],
        [user(" \n")],
        [user("hi"), assistant("So ")],
        [user([{"type": "image_url", "image_url": {"url": "http://x/y.png"}}])],
        [user("hi"), {**assistant("So"), "prefix": True}],
        [user("hi"), {"role": "tool", "tool_call_id": "1", "content": "done"}],
        [user("hi"), {"role": "assistant", "content": None}],
        [{"role": "system", "content": "x-anthropic-billing-header: 1"}, user("hi")],
        [user("hi"), {"role": "assistant", "tool_calls": []}],
        [user(1)],
        [user([{"type": "text", "text": None}])],
    ],
    ids=str,
)
def test_more_than_texts_is_litellms(messages: list[Any]) -> None:
    """What litellm looks into, it builds."""
    assert Shape.of({**ARGUMENTS, "messages": [user("hi")]}) is not None
    assert Shape.of({**ARGUMENTS, "messages": messages}) is None


def test_a_kind_is_all_but_the_texts() -> None:
    """Keys, numbers, switches and roles make another; texts do not. No repr shows them."""
    base = {**ARGUMENTS, "messages": [user("a")]}
    shape = Shape.of(base)
    assert shape is not None
    assert Shape.of({**base, "messages": [user("b")]}) == Shape(shape.kind, ("b",))
    others: list[dict[str, Any]] = [
        {"api_key": "sk-1"},
        {"temperature": 1},
        {"temperature": 1.0},
        {"temperature": True},
        {"stream": True},
        {"messages": [user([{"type": "text", "text": "a"}])]},
        {"messages": [assistant("a")]},
        {"messages": [user("a"), user("a")]},
    ]
    found = [Shape.of({**base, **other}) for other in others]
    assert len({each.kind for each in [*found, shape] if each is not None}) == len(others) + 1
    assert "sk-0" not in repr(shape)


def test_what_a_put_away_client_has_sent_is_built_anew(
    server: Loopback, make_model: MakeModel, provider: str
) -> None:
    """Clients are closed after a while: the next request gets a new one, and its connections are kept."""
    model = make_model(provider, temperature=0.5)
    model.codegen("hi")
    again = plan(model, "ho")
    assert again.is_built()
    assert again.sent is not None
    again.sent.transport._pool._kept.is_closed = True
    assert not plan(model, "ho").is_built()
    importing.load().in_memory_llm_clients_cache.cache_dict.clear()
    model.codegen("hi")
    assert plan(model, "ho").is_built()
    model.codegen("ho")
    assert len({entry.connection for entry in list(server.journal)[1:]}) == 1


def test_kinds_without_end_are_not_kept(server: Loopback, make_model: MakeModel) -> None:
    """A caller with long tools and another seed at each call does not fill the memory."""
    function = {**TOOL["function"], "description": "d" * 400_000}
    model = make_model(temperature=0.5, tools=[{"type": "function", "function": function}])
    for seed in range(15):
        model.codegen("hi", seed=seed)
    kept = sum(len(part) for mold in molds._molds.values() for part in mold.parts)
    assert 400_000 < kept < 4_000_000


def test_the_order_of_a_schema_is_kept(server: Loopback, make_model: MakeModel, provider: str) -> None:
    """Models answer in the order of the properties: another one is another kind."""
    model = make_model(provider, temperature=0.5)
    for names in (["reasoning", "answer"], ["answer", "reasoning"]):
        properties = {name: {"type": "string"} for name in names}
        function = {**TOOL["function"], "parameters": {"type": "object", "properties": properties}}
        model.codegen("hi", tools=[{"type": "function", "function": function}])
        body = server.journal[-1].raw
        assert body.index(names[0].encode()) < body.index(names[1].encode())


def test_a_key_of_the_environment_is_looked_up_again(
    server: Loopback, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that litellm itself takes from the environment is sent as it is at each call."""
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    for token in ("tenant-a-0000", "tenant-b-1111"):
        monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", token)
        make_model("anthropic", api_key=None).codegen("hi")
        assert server.journal[-1].headers["authorization"] == f"Bearer {token}"


def test_no_prompt_and_no_reply_is_kept(server: Loopback, make_model: MakeModel, provider: str) -> None:
    """A mold is as small as a request without its texts."""
    server.default = "reply " * 1000
    model = make_model(provider, temperature=0.5, system_message="system " * 1000)
    molds._molds.clear()
    model.codegen("prompt " * 1000)
    [mold] = molds._molds.values()
    seen: set[int] = set()
    todo: list[Any] = [mold]
    while todo:
        each = todo.pop()
        if id(each) in seen or isinstance(each, (type, FunctionType, ModuleType, WatchedTransport)):
            continue
        seen.add(id(each))
        assert not isinstance(each, (str, bytes)) or len(each) < 1000
        todo += gc.get_referents(each)


class Forwarding:
    """Stands for a function and passes for it, as `wrapt`'s wrappers do."""

    def __init__(self, function: Any, seen: list[Any]) -> None:
        self._function = function
        self._seen = seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)

    async def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Note the reply."""
        reply = await self._function(*arguments, **options)
        self._seen.append(reply.choices[0].message.content)
        return reply


def traced(function: Any, seen: list[Any]) -> Any:
    """A function around it, under its name."""

    @functools.wraps(function)
    async def trace(*arguments: Any, **options: Any) -> Any:
        return await Forwarding(function, seen)(*arguments, **options)

    return trace


@pytest.mark.parametrize("wrap", [Forwarding, traced])
def test_who_traces_litellm_sees_every_request(
    server: Loopback, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, wrap: Any
) -> None:
    """Something else in the place of `litellm.acompletion` is called for each sample, and gets its reply."""
    model = make_model(temperature=0.5)
    model.codegen("hi")  # one of its kind is there
    seen: list[str] = []
    monkeypatch.setattr(importing.load(), "acompletion", wrap(importing.load().acompletion, seen))
    replies = model.codegen("hi", num_samples=3)
    assert seen == [each["response"] for each in replies]
    assert len(server.journal) == 4


def test_who_traces_httpx_sees_every_request(
    server: Loopback, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    """A header that is put onto each request is another one on each."""
    model = make_model(provider, temperature=0.5)
    model.codegen("hi")
    send, numbers = httpx.AsyncClient.send, iter(range(9))

    async def trace(self: httpx.AsyncClient, request: httpx.Request, **options: Any) -> httpx.Response:
        request.headers["traceparent"] = str(next(numbers))
        return await send(self, request, **options)

    with monkeypatch.context() as patch:
        patch.setattr(httpx.AsyncClient, "send", trace)
        model.codegen("hi", num_samples=3)
    model.codegen("hi")
    found = sorted(entry.headers.get("traceparent", "") for entry in server.journal)
    assert found == ["", "", "0", "1", "2"]


def test_what_is_added_on_the_way_out_is_not_kept(
    server: Loopback, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    """A tracer below, at the connections, marks the requests that it sees, and no later ones."""
    model = make_model(provider, temperature=0.5)
    send, numbers = httpx.AsyncHTTPTransport.handle_async_request, iter(range(9))

    async def trace(self: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
        request.headers.setdefault("traceparent", str(next(numbers)))
        return await send(self, request)

    with monkeypatch.context() as patch:
        patch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", trace)
        model.codegen("hi", num_samples=3)
    model.codegen("hi")
    found = [entry.headers.get("traceparent") for entry in server.journal]
    assert sorted(map(str, found)) == ["0", "1", "2", "None"]


def test_litellms_own_settings_are_asked_at_each_call(
    server: Loopback, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An application's headers are on the requests for as long as they are set."""
    model = make_model(temperature=0.5)
    for value in ("a", None, "b"):
        monkeypatch.setattr(importing.load(), "headers", value and {"x-own": value})
        model.codegen("hi")
        assert server.journal[-1].headers.get("x-own") == value


@pytest.mark.parametrize(
    "texts, body",
    [
        (["a"], {"model": "a", "messages": [user("A")]}),
        (["a"], {"messages": [user("a"), user("b")]}),
        (["a", "a"], {"messages": [user("a"), user("a")]}),
        (["a", "b"], {"messages": [user("b"), user("a")]}),
        (["a"], {"messages": [user("a")], "metadata": {"prompt": "a"}}),
        (["role"], {"messages": [user("role")]}),
        (["a"], {"prompt": "a"}),
    ],
    ids=str,
)
def test_a_body_that_leaves_doubt_is_no_mold(texts: list[str], body: Any) -> None:
    """Where a text stands has to be clear, and that all texts are known."""
    transport = WatchedTransport()
    request = httpx.Request("POST", "http://x", json=body)
    sound = httpx.Request("POST", "http://x", json={"messages": [user("a"), assistant("b")]})
    assert molds._mold(("a", "b"), Sent.of(transport, sound)) is not None
    assert molds._mold(tuple(texts), Sent.of(transport, request)) is None
