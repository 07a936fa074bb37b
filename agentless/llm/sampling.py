"""One prompt to exactly n samples, or an error that holds the ones that arrived."""

import asyncio
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentless.config import ModelSettings
from agentless.errors import EmptyReplyError, SamplesIncompleteError, StreamInterruptedError
from agentless.llm import attempts
from agentless.llm.limits import gate_of
from agentless.llm.replies import Event, Sample, Tokens, split_usage
from agentless.llm.trajectory import Chunk, Trajectory, Usage, no_usage

EmitChunk = Callable[[Chunk], None]


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for, and of whom."""

    settings: ModelSettings
    build: Callable[[int, bool], Mapping[str, Any]]
    """(samples, streamed) -> one request, as `transport` takes it."""
    price: Callable[[Tokens], float | None]
    """What tokens cost, in USD; `None` where no price is known."""
    service: Hashable
    """Equal for all that counts against one service's limits for this model."""
    native_n: int = 1
    """The most samples that one request may ask for ..."""
    native_n_in_streams: int = 1
    """... and one streamed request."""
    secrets: tuple[str, ...] = ()
    allow_empty: bool = False
    warm_first: bool = False
    """Let one request's reply start, and with it the provider's prompt cache, before the others go."""


async def sample(order: Order, n: int, emit: EmitChunk | None = None) -> list[Trajectory]:
    """Exactly `n` trajectories; with `emit`, their chunks as they come.

    Raises:
        SamplesIncompleteError: some failed after their retries, others are in the error.
        Exception: the failure itself, where nothing arrived.
    """
    run = _Run(order, emit)
    streams = order.settings.stream or emit is not None
    await run.fetch(plan(n, order.native_n_in_streams if streams else order.native_n))
    missing = run.missing
    if missing:  # fewer choices than asked for: never padded, asked for once more, one by one
        run.missing = []
        await run.fetch([(index, 1) for index in missing])
        short = "the service left out choices, and brought none for this one alone"
        run.failures.update({index: EmptyReplyError(short) for index in run.missing})
    if run.failures:
        raise _failure(run, n)
    return [run.trajectories[index] for index in range(n)]


def plan(n: int, most: int) -> list[tuple[int, int]]:
    """(first sample, samples) of each request for `n` samples with at most `most` in one."""
    return [(first, min(most, n - first)) for first in range(0, n, most)]


