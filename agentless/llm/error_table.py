"""What a service says, what is done, and what a user should do: `docs/errors.md`, from the tables."""

from collections.abc import Iterator

from agentless.llm import quotas
from agentless.llm.finish_reasons import FAILURES
from agentless.llm.retries import Fault, Kind, Verdict, decide, remedy

_DOES = {
    Verdict.RETRY: "tried again, up to `num_retries` times",
    Verdict.FINAL: "fails at once",
    Verdict.HOPELESS: "fails at once, and so do the calls that wait for this model",
}


def table() -> str:
    """The whole document."""
    rows = [*_statuses(), *_accounts(), *_others(), *_words()]
    lines = [f"| {says} | {does} | {do or 'nothing: it passes'} |" for says, does, do in rows]
    return "\n".join((_HEAD, *lines, ""))


_HEAD = """# What goes wrong, and what to do

Made by `python -m agentless.llm.error_table > docs/errors.md` from the tables that decide.

| what the service says | what is done | what you should do |
|---|---|---|"""


def _statuses() -> Iterator[tuple[str, str, str]]:
    for status in range(400, 600):
        fault = Fault(Kind.REFUSED, status)
        verdict, advice = decide(fault).verdict, remedy(fault)
        if verdict is not Verdict.FINAL or advice:
            yield f"HTTP {status}", _DOES[verdict], advice
    yield "any other HTTP 4xx or 5xx", _DOES[Verdict.FINAL], "The error's message has the service's words."


def _accounts() -> Iterator[tuple[str, str, str]]:
    for code, advice in quotas.CODES.items():
        yield f"code or type `{code}`, with any status", _DOES[Verdict.HOPELESS], advice
    for row in quotas.WORDS:
        words = ", ".join(f"“{word}”" for word in row.words)
        yield f"{row.service}: {words}, with any status", _DOES[Verdict.HOPELESS], row.remedy


def _others() -> Iterator[tuple[str, str, str]]:
    for kind in Kind:
        if kind is not Kind.REFUSED:
            yield kind.value, _DOES[decide(Fault(kind)).verdict], remedy(Fault(kind))


def _words() -> Iterator[tuple[str, str, str]]:
    words = ", ".join(f"`{word}`" for word in sorted(FAILURES))
    does = "tried again before the first chunk; after it, `StreamInterruptedError`"
    yield f"a reply that ends with {words}", does, ""


if __name__ == "__main__":
    print(table(), end="")  # noqa: T201  # it is the output
