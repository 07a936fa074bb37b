"""Nothing paid for is lost or paid twice: samples, on disk, with what was tried to get them.

    keys.py         what makes two requests equal                           pure
    differences.py  what two requests differ in                             pure
    runs.py         which index a call asks for; replay and refresh
    protocol.py     what every engine does, and what callers do with it
    rows.py         what happens in the tables, for every engine            no waiting, no threads
      leases.py       whose turn it is
      schema.py       the tables, their versions
      database.py     what differs between engines
    exchange.py     JSON lines;  upkeep.py  verify, stats, prune
    sqlite.py       the embedded engine, of
      process.py writer.py reader.py ticker.py connections.py files.py

The rules are in docs/store.md. Imported from below are errors and settings alone.
"""

from agentless.store.keys import KEY_VERSION, Request
from agentless.store.opening import open_store
from agentless.store.protocol import (
    Attempt,
    AttemptRow,
    Claim,
    Finished,
    Outcome,
    Plan,
    Pruned,
    Recorded,
    Selection,
    Stats,
    Store,
    StoredSample,
    Transfer,
    awaited,
)
from agentless.store.runs import Run

__all__ = [
    "KEY_VERSION",
    "Attempt",
    "AttemptRow",
    "Claim",
    "Finished",
    "Outcome",
    "Plan",
    "Pruned",
    "Recorded",
    "Request",
    "Run",
    "Selection",
    "Stats",
    "Store",
    "StoredSample",
    "Transfer",
    "awaited",
    "open_store",
]
