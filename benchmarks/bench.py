"""What a call, a chunk and a sample cost, beside bare litellm, the openai SDK and plain HTTP.

    make bench                       (python benchmarks/bench.py [--quick] [--peers] [--json FILE])

Everything runs against the embedded provider in a process of its own; each contender has its own process
too, and they take turns within one run, so that a slow moment of the machine meets all of them. Figures
are medians of the rounds; what counts are the ratios.

With --peers, other libraries take their turns as well, on OpenAI's format. Each is installed once, by pip
into an environment of its own under .venv/peers; one that cannot be, or that fails, is left out.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WORDS = 500
PROVIDERS = ("openai", "anthropic", "deepseek", "hosted_vllm")

# What pip is asked for: the newest versions that install on Python 3.11, with our litellm (requirements.lock)
# below. langchain-litellm 0.11.2 wants one that is newer than ours, and leaves the choice to pip: 1.106.2.
PEERS = {
    "langchain-litellm": ("langchain-litellm==0.11.2",),
    "pydantic-ai": ("pydantic-ai-slim[openai]==2.68.0",),
    "any-llm": ("any-llm-sdk[openai]==1.40.2",),
    "dspy": ("dspy==3.4.1", "litellm==1.105.3"),
}
STREAMLESS = {"dspy"}
HANGS = 60  # seconds that no measurement takes


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


class LeftOutError(Exception):
    """A contender cannot take part; the text says why, in one line."""


class Worker:
    """A contender's process, under its interpreter; begun anew after a failure."""

    def __init__(self, command: list[str], environment: dict[str, str] | None = None) -> None:
        self._command = command
        self._environment = environment
        self._begin()

    def _begin(self) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # open as long as the process is
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=self._environment,
        )

    def measure(self, measure: str, **arguments: Any) -> dict[str, float]:
        """One measurement.

        Raises:
            LeftOutError: The contender failed in it, and has ended.
        """
        if self._process.poll() is not None:
            self._begin()
        watch = threading.Timer(HANGS, self._process.kill)
        watch.start()
        try:
            return self._ask(measure, arguments)
        except (RuntimeError, OSError) as error:
            if self._process.wait() == -signal.SIGKILL:
                why = f"killed in {measure}, which gave no answer within {HANGS} s"
            else:
                self._errors.seek(0)
                why = _reason(self._errors.read())
            self.close()
            raise LeftOutError(why) from error
        finally:
            watch.cancel()

    def _ask(self, measure: str, arguments: dict[str, Any]) -> dict[str, float]:
        assert self._process.stdin is not None  # noqa: S101  # asked for above
        assert self._process.stdout is not None  # noqa: S101
        print(json.dumps({"measure": measure, **arguments}), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("no answer")
        answer: dict[str, float] = json.loads(line)
        return answer

    def close(self) -> None:
        """End it, whatever it has still running."""
        with contextlib.suppress(OSError):  # it has ended with a command unread
            self._process.stdin and self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()


def _contender(name: str) -> Worker:
    return Worker([sys.executable, str(HERE / "contenders.py"), name])


def _peer(name: str) -> Worker:
    # Nothing of our environment: no key, no address, no proxy, nobody to send traces to.
    environment = {"PATH": os.environ.get("PATH", "")}
    return Worker([str(_installed(name)), str(HERE / "peers.py"), name], environment)


def _installed(name: str) -> Path:
    """The interpreter of a peer's environment, made where it is missing or has other versions."""
    folder = HERE.parent / ".venv" / "peers" / name
    python, ready, wanted = folder / "bin" / "python", folder / ".ready", " ".join(PEERS[name])
    if not (python.exists() and ready.is_file() and ready.read_text(encoding="utf-8") == wanted):
        print(f"{name}: installing {wanted}", file=sys.stderr, flush=True)
        _run(sys.executable, "-m", "venv", "--clear", str(folder))
        _run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PEERS[name])
        ready.write_text(wanted, encoding="utf-8")
    return python


def _peers() -> dict[str, Worker]:
    """The peers that can be had."""
    peers: dict[str, Worker] = {}
    for name in PEERS:
        try:
            peers[name] = _peer(name)
        except (LeftOutError, OSError) as error:
            print(f"{name}: left out: {error}", flush=True)
    return peers


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LeftOutError(_reason(done.stdout + done.stderr))


def _reason(output: str) -> str:
    """The line that says most: the first that is called an error, by pip or peers.py, or else the last."""
    lines = [line for line in output.splitlines() if line.strip()] or ["it ended without a word"]
    line = next((line for line in lines if line.startswith("ERROR: ")), lines[-1])
    return textwrap.shorten(line.removeprefix("ERROR: "), 200)


