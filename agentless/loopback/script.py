"""The script: which reply or fault comes next."""

import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agentless.loopback.faults.fault import Fault, ReplyFault
from agentless.loopback.journal import Entry
from agentless.loopback.replies import Reply, default_reply

Answer = str | Reply | Fault | Sequence[str | Reply]
Step = Answer | Callable[[Entry], Answer]


@dataclass(frozen=True, slots=True)
class Turn:
    """What a request gets: replies, one per choice, and perhaps a fault in their sending."""

    replies: Sequence[Reply] = ()
    fault: Fault | None = None


class Script:
    """Steps in order of arrival, then the default; now and then a fault in between."""

    def __init__(self, default: Step | None, seed: int) -> None:
        self._lock = threading.Lock()
        self._seed = seed
        self._first_default = default
        self.clear()

    def clear(self) -> None:
        """Back to the beginning: no steps, the first default, the seed."""
        with self._lock:
            self._steps: deque[Step] = deque()
            self._sometimes: list[tuple[Fault, float]] = []
            self._random = random.Random(self._seed)  # noqa: S311  # repeatable, not secret
            self.default = self._first_default

    def unlock(self) -> None:
        """In a forked child, where nobody is left to release the lock."""
        self._lock = threading.Lock()

    def extend(self, steps: Sequence[Step]) -> None:
        """More steps at the end."""
        with self._lock:
            self._steps.extend(steps)

    def sometimes(self, fault: Fault, probability: float) -> None:
        """Play the fault with this probability, before any step is taken."""
        if not 0 <= probability <= 1:
            raise ValueError(f"a probability is from 0 to 1, not {probability}")
        with self._lock:
            self._sometimes.append((fault, probability))

    def turn(self, entry: Entry, asked: int, choices: int, max_tokens: int | None) -> Turn:
        """What this request gets: it asked for so many choices, and has so many.

        Whatever a scripted callable raises passes through.
        """
        with self._lock:
            drawn = self._drawn()
            step = drawn or (self._steps.popleft() if self._steps else self.default)
        answer = step(entry) if callable(step) else step
        if not isinstance(answer, Fault):
            return Turn(_replies(answer, entry, (asked, choices), max_tokens))
        if not isinstance(answer, ReplyFault):
            return Turn(fault=answer)
        source: Step | None = self.default if answer.reply is None else answer.reply
        inner = source(entry) if callable(source) else source
        # A default that is itself a fault has no reply in it: the built-in one is sent.
        inner = None if isinstance(inner, Fault) else inner
        return Turn(_replies(inner, entry, (asked, choices), max_tokens), answer)

    def _drawn(self) -> Fault | None:
        for fault, probability in self._sometimes:
            if self._random.random() < probability:
                return fault
        return None


def _replies(
    answer: Answer | None, entry: Entry, counts: tuple[int, int], max_tokens: int | None
) -> Sequence[Reply]:
    asked, choices = counts
    if answer is None:
        return [default_reply(entry.prompt, i, max_tokens) for i in range(choices)]
    if isinstance(answer, str | Reply):
        return [_reply(answer)] * choices
    if not isinstance(answer, Sequence):
        raise TypeError(f"a step is a str, Reply, fault, list of these or callable, not {answer!r}")
    if len(answer) > asked:
        raise ValueError(f"{len(answer)} replies are scripted for a request of {asked} choices")
    return [_reply(reply) for reply in answer[:choices]]


def _reply(answer: str | Reply) -> Reply:
    if isinstance(answer, str):
        return Reply(answer)
    if not isinstance(answer, Reply):
        raise TypeError(f"a choice is a str or a Reply, not {answer!r}")
    return answer
