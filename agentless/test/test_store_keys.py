"""What makes two requests equal, for ever; and how a miss says what is not."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentless.llm.options import settle
from agentless.llm.providers import capabilities_of
from agentless.settings import ModelSettings
from agentless.store import KEY_VERSION, Request
from agentless.store.differences import differences, nearest_of
from agentless.store.keys import FIELD_OF, NOT_IN_KEY, address_of

CANARY = "sk-canary-0123456789"
TOOL = {
    "type": "function",
    "function": {
        "name": "edit",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    },
}


def of(content: Any = "hello", values: dict[str, Any] | None = None, **more: Any) -> Request:
    """A request of one message."""
    return Request.of("openai", "gpt-4", [{"role": "user", "content": content}], values, **more)


GOLDEN: dict[str, tuple[Request, str]] = {
    "plain": (of(), "aa84d54f94ad7b1aa106e52c718212ccac2418b9d40df23f0c87abb27fd307d7"),
    "sampled": (
        of("hello", {"temperature": 0.8, "max_tokens": 512, "top_p": 0.95, "stop": ["\n\n"]}),
        "89f41a9bc159df5e33e79f7c8177f9e123ce04d01eaab56ec68dab5913ca01e4",
    ),
    "greedy": (
        of("hello", {"temperature": 0.0, "max_completion_tokens": 1024}),
        "8fc24247cc1404a73dc93a3aecfcd7e2f026fda81180ccfb3109da36b59a4f6c",
    ),
    "unicode": (
        of("naïve 漢字 😀 \ud800 \x00"),
        "4da15274d7dc7b95218a085496db392a20fd32d086dfa4f709cf982652fbea33",
    ),
    "tools": (
        of("edit it", {"tools": [TOOL], "tool_choice": "required", "temperature": 1.0, "seed": 7}),
        "545f0f33fd17c212787bed4ebbf5be2807a85fafcd1e616b3b1d1aa06b76eb96",
    ),
    "reasoning": (
        Request.of(
            "anthropic",
            "claude-sonnet-4-6",
            [{"role": "system", "content": "Be short."}, {"role": "user", "content": "1+1"}],
            {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2048},
        ),
        "7b9d4fa686671f7f1a928b9f45a7d46c8bbf207574426f26e5d7f9a5dcb94b59",
    ),
    "everything": (
        Request.of(
            "azure",
            "my-deployment",
            [
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": "c1", "type": "function", "function": {"name": "edit", "arguments": "{}"}}
                    ],
                },
                {"role": "tool", "tool_call_id": "c1", "content": "done"},
            ],
            {
                "reasoning_effort": "low",
                "response_format": {"type": "json_object"},
                "extra_body": {"top_k": 20},
                "seed": 1,
            },
            base_url="https://user:pass@Example.azure.com:8443/openai/?key=1",
            api_version="2024-10-21",
        ),
        "2f94b42bd8ecb3cd5be67024da5f0e9577aa8c9af3d622a78332b02ff7358657",
    ),
}
"""Requests and their keys, as they were when the first store was written. A key here never changes: whoever
changes one has everyone pay for everything again."""


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_keys(name: str) -> None:
    """Keys of stored samples are found again by every later version."""
    request, key = GOLDEN[name]
    assert request.key == key
    assert Request.read(request.text).key == key


EQUAL: dict[str, tuple[Request, Request]] = {
    "whole numbers": (of("a", {"temperature": 1}), of("a", {"temperature": 1.0})),
    "zero": (of("a", {"temperature": -0.0}), of("a", {"temperature": 0})),
    "tuples": (of("a", {"stop": ("x", "y")}), of("a", {"stop": ["x", "y"]})),
    "order of options": (of("a", {"top_p": 0.5, "seed": 1}), of("a", {"seed": 1, "top_p": 0.5})),
    "order within": (of("a", {"extra_body": {"b": 1, "c": 2}}), of("a", {"extra_body": {"c": 2, "b": 1}})),
    "one text part": (of([{"type": "text", "text": "a"}]), of("a")),
    "a mark": (of([{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]), of("a")),
    "a marked tool": (
        of("a", {"tools": [{**TOOL, "cache_control": {"type": "ephemeral"}}]}),
        of("a", {"tools": [TOOL]}),
    ),
    "a limit's name": (of("a", {"max_completion_tokens": 9}), of("a", {"max_tokens": 9})),
    "nothing set": (of("a", {"top_p": None, "tools": (), "extra_body": {}}), of("a")),
    "a pair of surrogates": (of("\ud83d\ude00"), of("😀")),
    "an address's key": (
        of("a", base_url="http://u:p@host:1/v1/?key=k#x"),
        of("a", base_url="https://HOST/v1"),
    ),
    "who asks, and how fast": (
        of("a", dict.fromkeys(NOT_IN_KEY, CANARY)),
        of("a"),
    ),
}

DIFFERENT: dict[str, tuple[Request, Request]] = {
    "true is not 1": (of("a", {"extra_body": {"b": True}}), of("a", {"extra_body": {"b": 1}})),
    "a temperature": (of("a", {"temperature": 0.7}), of("a", {"temperature": 0.8})),
    "none is not 0": (of("a", {"temperature": 0}), of("a")),
    "composed": (of("\u00e9"), of("e\u0301")),
    "spaces": (of("a"), of("a ")),
    "two parts": (of([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), of("ab")),
    "order of a list": (of("a", {"stop": ["x", "y"]}), of("a", {"stop": ["y", "x"]})),
    "a path": (of("a", base_url="http://host/v1"), of("a", base_url="http://host/v2")),
    "a host": (of("a", base_url="http://one/v1"), of("a", base_url="http://two/v1")),
    "a version": (of("a", api_version="1"), of("a", api_version="2")),
    "a provider": (Request.of("a", "m", []), Request.of("b", "m", [])),
    "a model": (Request.of("a", "m", []), Request.of("a", "n", [])),
    "a lone surrogate": (of("\ud800"), of("\udc00")),
    "a tool": (of("a", {"tools": [TOOL]}), of("a")),
    "large whole numbers": (of("a", {"seed": 2**53 + 1}), of("a", {"seed": 2**53})),
}


@pytest.mark.parametrize("name", EQUAL)
def test_equal_requests_have_one_key(name: str) -> None:
    """What does not decide on the answer is not in the key."""
    one, other = EQUAL[name]
    assert one == other
    assert one.text == other.text
    assert hash(one) == hash(other)


@pytest.mark.parametrize("name", DIFFERENT)
def test_different_requests_have_two_keys(name: str) -> None:
    """What may decide on the answer is in the key."""
    one, other = DIFFERENT[name]
    assert one != other


def test_no_secret_comes_through() -> None:
    """Keys, headers and what an address may hold are gone before a store is asked."""
    values = dict.fromkeys(NOT_IN_KEY, CANARY) | {"extra_headers": {"X-Key": CANARY}}
    request = of("a", values, base_url=f"https://{CANARY}:{CANARY}@host/v1?key={CANARY}")
    assert CANARY not in request.text
    assert CANARY not in json.dumps(request.fields)
    assert request.fields["address"] == "host/v1"


@pytest.mark.parametrize(
    "values, text",
    [
        ({"temprature": 1}, "temprature: it is not said"),
        ({"top_p": float("nan")}, "top_p: nan is no number of JSON"),
        ({"extra_body": {"a": {1: 2}}}, r"extra_body\.a: the name 1 is not a text"),
        ({"stop": [object()]}, r"options\.stop\[0\]: a object is not JSON"),
    ],
)
def test_what_is_not_known_is_refused(values: dict[str, Any], text: str) -> None:
    """An option that nobody has thought of is neither left out of the key nor put into it."""
    with pytest.raises(ValueError, match=text if "top_p" not in values else "nan is no number"):
        of("a", values)


def test_every_option_that_we_send_has_its_place() -> None:
    """Whatever settings lead to, the key knows where it belongs."""
    settings = ModelSettings(
        name="gpt-4o",
        provider="openai",
        temperature=0.5,
        top_p=0.5,
        seed=1,
        response_format={"type": "json_object"},
    ).with_overrides(stop="x", tools=[TOOL], tool_choice="auto")
    values = settle(settings, capabilities_of(settings)).values
    assert set(values) <= set(FIELD_OF) | {"max_completion_tokens"}
    assert Request.of("openai", "gpt-4o", [], values).fields["options"]["temperature"] == 0.5
    assert not set(FIELD_OF) & NOT_IN_KEY


@pytest.mark.parametrize(
    "values, expected",
    [
        ({"temperature": 0.0}, True),
        ({"temperature": 0.1}, False),
        ({}, False),
        ({"temperature": 0.8, "seed": 0}, True),
        ({"temperature": 0.8, "extra_body": {"seed": 3}}, True),
        ({"temperature": 0.8, "extra_body": {"temperature": 0}}, True),
    ],
)
def test_what_can_be_repeated(values: dict[str, Any], expected: bool) -> None:
    """Greedy and seeded requests give the same again."""
    assert of("a", values).is_repeatable is expected


def test_addresses() -> None:
    """Host and path; neither scheme, port, user nor query."""
    assert address_of("http://127.0.0.1:4711/v1") == "127.0.0.1/v1"
    assert address_of("host:80/a/") == "host/a"
    assert address_of("http://[::1]:80") == "::1"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(body=st.dictionaries(st.text(), JSON, max_size=4), content=st.text())
def test_a_normal_form_is_its_own_normal_form(body: dict[str, Any], content: str) -> None:
    """Reading a stored request and making it anew leads to the same key."""
    request = of(content, {"extra_body": body})
    read = Request.read(request.text)
    again = Request.of(
        "openai", "gpt-4", read.fields["messages"], {"extra_body": read.fields.get("extra_body")}
    )
    assert read.key == request.key == again.key
    assert request.text.isascii()
    assert json.loads(request.text)["key_version"] == KEY_VERSION
    assert differences(request, read) == []


def test_differences_are_told_by_field() -> None:
    """Each with its path, what is here and what is stored; of long texts where they part."""
    one = of("x" * 100 + "new end", {"temperature": 0.8, "tools": [TOOL]}, api_version="1")
    other = of("x" * 100 + "old end", {"temperature": 0.7, "top_p": 0.5})
    assert differences(one, other) == [
        'api_version: "1", stored is absent',
        'messages[0].content: from character 100 on "new end", stored is "old end"',
        "options.temperature: 0.8, stored is 0.7",
        "options.top_p: absent, stored is 0.5",
        "tools: " + json.dumps([TOOL], sort_keys=True, separators=(",", ":"))[:40] + "…, stored is absent",
    ]


def test_the_nearest_has_the_fewest_differences() -> None:
    """And among those, the longest beginning in common."""
    wanted = of("the very same text, but longer", {"temperature": 0.8})
    others = [of("something else", {"temperature": 0.8}), of("the very same text", {"temperature": 0.8})]
    nearest = nearest_of(wanted, [*others, of("the very same text, but longer", {"seed": 1})])
    assert nearest is not None
    assert nearest.key == others[1].key
    assert nearest_of(wanted, []) is None


def test_many_differences_end() -> None:
    """A request that is all different does not fill the screen."""
    told = differences(
        of("a", {"extra_body": {str(each): each for each in range(50)}}), of("a", {"extra_body": {"0": 1}})
    )
    assert len(told) == 9
    assert told[-1] == "and 42 more"
