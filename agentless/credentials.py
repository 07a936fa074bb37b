"""Keys: how settings keep them unseen, and how `env:` references become values.

In settings a key is a `Secret`. It is looked up in the environment only when a model is made, because a
config lists many models and a user holds few of their keys. From there to the wire it is a `Hidden`: a `str`
to whoever sends it, and a row of stars to whoever prints what holds it, such as a traceback's variables.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Never
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

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
_LITELLM_REFERENCE = re.compile(r"os\.environ[/\[.]\W*(?:get\W+)?([A-Za-z_][A-Za-z0-9_]*)\W*")
_PLACEHOLDER = re.compile(r"(?i)<.*>|\{.*\}|(sk-)?your[-_ ]([a-z0-9]+[-_ ])*key([-_ ]here)?")
_QUOTES = "\"'`\u2018\u2019\u201c\u201d"
_SHORTEST_WORD = 8  # shorter parts of a header or an address are words of many texts


class Hidden(str):
    """A text that goes on the wire as it is, and whose `repr` does not show it; it is not pickled."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(MASK)

    def __copy__(self) -> "Hidden":
        return self

    def __deepcopy__(self, memo: object) -> "Hidden":
        return self

    def __reduce_ex__(self, protocol: object) -> Never:
        refuse_pickling("a resolved key")


class HiddenURL(Hidden):
    """An address with a user, a password or a query in it; its `repr` shows the rest."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(shown_url(str(self)))


class HiddenValues(dict[str, Any]):
    """Headers or arguments as a `dict` whose `repr` shows the names alone."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(dict.fromkeys(self, MASK))


def hidden_url(url: str) -> str:
    """The address, hidden where there may be a key in it."""
    plain = str(url)
    return plain if shown_url(plain) == plain else HiddenURL(plain)


def hide_keys(table: Any) -> Any:
    """A copy of what was read from a file or given as settings, with hidden texts where keys belong."""
    return {name: _hide(name, each) for name, each in table.items()} if isinstance(table, Mapping) else table


def _hide(name: Any, value: Any) -> Any:
    if name == "extra_headers" and isinstance(value, Mapping):
        return {header: Hidden(text) if _is_plain(text) else text for header, text in value.items()}
    if name == "extra_body" and isinstance(value, Mapping):
        return HiddenValues(value)
    kind = {"api_key": Hidden, "base_url": HiddenURL}.get(name)
    return kind(value) if kind is not None and _is_plain(value) else hide_keys(value)


def _is_plain(text: Any) -> bool:
    return isinstance(text, str) and not text.startswith(ENV)


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
        """Every text in here that must not be shown, the longest first, for whoever has to blot it out."""
        # Short values of headers, such as `true`, are no keys, and stand in many texts.
        headers = (text for text in self.extra_headers.values() if len(text) >= _SHORTEST_WORD)
        return secret_parts(self.base_url or "", *filter(None, (self.api_key, *headers)))

    def __repr__(self) -> str:
        headers = dict.fromkeys(self.extra_headers, MASK)
        return (
            f"Credentials(api_key={self.api_key and MASK!r}, base_url={shown_url(self.base_url)!r}, "
            f"api_version={self.api_version!r}, extra_headers={headers!r})"
        )

    def __reduce__(self) -> Never:
        refuse_pickling("a resolved key")


def look_up(variable: str, environ: Mapping[str, str] | None = None) -> str:
    """A variable's text, hidden and without the line break that a file's key ends with; else `""`.

    The one place that looks at the environment, so that nobody else holds all of it while something fails.
    """
    return Hidden((os.environ if environ is None else environ).get(variable, "").strip())


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
        CredentialError: The variable is not set, is blank, or cannot be sent; or the text is no key.
    """
    text = reference.get_secret_value() if isinstance(reference, Secret) else reference
    if text is None:
        return None
    where = key_path(("models", model, *path))
    if not text.startswith(ENV):
        text = hidden_url(text) if path == ("base_url",) else Hidden(text)
        check_key(text, path, where=where, model=model)
        return text if path != ("api_version",) else str(text)
    variable = text.removeprefix(ENV)
    value = look_up(variable, environ)
    state = (
        ""
        if value
        else "is empty"
        if variable in (os.environ if environ is None else environ)
        else "is not set"
    )
    if not state and not value.isprintable():
        state = "has control characters in it"
    elif not state and path == ("base_url",) and _url_fault(value):
        state = "does not hold an http:// or https:// address"
    if state:
        raise CredentialError(
            f'{where}: the environment variable {variable} {state} (model "{model}")',
            model=model,
            variable=variable,
        )
    check_key(value, path, where=f"{where}: the environment variable {variable}", model=model)
    return (
        hidden_url(str(value)) if path == ("base_url",) else value if path != ("api_version",) else str(value)
    )


def check_key(text: str, path: tuple[str, ...], *, where: str, model: str) -> None:
    """Refuse what no service takes for a key, or for a header's value, before it costs a request.

    Raises:
        CredentialError: It begins with `where`; the text is not shown, only what to do about it.
    """
    fault = key_fault(text, is_key=path[:1] == ("api_key",))
    if fault and path != ("base_url",):
        raise CredentialError(f'{where} {fault} (model "{model}")', model=model)


def key_fault(text: str, *, is_key: bool = True) -> str:
    """What is wrong with a key and what to do, or `""`; a header's value may have quotes and brackets."""
    reference = _LITELLM_REFERENCE.fullmatch(text)
    if reference:
        return f'is litellm\'s way to name a variable; write "env:{reference[1]}"'
    if not text.isascii():
        number = next(place for place, letter in enumerate(text, 1) if not letter.isascii())
        quotes = " (a typographic quote)" if text[number - 1] in _QUOTES else ""
        return (
            f"has a character beyond ASCII at place {number}{quotes}, which no header may have; copy it anew"
        )
    if not is_key:
        return ""
    if text[0] in _QUOTES or text[-1] in _QUOTES:
        return "has quotes in it; write it without them"
    if _PLACEHOLDER.fullmatch(text):
        return "is a placeholder, as documentation has it; put your own key there"
    return ""


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
    return hidden_url(text)


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


def secret_parts(url: str, *texts: str) -> tuple[str, ...]:
    """What must not be shown of an address and of texts, in every way to write it, the longest first."""
    held = (*texts, *map(str, _parts_of(url)))
    words = {*held, *(word for text in held for word in text.split() if len(word) >= _SHORTEST_WORD)}
    written = {each for word in words for each in (word, quote(word, safe=""), unquote(word))}
    return tuple(map(Hidden, sorted(filter(None, written), key=len, reverse=True)))


def _parts_of(url: str) -> list[str]:
    """What may be a key in an address: its password and query, and a user that is alone or long."""
    parts = urlsplit(url)
    found = [parts.password or "", parts.query, *(value for _, value in parse_qsl(parts.query))]
    user = parts.username or ""
    if not parts.password or len(user) >= _SHORTEST_WORD:
        found.append(user)
    if user or parts.password:
        from base64 import b64encode

        pair = f"{unquote(user)}:{unquote(parts.password or '')}"
        found.append(b64encode(pair.encode()).decode())  # as a header has it
    return found


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
