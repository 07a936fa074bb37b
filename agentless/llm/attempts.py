"""One request to one reply: retries, deadlines, and what a stream promises.

The same for whole and streamed replies. An attempt is one HTTP request under one deadline on the wall's
clock; tenacity decides when another follows. A stream is tried again only while nothing of it has reached
the caller.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field
from itertools import chain

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from agentless.config import ModelSettings
from agentless.errors import (
    DeadlineExceededError,
    EmptyReplyError,
    RedirectError,
    StreamInterruptedError,
    UnwatchedReplyError,
)
from agentless.llm import transport, wire
from agentless.llm.accounts import Permit
from agentless.llm.failures import as_litellm, redact
from agentless.llm.inline_thinking import Splitter
from agentless.llm.limits import Gate
from agentless.llm.replies import Bill, Event, Reply, Tokens, fold
from agentless.llm.retries import (
    Decision,
    Fault,
    Kind,
    Verdict,
    WaitBackoff,
    decide,
    remedy,
    status_of,
    unusable,
)

Emit = Callable[[Event], None]


@dataclass(slots=True)
class Call:
    """One request with all that bears on its attempts."""

    settings: ModelSettings
    plan: transport.Plan
    gate: Gate
    turn: Callable[[], AbstractAsyncContextManager[Permit]]
    """Around each attempt: waits until it may be sent, and takes its bill at the end."""
    secrets: tuple[str, ...] = ()
    emit: Emit | None = None
    """Takes a stream's events as they come; with it, or with `stream`, the reply is streamed."""
    stream: bool = False
    allow_empty: bool = False
    """Claims that an empty end of turn is an answer (Anthropic's after a tool result)."""
    on_start: Callable[[], None] | None = None
    """Called at the first event of each attempt's stream."""
    on_retry: Callable[[], None] | None = None
    """Called when an attempt has failed and another will follow."""
    warn: Callable[[str], None] = lambda _: None
    """Is told, once for each text, what is odd about a reply that can be used."""
    logger: logging.Logger = field(default_factory=lambda: logging.getLogger("agentless"))
    """Is told of each retry, at DEBUG: there can be one for every request."""


@dataclass(slots=True)
class Outcome:
    """How it ended: `attempts` HTTP requests over `seconds` with all waits.

    With a `failure`, `reply` has what the last attempt brought before it failed.
    """

    reply: Reply
    attempts: int
    seconds: float
    failure: Exception | None = None
    is_final: bool = False
    """Claims that the same request would fail again."""


@dataclass(slots=True)
class _Attempt:
    """One attempt, as far as it has come."""

    exchange: wire.Exchange
    reply: Reply = field(default_factory=Reply)
    fault: Fault | None = None
    emitted: bool = False


async def run(call: Call) -> Outcome:
    """Make attempts until one brings a reply, or none is left.

    A failure is one of litellm's own exceptions, `DeadlineExceededError`, `EmptyReplyError`,
    `StreamInterruptedError` or `UnwatchedReplyError`, with a note of attempts and seconds.

    Raises:
        UnsupportedLitellmError: litellm does not send by our connection; nothing is sent.
    """
    await transport.prepare(call.plan)
    began = time.monotonic()
    decision = Decision(Verdict.FINAL)
    attempt = _Attempt(wire.Exchange())
    number = 0

    streams = call.stream or call.emit is not None

    async def once() -> Reply:
        nonlocal attempt, decision, number
        decision = Decision(Verdict.FINAL)
        async with call.turn() as permit:
            number += 1
            attempt = _Attempt(wire.Exchange(is_streaming=streams))
            attempt.exchange.on_sent.append(permit.departed)
            try:
                await (_stream(call, attempt) if streams else _whole(call, attempt))
                _check(call, attempt)
            except Exception as error:
                failure, decision = _judge(call, attempt, error)
                redact(failure, call.secrets)
                if decision.verdict is Verdict.HOPELESS:
                    call.gate.end_waits(failure)  # before this place is free for the next
                if failure is error:
                    raise
                raise failure from error
            finally:
                permit.settle(_bill(attempt))
            call.gate.accepted()
            _tell_oddities(call, attempt.reply)
            return attempt.reply

    def again(error: BaseException) -> bool:
        return isinstance(error, Exception) and decision.verdict is Verdict.RETRY

    def floor(_: RetryCallState) -> float | None:
        return decision.retry_after

    def tell(state: RetryCallState) -> None:
        status = attempt.exchange.status
        what = attempt.fault.kind.value if attempt.fault else "it failed"
        call.logger.debug(
            "%s: attempt %d of %d: %s%s; the next one in %.1f s or later",
            call.plan.model,
            number,
            call.settings.num_retries + 1,
            what,
            f" (HTTP {status})" if status is not None else "",
            state.upcoming_sleep,
        )
        if call.on_retry is not None:
            call.on_retry()

    retrying = AsyncRetrying(
        retry=retry_if_exception(again),
        wait=WaitBackoff(call.settings, floor),
        stop=stop_after_attempt(call.settings.num_retries + 1),
        sleep=call.gate.sleep,
        before_sleep=tell,
        reraise=True,
    )
    try:
        reply: Reply = await retrying(once)
    except Exception as error:  # noqa: BLE001  # the outcome holds it
        redact(error, call.secrets)  # with all that it was caused by
        seconds = time.monotonic() - began
        status = attempt.exchange.status
        last = f", last HTTP status {status}" if status is not None else ""
        error.add_note(
            f"{call.plan.model}: {number} attempt{'s' * (number != 1)} in {seconds:.1f} s{last}. "
            f"{remedy(attempt.fault) if attempt.fault else ''}".rstrip()
        )
        return Outcome(attempt.reply, number, seconds, error, decision.verdict is not Verdict.RETRY)
    reply.request_id = _request_id(attempt.exchange) or reply.request_id
    return Outcome(reply, number, time.monotonic() - began)


