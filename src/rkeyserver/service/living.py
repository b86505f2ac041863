"""Which of several addresses answer, found out without waiting long for one that is silent (after RFC 8305).

Each is asked something harmless first. The next is asked at once when one refuses, and after STAGGER_SECONDS when one
is silent; whoever answers is used first. Only who is asked first is found out like this: what follows is whole on the
one address that it is begun with (design invariant 5), and nobody is left out because he was slow.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from rkeyserver.address import Address

STAGGER_SECONDS: Final = 0.25  # RFC 8305 section 5, "Connection Attempt Delay"
REMEMBER_SECONDS: Final = 60.0  # for which an address that did not answer is asked last
K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
log = logging.getLogger(__name__)
Probe = Callable[[Address], Awaitable[bool]]
"""Whether an address answers; it ends by itself after a few seconds, and raises nothing."""


async def living(addresses: Sequence[Address], probe: Probe) -> AsyncGenerator[Address, None]:
    """Each of `addresses` once: those that answer as they do so, then the others in their order.

    Probes go on while one is used. Close it when done, with contextlib.aclosing(): that ends them. Of a single address
    nothing is to be found out, and it is not probed.
    """
    waiting, rest = list(addresses), []
    running: dict[asyncio.Task[bool], Address] = {}
    try:
        while (waiting and len(addresses) > 1) or running:
            if waiting:
                address = waiting.pop(0)
                running[asyncio.ensure_future(_whether(probe, address))] = address
            done, _ = await asyncio.wait(
                running, timeout=STAGGER_SECONDS if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in [one for one in running if one in done]:  # of two at once, the one that was asked first
                address = running.pop(task)
                if task.result():
                    yield address
                else:
                    rest.append(address)
    finally:
        await _ended(running)
    for address in [*waiting, *sorted(rest, key=addresses.index)]:
        yield address


async def _whether(probe: Probe, address: Address) -> bool:
    return await probe(address)


async def each(
    addresses: Sequence[Address], ask: Callable[[Address], Awaitable[T]]
) -> AsyncGenerator[tuple[Address, T], None]:
    """What each of `addresses` says, as it comes: all are asked at once, and one that is silent keeps nobody waiting.

    Close it when done, as living().
    """
    running = {asyncio.ensure_future(ask(address)): address for address in addresses}
    try:
        while running:
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in [one for one in running if one in done]:
                yield running.pop(task), task.result()
    finally:
        await _ended(running)


async def _ended(running: Iterable[asyncio.Future[T]]) -> None:
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


@dataclass
class Health(Generic[K]):
    """Which of several did not answer lately. now: seconds that only grow; seconds: for which that is remembered."""

    now: Callable[[], float] = time.monotonic
    seconds: float = REMEMBER_SECONDS
    _until: dict[K, float] = field(default_factory=dict, init=False)

    def order(self, addresses: Sequence[K]) -> list[K]:
        """As they are given, but for those that failed lately: they are last, whoever failed longest ago first."""
        now = self.now()
        until = {one: self._until.get(one, 0.0) for one in addresses}
        return sorted(addresses, key=lambda one: until[one] if until[one] > now else 0.0)

    def failed(self, address: K) -> None:
        """Remember it."""
        self._until[address] = self.now() + self.seconds

    def lately_failed(self, address: K) -> bool:
        """Whether that is remembered."""
        return self._until.get(address, 0.0) > self.now()

    def answered(self, address: K) -> None:
        """Forget that it did not."""
        self._until.pop(address, None)


@dataclass
class Reach(Health[Address]):
    """living() with a memory: an address that did not answer is probed last."""

    probe: Probe = field(kw_only=True)

    def living(self, addresses: Sequence[Address]) -> AsyncGenerator[Address, None]:
        """The same, in this order, with what is found remembered."""
        return living(self.order(addresses), self._probed)

    async def _probed(self, address: Address) -> bool:
        began, known = self.now(), self.lately_failed(address)
        try:
            answers = await self.probe(address)
        except asyncio.CancelledError:
            if self.now() >= began + STAGGER_SECONDS:
                self.failed(address)  # others were faster
            raise
        (self.answered if answers else self.failed)(address)
        if not answers and not known:
            log.info("%s does not answer, or has no keyring: for %.0f seconds it is asked last.", address, self.seconds)
        return answers
