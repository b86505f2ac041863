"""What a platform is: an attester and a sealer, with a name and an honest sentence about what it protects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from rkeyserver.attestation.evidence import Attester
from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.sealing.sealer import PlatformSealer

VerifyFunction = Callable[[bytes, bytes, bytes, int], SgxClaims]
"""(evidence, endorsements, expected report data, now) -> claims, or Rejected."""


class Platform(Attester, PlatformSealer, Protocol):
    """One machine's platform, open."""

    @property
    def name(self) -> str:
        """Its registered name."""

    @property
    def simulated(self) -> bool:
        """Whether it protects nothing."""

    @property
    def trusts_host(self) -> bool:
        """Whether the host's owner is trusted anyway, so that what he says of the policy may count."""

    @property
    def hides_memory(self) -> bool:
        """Whether all of this process's memory is hidden from the host, key memory or not."""

    @property
    def starts_processes(self) -> bool:
        """Whether this process can start others of the same program."""

    @property
    def protects(self) -> str:
        """One sentence for people: what it protects against, and what not."""

    @property
    def mrsigner(self) -> str:
        """Own MRSIGNER, hex."""

    @property
    def isv_prod_id(self) -> int:
        """Own product id."""
