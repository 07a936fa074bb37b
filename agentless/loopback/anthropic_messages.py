"""What Anthropic refuses of messages and tools: roles, blocks, calls and results, schemas, breakpoints."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from agentless.loopback.prompt_cache import MAX_BREAKPOINTS
from agentless.loopback.wire import Failure, RefusedError, Rules

_ROLES: Final = ("user", "assistant")
# What a block may hold beside `type` and `cache_control`; of the others only the type is checked.
_BLOCKS: Final = {
    "text": "text citations",
    "image": "source",
    "document": "source citations context title",
    "tool_use": "id name input caller",
    "tool_result": "tool_use_id content is_error",
    "thinking": "thinking signature",
    "redacted_thinking": "data",
}
_OTHER_BLOCKS: Final = (
    "search_result",
    "server_tool_use",
    "web_search_tool_result",
    "web_fetch_tool_result",
    "code_execution_tool_result",
    "bash_code_execution_tool_result",
    "text_editor_code_execution_tool_result",
    "tool_search_tool_result",
    "tool_reference",
    "container_upload",
)
_TOOL_FIELDS: Final = (
    "type name description input_schema cache_control strict input_examples defer_loading allowed_callers"
    " eager_input_streaming"
)
_TOOL_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,128}")


def check_messages(body: Mapping[str, Any], rules: Rules) -> None:
    """Raise `RefusedError` with the first message that is wrong."""
    messages = body["messages"]
    if not messages:
        raise _refused("messages: at least one message is required")
    for i, message in enumerate(messages):
        _check_message(f"messages.{i}", message, last=i == len(messages) - 1, rules=rules)
    if messages[0]["role"] != "user":
        raise _refused('messages: first message must use the "user" role')
    if isinstance(body.get("system"), list):
        _check_blocks("system", body["system"], rules, only_text=True)
    _check_pairs(messages)
    marked = sum(1 for block in _marked(body))
    if marked > MAX_BREAKPOINTS:
        raise _refused(
            f"A maximum of {MAX_BREAKPOINTS} blocks with cache_control may be provided. Found {marked}."
        )


def check_tools(body: Mapping[str, Any], rules: Rules) -> None:
    """Raise `RefusedError` with the first tool that is wrong."""
    tools = body.get("tools")
    if tools is None:
        if body.get("tool_choice"):
            raise _refused("tool_choice: may only be specified while providing `tools`")
        if any(b.get("type") in ("tool_use", "tool_result") for m in body["messages"] for b in _blocks(m)):
            raise _refused("Requests which include `tool_use` or `tool_result` blocks must define tools.")
        return
    for i, tool in enumerate(tools):
        _check_tool(f"tools.{i}", tool, rules)
    names = [str(tool.get("name")) for tool in tools]
    if len(set(names)) < len(names):
        raise _refused("tools: Tool names must be unique.")
    choice = body.get("tool_choice") or {"type": "auto"}
    if choice.get("type") not in ("auto", "any", "tool", "none"):
        raise _refused(
            f"tool_choice: Input tag '{choice.get('type')}' does not match any of the expected tags"
        )
    if choice.get("type") == "tool" and choice.get("name") not in names:
        raise _refused(f"Tool '{choice.get('name')}' not found in provided tools")


def _refused(message: str) -> RefusedError:
    return RefusedError(Failure(400, message))


def _blocks(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    return content if isinstance(content, list) else []


def _marked(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """All that carries a breakpoint; on the request itself it takes one of the four, too."""
    system = body.get("system")
    tools = [tool for tool in body.get("tools") or () if isinstance(tool, dict)]
    everything = [body, *tools, *(system if isinstance(system, list) else ())]
    for message in body["messages"]:
        everything += _blocks(message)
    return (block for block in everything if block.get("cache_control"))


def _check_message(path: str, message: Any, *, last: bool, rules: Rules) -> None:
    if not isinstance(message, dict):
        raise _refused(f"{path}: Input should be a valid dictionary")
    role, content = message.get("role"), message.get("content")
    if role == "system":
        raise _refused(
            'messages: Unexpected role "system". The Messages API accepts a top-level `system` parameter, not'
            ' "system" as an input message role.'
        )
    if role not in _ROLES:
        raise _refused(f"{path}.role: Input should be 'user' or 'assistant'")
    if "content" not in message:
        raise _refused(f"{path}.content: Field required")
    for field in message:
        if field not in ("role", "content") and not rules.lenient:
            raise _refused(f"{path}.{field}: Extra inputs are not permitted")
    if not isinstance(content, str | list):
        raise _refused(f"{path}.content: Input should be a valid list")
    if not content and not (last and role == "assistant"):
        raise _refused(
            f"{path}: all messages must have non-empty content except for the optional final assistant"
            " message"
        )
    if isinstance(content, list):
        _check_blocks(f"{path}.content", content, rules)
    elif content and not content.strip():
        raise _refused("messages: text content blocks must contain non-whitespace text")
    text = content if isinstance(content, str) else (content[-1].get("text") if content else None)
    if last and role == "assistant" and isinstance(text, str) and text != text.rstrip():
        raise _refused("messages: final assistant content cannot end with trailing whitespace")


def _check_blocks(path: str, blocks: list[Any], rules: Rules, *, only_text: bool = False) -> None:
    where = path.partition(".")[0]
    for i, block in enumerate(blocks):
        kind = block.get("type") if isinstance(block, dict) else None
        if kind in _OTHER_BLOCKS and not only_text:
            continue
        expected = ["text"] if only_text else sorted([*_BLOCKS, *_OTHER_BLOCKS])
        if not isinstance(kind, str) or kind not in _BLOCKS or kind not in expected:
            tags = ", ".join(f"'{tag}'" for tag in expected)
            raise _refused(
                f"{path}.{i}: Input tag '{kind}' found using 'type' does not match any of the expected tags:"
                f" {tags}"
            )
        for field in block:
            if field not in ("type", "cache_control", *_BLOCKS[kind].split()) and not rules.lenient:
                raise _refused(f"{path}.{i}.{kind}.{field}: Extra inputs are not permitted")
        if kind == "text":
            _check_text(f"{path}.{i}", block.get("text"), where)
        mark = block.get("cache_control")
        if mark is not None and (not isinstance(mark, dict) or mark.get("type") != "ephemeral"):
            raise _refused(f"{path}.{i}.cache_control: Input should be of type 'ephemeral'")


def _check_text(path: str, text: Any, where: str) -> None:
    if not isinstance(text, str):
        raise _refused(f"{path}.text.text: Input should be a valid string")
    if not text:
        raise _refused(f"{where}: text content blocks must be non-empty")
    if not text.strip():
        raise _refused(f"{where}: text content blocks must contain non-whitespace text")


def _check_pairs(messages: list[dict[str, Any]]) -> None:
    """Each call has its result in the next message, and each result its call in the message before."""
    calls: list[str] = []
    for i, message in enumerate([*messages, {"role": "user", "content": []}]):
        results = [b.get("tool_use_id", "") for b in _blocks(message) if b.get("type") == "tool_result"]
        for position, block in enumerate(_blocks(message)):
            if block.get("type") == "tool_result" and block.get("tool_use_id") not in calls:
                raise _refused(
                    f"messages.{i}.content.{position}: unexpected `tool_use_id` found in `tool_result`"
                    f" blocks: {block.get('tool_use_id')}. Each `tool_result` block must have a corresponding"
                    " `tool_use` block in the previous message."
                )
        if missing := [call for call in calls if call not in results]:
            raise _refused(
                f"messages.{i - 1}: `tool_use` ids were found without `tool_result` blocks immediately"
                f" after: {', '.join(missing)}. Each `tool_use` block must have a corresponding `tool_result`"
                " block in the next message."
            )
        calls = [str(b.get("id")) for b in _blocks(message) if b.get("type") == "tool_use"]


def _check_tool(path: str, tool: Any, rules: Rules) -> None:
    if not isinstance(tool, dict):
        raise _refused(f"{path}: Input should be a valid dictionary")
    if tool.get("type", "custom") != "custom":  # the service's own tools have shapes of their own
        return
    where = f"{path}.custom"
    for field in tool:
        if field not in _TOOL_FIELDS.split() and not rules.lenient:
            raise _refused(f"{where}.{field}: Extra inputs are not permitted")
    name, schema = tool.get("name"), tool.get("input_schema")
    if name is None:
        raise _refused(f"{where}.name: Field required")
    if not isinstance(name, str) or not _TOOL_NAME.fullmatch(name):
        raise _refused(f"{where}.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'")
    if schema is None:
        raise _refused(f"{where}.input_schema: Field required")
    if not isinstance(schema, dict) or "type" not in schema:
        raise _refused(f"{where}.input_schema.type: Field required")
    if schema["type"] != "object":
        raise _refused(f"{where}.input_schema.type: Input should be 'object'")
