"""The two doors: the same requests and replies by both; and the formats that are read here."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from agentless.errors import SamplesIncompleteError
from agentless.llm import direct, importing, litellm_door, transport
from agentless.llm.codegen import CodegenModel
from agentless.llm.formats import ANTHROPIC, OPENAI
from agentless.llm.replies import Tokens, UnreadableError, fold
from agentless.loopback import Loopback, Reply, ToolCall, faults
from agentless.loopback.draft import Draft, Plan
from agentless.loopback.faults.fault import ReplyFault
from agentless.loopback.wire import chunk
from agentless.test.ways import Way

MakeModel = Callable[..., CodegenModel]
TOOL = {"type": "function", "function": {"name": "edit", "parameters": {"type": "object"}}}
TEXT = "one two three four"

REPLIES = {
    "text": Reply(TEXT),
    "unicode": Reply(chunks=["h\u00e9", "\u2028", "\U0001f600 ", "\x85."]),
    "calls": Reply("Right.", tool_calls=(ToolCall("edit", {"a": [1]}), ToolCall("edit", {}))),
    "calls alone": Reply("", tool_calls=(ToolCall("edit", {"a": "b"}),)),
    "reasoning": Reply(TEXT, reasoning="Because."),
    "length": Reply(TEXT, finish_reason="length"),
    "equal chunks": Reply(chunks=["same "] * 300),
}
FAULTS = {
    "truncated": faults.TruncatedStream(after_chunks=2, reply=TEXT),
    "truncated and done": faults.TruncatedStream(after_chunks=2, done=True, reply=TEXT),
    "corrupt event": faults.CorruptEvent(at=2, reply=TEXT),
    "error event": faults.ErrorEvent(at=2, reply=TEXT),
    "error event first": faults.ErrorEvent(at=0, reply=TEXT),
    "body cut": faults.CutBody(after_chunks=2, reply=TEXT),
    "malformed body": faults.MalformedBody(reply=TEXT),
    "empty choices": faults.EmptyChoices(),
    "empty text": faults.EmptyText(),
    "refused": faults.Status(400),
}


@dataclass(frozen=True)
class HangsUpLate(ReplyFault):
    """Everything is sent but the body's end, for which the client could wait a minute."""

    def plan(self, draft: Draft) -> Plan:
        """All events, and silence."""
        return Plan([draft.opening(), *map(chunk, draft.events.all()), 60.0])


def both(monkeypatch: pytest.MonkeyPatch, outcome: Callable[[], Any]) -> list[Any]:
    """What comes out by the direct door, and by litellm's."""
    found = []
    for is_direct in (True, False):
        monkeypatch.setattr(litellm_door, "_sends_all", not is_direct)
        found.append(outcome())
    return found


@pytest.mark.parametrize("kind", REPLIES)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_replies_are_the_same(
    server: Loopback,
    make_model: MakeModel,
    monkeypatch: pytest.MonkeyPatch,
    provider: str,
    stream: bool,
    kind: str,
) -> None:
    """Text, calls, reasoning, finish reason, usage, model and cost, and what was sent."""
    server.default = REPLIES[kind]
    model = make_model(provider, tools=[TOOL], stream=stream, temperature=0.5)

    def outcome() -> Any:
        before = len(server.journal)
        trajectories = model.codegen("hi", num_samples=3)
        chunks = list(model.codegen_stream("hi"))
        own = ("request_id", "latency", "usage", "tool_calls")
        return (
            [{key: value for key, value in each.items() if key not in own} for each in trajectories],
            # litellm guesses Claude's from the text.
            [
                {**each["usage"], "reasoning_tokens": 0, "cost": round(each["usage"]["cost"] or 0, 12)}
                for each in trajectories
            ],
            [[(call["name"], call["arguments"]) for call in each["tool_calls"]] for each in trajectories],
            "".join(chunk["response"] for chunk in chunks),
            chunks[-1]["finish_reason"],
            [
                {**entry.body, "stream": entry.body.get("stream") or False}
                for entry in server.journal[before:]
            ],
        )

    short, long = both(monkeypatch, outcome)
    assert short == long


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("repeated", [False, True], ids=["first", "repeated"])
def test_faults_are_the_same(
    server: Loopback,
    make_model: MakeModel,
    monkeypatch: pytest.MonkeyPatch,
    provider: str,
    way: Way,
    kind: str,
    repeated: bool,
) -> None:
    """Each fault ends with the same text and as many requests; what it is called is litellm's business."""
    model = make_model(provider, num_retries=0 if repeated else 1, temperature=0.5, max_concurrency=1)

    def outcome() -> Any:
        server.reset()
        server.script(*(["fine"] if repeated else []))
        server.default = FAULTS[kind]
        with pytest.raises(Exception) as caught:  # which one is what is compared
            way.call(model, num_samples=2 if repeated else 1)
        error: BaseException = caught.value
        if isinstance(error, SamplesIncompleteError):
            assert [each["response"] for each in error.trajectories.values()] == ["fine"]
            [error] = error.failures.values()
        return (
            getattr(error, "text", None) or "",
            len(server.journal),
            error.__notes__[0].split(" attempt")[0],
        )

    short, long = both(monkeypatch, outcome)
    assert short == long


