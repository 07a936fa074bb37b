"""What Gemini refuses, in the service's words.

Fields and types are `gemini_fields`'; here are ranges, turns, calls and their answers, and what each family
of models does not take. A name that no row matches has no limits of its own.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs

from agentless.loopback.gemini_fields import Violation, parts, read
from agentless.loopback.journal import Entry
from agentless.loopback.wire import Failure, RefusedError, Rules

INVALID: Final = "INVALID_ARGUMENT"
_NO_KEY: Final = Failure(
    403,
    "Method doesn't allow unregistered callers (callers without established identity). Please use API Key or"
    " other form of API consumer identity to call this API.",
    "PERMISSION_DENIED",
)
_NO_TOKEN: Final = Failure(
    401,
    "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other"
    " valid authentication credential. See"
    " https://developers.google.com/identity/sign-in/web/devconsole-project.",
    "UNAUTHENTICATED",
)
_REASONS: Final = "type.googleapis.com/google.rpc.ErrorInfo"
WRONG_KEY: Final = Failure(
    400,
    "API key not valid. Please pass a valid API key.",
    INVALID,
    details=(
        {
            "@type": _REASONS,
            "reason": "API_KEY_INVALID",
            "domain": "googleapis.com",
            "metadata": {"service": "generativelanguage.googleapis.com"},
        },
    ),
)
_RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "candidate_count": (1, 8),
}
_MAX_STOP: Final = 5
_MIME_TYPES: Final = ("text/plain", "application/json", "application/xml", "application/yaml", "text/x.enum")
_PAYLOADS: Final = (
    "text inline_data file_data function_call function_response executable_code code_execution_result"
    " tool_call tool_response"
)
_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,127}")
_ANSWERED: Final = (
    "Please ensure that the number of function response parts is equal to the number of function call parts"
    " of the function call turn."
)


@dataclass(frozen=True, slots=True)
class _Family:
    """What a family of models takes."""

    names: str
    """A pattern for the beginning of the name."""
    thinks: bool = True
    budget: tuple[int, int] = (1, 2**31)
    """The thinking budget, apart from -1 (the model's own choice)."""
    thinks_always: bool = False
    levels: bool = True
    signatures: bool = False
    """The first function call of each step of a turn needs the signature that it came with."""
    json_with_tools: bool = True
    function_role: bool = True


_FAMILIES: Final = (
    _Family("gemini-(1|2\\.0)", thinks=False, levels=False, json_with_tools=False),
    _Family(
        "gemini-2\\.5-pro", budget=(128, 32_768), thinks_always=True, levels=False, json_with_tools=False
    ),
    _Family("gemini-2\\.5-flash-lite", budget=(512, 24_576), levels=False, json_with_tools=False),
    _Family("gemini-2\\.5", budget=(1, 24_576), levels=False, json_with_tools=False),
    _Family("gemini-3(-|\\.[0-4])", budget=(0, 32_768), signatures=True),
    _Family("gemini-(3\\.|[4-9])", budget=(0, 32_768), signatures=True, function_role=False),
)
_ANY_FAMILY: Final = _Family("")


def refuse(entry: Entry, rules: Rules, prompt_tokens: Callable[[], int]) -> None:
    """Raise `RefusedError` with what is wrong."""
    _check_key(entry, rules)
    path, _, query = entry.path.partition("?")
    if path.endswith(":streamGenerateContent") and "sse" not in parse_qs(query).get("alt", ()):
        raise _refused("The loopback streams server-sent events only: ask for `?alt=sse`.")
    if entry.body is None:
        raise _refused("Invalid JSON payload received. Unexpected end of string. Expected a value.\n\n^")
    body, wrong = read(entry.body)
    _raise_all([one for one in wrong if not (one.unknown and rules.lenient)])
    family = next((f for f in _FAMILIES if re.match(f.names, entry.model)), _ANY_FAMILY)
    _check_contents(body)
    _check_turns(body["contents"], family)
    _check_tools(body)
    _check_config(body.get("generation_config", {}), family, tools=bool(body.get("tools")))
    if rules.context_size is not None and (prompt := prompt_tokens()) > rules.context_size:
        raise _refused(
            f"The input token count ({prompt}) exceeds the maximum number of tokens allowed"
            f" ({rules.context_size})."
        )


def _refused(message: str) -> RefusedError:
    return RefusedError(Failure(400, message, INVALID))


def _raise_all(wrong: Sequence[Violation]) -> None:
    """Tell everything that is wrong with fields at once, as the service does."""
    if not wrong:
        return
    violations = [
        {**({"field": one.field} if one.field else {}), "description": one.description} for one in wrong
    ]
    bad_request = {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": violations}
    message = "\n".join(one.description for one in wrong)
    raise RefusedError(Failure(400, message, INVALID, details=(bad_request,)))


def _raise_places(places: Sequence[str]) -> None:
    """Tell of what is wrong with values, each in a line of its own."""
    if places:
        raise _refused("".join(f"* GenerateContentRequest.{place}\n" for place in places))


def _check_key(entry: Entry, rules: Rules) -> None:
    bearer = entry.headers.get("authorization", "").removeprefix("Bearer ").strip()
    in_query = parse_qs(entry.path.partition("?")[2]).get("key", [""])[0]
    key = entry.headers.get("x-goog-api-key") or in_query or bearer
    if not key:
        raise RefusedError(_NO_TOKEN if "/projects/" in entry.path else _NO_KEY)
    if rules.api_key not in (None, key):
        raise RefusedError(WRONG_KEY if key != bearer else _NO_TOKEN)


def _check_contents(body: Mapping[str, Any]) -> None:
    contents = body.get("contents", [])
    if not contents:
        raise _refused("* GenerateContentRequest.contents: contents is not specified\n")
    places = []
    named = [(f"contents[{i}]", content) for i, content in enumerate(contents)]
    if "system_instruction" in body:
        named.append(("system_instruction", body["system_instruction"]))
    for path, content in named:
        if not content.get("parts"):
            places.append(f"{path}.parts: contents.parts must not be empty.")
        for i, part in enumerate(content.get("parts", ())):
            if not any(name in part for name in _PAYLOADS.split()):
                places.append(
                    f"{path}.parts[{i}].data: required oneof field 'data' must have one initialized field"
                )
    _raise_places(places)


def _check_turns(contents: Sequence[Mapping[str, Any]], family: _Family) -> None:
    """Roles; each turn's calls are answered by the next turn, and nothing else is."""
    waiting, before, signed = 0, "nothing", family.signatures
    last_user = max((i for i, content in enumerate(contents) if _is_asking(content)), default=0)
    for i, content in enumerate(contents):
        role = content.get("role", "user")
        if role == "function" and not family.function_role:
            raise _refused(
                "Role 'function' is not supported. Please use a valid role: SYSTEM, SYSTEM_1, USER,"
                " ASSISTANT, DEVELOPER, CONTEXT, USER_CONTEXT, MODEL, USER."
            )
        if role not in ("user", "model", "function"):
            raise _refused("Please use a valid role: user, model.")
        calls, answers = (sum(1 for _ in parts([dict(content)], kind)) for kind in _CALLING)
        if answers != waiting:
            raise _refused(_ANSWERED)
        if calls and (role != "model" or before not in ("user", "function")):
            raise _refused(
                "Please ensure that function call turn comes immediately after a user turn or after a"
                " function response turn."
            )
        if calls and signed and i > last_user:
            _check_signature(content, i)
        waiting, before = calls, role
    if waiting:
        raise _refused(_ANSWERED)


_CALLING: Final = ("function_call", "function_response")


def _is_asking(content: Mapping[str, Any]) -> bool:
    return content.get("role", "user") == "user" and any(
        "function_response" not in part for part in content["parts"]
    )


def _check_signature(content: Mapping[str, Any], position: int) -> None:
    first = next(parts([dict(content)], "function_call"))
    if first.get("thought_signature"):
        return
    name = first["function_call"].get("name", "")
    raise _refused(
        "Function call is missing a thought_signature in functionCall parts. This is required for tools to"
        " work correctly, and missing thought_signature may lead to degraded model performance. Additional"
        f" data, function call `default_api:{name}` , position {position + 1}. Please refer to"
        " https://ai.google.dev/gemini-api/docs/thought-signatures for more details."
    )


def _check_tools(body: Mapping[str, Any]) -> None:
    names: list[str] = []
    places: list[str] = []
    for i, tool in enumerate(body.get("tools", ())):
        for j, function in enumerate(tool.get("function_declarations", ())):
            path = f"tools[{i}].function_declarations[{j}]"
            name = function.get("name", "")
            if not _NAME.fullmatch(name):
                places.append(
                    f"{path}.name: [FIELD_INVALID] Invalid function name. Must start with a letter or an"
                    " underscore. Must be alphameric (a-z, A-Z, 0-9), underscores (_), dots (.), colons (:),"
                    " or dashes (-), with a maximum length of 128."
                )
            if "parameters" in function and "parameters_json_schema" in function:
                places.append(f"{path}: only one of parameters and parameters_json_schema may be set.")
            if function.get("parameters", {}).get("type", "OBJECT") != "OBJECT":
                places.append(f"{path}.parameters.type: must be OBJECT")
            places += _schema_places(f"{path}.parameters", function.get("parameters", {}))
            names.append(name)
    _raise_places(places)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise _refused(f"Duplicate function declaration found: {twice}")
    calling = body.get("tool_config", {}).get("function_calling_config", {})
    allowed = calling.get("allowed_function_names", [])
    if allowed and calling.get("mode") not in ("ANY", "VALIDATED"):
        raise _refused(
            "Allowed function names should only be set when function calling config mode is set to ANY or"
            " VALIDATED."
        )
    if unknown := [name for name in allowed if name not in names]:
        raise _refused(
            f"Allowed function name {unknown[0]} is not found in the given function declarations: {names}."
        )


def _schema_places(path: str, schema: Mapping[str, Any]) -> list[str]:
    places = [
        f"{path}.{field}: only allowed for {owner} type"
        for field, owner in (("properties", "OBJECT"), ("required", "OBJECT"), ("items", "ARRAY"))
        if field in schema and schema.get("type", owner) != owner
    ]
    properties = schema.get("properties", {})
    places += [
        f"{path}.required[{i}]: property is not defined"
        for i, name in enumerate(schema.get("required", ()))
        if name not in properties
    ]
    for name, value in properties.items():
        places += _schema_places(f"{path}.properties[{name}]", value)
    for i, value in enumerate(schema.get("any_of", ())):
        places += _schema_places(f"{path}.any_of[{i}]", value)
    if schema.get("type") == "ARRAY" and "items" not in schema:
        places.append(f"{path}.items: missing field.")
    return places + (_schema_places(f"{path}.items", schema["items"]) if "items" in schema else [])


def _check_config(config: Mapping[str, Any], family: _Family, *, tools: bool) -> None:
    places = []
    where = "generation_config"
    for name, (low, high) in _RANGES.items():
        if name in config and not low <= config[name] <= high:
            places.append(f"{where}.{name}: {name} must be in the range [{low}, {high}].")
    if config.get("max_output_tokens", 1) < 1:
        places.append(f"{where}.max_output_tokens: max_output_tokens must be positive.")
    if len(config.get("stop_sequences", ())) > _MAX_STOP:
        places.append(f"{where}.stop_sequences: the number of stop_sequences must not exceed {_MAX_STOP}.")
    mime = config.get("response_mime_type", "text/plain")
    if mime not in _MIME_TYPES:
        *most, last = (f"`{one}`" for one in _MIME_TYPES)
        allowed = f"{', '.join(most)} and {last}"
        places.append(f"{where}.response_mime_type: allowed mimetypes are {allowed}.")
    places += [
        f"{where}.{name}: only allowed when response_mime_type is `application/json`."
        for name in ("response_schema", "response_json_schema")
        if name in config and mime not in ("application/json", "text/x.enum")
    ]
    _raise_places(places)
    if tools and mime != "text/plain" and not family.json_with_tools:
        raise _refused(f"Function calling with a response mime type: '{mime}' is unsupported")
    if "thinking_config" in config:
        _check_thinking(config["thinking_config"], family)


def _check_thinking(thinking: Mapping[str, Any], family: _Family) -> None:
    budget = thinking.get("thinking_budget")
    low, high = family.budget
    if not family.thinks and (budget or thinking.get("include_thoughts")):
        raise _refused("Thinking is not supported for this model.")
    if budget is not None and "thinking_level" in thinking:
        raise _refused("You can only set only one of thinking budget and thinking level.")
    if "thinking_level" in thinking and not family.levels:
        raise _refused("Thinking level is not supported for this model.")
    if budget == 0 and family.thinks_always:
        raise _refused("Budget 0 is invalid. This model only works in thinking mode.")
    if budget not in (None, -1, 0) and not low <= budget <= high:
        raise _refused(
            f"The thinking budget {budget} is invalid. Please choose a value between {low} and {high}."
        )
