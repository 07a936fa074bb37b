"""Every exception a caller can meet.

Our own:

    AgentlessError
      ConfigError              (ValueError)       config.toml or an override is wrong: .path .problems
      UnknownModelError        (KeyError)         no [models.<name>] of that name: .name .known
      CredentialError          (LookupError)      a key or variable is not set, or no key: .model .variable
      UnsupportedFeatureError  (ValueError)       the model cannot do what was set: .model .option
      PromptTooLongError       (ValueError)       found before sending: .prompt_tokens .max_input_tokens
      EmptyReplyError          (RuntimeError)     the service answered with nothing, every time
      SamplesIncompleteError   (RuntimeError)     some samples failed: .trajectories .failures
      StreamInterruptedError   (ConnectionError)  a stream broke: .index .text .texts .usage .trajectories
      DeadlineExceededError    (TimeoutError)     an attempt took too long: .seconds
      RedirectError            (RuntimeError)     3xx, not followed: .model .status .address .location
      BudgetExceededError      (RuntimeError)     not sent, the money is spent: .spent .reserved .asked
      UnsupportedLitellmError  (RuntimeError)     not sent, litellm's connections are not ours: .version
      UnwatchedReplyError      (RuntimeError)     litellm answered and no request was seen: perhaps paid for
      StoreError               (RuntimeError)     the sample store cannot be used: .path .samples
        StoreLockedError                          another process kept its lock for too long
        StoreMissError         (LookupError)      replay, and there is no such sample: .key .differences
        StoreVersionError                         it was written by a newer version: .found .supported

litellm's own, by another road to the same classes (`agentless.errors.Timeout is litellm.Timeout`):

    APIError, APIConnectionError, Timeout
    BadRequestError            also named InvalidRequestError (litellm has one of its own, never raised)
      ContextWindowExceededError
      ContentPolicyViolationError
    AuthenticationError, PermissionDeniedError, NotFoundError, UnprocessableEntityError,
    RateLimitError, InternalServerError, ServiceUnavailableError

These are looked up when they are first asked for, which imports litellm (2-3 s); naming our own never
does. Ours survive `pickle` and `copy` with every attribute, note and cause.
"""

import copyreg
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from agentless.litellm_errors import (
        APIConnectionError,
        APIError,
        AuthenticationError,
        BadRequestError,
        ContentPolicyViolationError,
        ContextWindowExceededError,
        InternalServerError,
        InvalidRequestError,
        NotFoundError,
        PermissionDeniedError,
        RateLimitError,
        ServiceUnavailableError,
        Timeout,
        UnprocessableEntityError,
    )
    from agentless.llm.trajectory import Trajectory, Usage

__all__ = [
    "APIConnectionError",
    "APIError",
    "AgentlessError",
    "AuthenticationError",
    "BadRequestError",
    "BudgetExceededError",
    "ConfigError",
    "ContentPolicyViolationError",
    "ContextWindowExceededError",
    "CredentialError",
    "DeadlineExceededError",
    "EmptyReplyError",
    "InternalServerError",
    "InvalidRequestError",
    "NotFoundError",
    "PermissionDeniedError",
    "Problem",
    "PromptTooLongError",
    "RateLimitError",
    "RedirectError",
    "SamplesIncompleteError",
    "ServiceUnavailableError",
    "StoreError",
    "StoreLockedError",
    "StoreMissError",
    "StoreVersionError",
    "StreamInterruptedError",
    "Timeout",
    "UnknownModelError",
    "UnprocessableEntityError",
    "UnsupportedFeatureError",
    "UnsupportedLitellmError",
    "UnwatchedReplyError",
]


class AgentlessError(Exception):
    """What all errors of this package are.

    Each is made of one message and keyword attributes; pickling, copying and `str` are settled here for
    all of them.
    """

    def __init__(self, message: str = "", /) -> None:
        super().__init__(message)

    def __str__(self) -> str:
        # Not the builtin's beside us: KeyError would show the message's repr, OSError look for an errno.
        return BaseException.__str__(self)

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are by default rebuilt by calling the class with `args` alone, which loses or
        # refuses keyword attributes, and without their cause.
        state = {name: _portable(value) for name, value in self.__dict__.items()}
        if self.__cause__ is not None:
            state["__cause__"] = _portable(self.__cause__)
        return _rebuild, (type(self), self.args), state

    def __copy__(self) -> Self:
        # Unlike a pickle, a copy may share what cannot be pickled.
        twin: Self = _rebuild(type(self), self.args)
        twin.__dict__.update(self.__dict__)
        if hasattr(self, "__notes__"):
            twin.__notes__ = list(self.__notes__)
        twin.__cause__ = self.__cause__
        twin.__suppress_context__ = self.__suppress_context__
        return twin


