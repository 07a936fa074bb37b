"""From the caller's prompt or conversation to a request's messages."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentless.errors import UnsupportedFeatureError
from agentless.llm.capabilities import Capabilities, resolve
from agentless.llm.messages import MOST_MARKS, NO_RESULT, USER_TURN, mark_cache, prepare

ANY = Capabilities()
O1_MINI = resolve("openai", "o1-mini")
CALL = {"id": "call_1", "type": "function", "function": {"name": "edit", "arguments": "{}"}}
ASKED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
ANSWERED = {"role": "tool", "tool_call_id": "call_1", "content": "done"}
MARK = {"type": "ephemeral"}


def said(text: str, role: str = "user") -> dict[str, Any]:
    """A message."""
    return {"role": role, "content": text}


def tool(name: str = "edit") -> dict[str, Any]:
    """A tool."""
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}


def marks(items: Any) -> int:
    """How many breakpoints there are anywhere within."""
    if isinstance(items, dict):
        return ("cache_control" in items) + sum(marks(value) for value in items.values())
    return sum(marks(item) for item in items) if isinstance(items, list) else 0


def test_a_prompt() -> None:
    """A string is one user message, byte for byte."""
    assert prepare(" fix\n", capabilities=ANY).messages == [said(" fix\n")]


def test_the_settings_system_message() -> None:
    """The system message of the settings comes first, unless the caller has one."""
    assert prepare("x", capabilities=ANY, system_message="S").messages == [said("S", "system"), said("x")]
    own = [said("mine", "system"), said("x")]
    assert prepare(own, capabilities=ANY, system_message="S").messages == own
    developer = [said("mine", "developer"), said("x")]
    assert prepare(developer, capabilities=ANY, system_message="S").messages == developer


@pytest.mark.parametrize(
    "message,kind,text",
    [
        (7, TypeError, "string or a list"),
        (("x",), TypeError, "string or a list"),
        (["x"], TypeError, "has to be a dict"),
        ([{"role": "user", "content": 7}], TypeError, "content has to be"),
        ([{"role": "user", "content": ["x"]}], TypeError, "content[0] has to be a dict"),
        ([], ValueError, "empty"),
        ("", ValueError, "blank"),
        (" \n", ValueError, "blank"),
        ([{"content": "x"}], ValueError, "role None"),
        ([said("x", "robot")], ValueError, "role 'robot'"),
        ([{"role": "user"}], ValueError, "content is missing"),
        ([said("x"), said(" ")], ValueError, "messages[1]: content is blank"),
        ([{"role": "user", "content": []}], ValueError, "blank"),
        ([{"role": "user", "content": [{"text": "x"}]}], ValueError, "type is missing"),
        ([{"role": "user", "content": [{"type": "text", "text": " "}]}], ValueError, "text is blank"),
        ([{"role": "assistant", "content": None}], ValueError, "content is missing"),
        ([{"role": "tool", "content": "x"}], ValueError, "tool_call_id"),
    ],
)
@pytest.mark.parametrize("modify_params", [True, False])
def test_refused_messages(message: Any, kind: type[Exception], text: str, *, modify_params: bool) -> None:
    """What cannot be mended is refused in both modes, with its place."""
    with pytest.raises(kind) as caught:
        prepare(message, capabilities=ANY, modify_params=modify_params)
    assert text in str(caught.value)


def test_assistants_may_only_call() -> None:
    """An assistant's message with tool calls needs no text."""
    nothing: list[Any] = [None, "", []]
    for content in nothing:
        messages = [said("x"), {**ASKED, "content": content}, ANSWERED]
        assert prepare(messages, capabilities=ANY).messages[1]["content"] is None


def test_tools_may_have_nothing_to_say() -> None:
    """A tool's empty result is a result."""
    messages = [said("x"), ASKED, {**ANSWERED, "content": ""}]
    assert prepare(messages, capabilities=ANY) == (messages, ())


def test_a_system_message_alone() -> None:
    """A user turn is added to a system message, or that is an error."""
    messages, warnings = prepare([said("S", "system")], capabilities=ANY)
    assert messages == [said("S", "system"), said(USER_TURN)]
    assert len(warnings) == 1
    with pytest.raises(ValueError, match="system message only"):
        prepare([said("S", "system")], capabilities=ANY, modify_params=False)


def test_unanswered_calls() -> None:
    """Tool calls without an answer get one right behind them, or are an error."""
    second = {**CALL, "id": "call_2"}
    messages = [said("x"), {**ASKED, "tool_calls": [CALL, second]}, ANSWERED, said("and?")]
    mended, warnings = prepare(messages, capabilities=ANY)
    assert mended[3] == {"role": "tool", "tool_call_id": "call_2", "content": NO_RESULT}
    assert mended[4] == said("and?")
    assert len(warnings) == 1
    with pytest.raises(ValueError, match="call_2"):
        prepare(messages, capabilities=ANY, modify_params=False)


