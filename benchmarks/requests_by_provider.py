"""How many HTTP requests does one attempt of ours make, for every provider that litellm knows?

Each provider is pointed at the embedded server, which answers whatever is asked for with one fault, and
counts. With `num_retries = 0` each cell of the table has to be 1: litellm and the SDKs under it send the
same request again on many of these faults, some of them after a reply that is paid for.

A provider that cannot be pointed at another server is named below the table, with the reason. Nothing
leaves this machine: a connection or a look-up to anywhere else fails, and is the reason that is given.

Usage: `python benchmarks/requests_by_provider.py [PROVIDER ...]`: the table as Markdown on standard output.
The exit status is 1 if any cell is not 1.
"""

import argparse
import ipaddress
import json
import logging
import os
import re
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import openai

from agentless.config import read_config
from agentless.errors import AgentlessError
from agentless.llm import importing, provider_rows, wire
from agentless.llm.registry import load_registry
from agentless.llm.watch import UNWATCHED
from agentless.loopback import Loopback, faults
from agentless.loopback.faults import Fault
from agentless.loopback.provider import Exchange, Provider, Request
from agentless.util.model_factory import ModelFactory

FAULTS: Mapping[str, Fault] = {
    "429": faults.Status(429),
    "500": faults.Status(500),
    "503": faults.Status(503),
    "reset": faults.Reset("request"),
    "closed": faults.CleanClose("request"),
    "half headers": faults.HalfHeaders(),
    "garbage": faults.Garbage(),
    "body cut": faults.CutBody(),
}
WAYS = ("whole", "streamed")
TIMEOUT = 4.0
PATIENCE = 1.0
"""Seconds after which a fault that comes at once should have ended the call."""
TYPED = (openai.OpenAIError, AgentlessError)
"""What a failed call may raise: litellm's exceptions are all OpenAI errors."""

# What these routes ask for beside a key and an address.
_EXTRA: Mapping[str, Mapping[str, Any]] = {
    "azure": {"api_version": "2024-10-21"},
    "azure_ai": {"api_version": "2024-10-21"},
    "clarifai": {"name": "user.app.model"},
    "ragflow": {"name": "chat/an-id/some-model"},
    "replicate": {"name": "some/model"},
    "sagemaker": {"name": "some-endpoint"},
}
_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "example",
    "AWS_REGION": "us-east-1",
    "AWS_REGION_NAME": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AZURE_CLIENT_ID": "",
    "CLOUDFLARE_ACCOUNT_ID": "example",
    "NO_PROXY": "*",
}


@dataclass
class Row:
    """What one provider did."""

    name: str
    model: str
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    errors: dict[tuple[str, str], str] = field(default_factory=dict)
    paths: set[str] = field(default_factory=set)
    reason: str | None = None
    """Why it cannot be counted here."""

    @property
    def wrong(self) -> list[str]:
        """The cells that are not 1, and what else is not as it should be."""
        counts = [f"{way} {fault}: {n}" for (way, fault), n in self.counts.items() if n != 1]
        untyped = [f"{way} {fault}: {text}" for (way, fault), text in self.errors.items() if text]
        return counts + untyped


class AnyPath(Provider):
    """The embedded provider, at any path and for any wire format: what is played are faults anyway."""

    def answer(self, request: Request) -> Exchange:
        """Play the fault around a completion in OpenAI's format, whatever was asked for."""
        path = request.path.partition("?")[0].rstrip("/")
        if request.method != "POST" or path.endswith(("/chat/completions", "/messages")):
            exchange = super().answer(request)
            if exchange.entry.fault is not None or request.method != "POST":
                return exchange
            self.journal.clear()
        streams = b'"stream": true' in request.raw or b'"stream":true' in request.raw or "tream" in path
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": streams}
        plain = replace(request, path="/v1/chat/completions", raw=json.dumps(body).encode())
        plain.headers["authorization"] = "Bearer x"
        exchange = super().answer(plain)
        exchange.entry.path = request.path
        return exchange


def main() -> int:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("providers", nargs="*", help="default: all")
    parser.add_argument("--verbose", action="store_true", help="with what was raised")
    options = parser.parse_args()
    for name in list(os.environ):
        if name.endswith(("_API_KEY", "_API_BASE", "_BASE_URL", "_TOKEN")):
            del os.environ[name]
    os.environ.update(_ENVIRONMENT)
    logging.disable(logging.CRITICAL)
    names = options.providers or sorted(set(provider_rows.PROVIDERS) | provider_rows.LITELLM_ONLY)
    importing.load()  # two seconds that no cell should pay for
    with only_this_machine() as refused, watched_requests() as seen, Loopback() as server:
        server._provider = AnyPath(  # noqa: SLF001 - the one thing that the public server refuses
            server._provider._rules,  # noqa: SLF001
            server._provider.script,  # noqa: SLF001
            server._provider.journal,  # noqa: SLF001
        )
        rows = [count(name, server, refused, seen) for name in names]
    print(table(rows))
    for row in rows:
        if options.verbose and row.reason is None:
            print(f"\n{row.name} ({row.model}): {', '.join(sorted(row.paths))}")
    wrong = [(row.name, row.wrong) for row in rows if row.reason is None and row.wrong]
    for name, cells in wrong:
        print(f"\nNOT ONE: {name}: {'; '.join(cells)}")
    return 1 if wrong else 0


