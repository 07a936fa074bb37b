"""A request in Gemini's format, read as the service reads JSON: its messages, their fields and types.

Fields are spelt in camel case or, as in the service's own definitions, with underscores; `null` is no value;
one value stands for a list of one; numbers may be texts. What is read has the spelling with underscores, in
which the service names fields when it refuses them, too. All that is wrong is told at once.

Source: Google's `generativelanguage/v1beta` definitions and API reference, and refusals quoted in issues.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from agentless.loopback.wire import dumps

# By message: the kinds of its fields. `*` is a list, `{}` a mapping with names of the caller's own.
_TABLE: Final[Mapping[str, Mapping[str, str]]] = {
    "GenerateContentRequest": {
        "string": "model cached_content service_tier",
        "bool": "store",
        "struct": "labels",
        "Content": "system_instruction",
        "Content*": "contents",
        "Tool*": "tools",
        "ToolConfig": "tool_config",
        "SafetySetting*": "safety_settings",
        "GenerationConfig": "generation_config",
    },
    "Content": {"string": "role", "Part*": "parts"},
    "Part": {
        "string": "text thought_signature",
        "bool": "thought",
        "Blob": "inline_data",
        "FileData": "file_data",
        "FunctionCall": "function_call",
        "FunctionResponse": "function_response",
        "struct": "executable_code code_execution_result tool_call tool_response video_metadata part_metadata"
        " media_resolution",
    },
    "Blob": {"string": "mime_type data display_name"},
    "FileData": {"string": "mime_type file_uri display_name"},
    "FunctionCall": {"string": "id name", "struct": "args"},
    "FunctionResponse": {
        "string": "id name scheduling",
        "bool": "will_continue",
        "struct": "response",
        "struct*": "parts",
    },
    "Tool": {
        "FunctionDeclaration*": "function_declarations",
        "struct": "google_search google_search_retrieval code_execution url_context computer_use file_search"
        " google_maps retrieval enterprise_web_search",
        "struct*": "mcp_servers",
    },
    "FunctionDeclaration": {
        "string": "name description behavior",
        "Schema": "parameters response",
        "any": "parameters_json_schema response_json_schema",
    },
    "ToolConfig": {
        "bool": "include_server_side_tool_invocations",
        "FunctionCallingConfig": "function_calling_config",
        "struct": "retrieval_config",
    },
    "FunctionCallingConfig": {"FunctionCallingConfig.Mode": "mode", "string*": "allowed_function_names"},
    "SafetySetting": {
        "HarmCategory": "category",
        "SafetySetting.HarmBlockThreshold": "threshold",
        "string": "method",
    },
    "GenerationConfig": {
        "string": "response_mime_type media_resolution",
        "string*": "stop_sequences response_modalities",
        "bool": "response_logprobs enable_enhanced_civic_answers audio_timestamp",
        "int": "candidate_count max_output_tokens seed logprobs",
        "float": "temperature top_p top_k presence_penalty frequency_penalty",
        "Schema": "response_schema",
        "any": "response_json_schema",
        "ThinkingConfig": "thinking_config",
        "struct": "speech_config image_config routing_config",
    },
    "ThinkingConfig": {
        "bool": "include_thoughts",
        "int": "thinking_budget",
        "ThinkingConfig.ThinkingLevel": "thinking_level",
    },
    "Schema": {
        "Type": "type",
        "string": "format title description pattern",
        "string*": "enum required property_ordering",
        "bool": "nullable",
        "int": "max_items min_items max_properties min_properties max_length min_length",
        "float": "minimum maximum",
        "Schema": "items",
        "Schema*": "any_of",
        "Schema{}": "properties",
        "any": "example default",
    },
}
_ENUMS: Final[Mapping[str, str]] = {
    "Type": "STRING NUMBER INTEGER BOOLEAN ARRAY OBJECT NULL TYPE_UNSPECIFIED",
    "FunctionCallingConfig.Mode": "AUTO ANY NONE VALIDATED MODE_UNSPECIFIED",
    "ThinkingConfig.ThinkingLevel": "MINIMAL LOW MEDIUM HIGH THINKING_LEVEL_UNSPECIFIED",
    "HarmCategory": "HARM_CATEGORY_HARASSMENT HARM_CATEGORY_HATE_SPEECH HARM_CATEGORY_SEXUALLY_EXPLICIT"
    " HARM_CATEGORY_DANGEROUS_CONTENT HARM_CATEGORY_CIVIC_INTEGRITY HARM_CATEGORY_UNSPECIFIED",
    "SafetySetting.HarmBlockThreshold": "BLOCK_LOW_AND_ABOVE BLOCK_MEDIUM_AND_ABOVE BLOCK_ONLY_HIGH"
    " BLOCK_NONE OFF HARM_BLOCK_THRESHOLD_UNSPECIFIED",
}
_SCALARS: Final = {
    "string": "TYPE_STRING",
    "bool": "TYPE_BOOL",
    "int": "TYPE_INT32",
    "float": "TYPE_FLOAT",
    "struct": "type.googleapis.com/google.protobuf.Struct",
}
_PACKAGE: Final = "type.googleapis.com/google.ai.generativelanguage.v1beta"
_SENTENCE: Final = "Invalid JSON payload received."


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))


# By message and either spelling: the field's own name and kind.
_FIELDS: Final = {
    message: {
        spelling: (name, kind)
        for kind, names in kinds.items()
        for name in names.split()
        for spelling in (name, _camel(name))
    }
    for message, kinds in _TABLE.items()
}


@dataclass(frozen=True, slots=True)
class Violation:
    """Something wrong with a field, in the service's words."""

    field: str
    description: str
    unknown: bool = False
    """Claims that there is no such field, which a lenient server overlooks."""


