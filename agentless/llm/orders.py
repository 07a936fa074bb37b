"""From a caller's arguments to an order: checked at once, in the caller's thread; nothing is sent here."""

import logging
import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from agentless.config import Credentials, ModelSettings
from agentless.llm import providers, secrets
from agentless.llm.capabilities import Capabilities
from agentless.llm.ledger import Ledger
from agentless.llm.messages import prepare
from agentless.llm.options import settle
from agentless.llm.prices import PriceList
from agentless.llm.replies import Tokens
from agentless.llm.tokens import Prompt
from agentless.locks import ForkLock

if TYPE_CHECKING:
    from agentless.llm.budget import Budget

Message = str | list[dict[str, Any]]
"""A user's text, or a whole conversation as chat messages (`role`, `content`, ...)."""

OVERRIDES = frozenset(
    {"temperature", "top_p", "max_new_tokens", "stop", "seed", "tools", "tool_choice", "reasoning_effort"}
)
"""The settings that a single call may set differently."""

_MOST_VARIANTS = 64  # of overrides that one model remembers
_MOST_SAMPLES = 1_000_000


@dataclass(frozen=True, slots=True)
class Account:
    """Whom a model's attempts are charged to; `model` is its name in the books."""

    model: str
    prices: PriceList | None
    ledger: Ledger
    budget: "Budget | None" = None

    def cost(self, tokens: Tokens) -> float | None:
        """USD; `None` where no price is known."""
        return None if self.prices is None else self.prices.cost(tokens)


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for, and of whom."""

    settings: ModelSettings
    build: Callable[[int, bool], Mapping[str, Any]]
    """(samples, streamed) -> the arguments of a request, as `transport.Plan` takes them."""
    account: Account
    service: Hashable
    """Equal for all that counts against one service's limits for this model."""
    prompt: Prompt
    max_input_tokens: int | None = None
    """The longest prompt, where that is known."""
    max_output_tokens: int | None = None
    """The longest reply, where the request does not say."""
    native_n: int = 1
    """The most samples that one request may ask for ..."""
    native_n_in_streams: int = 1
    """... and one streamed request."""
    secrets: tuple[str, ...] = ()
    allow_empty: bool = False
    warm_first: bool = False
    """Let one request's reply start, and with it the provider's prompt cache, before the others go."""
    writes_cache: bool = True
    """Claims that tokens may be charged as written to the cache."""
    warn: Callable[[str], None] = lambda _: None
    """Takes a warning, which is given once for each text."""
    logger: logging.Logger = field(default_factory=lambda: logging.getLogger("agentless"))


@dataclass(frozen=True)
class Variant:
    """Settings with all that follows from them, worked out once."""

    settings: ModelSettings
    capabilities: Capabilities
    dropped: tuple[providers.Dropped, ...]
    is_greedy: bool
    """Claims that a temperature of 0 is sent: every sample would be the same."""


