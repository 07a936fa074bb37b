"""What surrounds one attempt: money set aside, a turn at the gate, and the books afterwards."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from agentless.llm.ledger import Entry
from agentless.llm.limits import Gate, Limits
from agentless.llm.orders import Account
from agentless.llm.replies import Bill, Tokens


@dataclass(frozen=True, slots=True)
class Permit:
    """One attempt that may be sent."""

    departed: Callable[[], None]
    """To be called when its request is out."""
    settle: Callable[[Bill], None]
    """To be called with its bill at its end."""


class Turns:
    """One request's attempts: `async with turns() as permit` around each."""

    def __init__(self, account: Account, gate: Gate, limits: Limits, *, most: float, tokens: int) -> None:
        """Say what the request may cost.

        Args:
            account: Who pays.
            gate: Of the service and model.
            limits: The request's own.
            most: What an attempt can cost, in USD.
            tokens: What it will count for, in tokens a minute, as far as can be told.
        """
        self._account = account
        self._gate = gate
        self._limits = limits
        self._most = most
        self._tokens = tokens
        self._requests = 1

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Permit]:
        """From when the attempt may be sent.

        Raises:
            BudgetExceededError: It could cost more than is left.
            Exception: What the gate's waits were ended with.
        """
        account = self._account
        async with AsyncExitStack() as stack:
            reservation = None
            if account.budget is not None:
                # Before the place: who waits for money does not keep others from sending.
                reservation = await stack.enter_async_context(
                    account.budget.reserve(self._most, self._gate.wait)
                )
                reservation.bill = 0.0
            turn = await stack.enter_async_context(self._gate.place(self._limits, self._tokens))
            if reservation is not None:
                reservation.bill = None

            def settle(bill: Bill) -> None:
                cost = account.cost(bill.tokens)
                account.ledger.record(account.model, self._entry(bill, cost))
                self._requests = 0
                if bill.is_known:
                    self._gate.correct(turn, bill.tokens.prompt + bill.tokens.completion)
                if reservation is not None and cost is not None:
                    reservation.bill = cost if bill.is_known else max(cost, self._most)

            yield Permit(partial(self._gate.departed, turn), settle)

    def _entry(self, bill: Bill, cost: float | None) -> Entry:
        tokens = bill.tokens
        return Entry(
            requests=self._requests,
            attempts=1,
            unknown=0 if bill.is_known else 1,
            prompt_tokens=tokens.prompt,
            completion_tokens=tokens.completion,
            cache_creation_token=tokens.cache_written,
            cache_read_input_tokens=tokens.cache_read,
            reasoning_tokens=tokens.reasoning,
            cost=cost or 0.0,
            unpriced=1 if cost is None and tokens != Tokens() else 0,
        )
