"""What OpenAI refuses of messages and tools: roles, contents, the pairing of calls and answers, schemas."""

import re
from collections.abc import Mapping
from typing import Any, Final

from agentless.loopback.wire import Failure, RefusedError, Rules

_ROLES: Final = {
    "system": "role content name",
    "developer": "role content name",
    "user": "role content name",
    "assistant": "role content name refusal audio function_call tool_calls",
    "tool": "role content name tool_call_id",
    "function": "role content name",
}
_NOT_OPENAI: Final = "reasoning_content reasoning prefix"
"""What other services add to an assistant's message, and expect to get back."""
_PARTS: Final = {
    "text": "type text",
    "refusal": "type refusal",
    "image_url": "type image_url",
    "input_audio": "type input_audio",
    "file": "type file",
}
_TOOL_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_TOOL_CHOICES: Final = ("none", "auto", "required")


def check_messages(body: Mapping[str, Any], *, own_names: bool, rules: Rules, system_role: bool) -> None:
    """Raise `RefusedError` with the first message that is wrong."""
    messages = body.get("messages")
    if messages is None:
        raise _refused("Missing required parameter: 'messages'.", "messages", "missing_required_parameter")
    if not messages:
        raise _empty("messages")
    deepseek = str(body.get("model", "")).rpartition("/")[2].startswith("deepseek")
    for i, message in enumerate(messages):
        _check_message(f"messages[{i}]", message, foreign=deepseek or not own_names, lenient=rules.lenient)
        if not system_role and message["role"] in ("system", "developer"):
            param, role = f"messages[{i}].role", message["role"]
            text = f"Unsupported value: '{param}' does not support '{role}' with this model."
            raise _refused(text, param, "unsupported_value")
    _check_pairs(messages)


def check_tools(body: Mapping[str, Any], rules: Rules) -> None:
    """Raise `RefusedError` with the first tool that is wrong."""
    tools, choice = body.get("tools"), body.get("tool_choice")
    if tools is None:
        for name in ("tool_choice", "parallel_tool_calls"):
            if body.get(name) not in (None, "none"):
                message = f"Invalid value for '{name}': '{name}' is only allowed when 'tools' are specified."
                raise _refused(message, name)
        return
    if not tools:
        raise _empty("tools")
    names = [_checked_tool(f"tools[{i}]", tool, rules) for i, tool in enumerate(tools)]
    if isinstance(choice, str) and choice not in _TOOL_CHOICES:
        message = f"Invalid value: '{choice}'. Supported values are: 'none', 'auto', and 'required'."
        raise _refused(message, "tool_choice", "invalid_value")
    if isinstance(choice, dict) and choice.get("type") == "function":
        chosen = (choice.get("function") or {}).get("name")
        if chosen not in names:
            message = (
                f"Invalid value for 'tool_choice': Tool choice '{chosen}' not found in 'tools' parameter."
            )
            raise _refused(message, "tool_choice")


def _refused(message: str, param: str | None = None, code: str | None = None) -> RefusedError:
    return RefusedError(Failure(400, message, "invalid_request_error", code, param))


def _empty(path: str) -> RefusedError:
    message = (
        f"Invalid '{path}': empty array. Expected an array with minimum length 1, but got an empty array"
        " instead."
    )
    return _refused(message, path, "empty_array")


def _unknown(path: str) -> RefusedError:
    return _refused(f"Unknown parameter: '{path}'.", path, "unknown_parameter")


def _check_message(path: str, message: Any, *, foreign: bool, lenient: bool) -> None:
    if not isinstance(message, dict):
        text = f"Invalid type for '{path}': expected an object, but got {message!r} instead."
        raise _refused(text, path, "invalid_type")
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        text = (
            f"Invalid value: '{role}'. Supported values are: 'system', 'assistant', 'user', 'function',"
            " 'tool', and 'developer'."
        )
        raise _refused(text, f"{path}.role", "invalid_value")
    known = _ROLES[role].split() + (_NOT_OPENAI.split() if foreign else [])
    for field in message:
        if field not in known and not lenient:
            raise _unknown(f"{path}.{field}")
    content = message.get("content")
    if content is None:
        if not (
            role == "assistant" and any(message.get(k) for k in ("tool_calls", "function_call", "refusal"))
        ):
            text = f"Invalid value for 'content': expected a string, got null. ({path})"
            raise _refused(text, f"{path}.content")
    elif isinstance(content, list):
        _check_parts(f"{path}.content", content, lenient=lenient)
    elif not isinstance(content, str):
        text = f"Invalid type for '{path}.content': expected one of a string or array of objects."
        raise _refused(text, f"{path}.content", "invalid_type")
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        text = f"Invalid type for '{path}.tool_calls': expected an array."
        raise _refused(text, f"{path}.tool_calls", "invalid_type")
    for i, call in enumerate(calls):
        _check_call(f"{path}.tool_calls[{i}]", call)
    if role == "tool" and not isinstance(message.get("tool_call_id"), str):
        text = f"Missing required parameter: '{path}.tool_call_id'."
        raise _refused(text, f"{path}.tool_call_id", "missing_required_parameter")


