"""An instance whose coordinator says whether it is the primary (docs/spec/coordinator.md)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass

from rkeyserver.coordinator.interface import Coordinator, Elected, Lost
from rkeyserver.service.steward import Steward

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Election:
    """One instance's part in it, once a keyring is held: only then is there a domain to be primary of."""

    steward: Steward
    coordinator: Coordinator

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """A context in which it is a candidate, and changes nothing but what is committed."""
        instance = self.steward.instance
        self.steward.commit = self.coordinator.commit
        instance.coordination = self.coordinator.status
        instance.resign = self.coordinator.resign
        try:
            async with self.coordinator.running(self._elected, self._lost):
                yield
        finally:
            instance.elected = False
            instance.coordination = None

    async def _elected(self, elected: Elected) -> None:
        instance = self.steward.instance
        async with self.steward.lock:
            keyring, _ = self.steward.held()
            # While it waited its state may have been replaced, or another one met that is later.
            mine = keyring.header.primary == instance.members.own and not instance.stepped_down
            if not elected.continues or not mine:
                await self.steward.promote("the coordinator", at_least=elected.epoch)
            instance.elected = True
        log.warning("Elected: this instance is the primary.")

    async def _lost(self, lost: Lost) -> None:
        # Not under the lock: a change that waits for the coordinator has it, and is refused there.
        self.steward.instance.elected = False
        log.warning("This instance is primary no more. %s", lost.why)