def count(name: str, server: Loopback, refused: list[str], seen: list[str]) -> Row:
    """Play every fault at one provider, whole and streamed."""
    model = model_of(name)
    row = Row(name, model)
    seller = provider_rows.find_provider(name, model)
    assert seller is not None  # noqa: S101 - the names are its own
    address = server.anthropic_url if seller.strips_v1 else server.openai_url
    table = {
        "name": model,
        "provider": name,
        "base_url": address,
        "api_key": "sk-example",
        "timeout": TIMEOUT,
        "num_retries": 0,
        "retry_min_wait": 0,  # a refusal holds back the next call of the model too
        **_EXTRA.get(name, {}),
    }
    try:
        made = ModelFactory(read_config({"models": {"m": table}})).create_model()
    except AgentlessError as error:
        row.reason = _short(error)
        return row
    for way in WAYS:
        for fault_name, fault in FAULTS.items():
            server.reset()
            server.default = fault
            refused.clear()
            seen.clear()
            began = time.monotonic()
            problem: BaseException | None = None
            try:
                if way == "whole":
                    made.codegen("hi")
                else:
                    list(made.codegen_stream("hi"))
            except Exception as error:  # noqa: BLE001 - what it is, is the finding
                problem = error
            seconds = time.monotonic() - began
            sent = [entry for entry in server.journal if entry.method == "POST"]
            row.paths.update(entry.path.partition("?")[0] for entry in sent)
            if not sent and not row.counts:
                row.reason = f"connects to {refused[0]}" if refused else _short(problem)
                return row
            row.counts[way, fault_name] = len(sent)
            is_watched = name in UNWATCHED or len(seen) == len(sent)
            wrong = _wrong(problem, fault_name, name) or ("" if is_watched else "passed our watch by")
            row.errors[way, fault_name] = wrong or (f"took {seconds:.1f} s" if seconds > PATIENCE else "")
    return row


def _wrong(problem: BaseException | None, fault: str, name: str) -> str:
    """What is wrong with what was raised, if anything."""
    if problem is None:
        return "no error"
    is_refusal = fault != "429" or name in UNWATCHED or getattr(problem, "status_code", None) == 429
    return "" if isinstance(problem, TYPED) and is_refusal else _short(problem)


def model_of(name: str) -> str:
    """A chat model of this provider's in litellm's registry, else any name."""
    for key, entry in load_registry().items():
        if entry.get("mode") == "chat" and entry.get("litellm_provider") == name:
            return key.removeprefix(f"{name}/")
    return "some-model"


@contextmanager
def only_this_machine() -> Iterator[list[str]]:
    """Refuse connections and look-ups to anywhere else; the hosts that were asked for."""
    connect, connect_ex, resolve = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo
    refused: list[str] = []

    def check(host: Any) -> None:
        text = host.decode() if isinstance(host, bytes) else str(host or "localhost")
        try:
            local = text == "localhost" or ipaddress.ip_address(text).is_loopback
        except ValueError:
            local = False
        if not local:
            refused.append(text)
            raise OSError(f"not this machine: {text}")

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if self.family in {socket.AF_INET, socket.AF_INET6}:
            check(address[0])
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        if self.family in {socket.AF_INET, socket.AF_INET6}:
            check(address[0])
        return connect_ex(self, address)

    def guarded_resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
        check(host)
        return resolve(host, *args, **kwargs)

    socket.socket.connect = guarded_connect  # type: ignore[method-assign, assignment]
    socket.socket.connect_ex = guarded_connect_ex  # type: ignore[method-assign, assignment]
    socket.getaddrinfo = guarded_resolve
    try:
        yield refused
    finally:
        socket.socket.connect = connect  # type: ignore[method-assign]
        socket.socket.connect_ex = connect_ex  # type: ignore[method-assign]
        socket.getaddrinfo = resolve


@contextmanager
def watched_requests() -> Iterator[list[str]]:
    """Note what the attempts' own watch saw: a request that passes it by is not held to one."""
    seen: list[str] = []
    admit = wire.Exchange.admit

    def noting(self: wire.Exchange, request: httpx.Request) -> None:
        admit(self, request)
        if request.method == "POST":
            seen.append(str(request.url))

    wire.Exchange.admit = noting  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        wire.Exchange.admit = admit  # type: ignore[method-assign]


def table(rows: Sequence[Row]) -> str:
    """Markdown: the counts, `whole/streamed` in each cell, and below it who could not be counted."""
    counted = [row for row in rows if row.reason is None]
    lines = [
        f"| provider | {' | '.join(FAULTS)} |",
        f"|---|{'---|' * len(FAULTS)}",
        *(
            f"| {row.name} | "
            + " | ".join("/".join(str(row.counts[way, fault]) for way in WAYS) for fault in FAULTS)
            + " |"
            for row in counted
        ),
        "",
        f"{len(counted)} providers counted (whole/streamed); of these, litellm's client is not watched for",
        f"{', '.join(row.name for row in counted if row.name in UNWATCHED) or 'none'}.",
        "",
        f"{len(rows) - len(counted)} not counted:",
        "",
        *(f"- {row.name}: {row.reason}" for row in rows if row.reason is not None),
    ]
    return "\n".join(lines)


def _short(error: BaseException | None) -> str:
    # Some of litellm's texts end in a traceback, or hold the address that was only ours.
    text = re.sub(r"Traceback.*|http://127\.0\.0\.1:\d+\S*", "", f"{error}", flags=re.DOTALL)
    return " ".join(f"{type(error).__name__}: {text}".split())[:160]


if __name__ == "__main__":
    sys.exit(main())
