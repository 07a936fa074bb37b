"""How long a prompt is: counted offline, bounded by its bytes, refused before it is sent."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentless.errors import PromptTooLongError
from agentless.llm import tokens
from agentless.llm.codegen import CodegenModel
from agentless.llm.tokens import Prompt, count_tokens
from agentless.loopback import Loopback
from agentless.test.ways import Way

MakeModel = Callable[..., CodegenModel]
TOOL = {"type": "function", "function": {"name": "edit", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    "model, text, expected",
    [
        ("gpt-4", "hello world, this is a test", 7),
        ("gpt-4o", "hello world, this is a test", 7),
        ("gpt-4", "Übergrößenträger", 8),
        ("gpt-4o-2024-08-06", "Übergrößenträger", 5),
        ("claude-3-5-sonnet-20241022", "<|endoftext|>", 7),
        ("gpt-4", "", 0),
    ],
)
def test_counts_are_tiktokens(model: str, text: str, expected: int) -> None:
    """Texts are counted by the model's own table; special tokens are just text."""
    assert count_tokens(text, model) == expected


@given(
    st.lists(st.text(st.sampled_from("aé中ß 19'.\n\t²"), min_size=1, max_size=9), max_size=20),
    st.sampled_from(["gpt-4", "gpt-4o"]),
)
def test_long_texts_are_counted_as_a_whole(words: list[str], model: str) -> None:
    """Where a long text is cut for the count, its tokens end anyway."""
    table = tokens._encoding("o200k_base" if model == "gpt-4o" else "cl100k_base")
    text = "so it goes ".join(words) * 400
    assert count_tokens(text + "so it goes", model) == len(table.encode_ordinary(text + "so it goes"))


@given(st.text(max_size=400), st.sampled_from(["gpt-4", "gpt-4o"]))
def test_bytes_bound_tokens(text: str, model: str) -> None:
    """No text has more tokens than bytes, lone surrogates included."""
    prompt = Prompt(model, [{"role": "user", "content": text}])
    assert count_tokens(text, model) <= len(text.encode("utf-8", "surrogatepass"))
    assert prompt.tokens <= prompt.most


def test_everything_that_is_sent_counts() -> None:
    """Parts, tool calls, tool definitions and formats are read by the model too."""
    plain: list[dict[str, Any]] = [{"role": "user", "content": "hello"}]
    parts = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    picture = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:..."}}]}
    call = {"id": "1", "type": "function", "function": {"name": "edit", "arguments": "{}"}}
    calls = [*plain, {"role": "assistant", "content": None, "tool_calls": [call]}]
    of = [
        Prompt("gpt-4o", plain),
        Prompt("gpt-4o", calls),
        Prompt("gpt-4o", plain, [TOOL]),
        Prompt("gpt-4o", plain, format={"type": "json_object"}),
        Prompt("gpt-4o", [picture]),
    ]
    assert Prompt("gpt-4o", parts).tokens == of[0].tokens
    assert all(each.tokens > of[0].tokens for each in of[1:])
    assert all(each.most > of[0].most for each in of[1:])
    assert all(each.tokens <= each.most for each in of)


def test_long_runs_are_counted_in_time() -> None:
    """A megabyte without a space, on which tiktoken alone takes minutes, is counted in a moment."""
    count_tokens("warm", "gpt-4o")
    began = time.monotonic()
    assert count_tokens("a" * 1_000_000, "gpt-4o") > 100_000
    assert time.monotonic() - began < 20


def test_the_environment_is_put_back(tmp_path: Path) -> None:
    """Counting works without a network, without litellm, and leaves no variable and no file behind."""
    code = (
        "import os, socket, sys, tempfile\n"
        "socket.socket.connect = None\n"
        "before = dict(os.environ)\n"
        "from agentless.llm.tokens import count_tokens\n"
        "assert count_tokens('hello', 'gpt-4') == count_tokens('hello', 'gpt-4o') == 1\n"
        "assert dict(os.environ) == before\n"
        "assert os.listdir(tempfile.gettempdir()) == []\n"
        "assert 'litellm' not in sys.modules"
    )
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    for name in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        environ.pop(name, None)
    subprocess.run([sys.executable, "-c", code], check=True, env=environ)
    own = {**environ, "TIKTOKEN_CACHE_DIR": "/mine"}
    subprocess.run([sys.executable, "-c", code], check=True, env=own)


def test_without_tables_it_is_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where litellm's tables have moved, nothing is downloaded: four bytes make a token."""
    monkeypatch.setattr(tokens, "_FOLDER", "nowhere")
    tokens._load.cache_clear()
    try:
        assert count_tokens("12345678", "gpt-4o") == 2
    finally:
        tokens._load.cache_clear()


def test_a_prompt_that_is_too_long_is_not_sent(
    server: Loopback, make_model: MakeModel, way: Way, provider: str
) -> None:
    """It fails with both numbers, whatever the way and the provider, and no request."""
    model = make_model(provider, max_input_tokens=100)
    with pytest.raises(PromptTooLongError) as caught:
        way.call(model, "word " * 200)
    assert caught.value.max_input_tokens == 100
    assert 200 <= caught.value.prompt_tokens < 220
    assert server.journal == []


def test_a_prompt_that_is_just_short_enough_is_sent(
    server: Loopback, make_model: MakeModel, way: Way
) -> None:
    """More bytes than the limit has tokens are counted, not refused."""
    way.call(make_model("openai", max_input_tokens=250), "word " * 200)
    assert len(server.journal) == 1


def test_the_registrys_limit_holds(server: Loopback, make_model: MakeModel) -> None:
    """Where the config has no limit, the model's own is known."""
    with pytest.raises(PromptTooLongError, match="128000"):
        make_model("openai").codegen("word " * 130_000)
    assert server.journal == []


def test_short_prompts_are_not_counted(
    server: Loopback, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt with fewer bytes than the limit has tokens never meets a tokenizer."""

    def refuse(*_: object) -> int:
        raise AssertionError("counted")

    monkeypatch.setattr(tokens, "count_tokens", refuse)
    make_model("openai").codegen("short")
    assert len(server.journal) == 1
