"""What an attester gives and what a verifier proves from it (RFC 9334's evidence, endorsements, claims)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

REPORT_DATA_SIZE: Final = 64
MAX_EVIDENCE: Final = 16 * 1024
MAX_ENDORSEMENTS: Final = 128 * 1024


@dataclass(frozen=True)
class Identity:
    """Which machine an attester says it is, before and after proof.

    platform: registered name; machine: the machine's name on it (for SGX the PPID, lower-case hex).
    """

    platform: str
    machine: str


class Attester(Protocol):
    """Gives evidence about this machine and the code running in it."""

    @property
    def waits(self) -> bool:
        """Whether evidence() waits for another program, and so is to be asked for beside an event loop, not on it."""

    def attester_identity(self) -> Identity:
        """Who this attester will turn out to be."""

    def evidence(self, report_data: bytes) -> bytes:
        """Evidence (for SGX a quote, at most MAX_EVIDENCE bytes) over 64 bytes of `report_data`.

        Raises: Unavailable if the platform gives none now.
        """

    def endorsements(self) -> bytes:
        """What a verifier needs beside its trust anchor (for SGX the collateral, JSON); may be empty."""
