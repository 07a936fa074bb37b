"""`codegen_w_tool`: rounds of tool calls, on every provider, over real HTTP."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from agentless.errors import BadRequestError, SamplesIncompleteError, UnsupportedFeatureError
from agentless.llm.codegen import CodegenModel
from agentless.llm.tools import NUDGE, sum_usage
from agentless.llm.trajectory import no_usage
from agentless.loopback import Entry, Loopback, Reply, ToolCall, faults

MakeModel = Callable[..., CodegenModel]

TOOL = {
    "type": "function",
    "function": {
        "name": "edit",
        "description": "Edits a file.",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}},
    },
}
CALL = Reply("Editing.", tool_calls=[ToolCall("edit", {"path": "a.py"})])


@pytest.fixture
def model(make_model: MakeModel, provider: str) -> CodegenModel:
    """A model of each provider with one tool."""
    return make_model(provider, tools=[TOOL])


def turns_so_far(entry: Entry) -> int:
    """How many turns of the assistant a request has in it."""
    return sum(message["role"] == "assistant" for message in entry.body["messages"])


def texts_of(entry: Entry) -> str:
    """A request's messages, as JSON."""
    return json.dumps(entry.body["messages"])


def test_calls_are_answered_until_there_is_none(server: Loopback, model: CodegenModel) -> None:
    """Every call is answered, and the first later turn without one is the last."""
    server.script(CALL, CALL, "All done.")
    [talk] = model.codegen_w_tool("fix it", answer="It is edited.")
    kinds = [[block["type"] for block in turn] for turn in talk["response"]]
    assert kinds == [["text", "tool_use"], ["text", "tool_use"], ["text"]]
    block = talk["response"][0][1]
    assert (block["name"], block["input"]) == ("edit", {"path": "a.py"})
    assert talk["response"][2] == [{"type": "text", "text": "All done."}]
    assert talk["finish_reason"] == "stop"
    assert [texts_of(entry).count("It is edited.") for entry in server.journal] == [0, 1, 2]


def test_several_calls_of_one_turn_are_each_answered(server: Loopback, model: CodegenModel) -> None:
    """Two calls in one turn get two answers before the next request (the server refuses less)."""
    two = Reply(tool_calls=[ToolCall("edit", {"path": "a.py"}), ToolCall("edit", {"path": "b.py"})])
    server.script(two, "done")
    [talk] = model.codegen_w_tool("fix it", answer=lambda call: f"edited {call['arguments']['path']}")
    assert [block["input"]["path"] for block in talk["response"][0]] == ["a.py", "b.py"]
    assert "edited a.py" in texts_of(server.journal[1])
    assert "edited b.py" in texts_of(server.journal[1])


def test_a_first_turn_without_a_call_is_nudged_once(server: Loopback, model: CodegenModel) -> None:
    """The model that only talks at first is asked once more; talking again ends the conversation."""
    server.script("Let me think.", "Still thinking.")
    [talk] = model.codegen_w_tool("fix it")
    assert [turn[0]["text"] for turn in talk["response"]] == ["Let me think.", "Still thinking."]
    assert NUDGE in texts_of(server.journal[1])
    assert len(server.journal) == 2


def test_a_cut_first_turn_of_nothing_is_nudged_too(server: Loopback, model: CodegenModel) -> None:
    """A first turn that was cut before its first word cannot be repeated to the service, and is not."""
    server.script(Reply("", finish_reason="length"), "done")
    [talk] = model.codegen_w_tool("fix it")
    assert talk["response"] == [[], [{"type": "text", "text": "done"}]]
    assert turns_so_far(server.journal[1]) == 0


def test_it_ends_after_ten_rounds(server: Loopback, model: CodegenModel) -> None:
    """A model that never stops calling is left after ten turns, or as many as the caller says."""
    server.script(*[CALL] * 12)
    [talk] = model.codegen_w_tool("fix it")
    assert len(talk["response"]) == len(server.journal) == 10
    server.reset()
    server.script(*[CALL] * 5)
    [talk] = model.codegen_w_tool("fix it", rounds=3)
    assert len(talk["response"]) == 3