def _check_parts(path: str, parts: list[Any], *, lenient: bool) -> None:
    if not parts:
        raise _empty(path)
    for i, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str) or kind not in _PARTS:
            text = f"Invalid value: '{kind}'. Supported values are: {', '.join(map(repr, _PARTS))}."
            raise _refused(text, f"{path}[{i}].type", "invalid_value")
        for field in part:
            if field not in _PARTS[kind].split() and not lenient:
                raise _unknown(f"{path}[{i}].{field}")
        if kind not in part or (kind == "text" and not isinstance(part["text"], str)):
            text = f"Missing required parameter: '{path}[{i}].{kind}'."
            raise _refused(text, f"{path}[{i}].{kind}", "missing_required_parameter")


def _check_call(path: str, call: Any) -> None:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(call.get("id"), str):
        raise _refused(f"Missing required parameter: '{path}.id'.", path, "missing_required_parameter")
    for field in call:
        if field not in ("id", "type", "function"):
            raise _unknown(f"{path}.{field}")
    if not isinstance(function.get("name"), str) or not isinstance(function.get("arguments"), str):
        text = f"Invalid type for '{path}.function.arguments': expected a string."
        raise _refused(text, f"{path}.function.arguments", "invalid_type")


def _check_pairs(messages: list[dict[str, Any]]) -> None:
    """Each call is answered by the tool messages right after it, and nothing else is."""
    waiting: list[str] = []
    expected: list[str] = []
    for i, message in enumerate([*messages, {"role": "end"}]):
        if message["role"] == "tool":
            if message["tool_call_id"] not in expected:
                text = (
                    "Invalid parameter: messages with role 'tool' must be a response to a preceeding message"
                    " with 'tool_calls'."
                )
                raise _refused(text, f"messages.[{i}].role")
            waiting = [call for call in waiting if call != message["tool_call_id"]]
            continue
        if waiting:
            text = (
                "An assistant message with 'tool_calls' must be followed by tool messages responding to each"
                " 'tool_call_id'. The following tool_call_ids did not have response messages:"
                f" {', '.join(waiting)}"
            )
            raise _refused(text, f"messages.[{i}].role")
        expected = [call["id"] for call in message.get("tool_calls") or ()]
        waiting = list(expected)


def _checked_tool(path: str, tool: Any, rules: Rules) -> str:
    kind = tool.get("type") if isinstance(tool, dict) else None
    if kind not in ("function", "custom"):
        text = f"Invalid value: '{kind}'. Supported values are: 'function' and 'custom'."
        raise _refused(text, f"{path}.type", "invalid_value")
    definition = tool.get(kind)
    if not isinstance(definition, dict) or not isinstance(definition.get("name"), str):
        raise _refused(
            f"Missing required parameter: '{path}.{kind}.name'.", path, "missing_required_parameter"
        )
    name: str = definition["name"]
    if not _TOOL_NAME.fullmatch(name):
        text = (
            f"Invalid '{path}.function.name': string does not match pattern. Expected a string that matches"
            " the pattern '^[a-zA-Z0-9_-]+$'."
        )
        raise _refused(text, f"{path}.function.name", "invalid_value")
    known = ("type", kind), ("name", "description", "parameters", "strict", "format")
    for prefix, value, fields in ((path, tool, known[0]), (f"{path}.{kind}", definition, known[1])):
        for field in value:
            if field not in fields and not rules.lenient:
                raise _unknown(f"{prefix}.{field}")
    schema = definition.get("parameters", {"type": "object"})
    if not isinstance(schema, dict) or schema.get("type") != "object":
        got = schema.get("type") if isinstance(schema, dict) else schema
        text = (
            f"Invalid schema for function '{name}': schema must be a JSON Schema of 'type: \"object\"', got"
            f" 'type: \"{got}\"'."
        )
        raise _refused(text, f"{path}.function.parameters", "invalid_function_parameters")
    return name
