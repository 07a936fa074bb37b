"""One prompt to exactly n samples, or an error that holds the ones that arrived."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentless.errors import (
    EmptyReplyError,
    PromptTooLongError,
    SamplesIncompleteError,
    StreamInterruptedError,
)
from agentless.llm import attempts
from agentless.llm.accounts import Turns
from agentless.llm.ledger import Entry
from agentless.llm.limits import Gate, Limits, gate_of
from agentless.llm.orders import Order, most_completion, plan
from agentless.llm.replies import Event, Sample, split_usage
from agentless.llm.trajectory import Chunk, Trajectory, Usage, no_usage
from agentless.llm.transport import Plan

EmitChunk = Callable[[Chunk], None]


async def sample(order: Order, n: int, emit: EmitChunk | None = None) -> list[Trajectory]:
    """Exactly `n` trajectories; with `emit`, their chunks as they come.

    Fewer choices than asked for are never padded: what is missing is asked for again, as many in a request
    as the service has shown to give.

    Raises:
        PromptTooLongError: nothing was sent.
        SamplesIncompleteError: some failed after their retries, others are in the error.
        Exception: the failure itself, where nothing arrived.
    """
    run = _Run(order, emit, await _measure(order))
    streams = order.settings.stream or emit is not None
    most = order.native_n_in_streams if streams else order.native_n
    await run.fetch(plan(range(n), most), warm=order.warm_first)
    while run.missing:
        if run.brought == 0 and most == 1:
            short = EmptyReplyError("the service left out choices, and brought none for this one alone")
            run.failures.update(dict.fromkeys(run.missing, short))
            break
        most = max(1, min(most, run.brought))
        missing, run.missing, run.brought = sorted(run.missing), [], 0
        await run.fetch(plan(missing, most))
    if run.failures:
        raise _failure(run, n)
    return [run.trajectories[index] for index in range(n)]


async def _measure(order: Order) -> int:
    """The prompt's tokens, where they are needed; counted off the loop, and only if its bytes leave doubt."""
    most, limit = order.prompt.most, order.max_input_tokens
    in_doubt = limit is not None and most > limit
    if not in_doubt and order.settings.tokens_per_minute is None:
        return 0
    tokens = await asyncio.get_running_loop().run_in_executor(None, lambda: order.prompt.tokens)
    if limit is not None and tokens > limit:
        raise PromptTooLongError(
            f"{order.account.model}: the prompt has {tokens} tokens, and max_input_tokens is {limit}",
            prompt_tokens=tokens,
            max_input_tokens=limit,
        )
    return tokens


