"""Keys: how settings keep them unseen, and how `env:` references become values.

A key is a `Secret` from the moment it is read. It is looked up in the environment only when a model is
made, because a config lists many models and a user holds few of their keys.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Never
from urllib.parse import urlsplit, urlunsplit

from pydantic_core import core_schema

from agentless.errors import CredentialError
from agentless.frozen import FrozenDict
from agentless.problems import Finding, Refusal, key_path, kind_of

MASK = "**********"
ENV = "env:"
_ENV_REFERENCE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*")
# Only capitals: what else follows a $ may be a key, and is not to be shown.
_SHELL_REFERENCE = re.compile(r"\$\{?([A-Z_][A-Z0-9_]*)\}?")
_SHELL_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, token
KEY_ALLOWED = 'a key, or "env:VARIABLE"'


class Secret:
    """A key, or an `env:VARIABLE` reference to one. Its text shows the reference, never a key.

    `get_secret_value` tells it, as on pydantic's `SecretStr`. A reference can be pickled, a key cannot.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def get_secret_value(self) -> str:
        """The key or the reference, as it was written."""
        return self._value

    @property
    def variable(self) -> str | None:
        """The environment variable that holds the key; `None` where the key itself is here."""
        return self._value.removeprefix(ENV) if self._value.startswith(ENV) else None

    def __str__(self) -> str:
        return MASK if self.variable is None else self._value

    def __repr__(self) -> str:
        return f"Secret({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __copy__(self) -> "Secret":
        return self

    def __deepcopy__(self, memo: object) -> "Secret":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if self.variable is None:
            refuse_pickling("a key that is written out")
        return Secret, (self._value,)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            read_secret, serialization=core_schema.to_string_ser_schema()
        )


@dataclass(frozen=True, slots=True)
class Credentials:
    """Settings' references, resolved: what one model sends to its service. Never shown, never pickled.

    Where the settings have no `api_key` it is `None`: the provider's usual variable is looked up by
    whoever knows the provider.
    """

    api_key: str | None
    base_url: str | None
    api_version: str | None
    extra_headers: Mapping[str, str]

    def secrets(self) -> tuple[str, ...]:
        """Every text in here that must not be shown, for whoever has to blot it out of a message."""
        url = urlsplit(self.base_url or "")
        texts = (self.api_key, *self.extra_headers.values(), url.username, url.password, url.query)
        return tuple(text for text in texts if text)

    def __repr__(self) -> str:
        headers = dict.fromkeys(self.extra_headers, MASK)
        return (
            f"Credentials(api_key={self.api_key and MASK!r}, base_url={shown_url(self.base_url)!r}, "
            f"api_version={self.api_version!r}, extra_headers={headers!r})"
        )

    def __reduce__(self) -> Never:
        refuse_pickling("a resolved key")


def resolve(
    reference: str | Secret | None, *path: str, model: str, environ: Mapping[str, str] | None = None
) -> str | None:
    """The text that a setting stands for.

    Args:
        reference: A literal, or `env:VARIABLE`; `None` stays `None`.
        path: The way to the setting within its table, for the error.
        model: The config's name of the model, for the error.
        environ: Where variables are looked up; `os.environ` by default.

    Raises:
        CredentialError: The variable is not set, is blank, or cannot be sent.
    """
    text = reference.get_secret_value() if isinstance(reference, Secret) else reference
    if text is None or not text.startswith(ENV):
        return text
    variable = text.removeprefix(ENV)
    variables = os.environ if environ is None else environ
    # A key read from a file often ends with its line break, which no header may have.
    value = variables.get(variable, "").strip()
    state = "is not set" if variable not in variables else "is empty" if not value else ""
    if not state and not value.isprintable():
        state = "has control characters in it"
    elif not state and path == ("base_url",) and _url_fault(value):
        state = "does not hold an http:// or https:// address"
    if state:
        where = key_path(("models", model, *path))
        raise CredentialError(
            f'{where}: the environment variable {variable} {state} (model "{model}")',
            model=model,
            variable=variable,
        )
    return value


