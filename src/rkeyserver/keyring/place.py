"""Where a state of a domain's keyring stands among all of them (docs/spec/keyring.md)."""

from __future__ import annotations

from typing import NamedTuple


class Place(NamedTuple):
    """Which of two states of a domain is the later one: the one whose place is higher, in this order of fields.

    primary: the member that made it, hex16; digest: SHA-256 of the keyring's header, hex32. It tells two states apart
    that one primary made twice, after its record was rolled back, and decides between them.
    """

    epoch: int
    sequence: int
    primary: str
    digest: str

    def __str__(self) -> str:
        return f"epoch {self.epoch}, sequence {self.sequence} of {self.primary}"
