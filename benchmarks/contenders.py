"""One contender in a process of its own: takes measurements as JSON lines, answers in seconds.

    python benchmarks/contenders.py NAME < commands

A process each, because bare litellm has to run at its own defaults, which importing ours would change.
"""

import asyncio
import contextlib
import gc
import importlib
import json
import math
import os
import resource
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

MESSAGES = [{"role": "user", "content": "hi"}]
NAMES = {
    "openai": "gpt-4o",
    "anthropic": "claude-3-5-sonnet-20241022",
    "deepseek": "deepseek-chat",
    "hosted_vllm": "local-model",
}


class Contender(Protocol):
    """What is measured; `provider` is a key of NAMES, `url` the server's address without a path."""

    def call(self, provider: str, url: str) -> None:
        """One whole reply, blocking."""

    async def acall(self, provider: str, url: str) -> None:
        """One whole reply, awaited."""

    def stream(self, provider: str, url: str) -> Iterator[Any]:
        """The pieces of one reply, blocking."""

    def astream(self, provider: str, url: str) -> AsyncIterator[Any]:
        """The pieces of one reply, awaited."""


class PlainHTTP:
    """httpx alone: what any client has to pay."""

    def __init__(self) -> None:
        self._httpx = importlib.import_module("httpx")
        self._client = self._httpx.Client(timeout=60)
        self._async: Any = None

    def _request(self, provider: str, url: str, stream: bool) -> dict[str, Any]:
        return {
            "url": f"{url}/v1/chat/completions",
            "headers": {"authorization": "Bearer x"},
            "json": {"model": NAMES[provider], "messages": MESSAGES, "max_tokens": 1024, "stream": stream},
        }

    def call(self, provider: str, url: str) -> None:
        """One whole reply."""
        self._client.post(**self._request(provider, url, stream=False)).json()

    async def acall(self, provider: str, url: str) -> None:
        """One whole reply."""
        self._async = self._async or self._httpx.AsyncClient(timeout=60)
        (await self._async.post(**self._request(provider, url, stream=False))).json()

    def stream(self, provider: str, url: str) -> Iterator[Any]:
        """Its events."""
        with self._client.stream("POST", **self._request(provider, url, stream=True)) as response:
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    yield json.loads(line[6:])

    async def astream(self, provider: str, url: str) -> AsyncIterator[Any]:
        """Its events."""
        self._async = self._async or self._httpx.AsyncClient(timeout=60)
        async with self._async.stream("POST", **self._request(provider, url, stream=True)) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    yield json.loads(line[6:])


class OpenAISDK:
    """The openai package at its defaults."""

    def __init__(self) -> None:
        self._openai = importlib.import_module("openai")
        self._client: Any = None
        self._async: Any = None

    def _arguments(self, provider: str) -> dict[str, Any]:
        return {"model": NAMES[provider], "messages": MESSAGES, "max_tokens": 1024, "temperature": 0.0}

    def _sync(self, url: str) -> Any:
        if self._client is None or str(self._client.base_url) != f"{url}/v1/":
            self._client = self._openai.OpenAI(base_url=f"{url}/v1", api_key="x")
        return self._client

    def _asynchronous(self, url: str) -> Any:
        if self._async is None or str(self._async.base_url) != f"{url}/v1/":
            self._async = self._openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x")
        return self._async

    def call(self, provider: str, url: str) -> None:
        """One whole reply."""
        self._sync(url).chat.completions.create(**self._arguments(provider))

    async def acall(self, provider: str, url: str) -> None:
        """One whole reply."""
        await self._asynchronous(url).chat.completions.create(**self._arguments(provider))

    def stream(self, provider: str, url: str) -> Iterator[Any]:
        """Its pieces."""
        yield from self._sync(url).chat.completions.create(**self._arguments(provider), stream=True)

    async def astream(self, provider: str, url: str) -> AsyncIterator[Any]:
        """Its pieces."""
        client = self._asynchronous(url)
        async for piece in await client.chat.completions.create(**self._arguments(provider), stream=True):
            yield piece