class Bench:
    """The contenders, and what they measured."""

    def __init__(self, workers: dict[str, Worker], rounds: int, only: str = "") -> None:
        self._workers = workers
        self._rounds = rounds
        self._only = only
        self._last: tuple[Any, ...] = ()
        self._answers: dict[str, list[dict[str, float]]] = {}
        self.results: dict[str, dict[str, Any]] = {}
        self.left_out: dict[tuple[str, str], list[str]] = {}
        """The rows that a contender is not in, by its name and the reason."""

    def compare(self, title: str, names: list[str], key: str, measure: str, **arguments: Any) -> None:
        """Measure by turns, after one uncounted turn, and print a row of the table."""
        if self._only not in title:
            return
        answers = self._measured(title, names, measure, arguments)
        found = {name: [answer[key] for answer in answers[name]] for name in names if name in answers}
        medians = {name: statistics.median(values) for name, values in found.items()}
        spread = {name: (min(values), max(values)) for name, values in found.items()}
        self.results[title] = {"medians": medians, "spread": spread}
        base = medians.get("litellm")
        cells = []
        for name in self._workers:
            if name not in medians:
                cells.append("")
            else:
                ratio = f" ({medians[name] / base:.2f}x)" if base and name != "litellm" else ""
                cells.append(f"{_shown(key, medians[name])}{ratio}")
        print(f"| {title} | {' | '.join(cells)} |", flush=True)

    def _measured(
        self, title: str, names: list[str], measure: str, arguments: dict[str, Any]
    ) -> dict[str, list[dict[str, float]]]:
        # A row may show something else of what the row before it has measured.
        if self._last == (measure, arguments, names) or (
            self._last[:2] == (measure, arguments) and set(names) <= self._answers.keys()
        ):
            return self._answers
        answers: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for turn in range(self._rounds + 1):
            for name in list(answers):
                try:
                    answer = self._workers[name].measure(measure, **arguments)
                except LeftOutError as error:
                    self.left_out.setdefault((name, str(error)), []).append(title)
                    del answers[name]
                    continue
                if turn:
                    answers[name].append(answer)
        self._last, self._answers = (measure, arguments, names), answers
        return answers

    def alone(self, title: str, key: str, measure: str, **arguments: Any) -> None:
        """Measure ours alone."""
        self.compare(title, ["ours"], key, measure, **arguments)


def _shown(key: str, value: float) -> str:
    if key in {"seconds", "cpu", "latest"}:
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


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument(
        "--only", default="", metavar="WORDS", help="the rows that have these in their titles"
    )
    parser.add_argument("--memory", action="store_true", help="10,000 calls as well: some minutes")
    parser.add_argument("--peers", action="store_true", help="other libraries as well: installs them")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    return parser.parse_args()


def main() -> None:
    """Run everything and print it as Markdown tables."""
    options = _options()
    rounds, count = (3, 60) if options.quick else (7, 150)
    four, two = ["http", "openai", "litellm", "ours"], ["litellm", "ours"]
    if not options.only:
        _start_up()
    with ExitStack() as stack:
        short = stack.enter_context(server("--text", "one two three"))
        long = stack.enter_context(server("--text", _words(WORDS)))
        slow = stack.enter_context(server("--text", "one two three", "--delay", "0.2"))
        paced = stack.enter_context(server("--text", _words(100), "--chunk-delay", "0.01"))
        workers = {name: _contender(name) for name in four}
        peers = _peers() if options.peers else {}
        workers |= peers
        for worker in workers.values():
            stack.callback(worker.close)
        bench = Bench(workers, rounds, options.only)
        titles = ["plain HTTP", "openai SDK", "litellm", "ours", *peers]
        print(f"\n| | {' | '.join(titles)} |\n|---{'|---' * len(titles)}|")
        everybody = [*four, *peers]
        streaming = [name for name in everybody if name not in STREAMLESS]
        for provider in PROVIDERS:
            names = everybody if provider == "openai" else two
            common = {"provider": provider, "url": short, "count": count}
            bench.compare(f"a call, {provider}", names, "seconds", "call", **common)
            bench.compare(f"an awaited call, {provider}", names, "seconds", "acall", **common)
        for provider in PROVIDERS:
            names = streaming if provider == "openai" else two
            common = {"provider": provider, "url": long, "count": 3}
            bench.compare(f"a chunk, {provider}", names, "seconds", "stream", **common)
            bench.compare(f"an awaited chunk, {provider}", names, "seconds", "astream", **common)
        for callers in (16, 64, 256):
            common = {"provider": "openai", "url": slow, "callers": callers, "count": 3}
            names = four if callers == 16 else everybody
            bench.compare(f"{callers} tasks, 0.2 s a reply", names, "per_second", "tasks", **common)
            bench.compare(f"{callers} threads, 0.2 s a reply", two, "per_second", "threads", **common)
            bench.alone(f"... threads beyond the {callers} callers'", "other_threads", "threads", **common)
            bench.alone(f"... connections of the {callers} callers", "connections", "threads", **common)
        for callers in (32, 64):
            common = {"provider": "openai", "url": paced, "callers": callers, "pieces": 100, "pace": 0.01}
            title = f"{callers} streams of 100 pieces a second"
            bench.compare(f"{title}: time over their own", streaming, "ratio", "streams", **common)
            bench.compare(f"{title}: pieces late by one or more, %", streaming, "late", "streams", **common)
            bench.compare(f"{title}: the latest by", streaming, "latest", "streams", **common)
        for n in (10, 40):
            common = {"provider": "openai", "url": slow, "n": n}
            bench.alone(f"{n} samples, 0.2 s a reply: time over one call's", "ratio", "samples", **common)
        if options.memory:
            common = {"provider": "openai", "url": short, "count": 10_000}
            grown = workers["ours"].measure("memory", **common)
            blank = " |" * len(peers)
            print(
                f"| memory grown over 10,000 calls, MB | | | | {grown['megabytes']:.1f} |{blank}", flush=True
            )
        for (name, why), rows in bench.left_out.items():
            print(f"{name}: left out: {why} (in: {'; '.join(rows)})")
        if options.json:
            options.json.write_text(json.dumps(bench.results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
