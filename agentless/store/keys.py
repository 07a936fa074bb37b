r"""What makes two requests equal: our own normal form of a request, and its key; pure.

The key is a sha256 over canonical JSON (sorted names, ASCII, no spaces) of what decides on the answer, after
capabilities have been applied: never over what a library sends, whose upgrade would pay for everything again.

    equal                                         different
    1 and 1.0, -0.0 and 0                         1 and true
    tuples and lists                              "é" composed and decomposed: other tokens
    any order of an object's names                any order of a list
    a content of one text part, and its text      two text parts, and their texts joined
    max_tokens and max_completion_tokens          max_tokens=512 and none at all
    http://a@host:1/v1/?k=v and https://host/v1   another host, another path
    with and without marks for prompt caching
    "\ud83d\ude00", and the character they encode

A lone surrogate is kept as its escape. NaN, infinities, names that are no texts and what is not JSON are
refused, as are options that are in none of the tables below: what is new has to be put in one of them.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self
from urllib.parse import urlsplit

KEY_VERSION = 1
"""In every key. To raise it is to pay for everything again, unless a migration makes new keys of old ones."""

OPTIONS = frozenset(
    {
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "max_tokens",
        "min_p",
        "modalities",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "repetition_penalty",
        "seed",
        "stop",
        "temperature",
        "top_k",
        "top_logprobs",
        "top_p",
        "verbosity",
        "web_search_options",
    }
)
"""What a request says about sampling, by the names that litellm has for it."""

FIELD_OF = {
    **dict.fromkeys(OPTIONS, "options"),
    "tools": "tools",
    "tool_choice": "tool_choice",
    "response_format": "response_format",
    "reasoning_effort": "reasoning",
    "thinking": "reasoning",
    "extra_body": "extra_body",
}
"""In the key, and in which of its fields."""

NOT_IN_KEY = frozenset(
    {
        "allowed_openai_params",
        "api_base",
        "api_key",
        "api_version",  # comes by itself, resolved
        "base_url",  # the same
        "cache_control_injection_points",
        "custom_llm_provider",
        "extra_headers",
        "headers",
        "max_retries",
        "messages",  # the same
        "metadata",
        "model",  # the same
        "n",
        "num_retries",
        "prompt_cache_key",
        "prompt_cache_retention",
        "service_tier",
        "store",
        "stream",
        "stream_options",
        "stream_timeout",
        "timeout",
        "user",
    }
)
"""Who asks, how fast, how often and for how much: the answer is as good for any."""

_OTHER_NAMES = {"max_completion_tokens": "max_tokens", "max_output_tokens": "max_tokens"}
_CACHE_MARK = "cache_control"
_EXACT = 2**53  # up to here, every whole float is one integer


@dataclass(frozen=True, eq=False)
class Request:
    """One request in its normal form; `of` makes it.

    `fields` are plain JSON: provider, model, address (host and path), api_version, messages, options,
    tools, tool_choice, response_format, reasoning, extra_body. What is not set is not there.
    """

    fields: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        provider: str,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        values: Mapping[str, Any] | None = None,
        *,
        base_url: str | None = None,
        api_version: str | None = None,
    ) -> Self:
        """The request's normal form.

        Args:
            provider: Its name in the config.
            model: The service's name of the model.
            messages: The conversation, with or without marks for prompt caching.
            values: What else is sent, by litellm's names: those of `FIELD_OF` come into the key, those of
                `NOT_IN_KEY` (keys and headers among them) go no further than this function.
            base_url: Only host and path are kept.
            api_version: As it is sent.

        Raises:
            ValueError: A name in `values` is unknown, or something is not JSON.
        """
        fields: dict[str, Any] = {"provider": provider, "model": model}
        fields["address"] = address_of(base_url) if base_url else None
        fields["api_version"] = api_version
        fields["messages"] = [_message(each) for each in messages]
        for given, value in (values or {}).items():
            name = _OTHER_NAMES.get(given, given)
            field = FIELD_OF.get(name)
            if field is None and name not in NOT_IN_KEY:
                raise ValueError(f"{given}: it is not said whether this is a part of a request's key")
            if field is None or value is None:
                continue
            if field == name:
                fields[field] = _without_marks(value) if name == "tools" else value
            else:
                fields.setdefault(field, {})[name] = value
        return cls(
            {name: _plain(value, name) for name, value in fields.items() if value not in (None, {}, [])}
        )

    @classmethod
    def read(cls, text: str) -> Self:
        """The request of a stored text."""
        document = json.loads(text)
        document.pop("key_version", None)
        return cls(document)

    @cached_property
    def text(self) -> str:
        """Canonical JSON, `key_version` included: what the key is made of."""
        return canonical({"key_version": KEY_VERSION, **self.fields})

    @cached_property
    def key(self) -> str:
        """64 hexadecimal digits: equal for equal requests, today and under every later version."""
        return hashlib.sha256(self.text.encode("ascii")).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Request) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"Request({self.provider}/{self.model}, {self.key[:12]})"

    @property
    def provider(self) -> str:
        """Its name in the config."""
        return str(self.fields["provider"])

    @property
    def model(self) -> str:
        """The service's name of the model."""
        return str(self.fields["model"])

    @cached_property
    def messages_hash(self) -> str:
        """Equal where the same is asked, under whichever settings."""
        return _short(self.fields.get("messages"))

    @cached_property
    def settings_hash(self) -> str:
        """Equal where all but the messages is the same."""
        return _short({name: value for name, value in self.fields.items() if name != "messages"})

    @cached_property
    def is_repeatable(self) -> bool:
        """Claims that asking again gives the same: it is greedy (a temperature of 0) or has a seed."""
        sent = {**self.fields.get("options", {}), **self.fields.get("extra_body", {})}
        return sent.get("temperature") == 0 or sent.get("seed") is not None


def canonical(value: Any) -> str:
    """JSON in the one way that we write it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def address_of(url: str) -> str:
    """Host and path of an address: no user, port or query, in which there may be a key or a machine's mood.

    The port is left out because a server of one's own has another one after each start.
    """
    parts = urlsplit(url if "://" in url else f"//{url}")
    return (parts.hostname or "") + parts.path.rstrip("/")


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    plain = {name: _without_marks(value) for name, value in message.items() if name != _CACHE_MARK}
    content = plain.get("content")
    if isinstance(content, list | tuple) and len(content) == 1:
        part = content[0]
        if isinstance(part, Mapping) and part.keys() == {"type", "text"} and part["type"] == "text":
            plain["content"] = part["text"]  # how a mark for caching is attached to a text
    return plain


def _without_marks(value: Any) -> Any:
    """Without the marks of a list's members: content parts and tools."""
    if not isinstance(value, list | tuple):
        return value
    return [
        {name: item for name, item in each.items() if name != _CACHE_MARK}
        if isinstance(each, Mapping)
        else each
        for each in value
    ]


def _plain(value: Any, where: str) -> Any:
    """Plain JSON, a number that is whole as an integer."""
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where}: {value} is no number of JSON")
        return int(value) if value.is_integer() and abs(value) <= _EXACT else value
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise ValueError(f"{where}: the name {name!r} is not a text")  # noqa: TRY004 - it is the value's
        return {name: _plain(item, f"{where}.{name}") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{position}]") for position, item in enumerate(value)]
    raise ValueError(f"{where}: a {type(value).__name__} is not JSON")


def _short(value: Any) -> str:
    return hashlib.sha256(canonical(value).encode("ascii")).hexdigest()[:16]