class BareLitellm:
    """litellm at its defaults; only the download of its price list is off, as there is no network."""

    def __init__(self) -> None:
        os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
        litellm: Any = importlib.import_module("litellm")
        litellm.suppress_debug_info = True
        self._litellm = litellm

    def _arguments(self, provider: str, url: str) -> dict[str, Any]:
        base = url if provider == "anthropic" else f"{url}/v1"
        model = f"{provider}/{NAMES[provider]}"
        arguments = {"model": model, "messages": MESSAGES, "api_base": base, "api_key": "x"}
        return {**arguments, "max_tokens": 1024, "temperature": 0.0}

    def call(self, provider: str, url: str) -> None:
        """One whole reply."""
        self._litellm.completion(**self._arguments(provider, url))

    async def acall(self, provider: str, url: str) -> None:
        """One whole reply."""
        await self._litellm.acompletion(**self._arguments(provider, url))

    def stream(self, provider: str, url: str) -> Iterator[Any]:
        """Its pieces."""
        yield from self._litellm.completion(**self._arguments(provider, url), stream=True)

    async def astream(self, provider: str, url: str) -> AsyncIterator[Any]:
        """Its pieces."""
        async for piece in await self._litellm.acompletion(**self._arguments(provider, url), stream=True):
            yield piece


class Ours:
    """This package."""

    def __init__(self) -> None:
        self._config = importlib.import_module("agentless.config")
        self._factory = importlib.import_module("agentless.util.model_factory")
        self._models: dict[Any, Any] = {}

    def model(self, provider: str, url: str, **settings: Any) -> Any:
        """The model, made once."""
        key = (provider, url, *settings.items())
        if key not in self._models:
            base = url if provider == "anthropic" else f"{url}/v1"
            service = {"provider": provider, "base_url": base, "api_key": "sk-bench"}
            table = {"name": NAMES[provider], **service, "max_concurrency": 256, **settings}
            config = self._config.read_config({"models": {"m": table}})
            self._models[key] = self._factory.ModelFactory(config).create_model()
        return self._models[key]

    def call(self, provider: str, url: str) -> None:
        """One whole reply."""
        self.model(provider, url).codegen("hi")

    async def acall(self, provider: str, url: str) -> None:
        """One whole reply."""
        await self.model(provider, url).codegen_async("hi")

    def stream(self, provider: str, url: str) -> Iterator[Any]:
        """Its chunks."""
        yield from self.model(provider, url).codegen_stream("hi")

    async def astream(self, provider: str, url: str) -> AsyncIterator[Any]:
        """Its chunks."""
        async for chunk in self.model(provider, url).codegen_stream_async("hi"):
            yield chunk


CONTENDERS: dict[str, Callable[[], Contender]] = {
    "http": PlainHTTP,
    "openai": OpenAISDK,
    "litellm": BareLitellm,
    "ours": Ours,
}


