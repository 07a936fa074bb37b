"""From a caller's arguments to an order: checked at once, in the caller's thread; nothing is sent here."""

import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from agentless.config import Credentials, ModelSettings
from agentless.llm import providers, shortcuts
from agentless.llm.accounts import Account
from agentless.llm.capabilities import Capabilities
from agentless.llm.messages import prepare
from agentless.llm.options import settle
from agentless.llm.sampling import Order
from agentless.llm.tokens import Prompt

Message = str | list[dict[str, Any]]
"""A user's text, or a whole conversation as chat messages (`role`, `content`, ...)."""

OVERRIDES = frozenset(
    {"temperature", "top_p", "max_new_tokens", "stop", "seed", "tools", "tool_choice", "reasoning_effort"}
)
"""The settings that a single call may set differently."""

_MOST_VARIANTS = 64  # of overrides that one model remembers


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
        self._is_embedded = providers.provider_of(settings).embedded
        self._lock = threading.Lock()
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

        prompt = Prompt(settings.name, conversation.messages, settings.tools, settings.response_format)
        order = Order(
            settings=settings,
            build=build,
            account=account,
            prompt=prompt,
            max_input_tokens=capabilities.max_input_tokens,
            max_output_tokens=capabilities.max_output_tokens,
            service=(settings.provider, settings.name, credentials.base_url, credentials.api_key),
            native_n=settings.batch_size if capabilities.native_n else 1,
            native_n_in_streams=settings.batch_size if _streams_native_n(capabilities) else 1,
            secrets=credentials.secrets(),
            allow_empty=conversation.messages[-1]["role"] == "tool",
            warm_first=caches and capabilities.supports_prompt_cache and prompt.may_be_cached,
            writes_cache=caches or not capabilities.cache_breakpoints,
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


def _streams_native_n(capabilities: Capabilities) -> bool:
    # litellm's wrapper keeps the first choice's finish reason only.
    return capabilities.streams_native_n and shortcuts.taken


def _sample_count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"num_samples must be an integer, not {value!r}")
    if value < 1:
        raise ValueError(f"num_samples must be 1 or more, not {value}")
    return value
