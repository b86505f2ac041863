"""What a database has to do for a keystore. A keystore's one thread calls it; only cut() comes from others."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Protocol

from rkeyserver.keystore.table import Value

ANSWER_SECONDS: Final = 2.0  # within which a database has to answer, each time
SPACE: Final = "Free some space for the database (or raise its quota), then try again."
READ_ONLY: Final = "Name the database that may be written to: docs/operations/postgresql.md has failover."


class LostConnectionError(Exception):
    """The database went away before a COMMIT was sent: nothing was changed. The text says why."""


class UnknownCommitError(Exception):
    """It went away, or failed, while a COMMIT was on its way: whether that was done, only a look can tell."""


class Transaction(Protocol):
    """One transaction. The statements are those of table.py."""

    def rows(self, statement: str, values: Sequence[Value] = ()) -> list[tuple[object, ...]]:
        """What it gives."""

    def change(self, statement: str, values: Sequence[Value] = ()) -> int:
        """How many rows it has changed."""


class Backend(Protocol):
    """One database, and in it the lock of one owner.

    Raises, from each but close() and cut(): LostConnectionError; Unavailable, Corrupt, Misuse where it says why not.
    """

    def prepare(self) -> None:
        """Connect, and see that the tables are there: where nothing is, they are made."""

    def transaction(self, *, write: bool) -> AbstractContextManager[Transaction]:
        """A transaction, committed durably where the context ends well, else undone. A lost connection is made anew.

        write: with the owner's lock held. Raises: UnknownCommitError.
        """

    def lock(self) -> None:
        """Hold the owner's lock; it is held already, or is taken. Raises: Unavailable if another process has it."""

    def owns(self, path: Path) -> bool:
        """Whether a file of that path is, or may become, part of the database."""

    def cut(self) -> None:
        """Have what hangs in another thread end now, if that can be done."""

    def close(self) -> None:
        """Give up the lock and the connection."""