def read(body: Any) -> tuple[dict[str, Any], list[Violation]]:
    """What the body says, as far as it can be read, and all that is wrong with it."""
    wrong: list[Violation] = []
    if not isinstance(body, dict):
        return {}, [Violation("", f'{_SENTENCE} Unknown name "": Root element must be a message.')]
    try:
        return _message("GenerateContentRequest", body, "", wrong), wrong
    except RecursionError:
        return {}, [Violation("", f"{_SENTENCE} Message too deep.")]


def _message(kind: str, value: Mapping[str, Any], path: str, wrong: list[Violation]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for spelling, given in value.items():
        known = _FIELDS[kind].get(spelling)
        if known is None:
            wrong.append(_unknown(spelling, path, "Cannot find field."))
        elif given is not None:
            name, expected = known
            found[name] = _value(expected, given, _joined(path, name), wrong)
    return found


def _value(kind: str, value: Any, path: str, wrong: list[Violation]) -> Any:
    if kind.endswith("*"):
        items = value if isinstance(value, list) else [value]
        return [_value(kind[:-1], item, f"{path}[{i}]", wrong) for i, item in enumerate(items)]
    if kind == "any":
        return value
    if isinstance(value, list):
        parent, _, name = path.rpartition(".")
        wrong.append(_unknown(name, parent, "Proto field is not repeating, cannot start list.", absent=False))
        return _nothing(kind)
    if kind.endswith("{}") and isinstance(value, dict):
        return {
            name: _value(kind[:-2], item, f"{path}[{i}].value", wrong)
            for i, (name, item) in enumerate(value.items())
        }
    if kind in _TABLE and isinstance(value, dict):
        return _message(kind, value, path, wrong)
    read, right = _scalar(kind, value)
    if not right:
        name = _SCALARS.get(kind, f"{_PACKAGE}.{kind.removesuffix('{}')}")
        what = "Starting an object on a scalar field" if isinstance(value, dict) else dumps(value).decode()
        wrong.append(Violation(path, f"Invalid value at '{path}' ({name}), {what}"))
    return read


def _scalar(kind: str, value: Any) -> tuple[Any, bool]:
    """The value as one of this kind, and whether it is one."""
    if kind == "struct":
        return (value, True) if isinstance(value, dict) else ({}, False)
    if kind == "string":
        return (value, True) if isinstance(value, str) else ("", False)
    if kind == "bool":
        return (value, True) if isinstance(value, bool) else (False, False)
    if kind in _ENUMS:
        right = isinstance(value, str) and value.upper() in _ENUMS[kind].split()
        return (value.upper(), True) if right else (_nothing(kind), False)
    number = _number(value)
    if kind == "float" and number is not None:
        return number, True
    if kind == "int" and number is not None and number == int(number):
        return int(number), True
    return _nothing(kind), False


def _number(value: Any) -> float | None:
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,18}(\.\d{1,18})?", value):
        return float(value)
    finite = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63
    return value if finite else None


def _nothing(kind: str) -> Any:
    if kind in _TABLE or kind == "struct" or kind.endswith("{}"):
        return {}
    return {"int": 0, "float": 0.0, "bool": False}.get(kind, "")


def _unknown(name: str, path: str, why: str, *, absent: bool = True) -> Violation:
    place = f" at '{path}'" if path else ""
    return Violation(path, f'{_SENTENCE} Unknown name "{name}"{place}: {why}', unknown=absent)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def parts(contents: list[dict[str, Any]], kind: str) -> Iterator[dict[str, Any]]:
    """The parts that hold something of this kind."""
    return (part for content in contents for part in content.get("parts", ()) if kind in part)
