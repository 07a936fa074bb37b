"""What litellm has built once, for the calls to come: between those of one model only texts differ.

Building takes litellm (1.105.3) half of a call's time, and all that it does with a text in the messages is
to put it into the body as a JSON string (read there for the routes of `formats.py`). So the first request of
a kind is kept with holes for its texts, and the next ones are cast from it; what is more than texts is built.
`test_molds.py` holds both to the same bytes.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from agentless.llm import bridge, wire

_MOST_BYTES = 4_000_000  # of bodies that are kept

# A body is written by the SDK and httpx without blanks and as UTF-8, else as `json.dumps` has it.
_COMPACT = partial(json.dumps, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Shape:
    """A request, taken apart."""

    kind: bytes
    """A digest of all but its texts."""
    texts: tuple[str, ...] = field(repr=False)

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> "Shape | None":
        """The shape of a request that has these arguments; `None` where litellm has to look into it."""
        texts: list[str] = []
        try:
            bare = [_bare(message, texts) for message in arguments["messages"]]
            said = json.dumps(
                {**arguments, "messages": bare}
            )  # in their order, which a schema's reader obeys
            if not arguments.keys() >= {"api_key", "api_base"}:  # litellm asks the environment for them
                said += repr(sorted(os.environ.items()))
            return cls(hashlib.sha256(said.encode()).digest(), tuple(texts))
        except (AttributeError, KeyError, TypeError, ValueError):
            return None


def _bare(message: Mapping[str, Any], texts: list[str]) -> dict[str, Any]:
    """The message without its texts, which are added to `texts`."""
    content, role = message["content"], message["role"]
    if message.keys() != {"role", "content"} or role not in _ROLES:
        raise ValueError("more than a text")
    if isinstance(content, str):
        texts.append(_checked(content, role))
        return {"role": role, "content": None}
    parts = []
    for part in content:
        if part["type"] != "text":
            raise ValueError("an image, which litellm may fetch")
        texts.append(_checked(part["text"], role))
        parts.append({**part, "text": None})
    return {"role": role, "content": parts}


_ROLES = frozenset({"system", "user", "assistant"})


def _checked(text: str, role: str) -> str:
    # litellm replaces an empty text, strips Claude's last answer, and leaves out Claude Code's own header.
    if not text.strip() or (role == "assistant" and text != text.strip()) or text.startswith("x-anthropic-"):
        raise ValueError("litellm does not send it as it is")
    return text


@dataclass(frozen=True, slots=True)
class _Mold:
    sent: wire.Sent
    parts: tuple[bytes, ...]
    """The body around its texts, one more than there are of them."""
    order: tuple[int, ...]
    """The texts' numbers in the body's order."""
    write: Callable[[str], str]

    def cast(self, texts: tuple[str, ...]) -> wire.Sent:
        """The request with these texts."""
        return replace(self.sent, body=b"".join(self.pieces(texts)))

    def pieces(self, texts: tuple[str, ...]) -> Iterator[bytes]:
        """The body's."""
        yield self.parts[0]
        for number, part in zip(self.order, self.parts[1:], strict=True):
            yield self.write(texts[number]).encode()
            yield part


_molds: dict[bytes, _Mold] = {}
bridge.on_fork(_molds.clear)  # the parent's connections are not ours


def find(shape: Shape | None) -> wire.Sent | None:
    """A request of this shape as litellm would build it, if it has built one of its kind."""
    mold = None if shape is None else _molds.get(shape.kind)
    if shape is None or mold is None:
        return None
    if mold.sent.transport.is_closed:  # litellm puts clients away after 10 minutes
        del _molds[shape.kind]
        return None
    try:
        return mold.cast(shape.texts)
    except UnicodeEncodeError:  # half of a surrogate pair: litellm says what is wrong
        return None


def keep(shape: Shape | None, sent: wire.Sent | None) -> None:
    """Keep what litellm has built for this shape."""
    if shape is None or sent is None or shape.kind in _molds:
        return
    mold = _mold(shape.texts, sent)
    if mold is not None:
        size = sum(map(len, mold.parts))
        if size + sum(len(part) for each in _molds.values() for part in each.parts) > _MOST_BYTES:
            _molds.clear()
        _molds[shape.kind] = mold


def _mold(texts: tuple[str, ...], sent: wire.Sent) -> _Mold | None:
    """`sent` with holes for its texts; `None` where it is not clear where they are."""
    write = json.dumps if re.match(rb'{"\w+": ', sent.body) else _COMPACT
    words = [write(text).encode() for text in texts]
    if any(sent.body.count(word) != 1 for word in words):
        return None
    # Claude's system prompt stands behind the messages.
    order = sorted(range(len(words)), key=lambda number: sent.body.index(words[number]))
    rest, parts = sent.body, []
    for number in order:
        part, _, rest = rest.partition(words[number])
        parts.append(part)
    mold = _Mold(replace(sent, body=b""), (*parts, rest), tuple(order), write)
    return mold if _fits(mold, len(texts)) else None


def _fits(mold: _Mold, count: int) -> bool:
    """Claims that the holes are the messages' texts, in their order, and that there are no others."""
    marks = tuple(f"\N{OBJECT REPLACEMENT CHARACTER}{number}" for number in range(count))
    try:
        body = json.loads(b"".join(mold.pieces(marks)))
    except ValueError:  # a text was within another
        return False
    found = [text for place in ("system", "messages") for text in _texts(body.get(place))]
    return found == list(marks)


def _texts(value: Any) -> Iterator[str]:
    """Every text in messages, or in Claude's system prompt."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, dict):
        yield from _texts(value.get("content") or value.get("text"))
