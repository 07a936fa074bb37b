"""A model: the four methods, thin; one class for each provider with behaviour of its own."""

import logging
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any

from agentless.config import Credentials, ModelSettings
from agentless.errors import UnsupportedFeatureError
from agentless.llm import bridge, providers, quotes, sampling, tools
from agentless.llm.accounts import Account
from agentless.llm.bridge import AsyncStream, Stream
from agentless.llm.budget import Budget
from agentless.llm.capabilities import Capabilities
from agentless.llm.ledger import Ledger
from agentless.llm.messages import prepare
from agentless.llm.prices import price_list
from agentless.llm.quotes import Quote
from agentless.llm.tokens import Prompt
from agentless.llm.trajectory import Chunk, Trajectory

Message = str | list[dict[str, Any]]
"""A user's text, or a whole conversation as chat messages (`role`, `content`, ...)."""

OVERRIDES = frozenset(
    {"temperature", "top_p", "max_new_tokens", "stop", "seed", "tools", "tool_choice", "reasoning_effort"}
)
"""The settings that a single call may set differently."""

_MOST_VARIANTS = 64  # of overrides that one model object remembers


@dataclass(frozen=True)
class _Variant:
    """Settings with all that follows from them, worked out once."""

    settings: ModelSettings
    capabilities: Capabilities
    dropped: tuple[providers.Dropped, ...]


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
        budget: Budget | None = None,
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
        self._logger = logger or logging.getLogger("agentless")
        self._credentials: Credentials = providers.resolve_credentials(settings, model=self.key)
        self._is_embedded = providers.provider_of(settings).embedded
        self._lock = threading.Lock()
        self._variants: dict[Any, _Variant] = {}
        self._warned: set[str] = set()
        self._base = self._work_out(settings)
        self.ledger = Ledger(books, logger=self._logger)
        prices = price_list(settings, self._base.capabilities)
        self._account = Account(self.key, prices, self.ledger, budget)
        if budget is not None:
            quotes.check_bounds(self._account, self._base.capabilities)

    @property
    def name(self) -> str:
        """The model's name at its provider."""
        return self.settings.name

    @property
    def capabilities(self) -> Capabilities:
        """What the model can do by its route."""
        return self._base.capabilities

    @property
    def dropped_options(self) -> tuple[providers.Dropped, ...]:
        """The options that were set and are not sent, with the reason and the remedy of each."""
        return self._base.dropped

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
        return bridge.run(self._prepare(message, num_samples, prompt_cache, overrides)(None))

    async def codegen_async(
        self,
        message: Message,
        num_samples: int | None = None,
        prompt_cache: bool | None = None,
        **overrides: Any,
    ) -> list[Trajectory]:
        """`codegen`, awaited; cancelling the task cancels the requests."""
        return await bridge.run_async(self._prepare(message, num_samples, prompt_cache, overrides)(None))

    def codegen_stream(
        self,
        message: Message,
        num_samples: int | None = None,
        prompt_cache: bool | None = None,
        **overrides: Any,
    ) -> Stream[Chunk]:
        """Generate samples and yield their pieces as they come; the request is sent at the first `next`.

        Pieces of several samples interleave (`chunk["index"]`). A sample's last chunk has no text, but its
        usage, finish reason and tool calls. Leaving the loop early stops the request at the provider.

        Raises:
            As `codegen`; and StreamInterruptedError where the stream breaks after its first chunk, with
            the text so far.
        """
        return Stream(self._prepare(message, num_samples, prompt_cache, overrides))

    def codegen_stream_async(
        self,
        message: Message,
        num_samples: int | None = None,
        prompt_cache: bool | None = None,
        **overrides: Any,
    ) -> AsyncStream[Chunk]:
        """`codegen_stream` for `async for`."""
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
        return bridge.run(self._converse(message, num_samples, prompt_cache, manner, overrides))

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
        return await bridge.run_async(self._converse(message, num_samples, prompt_cache, manner, overrides))

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
        order, n = self._order(message, num_samples, prompt_cache, overrides)
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
    ) -> "Callable[[sampling.EmitChunk | None], Any]":
        """Check the arguments now, in the caller's thread; what is returned does the work."""
        order, n = self._order(message, num_samples, prompt_cache, overrides)
        return lambda emit: sampling.sample(order, n, emit)

    def _order(
        self,
        message: Message,
        num_samples: int | None,
        prompt_cache: bool | None,
        overrides: Mapping[str, Any],
    ) -> tuple[sampling.Order, int]:
        variant = self._variant(overrides)
        settings, capabilities = variant.settings, variant.capabilities
        n = _sample_count(settings.batch_size if num_samples is None else num_samples)
        if n > 1 and capabilities.supports_temperature and settings.temperature == 0.0:
            raise ValueError(
                f"{self.key}: {n} samples at temperature 0 would be {n} times the same; "
                "set a temperature above 0, in the config or as temperature= of this call"
            )
        if prompt_cache is not None and not isinstance(prompt_cache, bool):
            raise TypeError(f"prompt_cache must be true, false or None, not {prompt_cache!r}")
        caches = settings.prompt_cache if prompt_cache is None else prompt_cache
        conversation = prepare(
            message,
            capabilities=capabilities,
            system_message=settings.system_message,
            modify_params=settings.modify_params,
            model=settings.name,
        )
        self._warn_once(conversation.warnings)
        credentials = self._reach()

        def build(size: int, streamed: bool) -> Mapping[str, Any]:
            return providers.build_request(
                settings,
                capabilities,
                conversation.messages,
                credentials=credentials,
                n=size,
                stream=streamed,
                prompt_cache=caches,
            )

        prompt = Prompt(settings.name, conversation.messages, settings.tools, settings.response_format)
        order = sampling.Order(
            settings=settings,
            build=build,
            account=self._account,
            prompt=prompt,
            max_input_tokens=capabilities.max_input_tokens,
            max_output_tokens=capabilities.max_output_tokens,
            service=(settings.provider, settings.name, credentials.base_url, credentials.api_key),
            native_n=settings.batch_size if capabilities.native_n else 1,
            native_n_in_streams=settings.batch_size if capabilities.streams_native_n else 1,
            secrets=credentials.secrets(),
            allow_empty=conversation.messages[-1]["role"] == "tool",
            warm_first=caches and capabilities.supports_prompt_cache and prompt.may_be_cached,
            writes_cache=caches or not capabilities.cache_breakpoints,
        )
        return order, n

    def _converse(
        self,
        message: Message,
        num_samples: int | None,
        prompt_cache: bool,
        manner: tools.Manner,
        overrides: Mapping[str, Any],
    ) -> Coroutine[Any, Any, list[tools.ToolTrajectory]]:
        """Check the arguments now, in the caller's thread; what is returned does the work."""
        variant = self._variant(overrides)
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

    def _reach(self) -> Credentials:
        """Key and address; the embedded provider is started when it is first needed."""
        if not self._is_embedded or self._credentials.base_url is not None:
            return self._credentials
        from agentless.loopback import shared

        url = providers.normalised_url(shared().openai_url, providers.provider_of(self.settings))
        return replace(self._credentials, base_url=url)

    def _variant(self, overrides: Mapping[str, Any]) -> _Variant:
        given = {name: value for name, value in overrides.items() if value is not None}
        if not given:
            return self._base
        for name in given:
            if name not in OVERRIDES:
                raise TypeError(
                    f"{name!r} cannot be set for one call; these can: {', '.join(sorted(OVERRIDES))}"
                )
        settings = self.settings.with_overrides(**given)
        with self._lock:
            variant = self._variants.get(settings.key())
        if variant is None:
            variant = self._work_out(settings)
            with self._lock:
                if len(self._variants) >= _MOST_VARIANTS:
                    self._variants.clear()
                self._variants[settings.key()] = variant
        return variant

    def _work_out(self, settings: ModelSettings) -> _Variant:
        capabilities = providers.capabilities_of(settings, key=f"models.{self.key}.capabilities")
        dropped = providers.dropped_options(settings, capabilities)
        self._warn_once(str(option) for option in dropped)
        return _Variant(settings, capabilities, dropped)

    def _warn_once(self, texts: Any) -> None:
        for text in texts:
            with self._lock:
                new = text not in self._warned
                self._warned.add(text)
            if new:
                self._logger.warning("%s: %s", self.key, text)


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
    budget: Budget | None = None,
) -> CodegenModel:
    """The model for these settings, of its provider's class."""
    kind = _CLASSES.get(settings.provider.lower(), CodegenModel)
    return kind(settings, key, logger=logger, books=books, budget=budget)


def _sample_count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"num_samples must be an integer, not {value!r}")
    if value < 1:
        raise ValueError(f"num_samples must be 1 or more, not {value}")
    return value