@pytest.mark.parametrize("kind", ["openai", "deepseek", "generic"])
def test_arguments_that_are_no_json_are_told_to_the_model(
    server: Loopback, make_model: MakeModel, kind: str
) -> None:
    """A call with broken arguments becomes an empty input, and its answer says what was wrong."""
    server.script(Reply(tool_calls=[ToolCall("edit", '{"path": "a.p')]), CALL, "done")
    [talk] = make_model(kind, tools=[TOOL]).codegen_w_tool("fix it", answer="It is edited.")
    assert [block["input"] for turn in talk["response"] for block in turn if "input" in block] == [
        {},
        {"path": "a.py"},
    ]
    assert "Nothing was done" in texts_of(server.journal[1])
    assert "It is edited." not in texts_of(server.journal[1])


def test_a_tools_value_error_is_told_to_the_model(server: Loopback, model: CodegenModel) -> None:
    """What a tool says against its arguments goes back to the model as the answer."""

    def edit(call: Any) -> str:
        raise ValueError(f"there is no file {call['arguments']['path']}")

    server.script(CALL, "done")
    model.codegen_w_tool("fix it", answer=edit)
    assert "there is no file a.py" in texts_of(server.journal[1])


def test_a_tools_other_errors_reach_the_caller(server: Loopback, model: CodegenModel) -> None:
    """A tool that breaks ends the conversation with its own exception; a note says how far it had come."""

    def edit(_: Any) -> str:
        raise OSError("disk full")

    server.script(CALL)
    with pytest.raises(OSError, match="disk full") as caught:
        model.codegen_w_tool("fix it", answer=edit)
    assert "turn 1" in caught.value.__notes__[-1]


def test_usage_is_the_sum_of_what_the_server_charged(server: Loopback, model: CodegenModel) -> None:
    """Tokens of all rounds and samples add up to the server's bill, whatever was read from a cache."""
    server.default = lambda entry: CALL if turns_so_far(entry) < 3 else "done"
    talks = model.codegen_w_tool("fix it " * 2000, num_samples=3, temperature=0.8)
    assert len(talks) == 3
    assert len({json.dumps(talk["response"]) for talk in talks}) == 3 or len(server.journal) == 12
    total = sum_usage([talk["usage"] for talk in talks])
    for name, tokens in server.bill.items():
        assert total[name] == tokens  # type: ignore[literal-required]


def test_claudes_conversation_is_cached_as_it_grows(server: Loopback, make_model: MakeModel) -> None:
    """The long prompt is written to the cache once, and read by every later round and sample."""
    server.default = lambda entry: CALL if turns_so_far(entry) < 2 else "done"
    prompt = "fix it " * 2000
    make_model("anthropic", tools=[TOOL]).codegen_w_tool(prompt, num_samples=4, temperature=0.8)
    bill = server.bill
    once = len(prompt) // 4
    assert once <= bill["cache_creation_token"] < 1.5 * once
    assert bill["cache_read_input_tokens"] >= 11 * once


def test_an_unknown_cost_makes_the_sum_unknown() -> None:
    """A sum with an unknown part is unknown, never that part as 0."""
    known, unknown = no_usage(), no_usage()
    known["cost"], unknown["cost"] = 0.5, None
    assert sum_usage([known, known])["cost"] == 1.0
    assert sum_usage([known, unknown])["cost"] is None


def test_what_is_returned_is_the_callers_own(server: Loopback, model: CodegenModel) -> None:
    """Blocks can be changed without a trace in another conversation or in the next request."""
    seen: list[Any] = []

    def edit(call: Any) -> str:
        seen.append(call)
        call["arguments"]["path"] = "changed by the tool"
        return "ok"

    server.script(CALL, "done")
    [talk] = model.codegen_w_tool("fix it", answer=edit)
    block = talk["response"][0][1]
    assert block["input"] == {"path": "a.py"}
    block["input"]["command"] = "str_replace"
    assert "command" not in seen[0]["arguments"]
    assert json.loads(json.dumps(talk)) == talk


