"""What a fault is."""

from dataclasses import dataclass, field

from agentless.loopback.draft import Draft, Plan
from agentless.loopback.replies import Reply


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong between a client and a service: a change to the plan of a reply."""

    @property
    def name(self) -> str:
        """The name in the journal."""
        return type(self).__name__

    def plan(self, draft: Draft) -> Plan:
        """What is sent instead of the right reply."""
        raise NotImplementedError


@dataclass(frozen=True)
class ReplyFault(Fault):
    """A fault in the sending of a reply: `reply`, or what the server's default gives."""

    reply: Reply | str | None = field(default=None, kw_only=True)
