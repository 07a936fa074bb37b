"""Thinking that a model writes into its reply, `<think>…</think>` at the start, apart from the text; pure.

Servers without a parser for it (vLLM, llama.cpp, Ollama and gateways with default settings) send it so.
"""

from collections.abc import Iterator
from dataclasses import replace

from agentless.llm.replies import Event

_TAGS = ("<think>", "<thinking>", "<thought>", "<seed:think>")
_LONGEST = max(map(len, _TAGS))


class Splitter:
    """Gives a reply's events with the thinking in its own place, for any split of a stream."""

    def __init__(self) -> None:
        self._samples: dict[int, _Sample] = {}

    def __call__(self, event: Event) -> Event:
        """`event` with as much of the text so far as is certain."""
        if not event.text and not event.finish_reason and event.index not in self._samples:
            return event
        sample = self._samples.setdefault(event.index, _Sample())
        text, reasoning = sample.add(event.text)
        if event.finish_reason:
            rest, more = sample.end()
            text, reasoning = text + rest, reasoning + more
        if not reasoning and text == event.text:
            return event  # as nearly all are
        return replace(event, text=text, reasoning=event.reasoning + reasoning)

    def rest(self) -> Iterator[Event]:
        """What was held back of samples that have not finished."""
        for index, sample in self._samples.items():
            text, reasoning = sample.end()
            if text or reasoning:
                yield Event(index, text, reasoning)


class _Sample:
    def __init__(self) -> None:
        self._held = ""
        self._close: str | None = None  # the tag that ends the thinking
        self._begins = True  # nothing but space, and perhaps a tag's first characters, has come
        self._trims = False  # the space between the thinking and the text

    def add(self, new: str) -> tuple[str, str]:
        """(text, reasoning) that are certain with `new`."""
        if not new or not (self._begins or self._close or self._trims):
            return new, ""
        self._held += new
        if self._begins:
            start = self._held.lstrip()
            tag = next((each for each in _TAGS if start.startswith(each)), None)
            if tag is None:
                if len(start) < _LONGEST and any(each.startswith(start) for each in _TAGS):
                    return "", ""
                self._begins = False
                return self._take(), ""
            self._begins = False
            self._close = "</" + tag[1:]
            self._held = start[len(tag) :]
        reasoning = ""
        if self._close:
            reasoning, found, text = self._held.partition(self._close)
            if not found:
                kept = _overlap(self._held, self._close)
                certain = self._held[: len(self._held) - kept]
                self._held = self._held[len(certain) :]
                return "", certain
            self._close, self._trims, self._held = None, True, text
        self._held = self._held.lstrip()
        self._trims = not self._held
        return self._take(), reasoning

    def end(self) -> tuple[str, str]:
        """(text, reasoning) of what is held back: no more will come."""
        held = self._take()
        return ("", held) if self._close else (held, "")

    def _take(self) -> str:
        held, self._held = self._held, ""
        return held


def _overlap(text: str, tag: str) -> int:
    """How many of the last characters may be the start of `tag`."""
    return next(
        (size for size in range(min(len(tag) - 1, len(text)), 0, -1) if tag.startswith(text[-size:])), 0
    )