@dataclass(slots=True)
class _Run:
    order: Order
    emit: EmitChunk | None
    prompt_tokens: int
    trajectories: dict[int, Trajectory] = field(default_factory=dict)
    failures: dict[int, Exception] = field(default_factory=dict)
    missing: list[int] = field(default_factory=list)
    emitted: set[int] = field(default_factory=set)
    plans: dict[tuple[int, bool], Plan] = field(default_factory=dict)
    """The requests so far, by (samples, streamed)."""
    brought: int = 0
    """The most samples that one request has brought, of the last ones made."""

    async def fetch(self, requests: list[tuple[int, ...]], *, warm: bool = False) -> None:
        """Make the requests, concurrently; the outcome is in this object's fields."""
        if len(requests) == 1:
            await self._one(requests[0])
            return
        tasks: list[asyncio.Task[attempts.Outcome]] = []
        try:
            if warm:
                requests = await self._warm(requests, tasks)
            tasks += [asyncio.create_task(self._one(numbers)) for numbers in requests]
            await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def _warm(
        self, requests: list[tuple[int, ...]], tasks: "list[asyncio.Task[attempts.Outcome]]"
    ) -> list[tuple[int, ...]]:
        """Let requests go one at a time until one's reply starts; returns those still to make.

        While one that failed before its start waits for its next attempt, the next takes its place; after
        one that would fail again, none is sent.
        """
        rest, moved, started = list(requests), asyncio.Event(), asyncio.Event()

        def start() -> None:
            started.set()
            moved.set()

        while rest and not started.is_set():
            moved.clear()
            leader = asyncio.create_task(self._one(rest.pop(0), on_start=start, on_retry=moved.set))
            leader.add_done_callback(lambda _: moved.set())
            tasks.append(leader)
            await moved.wait()
            if not leader.done():
                continue
            outcome = leader.result()
            if outcome.failure is None:
                break
            if outcome.is_final and not started.is_set():
                for numbers in rest:
                    self.failures.update(dict.fromkeys(numbers, outcome.failure))
                return []
        return rest

    async def _one(
        self,
        numbers: tuple[int, ...],
        on_start: Callable[[], None] | None = None,
        on_retry: Callable[[], None] | None = None,
    ) -> attempts.Outcome:
        order, settings = self.order, self.order.settings
        emit = None if self.emit is None else lambda event: self._pass_on(numbers, event)
        # To see its start, a reply has to be streamed; where that cannot be, the others wait for its end.
        shows_start = on_start is not None and len(numbers) <= order.native_n_in_streams
        streams = settings.stream or self.emit is not None or shows_start
        plan = self._plan(len(numbers), streams)
        gate = gate_of(order.service)
        call = attempts.Call(
            settings=settings,
            plan=plan,
            gate=gate,
            turn=self._turns(plan.arguments, gate),
            secrets=order.secrets,
            emit=emit,
            stream=streams,
            allow_empty=order.allow_empty,
            on_start=on_start,
            on_retry=on_retry,
            warn=order.warn,
            logger=order.logger,
        )
        outcome = await attempts.run(call)
        self._take(numbers, outcome)
        return outcome

    def _plan(self, samples: int, streams: bool) -> Plan:
        kind = (samples, streams)
        if kind not in self.plans:
            self.plans[kind] = Plan(self.order.build(*kind))
        return self.plans[kind]

    def _turns(self, request: Mapping[str, Any], gate: Gate) -> Turns:
        order = self.order
        account, completion = order.account, most_completion(request, order.max_output_tokens) or 0
        worst = 0.0
        if account.prices is not None and account.budget is not None:
            worst = account.prices.worst(order.prompt.most, completion, writes=order.writes_cache)
        tokens = self.prompt_tokens + completion
        return Turns(account, gate, Limits.of(order.settings), most=worst, tokens=tokens)

    def _pass_on(self, numbers: tuple[int, ...], event: Event) -> None:
        if self.emit is None or event.index >= len(numbers):
            return  # a choice more than was asked for
        number = numbers[event.index]
        self.emitted.add(number)
        self.emit(_chunk(event.text, number, no_usage()))

    def _take(self, numbers: tuple[int, ...], outcome: attempts.Outcome) -> None:
        """File what one request brought under its samples' numbers."""
        reply, failure = outcome.reply, outcome.failure
        good = [
            (choice, sample)
            for choice, sample in sorted(reply.samples.items())
            if sample.finish_reason and (self.order.allow_empty or not sample.is_empty)
        ][: len(numbers)]
        self.brought = max(self.brought, len(good))
        account, tokens = self.order.account, reply.tokens
        usages = split_usage(tokens, account.cost(tokens) if tokens and tokens.prompt else None, len(good))
        placed = _place(numbers, [choice for choice, _ in good])
        for number, (_, sample), usage in zip(placed, good, usages, strict=True):
            trajectory = _trajectory(sample, usage, outcome)
            self.trajectories[number] = trajectory
            if self.emit is not None:
                end = trajectory["finish_reason"]
                last = _chunk("", number, usage, end, list(trajectory["tool_calls"]))
                if trajectory["reasoning"]:
                    last["reasoning"] = trajectory["reasoning"]
                if "refusal" in trajectory:
                    last["refusal"] = trajectory["refusal"]
                self.emit(last)
        account.ledger.record(account.model, Entry(samples=len(good)))
        if isinstance(failure, StreamInterruptedError):
            texts = {choice: text for choice, text in failure.texts.items() if choice < len(numbers)}
            failure.texts = {numbers[choice]: text for choice, text in texts.items()}
            failure.index = numbers[failure.index] if failure.index < len(numbers) else numbers[0]
        for number in numbers:
            if number in self.trajectories:
                continue
            if failure is not None and (not good or number in self.emitted):
                self.failures[number] = failure
            else:
                self.missing.append(number)


def _place(numbers: tuple[int, ...], choices: list[int]) -> list[int]:
    """The sample numbers of a reply's choices: their own where they fit, else the next free."""
    free = [number for choice, number in enumerate(numbers) if choice not in choices]
    return [numbers[choice] if choice < len(numbers) else free.pop(0) for choice in choices]


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
    trajectory = Trajectory(
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
    if sample.refusal:
        trajectory["refusal"] = "".join(sample.refusal)
    return trajectory


def _chunk(
    text: str, index: int, usage: Usage, finish_reason: str | None = None, calls: list[Any] | None = None
) -> Chunk:
    return Chunk(response=text, index=index, usage=usage, finish_reason=finish_reason, tool_calls=calls or [])
