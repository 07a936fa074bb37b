"""Faults to script: what real services and the networks before them do to their clients.

    server.script(faults.Status(429, headers={"retry-after": "2"}), "then this reply")

Statuses are refusals in proper HTTP and are not charged; connection faults break the transport; content
faults are 200s with something wrong inside, and are charged. A fault that sends a reply sends its own
`reply=`, or what the server's default gives. Each does something sensible to whole and to streamed replies.
"""

from agentless.loopback.faults.connections import (
    CleanClose,
    CutBody,
    Drip,
    EndlessHeaders,
    Garbage,
    HalfHeaders,
    Reset,
    SlowStart,
    Stall,
)
from agentless.loopback.faults.contents import (
    Comments,
    CorruptEvent,
    DripEvents,
    EmptyChoices,
    EmptyText,
    ErrorEvent,
    MalformedBody,
    TruncatedStream,
)
from agentless.loopback.faults.fault import Fault, ReplyFault
from agentless.loopback.faults.statuses import (
    ContextExceeded,
    InvalidKey,
    PromptBlocked,
    QuotaExhausted,
    Status,
)

__all__ = [
    "CleanClose",
    "Comments",
    "ContextExceeded",
    "CorruptEvent",
    "CutBody",
    "Drip",
    "DripEvents",
    "EmptyChoices",
    "EmptyText",
    "EndlessHeaders",
    "ErrorEvent",
    "Fault",
    "Garbage",
    "HalfHeaders",
    "InvalidKey",
    "MalformedBody",
    "PromptBlocked",
    "QuotaExhausted",
    "ReplyFault",
    "Reset",
    "SlowStart",
    "Stall",
    "Status",
    "TruncatedStream",
]
