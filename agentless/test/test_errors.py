"""The tree of errors: what each is, what it carries, and that it travels."""

import ast
import copy
import inspect
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentless import errors, litellm_errors
from agentless.errors import (
    AgentlessError,
    BudgetExceededError,
    ConfigError,
    CredentialError,
    DeadlineExceededError,
    EmptyReplyError,
    Problem,
    PromptTooLongError,
    RedirectError,
    SamplesIncompleteError,
    StoreError,
    StoreLockedError,
    StoreMissError,
    StoreVersionError,
    StreamInterruptedError,
    UnknownModelError,
    UnsupportedFeatureError,
    UnsupportedLitellmError,
    UnwatchedReplyError,
)
from agentless.llm import importing
from agentless.llm.trajectory import Trajectory, no_usage

TRAJECTORY = Trajectory(
    response="done",
    usage=no_usage(),
    finish_reason="stop",
    tool_calls=[],
    model="m",
    request_id=None,
    reasoning=None,
    attempts=1,
    latency=0.5,
    cached=False,
)

EXAMPLES: list[tuple[AgentlessError, type[BaseException]]] = [
    (AgentlessError("plain"), Exception),
    (ConfigError("bad", problems=[Problem("models.a", "wrong")], path=Path("c.toml")), ValueError),
    (UnknownModelError('no model "a b"', name="a b", known=["c"]), KeyError),
    (CredentialError("X is not set", model="m", variable="X"), LookupError),
    (UnsupportedFeatureError("no tools", model="m", option="tools"), ValueError),
    (PromptTooLongError("9 > 8", prompt_tokens=9, max_input_tokens=8), ValueError),
    (EmptyReplyError("nothing came"), RuntimeError),
    (UnsupportedLitellmError("not ours", version="1.999.0", supported=">=1.105.3"), RuntimeError),
    (UnwatchedReplyError("not seen"), RuntimeError),
    (StoreError("the disk is full", path="samples.db", samples=[TRAJECTORY]), RuntimeError),
    (StoreLockedError("locked", path="samples.db"), RuntimeError),
    (
        StoreMissError("not there", key="ab", indexes=[3], nearest="cd", differences=["options.top_p: 1"]),
        LookupError,
    ),
    (StoreVersionError("too new", path="samples.db", found=9, supported=1), RuntimeError),
    (
        SamplesIncompleteError(
            "1 of 2", trajectories={0: TRAJECTORY}, failures={1: DeadlineExceededError("late", seconds=2.0)}
        ),
        RuntimeError,
    ),
    (
        StreamInterruptedError(
            "cut", index=1, texts={1: "Hel"}, usage=no_usage(), trajectories={0: TRAJECTORY}
        ),
        ConnectionError,
    ),
    (
        RedirectError(
            "m: HTTP 307: http://a redirects to http://b",
            model="m",
            status=307,
            address="http://a",
            location="http://b",
        ),
        RuntimeError,
    ),
    (DeadlineExceededError("late", seconds=2.0), TimeoutError),
    (BudgetExceededError("spent", spent=1.5, reserved=0.25, asked=0.5), RuntimeError),
]


def contents(error: BaseException) -> dict[str, object]:
    """All that an error carries, with contained errors opened."""
    found = {name: value for name, value in vars(error).items() if name != "failures"}
    found["failures"] = {
        key: (type(each), each.args, vars(each)) for key, each in getattr(error, "failures", {}).items()
    }
    return found


class Unpicklable(Exception):  # noqa: N818 - what it is
    """Pickles, and then cannot be unpickled, as httpx's and openai's errors do."""

    def __init__(self, message: str, *, response: object) -> None:
        super().__init__(message)
        self.response = response


def repickled(error: BaseException) -> Any:
    """What comes out of the pickle of an error."""
    return pickle.loads(pickle.dumps(error))  # noqa: S301 - made here


@pytest.mark.parametrize("travel", [copy.copy, copy.deepcopy, repickled])
@pytest.mark.parametrize("error, builtin", EXAMPLES, ids=lambda value: type(value).__name__)
def test_travels_whole(error: AgentlessError, builtin: type, travel: Callable[[AgentlessError], Any]) -> None:
    """A copied or pickled error has the type, text, attributes, notes and cause of the first."""
    error = copy.copy(error)
    error.add_note("after 3 attempts")
    error.__cause__ = DeadlineExceededError("a stall", seconds=1.0)

    twin = travel(error)

    assert type(twin) is type(error)
    assert str(twin) == str(error)
    assert twin.args == error.args
    assert contents(twin) == contents(error)
    assert twin.__notes__ == ["after 3 attempts"]
    assert isinstance(twin.__cause__, DeadlineExceededError)
    assert twin.__cause__.seconds == 1.0
    assert twin.__suppress_context__


