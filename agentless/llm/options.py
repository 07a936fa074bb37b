"""What becomes of each setting on the way to a model: sent, changed, left out with a reason, or refused.

Pure, and the one place that decides: `providers.build_request` sends `settle(...).values`, and
`dropped_options` tells `settle(...).dropped`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agentless.errors import ConfigError, Problem, UnsupportedFeatureError
from agentless.frozen import thaw
from agentless.llm.capabilities import Capabilities
from agentless.settings import ModelSettings
from agentless.values import EFFORTS

BUDGETS: Mapping[str, int] = {"low": 1024, "medium": 2048, "high": 4096}
"""Tokens of thinking that an effort stands for, where it is said in tokens."""

LEAST_BUDGET = 1024  # Anthropic takes no less, and it has to stay below max_tokens


@dataclass(frozen=True)
class Dropped:
    """One setting that does not go out as it was set."""

    option: str
    """Its key in the config."""

    reason: str
    """Why, as a sentence without its subject: "is left out: ..."."""

    remedy: str
    """What to change."""

    changed: bool = False
    """It goes out, but not with the value that was set (`modify_params`)."""

    def __str__(self) -> str:
        return f"{self.option} {self.reason}; {self.remedy}"


@dataclass
class Settled:
    """What is sent, by litellm's names, and what is not."""

    values: dict[str, Any] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)
    effort: str | None = None
    length: int = 0
    prompt_cache: bool = False

    def drop(self, option: str, reason: str, remedy: str = "") -> None:
        """Leave a setting out."""
        remedy = remedy or f"remove {option}, or say what the model can do under capabilities"
        self.dropped.append(Dropped(option, f"is left out: {reason}", remedy))


def dropped_options(settings: ModelSettings, capabilities: Capabilities) -> tuple[Dropped, ...]:
    """The settings that the user wrote and that do not go out as they are.

    Raises:
        ConfigError: A setting can be neither sent nor left out (too many stop words, no room to think, a
            reply longer than the model's with `modify_params = false`).
        UnsupportedFeatureError: With `drop_params = false`, for the first that would be left out.
    """
    return tuple(settle(settings, capabilities).dropped)


def settle(
    settings: ModelSettings, capabilities: Capabilities, *, prompt_cache: bool | None = None
) -> Settled:
    """Decide on every setting; raises as `dropped_options` does."""
    settled = Settled()
    _settle_length(settings, capabilities, settled)
    _settle_effort(settings, capabilities, settled)
    _settle_sampling(settings, capabilities, settled)
    _settle_stop(settings, capabilities, settled)
    _settle_tools(settings, capabilities, settled)
    _settle_format(settings, capabilities, settled)
    if settings.seed is not None:
        if capabilities.supports_seed:
            settled.values["seed"] = settings.seed
        else:
            settled.drop("seed", "no seed can be set for this model")
    if settings.prompt_cache if prompt_cache is None else prompt_cache:
        settled.prompt_cache = capabilities.supports_prompt_cache
        if not capabilities.supports_prompt_cache:
            settled.drop("prompt_cache", "this model is not known to cache prompts")
    lost = [each for each in settled.dropped if not each.changed]
    if lost and not settings.drop_params:
        raise UnsupportedFeatureError(
            f"{settings.name} ({settings.provider}): "
            + "; ".join(
                f"{each.option} {each.reason.replace('is left out', 'cannot be sent')}" for each in lost
            )
            + f". To change: {lost[0].remedy}, or set drop_params = true to go on without",
            model=settings.name,
            option=lost[0].option,
        )
    return settled


def effort_word(effort: float | str, words: tuple[str, ...] = ()) -> str:
    """The word for an effort: below 1/3 low, below 2/3 medium, else high.

    A number means an amount, so where a model lacks the word its next higher one is taken, or its highest.
    """
    if isinstance(effort, str):
        return effort
    scale = EFFORTS[1:]
    word = "low" if effort < 1 / 3 else "medium" if effort < 2 / 3 else "high"
    usable = [each for each in scale if each in words]
    if not usable or word in usable:
        return word
    above = [each for each in usable if scale.index(each) > scale.index(word)]
    return above[0] if above else usable[-1]


def _is_set(settings: ModelSettings, option: str) -> bool:
    return option in settings.model_fields_set and getattr(settings, option) is not None


def _refuse(settings: ModelSettings, option: str, text: str) -> ConfigError:
    return ConfigError.of([Problem(option, f"{text} (model {settings.name})")])


def _settle_length(settings: ModelSettings, capabilities: Capabilities, settled: Settled) -> None:
    asked, most = settings.max_new_tokens, capabilities.max_output_tokens
    if most is not None and asked > most:
        if not _is_set(settings, "max_new_tokens"):
            asked = most
        elif not settings.modify_params:
            raise _refuse(
                settings,
                "max_new_tokens",
                f"found {asked}; the model's longest reply has {most} tokens, and modify_params is false",
            )
        else:
            settled.dropped.append(
                Dropped(
                    "max_new_tokens",
                    f"is sent as {most} instead of {asked}: longer replies this model does not give",
                    f"set it to {most} or less, or correct capabilities.max_output_tokens",
                    changed=True,
                )
            )
            asked = most
    settled.length = asked
    if capabilities.token_limit_name is not None:
        settled.values[capabilities.token_limit_name] = asked
    elif _is_set(settings, "max_new_tokens"):
        settled.drop("max_new_tokens", "the length of this model's replies cannot be limited")


