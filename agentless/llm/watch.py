"""Whether litellm's requests go by our connection: made so, looked at once, and held to at each call.

All that is promised of attempts rests on it: one request each, nothing sent again in silence.
"""

import logging
import os
from collections.abc import Iterator
from typing import Any

from agentless.errors import UnsupportedLitellmError, UnwatchedReplyError
from agentless.llm import reaches, wire

_VARIABLE = "AGENTLESS_UNWATCHED"

UNWATCHED = frozenset(
    {"aiohttp_openai", "amazon_nova", "custom", "maritalk", "nlp_cloud", "oobabooga", "petals"}
)
"""Routes for which litellm has a blocking client, or aiohttp, which no transport of ours is under: nothing
would stop a second request, and no failure of theirs is tried again. By
`benchmarks/requests_by_provider.py`."""

_logger = logging.getLogger("agentless")
_warned: set[str] = set()


def set_up() -> None:
    """Put our transport wherever litellm makes one for its async clients."""

    def create_transport(ssl_context: Any = None, ssl_verify: Any = None, **options: Any) -> Any:
        verify = ssl_context if ssl_context is not None else ssl_verify if ssl_verify is not None else True
        cert = options.get("cert")  # what else there is are limits, a session, and HTTP/2
        return wire.WatchedTransport(verify=verify, **({} if cert is None else {"cert": cert}))

    reaches.TRANSPORTS.replace(lambda _: staticmethod(create_transport))
    reaches.PROXIED_TRANSPORT.replace(lambda _: wire.WatchedTransport)


def check() -> UnsupportedLitellmError | None:
    """Make litellm's two kinds of async clients: what is wrong if one is not on our connection.

    With the variable set it is a warning.
    """
    problem = _problem()
    if problem is None:
        return None
    version = reaches.version()
    text = (
        f"litellm {version or '(of an unknown version)'}: {problem}, so requests could be sent and paid "
        f'for twice, unseen; nothing was sent. Install "litellm{reaches.SUPPORTED}"'
    )
    if _is_allowed():
        _warn(f"{text.replace('; nothing was sent', '')}; going on by {_VARIABLE}")
        return None
    return UnsupportedLitellmError(
        f"{text}, or set {_VARIABLE}=1 to go on without that promise",
        version=version,
        supported=reaches.SUPPORTED,
    )


def _problem() -> str | None:
    for what, make in (("a client of its own", _generic_client), ("an OpenAI client", _openai_client)):
        try:
            client, made = make()
        except Exception as error:  # noqa: BLE001  # whatever has moved
            return f"{what} could not be made ({type(error).__name__}: {error})"
        found = [type(each).__name__ for each in _transports(client) if not _is_ours(each)]
        _forget(made)
        if found:
            return f"{what} is not on our connection but on {found[0]}"
    return None


def _generic_client() -> tuple[Any, Any]:
    made = reaches.GENERIC_CLIENT.find()(llm_provider="agentless")
    return made.client, made


def _openai_client() -> tuple[Any, Any]:
    route = reaches.OPENAI_ROUTE.find()()
    made = route._get_openai_client(  # noqa: SLF001  # as each of litellm's calls does
        is_async=True, api_key="none", api_base="http://127.0.0.1/agentless", max_retries=0
    )
    return made._client, made  # noqa: SLF001  # the SDK has no other name for it


def _transports(client: Any) -> Iterator[Any]:
    """The transports of an httpx client, with those for proxies; none of an application's own."""
    if client is _setting("aclient_session"):
        return
    yield client._transport  # noqa: SLF001  # httpx has no other name for them
    yield from (each for each in client._mounts.values() if each is not None)  # noqa: SLF001


def _is_ours(transport: Any) -> bool:
    return isinstance(transport, wire.WatchedTransport) or _setting("network_mock")


def _setting(name: str) -> Any:
    return reaches.Reach(name, (f"litellm:{name}",), "").find()


def _forget(made: Any) -> None:
    """Take a client out of litellm's cache: it was made to be looked at."""
    cache = reaches.CLIENTS.find()
    kept = getattr(cache, "cache_dict", {})
    for key in [key for key, value in list(kept.items()) if value is made]:
        kept.pop(key, None)
        getattr(cache, "ttl_dict", {}).pop(key, None)


def is_unwatched(route: str) -> bool:
    """Claims that what is sent by this route may not be seen."""
    return route in UNWATCHED or _is_allowed() or any(map(_setting, reaches.OWN_CLIENTS))


def note_answer(route: str, model: str, exchange: wire.Exchange) -> None:
    """Hold litellm, which has answered, to our connection having seen the request.

    Raises:
        UnwatchedReplyError: It has not, on a route where it should have.
    """
    if exchange.requests:
        return
    exchange.is_unwatched = True
    unseen = f"{model}: litellm answered, and our connection saw no request"
    if route in UNWATCHED:
        _warn(
            f'litellm\'s client for "{route}" is not watched: what it sends again, and pays for, is not seen'
        )
    elif found := [name for name in reaches.OWN_CLIENTS if _setting(name)]:
        _warn(f"{unseen}, because of litellm.{found[0]}: what it sends again, and pays for, is not seen")
    elif _is_allowed():
        _warn(f"{unseen}; going on by {_VARIABLE}")
    else:
        raise UnwatchedReplyError(
            f"{unseen}, so it may have been sent and paid for more than once (litellm "
            f"{reaches.version()}): look for litellm.cache, or for something else in the place of litellm's "
            f"client, or set {_VARIABLE}=1 to take such replies"
        )


def _is_allowed() -> bool:
    return os.environ.get(_VARIABLE, "0") not in {"", "0"}


def warn_of_version() -> bool:
    """Warn of a litellm that was not tested; claims that it was."""
    version = reaches.version()
    if reaches.is_supported(version):
        return True
    _warn(
        f"litellm {version or '(of an unknown version)'} has not been tested with this package "
        f"(litellm{reaches.SUPPORTED} has): it does all the work itself now, more slowly"
    )
    return False


def _warn(text: str) -> None:
    """Say it once in a process."""
    if text not in _warned:
        _warned.add(text)
        _logger.warning("%s", text)
