"""Prompt caching as the services account for it.

Anthropic: explicit. The prompt is a sequence of blocks (tools, then system, then messages); a block with
`cache_control` ends a prefix that is written to the cache if it has 1024 tokens or more. A request reads
the longest readable prefix that ends at one of its breakpoints or up to 20 blocks before.

OpenAI: automatic. Prefixes of 1024 tokens and each 128 more are written by every reply and read by any.

In both an entry becomes readable when the first reply that writes it starts: requests that are sent
together each pay for writing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise

from agentless.loopback.replies import Usage

MINIMUM = 1024
STEP = 128
LOOKBACK = 20
MAX_BREAKPOINTS = 4


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of the prompt; `breakpoint` where it carries `cache_control`."""

    text: bytes
    breakpoint: bool = False

    @property
    def tokens(self) -> int:
        """What it costs."""
        return (len(self.text) + 3) // 4


@dataclass(frozen=True, slots=True)
class PromptUse:
    """A prompt's usage, and the cache entries that its reply will write when it starts."""

    usage: Usage
    writes: tuple[bytes, ...] = ()


class PromptCache:
    """The prefixes that are readable now."""

    def __init__(self) -> None:
        self._readable: set[bytes] = set()

    def commit(self, use: PromptUse) -> None:
        """The reply has started: what it writes is readable from now on."""
        self._readable.update(use.writes)

    def explicit(self, model: str, blocks: Sequence[Block]) -> PromptUse:
        """Anthropic's accounting."""
        total = sum(b.tokens for b in blocks)
        breakpoints = [i for i, b in enumerate(blocks) if b.breakpoint]
        if not breakpoints or total < MINIMUM:
            return PromptUse(Usage(prompt_tokens=total))
        digest = blake2b(model.encode(), digest_size=16)
        prefixes: list[tuple[bytes, int]] = []
        tokens = 0
        for block in blocks[: breakpoints[-1] + 1]:
            digest.update(b"%d:" % len(block.text) + block.text)
            tokens += block.tokens
            prefixes.append((digest.digest(), tokens))
        reach = {j for i in breakpoints for j in range(max(0, i - LOOKBACK), i + 1)}
        read = max((prefixes[j][1] for j in reach if prefixes[j][0] in self._readable), default=0)
        writable = [prefixes[i] for i in breakpoints if prefixes[i][1] >= MINIMUM]
        written = max((n for _, n in writable), default=0)
        usage = Usage(
            prompt_tokens=total,
            cache_creation_token=max(0, written - read),
            cache_read_input_tokens=read,
        )
        return PromptUse(usage, tuple(key for key, _ in writable if key not in self._readable))

    def automatic(self, model: str, blocks: Sequence[Block]) -> PromptUse:
        """OpenAI's accounting."""
        total = sum(b.tokens for b in blocks)
        if total < MINIMUM:
            return PromptUse(Usage(prompt_tokens=total))
        # Each block is padded to whole tokens, so that token t is bytes 4t to 4t+4.
        data = b"".join(b.text + bytes(-len(b.text) % 4) for b in blocks)
        digest = blake2b(model.encode(), digest_size=16)
        read, writes = 0, []
        for begin, end in pairwise([0, *range(MINIMUM, total + 1, STEP)]):
            digest.update(data[4 * begin : 4 * end])
            key = digest.digest()
            if key in self._readable:
                read = end
            else:
                writes.append(key)
        return PromptUse(Usage(prompt_tokens=total, cache_read_input_tokens=read), tuple(writes))
