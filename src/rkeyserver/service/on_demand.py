"""Verifies quotes that come without collateral, as those in RA-TLS certificates do.

What is held here serves for its models. For another model it is fetched, where there is a PCCS: once for all that wait
for it, and seldom, for a quote says by itself which model it is of, and anyone can say so.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, field
from typing import Final, Protocol

from rkeyserver.attestation.evidence import Attester
from rkeyserver.attestation.sgx.bundle import MAX_ENTRIES, MAX_SOURCE, Entry
from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.attestation.sgx.collateral import Collateral
from rkeyserver.attestation.sgx.model import Model, model_of
from rkeyserver.attestation.sgx.parts import describe
from rkeyserver.errors import Unavailable
from rkeyserver.exchange.attested import Verifier
from rkeyserver.service.held import HeldCollateral
from rkeyserver.service.refresh import Source

AGAIN_SECONDS: Final = 60  # between two fetches for one model
MOST_FETCHES: Final = 6  # in AGAIN_SECONDS, of all models
log = logging.getLogger(__name__)


class QuoteVerifier(Protocol):
    """Proves a quote by itself."""

    async def verify(self, quote: bytes, report_data: bytes, now: int) -> SgxClaims:
        """Prove it genuine and over `report_data` (64 bytes), at `now` (seconds since 1970).

        Raises: Rejected, Unavailable, as exchange.attested.Verifier.
        """


@dataclass(frozen=True)
class WithOwnEndorsements:
    """For a platform whose endorsements are its own, and everybody's."""

    attester: Attester
    verifier: Verifier

    async def verify(self, quote: bytes, report_data: bytes, now: int) -> SgxClaims:
        """As QuoteVerifier."""
        return await self.verifier.verify(quote, self.attester.endorsements(), report_data, now)


@dataclass
class OnDemand:
    """With what is held, and what a PCCS gives. source: None where there is none. verifier: given what is held."""

    held: HeldCollateral
    source: Source | None
    verifier: Verifier
    _fetching: dict[Model, asyncio.Task[Collateral]] = field(default_factory=dict, init=False)
    _fetched: deque[tuple[int, Model]] = field(default_factory=deque, init=False)

    async def verify(self, quote: bytes, report_data: bytes, now: int) -> SgxClaims:
        """As QuoteVerifier."""
        model = model_of(quote)
        if self.source is None or self._holds(model, now):
            return await self.verifier.verify(quote, b"", report_data, now)
        fetched = await self._fetch(self.source, model, now)
        entry = self.held.with_newest(Entry(model.fmspc, model.ca, self.source.url[:MAX_SOURCE], now, fetched))
        claims = await self.verifier.verify(quote, entry.encoded, report_data, now)
        # Kept only after it has verified a quote; one place is for this machine's own.
        if model in self.held.entries or len(self.held.entries) < MAX_ENTRIES - 1:
            self.held.keep(entry)
        return claims

    def _holds(self, model: Model, now: int) -> bool:
        entry = self.held.entries.get(model)
        return entry is not None and describe(entry.collateral).expires >= now

    async def _fetch(self, source: Source, model: Model, now: int) -> Collateral:
        task = self._fetching.get(model)
        if task is None:
            self._allow(model, now)
            log.info("An application's processor is of %s: asking %s for its collateral.", model, source.url)
            task = asyncio.create_task(source.fetch(model, now))
            self._fetching[model] = task
            task.add_done_callback(lambda _: self._fetching.pop(model))
        # One that leaves does not end it for the others; what it raises, each of them is told.
        return await asyncio.shield(task)

    def _allow(self, model: Model, now: int) -> None:
        while self._fetched and self._fetched[0][0] + AGAIN_SECONDS <= now:
            self._fetched.popleft()
        if len(self._fetched) >= MOST_FETCHES or any(one == model for _, one in self._fetched):
            raise Unavailable(
                f"Collateral for {model} was asked for less than {AGAIN_SECONDS} seconds ago, or for "
                f"{MOST_FETCHES} models: not again yet."
            )
        self._fetched.append((now, model))


@dataclass(frozen=True)
class WithOrWithout:
    """A verifier of evidence that may come without endorsements: that is then proved as a quote by itself."""

    verifier: Verifier
    quotes: QuoteVerifier

    async def verify(self, evidence: bytes, endorsements: bytes, expected_report_data: bytes, now: int) -> SgxClaims:
        """As exchange.attested.Verifier."""
        if endorsements:
            return await self.verifier.verify(evidence, endorsements, expected_report_data, now)
        return await self.quotes.verify(evidence, expected_report_data, now)
