"""Gemini by litellm's way: every well-formed ending of a stream is a good reply, and a cut one never is."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from agentless.errors import EmptyReplyError, RateLimitError, StreamInterruptedError
from agentless.llm.codegen import CodegenModel
from agentless.loopback import Ending, Loopback, Reply, ToolCall, faults
from agentless.test.ways import Way

MakeModel = Callable[..., CodegenModel]

TOOL = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Search",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
    },
}
ENDINGS: Mapping[str, Mapping[str, Any]] = {
    "finish after the text": {"ending": Ending("after")},
    "finish with the text": {"ending": Ending("with")},
    "finish before the text": {"ending": Ending("before")},
    "without usage": {"ending": Ending(usage=False)},
    "lines end in LF": {"ending": Ending("with", newline="\n")},
    "MAX_TOKENS": {"finish_reason": "length"},
}


@pytest.fixture(params=[False, True], ids=["whole", "streamed"])
def model(request: pytest.FixtureRequest, make_model: MakeModel) -> CodegenModel:
    """A model of Gemini's, without and with `stream = true`."""
    return make_model("gemini", stream=request.param, num_retries=0)


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_every_ending_is_a_good_reply(
    server: Loopback, model: CodegenModel, way: Way, ending: Mapping[str, Any]
) -> None:
    """Text, usage, finish reason and one request, however the stream ends."""
    server.script(Reply("one two three", **ending))
    [reply] = way.call(model)
    [entry] = server.journal
    assert reply["response"] == "one two three"
    assert reply["finish_reason"] == ("length" if "finish_reason" in ending else "stop")
    assert entry.usage is not None
    told = not entry.stream or ending.get("ending", Ending()).usage
    counts = (reply["usage"]["prompt_tokens"], reply["usage"]["completion_tokens"])
    assert counts == ((entry.usage.prompt_tokens, entry.usage.completion_tokens) if told else (0, 0))
    assert told or reply["usage"]["cost"] is None


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_tool_calls_come_with_every_ending(
    server: Loopback, model: CodegenModel, way: Way, ending: Mapping[str, Any]
) -> None:
    """Two calls of one turn, with text before them: whole, apart, and counted."""
    calls = [ToolCall("search", {"query": "größe"}), ToolCall("search", {"query": "two"})]
    server.script(Reply("so: ", tool_calls=calls, **ending))
    [reply] = way.call(model, tools=[TOOL])
    [entry] = server.journal
    assert reply["response"] == "so: "
    assert [(call["name"], call["arguments"]) for call in reply["tool_calls"]] == [
        ("search", {"query": "größe"}),
        ("search", {"query": "two"}),
    ]
    assert len({call["id"] for call in reply["tool_calls"]}) == 2
    assert entry.usage is not None
    if not entry.stream or ending.get("ending", Ending()).usage:
        assert reply["usage"]["completion_tokens"] == entry.usage.completion_tokens
    if "finish_reason" not in ending:
        assert reply["finish_reason"] == "tool_calls"


def test_a_result_goes_back(server: Loopback, make_model: MakeModel, way: Way) -> None:
    """The next turn has call and result, and the signature that came with the call where it is needed."""
    model = make_model("gemini", name="gemini-3-pro-preview", num_retries=0)
    server.script(Reply(tool_calls=[ToolCall("search", {"query": "x"})]), "found")
    [first] = way.call(model, tools=[TOOL])
    [call] = first["tool_calls"]
    history = [
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": call["id"],
                    "type": "function",
                    "function": {"name": "search", "arguments": '{"query": "x"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": call["id"], "content": "ok"},
    ]
    assert way.call(model, history, tools=[TOOL])[0]["response"] == "found"
    signed = server.journal[1].body["contents"][1]["parts"][0]
    assert signed["thoughtSignature"] == "bG9vcGJhY2stc2lnbmF0dXJl"


def test_thoughts_are_reasoning(server: Loopback, model: CodegenModel, way: Way) -> None:
    """What the model thought is beside the text, and counted with the completion."""
    server.script(Reply("so", reasoning="let me see"))
    [reply] = way.call(model)
    assert reply["response"] == "so"
    assert reply["usage"]["completion_tokens"] == server.bill["completion_tokens"] == 4
    if not way.streams:
        assert reply["reasoning"] == "let me see"


@pytest.mark.parametrize(
    "step",
    [
        Reply("half", finish_reason="content_filter"),
        Reply("half", finish_reason="RECITATION"),
        Reply("half", finish_reason="PROHIBITED_CONTENT"),
        faults.PromptBlocked(),
    ],
    ids=["SAFETY", "RECITATION", "PROHIBITED_CONTENT", "blockReason"],
)
def test_what_the_filter_stopped_says_so(
    server: Loopback, model: CodegenModel, way: Way, step: Reply | faults.Fault
) -> None:
    """A candidate that is stopped, or a prompt that is refused, is `content_filter`, after one request."""
    server.script(step)
    [reply] = way.call(model)
    assert reply["finish_reason"] == "content_filter"
    assert len(server.journal) == 1


@pytest.mark.parametrize("pieces", [1, 3])
def test_a_cut_stream_is_never_a_reply(
    server: Loopback, make_model: MakeModel, way: Way, pieces: int
) -> None:
    """A stream that ends without any finish reason is interrupted; the wrapper's `stop` is made up."""
    server.script(faults.TruncatedStream(pieces, reply="one two three"))
    with pytest.raises(StreamInterruptedError):
        way.call(make_model("gemini", stream=True, num_retries=0))
    assert len(server.journal) == 1


def test_a_cut_stream_is_asked_for_again(server: Loopback, make_model: MakeModel) -> None:
    """With `stream = true` nobody has seen a piece yet, and the next attempt brings the sample."""
    server.script(faults.TruncatedStream(reply="one two"), "whole")
    [reply] = make_model("gemini", stream=True, num_retries=1).codegen("hi")
    assert (reply["response"], reply["attempts"], len(server.journal)) == ("whole", 2, 2)


def test_no_candidate_is_no_reply(server: Loopback, model: CodegenModel, way: Way) -> None:
    """A reply without candidates is an error, whole and streamed."""
    server.script(faults.EmptyChoices())
    with pytest.raises((EmptyReplyError, StreamInterruptedError)):
        way.call(model)


def test_a_refusal_has_its_own_type(server: Loopback, model: CodegenModel, way: Way) -> None:
    """A 429 is a `RateLimitError` in a stream too, which is sent when the first piece is asked for."""
    server.default = faults.Status(429)
    with pytest.raises(RateLimitError) as caught:
        way.call(model)
    assert caught.value.status_code == 429
    assert len(server.journal) == 1


def test_several_samples_have_their_own_endings(server: Loopback, make_model: MakeModel, way: Way) -> None:
    """Two samples come back as two, each with its own text and finish reason."""
    server.default = lambda entry: Reply(f"number {entry.number}", ending=Ending("before"))
    replies = way.call(make_model("gemini", num_retries=0, temperature=1), num_samples=2)
    assert {reply["response"] for reply in replies} == {"number 1", "number 2"}
    assert [reply["finish_reason"] for reply in replies] == ["stop", "stop"]
