"""Keeps an instance's collateral fresh, in the background and ahead of time (docs/spec/collateral.md, "When")."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from rkeyserver.attestation.evidence import REPORT_DATA_SIZE
from rkeyserver.attestation.sgx.bundle import MAX_SOURCE, Entry
from rkeyserver.attestation.sgx.collateral import Collateral
from rkeyserver.attestation.sgx.model import Model
from rkeyserver.clock import DAY, utc
from rkeyserver.errors import RkeyError, Unavailable
from rkeyserver.exchange.attested import Verifier
from rkeyserver.service.background import beside
from rkeyserver.service.held import WARN_DAYS, HeldCollateral

FIRST_SECONDS: Final = 10.0  # how long a start waits for the first answer, where nothing is held
CHECK_SECONDS: Final = 3600.0  # the longest pause: clocks are set, machines sleep
LEAST_AGE: Final = 3600
MOST_AGE: Final = DAY
FIRST_DELAY: Final = 5.0
MOST_DELAY: Final = 3600.0
log = logging.getLogger(__name__)


class Source(Protocol):
    """Where collateral is fetched from; a Pccs is one."""

    @property
    def url(self) -> str:
        """How people call it."""

    async def fetch(self, model: Model, now: int) -> Collateral:
        """As Pccs.fetch()."""


@dataclass
class Refresher:
    """Fetches, proves and keeps the collateral of this machine's model; warns before it expires.

    source: None where nothing can be fetched; then it only warns. verifier: the platform's; jitter: 0 to 1, at random.
    """

    held: HeldCollateral
    source: Source | None
    verifier: Verifier
    jitter: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    last_success: int = field(default=0, init=False)
    last_error: str = field(default="", init=False)
    _failures: int = field(default=0, init=False)
    _warned: int = field(default=0, init=False)
    _tried: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    async def run(self) -> None:
        """Keep it fresh until cancelled."""
        while True:
            pause = await self.step()
            self._tried.set()
            await self.sleep(pause * (1 + self.jitter() / 4))

    def running(self) -> contextlib.AbstractAsyncContextManager[None]:
        """run() in a task of its own, for as long as the context lasts."""
        return beside(self.run, "Collateral is no longer refreshed")

    async def first(self) -> None:
        """Wait, not for long, until the first fetch was tried, if nothing is held: a hand-over needs it."""
        with contextlib.suppress(TimeoutError, RkeyError):
            if self.source is not None and self.held.own() is None:
                await asyncio.wait_for(self._tried.wait(), FIRST_SECONDS)

    def check_held(self) -> None:
        """Whether there is collateral for this machine, or nothing that could give it any.

        Raises: Unavailable if the source has given none yet.
        """
        if self.source is not None and self.held.own() is None:
            raise Unavailable(
                "There is no collateral for this machine yet. "
                + (self.last_error or f"The PCCS {self.source.url} did not answer in time."),
                advice="Nothing was made. Start it again when the PCCS answers.",
            )

    async def step(self) -> float:
        """Fetch if it is time to. Returns how many seconds to wait before the next."""
        try:
            self._warn()
            left = self._due() - self.held.clock.now()
            if self.source is None or left > 0:
                return min(max(left, 1.0), CHECK_SECONDS)
            await self._refresh(self.source)
        except RkeyError as error:
            return self._failed(error)
        self._failures, self.last_error = 0, ""
        return min(max(self._due() - self.held.clock.now(), 1.0), CHECK_SECONDS)

    def _failed(self, error: RkeyError) -> float:
        delay = min(FIRST_DELAY * 2.0 ** min(self._failures, 20), MOST_DELAY)
        if isinstance(error, Unavailable):
            delay = max(delay, error.retry_after)
        self._failures += 1
        self.last_error = str(error)
        log.warning("No new collateral; trying again in about %.0f seconds. %s", delay, error)
        return delay

    def _due(self) -> int:
        """When the next fetch is: once a third of the life is left, or after a day; now if nothing is held."""
        found, now = self.held.own(), self.held.clock.now()
        if found is None:
            return now
        entry, described = found
        if entry.fetched > now:
            return now  # the file, or the clock that it was written by, is wrong
        third_left = described.expires - (described.expires - described.issued) // 3
        return max(entry.fetched + LEAST_AGE, min(entry.fetched + MOST_AGE, third_left))

    async def _refresh(self, source: Source) -> None:
        """Fetch, prove and keep.

        Raises: RkeyError; what is held is as it was.
        """
        held = self.held
        model, now = held.own_model(), held.clock.now()
        fetched = await source.fetch(model, now)
        entry = held.with_newest(Entry(model.fmspc, model.ca, source.url[:MAX_SOURCE], now, fetched))
        # Kept only if it verifies this very machine: the ordinary verification, of a quote over fresh random bytes.
        report_data = secrets.token_bytes(REPORT_DATA_SIZE)
        evidence = held.attester.evidence(report_data)
        await self.verifier.verify(evidence, entry.encoded, report_data, held.clock.now())
        held.keep(entry)
        self.last_success = now
        log.info("Fetched collateral for %s from %s.", model, source.url)

    def _warn(self) -> None:
        found, now = self.held.own(), self.held.clock.now()
        if found is None or now < self._warned + DAY:
            return
        expires = found[1].expires
        if expires < now:
            log.error("The collateral of this machine expired at %s: it can hand over no key.", utc(expires))
        elif (left := expires - now) < WARN_DAYS * DAY:
            log.warning("The collateral of this machine expires at %s, in %.1f days.", utc(expires), left / DAY)
        else:
            return
        self._warned = now

    def status(self) -> dict[str, Any]:
        """What `rkeyserver status` shows of collateral."""
        return {
            "pccs": "" if self.source is None else self.source.url,
            "last_success": utc(self.last_success) if self.last_success else None,
            "last_error": self.last_error,
            "held": self.held.status(),
        }
