"""The pipeline's `make_model` and its decoders, on our models.

What the Agentless pipeline (OpenAutoCoder/Agentless) imports from its own `agentless.util.model`. A model is
looked up by name in a config first (see `pipeline_settings.py`), so that the few names which the pipeline's
`--model` allows can stand for any model.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from agentless.llm.codegen import CodegenModel, Message, make_codegen_model
from agentless.llm.trajectory import Usage
from agentless.locks import ForkLock
from agentless.util.edit_tool import EDIT_TOOL, EDITED, NUDGE, as_function
from agentless.util.pipeline_settings import find, settle

__all__ = [
    "AnthropicChatDecoder",
    "ChatDecoder",
    "DecoderBase",
    "DeepSeekChatDecoder",
    "GreedySamplesError",
    "OpenAIChatDecoder",
    "make_model",
]


class GreedySamplesError(ValueError, AssertionError):
    """Several samples at temperature 0: our models raise a `ValueError`, the pipeline's own an assertion."""


class DecoderBase(ABC):
    """What the pipeline calls a model; its attributes are the constructor's arguments."""

    def __init__(
        self,
        name: str,
        logger: Any,
        batch_size: int = 1,
        temperature: float = 0.8,
        max_new_tokens: int = 1024,
    ) -> None:
        logger.info("Making the model %s", name)
        self.name = name
        self.logger = logger
        self.batch_size = batch_size
        self.temperature = temperature
        self.max_new_tokens = max_new_tokens

    @abstractmethod
    def codegen(
        self, message: Message, num_samples: int = 1, prompt_cache: bool = False
    ) -> list[dict[str, Any]]:
        """Exactly `num_samples` dicts with at least a `response` and its `usage`."""

    @abstractmethod
    def is_direct_completion(self) -> bool:
        """Claims that prompts are continued, not answered."""

    def __repr__(self) -> str:
        return self.name

    def __str__(self) -> str:
        return self.name