class Problem(NamedTuple):
    """One thing that is wrong in a config: where (`models.gpt-4.temperature`) and what.

    `key` is empty where the whole file is meant.
    """

    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.key}: {self.message}" if self.key else self.message


class ConfigError(AgentlessError, ValueError):
    """A config or an override is wrong; `problems` has everything that is, `path` the file or `None`."""

    def __init__(
        self, message: str, /, *, problems: Iterable[Problem] = (), path: Path | None = None
    ) -> None:
        super().__init__(message)
        self.problems = tuple(problems)
        self.path = path

    @classmethod
    def of(cls, problems: Iterable[Problem], path: Path | None = None) -> Self:
        """The error whose text lists these problems, one a line."""
        found = tuple(problems)
        where = "settings" if path is None else str(path)
        if len(found) == 1:
            return cls(f"{where}: {found[0]}", problems=found, path=path)
        lines = "".join(f"\n  {problem}" for problem in found)
        return cls(f"{where}: {len(found)} problems{lines}", problems=found, path=path)


class UnknownModelError(AgentlessError, KeyError):
    """The config has no model of this `name`; `known` are the names it has."""

    def __init__(self, message: str, /, *, name: str, known: Iterable[str]) -> None:
        super().__init__(message)
        self.name = name
        self.known = tuple(known)


class CredentialError(AgentlessError, LookupError):
    """A key is not set, or is no key (quotes, a placeholder): found by us, before any request.

    `model` is the config's name of the model, `variable` the environment variable that was looked for.
    A key that the service refuses is an `AuthenticationError`.
    """

    def __init__(self, message: str, /, *, model: str | None = None, variable: str | None = None) -> None:
        super().__init__(message)
        self.model = model
        self.variable = variable


class UnsupportedFeatureError(AgentlessError, ValueError):
    """With `drop_params = false`: `option` is set, and `model` cannot do it."""

    def __init__(self, message: str, /, *, model: str | None = None, option: str | None = None) -> None:
        super().__init__(message)
        self.model = model
        self.option = option


class PromptTooLongError(AgentlessError, ValueError):
    """The prompt has more tokens than `max_input_tokens`; nothing was sent."""

    def __init__(self, message: str, /, *, prompt_tokens: int, max_input_tokens: int) -> None:
        super().__init__(message)
        self.prompt_tokens = prompt_tokens
        self.max_input_tokens = max_input_tokens


class EmptyReplyError(AgentlessError, RuntimeError):
    """Each attempt brought a reply without choices, or with neither text nor tool calls."""


class SamplesIncompleteError(AgentlessError, RuntimeError):
    """Some of the samples asked for failed after their retries.

    `trajectories` has the finished ones and `failures` the exceptions of the others, both by the
    sample's number from 0.
    """

    def __init__(
        self,
        message: str,
        /,
        *,
        trajectories: Mapping[int, "Trajectory"],
        failures: Mapping[int, BaseException],
    ) -> None:
        super().__init__(message)
        self.trajectories = dict(trajectories)
        self.failures = dict(failures)


class StreamInterruptedError(AgentlessError, ConnectionError):
    """A stream broke after its first chunk had reached the caller, so it was not tried again.

    `index` is the sample that broke, `texts` the text so far of every unfinished sample by number,
    `trajectories` the samples that were finished before, `usage` what is known to be billed (`None`
    where the service had not said yet). A stall has a `DeadlineExceededError` as its cause.
    """

    def __init__(
        self,
        message: str,
        /,
        *,
        index: int = 0,
        texts: Mapping[int, str] | None = None,
        usage: "Usage | None" = None,
        trajectories: Mapping[int, "Trajectory"] | None = None,
    ) -> None:
        super().__init__(message)
        self.index = index
        self.texts = dict(texts or {})
        self.usage = usage
        self.trajectories = dict(trajectories or {})

    @property
    def text(self) -> str:
        """What had arrived of the sample that broke."""
        return self.texts.get(self.index, "")


class DeadlineExceededError(AgentlessError, TimeoutError):
    """An attempt took longer than its deadline of `seconds`, by the clock on the wall."""

    def __init__(self, message: str, /, *, seconds: float | None = None) -> None:
        super().__init__(message)
        self.seconds = seconds


