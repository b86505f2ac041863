"""A listener that is open while the policy of the keyring that is held opens it, and at no other time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from rkeyserver.errors import RkeyError
from rkeyserver.service.background import beside

FIRST_RETRY: Final = 2.0
MOST_RETRY: Final = 60.0
log = logging.getLogger(__name__)


@dataclass
class KeptOpen:
    """Has one opened, closed and renewed. problem: why it is not as the policy wants it; empty if it is.

    adjust: opens, closes or renews it, as the policy wants it now; returns after how many seconds it wants to be asked
    again, None for when something changes. close: closes it. without: what is not done while it is closed, for the log.
    """

    adjust: Callable[[], Awaitable[float | None]]
    close: Callable[[], Awaitable[None]]
    without: str
    problem: str = field(default="", init=False)
    _changed: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """A context in which it is kept."""
        try:
            async with beside(self._run, self.without):
                yield
        finally:
            await self.close()

    def changed(self) -> None:
        """Another keyring is held: look at its policy."""
        self._changed.set()

    async def _run(self) -> None:
        retry = FIRST_RETRY
        while True:
            self._changed.clear()
            pause: float | None
            try:
                pause = await self.adjust()
                self.problem, retry = "", FIRST_RETRY
            except Exception as error:  # noqa: BLE001 - who is served needs it back, whatever it was; it is told below
                await self.close()
                self.problem, pause, retry = _told(error), retry, min(2 * retry, MOST_RETRY)
                log.warning("%s; trying again in %.0f seconds.", self.without, pause)
            # Not wait_for(), which before Python 3.12 loses a cancellation that comes together with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()


def _told(error: Exception) -> str:
    if isinstance(error, RkeyError):
        log.warning("%s", error)
        return str(error)
    log.error("This is a bug.", exc_info=error)
    return "A bug; the log has it."