class ChatDecoder(DecoderBase):
    """A decoder on one of our models; subclasses say what the pipeline expects of their backend.

    Nothing is looked up in the environment before the first request: `--mock` needs no key.
    """

    backend: ClassVar[str]
    """The provider, unless the config says otherwise."""

    system_message: ClassVar[str | None] = "You are a helpful assistant."

    other_key_variables: ClassVar[tuple[str, ...]] = ()
    """Environment variables that may hold the key, after the provider's own."""

    counts_cache_apart: ClassVar[bool] = False
    """Claims that `prompt_tokens` leaves out what was written to and read from the cache."""

    tools: ClassVar[Sequence[Mapping[str, Any]]] = [EDIT_TOOL]
    """What `codegen_w_tool` offers, in Anthropic's shape."""

    MAX_CODEGEN_ITERATIONS = 10

    def __init__(
        self,
        name: str,
        logger: Any,
        batch_size: int = 1,
        temperature: float = 0.8,
        max_new_tokens: int = 1024,
    ) -> None:
        super().__init__(name, logger, batch_size, temperature, max_new_tokens)
        self._found = find(name, self.backend)
        self._lock = ForkLock()
        self._made: CodegenModel | None = None

    @property
    def model(self) -> CodegenModel:
        """Our model beneath, made at the first use."""
        with self._lock:
            if self._made is None:
                settings = settle(
                    self._found.settings,
                    batch_size=self.batch_size,
                    temperature=self.temperature,
                    max_new_tokens=self.max_new_tokens,
                    system_message=self.system_message,
                    key_variables=self.other_key_variables,
                    key=self.name,
                )
                source = self._found.source
                self._made = make_codegen_model(
                    settings,
                    self.name,
                    self.logger,
                    books=None if source is None else source.ledger,
                    budget=None if source is None else source.budget,
                )
            return self._made

    def codegen(
        self, message: Message, num_samples: int = 1, prompt_cache: bool = False
    ) -> list[dict[str, Any]]:
        """Sample replies, and block until all are there.

        Returns:
            Exactly `num_samples` dicts of the caller's own, ready for JSON: a `Trajectory`'s fields, its
            `usage` in the pipeline's terms, and `cost` in USD (`None`: unknown).

        Raises:
            As `CodegenModel.codegen`; a failure is never an empty reply.
        """
        if not self._is_asked(num_samples):
            return []
        model = self.model
        caches = prompt_cache and model.capabilities.supports_prompt_cache
        self.logger.info("Asking %r for %d samples", model, num_samples)
        try:
            replies = model.codegen(message, num_samples, caches)
        except Exception as error:
            self.logger.error("%s: %s", type(error).__name__, error)  # noqa: TRY400  # the caller gets it as well
            raise
        for reply in replies:
            if reply["finish_reason"] == "length" and not reply["response"]:
                self.logger.warning(
                    "%s: an empty reply, because reasoning took all of max_tokens = %d; set a larger "
                    "max_new_tokens for this model in the config",
                    self.name,
                    model.settings.max_new_tokens,
                )
        return [self._in_pipeline_terms(reply) for reply in replies]

    def codegen_w_tool(
        self,
        message: Message,
        num_samples: int = 1,
        prompt_cache: bool = True,  # noqa: ARG002  # a conversation always asks more than once
    ) -> list[dict[str, Any]]:
        """Sample conversations in which the model edits files with `tools`, the prompt cached throughout.

        Returns:
            Exactly `num_samples` dicts, as `codegen`'s, but `response` is a list of turns, each a list of
            blocks as in Anthropic's messages, whatever the provider.

        Raises:
            As `CodegenModel.codegen_w_tool`.
        """
        if not self._is_asked(num_samples):
            return []
        model = self.model
        self.logger.info("Asking %r for %d conversations", model, num_samples)
        try:
            talks = model.codegen_w_tool(
                message,
                num_samples,
                answer=EDITED,
                nudge=NUDGE,
                rounds=self.MAX_CODEGEN_ITERATIONS,
                tools=[as_function(tool) for tool in self.tools],
            )
        except Exception as error:
            self.logger.error("%s: %s", type(error).__name__, error)  # noqa: TRY400  # as above
            raise
        for talk in talks:
            self.logger.info(json.dumps(talk["response"], indent=2))
        return [self._in_pipeline_terms(talk) for talk in talks]

    def is_direct_completion(self) -> bool:
        """Claims that prompts are continued, not answered: these are chat models."""
        return False

    def _is_asked(self, num_samples: int) -> bool:
        if self.temperature == 0 and num_samples > 1:
            raise GreedySamplesError(
                f"{self.name}: {num_samples} samples at temperature 0 would be the same; set a temperature"
            )
        return num_samples != 0

    def _in_pipeline_terms(self, reply: Mapping[str, Any]) -> dict[str, Any]:
        usage: Usage = reply["usage"]
        counts = {"completion_tokens": usage["completion_tokens"], "prompt_tokens": usage["prompt_tokens"]}
        if self.counts_cache_apart:
            written, read = usage["cache_creation_token"], usage["cache_read_input_tokens"]
            counts["prompt_tokens"] -= written + read
            counts |= {"cache_creation_token": written, "cache_read_input_tokens": read}
        return {**reply, "usage": counts, "cost": usage["cost"]}


class OpenAIChatDecoder(ChatDecoder):
    """`--backend openai`; `prompt_tokens` is the service's own count, with what it read from its cache."""

    backend = "openai"


class AnthropicChatDecoder(ChatDecoder):
    """`--backend anthropic`: no system message, and cached tokens are counted apart."""

    backend = "anthropic"
    system_message = None
    counts_cache_apart = True


class DeepSeekChatDecoder(ChatDecoder):
    """`--backend deepseek`; the key may be in `OPENAI_API_KEY`, as the pipeline's README has it."""

    backend = "deepseek"
    other_key_variables = ("OPENAI_API_KEY",)


_DECODERS: Mapping[str, type[ChatDecoder]] = {
    kind.backend: kind for kind in (OpenAIChatDecoder, AnthropicChatDecoder, DeepSeekChatDecoder)
}


def make_model(
    model: str,
    backend: str,
    logger: Any,
    batch_size: int = 1,
    max_tokens: int = 1024,
    temperature: float = 0.0,
) -> ChatDecoder:
    """The pipeline's way to a model.

    Args:
        model: a `[models.<name>]` table of the config, or else the model's name at the backend.
        backend: `openai`, `anthropic` or `deepseek`; of a configured model it says what its `usage` and
            its system message are like.
        logger: where everything is logged: anything with `info`, `warning` and `error`.
        batch_size: the most samples of one request, where the provider has native `n`; 0 counts as 1.
        max_tokens: in a reply.
        temperature: 0 for the one greedy reply.

    Raises:
        NotImplementedError: there is no such backend.
        ConfigError: the config cannot be read.
    """
    kind = _DECODERS.get(backend)
    if kind is None:
        raise NotImplementedError(f"no backend {backend!r}; there are: {', '.join(_DECODERS)}")
    return kind(model, logger, batch_size, temperature, max_tokens)
