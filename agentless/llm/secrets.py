"""The keys that this process has sent, and how they are taken out of a text: an error's, or a log's.

At DEBUG, litellm and the clients below it log addresses, headers and what a service answers. A filter on
those loggers, and on no others, takes out what we know to be a key.
"""

import logging
from collections.abc import Iterable
from typing import Any

from agentless.credentials import Hidden, secret_parts

_REDACTED = "[redacted]"
_SHORTEST = 4  # a shorter one is a placeholder, and part of many words
_LOGGERS = (
    "LiteLLM",
    "LiteLLM Proxy",
    "LiteLLM Router",
    *(
        f"httpcore{version}.{part}"
        for version in ("", "2")
        for part in ("connection", "http11", "http2", "proxy", "socks")
    ),
    *("httpx", "httpx2", "openai", "openai._base_client", "openai._legacy_response", "openai._response"),
)

_known: set[str] = set()
_addresses: set[str] = set()


def usable(secrets: Iterable[str]) -> tuple[str, ...]:
    """Those that are long enough to be looked for."""
    return tuple(secret for secret in secrets if len(secret) >= _SHORTEST)


def remember(secrets: Iterable[str]) -> None:
    """Keep these out of other libraries' logs from now on."""
    _known.update(map(Hidden, usable(secrets)))


def remember_address(address: str) -> None:
    """Keep a proxy's user and password out of logs and errors; they are in no settings."""
    remember(secret_parts(address))
    _addresses.update(usable(secret_parts(address)))


def of_proxies() -> tuple[str, ...]:
    """What `remember_address` was told, the longest first."""
    return _sorted(_addresses)


def _sorted(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(words, key=len, reverse=True))


def without(text: str, words: Iterable[str]) -> str:
    """The text with each of the words blotted out."""
    for word in words:
        if word in text:
            text = text.replace(word, _REDACTED)
    return text


def redacted(text: str) -> str:
    """The text without any key that this process has sent: a service may echo it."""
    return without(text, _sorted(_known))


class _Filter(logging.Filter):
    """Lets every record pass, without keys."""

    def filter(self, record: logging.LogRecord) -> bool:
        words = _sorted(_known)
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001  # the handler tells whose mistake it is
            return True
        if any(word in text for word in words):
            record.msg, record.args = without(text, words), ()
        if record.exc_info and not record.exc_text:
            record.exc_text = without(_formatter.formatException(record.exc_info), words)
        return True


_formatter = logging.Formatter()
_filter = _Filter()


def watch_logs() -> None:
    """Put the filter on the loggers of litellm and of the clients below it; once."""
    names: Iterable[Any] = {*_LOGGERS, *(name for name in logging.root.manager.loggerDict if _is_below(name))}
    for name in names:
        logging.getLogger(name).addFilter(_filter)  # which adds it once


def _is_below(name: str) -> bool:
    return name.split(".", 1)[0] in {"LiteLLM", "httpcore", "httpcore2", "httpx", "httpx2", "openai"}
