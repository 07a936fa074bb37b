"""Replies, whole or in pieces, folded into samples."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentless.llm.finish_reasons import finish_reason
from agentless.llm.replies import (
    Event,
    Reply,
    Tokens,
    ToolPiece,
    fold,
    read_tokens,
    split_usage,
)
from agentless.llm.trajectory import no_usage


def cut(text: str, places: list[int]) -> list[str]:
    """The text, cut at these places."""
    ends = sorted({min(place, len(text)) for place in places} | {len(text)})
    return [text[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


texts = st.text(max_size=40)
places = st.lists(st.integers(0, 40), max_size=6)
calls = st.lists(st.tuples(st.text("abc", min_size=1, max_size=5), texts), max_size=3)
choices = st.lists(
    st.tuples(texts, texts, calls, st.sampled_from(["stop", "length", "tool_use"])), min_size=1, max_size=3
)


def whole(spec: list[Any]) -> list[Event]:
    """The reply in one event a choice, as a request without a stream brings it."""
    events = [Event(usage=Tokens(7, 5), model="m", request_id="r")]
    for index, (text, reasoning, tools, reason) in enumerate(spec):
        pieces = tuple(ToolPiece(slot, f"id{slot}", name, raw) for slot, (name, raw) in enumerate(tools))
        events.append(Event(index, text, reasoning, pieces, reason))
    return events


@given(choices, st.data())
def test_any_split_of_a_stream_folds_to_the_same_reply(spec: list[Any], data: st.DataObject) -> None:
    """However text, reasoning and arguments are cut, and however choices and calls interleave."""
    streams: list[list[Event]] = []
    for index, (text, reasoning, tools, reason) in enumerate(spec):
        stream = [Event(index, reasoning=part) for part in cut(reasoning, data.draw(places))]
        stream += [Event(index, text=part) for part in cut(text, data.draw(places))]
        for slot, (name, raw) in enumerate(tools):
            first, *others = cut(raw, data.draw(places))
            stream.append(Event(index, tools=(ToolPiece(slot, f"id{slot}", name, first),)))
            stream += [Event(index, tools=(ToolPiece(slot, arguments=part),)) for part in others]
        stream.append(Event(index, finish_reason=reason))
        streams.append(stream)
    events = [Event(model="m", request_id="r")]
    while any(streams):
        chosen = data.draw(st.sampled_from([stream for stream in streams if stream]))
        events.append(chosen.pop(0))
    events.append(Event(usage=Tokens(7, 5)))
    folded, expected = fold(events), fold(whole(spec))
    assert folded.tokens == expected.tokens == Tokens(7, 5)
    assert (folded.model, folded.request_id) == ("m", "r")
    assert folded.is_finished
    assert sorted(folded.samples) == sorted(expected.samples)
    for index, sample in folded.samples.items():
        other = expected.samples[index]
        assert sample.response == other.response == spec[index][0]
        assert "".join(sample.reasoning) == "".join(other.reasoning)
        assert sample.tool_calls == other.tool_calls
        assert sample.finish_reason == other.finish_reason


def call(slot: int, id_: str | None = None, name: str | None = None, arguments: str = "") -> Event:
    """An event with a piece of one call."""
    return Event(tools=(ToolPiece(slot, id_, name, arguments),))


def test_parallel_calls_stay_apart() -> None:
    """Pieces of calls that interleave go to the call of their slot, in the order in which they began."""
    reply = fold(
        [
            call(1, "b", "second", '{"x"'),
            call(0, "a", "first", '{"y"'),
            call(1, arguments=": 1}"),
            call(0, arguments=": 2}"),
            Event(finish_reason="tool_calls"),
        ]
    )
    assert reply.samples[0].tool_calls == [
        {"id": "b", "name": "second", "arguments": {"x": 1}},
        {"id": "a", "name": "first", "arguments": {"y": 2}},
    ]


def test_another_id_in_the_same_slot_is_another_call() -> None:
    """Some servers number every call 0: two ids are two calls."""
    reply = fold([call(0, "a", "f", "{}"), call(0, "b", "g", '{"n":'), call(0, "b", arguments=" 1}")])
    assert reply.samples[0].tool_calls == [
        {"id": "a", "name": "f", "arguments": {}},
        {"id": "b", "name": "g", "arguments": {"n": 1}},
    ]


def test_an_id_may_come_late_or_again() -> None:
    """A call whose id follows, or is repeated with each piece, is one call."""
    late = fold([call(0, None, "f", '{"a"'), call(0, "a", None, ": 1}")])
    again = fold([call(0, "a", "f", '{"a"'), call(0, "a", "f", ": 1}")])
    assert (
        late.samples[0].tool_calls
        == again.samples[0].tool_calls
        == [{"id": "a", "name": "f", "arguments": {"a": 1}}]
    )


@pytest.mark.parametrize("raw", ["{", "[1]", "1", "null", "{'a': 1}", '{"a": 1} trailing'])
def test_invalid_arguments_are_kept(raw: str) -> None:
    """A reply that was paid for is not lost to a parse error: the raw text is there."""
    [found] = fold([call(0, "a", "f", raw)]).samples[0].tool_calls
    assert found == {"id": "a", "name": "f", "arguments": {}, "invalid_arguments": raw}


@pytest.mark.parametrize("raw", ["", " ", "\n"])
def test_no_arguments_are_none(raw: str) -> None:
    """A tool without parameters is called with nothing at all."""
    [found] = fold([call(0, "a", "f", raw)]).samples[0].tool_calls
    assert found == {"id": "a", "name": "f", "arguments": {}}


@given(st.dictionaries(texts, st.none() | st.booleans() | st.integers() | texts, min_size=1))
def test_arguments_survive_any_json(arguments: dict[str, Any]) -> None:
    """What the model wrote is what the caller gets, escapes and other scripts included."""
    for ascii_only in (True, False):
        [found] = (
            fold([call(0, "a", "f", json.dumps(arguments, ensure_ascii=ascii_only))]).samples[0].tool_calls
        )
        assert found["arguments"] == arguments


def test_usage_comes_in_parts() -> None:
    """Anthropic reports the prompt first and the completion last: neither takes away what the other said."""
    first = Event(usage=Tokens(prompt=100, completion=1, cache_written=60, cache_read=30))
    last = Event(usage=Tokens(completion=50))
    for events in ([first, last], [last, first], [first, first, last, last]):
        assert fold(events).tokens == Tokens(100, 50, 60, 30)


counts = st.builds(Tokens, *[st.integers(0, 1000)] * 5)


@given(st.lists(counts, min_size=1))
def test_reports_are_cumulative(reports: list[Tokens]) -> None:
    """Of each count the largest report holds, in whatever order, and repeating one adds nothing."""
    tokens = fold(Event(usage=report) for report in [*reports, *reports]).tokens
    assert tokens is not None
    for name in ("prompt", "completion", "cache_written", "cache_read", "reasoning"):
        assert getattr(tokens, name) == max(getattr(report, name) for report in reports)


def test_usage_that_nobody_reported_is_none() -> None:
    """Unknown is not zero."""
    assert fold([Event(text="x", finish_reason="stop")]).tokens is None


@pytest.mark.parametrize(
    "word, common",
    [
        ("stop", "stop"),
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("eos", "stop"),
        ("length", "length"),
        ("max_tokens", "length"),
        ("tool_calls", "tool_calls"),
        ("tool_use", "tool_calls"),
        ("function_call", "tool_calls"),
        ("content_filter", "content_filter"),
        ("refusal", "content_filter"),
        ("a_word_of_tomorrow", "stop"),
    ],
)
def test_finish_reasons_have_common_words(word: str, common: str) -> None:
    """Whatever a service calls it; a word that nobody knows is `stop`."""
    assert finish_reason(word, has_calls=False) == common


def test_calls_that_ended_in_a_stop_are_calls() -> None:
    """Some servers say `stop` after a call; `length` stays, since the call may be cut."""
    assert finish_reason("stop", has_calls=True) == "tool_calls"
    assert finish_reason("end_turn", has_calls=True) == "tool_calls"
    assert finish_reason("length", has_calls=True) == "length"
    reply = fold([call(0, "a", "f", "{}"), Event(finish_reason="stop")])
    assert reply.samples[0].finish_reason == "tool_calls"


def test_a_reply_is_finished_when_every_sample_is() -> None:
    """A choice without a finish reason was cut, whatever the others say."""
    reply = Reply()
    assert not reply.is_finished
    reply.add(Event(0, text="a"))
    reply.add(Event(1, text="b"))
    reply.add(Event(0, finish_reason="stop"))
    assert not reply.is_finished
    reply.add(Event(1, finish_reason="length"))
    assert reply.is_finished


def test_an_event_that_says_nothing_begins_no_sample() -> None:
    """Usage, names and roles alone are no choice: a reply without one is empty."""
    reply = fold([Event(model="m"), Event(usage=Tokens(1)), Event(3)])
    assert reply.samples == {}
    assert reply.model == "m"


@pytest.mark.parametrize(
    "events, empty",
    [
        ([Event(finish_reason="stop")], True),
        ([Event(reasoning="hm"), Event(finish_reason="stop")], False),
        ([Event(text=""), Event(finish_reason="end_turn")], True),
        ([Event(text="x"), Event(finish_reason="stop")], False),
        ([call(0, "a", "f"), Event(finish_reason="stop")], False),
        ([Event(finish_reason="length")], False),
        ([Event(finish_reason="content_filter")], False),
        ([Event(text="x")], False),
    ],
)
def test_what_an_empty_sample_is(events: list[Event], empty: bool) -> None:
    """A `stop` with neither text nor call; cut short or filtered is a result."""
    assert fold(events).samples[0].is_empty is empty


@given(st.none() | counts, st.none() | st.floats(0, 10), st.integers(0, 9))
def test_usage_over_samples_sums_to_what_was_charged(
    tokens: Tokens | None, cost: float | None, samples: int
) -> None:
    """All of it on the first sample; no known price is no known cost."""
    usages = split_usage(tokens, cost, samples)
    assert len(usages) == samples
    assert len({id(usage) for usage in usages}) == samples
    if samples and tokens is not None:
        assert usages[0] == tokens.usage(cost)
        assert usages[1:] == [no_usage()] * (samples - 1)
        assert sum(usage["prompt_tokens"] for usage in usages) == tokens.prompt
        assert sum(usage["completion_tokens"] for usage in usages) == tokens.completion
        assert usages[0]["cost"] == cost
    elif samples:
        assert {usage["cost"] for usage in usages} == {None}


USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 50,
    "cache_creation_input_tokens": 60,
    "cache_read_input_tokens": 30,
    "prompt_tokens_details": {"cached_tokens": 30, "cache_creation_tokens": 60},
    "completion_tokens_details": {"reasoning_tokens": 20},
}


def test_counts_are_read_from_mappings_and_objects() -> None:
    """Litellm's usage and the OpenAI SDK's have the same names, and some fields are None or not there."""
    expected = Tokens(100, 50, 60, 30, 20)
    details = {
        "prompt_tokens_details": SimpleNamespace(cached_tokens=30, cache_creation_tokens=60),
        "completion_tokens_details": SimpleNamespace(reasoning_tokens=20),
    }
    assert read_tokens(USAGE) == read_tokens(SimpleNamespace(**{**USAGE, **details})) == expected
    only_details = {name: USAGE[name] for name in USAGE if not name.startswith("cache")}
    assert read_tokens(only_details) == expected
    assert read_tokens(None) is None
    assert read_tokens({}) == Tokens()
    assert (
        read_tokens({"prompt_tokens": None, "prompt_tokens_details": None, "completion_tokens": "7"})
        == Tokens()
    )


@given(counts, counts)
def test_counts_add_up(one: Tokens, other: Tokens) -> None:
    """The sum of two bills has the sum of each count."""
    assert (one + other).usage(None)["prompt_tokens"] == one.prompt + other.prompt
    assert (one + other).reasoning == one.reasoning + other.reasoning
    assert one + Tokens() == one