class Orders:
    """Takes the orders of one model."""

    def __init__(self, settings: ModelSettings, key: str, logger: logging.Logger) -> None:
        """Check the settings against what the model can do, and look up its key; raises as `CodegenModel`."""
        self._key = key
        self._logger = logger
        self._settings = settings
        self._credentials: Credentials = providers.resolve_credentials(settings, model=key)
        secrets.remember(self._credentials.secrets())
        self._is_embedded = providers.provider_of(settings).embedded
        self._lock = ForkLock()
        self._variants: dict[Any, Variant] = {}
        self._warned: set[str] = set()
        self.base = self._work_out(settings)

    def take(
        self,
        account: Account,
        message: Message,
        num_samples: int | None,
        prompt_cache: bool | None,
        overrides: Mapping[str, Any],
    ) -> tuple[Order, int]:
        """The order for these arguments of `codegen`, and how many samples it is for."""
        variant = self.variant(overrides)
        settings, capabilities = variant.settings, variant.capabilities
        n = _sample_count(settings.batch_size if num_samples is None else num_samples)
        if n > 1 and variant.is_greedy:
            raise ValueError(
                f"{self._key}: {n} samples at temperature 0 would be {n} times the same; "
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

        prompt = Prompt(
            settings.name,
            conversation.messages,
            settings.tools,
            settings.response_format,
            settings.extra_body,
        )
        order = Order(
            settings=settings,
            build=build,
            account=account,
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
            warn=lambda text: self._warn_once([text]),
            logger=self._logger,
        )
        return order, n

    def _reach(self) -> Credentials:
        """Key and address; the embedded provider is started when it is first needed."""
        if not self._is_embedded or self._credentials.base_url is not None:
            return self._credentials
        from agentless.loopback import shared

        url = providers.normalised_url(shared().openai_url, providers.provider_of(self._settings))
        return replace(self._credentials, base_url=url)

    def variant(self, overrides: Mapping[str, Any]) -> Variant:
        """The settings with overrides of one call in their place; those last used are remembered."""
        given = {name: value for name, value in overrides.items() if value is not None}
        if not given:
            return self.base
        for name in given:
            if name not in OVERRIDES:
                raise TypeError(
                    f"{name!r} cannot be set for one call; these can: {', '.join(sorted(OVERRIDES))}"
                )
        settings = self._settings.with_overrides(**given)
        with self._lock:
            variant = self._variants.get(settings.key())
        if variant is None:
            variant = self._work_out(settings)
            with self._lock:
                if len(self._variants) >= _MOST_VARIANTS:
                    self._variants.clear()
                self._variants[settings.key()] = variant
        return variant

    def _work_out(self, settings: ModelSettings) -> Variant:
        capabilities = providers.capabilities_of(settings, key=f"models.{self._key}.capabilities")
        dropped = providers.dropped_options(settings, capabilities)
        self._warn_once(str(option) for option in dropped)
        greedy = settle(settings, capabilities).values.get("temperature") == 0.0
        return Variant(settings, capabilities, dropped, greedy)

    def _warn_once(self, texts: Iterable[str]) -> None:
        for text in texts:
            with self._lock:
                new = text not in self._warned
                self._warned.add(text)
            if new:
                self._logger.warning("%s: %s", self._key, text)


def plan(numbers: Iterable[int], most: int) -> list[tuple[int, ...]]:
    """The sample numbers of each request, at most `most` in one."""
    every = tuple(numbers)
    return [every[first : first + most] for first in range(0, len(every), most)]


def most_completion(request: Mapping[str, Any], longest: int | None) -> int | None:
    """The most tokens that a request's replies can have together; `longest` is what the model can say.

    `None`: there is no limit.
    """
    tables = _option_tables(request)
    said = [_number(table[name]) for table in tables for name in _LIMITS if name in table]
    # What is no number above 0 (null, -1, a word) is no limit to some servers.
    limits = [longest if each is None else each for each in said] or [longest]
    counts = [_number(table[name]) or _MOST_CHOICES for table in tables for name in _COUNTS if name in table]
    known = [each for each in limits if each is not None]
    return max(known) * max([1, *counts]) if len(known) == len(limits) else None


def _option_tables(request: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Where a service may find its options: in the request, in the user's additions, in their own tables."""
    tables = [request, request.get("extra_body") or {}]
    inner = [table[name] for table in tables for name in _OPTION_TABLES if name in table]
    return tables + [each for each in inner if isinstance(each, Mapping)]


def _number(value: Any) -> int | None:
    """The number above 0 that a service may read here, in whatever type it is written."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return math.ceil(number) if 0 < number < math.inf else None


_LIMITS = (
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "max_new_tokens",
    "maxOutputTokens",
    "num_predict",
)
_COUNTS = ("n", "best_of", "candidateCount", "candidate_count")
_OPTION_TABLES = ("generationConfig", "generation_config", "options", "parameters", "inferenceConfig")
_MOST_CHOICES = 128  # OpenAI's own limit


def _sample_count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"num_samples must be an integer, not {value!r}")
    if value < 1:
        raise ValueError(f"num_samples must be 1 or more, not {value}")
    if value > _MOST_SAMPLES:
        raise ValueError(f"num_samples must be at most {_MOST_SAMPLES:,}: all of them are kept in memory")
    return value
