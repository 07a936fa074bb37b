"""What all tests share: the embedded provider, models that talk to it, and the four ways to call."""

import gc
import ipaddress
import os
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from agentless.config import Config, read_config
from agentless.llm import importing, limits
from agentless.llm.codegen import CodegenModel
from agentless.loopback import Loopback
from agentless.test.ways import KEY, MODELS, PROVIDERS, QUICK, WAYS, Way
from agentless.util.model_factory import ModelFactory

# Under `nohup`, and in some CI, SIGINT is ignored, also in the processes that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No test is timed: a machine may pause.
settings.register_profile("agentless", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("agentless")


@pytest.fixture(scope="session", autouse=True)
def _quick_collections() -> None:
    """Leave litellm's objects out of garbage collections: a full one stops a test for half a second."""
    importing.load()
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection to anywhere but this machine fails the test."""
    connect, resolve = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if self.family in {socket.AF_INET, socket.AF_INET6} and not _is_local(address[0]):
            pytest.fail(f"a test tried to connect to {address}")
        connect(self, address)

    def guarded_resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not _is_local(host):
            pytest.fail(f"a test tried to look up {host}")
        return resolve(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_resolve)


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key or address of the developer's environment reaches a test."""
    for name in list(os.environ):
        if name.endswith(("_API_KEY", "_API_BASE", "_BASE_URL")) or name.startswith(
            ("OPENAI_", "ANTHROPIC_")
        ):
            monkeypatch.delenv(name)


@pytest.fixture
def server() -> Iterator[Loopback]:
    """The embedded provider, with an empty script and journal.

    Its port may be that of an earlier test's, whose refusals would still hold back requests.
    """
    limits._gates.clear()
    with Loopback() as running:
        yield running


@pytest.fixture
def make_config(server: Loopback) -> Callable[..., Config]:
    """(provider, **settings) -> a config with one model `m` on the embedded provider."""

    def make(provider: str = "openai", /, **settings: Any) -> Config:
        own = {"anthropic": server.anthropic_url, "gemini": server.gemini_url}
        address = own.get(provider, server.openai_url)
        table = {**MODELS[provider], "base_url": address, "api_key": KEY, **QUICK, **settings}
        return read_config({"models": {"m": table}})

    return make


@pytest.fixture
def make_model(make_config: Callable[..., Config]) -> Callable[..., CodegenModel]:
    """(provider, **settings) -> a model on the embedded provider."""

    def make(provider: str = "openai", /, **settings: Any) -> CodegenModel:
        return ModelFactory(make_config(provider, **settings)).create_model()

    return make


@pytest.fixture(params=WAYS, ids=str)
def way(request: pytest.FixtureRequest) -> Way:
    """Each of the four ways to call."""
    chosen: Way = request.param
    return chosen


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> str:
    """Each kind of provider."""
    chosen: str = request.param
    return chosen


@pytest.fixture(autouse=True)
def _collect_garbage() -> Iterator[None]:
    """What a test leaves behind complains in that test, not in a later one."""
    yield
    gc.collect(0)


def _is_local(host: Any) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name in {None, "", "localhost"}:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