def test_answered_calls_are_left_alone() -> None:
    """A complete tool loop passes unchanged."""
    messages = [said("x"), ASKED, ANSWERED, said("y", "assistant"), said("z")]
    assert prepare(messages, capabilities=ANY, modify_params=False) == (messages, ())


def test_models_without_system_messages() -> None:
    """o1-mini hears the system's words as the user's, or not at all."""
    messages, warnings = prepare("x", capabilities=O1_MINI, system_message="S")
    assert messages == [said("S"), said("x")]
    assert len(warnings) == 1
    with pytest.raises(UnsupportedFeatureError) as caught:
        prepare("x", capabilities=O1_MINI, system_message="S", modify_params=False, model="o1-mini")
    assert caught.value.option == "system_message"
    assert "o1-mini" in str(caught.value)
    assert prepare("x", capabilities=O1_MINI) == ([said("x")], ())


TEXT = st.text(min_size=1).filter(str.strip)
BLOCKS = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXT}), min_size=1, max_size=3)
TURNS = st.lists(
    st.one_of(
        st.builds(
            lambda role, content: [{"role": role, "content": content}],
            st.sampled_from(("system", "user", "assistant")),
            TEXT | BLOCKS,
        ),
        st.just([ASKED, ANSWERED]),
    ),
    min_size=1,
    max_size=6,
).map(lambda turns: [message for turn in turns for message in turn])


@given(TURNS, st.booleans())
def test_the_caller_s_objects(messages: list[dict[str, Any]], marked: bool) -> None:
    """Nothing of the caller's is changed, by mending or marking, and nothing is shared."""
    if marked:
        messages[-1] = {**messages[-1]}
        messages[-1]["cache_control"] = dict(MARK)
    before = copy.deepcopy(messages)
    tools = [tool()]
    prepared, _ = prepare(messages, capabilities=ANY, system_message="S")
    mark_cache(prepared, tools)
    assert messages == before
    prepared[-1]["content"] = prepared[0]["role"] = "changed"
    assert messages == before
    assert marks(prepared) + marks(tools) <= MOST_MARKS


def test_marks_of_one_prompt() -> None:
    """Tools, system and the prompt's end are marked."""
    messages, _ = prepare("x", capabilities=ANY, system_message="S")
    tools = [tool("a"), tool("b")]
    mark_cache(messages, tools)
    assert messages[0]["content"] == [{"type": "text", "text": "S", "cache_control": MARK}]
    assert messages[1]["content"] == [{"type": "text", "text": "x", "cache_control": MARK}]
    assert [marks(each) for each in tools] == [0, 1]


def test_marks_of_a_tool_loop() -> None:
    """The newest result is marked, and where the turn before ended; results between are not."""
    two = {**ASKED, "tool_calls": [CALL, {**CALL, "id": "call_2"}]}
    results = [ANSWERED, {**ANSWERED, "tool_call_id": "call_2"}]
    messages, _ = prepare(
        [said("first"), said("answer", "assistant"), said("x"), two, *results], capabilities=ANY
    )
    mark_cache(messages, [])
    assert [marks(message) for message in messages] == [0, 0, 1, 0, 0, 1]


def test_a_prefilled_answer() -> None:
    """Before an answer that the caller has begun, the user's last words end the prefix."""
    messages, _ = prepare([said("x"), said("The bug is", "assistant")], capabilities=ANY)
    mark_cache(messages, [])
    assert [marks(message) for message in messages] == [1, 0]


@pytest.mark.parametrize("own", range(6))
def test_marks_of_the_caller_count(own: int) -> None:
    """The caller's own breakpoints stay, and ours fill up to four."""
    block = {"type": "text", "text": "b", "cache_control": MARK}
    messages = [said("S", "system"), {"role": "user", "content": [dict(block) for _ in range(own)] or "x"}]
    tools = [tool()]
    mark_cache(messages, tools)
    total = marks(messages) + marks(tools)
    assert total == max(own, min(MOST_MARKS, own + (3 if not own else 2)))


def test_the_best_marks_come_first() -> None:
    """With one breakpoint left it goes to the end of the prompt."""
    block = {"type": "text", "text": "b", "cache_control": MARK}
    messages = [
        said("S", "system"),
        {"role": "assistant", "content": [dict(block) for _ in range(3)]},
        said("x"),
    ]
    tools = [tool()]
    mark_cache(messages, tools)
    assert marks(messages[2]) == 1
    assert marks(messages[0]) == marks(tools) == 0


def test_nothing_to_mark() -> None:
    """An empty tool result takes no mark."""
    messages = [said("x"), copy.deepcopy(ASKED), {**ANSWERED, "content": ""}]
    mark_cache(messages, [])
    assert [marks(message) for message in messages] == [1, 0, 0]


def test_images_keep_their_blocks() -> None:
    """Blocks that are no text pass unchanged and can carry the mark."""
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    messages, _ = prepare([{"role": "user", "content": [image]}], capabilities=ANY)
    mark_cache(messages, [])
    assert messages[0]["content"] == [{**image, "cache_control": MARK}]
    assert "cache_control" not in image
