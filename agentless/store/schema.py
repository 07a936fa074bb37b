"""The tables, and how an older store becomes today's.

Times are seconds since 1970, except `owner.until`, which is on the engine's own clock. Texts are ASCII JSON.
"""

from collections.abc import Mapping, Sequence

SCHEMA_VERSION = 1
"""Raised with every change of the tables, together with a row of `MIGRATIONS`."""

APPLICATION_ID = 0x41474C53  # "AGLS", in the header of an SQLite file

TABLES = (
    # One a key. The hashes find what differs only in its settings, or only in its messages. Each index
    # costs a written page a sample: there are those alone without which something would be slow.
    """CREATE TABLE request (
        id INTEGER PRIMARY KEY,
        key TEXT NOT NULL UNIQUE,
        key_version INTEGER NOT NULL,
        provider TEXT NOT NULL,
        model TEXT NOT NULL,
        settings_hash TEXT NOT NULL,
        messages_hash TEXT NOT NULL,
        request TEXT NOT NULL,
        body TEXT,
        created DOUBLE PRECISION NOT NULL)""",
    "CREATE INDEX request_by_messages ON request (messages_hash)",
    # Written before a request goes out. Its id is global, so that stores can be merged.
    """CREATE TABLE attempt (
        id TEXT PRIMARY KEY,
        request INTEGER NOT NULL REFERENCES request (id),
        indexes TEXT NOT NULL,
        number INTEGER NOT NULL,
        owner TEXT,
        state TEXT NOT NULL,
        begun DOUBLE PRECISION NOT NULL,
        ended DOUBLE PRECISION,
        usage TEXT,
        cost DOUBLE PRECISION,
        error TEXT)""",
    "CREATE INDEX attempt_by_request ON attempt (request)",
    "CREATE INDEX attempt_unfinished ON attempt (owner) WHERE state = 'sent'",
    # (attempt, choice) is a sample's identity wherever it was stored: importing twice changes nothing.
    """CREATE TABLE sample (
        request INTEGER NOT NULL REFERENCES request (id),
        idx INTEGER NOT NULL,
        attempt TEXT NOT NULL,
        choice INTEGER NOT NULL,
        trajectory TEXT NOT NULL,
        created DOUBLE PRECISION NOT NULL,
        PRIMARY KEY (request, idx),
        UNIQUE (attempt, choice))""",
    # Who gets a sample just now; whoever comes back late shows a fence that is no longer there.
    """CREATE TABLE claim (
        request INTEGER NOT NULL REFERENCES request (id),
        idx INTEGER NOT NULL,
        owner TEXT NOT NULL,
        fence BIGINT NOT NULL,
        PRIMARY KEY (request, idx))""",
    # A process that holds claims; `slot` is how the engine sees that it lives.
    """CREATE TABLE owner (
        id TEXT PRIMARY KEY,
        slot BIGINT NOT NULL,
        lease DOUBLE PRECISION NOT NULL,
        until DOUBLE PRECISION NOT NULL)""",
)

MIGRATIONS: Mapping[int, Sequence[str]] = {}
"""From a version to the next: what is to be executed."""


def steps(
    found: int, wanted: int = SCHEMA_VERSION, migrations: Mapping[int, Sequence[str]] | None = None
) -> list[str]:
    """All that makes the wanted version of the found one, in order."""
    rows = MIGRATIONS if migrations is None else migrations
    return [statement for version in range(found, wanted) for statement in rows[version]]