@dataclass
class Process:
    """The measurements, each a method by its command's name; answers are numbers by name."""

    contender: Contender

    def __post_init__(self) -> None:
        # One loop for all asynchronous measurements, as an application has one.
        self._loop = asyncio.new_event_loop()

    def close(self) -> None:
        """End what the contender has left on the loop."""
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def _await(self, work: Awaitable[Any]) -> Any:
        return self._loop.run_until_complete(work)

    def call(self, provider: str, url: str, count: int) -> dict[str, float]:
        """Seconds per blocking call, one after another."""
        began = time.perf_counter()
        for _ in range(count):
            self.contender.call(provider, url)
        return {"seconds": (time.perf_counter() - began) / count}

    def acall(self, provider: str, url: str, count: int) -> dict[str, float]:
        """Seconds per awaited call, one after another."""

        async def main() -> float:
            began = time.perf_counter()
            for _ in range(count):
                await self.contender.acall(provider, url)
            return (time.perf_counter() - began) / count

        return {"seconds": self._await(main())}

    def stream(self, provider: str, url: str, count: int) -> dict[str, float]:
        """Seconds per piece of blocking streams."""
        began, pieces = time.perf_counter(), 0
        for _ in range(count):
            pieces += sum(1 for _ in self.contender.stream(provider, url))
        return {"seconds": (time.perf_counter() - began) / pieces, "pieces": pieces / count}

    def astream(self, provider: str, url: str, count: int) -> dict[str, float]:
        """Seconds per piece of awaited streams."""

        async def main() -> dict[str, float]:
            began, pieces = time.perf_counter(), 0
            for _ in range(count):
                async for _ in self.contender.astream(provider, url):
                    pieces += 1
            return {"seconds": (time.perf_counter() - began) / pieces, "pieces": pieces / count}

        answer: dict[str, float] = self._await(main())
        return answer

    def tasks(self, provider: str, url: str, callers: int, count: int) -> dict[str, float]:
        """Calls per second of so many tasks at once, and the processor's seconds per call."""

        async def main() -> None:
            async def caller() -> None:
                for _ in range(count):
                    await self.contender.acall(provider, url)

            await asyncio.gather(*(caller() for _ in range(callers)))

        return self._throughput(lambda: self._await(main()), callers, count)

    def threads(self, provider: str, url: str, callers: int, count: int) -> dict[str, float]:
        """Calls per second of so many threads at once, the processor's seconds per call, what it takes."""
        others: list[int] = []

        def caller() -> None:
            for _ in range(count):
                self.contender.call(provider, url)

        def run() -> None:
            threads = [threading.Thread(target=caller) for _ in range(callers)]
            for thread in threads:
                thread.start()
            others.append(threading.active_count() - callers - 1)
            for thread in threads:
                thread.join()

        answer = self._throughput(run, callers, count)
        # Counted when the clock has stopped, since it takes a while: what the pool keeps open.
        return {**answer, "other_threads": others[0], "connections": _connections(url)}

    def streams(self, provider: str, url: str, callers: int, pieces: int, pace: float) -> dict[str, float]:
        """So many streams at once, each of so many pieces that come `pace` seconds after one another.

        Returns:
            ratio: how much longer than its pace allows the slowest took.
            latest: seconds that the latest piece of all was late, beside the earliest of its own stream.
            late: the share of pieces, in percent, that were later than the next one was due.
            cpu: of one processor, the share in use.
        """

        async def caller() -> list[float]:
            arrived = [(time.perf_counter(), piece) async for piece in self.contender.astream(provider, url)]
            # Only those with text are paced; what is in a piece is not looked at while others arrive.
            return [when for when, piece in arrived if "word" in repr(piece)]

        async def main() -> tuple[float, list[list[float]]]:
            began = time.perf_counter()
            times = await asyncio.gather(*(caller() for _ in range(callers)))
            return max(each[-1] for each in times) - began, times

        used = time.process_time()
        seconds, times = self._await(main())
        used = time.process_time() - used
        delays = [delay for each in times for delay in _delays(each, pieces, pace)]
        return {
            "ratio": seconds / ((pieces - 1) * pace),
            "latest": max(delays),
            "late": 100 * sum(delay > pace for delay in delays) / len(delays),
            "cpu": used / seconds,
        }

    def memory(self, provider: str, url: str, count: int) -> dict[str, float]:
        """Growth of the resident memory in MB over `count` calls, after the first tenth of them."""
        for _ in range(count // 10):
            self.contender.call(provider, url)
        gc.collect()
        before = _resident()
        for _ in range(count - count // 10):
            self.contender.call(provider, url)
        gc.collect()
        return {"megabytes": _resident() - before}

    def samples(self, provider: str, url: str, n: int) -> dict[str, float]:
        """Ours alone: n samples beside one call, as a ratio of their times."""
        assert isinstance(self.contender, Ours)  # noqa: S101  # the driver asks no other
        model = self.contender.model(provider, url, temperature=0.5)
        model.codegen("hi")
        began = time.perf_counter()
        model.codegen("hi")
        one = time.perf_counter() - began
        began = time.perf_counter()
        model.codegen("hi", num_samples=n)
        return {"ratio": (time.perf_counter() - began) / one}

    def _throughput(self, run: Callable[[], Any], callers: int, count: int) -> dict[str, float]:
        cpu, began = time.process_time(), time.perf_counter()
        run()
        seconds = time.perf_counter() - began
        calls = callers * count
        return {"per_second": calls / seconds, "cpu": (time.process_time() - cpu) / calls}


def _delays(times: list[float], pieces: int, pace: float) -> list[float]:
    """How late each piece was, if the one that came soonest after its turn was in time."""
    if len(times) != pieces:
        raise RuntimeError(f"a stream of {pieces} pieces came in {len(times)}")
    after = [when - number * pace for number, when in enumerate(times)]
    return [each - min(after) for each in after]


def _resident() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123  # as short as it gets
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def _connections(url: str) -> float:
    """How many TCP connections this process has to the server; nan where it is not Linux."""
    port = int(url.rpartition(":")[2])
    ours, count = set(), 0
    try:
        for descriptor in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile, as is the one that lists them
                ours.add(str(descriptor.readlink()))
        # The columns: number, local, remote, state, queues, timer, retransmits, user, time-out, inode.
        for line in Path("/proc/self/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            remote, established = int(fields[2].partition(":")[2], 16), fields[3] == "01"
            count += established and remote == port and f"socket:[{fields[9]}]" in ours
    except FileNotFoundError:
        return math.nan
    return count


def serve(contender: Contender, answers: TextIO) -> None:
    """Answer commands until there are no more."""
    process = Process(contender)
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(process, command.pop("measure"))(**command)
        print(json.dumps(answer), file=answers, flush=True)
    process.close()


def main() -> None:
    """Be one of the contenders."""
    serve(CONTENDERS[sys.argv[1]](), sys.stdout)


if __name__ == "__main__":
    main()
