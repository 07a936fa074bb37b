"""Conversations in which a model calls tools, in rounds until it is done; the samples run side by side.

The tools are not run here: each call gets an answer from the caller's function, or one text for all. What
comes of it has one shape for every provider: turns of blocks, as Anthropic's messages have them.
"""

import copy
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

from agentless.errors import SamplesIncompleteError
from agentless.llm.messages import read_messages
from agentless.llm.trajectory import ToolCall, Trajectory, Usage

MOST_ROUNDS = 10
"""Replies that one conversation has at most."""

NUDGE = "Please use the tools to do what was asked."
"""What is said, once, if the first reply calls no tool."""

Answer = str | Callable[[ToolCall], str]
"""What a call is told: one text for all, or a function, whose `ValueError` the model is told as well."""

Begin = Callable[[], Awaitable[list[Trajectory]]]
"""() -> the first turn of each conversation."""

GoOn = Callable[[list[dict[str, Any]]], Awaitable[list[Trajectory]]]
"""(conversation so far) -> the model's next turn, alone in a list."""


class ToolTrajectory(TypedDict):
    """One finished conversation.

    `response` is a list of turns, each a list of blocks: `{"type": "text", "text"}` and `{"type":
    "tool_use", "id", "name", "input"}`, `input` being a dict. `usage` is the sum over all turns, `attempts`
    and `latency` are too; `finish_reason`, `model` and `request_id` are the last turn's.
    """

    response: list[list[dict[str, Any]]]
    usage: Usage
    finish_reason: str
    model: str
    request_id: str | None
    attempts: int
    latency: float


@dataclass(frozen=True)
class Manner:
    """How a conversation is held."""

    answer: Answer = "Done."
    nudge: str = NUDGE
    rounds: int = MOST_ROUNDS


async def converse(
    begin: Begin, go_on: GoOn, message: str | list[dict[str, Any]], manner: Manner
) -> list[ToolTrajectory]:
    """Hold conversations that begin with `message`.

    The first turns are asked for together, so that they share a prompt that is cached once.

    Raises:
        SamplesIncompleteError: some conversations failed; the error holds the finished ones.
        Exception: the failure itself, where none was finished.
    """
    import asyncio  # with the first call, as everything that waits

    opening = read_messages(message)
    failures: dict[int, BaseException] = {}
    try:
        first = dict(enumerate(await begin()))
    except SamplesIncompleteError as error:
        first, failures = error.trajectories, dict(error.failures)
    talks = {number: _Talk(copy.deepcopy(opening)) for number in first}
    ends = await asyncio.gather(*(talks[number].hold(go_on, first[number], manner) for number in first))
    finished = {}
    for number, failure in zip(first, ends, strict=True):
        if failure is None:
            finished[number] = talks[number].trajectory()
        else:
            failures[number] = failure
    if failures:
        raise _failure(finished, failures)
    return [finished[number] for number in sorted(finished)]


@dataclass
class _Talk:
    messages: list[dict[str, Any]]
    turns: list[Trajectory] = field(default_factory=list)

    async def hold(self, go_on: GoOn, turn: Trajectory, manner: Manner) -> Exception | None:
        """Go on from the first turn to the end; returns what kept it from getting there."""
        try:
            while await self._take(turn, manner):
                [turn] = await go_on(self.messages)
        except Exception as error:  # noqa: BLE001  # the other conversations go on
            error.add_note(f"The conversation had come to turn {len(self.turns)}.")
            return error
        return None

    async def _take(self, turn: Trajectory, manner: Manner) -> bool:
        """Note down a turn and answer it; false where it is the last."""
        calls = _with_ids(turn["tool_calls"], len(self.turns))
        self.turns.append({**turn, "tool_calls": calls})
        if len(self.turns) >= manner.rounds or not (calls or len(self.turns) == 1):
            return False
        if calls or turn["response"].strip():  # services refuse a turn of nothing
            self.messages.append(_as_message(turn["response"], calls))
        for call in calls:
            content = await _answer(call, manner.answer)
            self.messages.append({"role": "tool", "tool_call_id": call["id"], "content": content})
        if not calls:
            self.messages.append({"role": "user", "content": manner.nudge})
        return True

    def trajectory(self) -> ToolTrajectory:
        last = self.turns[-1]
        return ToolTrajectory(
            response=[_blocks(turn) for turn in self.turns],
            usage=sum_usage([turn["usage"] for turn in self.turns]),
            finish_reason=last["finish_reason"],
            model=last["model"],
            request_id=last["request_id"],
            attempts=sum(turn["attempts"] for turn in self.turns),
            latency=sum(turn["latency"] for turn in self.turns),
        )