def test_one_conversation_that_fails_leaves_the_others(server: Loopback, make_model: MakeModel) -> None:
    """The error holds the finished conversations by number, and the failure of the one that was refused."""
    lock, refused = threading.Lock(), []

    def reply(entry: Entry) -> Any:
        if turns_so_far(entry) == 0:
            return CALL
        with lock:
            refused.append(entry.number)
            return faults.Status(400) if len(refused) == 1 else "done"

    server.default = reply
    model = make_model("anthropic", tools=[TOOL])
    with pytest.raises(SamplesIncompleteError) as caught:
        model.codegen_w_tool("fix it", num_samples=3, temperature=0.5)
    assert len(caught.value.trajectories) == 2
    assert all(len(talk["response"]) == 2 for talk in caught.value.trajectories.values())
    [failure] = caught.value.failures.values()
    assert isinstance(failure, BadRequestError)


def test_a_fault_in_a_round_is_retried_there(server: Loopback, model: CodegenModel) -> None:
    """An overloaded service in the second round costs one more request, not the conversation."""
    server.script(CALL, faults.Status(503), "done")
    [talk] = model.codegen_w_tool("fix it")
    assert len(talk["response"]) == 2
    assert talk["attempts"] == len(server.journal) == 3
    assert talk["request_id"] == "req_loopback00000003"  # the last turn's


def test_cancelling_ends_the_conversations(server: Loopback, make_model: MakeModel) -> None:
    """Cancelling the task that awaits closes the request of the round it is in, and no other follows."""
    model = make_model("openai", tools=[TOOL])
    model.codegen("warm up")
    server.reset()
    server.script(CALL, Reply("late", delay=20))

    async def main() -> None:
        task = asyncio.create_task(model.codegen_w_tool_async("fix it"))
        await asyncio.to_thread(server.wait_for, 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    server.wait_for(lambda journal: journal[1].client_left is not None, timeout=2)
    time.sleep(0.05)
    assert len(server.journal) == 2


def test_awaiting_gives_the_same(server: Loopback, model: CodegenModel) -> None:
    """The awaited form returns what the blocking one does."""
    server.script(CALL, "done", CALL, "done")
    [talk] = asyncio.run(model.codegen_w_tool_async("fix it"))
    [same] = model.codegen_w_tool("fix it")
    assert [[block["type"] for block in turn] for turn in talk["response"]] == [
        [block["type"] for block in turn] for turn in same["response"]
    ]
    assert talk["usage"] == same["usage"]


def test_a_whole_conversation_can_be_the_beginning(server: Loopback, model: CodegenModel) -> None:
    """A list of messages is continued, and stays as the caller made it."""
    messages = [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Fix it."},
    ]
    server.script(CALL, "done")
    model.codegen_w_tool(messages)
    assert len(messages) == 3
    assert turns_so_far(server.journal[1]) == 2


def test_thinking_is_not_kept_up_without_its_signatures(server: Loopback, make_model: MakeModel) -> None:
    """Claude with a thinking budget thinks in its first turn only: later ones would be refused."""
    settings = {"name": "claude-3-7-sonnet-20250219", "reasoning_effort": "low", "max_new_tokens": 2000}
    model = make_model("anthropic", tools=[TOOL], **settings)
    server.script(Reply("Editing.", reasoning="hm", tool_calls=CALL.tool_calls), "done")
    [talk] = model.codegen_w_tool("fix it")
    assert len(talk["response"]) == 2
    assert ["thinking" in entry.body for entry in server.journal] == [True, False]


def test_without_tools_nothing_is_sent(server: Loopback, make_model: MakeModel) -> None:
    """A model without tools, and one that cannot call any, are errors before any request."""
    with pytest.raises(ValueError, match="no tools to call"):
        make_model("openai").codegen_w_tool("fix it")
    with pytest.raises(UnsupportedFeatureError, match="supports_tools"):
        make_model("openai", name="o1-mini", tools=[TOOL]).codegen_w_tool("fix it")
    assert not server.journal
