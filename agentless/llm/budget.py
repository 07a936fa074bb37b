"""A sum that is never overshot: each attempt's worst case is set aside before it is sent.

Afterwards the real bill takes its place. An attempt whose bill nobody told (a time-out, a broken stream, a
cancelled call) stays at its worst case, since the service may charge for it. Where the money is only set
aside by others, a request waits until they have settled; it is refused only where it could overshoot even
if all of them came free. First come, first served.
"""

import asyncio
import weakref
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from agentless.errors import BudgetExceededError
from agentless.llm import bridge

Wait = Callable[["asyncio.Future[None]"], Awaitable[None]]

_budgets: "weakref.WeakSet[Budget]" = weakref.WeakSet()


@dataclass(slots=True, eq=False)
class Reservation:
    """Money set aside for one attempt; it is spent in full unless it is settled."""

    asked: float
    future: "asyncio.Future[None]"
    bill: float | None = None
    granted: bool = False

    def settle(self, cost: float) -> None:
        """The attempt has cost this much."""
        self.bill = cost


class Budget:
    """What a factory's models may cost together, in USD, in this process.

    Attributes:
        max_cost: The most.
        spent: The bills so far, unknown ones at their worst case.
        reserved: Set aside for attempts under way.
    """

    def __init__(self, max_cost: float) -> None:
        self.max_cost = max_cost
        self.spent = 0.0
        self.reserved = 0.0
        self._queue: deque[Reservation] = deque()
        self._open: set[Reservation] = set()
        _budgets.add(self)

    @asynccontextmanager
    async def reserve(self, asked: float, wait: Wait) -> AsyncIterator[Reservation]:
        """Set `asked` aside, from when there is so much (on the engine's loop).

        Args:
            asked: The worst case, in USD.
            wait: Awaits a future, unless something ends the wait with an error.

        Raises:
            BudgetExceededError: There is not so much left, whatever the others will have cost.
        """
        reservation = Reservation(asked, asyncio.get_running_loop().create_future())
        self._queue.append(reservation)
        self._go_on()
        try:
            await wait(reservation.future)
            yield reservation
        finally:
            if reservation.granted:
                self._open.discard(reservation)
                self.reserved = sum(each.asked for each in self._open)  # anew: no residue of roundings
                self.spent += asked if reservation.bill is None else reservation.bill
            self._go_on()

    def forget_parent(self) -> None:
        """In a forked child: what the parent has under way counts as spent, and nobody waits."""
        self.spent += self.reserved
        self.reserved = 0.0
        self._open.clear()
        self._queue.clear()

    def _go_on(self) -> None:
        while self._queue:
            first = self._queue[0]
            if not first.future.done():
                if self.spent + first.asked > self.max_cost:
                    first.future.set_exception(self._refusal(first.asked))
                    first.future.exception()  # or asyncio complains where the waiter has been cancelled
                elif self.spent + self.reserved + first.asked > self.max_cost:
                    return
                else:
                    self._open.add(first)
                    self.reserved += first.asked
                    first.granted = True
                    first.future.set_result(None)
            self._queue.popleft()

    def _refusal(self, asked: float) -> BudgetExceededError:
        return BudgetExceededError(
            f"not sent: it could cost up to ${asked:.6f}, and of max_cost = ${self.max_cost:g} "
            f"${self.spent:.6f} is spent",
            spent=self.spent,
            reserved=self.reserved,
            asked=asked,
        )

    def __repr__(self) -> str:
        return f"Budget(max_cost={self.max_cost}, spent={self.spent}, reserved={self.reserved})"


def _forget_parent() -> None:
    for budget in list(_budgets):
        budget.forget_parent()


bridge.on_fork(_forget_parent)