def _request_id(exchange: wire.Exchange) -> str | None:
    # What a service's support asks for; the id in the body is litellm's own on some routes.
    return exchange.headers.get("x-request-id") or exchange.headers.get("request-id")


async def _whole(call: Call, attempt: _Attempt) -> None:
    limit = asyncio.timeout(call.settings.timeout)
    try:
        async with limit:
            events = await transport.send(call.plan, attempt.exchange)
    except TimeoutError as error:
        if not limit.expired():
            raise  # somebody else's, such as the operating system's for a connection
        raise _deadline(call, "whole reply", "timeout", call.settings.timeout) from error
    split = _splitter(call)
    attempt.reply = fold(chain(map(split, events) if split else events, split.rest() if split else ()))
    _refuse_failure(attempt)


def _splitter(call: Call) -> Splitter | None:
    return Splitter() if call.settings.inline_thinking == "split" else None


def _refuse_failure(attempt: _Attempt) -> None:
    """Raise what the service says of its own failure within the reply."""
    if attempt.reply.error is not None:
        raise wire.ErrorEventError(attempt.reply.error)


async def _stream(call: Call, attempt: _Attempt) -> None:
    seconds = call.settings.timeout
    pause = _Pause(seconds)
    whole = asyncio.timeout(call.settings.stream_timeout)
    split = _splitter(call)
    attempt.exchange.on_event = pause.go_on
    try:
        async with whole, pause.limit:
            with pause:
                async with aclosing(transport.stream(call.plan, attempt.exchange)) as events:
                    async for event in events:
                        pause.go_on()
                        _take(call, attempt, split(event) if split else event)
                    for event in split.rest() if split else ():
                        _take(call, attempt, event)
    except TimeoutError as error:
        if whole.expired():
            limit = call.settings.stream_timeout
            raise _deadline(call, "whole stream", "stream_timeout", limit) from error
        if pause.limit.expired():
            raise _deadline(call, "next event of the stream", "timeout", seconds) from error
        raise
    finally:
        attempt.exchange.on_event = None
    nothing_to_say = attempt.exchange.done and not attempt.reply.samples
    if not attempt.reply.is_finished and not nothing_to_say:
        raise wire.TruncatedStreamError("the stream ended without the provider's finish reason")


class _Pause:
    """A deadline between events: each notes its time, and only the timer looks how long ago that was."""

    def __init__(self, seconds: float) -> None:
        self.limit = asyncio.timeout(None)
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> None:
        self.go_on()
        self._timer = self._loop.call_at(self._last + self._seconds, self._look)

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def go_on(self) -> None:
        """An event has come."""
        self._last = self._loop.time()

    def _look(self) -> None:
        due = self._last + self._seconds
        if due <= self._loop.time():
            self.limit.reschedule(due)
        else:
            self._timer = self._loop.call_at(due, self._look)


def _take(call: Call, attempt: _Attempt, event: Event) -> None:
    if call.on_start is not None:
        call.on_start()
    attempt.reply.add(event)
    if call.emit is not None and event.text:
        attempt.emitted = True
        call.emit(event)
    _refuse_failure(attempt)


def _check(call: Call, attempt: _Attempt) -> None:
    samples = attempt.reply.samples.values()
    if call.allow_empty and samples:
        return
    if all(sample.is_empty for sample in samples):
        what = "no choices" if not samples else "neither text nor a tool call"
        raise EmptyReplyError(f"{call.plan.model} answered with {what}")


def _tell_oddities(call: Call, reply: Reply) -> None:
    """Warn of what a caller may not expect of a reply that can be used."""
    for word in sorted(reply.unknown):
        call.warn(
            f"the service ended a reply with finish_reason {word[:100]!r}, not a known one: taken as stop"
        )
    for sample in reply.samples.values():
        silent = sample.finish_reason == "stop" and not sample.calls and not any(sample.text)
        if silent and any(sample.refusal):
            call.warn("the model refused to answer: the sample has refusal, and no text")
        elif silent and any(sample.reasoning):
            call.warn(
                "the model thought and said nothing: the sample has reasoning, and no text; "
                'inline_thinking = "keep" leaves thinking in the text, a larger max_new_tokens may help'
            )


