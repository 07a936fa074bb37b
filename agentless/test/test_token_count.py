"""`num_tokens_from_messages`: counted as the pipeline counts, without a connection."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from agentless.util.api_requests import num_tokens_from_messages

# By tiktoken's own encodings: o200k_base for gpt-4o, cl100k_base for what it does not know.
COUNTS = [
    ("gpt-4o-2024-05-13", "def clamp(value, low, high):", 8),
    ("gpt-4o-mini-2024-07-18", "Grüße aus Köln", 5),
    ("claude-3-5-sonnet-20241022", "Grüße aus Köln", 6),
    ("deepseek-coder", "hello world", 2),
    ("a-model-that-nobody-knows", "hello world", 2),
    ("gpt-4o-2024-05-13", "", 0),
]


@pytest.mark.parametrize("model,text,tokens", COUNTS)
def test_counts(model: str, text: str, tokens: int) -> None:
    """A known model's own encoding counts, and a common one for all others."""
    assert num_tokens_from_messages(text, model) == tokens


@pytest.mark.parametrize("special", ["<|endoftext|>", "<|fim_prefix|>", "<|im_start|>", "<|endofprompt|>"])
def test_special_tokens_are_text(special: str) -> None:
    """A special token in an issue's text is counted as the letters it consists of, and is no error."""
    assert num_tokens_from_messages(f"see {special} here", "gpt-4o-2024-05-13") > 4


def test_messages_count_as_their_texts() -> None:
    """A list of messages has the tokens of its texts, in strings and in blocks."""
    block = {"type": "text", "text": "hello world"}
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "hello world"},
        {"role": "assistant", "content": None},
        {"role": "user", "content": [block, image]},
    ]
    assert num_tokens_from_messages(messages[:1], "gpt-4o-2024-05-13") == 2
    assert num_tokens_from_messages(messages, "gpt-4o-2024-05-13") == 4


def test_text_that_is_not_unicode_is_counted() -> None:
    """Half a character, as badly decoded files have it, is no error."""
    assert num_tokens_from_messages("x\ud800y", "gpt-4o-2024-05-13") > 0


def test_threads_count_alike() -> None:
    """Callers in many threads get the same number, the first ones included."""
    with ThreadPoolExecutor(8) as pool:
        counts = set(pool.map(lambda _: num_tokens_from_messages("hello world", "gpt-4"), range(64)))
    assert counts == {2}


def test_counting_leaves_no_trace(tmp_path: object) -> None:
    """A fresh process counts offline, without importing litellm, and puts its environment back."""
    script = """
import os, socket, sys
def refused(*_):
    raise AssertionError("a connection was tried")
socket.socket.connect = socket.getaddrinfo = refused
os.environ["TIKTOKEN_CACHE_DIR"] = "/nowhere"
before = dict(os.environ)
from agentless.util.api_requests import num_tokens_from_messages
assert num_tokens_from_messages("hello world", "gpt-4o") == 2
assert num_tokens_from_messages("hello world", "gpt-4") == 2
assert dict(os.environ) == before
assert "litellm" not in sys.modules
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
