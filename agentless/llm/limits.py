"""How many requests of one model may be under way, and when; process-wide, on the engine's loop.

A `Gate` belongs to a service and model, whatever the thread, the model object or the call. All that is sent
counts for all: places that are taken, requests and tokens of the last minute, a `Retry-After`, a refusal of
the account. The limits themselves come with each request, so two configs may differ about one service: each
request waits until what is under way is within its own limits. First come, first served.

The minute is a sliding one: in no 60 s are more than `requests_per_minute` sent. (aiolimiter's leaky bucket,
the well-kept library for this, lets through up to twice as many in 60 s: a full bucket at once, and what
leaks out of it meanwhile.) Tokens count as estimated from when a request is sent, and as billed once that is
known.
"""

import asyncio
import copy
from collections import deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

from agentless.llm import bridge
from agentless.settings import ModelSettings

MINUTE = 60.0
"""Seconds. A service counts arrivals and we count departures, so `_MARGIN` is added."""

_MARGIN = 1.01
_SLOWER, _FASTER = 1.2, 0.997
"""A refusal widens the gap between requests, each accepted one narrows it: with these, a service's limit is
touched by two requests in a hundred (simulated: fixed and sliding windows, a token bucket), and a pace of one
a second is back at 30 in five minutes."""
_FEW, _FASTER_BY_FEW = 3, 0.5
"""Fewer requests than these show no pace (a process's first may be refused for what others sent): the gap
that they lead to is soon gone, unless the service refuses again."""
_MOST_OVER_PACE = 1.1
"""Bounds a gap by the last minute's pace: refusals that come at any pace would widen it for ever."""
_LEAST_A_MINUTE = 4
_NO_GAP = 0.001

_gates: dict[Hashable, "Gate"] = {}


def gate_of(service: Hashable) -> "Gate":
    """The gate of this service and model."""
    return _gates.setdefault(service, Gate())


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request has to keep to."""

    max_concurrency: int = 32
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None

    @classmethod
    def of(cls, settings: ModelSettings) -> Self:
        """Those of the settings."""
        return cls(settings.max_concurrency, settings.requests_per_minute, settings.tokens_per_minute)


@dataclass(slots=True, eq=False)
class Turn:
    """One attempt's turn; `tokens` is an estimate until it is put right."""

    limits: Limits
    tokens: int
    future: "asyncio.Future[None]"
    sent_at: float = 0.0