def test_headers_are_the_same(
    server: Loopback, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    """The key, the service's version and the user's own headers, in whatever letters they are written."""
    model = make_model(provider, temperature=0.5, extra_headers={"X-Own": "yes", "user-AGENT": "mine"})
    said = ("authorization", "x-api-key", "anthropic-version", "content-type", "x-own", "user-agent")

    def outcome() -> Any:
        server.reset()
        model.codegen("hi", num_samples=3)
        lower = [{name.lower(): value for name, value in entry.headers.items()} for entry in server.journal]
        return [{name: each[name] for name in said if name in each} for each in lower]

    ours, litellms = both(monkeypatch, outcome)
    assert ours == litellms
    assert ours[0] == ours[2]
    assert (ours[2]["x-own"], ours[2]["user-agent"]) == ("yes", "mine")


@pytest.mark.parametrize("name", ["Authorization", "authorization", "Accept", "X-API-KEY"])
def test_a_header_of_the_users_own_wins(
    server: Loopback, make_model: MakeModel, way: Way, provider: str, name: str
) -> None:
    """A gateway's authentication takes the place of the key's, in whatever letters, and is there once."""
    for settings in ({}, {"stream": True}):
        way.call(make_model(provider, extra_headers={name: "of my own"}, **settings))
    for entry in server.journal:
        found = [value for each, value in entry.headers.items() if each.lower() == name.lower()]
        assert len(found) == 1
        assert found != [""]


def test_a_key_of_the_environment_is_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that litellm's class itself takes from the environment is sent as it is at each call."""
    arguments = {
        "model": "anthropic/claude-3-5-sonnet-20241022",
        "messages": [{"role": "user", "content": "hi"}],
    }
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    for token in ("first", "second"):
        monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", token)
        written = transport.Plan(arguments).written()
        assert written is not None
        assert token in written.request.headers["authorization"]


def test_a_stream_without_end_of_body_is_whole(server: Loopback, make_model: MakeModel, way: Way) -> None:
    """The end mark is enough; a service that keeps the line open after it is not waited for."""
    server.default = HangsUpLate(reply="one two")
    began = time.monotonic()
    [reply] = way.call(make_model(stream=True, timeout=5))
    assert (reply["response"], reply["finish_reason"]) == ("one two", "stop")
    assert time.monotonic() - began < 4


def test_streams_use_a_connection_again(
    server: Loopback, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    """Read to its end, a stream leaves its connection to the next, by both ways."""
    model = make_model(provider)
    assert both(monkeypatch, lambda: [list(model.codegen_stream("hi"))[-1]["finish_reason"] for _ in "1234"])
    connections = [entry.connection for entry in server.journal]
    assert len(set(connections[:4])) == len(set(connections[4:])) == 1


def test_extra_body_is_merged(
    server: Loopback, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    """Options of the user's own are on the wire by both ways."""
    model = make_model(
        provider, temperature=0.5, extra_body={"user": "me"} if provider != "anthropic" else {}
    )
    short, long = both(
        monkeypatch,
        lambda: [model.codegen("hi"), {**server.journal[-1].body, "stream": False}][1],
    )
    assert short == long


def test_callbacks_hear_of_every_request(server: Loopback, make_model: MakeModel) -> None:
    """An application that listens at litellm's callbacks hears of each sample: litellm makes them all."""
    litellm = importing.load()
    heard: list[str] = []

    async def listen(arguments: Any, _: Any, __: Any, ___: Any) -> None:
        heard.append(arguments["model"])

    litellm.success_callback = [listen]
    try:
        make_model(temperature=0.5).codegen("hi", num_samples=3)
        server.wait_for(3)
        deadline = time.monotonic() + 10
        while len(heard) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        litellm.success_callback = []
        litellm._async_success_callback = []
    assert heard == ["gpt-4o"] * 3


def test_an_applications_own_client_sends_once(
    server: Loopback, make_model: MakeModel, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where litellm's requests do not pass our transport, its own replies are read."""
    session = httpx.AsyncClient(limits=httpx.Limits(max_keepalive_connections=0))  # nothing is left open
    monkeypatch.setattr(importing.load(), "aclient_session", session)
    replies = way.call(make_model(temperature=0.5, num_retries=0), num_samples=2)
    assert len(replies) == len(server.journal) == 2


def test_an_applications_rules_are_asked_of_every_sample(
    server: Loopback, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Litellm's rules may forbid a prompt."""
    asked: list[str] = []

    def rule(text: str) -> bool:
        asked.append(text)
        return True

    monkeypatch.setattr(importing.load(), "pre_call_rules", [rule])
    make_model(temperature=0.5).codegen("hi", num_samples=3)
    assert len(asked) == len(server.journal) == 3


def test_a_reply_cut_by_the_limit_before_its_text(
    server: Loopback, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What OpenAI refuses with a 400 because the thoughts took it all is a sample that ends by its length."""
    said = "Could not finish the message because max_tokens or model output limit was reached."
    body = json.dumps({"error": {"message": said, "type": "invalid_request_error"}})
    server.default = faults.Status(400, body=body)
    model = make_model(temperature=0.5)
    short, long = both(
        monkeypatch,
        lambda: [(each["response"], each["finish_reason"]) for each in model.codegen("hi", num_samples=2)],
    )
    assert short == long == [("", "length")] * 2


def test_what_claude_is_asked_otherwise_is_read_by_litellm() -> None:
    """A schema as a tool and a begun answer come back as they were asked for."""
    user = {"role": "user", "content": "hi"}
    plain = {"model": "anthropic/claude-3-5-sonnet-20241022", "messages": [user], "api_key": "k"}
    begun = [user, {"role": "assistant", "content": "So", "prefix": True}]
    assert transport.Plan(plain).written() is not None
    assert transport.Plan({**plain, "messages": begun}).written() is None
    assert transport.Plan({**plain, "response_format": {"type": "json_object"}}).written() is None
    assert (
        transport.Plan({**plain, "model": "deepseek/deepseek-chat", "messages": begun}).written() is not None
    )
    assert transport.Plan({**plain, "model": "openai/o3-pro"}).written() is None  # asked at /responses


def test_a_template_is_made_once_and_holds_no_prompt() -> None:
    """For all requests that differ in their messages alone; another setting is another template."""
    arguments = {"model": "openai/gpt-4o", "api_key": "k", "temperature": 0.5}
    first = direct.template_of(
        {**arguments, "messages": [{"role": "user", "content": "a secret plan"}]}, streams=False
    )
    assert first is not None
    first.write([{"role": "user", "content": "a secret plan"}])
    assert (
        direct.template_of({**arguments, "messages": [{"role": "user", "content": "other"}]}, streams=False)
        is first
    )
    assert direct.template_of({**arguments, "temperature": 0.6, "messages": []}, streams=False) is not first
    assert direct.template_of({**arguments, "messages": []}, streams=True) is not first
    assert "secret" not in repr(vars_of(first))
    assert "'k'" not in repr(first)


def vars_of(template: direct.Template) -> dict[str, Any]:
    """All that a template holds."""
    return {name: getattr(template, name) for name in template.__slots__}


def test_templates_without_end_are_not_kept() -> None:
    """A caller with another seed at each call does not fill the memory."""
    for seed in range(300):
        direct.template_of(
            {"model": "openai/gpt-4o", "api_key": "k", "seed": seed, "messages": []}, streams=False
        )
    assert len(direct._templates) <= 256


def test_the_order_of_a_schema_is_kept(server: Loopback, make_model: MakeModel, provider: str) -> None:
    """Models answer in the order of the properties: another one is another template."""
    for names in ("ab", "ba"):
        properties = {name: {"type": "string"} for name in names}
        schema = {"type": "object", "properties": properties}
        tool = {"type": "function", "function": {"name": "edit", "parameters": schema}}
        make_model(provider).codegen("hi", tools=[tool])
    bodies = [json.dumps(entry.body["tools"]) for entry in server.journal]
    assert [body.index('"a"') < body.index('"b"') for body in bodies] == [True, False]


def test_half_of_a_surrogate_pair_is_not_sent(
    server: Loopback, make_model: MakeModel, way: Way, provider: str
) -> None:
    """It is no text; nothing goes out."""
    with pytest.raises(ValueError, match="surrogate"):
        way.call(make_model(provider), "half \ud800 of one")
    assert len(server.journal) == 0


NO_REPLIES: list[Any] = [
    None,
    [],
    {},
    {"choices": None},
    {"choices": [None]},
    {"choices": [{"message": None}]},
    {"choices": [{"message": {"content": 1}}]},
    {"choices": [{"message": {"content": [1]}}]},
    {"choices": [{"message": {"reasoning": {}}}]},
    {"choices": [], "error": "x"},
    {"choices": [{"message": {"tool_calls": [1]}}]},
]


@pytest.mark.parametrize("body", NO_REPLIES, ids=str)
def test_what_is_no_reply_is_told(body: Any) -> None:
    """Whatever the JSON is."""
    with pytest.raises(UnreadableError):
        OPENAI.read_whole(body)


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"content": None},
        {"content": [1]},
        {"content": [], "error": {"type": "x"}},
        {"content": [{"type": "text", "text": 1}]},
        {"content": [{"type": "tool_use", "id": "t", "name": "f"}]},
    ],
    ids=str,
)
def test_what_is_no_message_is_told(body: Any) -> None:
    """The same for Anthropic's format."""
    with pytest.raises(UnreadableError):
        ANTHROPIC.read_whole(body)


def test_openais_format() -> None:
    """Servers differ in small things."""
    call = {"id": "c", "index": 0, "function": {"name": "f", "arguments": {"a": 1}}}
    message = {"content": [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}], "reasoning": "z"}
    body = {
        "id": "r",
        "model": "m",
        "choices": [{"message": {**message, "tool_calls": [call]}}],
        "usage": None,
    }
    reply = fold(OPENAI.read_whole(body))
    assert (reply.model, reply.request_id, reply.tokens) == ("m", "r", None)
    [sample] = reply.samples.values()
    assert (sample.response, "".join(sample.reasoning), sample.finish_reason) == ("xy", "z", "tool_calls")
    assert [(each["id"], each["name"], each["arguments"]) for each in sample.tool_calls] == [
        ("c", "f", {"a": 1})
    ]
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "prompt_cache_hit_tokens": 4}
    [event] = OPENAI.stream_reader()({"choices": [], "usage": usage})
    assert event.usage == Tokens(5, 2, 0, 4)
    nameless = [{"index": 0, "function": {"name": "f", "arguments": "{}"}} for _ in range(2)]
    [sample] = fold(OPENAI.read_whole({"choices": [{"message": {"tool_calls": nameless}}]})).samples.values()
    assert len({call["id"] for call in sample.tool_calls}) == 2
    written = {"prompt_tokens": 9, "prompt_tokens_details": {"cache_write_tokens": 8}}
    assert fold(OPENAI.read_whole({"choices": [], "usage": written})).tokens == Tokens(9, 0, 8)
    [event] = OPENAI.stream_reader()({"choices": [{"delta": None, "finish_reason": "stop"}]})
    assert (event.text, event.finish_reason) == ("", "stop")
    with pytest.raises(UnreadableError):
        OPENAI.stream_reader()({"choices": [None]})


def test_several_calls_in_one_are_taken_apart() -> None:
    """OpenAI's models sometimes call a function of their training that stands for several."""
    uses = [{"recipient_name": "functions.f", "parameters": {"a": 1}}, {"recipient_name": "g"}]
    function = {"name": "multi_tool_use.parallel", "arguments": json.dumps({"tool_uses": uses})}
    body = {"choices": [{"message": {"tool_calls": [{"id": "c", "function": function}]}}]}
    [sample] = fold(OPENAI.read_whole(body)).samples.values()
    assert sample.tool_calls == [
        {"id": "c_0", "name": "f", "arguments": {"a": 1}},
        {"id": "c_1", "name": "g", "arguments": {}},
    ]


def test_xais_reasoning_is_part_of_the_completion() -> None:
    """It alone counts it beside: the total tells."""
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "completion_tokens_details": {"reasoning_tokens": 7},
    }
    [event] = OPENAI.stream_reader()({"choices": [], "usage": {**usage, "total_tokens": 22}})
    assert event.usage == Tokens(10, 12, reasoning=7)
    [event] = OPENAI.stream_reader()({"choices": [], "usage": {**usage, "total_tokens": 15}})
    assert event.usage == Tokens(10, 5, reasoning=7)


def test_anthropics_format() -> None:
    """Blocks of other kinds are passed over, and what is charged is counted."""
    usage = {
        "input_tokens": 1,
        "cache_creation_input_tokens": 20,
        "cache_read_input_tokens": 300,
        "output_tokens": 50,
        "output_tokens_details": {"thinking_tokens": 40},
    }
    blocks = [
        {"type": "thinking", "thinking": "Hm.", "signature": "s"},
        {"type": "redacted_thinking", "data": "d"},
        {"type": "text", "text": "So"},
        {"type": "server_tool_use", "id": "x", "name": "web_search", "input": {}},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": [1]}},
    ]
    body = {"id": "r", "model": "m", "content": blocks, "stop_reason": "tool_use", "usage": usage}
    whole = fold(ANTHROPIC.read_whole(body))
    read = ANTHROPIC.stream_reader()
    events = [
        *read({"type": "message_start", "message": {"id": "r", "model": "m", "usage": {"input_tokens": 1}}}),
        *read({"type": "ping"}),
        *read(
            {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}}
        ),
        *read(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "thinking_delta", "thinking": "Hm."},
            }
        ),
        *read(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "signature_delta", "signature": "s"},
            }
        ),
        *read({"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": "S"}}),
        *read({"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "o"}}),
        *read({"type": "content_block_start", "index": 2, "content_block": {"type": "server_tool_use"}}),
        *read(
            {
                "type": "content_block_delta",
                "index": 2,
                "delta": {"type": "input_json_delta", "partial_json": "{"},
            }
        ),
        *read(
            {
                "type": "content_block_start",
                "index": 3,
                "content_block": {"type": "tool_use", "id": "t", "name": "f"},
            }
        ),
        *read(
            {
                "type": "content_block_delta",
                "index": 3,
                "delta": {"type": "input_json_delta", "partial_json": '{"a"'},
            }
        ),
        *read(
            {
                "type": "content_block_delta",
                "index": 3,
                "delta": {"type": "input_json_delta", "partial_json": ": [1]}"},
            }
        ),
        *read({"type": "content_block_stop", "index": 3}),
        *read({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": usage}),
        *read({"type": "message_stop"}),
    ]
    for reply in (whole, fold(events)):
        assert (reply.model, reply.request_id) == ("m", "r")
        assert reply.tokens == Tokens(321, 50, 20, 300, 40)
        [sample] = reply.samples.values()
        assert (sample.response, "".join(sample.reasoning), sample.finish_reason) == (
            "So",
            "Hm.",
            "tool_calls",
        )
        assert sample.tool_calls == [{"id": "t", "name": "f", "arguments": {"a": [1]}}]
    turns = [{"input_tokens": 3, "output_tokens": 1}, {"input_tokens": 4, "output_tokens": 2}]
    assert fold(ANTHROPIC.read_whole({**body, "usage": {**usage, "iterations": turns}})).tokens == Tokens(
        7, 3, 0, 0, 40
    )
    broken: list[Any] = [
        {"type": "content_block_delta", "delta": {"type": "text_delta"}},
        [],
        {"type": "message_start"},
    ]
    for event in broken:
        with pytest.raises(UnreadableError):
            read(event)
    for unknown in ({}, {"type": "new"}, {"type": "content_block_delta", "delta": {}}):
        assert fold(read(unknown)).samples == {}
    odd: dict[str, Any] = {"input_tokens": {}, "output_tokens": None, "output_tokens_details": []}
    assert fold(ANTHROPIC.read_whole({**body, "usage": odd})).tokens == Tokens()
