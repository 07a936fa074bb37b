"""What `rows` and `leases` need of an engine: one connection, in a transaction."""

from collections.abc import Sequence
from typing import Any, Protocol


class Database(Protocol):
    """One connection, in a transaction."""

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement."""

    def now(self) -> float:
        """The clock that all users of the store share."""

    def is_alive(self, slot: int) -> bool:
        """Whether the process with this slot may be alive, where that can be seen; else true."""