class RedirectError(AgentlessError, RuntimeError):
    """The address of `model` answered with a redirect (3xx), and nothing was sent to where it points.

    `status` is the HTTP status, `address` where the request was sent, and `location` where that points to,
    `None` where it does not say; both without user, password and query. Whoever follows a redirect hands the
    key, all headers and often the prompt to another host, so it is never followed and never tried again.
    """

    def __init__(
        self, message: str, /, *, model: str, status: int, address: str, location: str | None = None
    ) -> None:
        super().__init__(message)
        self.model = model
        self.status = status
        self.address = address
        self.location = location


class BudgetExceededError(AgentlessError, RuntimeError):
    """A request was not sent, because it could cost more than is left of `[budget] max_cost`.

    All in USD: `spent` so far, `reserved` for requests under way, `asked` for this one.
    """

    def __init__(self, message: str, /, *, spent: float, reserved: float, asked: float) -> None:
        super().__init__(message)
        self.spent = spent
        self.reserved = reserved
        self.asked = asked


class UnsupportedLitellmError(AgentlessError, RuntimeError):
    """litellm, in this `version`, does not send by our connection; nothing was sent.

    `supported` are the versions that do, as pip takes them.
    """

    def __init__(self, message: str, /, *, version: str = "", supported: str = "") -> None:
        super().__init__(message)
        self.version = version
        self.supported = supported


class UnwatchedReplyError(AgentlessError, RuntimeError):
    """litellm answered, and our connection saw no request: it may have been paid for, more than once too."""


class StoreError(AgentlessError, RuntimeError):
    """The sample store cannot be opened, read or written; what is in it is as it was.

    `path` is the store's, `samples` what was finished and paid for and could not be stored.
    """

    def __init__(
        self,
        message: str,
        /,
        *,
        path: str | Path | None = None,
        samples: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(message)
        self.path = path
        self.samples = tuple(samples)


class StoreLockedError(StoreError):
    """Another process held the store's lock for longer than a commit takes: it may have been stopped."""


class StoreMissError(StoreError, LookupError):
    """In replay nothing is sent, and the store does not have what was asked for.

    `key` is the request's and `indexes` are the samples that are missing. `nearest` is the key of the
    stored request that is most like it (`None`: none of this model), `differences` what they differ in,
    one text a field.
    """

    def __init__(
        self,
        message: str,
        /,
        *,
        path: str | Path | None = None,
        key: str = "",
        indexes: Iterable[int] = (),
        nearest: str | None = None,
        differences: Iterable[str] = (),
    ) -> None:
        super().__init__(message, path=path)
        self.key = key
        self.indexes = tuple(indexes)
        self.nearest = nearest
        self.differences = tuple(differences)


class StoreVersionError(StoreError):
    """The store's version is `found`, this package knows those up to `supported`; nothing was changed."""

    def __init__(
        self, message: str, /, *, path: str | Path | None = None, found: int = 0, supported: int = 0
    ) -> None:
        super().__init__(message, path=path)
        self.found = found
        self.supported = supported


def _rebuild(kind: type[AgentlessError], args: tuple[Any, ...]) -> Any:
    error = kind.__new__(kind, *args)
    error.args = args  # OSError's __new__ leaves them to __init__, which is not called here
    return error


def _portable(value: Any) -> Any:
    """The value, with exceptions that should not travel replaced by one that says what they were.

    Ours and litellm's travel by their own reducers, Python's where they hold plain values. Others (httpx's,
    the openai SDK's) hold the request with the key in its headers, or cannot be rebuilt, which would lose the
    finished samples beside them.
    """
    if isinstance(value, dict):
        return {key: _portable(item) for key, item in value.items()}
    if not isinstance(value, BaseException) or _travels(value):
        return value
    stand_in = AgentlessError(f"{type(value).__module__}.{type(value).__qualname__}: {value}")
    for note in getattr(value, "__notes__", ()):
        stand_in.add_note(note)
    return stand_in


def _travels(error: BaseException) -> bool:
    if isinstance(error, AgentlessError):
        return True
    kind = type(error)
    if kind.__module__ == "builtins":
        held = (*error.args, *(value for name, value in vars(error).items() if name != "__notes__"))
        return all(isinstance(value, str | int | float | bytes | None) for value in held)
    return kind in copyreg.dispatch_table  # litellm's, see failures.py


def __getattr__(name: str) -> Any:
    """Fetch one of litellm's classes, by its name."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from agentless.llm import importing

    kind = getattr(importing.load().exceptions, "BadRequestError" if name == "InvalidRequestError" else name)
    globals()[name] = kind
    return kind


def __dir__() -> list[str]:
    return sorted(__all__)
