"""Does every option reach the wire, for every chat model of litellm's registry?

For each model and option: the request that agentless would make from a config that sets this option, mapped
by litellm as it maps a request before sending it (nothing is sent). A cell of the table is one of

- *raised*: litellm refused what we sent;
- *lost*: litellm left out, without a word, what we sent;
- *left out*: we dropped it, with a warning, although the registry says that the model can do it.

Usage: `python benchmarks/sweep.py [--verbose]`: `docs/models.md` on standard output, details with `--verbose`
on standard error. The exit status is 1 if anything was raised or lost.
"""

import argparse
import json
import logging
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from agentless.credentials import Credentials
from agentless.frozen import FrozenDict
from agentless.llm.capabilities import Capabilities
from agentless.llm.messages import prepare
from agentless.llm.provider_rows import find_provider
from agentless.llm.providers import build_request, capabilities_of, dropped_options
from agentless.llm.registry import load_registry
from agentless.settings import ModelSettings

TOOL = {
    "type": "function",
    "function": {
        "name": "str_replace_editor",
        "description": "Edit a file",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    },
}
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "answer",
        "schema": {
            "type": "object",
            "properties": {"answer": {"type": "string"}},
            "required": ["answer"],
            "additionalProperties": False,
        },
    },
}
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "tools": {"tools": [TOOL]},
    "prompt_cache": {"prompt_cache": True, "system_message": "You repair software."},
    "reasoning_effort": {"reasoning_effort": 0.5},
    "stop": {"stop": ["END", "STOP"]},
    "n": {},
    "temperature": {"temperature": 0.5},
    "top_p": {"top_p": 0.9},
    "tool_choice": {"tools": [TOOL], "tool_choice": "required"},
    "seed": {"seed": 7},
    "response_format": {"response_format": SCHEMA},
}
VALUES: tuple[Mapping[str, Any], ...] = (
    *(
        {"reasoning_effort": effort}
        for effort in (0.0, 1.0, "none", "minimal", "low", "medium", "high", "xhigh", "max")
    ),
    *({"tools": [TOOL], "tool_choice": choice} for choice in ("auto", "none")),
    {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "str_replace_editor"}}},
    {"response_format": {"type": "json_object"}},
    {"temperature": 0.5, "top_p": 0.9},
    {"reasoning_effort": "none", "temperature": 0.5},
)
"""Further values and pairs that must not be refused; the table counts only refusals of them."""

EVERYTHING: dict[str, Any] = {
    key: value for each in OPTIONS.values() for key, value in each.items() if key != "tool_choice"
}
CLAIMS = {
    "tools": "supports_function_calling",
    "prompt_cache": "supports_prompt_caching",
    "reasoning_effort": "supports_reasoning",
    "response_format": "supports_response_schema",
    "tool_choice": "supports_tool_choice",
}
"""What the registry says about an option; of the others it says nothing."""

SENT_AS = {
    "tools": ("tools",),
    "reasoning_effort": ("reasoning_effort", "thinking"),
    "stop": ("stop",),
    "n": ("n",),
    "temperature": ("temperature",),
    "top_p": ("top_p",),
    "tool_choice": ("tool_choice",),
    "seed": ("seed",),
    "response_format": ("response_format",),
}
"""Names of an option in our request: one of them."""

MAPPED = frozenset(
    {
        *(name for names in SENT_AS.values() for name in names),
        *("max_tokens", "max_completion_tokens", "allowed_openai_params", "stream"),
    }
)
"""What of a request litellm's mapping gets to see."""


HEADING = """\
# What reaches litellm, for every chat model

Made by `make sweep`, with litellm {version}: for each chat model of its registry and each option, the \
request that a config which sets it leads to, mapped by litellm as it would before sending.

*Raised*: litellm refused what we sent. *Lost*: litellm left it out without a word. The columns of options \
say for how many models each is sent; for the others it is left out by us, with a warning. The last column \
counts what is left out although the registry claims it: mostly a claim about the model that litellm's route \
to it does not carry.

"""


