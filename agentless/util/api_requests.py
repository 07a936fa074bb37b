"""The pipeline's `num_tokens_from_messages`, without a connection to anywhere.

The pipeline's other functions of this module were for its own `model.py` alone, which ours replaces.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agentless.llm.tokens import count_tokens

__all__ = ["num_tokens_from_messages"]


def num_tokens_from_messages(message: str | Sequence[Mapping[str, Any]], model: str = "") -> int:
    """How many tokens a prompt has, or all texts of a list of messages, as OpenAI's tokenizers count.

    Of other vendors' models it is an estimate. What looks like a special token (`<|endoftext|>`) is text
    like any other.
    """
    texts = [message] if isinstance(message, str) else _texts(message)
    return sum(count_tokens(text, model) for text in texts)


def _texts(messages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for message in messages:
        content = message.get("content") or ""
        if isinstance(content, str):
            yield content
        else:
            yield from (block["text"] for block in content if isinstance(block.get("text"), str))
