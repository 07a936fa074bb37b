"""From a config to models."""

from typing import TYPE_CHECKING, Any

from agentless.config import BudgetSettings, Config
from agentless.credentials import hide_keys
from agentless.errors import UnknownModelError
from agentless.llm.ledger import Ledger
from agentless.locks import IMPORTS, ForkLock
from agentless.logs import configure_logging
from agentless.problems import did_you_mean

if (
    TYPE_CHECKING
):  # what makes the calls takes longer to import than all of this, and comes with the first model
    from agentless.llm.budget import Budget
    from agentless.llm.codegen import CodegenModel


class ModelFactory:
    """Makes the models that a config describes; thread-safe.

    With a `[logging]` table in the config, making a factory sets up the `agentless` logger by it.

    Attributes:
        config: as it was given.
        ledger: what all its models have used and cost so far.
        budget: what they may cost together (`max_cost`), and what of that is spent; `None` without a limit.
    """

    def __init__(self, config: Config, *, max_cost: float | None = None, preload: bool = False) -> None:
        """Set up logging and the books.

        Args:
            config: as `load_config` makes it.
            max_cost: USD, instead of the config's `[budget] max_cost`.
            preload: Import litellm in a thread from the first `create_model` on, and not at the first call.
                Worth it where there is something else to do in those 2 s; the interpreter's end waits for it.

        Raises:
            ConfigError: `max_cost` is not a number above 0.
        """
        self.config = config
        self._preloads = preload
        settings = config.budget
        if max_cost is not None:
            settings = BudgetSettings.of(max_cost)
        self.ledger = Ledger()
        self.budget = None if settings.max_cost is None else _budget(settings.max_cost)
        self._models: dict[Any, CodegenModel] = {}
        self._lock = ForkLock()
        if config.logging is not None:
            configure_logging(config.logging)

    def create_model(self, name: str | None = None, **overrides: Any) -> "CodegenModel":
        """The model `name`, with `overrides` in place of its settings.

        The same name and settings give the same object. Nothing is sent; without `preload`, litellm is not
        imported.

        Args:
            name: a `[models.<name>]` table of the config; `None` means `default_model`.
            **overrides: any setting of a model table, for this use (`temperature=0.8`); `None` leaves the
                config's.

        Raises:
            UnknownModelError: the config has no model of this name.
            ConfigError: an override is unknown or not allowed, or a setting is out of the model's bounds.
            CredentialError: a key or an `env:` variable is not set.
            UnsupportedFeatureError: with `drop_params = false`, the model cannot do what was set.
        """
        overrides = hide_keys(overrides)
        key = self.config.default_model if name is None else name
        models = self.config.models
        if key not in models:
            where = f" in {self.config.path}" if self.config.path else ""
            raise UnknownModelError(
                f"no model {key!r}{where}; there are: {', '.join(map(repr, models))}"
                f"{did_you_mean(str(key), models)}",
                name=str(key),
                known=models,
            )
        with IMPORTS:
            from agentless.llm.codegen import make_codegen_model

        settings = models[key].with_overrides(**overrides)
        with self._lock:
            model = self._models.get((key, settings.key()))
            if model is None:
                model = self._models[key, settings.key()] = make_codegen_model(
                    settings, key, books=self.ledger, budget=self.budget
                )
        if self._preloads:
            from agentless.llm import importing

            importing.begin()
        return model

    def __repr__(self) -> str:
        return f"ModelFactory(models={list(self.config.models)}, default_model={self.config.default_model!r})"


def _budget(max_cost: float) -> "Budget":
    with IMPORTS:
        from agentless.llm.budget import Budget

    return Budget(max_cost)
