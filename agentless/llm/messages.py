"""From what the caller says to chat messages: checked, copied, put in order, marked for the cache.

Nothing here changes or keeps the caller's own objects.
"""

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from agentless.errors import UnsupportedFeatureError
from agentless.llm.capabilities import Capabilities

ROLES = ("system", "developer", "user", "assistant", "tool")
SYSTEM_ROLES = ("system", "developer")

USER_TURN = "Please continue."
"""What is said where a conversation has nothing but a system message."""

NO_RESULT = "(no result)"
"""What answers a tool call that the caller left unanswered."""

MOST_MARKS = 4
"""Cache breakpoints that Anthropic takes in one request."""


_HALF = (
    "half of a surrogate pair, which is no text and cannot be sent; read the file with "
    'errors="replace", or encode the text with it'
)


class Prepared(NamedTuple):
    """Messages for one request, and a text for each thing that was changed on the way."""

    messages: list[dict[str, Any]]
    warnings: tuple[str, ...]


def prepare(
    message: str | list[dict[str, Any]],
    *,
    capabilities: Capabilities,
    system_message: str | None = None,
    modify_params: bool = True,
    model: str = "",
) -> Prepared:
    """The caller's prompt or conversation as fresh messages.

    Args:
        message: A prompt, or a conversation in OpenAI's chat format.
        capabilities: Of the model it is for.
        system_message: Comes first, unless the conversation has one.
        modify_params: Mend what a service would refuse, each with a warning, instead of raising.
        model: Its name, for errors.

    Raises:
        TypeError: The message is not a string and not a list of dicts, or a part has the wrong type.
        ValueError: A part is missing, blank or unknown; or needs mending, and `modify_params` is false.
        UnsupportedFeatureError: The model takes no system message, and `modify_params` is false.
    """
    messages = read_messages(message)
    if system_message and not any(each["role"] in SYSTEM_ROLES for each in messages):
        messages.insert(0, {"role": "system", "content": system_message})
    warnings: list[str] = []
    _answer_calls(messages, warnings, modify_params=modify_params)
    if not capabilities.supports_system_message:
        _unsystem(messages, warnings, modify_params=modify_params, model=model)
    if all(each["role"] in SYSTEM_ROLES for each in messages):
        if not modify_params:
            raise ValueError("the messages have a system message only; add a user message to answer")
        messages.append({"role": "user", "content": USER_TURN})
        warnings.append(f'there was a system message only; "{USER_TURN}" was added as the user\'s')
    return Prepared(messages, tuple(warnings))


def read_messages(message: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The caller's message as a list of fresh messages; raises as `prepare` does."""
    if isinstance(message, str):
        if not message.strip():
            raise ValueError("the message is blank")
        if not message.isascii():
            try:
                message.encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"the message: {_HALF}") from error
        return [{"role": "user", "content": message}]
    if not isinstance(message, list):
        raise TypeError(f"message has to be a string or a list of messages, not {type(message).__name__}")
    if not message:
        raise ValueError("the list of messages is empty")
    return [_read_message(each, number) for number, each in enumerate(message)]


def mark_cache(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> None:
    """Put cache breakpoints into a request's own messages and tools.

    Where they go, first choice first: at the end of the prompt (the last thing the user or a tool said, up to
    which a fan-out of samples is the same, and the next turn of a tool loop too); on the system message; on
    the last tool; and where the turn before ended, because Anthropic looks back from a breakpoint over 20
    blocks at most. The caller's own marks stay, and count: there are never more than four.
    """
    left = MOST_MARKS - _count_marks(messages) - _count_marks(tools)
    ends = _ends_of_prompts(messages)
    systems = [each for each in messages if each["role"] in SYSTEM_ROLES]
    for target in (*ends[-1:], *systems[-1:], *tools[-1:], *ends[-2:-1]):
        if left <= 0:
            return
        left -= _mark_tool(target) if "function" in target else _mark_message(target)


def _read_message(message: Any, number: int) -> dict[str, Any]:
    where = f"messages[{number}]"
    if not isinstance(message, Mapping):
        raise TypeError(f"{where} has to be a dict with role and content, not {type(message).__name__}")
    role = message.get("role")
    if role not in ROLES:
        raise ValueError(f"{where}: role {role!r}; allowed: {', '.join(ROLES)}")
    try:
        fresh = {key: _copied(value) for key, value in message.items()}
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: {_HALF}") from error
    _check_content(fresh, where)
    if role == "tool" and not isinstance(fresh.get("tool_call_id"), str):
        raise ValueError(f"{where}: a tool message needs the tool_call_id of the call it answers")
    return fresh


def _check_content(message: dict[str, Any], where: str) -> None:
    calls = message.get("tool_calls") if message["role"] == "assistant" else None
    content = message.get("content")
    if content is None or (calls and content in ("", [])):
        if not calls:
            raise ValueError(f"{where}: content is missing")
        message["content"] = None
        return
    if not isinstance(content, str | list):
        raise TypeError(
            f"{where}: content has to be a string or a list of blocks, not {type(content).__name__}"
        )
    if isinstance(content, list):
        _check_blocks(content, where)
    if message["role"] == "tool":  # a tool may have nothing to say
        return
    if not content or (isinstance(content, str) and not content.strip()):
        raise ValueError(f"{where}: content is blank")


def _check_blocks(blocks: list[Any], where: str) -> None:
    for number, block in enumerate(blocks):
        if not isinstance(block, dict):
            raise TypeError(f"{where}.content[{number}] has to be a dict, not {type(block).__name__}")
        if not isinstance(block.get("type"), str):
            raise ValueError(f"{where}.content[{number}]: type is missing")  # noqa: TRY004 - it is missing
        if block["type"] == "text":
            text = block.get("text")
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"{where}.content[{number}]: text is blank")