def sum_usage(usages: list[Usage]) -> Usage:
    """All of them together; the cost is unknown where one is."""
    costs = [usage["cost"] for usage in usages]
    return Usage(
        completion_tokens=sum(usage["completion_tokens"] for usage in usages),
        prompt_tokens=sum(usage["prompt_tokens"] for usage in usages),
        cache_creation_token=sum(usage["cache_creation_token"] for usage in usages),
        cache_read_input_tokens=sum(usage["cache_read_input_tokens"] for usage in usages),
        reasoning_tokens=sum(usage["reasoning_tokens"] for usage in usages),
        cost=None if None in costs else sum(cost for cost in costs if cost is not None),
    )


def _with_ids(calls: list[ToolCall], turn: int) -> list[ToolCall]:
    """The calls as copies, each with an id of its own: some servers give none, or the same to all."""
    fresh = copy.deepcopy(calls)
    seen: set[str] = set()
    for number, call in enumerate(fresh):
        if not call["id"] or call["id"] in seen:
            call["id"] = f"call_{turn}_{number}"
        seen.add(call["id"])
    return fresh


def _as_message(text: str, calls: list[ToolCall]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text if text.strip() else None}
    if calls:
        message["tool_calls"] = [
            {
                "id": call["id"],
                "type": "function",
                # Arguments that are no JSON are not repeated: services refuse to read them again.
                "function": {"name": call["name"], "arguments": json.dumps(call["arguments"])},
            }
            for call in calls
        ]
    return message


async def _answer(call: ToolCall, answer: Answer) -> str:
    """What the model is told about one of its calls, its own mistakes included."""
    if "invalid_arguments" in call:
        return (
            "Nothing was done: the arguments have to be a JSON object, and these are not: "
            f"{call['invalid_arguments']}"
        )
    if isinstance(answer, str):
        return answer
    from agentless.llm import bridge

    try:
        # The caller's own code, which may block, and may call models: not on the engine's loop, and not in
        # its threads, for which those calls could wait.
        return await bridge.in_own_thread(lambda: answer(copy.deepcopy(call)))
    except ValueError as error:
        return f"Nothing was done: {error}"


def _blocks(turn: Trajectory) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if turn["response"]:
        blocks.append({"type": "text", "text": turn["response"]})
    for call in turn["tool_calls"]:
        arguments = copy.deepcopy(call["arguments"])
        blocks.append({"type": "tool_use", "id": call["id"], "name": call["name"], "input": arguments})
    return blocks


def _failure(finished: Mapping[int, ToolTrajectory], failures: Mapping[int, BaseException]) -> BaseException:
    first = min(failures)
    if not finished:
        return failures[first]
    samples = len(finished) + len(failures)
    error = SamplesIncompleteError(
        f"{len(finished)} of {samples} conversations were finished, {len(failures)} failed; the first "
        f"failure, of sample {first}: {type(failures[first]).__name__}: {failures[first]}",
        trajectories=finished,  # type: ignore[arg-type]  # of this call, they are conversations
        failures=failures,
    )
    error.__cause__ = failures[first]
    return error
