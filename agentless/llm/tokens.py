"""How many tokens a prompt has: at most (by its bytes), and as counted, offline.

Counted with the tokenizer tables that litellm brings along: `o200k_base` for OpenAI's models since GPT-4o,
`cl100k_base` for all others. Exact for OpenAI's texts, but for runs of over 4,096 characters without a space
between words; for other vendors, whose tokenizers are not public, off by up to some 20 %. No tokenizer makes
more tokens than a text has bytes, so that is a bound for all.
"""

import importlib.util
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from agentless.frozen import kept, thaw
from agentless.llm.names import identify
from agentless.locks import ForkLock

_PER_MESSAGE = 4  # role and separators (OpenAI's cookbook: 3 or 4)
_PER_PART = 1_500  # an image of common size, as OpenAI and Anthropic count it
_MOST_PER_MESSAGE = 16
_MOST_PER_PART = 50_000  # gpt-4o-mini's largest image
_MOST_FOR_TOOLS = 1_024  # Anthropic puts up to 700 tokens of its own before them
# tiktoken takes quadratic time over long runs without a space, so a text is counted in pieces. Between a
# letter and a space with a letter after it, both tables cut every text.
_PIECES = re.compile(r"(?s).{1,4096}(?:(?<=[^\W\d_])(?= [^\W\d_])|\Z)|.{1,4096}")
_BYTES_PER_TOKEN = 4
_LEAST_CACHED = 1_024  # tokens; OpenAI, Anthropic (more for some models), and DeepSeek from 64
_FEWEST_BYTES = 2  # per token, in prose of any language

_lock = ForkLock(delays_forks=True)


@dataclass(frozen=True)
class Prompt:
    """What is sent for a model to read."""

    model: str
    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Any] = ()
    format: Any = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What the user adds to the body: read by the model for all that is known, so its bytes bound it too."""

    @kept
    def most(self) -> int:
        """More tokens than this it cannot have, whatever the tokenizer."""
        texts = sum(len(text.encode("utf-8", "surrogatepass")) for text in self._texts())
        tools = _MOST_FOR_TOOLS if self.tools else 0
        parts = self._parts
        if self.extra:
            texts += len(_json(self.extra).encode("utf-8", "surrogatepass"))
            tools = _MOST_FOR_TOOLS
            parts += sum(1 for _ in _media(self.extra))
        return texts + tools + _MOST_PER_MESSAGE * (len(self.messages) + 1) + _MOST_PER_PART * parts

    @property
    def may_be_cached(self) -> bool:
        """Claims that it may be long enough for a service to cache it."""
        return self.most >= _LEAST_CACHED * _FEWEST_BYTES

    @kept
    def tokens(self) -> int:
        """The tokens, counted: milliseconds for 100 kB, and some tenths of a second the first time."""
        texts = sum(count_tokens(text, self.model) for text in self._texts())
        return texts + _PER_MESSAGE * len(self.messages) + _PER_PART * self._parts

    @kept
    def _parts(self) -> int:
        return sum(not isinstance(_text(part), str) for part in self._contents())

    def _contents(self) -> Iterator[Any]:
        for message in self.messages:
            content = message.get("content")
            if isinstance(content, list | tuple):
                yield from content
            elif content is not None:
                yield content

    def _texts(self) -> Iterator[str]:
        for content in self._contents():
            text = _text(content)
            if isinstance(text, str):
                yield text
        for message in self.messages:
            for key in ("name", "tool_call_id", "reasoning_content"):
                if isinstance(message.get(key), str):
                    yield message[key]
            if message.get("tool_calls"):
                yield _json(message["tool_calls"])
        yield from (_json(each) for each in (*self.tools, self.format) if each)


def count_tokens(text: str, model: str) -> int:
    """The tokens of a text, special ones read as text. Works without a network."""
    encoding = _encoding("o200k_base" if _NEW.match(identify(model).family) else "cl100k_base")
    if encoding is None:
        return -(-len(text.encode("utf-8", "surrogatepass")) // _BYTES_PER_TOKEN)
    return sum(len(encoding.encode_ordinary(piece)) for piece in _PIECES.findall(text))


def load_tables() -> None:
    """Have the tables ready for litellm too: where it counts by itself, it would download them, and wait."""
    for name in _TABLES:
        _encoding(name)


def _text(content: Any) -> Any:
    """The text of a content or of a part of it; something else where it is not text."""
    if isinstance(content, Mapping):
        if content.get("type") == "tool_result":
            return _json(content)
        return content.get("text")
    return content


def _media(value: Any) -> Iterator[Any]:
    """The images, files and the like anywhere within a value."""
    if isinstance(value, Mapping):
        if isinstance(value.get("type"), str) and value["type"] in _MEDIA:
            yield value
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from _media(each)


_MEDIA = frozenset(
    {
        "audio",
        "document",
        "file",
        "image",
        "image_url",
        "input_audio",
        "input_file",
        "input_image",
        "video_url",
    }
)


def _json(value: Any) -> str:
    return json.dumps(thaw(value), ensure_ascii=False, default=str)


def _encoding(name: str) -> Any:
    with _lock:
        return _load(name)


@cache
def _load(name: str) -> Any:
    """An encoding of tiktoken's, from litellm's folder; `None` where that has none: nothing is downloaded.

    tiktoken looks for a folder in the environment alone, so that is set, and put back.
    """
    found = importlib.util.find_spec("litellm")
    folders = [Path(each) / _FOLDER for each in (found.submodule_search_locations or [])] if found else []
    folder = next((each for each in folders if (each / _TABLES[name]).is_file()), None)
    if folder is None:
        return None
    import tiktoken

    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = str(folder)
    try:
        return tiktoken.get_encoding(name)
    finally:
        if before is None:
            os.environ.pop(_VARIABLE, None)
        else:
            os.environ[_VARIABLE] = before


_VARIABLE = "TIKTOKEN_CACHE_DIR"
_FOLDER = "litellm_core_utils/tokenizers"
_TABLES = {  # tiktoken's names of its files: SHA-1 of where they are from
    "cl100k_base": "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
    "o200k_base": "fb374d419588a4632f3f557e76b4b70aebbca790",
}
_NEW = re.compile(r"(chatgpt-4o|gpt-4o|gpt-4\.[15]|gpt-[5-9]|gpt-oss|o[1-9])(?![a-z0-9])")