@dataclass
class Tally:
    """What became of the options of one provider's models."""

    models: int = 0
    raised: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)


def main() -> int:
    """Run the sweep and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--verbose", action="store_true", help="name each model and option on standard error")
    arguments = parser.parse_args()
    mapping = _Mapping()
    tallies: dict[str, Tally] = defaultdict(Tally)
    for key, provider, name in chat_models():
        tally = tallies[provider]
        tally.models += 1
        for option, outcome, detail in _outcomes(mapping, key, provider, name):
            getattr(tally, outcome)[option] += 1
            if arguments.verbose and outcome != "sent":
                print(f"{outcome:9} {option:17} {provider} {name}: {detail}", file=sys.stderr)
    print(HEADING.format(version=version("litellm")) + _table(tallies))
    return int(any(tally.raised or tally.lost for tally in tallies.values()))


def chat_models() -> Iterator[tuple[str, str, str]]:
    """Each chat model of the registry: its key there, and how a config would name provider and model."""
    for key, entry in load_registry().items():
        if entry.get("mode") != "chat":
            continue
        provider = str(entry["litellm_provider"])
        for family in ("vertex_ai", "bedrock_converse"):
            if provider.startswith(family):
                provider = family.removesuffix("_converse")
        prefix = key.split("/", 1)[0]
        name = key.split("/", 1)[1] if prefix.replace("-", "_") == provider.replace("-", "_") else key
        yield key, provider, name


class _Mapping:
    """litellm's own mapping of a request to its provider's, without sending it."""

    def __init__(self) -> None:
        os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
        os.environ["LITELLM_MODE"] = "PRODUCTION"
        import litellm

        litellm.suppress_debug_info = True
        logging.getLogger("LiteLLM").setLevel(logging.CRITICAL)
        self.litellm = litellm

    def __call__(self, request: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        """The options as the provider gets them, and the body as text where litellm makes it itself."""
        provider, model = request["model"].split("/", 1)
        if provider != "github_copilot":  # asked about this one, litellm logs in over the network
            model, provider, _, _ = self.litellm.get_llm_provider(
                model=request["model"], api_base=request.get("api_base")
            )
        known = {key: value for key, value in request.items() if key in MAPPED}
        options: dict[str, Any] = self.litellm.utils.get_optional_params(
            model=model, custom_llm_provider=provider, messages=request["messages"], **known
        )
        return options, self._body(model, provider, request, options)

    def _body(self, model: str, provider: str, request: Mapping[str, Any], options: dict[str, Any]) -> str:
        """The whole request, which litellm's provider-specific code writes; only looked at for marks."""
        if "cache_control" not in json.dumps(request["messages"]):
            return ""
        from litellm.types.utils import LlmProviders

        config = self.litellm.utils.ProviderConfigManager.get_provider_chat_config(
            model=model, provider=LlmProviders(provider)
        )
        body = config.transform_request(
            model=model,
            messages=request["messages"],
            optional_params=dict(options),
            litellm_params={},
            headers={},
        )
        return json.dumps(body, default=str)


