"""What a call, a chunk and a sample cost, beside bare litellm, the openai SDK and plain HTTP.

    make bench                       (python benchmarks/bench.py [--quick] [--json FILE])

Everything runs against the embedded provider in a process of its own; each contender has its own process
too, and they take turns within one run, so that a slow moment of the machine meets all of them. Figures
are medians of the rounds; what counts are the ratios.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WORDS = 500
PROVIDERS = ("openai", "anthropic", "deepseek", "hosted_vllm")


@contextmanager
def server(*arguments: str) -> Iterator[str]:
    """The embedded provider in its own process; gives its address."""
    command = [sys.executable, "-m", "agentless.loopback", "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None  # noqa: S101  # asked for above
            for line in process.stdout:
                if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                    yield found[0]
                    break
        finally:
            process.terminate()


class Worker:
    """A contender's process."""

    def __init__(self, name: str) -> None:
        command = [sys.executable, str(HERE / "contenders.py"), name]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def measure(self, measure: str, **arguments: Any) -> dict[str, float]:
        """One measurement."""
        assert self._process.stdin is not None  # noqa: S101  # asked for above
        assert self._process.stdout is not None  # noqa: S101
        print(json.dumps({"measure": measure, **arguments}), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args} ended in {measure}")
        answer: dict[str, float] = json.loads(line)
        return answer

    def close(self) -> None:
        """End it."""
        self._process.stdin and self._process.stdin.close()
        self._process.wait(timeout=30)


class Bench:
    """The contenders, and what they measured."""

    def __init__(self, workers: dict[str, Worker], rounds: int, only: str = "") -> None:
        self._workers = workers
        self._rounds = rounds
        self._only = only
        self.results: dict[str, dict[str, Any]] = {}

    def compare(self, title: str, names: list[str], key: str, measure: str, **arguments: Any) -> None:
        """Measure by turns, after one uncounted turn, and print a row of the table."""
        if self._only not in title:
            return
        for name in names:
            self._workers[name].measure(measure, **arguments)
        found: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(self._rounds):
            for name in names:
                found[name].append(self._workers[name].measure(measure, **arguments)[key])
        medians = {name: statistics.median(values) for name, values in found.items()}
        spread = {name: (min(values), max(values)) for name, values in found.items()}
        self.results[title] = {"medians": medians, "spread": spread}
        base = medians.get("litellm")
        cells = []
        for name in ("http", "openai", "litellm", "ours"):
            if name not in medians:
                cells.append("")
            else:
                ratio = f" ({medians[name] / base:.2f}x)" if base and name != "litellm" else ""
                cells.append(f"{_shown(key, medians[name])}{ratio}")
        print(f"| {title} | {' | '.join(cells)} |", flush=True)

    def alone(self, title: str, key: str, measure: str, **arguments: Any) -> None:
        """Measure ours alone."""
        self.compare(title, ["ours"], key, measure, **arguments)


def _shown(key: str, value: float) -> str:
    if key in {"seconds", "cpu"}:
        return f"{value * 1e3:.2f} ms" if value > 1e-3 else f"{value * 1e6:.0f} us"
    if key == "per_second":
        return f"{value:.0f}/s"
    return f"{value:.2f}"


def _words(count: int) -> str:
    # litellm takes a hundred equal chunks for a model that is stuck.
    return " ".join(f"word{number}" for number in range(count))


def _start_up() -> None:
    print("\n| start-up, in a new process | seconds |\n|---|---|")
    load = "from agentless.config import load_config; from agentless.util.model_factory import ModelFactory"
    lines = {
        "nothing": "pass",
        "import agentless": "import agentless",
        "load_config, ModelFactory": f"{load}; ModelFactory(load_config('config.toml'))",
        "... and create_model": f"{load}; ModelFactory(load_config('config.toml')).create_model('offline')",
        "import litellm": "import os; os.environ['LITELLM_LOCAL_MODEL_COST_MAP'] = 'True'; import litellm",
    }
    for title, code in lines.items():
        times = []
        for _ in range(5):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, cwd=HERE.parent)
            times.append(time.perf_counter() - began)
        print(f"| {title} | {statistics.median(times):.3f} |", flush=True)


def main() -> None:
    """Run everything and print it as Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument(
        "--only", default="", metavar="WORDS", help="the rows that have these in their titles"
    )
    parser.add_argument("--memory", action="store_true", help="10,000 calls as well: some minutes")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    rounds, count = (3, 60) if options.quick else (7, 150)
    four, three, two = (
        ["http", "openai", "litellm", "ours"],
        ["openai", "litellm", "ours"],
        ["litellm", "ours"],
    )
    if not options.only:
        _start_up()
    with ExitStack() as stack:
        short = stack.enter_context(server("--text", "one two three"))
        long = stack.enter_context(server("--text", _words(WORDS)))
        slow = stack.enter_context(server("--text", "one two three", "--delay", "0.2"))
        paced = stack.enter_context(server("--text", _words(100), "--chunk-delay", "0.01"))
        workers = {name: Worker(name) for name in four}
        for worker in workers.values():
            stack.callback(worker.close)
        bench = Bench(workers, rounds, options.only)
        print("\n| | plain HTTP | openai SDK | litellm | ours |\n|---|---|---|---|---|")
        for provider in PROVIDERS:
            names = four if provider == "openai" else two
            common = {"provider": provider, "url": short, "count": count}
            bench.compare(f"a call, {provider}", names, "seconds", "call", **common)
            bench.compare(f"an awaited call, {provider}", names, "seconds", "acall", **common)
        for provider in PROVIDERS:
            names = four if provider == "openai" else two
            common = {"provider": provider, "url": long, "count": 3}
            bench.compare(f"a chunk, {provider}", names, "seconds", "stream", **common)
            bench.compare(f"an awaited chunk, {provider}", names, "seconds", "astream", **common)
        for callers in (16, 64, 256):
            common = {"provider": "openai", "url": slow, "callers": callers, "count": 3}
            bench.compare(f"{callers} tasks, 0.2 s a reply", four, "per_second", "tasks", **common)
            bench.compare(f"{callers} threads, 0.2 s a reply", two, "per_second", "threads", **common)
            bench.alone(f"... threads beyond the {callers} callers'", "other_threads", "threads", **common)
        common = {"provider": "openai", "url": paced, "callers": 64, "ideal": 1.0}
        bench.compare("64 streams of 100 pieces a second: time over 1 s", four, "ratio", "streams", **common)
        for n in (10, 40):
            common = {"provider": "openai", "url": slow, "n": n}
            bench.alone(f"{n} samples, 0.2 s a reply: time over one call's", "ratio", "samples", **common)
        if options.memory:
            common = {"provider": "openai", "url": short, "count": 10_000}
            grown = workers["ours"].measure("memory", **common)
            print(f"| memory grown over 10,000 calls, MB | | | | {grown['megabytes']:.1f} |", flush=True)
        if options.json:
            options.json.write_text(json.dumps(bench.results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