class Gate:
    """Turns for requests; every method belongs on the engine's loop."""

    def __init__(self) -> None:
        self._taken = 0
        self._queue: deque[Turn] = deque()
        self._sent: deque[Turn] = deque()
        self._kept = MINUTE
        self._waiting: set[asyncio.Future[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._held_until = 0.0
        self._gap = 0.0
        self._faster = _FASTER
        self._last = 0.0

    @asynccontextmanager
    async def place(self, limits: Limits, tokens: int = 0) -> AsyncIterator[Turn]:
        """A place for one attempt, from when the limits allow it and nothing holds the model back.

        Raises:
            Exception: what `end_waits` was called with while this waited.
        """
        turn = Turn(limits, tokens, asyncio.get_running_loop().create_future())
        self._queue.append(turn)
        self._go_on()
        try:
            await self.wait(turn.future)
        except BaseException:
            if turn.sent_at:  # the turn came together with the cancellation: pass it on
                self._sent.remove(turn)
                self._leave()
            else:
                self._go_on()
            raise
        try:
            yield turn
        finally:
            self._leave()

    async def sleep(self, seconds: float) -> None:
        """Wait `seconds`, unless `end_waits` ends it with an error."""
        loop = asyncio.get_running_loop()
        over = loop.create_future()
        timer = loop.call_later(seconds, _finish, over)
        try:
            await self.wait(over)
        finally:
            timer.cancel()

    async def wait(self, future: "asyncio.Future[None]") -> None:
        """Wait for `future`, unless `end_waits` ends it with an error."""
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)

    def hold(self, seconds: float) -> None:
        """Let no attempt begin for `seconds`: the service asked for it. Then come back gently.

        The requests that it took in the last minute show the pace that it stands, so the next ones come
        one by one, that far apart; `accepted` lets them come closer again. Refusals of requests that were
        under way together are one.
        """
        now = _now()
        if now >= self._held_until:
            recent = [turn.sent_at for turn in self._sent if turn.sent_at > now - MINUTE]
            pace = (now - recent[0] + seconds) / len(recent) if recent else seconds
            wider = min(self._gap * _SLOWER, pace * _MOST_OVER_PACE, MINUTE / _LEAST_A_MINUTE)
            self._gap = max(wider, min(pace, seconds))
            self._faster = _FASTER_BY_FEW if len(recent) < _FEW else _FASTER
        self._held_until = max(self._held_until, now + seconds)

    def accepted(self) -> None:
        """The service took a request: after a refusal, the next may come a little sooner."""
        self._gap *= self._faster
        if self._gap < _NO_GAP:
            self._gap = 0.0

    def departed(self, turn: Turn) -> None:
        """The turn's request is out only now: it was built meanwhile."""
        turn.sent_at = self._last = max(self._last, _now())

    def correct(self, turn: Turn, tokens: int) -> None:
        """The turn's request took so many tokens."""
        turn.tokens = tokens
        self._go_on()

    def end_waits(self, error: Exception) -> None:
        """End all that wait here, for a place or a retry, with `error`; later comers are not affected."""
        for future in list(self._waiting):
            if not future.done():
                twin = copy.copy(error)
                twin.add_note(
                    "This call was waiting, and was not sent: the service refused another of this model."
                )
                future.set_exception(twin)

    def _leave(self) -> None:
        self._taken -= 1
        self._go_on()

    def _go_on(self) -> None:
        """Let go all that may; where only time is in the way, come back then."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue:
            turn = self._queue[0]
            if not turn.future.done():
                if self._taken >= turn.limits.max_concurrency:
                    return
                now = _now()
                seconds = self._delay(turn, now)
                if seconds > 0:
                    self._timer = asyncio.get_running_loop().call_later(seconds, self._go_on)
                    return
                turn.sent_at = self._last = now
                self._sent.append(turn)
                self._taken += 1
                turn.future.set_result(None)
            self._queue.popleft()

    def _delay(self, turn: Turn, now: float) -> float:
        """Seconds until the turn may be sent, as far as can be told now."""
        delays = [self._held_until - now]
        if self._gap:
            delays.append(self._last + self._gap - now)
        limits = turn.limits
        if limits.requests_per_minute is not None:
            # Less than one a minute is one in several, and half a request is none.
            most = max(1, int(limits.requests_per_minute))
            period = MINUTE * _MARGIN * most / limits.requests_per_minute
            self._kept = max(self._kept, period)
            if len(self._sent) >= most:
                delays.append(self._sent[-most].sent_at + period - now)
        if limits.tokens_per_minute is not None:
            delays.append(self._tokens_delay(turn.tokens, limits.tokens_per_minute, now))
        while self._sent and self._sent[0].sent_at < now - self._kept * _MARGIN:
            self._sent.popleft()
        return max(delays)

    def _tokens_delay(self, asked: int, most: float, now: float) -> float:
        """A request that is larger than the limit by itself goes when nothing else counts."""
        left = most - asked
        period = MINUTE * _MARGIN
        for turn in reversed(self._sent):
            left -= turn.tokens
            if turn.sent_at + period <= now:
                break
            if left < 0 and turn.tokens:
                return turn.sent_at + period - now
        return 0.0


def _finish(over: "asyncio.Future[None]") -> None:
    if not over.done():
        over.set_result(None)


def _now() -> float:
    return asyncio.get_running_loop().time()


bridge.on_fork(_gates.clear)
