"""What litellm's exceptions are, for type checkers: litellm has no types of its own.

Never imported when anything runs: `agentless.errors` fetches the real ones. test_errors.py holds these
against them.
"""


class APIError(Exception):
    """The service failed in a way that has no class of its own; base of none of the others here."""

    status_code: int
    message: str
    llm_provider: str
    model: str | None


class APIConnectionError(Exception):
    """The service could not be reached, or the connection broke."""

    status_code: int
    message: str
    llm_provider: str
    model: str | None


class Timeout(Exception):  # noqa: N818 - litellm's name
    """The service did not answer in time (408)."""

    status_code: int
    message: str
    llm_provider: str
    model: str


class _StatusError(Exception):
    status_code: int
    message: str
    llm_provider: str
    model: str


class BadRequestError(_StatusError):
    """Invalid request parameters (400)."""


class AuthenticationError(_StatusError):
    """Invalid API key or credentials (401)."""


class PermissionDeniedError(_StatusError):
    """The key may not do this (403)."""


class NotFoundError(_StatusError):
    """No such model or endpoint (404)."""


class UnprocessableEntityError(_StatusError):
    """The request is well formed and still refused (422)."""


class RateLimitError(_StatusError):
    """Rate limit exceeded, or the quota used up (429)."""


class InternalServerError(_StatusError):
    """The service failed (500)."""


class ServiceUnavailableError(_StatusError):
    """Service temporarily unavailable (503)."""


class ContextWindowExceededError(BadRequestError):
    """The service says that the prompt is too long."""


class ContentPolicyViolationError(BadRequestError):
    """The service refuses the content."""


InvalidRequestError = BadRequestError
