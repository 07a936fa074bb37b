"""Tools that a model may call: the shape of their definitions, checked before anything is sent."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from agentless.frozen import FrozenDict, freeze, thaw
from agentless.problems import Finding, Refusal, found, json_findings, kind_of, listed, unknown_keys

Tools = tuple[FrozenDict, ...]
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_CHOICES = ("auto", "none", "required")


def read_tools(value: Any) -> Tools:
    """A list of function tools, as a copy that cannot change.

    Each is `{type = "function", function = {name, description?, parameters?, strict?}}`, `parameters`
    a JSON Schema of an object.

    Raises:
        Refusal: With everything that is wrong, by path.
    """
    if isinstance(value, tuple) and all(isinstance(tool, FrozenDict) for tool in value):
        return value  # read before: overriding one setting does not check the others again
    if not isinstance(value, list | tuple):
        raise Refusal([((), f"found {kind_of(value)}; allowed: a list of function tools")])
    findings = [finding for number, tool in enumerate(value) for finding in _tool_findings(tool, number)]
    findings += _repeated_names(value)
    if findings:
        raise Refusal(findings)
    tools: Tools = freeze(value)
    return tools


def read_tool_choice(value: Any) -> str | FrozenDict:
    """`"auto"`, `"none"`, `"required"`, or the tool that must be called."""
    allowed = f'{listed(_CHOICES)} or {{type = "function", function = {{name = "..."}}}}'
    if isinstance(value, str) and value in _CHOICES:
        return value
    if isinstance(value, Mapping) and set(value) == {"type", "function"} and value["type"] == "function":
        function = value["function"]
        if isinstance(function, Mapping) and set(function) == {"name"} and isinstance(function["name"], str):
            return FrozenDict(freeze(value))
    raise ValueError(f"{found(value)}; allowed: {allowed}")


def choice_findings(choice: Any, tools: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """What is wrong between a valid `tool_choice` and valid tools."""
    names = tool_names(tools)
    if isinstance(choice, Mapping) and choice["function"]["name"] not in names:
        name = choice["function"]["name"]
        allowed = f"allowed: {listed(names)}" if names else "there are no tools"
        yield ("tool_choice", "function", "name"), f"{found(name)}; {allowed}"
    elif choice == "required" and not names:
        yield ("tool_choice",), 'found "required"; there are no tools'


def tool_names(tools: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of functions, in the order of their definitions."""
    return [tool["function"]["name"] for tool in tools]


def is_plain_schema(schema: Any) -> bool:
    """Claims that a schema is right, of those that use the everyday keywords only.

    jsonschema decides about all others; it takes 0.03 s to import, a quarter of what loading a config
    may take, and most tools can do without.
    """
    return isinstance(schema, Mapping) and all(
        keyword in _PLAIN_KEYWORDS and _PLAIN_KEYWORDS[keyword](value) for keyword, value in schema.items()
    )


_PLAIN_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
_PLAIN_KEYWORDS: Mapping[str, Callable[[Any], bool]] = {
    "additionalProperties": lambda value: isinstance(value, bool),
    "description": lambda value: isinstance(value, str),
    "enum": lambda value: isinstance(value, list | tuple),
    "items": is_plain_schema,
    "properties": lambda value: isinstance(value, Mapping) and all(map(is_plain_schema, value.values())),
    "required": lambda value: (
        isinstance(value, list | tuple)
        and all(isinstance(name, str) for name in value)
        and len(set(value)) == len(value)
    ),
    "title": lambda value: isinstance(value, str),
    "type": lambda value: isinstance(value, str) and value in _PLAIN_TYPES,
}


def _tool_findings(tool: Any, number: int) -> Iterator[Finding]:
    path = (number,)
    if not isinstance(tool, Mapping):
        yield path, f'{found(tool)}; allowed: {{type = "function", function = {{name = "..."}}}}'
        return
    if tool.get("type", "function") != "function":
        yield (*path, "type"), f'{found(tool["type"])}; allowed: "function"'
        return
    if "type" not in tool:
        yield (*path, "type"), 'missing; allowed: "function"'
    yield from unknown_keys(tool, ("type", "function"), path)
    function = tool.get("function")
    if isinstance(function, Mapping):
        yield from _function_findings(function, (*path, "function"))
    else:
        what = found(function) if "function" in tool else "missing"
        yield (*path, "function"), f"{what}; allowed: a table with a name"


def _function_findings(function: Mapping[str, Any], path: tuple[str | int, ...]) -> Iterator[Finding]:
    yield from unknown_keys(function, ("name", "description", "parameters", "strict"), path)
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        what = found(name) if "name" in function else "missing"
        yield (*path, "name"), f"{what}; allowed: 1 to 64 letters, digits, _ and -"
    if not isinstance(function.get("description", ""), str):
        yield (*path, "description"), f"{found(function['description'])}; allowed: a string"
    if not isinstance(function.get("strict", False), bool):
        yield (*path, "strict"), f"{found(function['strict'])}; allowed: true or false"
    if "parameters" in function:
        yield from _schema_findings(function["parameters"], (*path, "parameters"))


def _schema_findings(schema: Any, path: tuple[str | int, ...]) -> Iterator[Finding]:
    if not isinstance(schema, Mapping):
        yield path, f"{found(schema)}; allowed: a table (a JSON Schema)"
        return
    not_json = list(json_findings(schema, path))
    if not_json:
        yield from not_json
        return
    if schema.get("type", "object") != "object":
        yield (*path, "type"), f'{found(schema["type"])}; allowed: "object" (arguments have names)'
        return
    if is_plain_schema(schema):
        return
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for

    plain = thaw(schema)
    dialect = validator_for(plain, default=Draft202012Validator)
    for error in dialect(dialect.META_SCHEMA).iter_errors(plain):
        yield (*path, *error.absolute_path), f"not a JSON Schema: {error.message[:200]}"


def _repeated_names(tools: Sequence[Any]) -> Iterator[Finding]:
    seen: set[str] = set()
    for number, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if isinstance(name, str):
            if name in seen:
                yield (number, "function", "name"), f"{found(name)}; a tool before has the same name"
            seen.add(name)
