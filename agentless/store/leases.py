"""Whose turn it is: a process owns its claims for as long as it lives and renews its lease."""

import itertools
import math
import random
import time
import uuid

from agentless.store.database import Database


class Owner:
    """Who asks: one process's store, with the length of its leases in seconds."""

    def __init__(self, slot: int, lease: float) -> None:
        self.id = uuid.uuid4().hex
        self.slot = slot
        self.lease = lease
        self._numbers = itertools.count(random.randrange(2**62))  # noqa: S311 - not a secret
        self._renewed = -math.inf

    def fence(self) -> int:
        """A number that no claim has had before."""
        return next(self._numbers)

    def is_due(self) -> bool:
        """Whether its lease should be renewed, which then has to be done."""
        now = time.monotonic()
        if now - self._renewed < self.lease / 6:
            return False
        self._renewed = now
        return True

    def forget(self) -> None:
        """What was renewed was not."""
        self._renewed = -math.inf


def renew(db: Database, owner: Owner) -> None:
    """Say that the owner lives, for another lease; where that is said often, once in a while."""
    if not owner.is_due():
        return
    db.execute(
        "INSERT INTO owner (id, slot, lease, until) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (id) DO UPDATE SET until = excluded.until",
        (owner.id, owner.slot, owner.lease, db.now() + owner.lease),
    )


def bury(db: Database, owner: str) -> None:
    """End an owner: its claims are anybody's, and nobody knows what became of what it had sent."""
    db.execute("DELETE FROM claim WHERE owner = ?", (owner,))
    db.execute(
        "UPDATE attempt SET state = 'unknown', ended = ? WHERE owner = ? AND state = 'sent'",
        (time.time(), owner),
    )
    db.execute("DELETE FROM owner WHERE id = ?", (owner,))


def bury_the_dead(db: Database) -> None:
    """End every owner that is seen to be dead."""
    for (owner,) in db.execute("SELECT id FROM owner"):
        bury_if_dead(db, owner)


def is_dead(db: Database, owner: str) -> bool:
    """Whether nobody has to wait for this owner any more."""
    rows = db.execute("SELECT slot, lease, until FROM owner WHERE id = ?", (owner,))
    if not rows:
        return True
    (slot, lease, until), now = rows[0], db.now()
    # A lease that began later than now is from before the clock's own start: the machine's, say.
    return not (until - lease <= now < until and db.is_alive(slot))


def bury_if_dead(db: Database, owner: str) -> bool:
    """End an owner that is dead; says whether it was."""
    dead = is_dead(db, owner)
    if dead:
        bury(db, owner)
    return dead