def _judge(call: Call, attempt: _Attempt, error: Exception) -> tuple[Exception, Decision]:
    """The exception that the caller should get for `error`, and whether another attempt is worth it."""
    fault = attempt.fault = _fault(attempt.exchange, error)
    decision = decide(fault)
    if decision.retry_after is not None:
        capped = min(decision.retry_after, call.settings.timeout)
        if capped < decision.retry_after:
            call.warn(
                f"the service asks to wait {decision.retry_after:.0f} s, longer than timeout = "
                f"{capped:g} s: the next attempt comes after that"
            )
        decision = Decision(decision.verdict, capped)
        call.gate.hold(capped)
    elif fault.status == httpx.codes.TOO_MANY_REQUESTS and decision.verdict is Verdict.RETRY:
        call.gate.hold(call.settings.retry_min_wait)
    is_ours = isinstance(error, (DeadlineExceededError, EmptyReplyError, UnwatchedReplyError))
    if isinstance(attempt.exchange.failure, wire.RedirectFault):
        return _redirected(call, attempt.exchange.failure), decision
    if attempt.emitted or (fault.kind is not Kind.EMPTY and _has_finished(attempt)):
        # What has reached the caller, or is complete and paid for, is not asked for again.
        return _interrupted(call, attempt, error), Decision(Verdict.FINAL)
    if is_ours or fault.kind is not Kind.CUT:
        return (error if is_ours else as_litellm(error, call.plan.arguments)), decision
    return _interrupted(call, attempt, error), decision


def _bill(attempt: _Attempt) -> Bill:
    exchange, tokens = attempt.exchange, attempt.reply.tokens
    refused = exchange.status is not None and exchange.status >= httpx.codes.MULTIPLE_CHOICES
    unsent = exchange.requests == 0 and not exchange.is_unwatched
    unsent = unsent or isinstance(exchange.failure, _NEVER_SENT)
    if refused or unsent:
        return Bill()
    if tokens is None or not attempt.reply.is_counted:
        return Bill(tokens or Tokens(), is_known=False)
    # A stream's first events may have counts too (Anthropic's), and only its last ones have all.
    return Bill(tokens, not exchange.is_streaming or attempt.reply.is_finished or exchange.done)


_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


def _has_finished(attempt: _Attempt) -> bool:
    return any(sample.finish_reason for sample in attempt.reply.samples.values())


def _fault(exchange: wire.Exchange, error: Exception) -> Fault:
    """What failed, from what happened on the connection."""
    if isinstance(error, DeadlineExceededError):
        return Fault(Kind.DEADLINE)
    if isinstance(error, EmptyReplyError):
        return Fault(Kind.EMPTY)
    if isinstance(error, UnwatchedReplyError):
        return Fault(Kind.UNWATCHED)
    if isinstance(exchange.failure, wire.RedirectFault):
        return Fault(Kind.REDIRECTED, exchange.status)
    if exchange.requests == 0:
        return Fault(Kind.OTHER if exchange.is_unwatched else Kind.UNSENT)
    is_told = isinstance(error, wire.TruncatedStreamError | wire.ErrorEventError)
    failure = error if is_told else exchange.failure
    if isinstance(failure, wire.ErrorEventError):
        body = json.dumps({"error": dict(failure.error)})
        return Fault(Kind.REFUSED, status_of(failure.error), exchange.headers, body)
    if exchange.status is None:
        return Fault(Kind.CONNECTION)
    if exchange.status >= httpx.codes.BAD_REQUEST:
        return Fault(Kind.REFUSED, exchange.status, exchange.headers, exchange.text)
    if failure is not None:
        return Fault(Kind.CUT if exchange.is_streaming else Kind.CONNECTION)
    return unusable(exchange.status, exchange.text)


def _interrupted(call: Call, attempt: _Attempt, error: Exception) -> StreamInterruptedError:
    samples = attempt.reply.samples
    broken = next((index for index, sample in samples.items() if not sample.finish_reason), 0)
    tokens = attempt.reply.tokens
    return StreamInterruptedError(
        f"the stream of {call.plan.model} was cut: {type(error).__name__}: {error}",
        index=broken,
        texts={index: sample.response for index, sample in samples.items()},
        usage=tokens.usage(None) if tokens is not None else None,
    )


def _redirected(call: Call, fault: wire.RedirectFault) -> RedirectError:
    return RedirectError(
        f"{call.plan.model}: {fault}. Nothing was sent there; if that is your service, set base_url to it",
        model=call.plan.model,
        status=fault.status,
        address=fault.address,
        location=fault.location,
    )


def _deadline(call: Call, what: str, setting: str, seconds: float) -> DeadlineExceededError:
    text = f"{call.plan.model}: the {what} did not come within {setting} = {seconds:g} s"
    return DeadlineExceededError(text, seconds=seconds)
