"""What can be set, with types, bounds and defaults: frozen values, checked when they are made.

A field's description says what is allowed, in the words that an error uses.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    model_validator,
)

from agentless.credentials import (
    KEY_ALLOWED,
    Credentials,
    Secret,
    hide_keys,
    read_headers,
    read_reference,
    read_url,
    refuse_pickling,
    resolve,
    shown_url,
)
from agentless.errors import ConfigError, Problem
from agentless.frozen import FrozenDict
from agentless.problems import Finding, Refusal, findings_of, key_path, listed
from agentless.tool_definitions import Tools, choice_findings, read_tool_choice, read_tools
from agentless.values import (
    ABOVE_ZERO,
    COUNT,
    FRACTION,
    LEVELS,
    PRICE,
    SECONDS,
    SOME_SECONDS,
    STORE_MODES,
    SWITCH,
    TEXT,
    Capability,
    Count,
    Fraction,
    Name,
    NotNegative,
    Positive,
    Table,
    one_of,
    read_capabilities,
    read_effort,
    read_format,
    read_inline_thinking,
    read_level,
    read_response_format,
    read_stop,
)

_STREAM_TIMEOUTS = 10  # a whole stream may take as long as this many waits for an event


class SettingsTable(BaseModel):
    """One table: strict, closed, unchangeable. No input is echoed, because some of it is keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    @classmethod
    def faults(cls, values: Mapping[str, Any]) -> list[Finding]:
        """What is wrong with each value by itself, by path."""
        try:
            cls.model_validate(values)
        except ValidationError as error:
            return findings_of(error, cls)
        return []

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> Self | list[Finding]:
        """The settings, or everything that is wrong with the values, by path."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            findings = findings_of(error, cls)
        wrong = {path[0] for path, _ in findings}
        # pydantic compares fields only once each is right by itself; here all is told at once.
        return findings + list(cls.conflicts({key: each for key, each in values.items() if key not in wrong}))

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> Iterator[Finding]:  # noqa: ARG003 - for subclasses
        """What is wrong between `values` that are right by themselves; they are those that were set."""
        yield from ()

    @model_validator(mode="after")
    def _agree(self) -> Self:
        findings = list(self.conflicts({name: getattr(self, name) for name in self.model_fields_set}))
        if findings:
            raise Refusal(findings)
        return self


class ModelSettings(SettingsTable):
    """One `[models.<name>]` table, with `[defaults]` beneath.

    Every value is immutable and hashable; tables are `FrozenDict`s and lists are tuples (`frozen.thaw`
    makes plain ones). `model_fields_set` are the keys that the user wrote, `[defaults]` included.

    `retry_min_wait` or `retry_max_wait`, where only one is set, pulls the other's default along;
    `stream_timeout` is 10 times `timeout` unless it is set.
    """

    name: Name = Field(description=TEXT)
    provider: Name = Field(description='a string such as "openai"')
    api_key: Secret | None = Field(default=None, description=KEY_ALLOWED)
    base_url: Annotated[str, PlainValidator(read_url), PlainSerializer(shown_url)] | None = Field(
        default=None, description='an address, or "env:VARIABLE"'
    )
    api_version: Annotated[str, PlainValidator(read_reference)] | None = Field(
        default=None, description='a string, or "env:VARIABLE"'
    )
    custom_llm_provider: Name | None = Field(default=None, description=TEXT)

    temperature: Fraction = Field(default=0.0, description=FRACTION)
    max_new_tokens: Count = Field(default=1024, description=COUNT)
    max_input_tokens: Count | None = Field(default=None, description=COUNT)
    batch_size: Count = Field(default=1, description=COUNT)
    top_p: Fraction | None = Field(default=None, description=FRACTION)
    reasoning_effort: Annotated[float | str, PlainValidator(read_effort)] | None = Field(
        default=None, description=FRACTION
    )
    seed: int | None = Field(default=None, description="an integer")
    stop: Annotated[tuple[str, ...], PlainValidator(read_stop)] | None = Field(
        default=None, description="a string or a list of strings"
    )
    system_message: str | None = Field(default=None, description=TEXT)

    num_retries: Annotated[int, Field(ge=0)] = Field(default=3, description="an integer, 0 or more")
    retry_min_wait: NotNegative = Field(default=4.0, description=SECONDS)
    retry_max_wait: NotNegative = Field(default=10.0, description=SECONDS)
    retry_multiplier: NotNegative = Field(default=2.0, description="a number, 0 or more")
    timeout: Positive = Field(default=100.0, description=SOME_SECONDS)
    stream_timeout: Positive = Field(default=100.0 * _STREAM_TIMEOUTS, description=SOME_SECONDS)

    prompt_cache: bool = Field(default=False, description=SWITCH)
    stream: bool = Field(default=False, description=SWITCH)
    drop_params: bool = Field(default=True, description=SWITCH)
    modify_params: bool = Field(default=True, description=SWITCH)
    inline_thinking: Annotated[str, PlainValidator(read_inline_thinking)] = Field(
        default="split", description='"split" or "keep"'
    )
    tools: Annotated[Tools, PlainValidator(read_tools)] = Field(
        default=(), description="a list of function tools"
    )
    tool_choice: Annotated[str | FrozenDict, PlainValidator(read_tool_choice)] | None = Field(
        default=None, description='"auto", "none", "required" or a tool'
    )
    response_format: Annotated[Mapping[str, Any], PlainValidator(read_response_format)] | None = Field(
        default=None, description="a table with a type"
    )

    max_concurrency: Count = Field(default=32, description=COUNT)
    requests_per_minute: Positive | None = Field(default=None, description=ABOVE_ZERO)
    tokens_per_minute: Positive | None = Field(default=None, description=ABOVE_ZERO)

    extra_headers: Annotated[
        Mapping[str, Secret],
        PlainValidator(read_headers),
        PlainSerializer(lambda headers: {name: str(value) for name, value in headers.items()}),
    ] = Field(default=FrozenDict(), description="a table of strings")
    extra_body: Table = Field(default=FrozenDict(), description="a table")
    capabilities: Annotated[Mapping[str, Capability], PlainValidator(read_capabilities)] = Field(
        default=FrozenDict(), description="a table of what the model can do"
    )
    input_cost_per_token: NotNegative | None = Field(default=None, description=PRICE)
    output_cost_per_token: NotNegative | None = Field(default=None, description=PRICE)

    def with_overrides(self, **overrides: Any) -> Self:
        """These settings with others in their place, checked like a config; `None` leaves a setting.

        Raises:
            ConfigError: A name is unknown or a value is not allowed.
        """
        given = overrides = hide_keys({name: each for name, each in overrides.items() if each is not None})
        if not given:
            return self
        settings = self.checked({**{name: getattr(self, name) for name in self.model_fields_set}, **given})
        if isinstance(settings, list):
            # Outside of the except block: pydantic's error holds the input, keys included.
            raise ConfigError.of(Problem(key_path(path), text) for path, text in settings)
        return settings

    def resolve(self, *, model: str, environ: Mapping[str, str] | None = None) -> Credentials:
        """Look up the `env:` references, in `os.environ` by default.

        Args:
            model: The config's name of this model, for the error.
            environ: Another place to look variables up.

        Raises:
            CredentialError: A variable is not set, or is empty.
        """

        def text(value: str | Secret | None, *path: str) -> str | None:
            return resolve(value, *path, model=model, environ=environ)

        headers = {name: text(value, "extra_headers", name) for name, value in self.extra_headers.items()}
        return Credentials(
            api_key=text(self.api_key, "api_key"),
            base_url=text(self.base_url, "base_url"),
            api_version=text(self.api_version, "api_version"),
            extra_headers=FrozenDict({name: value for name, value in headers.items() if value is not None}),
        )

    def key(self) -> tuple[Any, ...]:
        """Equal for the same settings, set by the user in the same places, and hashable.

        Within one process: it holds the key (unseen), and its hash changes from run to run.
        """
        import json

        def exact(value: Any) -> Any:
            # To Python true equals 1 equals 1.0; on the wire they differ.
            plain_json = isinstance(value, dict | tuple) and value is not self.extra_headers
            return json.dumps(value) if plain_json else value

        values = tuple((name, exact(getattr(self, name))) for name in type(self).model_fields)
        return (frozenset(self.model_fields_set), *values)

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> Iterator[Finding]:
        """What is wrong between settings that are right by themselves."""
        low, high = values.get("retry_min_wait"), values.get("retry_max_wait")
        if low is not None and high is not None and low > high:
            yield ("retry_min_wait",), f"found {low}; allowed: at most retry_max_wait, which is {high}"
        yield from choice_findings(values.get("tool_choice"), values.get("tools", ()))

    @model_validator(mode="after")
    def _settle(self) -> Self:
        # object.__setattr__ passes by `frozen`, and leaves model_fields_set as the user wrote it.
        if self.retry_min_wait > self.retry_max_wait:
            pulled, by = ("retry_min_wait", "retry_max_wait")
            if pulled in self.model_fields_set:
                pulled, by = by, pulled
            object.__setattr__(self, pulled, getattr(self, by))
        if "stream_timeout" not in self.model_fields_set:
            object.__setattr__(self, "stream_timeout", _STREAM_TIMEOUTS * self.timeout)
        return self

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """What was set; of an address and of extra_body only what cannot be a key."""
        for name in type(self).model_fields:
            if name in self.model_fields_set:
                value = getattr(self, name)
                if name == "base_url":
                    value = shown_url(value)
                elif name == "extra_body":
                    value = dict.fromkeys(value, ...)
                yield name, value

    def __deepcopy__(self, memo: object = None) -> Self:
        return self

    def __getstate__(self) -> dict[Any, Any]:
        if shown_url(self.base_url) != self.base_url:
            refuse_pickling("a base_url with a user or a query in it")
        return super().__getstate__()


class LoggingSettings(SettingsTable):
    """The `[logging]` table: `level` in capitals; `file`, from the working directory, instead of stderr."""

    level: Annotated[str, AfterValidator(read_level)] = Field(
        default="INFO", description=f"one of {listed(LEVELS)}"
    )
    format: Annotated[str, AfterValidator(read_format)] = Field(
        default="%(asctime)s - %(name)s - %(levelname)s - %(message)s", description=TEXT
    )
    file: Name | None = Field(default=None, description="the path of a file")


class BudgetSettings(SettingsTable):
    """The `[budget]` table: `max_cost` in USD, for all models of a process together."""

    max_cost: Positive | None = Field(default=None, description="USD, a number above 0")

    @classmethod
    def of(cls, max_cost: float) -> Self:
        """The settings of a budget that is not from a file.

        Raises:
            ConfigError: It is not a number above 0.
        """
        settings = cls.checked({"max_cost": max_cost})
        if isinstance(settings, list):
            raise ConfigError.of(Problem(key_path(path), text) for path, text in settings)
        return settings


class StoreSettings(SettingsTable):
    """The `[store]` table: where samples are kept, and how runs use them (docs/store.md)."""

    path: Name = Field(description="the path of a file")
    mode: Annotated[str, one_of(*STORE_MODES)] = Field(
        default="read_write", description=f"one of {listed(STORE_MODES)}"
    )
    repeat: Annotated[str, one_of("next", "same")] = Field(default="next", description='"next" or "same"')
    durability: Annotated[str, one_of("process", "power")] = Field(
        default="process", description='"process" or "power"'
    )
    recoverable: Literal[False] = Field(default=False, description="false: nothing can be looked up yet")