def _settle_effort(settings: ModelSettings, capabilities: Capabilities, settled: Settled) -> None:
    if settings.reasoning_effort is None:
        return
    words = capabilities.effort_words
    word = effort_word(settings.reasoning_effort, words)
    if not capabilities.supports_reasoning_effort:
        if word != "none":  # a model that has no effort to set does as "none" asks
            settled.drop("reasoning_effort", "this model has no effort to set")
        return
    if word not in words:
        settled.drop(
            "reasoning_effort",
            f'this model has no "{word}"',
            f"allowed: a number, or one of {', '.join(words)}",
        )
        return
    settled.effort = word
    if capabilities.effort_style == "word":
        settled.values["reasoning_effort"] = word
    elif word != "none":
        settled.values["thinking"] = {
            "type": "enabled",
            "budget_tokens": _budget(settings, word, settled.length),
        }


def _budget(settings: ModelSettings, word: str, room: int) -> int:
    if room <= LEAST_BUDGET:
        raise _refuse(
            settings,
            "max_new_tokens",
            f"found {room}; this model thinks with at least {LEAST_BUDGET} tokens, and they are part of "
            f"max_new_tokens: with a reasoning_effort it has to be {LEAST_BUDGET + 1} or more",
        )
    return min(BUDGETS[word], room - 1)


def _settle_sampling(settings: ModelSettings, capabilities: Capabilities, settled: Settled) -> None:
    """Temperature and top_p: which of them the model takes, beside its effort and beside each other."""
    effort = settled.effort
    takes = {"temperature": capabilities.supports_temperature, "top_p": capabilities.supports_top_p}
    why = "this model takes none"
    if effort == "none" and capabilities.sampling_at_effort_none:
        takes = dict.fromkeys(takes, True)
    elif effort not in {None, "none"} and not capabilities.sampling_with_reasoning:
        why = f"{why} while it reasons" if any(takes.values()) else why
        takes = dict.fromkeys(takes, False)
    sends_temperature = takes["temperature"]
    if _is_set(settings, "top_p"):
        if not takes["top_p"]:
            settled.drop("top_p", why)
        elif capabilities.temperature_with_top_p or not takes["temperature"]:
            settled.values["top_p"] = settings.top_p
        elif _is_set(settings, "temperature"):
            settled.drop(
                "top_p", "this model takes either a temperature or a top_p", "set only one of the two"
            )
        else:  # the default temperature makes room for the top_p that was set
            settled.values["top_p"] = settings.top_p
            sends_temperature = False
    if sends_temperature:
        settled.values["temperature"] = settings.temperature
    elif not takes["temperature"] and _is_set(settings, "temperature"):
        settled.drop("temperature", why)


def _settle_stop(settings: ModelSettings, capabilities: Capabilities, settled: Settled) -> None:
    if not settings.stop:
        return
    most = capabilities.max_stop
    if not capabilities.supports_stop:
        settled.drop("stop", "this model takes no stop words")
    elif most is not None and len(settings.stop) > most:
        raise _refuse(settings, "stop", f"found {len(settings.stop)} stop words; the service takes {most}")
    else:
        settled.values["stop"] = list(settings.stop)


def _settle_tools(settings: ModelSettings, capabilities: Capabilities, settled: Settled) -> None:
    choice = settings.tool_choice
    if settings.tools and capabilities.supports_tools:
        settled.values["tools"] = thaw(settings.tools)
    elif settings.tools:
        settled.drop("tools", "this model is not known to call tools")
    if choice is None:
        return
    is_forced = choice not in {"auto", "none"}
    reasons = settled.effort not in {None, "none"}
    if choice == "auto" and not capabilities.supports_tool_choice:
        return  # that is what happens if nothing is said
    if "tools" not in settled.values:
        settled.drop("tool_choice", "there are no tools to choose from", "set tools, or remove tool_choice")
    elif not capabilities.supports_tool_choice:
        settled.drop("tool_choice", "this model cannot be told which tool to call")
    elif choice == "none" and not capabilities.supports_no_tool:
        settled.drop("tool_choice", "this model cannot be kept from its tools", "remove tools for this call")
    elif is_forced and not capabilities.supports_forced_tool:
        settled.drop("tool_choice", "this model cannot be made to call a tool", 'set it to "auto"')
    elif is_forced and reasons and not capabilities.forced_tool_with_reasoning:
        settled.drop(
            "tool_choice",
            "this model cannot be made to call a tool while it reasons",
            'set it to "auto", or remove reasoning_effort',
        )
    else:
        settled.values["tool_choice"] = thaw(choice)


def _settle_format(settings: ModelSettings, capabilities: Capabilities, settled: Settled) -> None:
    wanted = settings.response_format
    if wanted is None or wanted.get("type") == "text":
        return
    if not capabilities.supports_response_format:
        settled.drop("response_format", "this model is not known to answer in a set format")
    elif wanted.get("type") == "json_object" and not capabilities.supports_json_mode:
        settled.drop(
            "response_format", "this model answers in JSON only by a schema", 'use type = "json_schema"'
        )
    else:
        settled.values["response_format"] = thaw(wanted)
