"""The interface of a keystore. It holds one opaque record and keeps what it replaces."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
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


class Keystore(Protocol):
    """Where one sealed record lies. Opened once, by one process at a time.

    The store is untrusted: whoever opens a record has to find out whether it was changed.
    """

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

        Raises: Unavailable if it could not be stored.
        """

    def close(self) -> None:
        """Let another process open it."""
