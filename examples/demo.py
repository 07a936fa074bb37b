"""The main job, shown: `make demo`, or with a key `MODEL=gpt-4 make demo`.

Loads config.toml and calls a model in all four ways. Without MODEL that is the embedded provider: a real
HTTP server in this process, told here what to answer. Nothing else differs.
"""

import asyncio
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from agentless import ModelFactory, __version__, load_config
from agentless.errors import AgentlessError
from agentless.llm.codegen import CodegenModel
from agentless.llm.trajectory import Chunk, Usage
from agentless.loopback import Loopback, Reply, ToolCall, faults, shared

CONFIG = Path(__file__).parent.parent / "config.toml"
WIDTH = 96
SHOWN_CHUNKS = 6

BUG = "def mean(xs): return sum(xs) / len(xs) fails for an empty list. Say in one sentence how to fix it."
SHORT = "Count from one to five, in words, separated by commas."
EDIT = "In stats.py, make mean() return 0.0 for an empty list. Use the tool."
NAMES = "Suggest one name for a Python function that averages numbers. Only the name."

EDITOR = {
    "type": "function",
    "function": {
        "name": "str_replace_editor",
        "description": "Custom editing tool for editing files",
        "parameters": {
            "type": "object",
            "properties": {name: {"type": "string"} for name in ("path", "old_str", "new_str")},
            "required": ["path", "old_str", "new_str"],
        },
    },
}
CALL = ToolCall(
    "str_replace_editor",
    {"path": "stats.py", "old_str": "sum(xs) / len(xs)", "new_str": "sum(xs) / len(xs) if xs else 0.0"},
)


class Demo:
    """One step after the other, each with what it cost; `server` is there on the embedded provider."""

    def __init__(self, factory: ModelFactory, name: str) -> None:
        self.factory = factory
        self.model: CodegenModel = factory.create_model(name)
        is_offline = self.model.settings.provider == "loopback"
        self.server: Loopback | None = shared() if is_offline else None
        self.bill: list[tuple[str, list[Usage]]] = []
        where = "embedded provider: no key, no network" if is_offline else self.model.settings.provider
        print(f"agentless {__version__}, model {name!r} of config.toml ({where})")
        print("The first call of a process imports litellm: 2 to 3 seconds, once.", flush=True)

    def answer(self, *steps: str | Reply | faults.Fault) -> None:
        """Tell the embedded provider what to answer next; a real service has answers of its own."""
        if self.server is not None:
            self.server.script(*steps)

    def completion(self) -> None:
        """A call that blocks."""
        title("completion", "model.codegen(message)")
        self.answer("Return 0.0 when xs is empty: `return sum(xs) / len(xs) if xs else 0.0`.")
        [reply] = self.model.codegen(BUG)
        show(reply["response"])
        self.charge("completion", [reply["usage"]])

    def completion_async(self) -> None:
        """The same for `await`; two at once take as long as one."""
        title("async completion", "await model.codegen_async(message), two at once")
        self.answer(*[Reply("Guard the division with `if xs`.", delay=0.3)] * 2)

        async def both() -> list[Usage]:
            replies = await asyncio.gather(self.model.codegen_async(BUG), self.model.codegen_async(BUG))
            for [reply] in replies:
                show(f"{reply['response']}   (after {reply['latency']:.2f} s)")
            return [reply["usage"] for [reply] in replies]

        began = time.perf_counter()
        usages = asyncio.run(both())
        show(f"both in {time.perf_counter() - began:.2f} s")
        self.charge("async completion", usages)

    def stream(self) -> None:
        """Pieces as the provider sends them."""
        title("stream", "for chunk in model.codegen_stream(message)")
        self.answer(Reply(chunks=["one, ", "two, ", "three, ", "four, ", "five"], chunk_delay=0.15))
        pieces = Pieces()
        for chunk in self.model.codegen_stream(SHORT):
            pieces.show(chunk)
        self.charge("stream", pieces.end())

    def stream_async(self) -> None:
        """The same for `async for`."""
        title("async stream", "async for chunk in model.codegen_stream_async(message)")
        self.answer(Reply(chunks=["one, ", "two, ", "three, ", "four, ", "five"], chunk_delay=0.15))
        pieces = Pieces()

        async def read() -> None:
            async for chunk in self.model.codegen_stream_async(SHORT):
                pieces.show(chunk)

        asyncio.run(read())
        self.charge("async stream", pieces.end())

    def tool_call(self) -> None:
        """A function that the model wants called."""
        title("tool call", "model.codegen(message, tools=[...])")
        if not self.model.capabilities.supports_tools:
            show("skipped: this model calls no tools")
            return
        self.answer(Reply(tool_calls=[CALL]))
        [reply] = self.model.codegen(EDIT, tools=[EDITOR])
        for call in reply["tool_calls"]:
            show(f"{call['name']}(")
            for name, value in call["arguments"].items():
                show(f"    {name}={value!r},")
            show(")")
        if not reply["tool_calls"]:
            show(f"no call; it says: {reply['response']}")
        self.charge("tool call", [reply["usage"]])

    def samples(self) -> None:
        """Several answers to one prompt."""
        title("three samples", "model.codegen(message, num_samples=3, temperature=0.8)")
        self.answer("average", "arithmetic_mean", "mean_of")
        varied = {"temperature": 0.8} if self.model.capabilities.supports_temperature else {}
        replies = self.model.codegen(NAMES, num_samples=3, **varied)
        for number, reply in enumerate(replies):
            show(f"sample {number}   {reply['response']}")
        self.charge("three samples", [reply["usage"] for reply in replies])

    def rate_limit(self) -> None:
        """The service says 429 twice; the third attempt brings the reply."""
        title("rate limit", "factory.create_model(name, retry_min_wait=0.1, retry_max_wait=0.4, ...)")
        if self.server is None:
            show("skipped: a real rate limit cannot be had for the asking; `make demo` without MODEL has one")
            return
        waits = {"retry_min_wait": 0.1, "retry_max_wait": 0.4, "retry_multiplier": 0.1}
        hasty = self.factory.create_model(self.model.key, **waits)
        before = len(self.server.journal)
        self.answer(faults.Status(429), faults.Status(429), "Here you are, all the same.")
        [reply] = hasty.codegen(BUG)
        entries = self.server.journal[before:]
        for entry, after in zip(entries, [*entries[1:], None], strict=True):
            wait = "" if after is None else f", next attempt after {after.arrived - entry.arrived:.2f} s"
            show(f"HTTP {entry.status}{wait}")
        show(f"{reply['response']}   ({reply['attempts']} attempts in {reply['latency']:.2f} s)")
        self.charge("rate limit", [reply["usage"]])

    def charge(self, step: str, usages: list[Usage]) -> None:
        """Note what a step cost."""
        self.bill.append((step, usages))

    def costs(self) -> None:
        """What each step cost, and all of them."""
        title("what each cost", 'trajectory["usage"]')
        show(f"{'':18}{'prompt':>12}{'completion':>12}{'USD':>14}")
        every = [usage for _, usages in self.bill for usage in usages]
        for step, usages in [*self.bill, ("together", every)]:
            prompt, completion = (
                sum(usage[kind] for usage in usages) for kind in ("prompt_tokens", "completion_tokens")
            )
            show(f"{step:18}{prompt:12,}{completion:12,}{money(usages):>14}")
        if self.server is not None:
            charged = self.server.bill
            show(
                f"The provider's own books say {charged['prompt_tokens']:,} and "
                f"{charged['completion_tokens']:,} tokens, for {len(self.server.journal)} requests."
            )

    def run(self) -> None:
        """All steps."""
        self.completion()
        self.completion_async()
        self.stream()
        self.stream_async()
        self.tool_call()
        self.samples()
        self.rate_limit()
        self.costs()