@pytest.mark.parametrize("error, builtin", EXAMPLES, ids=lambda value: type(value).__name__)
def test_is_ours_and_the_builtin(error: AgentlessError, builtin: type) -> None:
    """Each error is an AgentlessError and the builtin that it is like, and reads as it was written."""
    assert isinstance(error, AgentlessError)
    assert isinstance(error, builtin)
    assert str(error) == error.args[0]


def test_examples_are_complete() -> None:
    """Every error class of the module is among the examples above."""
    ours = {
        kind
        for kind in vars(errors).values()
        if inspect.isclass(kind) and kind.__module__ == errors.__name__ and issubclass(kind, BaseException)
    }
    assert ours == {type(error) for error, _ in EXAMPLES}


def test_copy_has_its_own_notes() -> None:
    """A note on a copy is not on the original."""
    error = AgentlessError("x")
    error.add_note("one")
    copy.copy(error).add_note("two")
    assert error.__notes__ == ["one"]


def test_samples_survive_a_failure_that_cannot_be_pickled() -> None:
    """Finished samples come through a pickle though another's exception cannot; it is told by name."""
    failure = Unpicklable("connection lost", response=object)
    failure.add_note("after 2 attempts")
    with pytest.raises(TypeError):
        repickled(failure)
    error = SamplesIncompleteError("1 of 2", trajectories={0: TRAJECTORY}, failures={1: failure})
    error.__cause__ = failure

    twin = repickled(error)

    assert twin.trajectories == {0: TRAJECTORY}
    assert "Unpicklable: connection lost" in str(twin.failures[1])
    assert twin.failures[1].__notes__ == ["after 2 attempts"]
    assert "Unpicklable: connection lost" in str(twin.__cause__)
    assert copy.copy(error).failures[1] is failure


def test_text_of_an_interrupted_stream() -> None:
    """`text` is what had come of the sample that broke, and empty where nothing had."""
    assert StreamInterruptedError("cut", index=2, texts={1: "a", 2: "b"}).text == "b"
    assert StreamInterruptedError("cut").text == ""


def test_config_error_lists_problems() -> None:
    """One problem is told in one line, several in one line each, all under the file's name."""
    one, two = Problem("a.b", "wrong"), Problem("", "empty")
    assert str(ConfigError.of([one], Path("c.toml"))) == "c.toml: a.b: wrong"
    assert str(ConfigError.of([one, two])) == "settings: 2 problems\n  a.b: wrong\n  empty"
    assert ConfigError.of([one, two]).problems == (one, two)


LITELLM = [
    "APIConnectionError",
    "APIError",
    "AuthenticationError",
    "BadRequestError",
    "ContentPolicyViolationError",
    "ContextWindowExceededError",
    "InternalServerError",
    "InvalidRequestError",
    "NotFoundError",
    "PermissionDeniedError",
    "RateLimitError",
    "ServiceUnavailableError",
    "Timeout",
    "UnprocessableEntityError",
]


def test_names_of_litellm_are_its_classes() -> None:
    """Each name is litellm's own class, whatever it is imported by; InvalidRequestError is another name."""
    litellm = importing.load()
    for name in LITELLM:
        expected = "BadRequestError" if name == "InvalidRequestError" else name
        assert getattr(errors, name) is getattr(litellm.exceptions, expected)


def test_declared_bases_are_those_of_litellm() -> None:
    """What type checkers are told of litellm's classes holds: each exists, with such bases among ours."""
    tree = ast.parse(inspect.getsource(litellm_errors))
    classes = [each for each in tree.body if isinstance(each, ast.ClassDef)]
    declared = {each.name: [base.id for base in each.bases if isinstance(base, ast.Name)] for each in classes}
    public = {name for name in declared if not name.startswith("_")}
    assert public | {"InvalidRequestError"} == set(LITELLM)
    for name in public:
        kind = getattr(errors, name)
        relatives = {other for other in public if other != name and issubclass(kind, getattr(errors, other))}
        assert relatives == {base for base in declared[name] if base in public}


def test_naming_our_own_errors_does_not_import_litellm() -> None:
    """`from agentless.errors import ConfigError` is quick; only litellm's names bring litellm in."""
    code = (
        "import sys\n"
        "from agentless.errors import ConfigError\n"
        "print('litellm' in sys.modules, 'pydantic' in sys.modules)\n"
        "from agentless.errors import RateLimitError\n"
        "print('litellm' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False", "True"]
    assert run.stderr == ""


def test_unknown_name_is_an_attribute_error() -> None:
    """A name that is not an error is refused as by any module; `dir` lists those that are."""
    with pytest.raises(AttributeError, match="NoSuchError"):
        errors.NoSuchError  # noqa: B018
    assert dir(errors) == sorted(errors.__all__)
