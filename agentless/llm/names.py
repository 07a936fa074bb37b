"""One name for one model, however a provider spells it.

`us.anthropic.claude-3-5-sonnet-20241022-v2:0` (Bedrock), `claude-3-5-sonnet@20241022` (Vertex),
`anthropic/claude-3.5-sonnet:beta` (OpenRouter) and `claude-3-5-sonnet-latest` are the same model: the
family `claude-3-5-sonnet`, of a date or of none. Rows are compared with families, whole.
"""

import re
from typing import NamedTuple


class ModelName(NamedTuple):
    """A model's family, and the date of its snapshot as `YYYYMMDD` (`MMDD` for the old GPTs), if any."""

    family: str
    date: str | None = None


def identify(name: str) -> ModelName:
    """The family and date that a provider's spelling of a name means."""
    text = name.strip().lower().rsplit("/", 1)[-1]
    if text.startswith("ft:"):  # ft:gpt-4o-2024-08-06:organisation:suffix:id
        text = text[3:].split(":", 1)[0]
    text = _BEDROCK_PREFIX.sub("", text)
    text = _DEPLOYED_PREFIX.sub("", text)
    text = _BEDROCK_SUFFIX.sub("", text)
    text = text.split(":", 1)[0].replace("@", "-")
    text = _FLOATING.sub("", text)
    text = _AZURE_3_5.sub("gpt-3.5", text)
    if text.startswith("claude"):
        text = _CLAUDE_SERIES_FIRST.sub(r"claude-\2-\1", text.replace(".", "-"))
        text = _VERTEX_VERSION.sub("", text)
    for pattern in (_DAY, _DAY_WITH_DASHES, _OLD_GPT):
        if found := pattern.fullmatch(text):
            return ModelName(found["family"], found["date"].replace("-", ""))
    return ModelName(text)


_BEDROCK_PREFIX = re.compile(
    r"^(?:(?:us|us-gov|eu|apac|ap|au|jp|ca|sa|global)\.)?"
    r"(?:ai21|amazon|anthropic|cohere|deepseek|google|meta|minimax|mistral|moonshotai|nvidia|openai|qwen"
    r"|writer|xai|zai)\.(?=[a-z])"
)
_DEPLOYED_PREFIX = re.compile(r"^databricks-(?=claude|gpt|gemini|meta)")
_BEDROCK_SUFFIX = re.compile(r"-v\d+(?::\d+)?(?::\d+k)?$")
_FLOATING = re.compile(r"-(?:latest|default)$")
_AZURE_3_5 = re.compile(r"^gpt-35(?=-|$)")  # its deployments had no dots in their names
# Some call it claude-4-5-sonnet; Anthropic's own order is so only up to 3.
_CLAUDE_SERIES_FIRST = re.compile(r"^claude-([4-9](?:-\d{1,2})?)-(haiku|opus|sonnet)(?![a-z])")
_VERTEX_VERSION = re.compile(r"-v\d+(?=-20\d{6}$)")  # claude-3-5-sonnet-v2@20241022
_DAY = re.compile(r"(?P<family>.+)-(?P<date>20\d{6})")
_DAY_WITH_DASHES = re.compile(r"(?P<family>.+)-(?P<date>20\d\d-\d\d-\d\d)")
_OLD_GPT = re.compile(
    r"(?P<family>gpt-(?:4|4-32k|4-turbo|3\.?5-turbo|3\.?5-turbo-16k))-(?P<date>[01]\d{3})(?:-preview)?"
)