def read_secret(value: Any) -> Secret:
    """A key from a config: refused without being shown."""
    text = value.get_secret_value() if isinstance(value, Secret) else value
    if not isinstance(text, str):
        raise ValueError(f"found {kind_of(text)}; allowed: {KEY_ALLOWED}")  # noqa: TRY004 - pydantic's way
    return Secret(_checked_text(text, KEY_ALLOWED))


def read_reference(value: Any) -> str:
    """A text that may be an `env:` reference, such as `api_version`."""
    allowed = 'a string, or "env:VARIABLE"'
    if not isinstance(value, str):
        raise ValueError(f"found {kind_of(value)}; allowed: {allowed} (in quotes)")  # noqa: TRY004
    return _checked_text(value, allowed)


def read_url(value: Any) -> str:
    """A service's address, or an `env:` reference to it."""
    allowed = 'an address such as "https://host/v1", or "env:VARIABLE"'
    if not isinstance(value, str):
        raise ValueError(f"found {kind_of(value)}; allowed: {allowed}")  # noqa: TRY004
    text = _checked_text(value, allowed)
    fault = "" if text.startswith(ENV) else _url_fault(text)
    if fault:
        raise ValueError(f"{fault}; allowed: {allowed}")
    return text


def read_headers(value: Any) -> Mapping[str, Secret]:
    """A table of HTTP headers; every value counts as a secret."""
    if not isinstance(value, Mapping):
        raise ValueError(  # noqa: TRY004 - pydantic's way
            f"found {kind_of(value)}; allowed: a table of header names and strings"
        )
    headers: dict[str, Secret] = {}
    findings: list[Finding] = []
    for name, text in value.items():
        try:
            if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
                raise ValueError("not a header's name; allowed: letters, digits and -")  # noqa: TRY301
            headers[name] = read_secret(text)
        except ValueError as error:
            findings.append(((str(name),), str(error).replace("a key", "a string")))
    if findings:
        raise Refusal(findings)
    return FrozenDict(headers)


def shown_url(url: str | None) -> str | None:
    """The address without what may be a key in it: user, password and query."""
    if not url or url.startswith(ENV):
        return url
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    netloc = f"***@{host}" if "@" in parts.netloc else host
    return urlunsplit(parts._replace(netloc=netloc, query="***" if parts.query else "", fragment=""))


def refuse_pickling(what: str) -> Never:
    """Raise the error that says how settings can travel between processes.

    Raises:
        PicklingError: Always.
    """
    import pickle

    raise pickle.PicklingError(
        f'{what} is not pickled, so that it is never stored: write "env:VARIABLE" in the config instead, '
        "and set that variable where the pickle is read"
    )


def _checked_text(text: str, allowed: str) -> str:
    shell = _SHELL_REFERENCE.fullmatch(text)
    if shell:
        raise ValueError(f'found a shell variable; allowed: {allowed}; did you mean "env:{shell[1]}"?')
    if text.lower().lstrip().startswith(ENV) and not _ENV_REFERENCE.fullmatch(text):
        name = text.split(":", 1)[1].strip(" ${}")
        hint = f'; did you mean "env:{name}"?' if _SHELL_NAME.fullmatch(name) else ""
        raise ValueError(
            'found an "env:" without the name of a variable; '
            f"allowed: letters, digits and _ after env:, without spaces{hint}"
        )
    if not text.strip():
        raise ValueError(f"found an empty string; allowed: {allowed}")
    if text != text.strip() or not text.isprintable():
        raise ValueError(f"found a string with spaces around it or control characters; allowed: {allowed}")
    return text


def _url_fault(text: str) -> str:
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 - reading it checks it
    except ValueError:
        return "found a string that is no address"
    if parts.scheme not in {"http", "https"} or not parts.hostname or " " in text:
        return "found a string without http:// or https:// and a host"
    return ""
