"""Why a reply ended: every provider's word for it, in the field's common four; pure.

Sources: the references of OpenAI, Anthropic, Google, Mistral, Cohere, Bedrock, DeepSeek and Z.ai; vLLM,
SGLang, TGI and Ollama; litellm's map (1.105.3).
"""

from collections.abc import Mapping

COMMON: Mapping[str, str] = {
    word: common
    for common, words in {
        "stop": "stop end_turn stop_sequence stop_token pause_turn eos eos_token complete completed done end "
        "finished finish_reason_stop stop_str normal",
        "length": "length max_tokens max_output_tokens max_token max_new_tokens model_length limit "
        "token_limit context_length context_window model_context_window_exceeded context_length_exceeded "
        "compaction time_limit repetition_truncation finish_reason_max_tokens incomplete",
        "tool_calls": "tool_calls tool_call tool_use function_call function_calls",
        "content_filter": "content_filter content_filtered refusal refused safety recitation language other "
        "blocklist blocked prohibited_content spii image_safety image_prohibited_content image_recitation "
        "image_other error_toxic sensitive guardrail_intervened guardrail content_policy moderation "
        "model_armor finish_reason_safety",
    }.items()
    for word in words.split()
}
"""A provider's word, in lower case, to what it means."""

FAILURES = frozenset(
    """
    error errored failed failure fail abort aborted cancelled canceled cancel network_error server_error
    internal_error internal_server_error malformed_function_call malformed_response malformed_tool_use
    malformed_model_output unexpected_tool_call too_many_tool_calls missing_thought_signature
    insufficient_system_resource system_error service_unavailable unavailable overloaded timeout timed_out
    error_limit no_image user_cancel interrupted exception finish_reason_error preempted
    """.split()  # noqa: SIM905  # words are read better so
)
"""Words, in lower case, by which a service says that it failed: the reply is no sample."""


def finish_reason(reason: str, has_calls: bool) -> str:
    """`reason` in the common four, an unknown word as `stop`; calls with a `stop` are `tool_calls`."""
    common = COMMON.get(_folded(reason), "stop")
    return "tool_calls" if has_calls and common == "stop" else common


def is_failure(reason: str) -> bool:
    """Whether the service says with `reason` that it failed."""
    return _folded(reason) in FAILURES


def is_known(reason: str) -> bool:
    """Whether `reason` is in one of the tables."""
    return _folded(reason) in COMMON or is_failure(reason)


def _folded(reason: str) -> str:
    return reason.strip().casefold().replace("-", "_").replace(" ", "_")
