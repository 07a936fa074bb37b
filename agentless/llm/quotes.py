"""What a call would use and cost, without sending it."""

from collections.abc import Mapping
from typing import Any, TypedDict

from agentless.errors import ConfigError, Problem
from agentless.llm.capabilities import Capabilities
from agentless.llm.orders import Account, Order, most_completion, plan
from agentless.llm.replies import Tokens


class Quote(TypedDict):
    """An estimate, JSON-ready.

    `prompt_tokens` are counted for one request (see `tokens`), `max_completion_tokens` is the most for all
    samples. The bill is between `cost_low` (the cache serves what it can, replies of no length) and
    `cost_high` (it serves nothing, replies as long as they may be), in USD, without retries; `None` where no
    price is known. `fits` is false where the prompt is longer than `max_input_tokens`: it would not be sent.
    """

    samples: int
    requests: int
    prompt_tokens: int
    max_completion_tokens: int | None
    cost_low: float | None
    cost_high: float | None
    max_input_tokens: int | None
    fits: bool


def quote(order: Order, n: int) -> Quote:
    """The estimate for `n` samples; counts in the caller's thread."""
    requests = plan(range(n), order.native_n_in_streams if order.settings.stream else order.native_n)
    tokens, limit = order.prompt.tokens, order.max_input_tokens
    one = most_completion(order.build(1, order.settings.stream), order.max_output_tokens)
    account, prices = order.account, order.account.prices
    low = high = None
    if prices is None:
        account.ledger.warn_of_unpriced([account.model])
    elif one is not None:
        high = sum(prices.worst(tokens, one * len(each), writes=order.writes_cache) for each in requests)
        rates = prices.rates(tokens)
        later = Tokens(tokens, cache_read=tokens) if order.warm_first else Tokens(tokens)
        low = rates.cost(Tokens(tokens)) + (len(requests) - 1) * rates.cost(later)
    return Quote(
        samples=n,
        requests=len(requests),
        prompt_tokens=tokens,
        max_completion_tokens=None if one is None else one * n,
        cost_low=low,
        cost_high=high,
        max_input_tokens=limit,
        fits=limit is None or tokens <= limit,
    )


def check_bounds(account: Account, capabilities: Capabilities, extra: Mapping[str, Any]) -> None:
    """See that a request's cost can be bounded, whatever `extra` (`extra_body`) says: a budget needs that.

    Raises:
        ConfigError: It cannot, and what to set.
    """
    if account.prices is None:
        text = "its price is not known, and there is a budget (max_cost); allowed: a price in USD per token"
        keys = ["input_cost_per_token", "output_cost_per_token"]
    elif capabilities.max_output_tokens is None and (
        capabilities.token_limit_name is None
        or most_completion({"max_tokens": 1, "extra_body": extra}, None) is None
    ):
        text = "the length of its replies cannot be limited, and there is a budget; allowed: the longest"
        keys = ["capabilities.max_output_tokens"]
    else:
        return
    raise ConfigError.of(Problem(f"models.{account.model}.{key}", text) for key in keys)
