"""What tokens cost, from the registry's prices or the config's; pure."""

from agentless.llm.capabilities import Capabilities
from agentless.llm.replies import Tokens


def price(capabilities: Capabilities, tokens: Tokens) -> float | None:
    """The cost in USD; `None` where a price that is needed is not known.

    The arithmetic of litellm's `completion_cost` (1.105.3): cached tokens are part of the prompt, and are
    charged at their own prices instead of the prompt's.
    """
    parts = (
        (tokens.prompt - tokens.cache_written - tokens.cache_read, capabilities.input_cost_per_token),
        (tokens.cache_written, capabilities.cache_creation_cost),
        (tokens.cache_read, capabilities.cache_read_cost),
        (tokens.completion, capabilities.output_cost_per_token),
    )
    if capabilities.input_cost_per_token is None or capabilities.output_cost_per_token is None:
        return None
    if any(count and cost is None for count, cost in parts):
        return None
    return sum(count * cost for count, cost in parts if cost is not None)
