"""Attester and verifier with the collateral that is held here. The exchange knows nothing of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from rkeyserver.attestation.evidence import Attester, Identity
from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.errors import Unavailable
from rkeyserver.exchange.attested import Verifier
from rkeyserver.service.held import HeldCollateral

A = TypeVar("A")
T = TypeVar("T")
log = logging.getLogger(__name__)


async def in_its_time(attester: Attester, vouches: Callable[[A], T], argument: A) -> T:
    """vouches(argument), which has `attester` give evidence: beside the event loop where that one waits for it.

    Raises: Unavailable if the host lets no thread begin; what `vouches` raises.
    """
    if not attester.waits:
        return vouches(argument)
    try:
        waiting = asyncio.get_running_loop().run_in_executor(_beside(), vouches, argument)
    except RuntimeError as error:
        raise Unavailable(f"No evidence can be asked for: {error}.") from error
    return await waiting


@cache
def _beside() -> ThreadPoolExecutor:
    """One thread, for there is one quoting enclave, and an enclave has not many threads."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="evidence")


@dataclass(frozen=True)
class AttesterWithHeld:
    """A platform as an attester whose endorsements are what is held.

    asks: whether it is the standby's. That one may send none where its own has expired: its host may hold newer.
    """

    attester: Attester
    held: HeldCollateral
    asks: bool

    @property
    def waits(self) -> bool:
        """As evidence.Attester."""
        return self.attester.waits

    def attester_identity(self) -> Identity:
        """As evidence.Attester."""
        return self.attester.attester_identity()

    def evidence(self, report_data: bytes) -> bytes:
        """As evidence.Attester."""
        return self.attester.evidence(report_data)

    def endorsements(self) -> bytes:
        """As evidence.Attester.

        Raises: Unavailable (COLLATERAL_EXPIRED).
        """
        try:
            return self.held.for_own_evidence()
        except Unavailable as error:
            if not self.asks:
                raise
            log.warning("Sent none along, the host may hold newer. %s", error)
            return b""


@dataclass(frozen=True)
class VerifierWithHeld:
    """A verifier, given what is held by HeldCollateral.changed; what a verified peer sent is learned."""

    verifier: Verifier
    held: HeldCollateral

    async def verify(self, evidence: bytes, endorsements: bytes, expected_report_data: bytes, now: int) -> SgxClaims:
        """As exchange.attested.Verifier."""
        claims = await self.verifier.verify(evidence, endorsements, expected_report_data, now)
        self.held.learn(endorsements)
        return claims