@dataclass(slots=True)
class _Run:
    order: Order
    emit: EmitChunk | None
    trajectories: dict[int, Trajectory] = field(default_factory=dict)
    failures: dict[int, Exception] = field(default_factory=dict)
    missing: list[int] = field(default_factory=list)
    emitted: set[int] = field(default_factory=set)

    async def fetch(self, requests: list[tuple[int, int]]) -> None:
        """Make the requests, concurrently; the outcome is in this object's fields."""
        if len(requests) == 1:
            await self._one(*requests[0])
            return
        tasks: list[asyncio.Task[attempts.Outcome]] = []
        try:
            if self.order.warm_first:
                requests = await self._warm(requests, tasks)
            tasks += [asyncio.create_task(self._one(first, size)) for first, size in requests]
            await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def _warm(
        self, requests: list[tuple[int, int]], tasks: "list[asyncio.Task[attempts.Outcome]]"
    ) -> list[tuple[int, int]]:
        """Let requests go one at a time until one's reply starts; returns those still to make.

        One that fails before it starts is followed by the next in its place; after one that would fail
        again, none is sent.
        """
        rest = list(requests)
        while rest:
            started = asyncio.Event()
            leader = asyncio.create_task(self._one(*rest.pop(0), on_start=started.set))
            tasks.append(leader)
            start = asyncio.create_task(started.wait())
            try:
                await asyncio.wait({leader, start}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                start.cancel()
            if started.is_set() or not leader.done():
                break
            outcome = leader.result()
            if outcome.failure is None:
                break
            if outcome.is_final:
                for first, size in rest:
                    self.failures.update(dict.fromkeys(range(first, first + size), outcome.failure))
                return []
        return rest

    async def _one(
        self, first: int, size: int, on_start: Callable[[], None] | None = None
    ) -> attempts.Outcome:
        order = self.order
        emit = None if self.emit is None else lambda event: self._pass_on(first, event)
        streams = order.settings.stream or self.emit is not None or on_start is not None
        call = attempts.Call(
            settings=order.settings,
            request=order.build(size, streams),
            gate=gate_of(order.service, order.settings.max_concurrency),
            secrets=order.secrets,
            emit=emit,
            stream=streams,
            allow_empty=order.allow_empty,
            on_start=on_start,
        )
        outcome = await attempts.run(call)
        self._take(first, size, outcome)
        return outcome

    def _pass_on(self, first: int, event: Event) -> None:
        assert self.emit is not None  # noqa: S101  # only streams come here
        self.emitted.add(first + event.index)
        self.emit(_chunk(event.text, first + event.index, no_usage()))

    def _take(self, first: int, size: int, outcome: attempts.Outcome) -> None:
        """File what one request brought under its samples' numbers."""
        reply, failure = outcome.reply, outcome.failure
        good = [
            (choice, sample)
            for choice, sample in sorted(reply.samples.items())
            if sample.finish_reason and (self.order.allow_empty or not sample.is_empty)
        ][:size]
        tokens = reply.tokens
        usages = split_usage(tokens, self.order.price(tokens) if tokens else None, len(good))
        placed = self._place(first, size, [choice for choice, _ in good])
        for number, (_, sample), usage in zip(placed, good, usages, strict=True):
            trajectory = _trajectory(sample, usage, outcome)
            self.trajectories[number] = trajectory
            if self.emit is not None:
                end = trajectory["finish_reason"]
                self.emit(_chunk("", number, usage, end, list(trajectory["tool_calls"])))
        if isinstance(failure, StreamInterruptedError):
            failure.index += first
            failure.texts = {first + choice: text for choice, text in failure.texts.items()}
        for number in range(first, first + size):
            if number in self.trajectories:
                continue
            if failure is not None and (not good or number in self.emitted):
                self.failures[number] = failure
            else:
                self.missing.append(number)

    def _place(self, first: int, size: int, choices: list[int]) -> list[int]:
        """The sample numbers of a reply's choices: their own where they fit, else the next free."""
        free = [number for number in range(first, first + size) if number - first not in choices]
        return [first + choice if choice < size else free.pop(0) for choice in choices]


def _failure(run: _Run, n: int) -> Exception:
    first = min(run.failures)
    cause = run.failures[first]
    if not run.trajectories:
        if n > 1:
            cause.add_note(f"None of the {n} samples arrived.")
        return cause
    error = SamplesIncompleteError(
        f"{len(run.trajectories)} of {n} samples arrived, {len(run.failures)} failed; "
        f"the first failure, of sample {first}: {type(cause).__name__}: {cause}",
        trajectories=run.trajectories,
        failures=run.failures,
    )
    error.__cause__ = cause
    return error


def _trajectory(sample: Sample, usage: Usage, outcome: attempts.Outcome) -> Trajectory:
    return Trajectory(
        response=sample.response,
        usage=usage,
        finish_reason=sample.finish_reason or "",
        tool_calls=sample.tool_calls,
        model=outcome.reply.model or "",
        request_id=outcome.reply.request_id,
        reasoning="".join(sample.reasoning) or None,
        attempts=outcome.attempts,
        latency=outcome.seconds,
        cached=False,
    )


def _chunk(
    text: str, index: int, usage: Usage, finish_reason: str | None = None, calls: list[Any] | None = None
) -> Chunk:
    return Chunk(response=text, index=index, usage=usage, finish_reason=finish_reason, tool_calls=calls or [])
