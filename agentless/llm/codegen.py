"""A model: the four methods, thin; one class for each provider with behaviour of its own."""

import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from agentless.config import ModelSettings
from agentless.errors import UnsupportedFeatureError
from agentless.llm import (
    exits,  # noqa: F401  # before the first call
    providers,
    quotes,
    tools,
)
from agentless.llm.capabilities import Capabilities
from agentless.llm.ledger import Ledger
from agentless.llm.orders import OVERRIDES, Account, Message, Orders
from agentless.llm.prices import price_list
from agentless.llm.quotes import Quote
from agentless.llm.trajectory import Chunk, Trajectory
from agentless.locks import IMPORTS

if TYPE_CHECKING:
    # What waits and sends takes longer to import than all of this, and comes with the first call.
    from agentless.llm.budget import Budget
    from agentless.llm.sampling import EmitChunk
    from agentless.llm.streams import AsyncStream, Stream

__all__ = ["OVERRIDES", "AnthropicModel", "CodegenModel", "DeepSeekModel", "Message", "OpenAIModel"]


class CodegenModel:
    """One configured model.

    Safe to use from any number of threads and event loops; everything runs on one engine loop of the
    process. The four methods differ only in how the caller waits.

    Attributes:
        key: the model's name in the config.
        settings: its settings, frozen.
        capabilities: what it can do; `print` it.
        dropped_options: the options that were set and that it cannot take.
        ledger: what its calls have used and cost so far.
    """

    def __init__(
        self,
        settings: ModelSettings,
        key: str | None = None,
        *,
        logger: logging.Logger | None = None,
        books: Ledger | None = None,
        budget: "Budget | None" = None,
    ) -> None:
        """Check the settings against what the model can do, and look up its key.

        Args:
            settings: as `load_config` makes them.
            key: the model's name in the config; its own name where there is none.
            logger: where warnings go; the `agentless` logger by default.
            books: a ledger that this model's is a part of.
            budget: what it may cost, together with others.

        Raises:
            CredentialError: a key or an `env:` variable is not set.
            UnsupportedFeatureError: with `drop_params = false`, the model cannot do what was set.
            ConfigError: a setting is out of the model's bounds; or there is a budget, and no price.
        """
        self.key = key or settings.name
        self.settings = settings
        logger = logger or logging.getLogger("agentless")
        self._orders = Orders(settings, self.key, logger)
        self.ledger = Ledger(books, logger=logger)
        prices = price_list(settings, self.capabilities)
        self._account = Account(self.key, prices, self.ledger, budget)
        if budget is not None:
            quotes.check_bounds(self._account, self.capabilities, settings.extra_body)

    @property
    def name(self) -> str:
        """The model's name at its provider."""
        return self.settings.name

    @property
    def capabilities(self) -> Capabilities:
        """What the model can do by its route."""
        return self._orders.base.capabilities

    @property
    def dropped_options(self) -> tuple[providers.Dropped, ...]:
        """The options that were set and are not sent, with the reason and the remedy of each."""
        return self._orders.base.dropped

    def codegen(
        self,
        message: Message,
        num_samples: int | None = None,
        prompt_cache: bool | None = None,
        **overrides: Any,
    ) -> list[Trajectory]:
        """Generate samples, and block until all are there.

        Args:
            message: a user's text, or a conversation as a list of chat messages.
            num_samples: how many; `None` means the config's `batch_size`.
            prompt_cache: whether the provider should cache the prompt; `None` means the config's.
            **overrides: sampling settings for this call alone (see `OVERRIDES`); `None` means the config's.

        Returns:
            Exactly `num_samples` trajectories.

        Raises:
            TypeError, ValueError: the arguments are wrong; nothing was sent.
            SamplesIncompleteError: some samples failed for good; the error holds the finished ones.
            litellm's exceptions, DeadlineExceededError, EmptyReplyError, StreamInterruptedError: none
                arrived; see `agentless.errors`.
        """
        with IMPORTS:
            from agentless.llm.bridge import run

        return run(self._prepare(message, num_samples, prompt_cache, overrides)(None))

    async def codegen_async(
        self,
        message: Message,
        num_samples: int | None = None,
        prompt_cache: bool | None = None,
        **overrides: Any,
    ) -> list[Trajectory]:
        """`codegen`, awaited; cancelling the task cancels the requests."""
        with IMPORTS:
            from agentless.llm.bridge import run_async

        return await run_async(self._prepare(message, num_samples, prompt_cache, overrides)(None))

    def codegen_stream(
        self,
        message: Message,
        num_samples: int | None = None,
        prompt_cache: bool | None = None,
        **overrides: Any,
    ) -> "Stream[Chunk]":
        """Generate samples and yield their pieces as they come; the request is sent at the first `next`.

        Pieces of several samples interleave (`chunk["index"]`). A sample's last chunk has no text, but its
        usage, finish reason and tool calls. Leaving the loop early stops the request at the provider.

        Raises:
            As `codegen`; and StreamInterruptedError where the stream breaks after its first chunk, with
            the text so far.
        """
        with IMPORTS:
            from agentless.llm.streams import Stream

        return Stream(self._prepare(message, num_samples, prompt_cache, overrides))

    def codegen_stream_async(
        self,
        message: Message,
        num_samples: int | None = None,
        prompt_cache: bool | None = None,
        **overrides: Any,
    ) -> "AsyncStream[Chunk]":
        """`codegen_stream` for `async for`."""
        with IMPORTS:
            from agentless.llm.streams import AsyncStream

        return AsyncStream(self._prepare(message, num_samples, prompt_cache, overrides))

    def codegen_w_tool(
        self,
        message: Message,
        num_samples: int | None = None,
        prompt_cache: bool = True,
        *,
        answer: tools.Answer = "Done.",
        nudge: str = tools.NUDGE,
        rounds: int = tools.MOST_ROUNDS,
        **overrides: Any,
    ) -> list[tools.ToolTrajectory]:
        """Let the model call its tools, round by round, until it calls none or has had all its rounds.

        Args:
            message: as `codegen` takes it.
            num_samples: how many conversations; `None` means the config's `batch_size`.
            prompt_cache: whether the provider should cache the conversation as it grows, where it can.
            answer: what each call is told: a text, or a function of the call that returns one. It runs in
                a thread; a `ValueError` of its is told to the model.
            nudge: what is said, once, if the first reply calls no tool.
            rounds: how many replies a conversation has at most.
            **overrides: sampling settings for this call alone (see `OVERRIDES`), `tools` among them.

        Returns:
            Exactly `num_samples` conversations, each as turns of text and tool-use blocks.

        Raises:
            As `codegen`; UnsupportedFeatureError: the model cannot call tools; nothing was sent.
        """
        manner = tools.Manner(answer, nudge, rounds)
        with IMPORTS:
            from agentless.llm.bridge import run

        return run(self._converse(message, num_samples, prompt_cache, manner, overrides))

    async def codegen_w_tool_async(
        self,
        message: Message,
        num_samples: int | None = None,
        prompt_cache: bool = True,
        *,
        answer: tools.Answer = "Done.",
        nudge: str = tools.NUDGE,
        rounds: int = tools.MOST_ROUNDS,
        **overrides: Any,
    ) -> list[tools.ToolTrajectory]:
        """`codegen_w_tool`, awaited; cancelling the task ends the conversations."""
        manner = tools.Manner(answer, nudge, rounds)
        with IMPORTS:
            from agentless.llm.bridge import run_async

        return await run_async(self._converse(message, num_samples, prompt_cache, manner, overrides))

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        settings = self.settings
        return f"{type(self).__name__}(key={self.key!r}, name={self.name!r}, provider={settings.provider!r})"

    def quote(
        self,
        message: Message,
        num_samples: int | None = None,
        prompt_cache: bool | None = None,
        **overrides: Any,
    ) -> Quote:
        """What `codegen` with these arguments would use and cost; nothing is sent.

        Raises:
            TypeError, ValueError: as `codegen`.
        """
        order, n = self._orders.take(self._account, message, num_samples, prompt_cache, overrides)
        return quotes.quote(order, n)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._account.budget is not None:
            raise TypeError(
                f"{self.key} has a budget, which another process cannot share: give that process a factory "
                "of its own, with its part of max_cost"
            )
        # Keys do not travel: `env:` references do, and are looked up again where the pickle is read.
        return type(self), (self.settings, self.key)

    def _prepare(
        self,
        message: Message,
        num_samples: int | None,
        prompt_cache: bool | None,
        overrides: Mapping[str, Any],
    ) -> "Callable[[EmitChunk | None], Any]":
        """Check the arguments now, in the caller's thread; what is returned does the work."""
        order, n = self._orders.take(self._account, message, num_samples, prompt_cache, overrides)
        with IMPORTS:
            from agentless.llm.sampling import sample

        return lambda emit: sample(order, n, emit)

    def _converse(
        self,
        message: Message,
        num_samples: int | None,
        prompt_cache: bool,
        manner: tools.Manner,
        overrides: Mapping[str, Any],
    ) -> Coroutine[Any, Any, list[tools.ToolTrajectory]]:
        """Check the arguments now, in the caller's thread; what is returned does the work."""
        variant = self._orders.variant(overrides)
        settings, capabilities = variant.settings, variant.capabilities
        if not settings.tools:
            raise ValueError(f"{self.key} has no tools to call; set tools, in the config or as tools=")
        if not capabilities.supports_tools:
            raise UnsupportedFeatureError(
                f"{self.key}: {settings.name} is not known to call tools; if it does, say so in the config: "
                "capabilities = { supports_tools = true }",
                model=settings.name,
                option="tools",
            )
        caches = prompt_cache and capabilities.supports_prompt_cache
        later = dict(overrides)
        if settings.reasoning_effort is not None and capabilities.effort_style == "budget":
            # Claude's thinking has to be given back, signed, with the calls it led to, or be off.
            # Signatures do not come through replies.py, so only the first turn thinks.
            later["reasoning_effort"] = "none"
        begin = self._prepare(message, num_samples, caches, overrides)
        return tools.converse(
            lambda: begin(None),
            lambda messages: self._prepare(messages, 1, caches, later)(None),
            message,
            manner,
        )


class OpenAIModel(CodegenModel):
    """A model of OpenAI's, or of a server that speaks its format."""


class AnthropicModel(CodegenModel):
    """Claude, at Anthropic."""


class DeepSeekModel(CodegenModel):
    """A model of DeepSeek's."""


_CLASSES: Mapping[str, type[CodegenModel]] = {
    "openai": OpenAIModel,
    "anthropic": AnthropicModel,
    "deepseek": DeepSeekModel,
}


def make_codegen_model(
    settings: ModelSettings,
    key: str,
    logger: logging.Logger | None = None,
    *,
    books: Ledger | None = None,
    budget: "Budget | None" = None,
) -> CodegenModel:
    """The model for these settings, of its provider's class."""
    kind = _CLASSES.get(settings.provider.lower(), CodegenModel)
    return kind(settings, key, logger=logger, books=books, budget=budget)
