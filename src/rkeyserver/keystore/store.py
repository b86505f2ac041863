"""The interface of a keystore. It holds one opaque record and keeps what it replaces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

MAX_RECORD: Final = 1024 * 1024
KEPT: Final = 5


class Fetch(StrEnum):
    """How a machine whose record cannot be used comes to the keyring from a running instance."""

    OWN = "start with -i HOST, and it is kept beside the new one"
    UNREADABLE = "start with -i HOST and --domain ID, and it is kept beside the new one"
    IN_THE_WAY = "move the file and all kept copies elsewhere, and start with -i HOST and --domain ID"


def ways_out(kept: Sequence[str], fetch: Fetch) -> str:
    """Advice for a record that is there and cannot be used. kept: names of the copies beside it, newest first."""
    copies = (
        f"a copy kept beside it (newest first: {', '.join(kept)}) or a backup"
        if kept
        else "a backup (no copy is kept beside it)"
    )
    return (
        f"Nothing was changed. Either move the file aside and put {copies} in its place. Or fetch the keyring from a "
        f"running instance: {fetch}. Only to give its key up for a new domain: move the file, the kept copies and the "
        "audit file elsewhere."
    )


@dataclass(frozen=True)
class Binding:
    """What a record says of itself that a table repeats in its row: whose it is, and which state of which domain."""

    platform: str
    machine: str
    domain: str
    epoch: int
    sequence: int


# Reads it from a record's bytes; None where they cannot be read. A store sees nothing else of what it holds.
Bound = Callable[[bytes], Binding | None]


class Keystore(Protocol):
    """Where one sealed record lies. Opened once, by one process at a time.

    The store is untrusted: whoever opens a record has to find out whether it was changed. waits: whether it may have to
    wait for others, as for a database: then check_reachable() is asked in a thread before it is used on an event loop.
    """

    @property
    def waits(self) -> bool:
        """As above."""

    def check_reachable(self) -> None:
        """Whether what holds the record answers now; nothing is read or written.

        Raises: Unavailable.
        """

    def owns(self, path: Path) -> bool:
        """Whether a file of that path is, or may become, part of this keystore."""

    def glance(self) -> bytes | None:
        """As load(), for a look at it: as it was a moment ago, without waiting for anything.

        Raises: as load(); also where it is known that another record lies there than was loaded or stored last.
        """

    def ways_out(self, fetch: Fetch) -> str:
        """Advice for a record that is there and cannot be used."""

    def load(self) -> bytes | None:
        """The record's bytes; None only where there certainly is none.

        Raises: Corrupt if something is there that cannot be read whole, or if there is no record but
        set-aside ones show that there was. Nothing is changed.
        """

    def check_new(self) -> None:
        """Whether a first record may be made here, where load() finds none.

        Raises: Corrupt if something else says that one belongs here.
        """

    def kept_names(self) -> list[str]:
        """The names of what is kept beside the record, newest first; none where that cannot be told now."""

    def replace(self, record: bytes, keep_as: str | None) -> bool:
        """Store `record` durably in place of what is there; True if there was something to replace.

        keep_as: a name (of letters, digits, `.`, `-`) under which what was there is kept beside it; None where it need
        not be kept. At most KEPT are kept, the oldest go first; but the
        newest of each kind (what stands before the first dot of its name) always stays.
        When it returns, the record survives power loss. When it raises, the old record or the new one is there, whole.

        Raises: Unavailable if it could not be stored, or if another process has stored one since this one last looked.
        """

    def close(self) -> None:
        """Let another process open it."""