class Pieces:
    """A stream's pieces with the time at which each arrived, counted from the call."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.count = 0
        self.last = 0.0
        self.usages: list[Usage] = []

    def show(self, chunk: Chunk) -> None:
        """Print a piece at once; of a long stream only the first."""
        if chunk["finish_reason"] is not None:
            self.usages.append(chunk["usage"])
        if chunk["response"]:
            self.count += 1
            self.last = time.perf_counter() - self.began
            if self.count <= SHOWN_CHUNKS:
                show(f"+{self.last:.2f} s   {chunk['response']!r}")

    def end(self) -> list[Usage]:
        """Print how it ended, where that was left out; gives what the stream cost."""
        if self.count > SHOWN_CHUNKS:
            show(f"+{self.last:.2f} s   the last of {self.count - SHOWN_CHUNKS} more")
        return self.usages


def title(step: str, code: str) -> None:
    """Say what comes."""
    print(f"\n{step.upper():18}{code}", flush=True)


def show(text: str) -> None:
    """One line of it, at once; a long text is cut."""
    line = " ".join(text.splitlines())
    print("  " + (line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"), flush=True)


def money(usages: Iterable[Usage]) -> str:
    """What it cost in USD, or that nobody knows."""
    costs = [usage["cost"] for usage in usages]
    known = [cost for cost in costs if cost is not None]
    return f"{sum(known):.6f}" if len(known) == len(costs) else "no price"


def main() -> int:
    """Run it; whatever goes wrong is one line."""
    try:
        Demo(ModelFactory(load_config(CONFIG)), os.environ.get("MODEL") or "offline").run()
    except AgentlessError as error:
        print(f"demo: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001 - litellm's; naming them would import it before the first line
        lines = str(error).splitlines() or [""]
        print(f"demo: {type(error).__name__}: {lines[0]}", file=sys.stderr)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