def _outcomes(mapping: _Mapping, key: str, provider: str, name: str) -> Iterator[tuple[str, str, str]]:
    """For each option: its name, what became of it, and the detail."""
    plain = _settings(provider, name, {})
    capabilities = capabilities_of(plain)
    if dropped := dropped_options(plain, capabilities):
        yield "nothing set", "raised", f"warned: {dropped}"
    try:
        before, _ = mapping(_request(plain, capabilities))
    except Exception as error:  # noqa: BLE001 - whatever litellm raises is the finding
        yield "nothing set", "raised", _short(error)
        return
    entry = load_registry()[key]
    for option, values in OPTIONS.items():
        settings = _settings(provider, name, values)
        n = 2 if option == "n" and capabilities.native_n else 1
        request = _request(settings, capabilities, n=n)
        is_dropped = any(each.option == option for each in dropped_options(settings, capabilities))
        if option == "n" and n == 1:
            continue
        if is_dropped:
            if entry.get(CLAIMS.get(option, "")) is True:
                yield option, "left_out", "the registry says it can"
            continue
        if option == "prompt_cache" and not capabilities.cache_breakpoints:
            continue  # nothing to send: the service caches by itself
        if option != "prompt_cache" and not any(each in request for each in SENT_AS[option]):
            yield option, "lost", "neither sent nor reported by us"
            continue
        try:
            after, body = mapping(request)
        except Exception as error:  # noqa: BLE001 - as above
            yield option, "raised", _short(error)
            continue
        base = before if option != "tool_choice" else _without_choice(mapping, request)
        arrived = _marks(body) if option == "prompt_cache" else base != after
        yield option, "sent" if arrived else "lost", "" if arrived else str(after)
    yield from _all_at_once(mapping, provider, name, capabilities)


def _all_at_once(
    mapping: _Mapping, provider: str, name: str, capabilities: Capabilities
) -> Iterator[tuple[str, str, str]]:
    """What is fine alone may be refused beside others: temperature while it thinks, for one."""
    for values in (*VALUES, EVERYTHING):
        settings = _settings(provider, name, values)
        try:
            mapping(_request(settings, capabilities, n=2 if capabilities.native_n else 1))
        except Exception as error:  # noqa: BLE001 - whatever litellm raises is the finding
            yield (
                "together",
                "raised",
                f"{values if values is not EVERYTHING else 'everything'}: {_short(error)}",
            )


def _without_choice(mapping: _Mapping, request: Mapping[str, Any]) -> dict[str, Any]:
    return mapping({key: value for key, value in request.items() if key != "tool_choice"})[0]


def _marks(body: str) -> bool:
    return "cache_control" in body or "cachePoint" in body


def _settings(provider: str, name: str, values: Mapping[str, Any]) -> ModelSettings:
    # A provider that litellm has prices of and no route to can be reached by its address.
    given: dict[str, Any] = {"provider": provider, "name": name, **values}
    if not find_provider(provider):
        given["base_url"] = "https://provider.invalid/v1"
    if "reasoning_effort" in values:
        given["max_new_tokens"] = 2048
    return ModelSettings(**given)


def _request(settings: ModelSettings, capabilities: Capabilities, n: int = 1) -> dict[str, Any]:
    messages, _ = prepare(
        "Repair this.", capabilities=capabilities, system_message=settings.system_message, model=settings.name
    )
    credentials = Credentials("key", settings.base_url, settings.api_version, FrozenDict())
    return build_request(settings, capabilities, messages, n=n, credentials=credentials)


def _short(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _table(tallies: Mapping[str, Tally]) -> str:
    columns = list(OPTIONS)
    lines = [
        f"| provider | models | raised | lost | {' | '.join(columns)} | left out, claimed by the registry |",
        f"|---|{'---:|' * (len(columns) + 3)}---|",
    ]
    total = Tally()
    for provider, tally in sorted(tallies.items(), key=lambda item: (-item[1].models, item[0])):
        lines.append(_row(provider, tally, columns))
        total.models += tally.models
        for kind in ("raised", "lost", "left_out", "sent"):
            getattr(total, kind).update(getattr(tally, kind))
    lines.append(_row("**all**", total, columns))
    return "\n".join(lines)


def _row(name: str, tally: Tally, columns: list[str]) -> str:
    left = ", ".join(f"{option} {count}" for option, count in sorted(tally.left_out.items()))
    sent = " | ".join(str(tally.sent[option]) for option in columns)
    return f"| {name} | {tally.models} | {tally.raised.total()} | {tally.lost.total()} | {sent} | {left} |"


if __name__ == "__main__":
    sys.exit(main())