def _copied(value: Any) -> Any:
    """A copy that shares nothing: settings' frozen tables become plain ones on the way."""
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(item) for item in value]
    if isinstance(value, str):
        if not value.isascii():
            value.encode()  # half of a surrogate pair is no text, and cannot be sent
        return value
    return copy.deepcopy(value)


def _answer_calls(messages: list[dict[str, Any]], warnings: list[str], *, modify_params: bool) -> None:
    """Answer the tool calls that have no answer: services refuse the conversation otherwise."""
    at = 0
    while at < len(messages):
        asked = messages[at]
        at += 1
        if asked["role"] != "assistant" or not asked.get("tool_calls"):
            continue
        answered = set()
        while at < len(messages) and messages[at]["role"] == "tool":
            answered.add(messages[at]["tool_call_id"])
            at += 1
        for call in asked["tool_calls"]:
            name = call.get("id") if isinstance(call, Mapping) else None
            if name is None or name in answered:
                continue
            if not modify_params:
                raise ValueError(
                    f"the tool call {name!r} has no answer; add a tool message with its tool_call_id"
                )
            messages.insert(at, {"role": "tool", "tool_call_id": name, "content": NO_RESULT})
            warnings.append(f'the tool call {name!r} had no answer; "{NO_RESULT}" was added')
            at += 1


def _unsystem(
    messages: list[dict[str, Any]], warnings: list[str], *, modify_params: bool, model: str
) -> None:
    """Say as the user what a model without system messages should have been told as the system."""
    for message in messages:
        if message["role"] in SYSTEM_ROLES:
            if not modify_params:
                raise UnsupportedFeatureError(
                    f"{model or 'the model'} takes no system message; say it in the user's message, or set "
                    "modify_params = true",
                    model=model or None,
                    option="system_message",
                )
            message["role"] = "user"
            warnings.append("the model takes no system message; it was sent as the user's")


def _ends_of_prompts(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The message before each answer of the assistant, and the one that is to be answered now."""
    before = [*messages, {"role": "assistant"}]
    return [
        said
        for said, then in pairwise(before)
        if said["role"] in {"user", "tool"} and then["role"] == "assistant"
    ]


def _mark_tool(tool: dict[str, Any]) -> bool:
    if _count_marks([tool]):
        return False
    tool["cache_control"] = _mark()
    return True


def _mark_message(message: dict[str, Any]) -> bool:
    """Mark the last block of a message; false where it has a mark already, or nothing to put one on."""
    if _count_marks([message]):
        return False
    if message["role"] == "tool" and message["content"]:
        # Within a tool's result a mark counts for nothing; litellm (1.105.3) puts this one on the result.
        message["cache_control"] = _mark()
        return True
    content = message["content"]
    if isinstance(content, str) and content.strip():
        message["content"] = [{"type": "text", "text": content, "cache_control": _mark()}]
        return True
    if isinstance(content, list) and content:
        content[-1]["cache_control"] = _mark()
        return True
    return False


def _mark() -> dict[str, str]:
    return {"type": "ephemeral"}


def _count_marks(items: Sequence[Mapping[str, Any]]) -> int:
    """Breakpoints on messages and tools, and on the blocks within."""
    found = 0
    for item in items:
        content = item.get("content")
        blocks = content if isinstance(content, list) else []
        function = item.get("function")
        inner = [function] if isinstance(function, Mapping) else []
        found += sum("cache_control" in each for each in (item, *blocks, *inner))
    return found
