"""The pipeline's `num_tokens_from_messages`, without a connection to anywhere.

The pipeline's other functions of this module were for its own `model.py` alone, which ours replaces.
"""

import importlib.util
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["num_tokens_from_messages"]

_OTHERS = "cl100k_base"  # what the pipeline takes for models that are not OpenAI's
_BUNDLED = {_OTHERS, "o200k_base", "p50k_base"}  # tables that come with litellm (1.105.3)
_TABLES = "litellm_core_utils/tokenizers"
_VARIABLE = "TIKTOKEN_CACHE_DIR"
_BYTES_A_TOKEN = 3  # of code, on the safe side
_lock = threading.Lock()


def num_tokens_from_messages(message: str | Sequence[Mapping[str, Any]], model: str = "") -> int:
    """How many tokens a prompt has, or all texts of a list of messages, as OpenAI's tokenizers count.

    Of other vendors' models it is an estimate. What looks like a special token (`<|endoftext|>`) is text
    like any other.
    """
    encoding = _encoding(_encoding_name(model))
    texts = [message] if isinstance(message, str) else list(_texts(message))
    if encoding is None:
        return sum(-(-len(text.encode("utf-8", "surrogatepass")) // _BYTES_A_TOKEN) for text in texts)
    return sum(len(encoding.encode_ordinary(text)) for text in texts)


def _texts(messages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for message in messages:
        content = message.get("content") or ""
        if isinstance(content, str):
            yield content
        else:
            yield from (block["text"] for block in content if isinstance(block.get("text"), str))


@cache
def _encoding_name(model: str) -> str:
    from tiktoken.model import encoding_name_for_model

    try:
        name = encoding_name_for_model(model)
    except KeyError:
        return _OTHERS
    return name if name in _BUNDLED else _OTHERS


@cache
def _encoding(name: str) -> Any:
    """The encoding, by litellm's copy of its table; `None` where that is not there: nothing is fetched."""
    import tiktoken

    found = importlib.util.find_spec("litellm")  # found, not imported: that takes two seconds
    places = (found.submodule_search_locations or []) if found else []
    tables = next((tables for place in places if (tables := Path(place, _TABLES)).is_dir()), None)
    if tables is None:
        return None
    with _lock:
        before = os.environ.get(_VARIABLE)
        os.environ[_VARIABLE] = str(tables)
        try:
            return tiktoken.get_encoding(name)
        finally:
            if before is None:
                del os.environ[_VARIABLE]
            else:
                os.environ[_VARIABLE] = before
