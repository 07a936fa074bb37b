"""The tool with which the pipeline's repair stage lets a model edit files, and what the model is told.

The tool's name, its parameters and the two sentences are the pipeline's: its post-processing reads the calls.
"""

from collections.abc import Mapping
from typing import Any

EDITED = "File is successfully edited"
"""What each call is answered."""

NUDGE = "Please generate editing commands to fix the issue"
"""What is said, once, if the first reply has no call."""

EDIT_TOOL: Mapping[str, Any] = {
    "name": "str_replace_editor",
    "description": (
        "Edits a file by replacing text in it. `old_str` has to be copied from the file exactly, whole lines "
        "with their indentation, and has to occur in it only once: if it does not, include lines around it. "
        "Edits stay in effect from one call to the next."
    ),
    "input_schema": {
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "The file's full path, such as `folder/file.py`."},
            "old_str": {"type": "string", "description": "The lines to replace."},
            "new_str": {
                "type": "string",
                "description": "The lines to put in their place; without it they are deleted.",
            },
        },
        "required": ["path", "old_str"],
    },
}
"""In the shape of Anthropic's messages."""


def as_function(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool in Anthropic's shape as settings take it."""
    function = {"name": tool["name"], "parameters": tool["input_schema"]}
    if "description" in tool:
        function["description"] = tool["description"]
    return {"type": "function", "function": function}
