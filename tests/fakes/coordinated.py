"""An instance's part in an election, without a server around it: it takes over, and changes when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from rkeyserver.coordinator.endpoints import Endpoints
from rkeyserver.coordinator.etcd import Credentials, Etcd
from rkeyserver.coordinator.interface import Elected, Engine, Lost
from rkeyserver.coordinator.lead import Coordinated
from rkeyserver.coordinator.values import Authenticator
from rkeyserver.keyring.derivation import domain_id
from rkeyserver.keyring.place import Place

SECRET: Final = bytes(range(32))
OTHER_SECRET: Final = bytes(range(1, 33))
DOMAIN: Final = domain_id(memoryview(SECRET))
MINTED: Final = Place(0, 1, "00" * 16, "0" * 64)


def member_id(number: int) -> str:
    return f"{number:032x}"


def authenticator(secret: bytes = SECRET) -> Authenticator:
    return Authenticator.derive(memoryview(secret), domain_id(memoryview(secret)))


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class Member:
    """One instance. stored: every state that it stored, in order, with the one before it."""

    number: int
    engine: Engine
    seconds: int = 1
    own: Place = MINTED
    options: dict[str, Any] = field(default_factory=dict)
    stored: list[tuple[Place, Place]] = field(default_factory=list)
    events: list[Elected | Lost] = field(default_factory=list)
    primary: bool = False
    salt: str = ""
    takes_over: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.coordinated = Coordinated(
            self.engine, authenticator(), member_id(self.number), lambda: self.own, self.seconds, **self.options
        )

    def running(self) -> contextlib.AbstractAsyncContextManager[None]:
        return self.coordinated.running(self.on_elected, self.on_lost)

    async def on_elected(self, elected: Elected) -> None:
        self.takes_over()
        if not elected.continues:
            await self.change(elected.epoch)
        self.primary = True
        self.events.append(elected)

    async def on_lost(self, lost: Lost) -> None:
        self.primary = False
        self.events.append(lost)

    def next(self, epoch: int | None = None) -> Place:
        epoch = self.own.epoch if epoch is None else epoch
        sequence = self.own.sequence + 1
        return Place(
            epoch, sequence, member_id(self.number), digest_of(f"{self.number} {epoch} {sequence} {self.salt}")
        )

    async def change(self, epoch: int | None = None) -> None:
        after = self.next(epoch)
        await self.coordinated.commit(self.own, after)
        self.stored.append((self.own, after))
        self.own = after

    async def until(self, condition: Callable[[], bool], seconds: float = 20) -> float:
        began = time.monotonic()
        while not condition():
            assert time.monotonic() < began + seconds, self.coordinated.status()
            await asyncio.sleep(0.01)
        return time.monotonic() - began

    async def behind_until(self, condition: Callable[[], bool]) -> bool:
        """Wait as until() does; whether it was behind meanwhile."""
        seen = set()

        def looked() -> bool:
            seen.add(self.coordinated.status()["behind"])
            return condition()

        await self.until(looked)
        return True in seen


def etcd_of(endpoints: Endpoints, seconds: int = 1, credentials: Credentials | None = None) -> Etcd:
    return Etcd(endpoints, credentials or Credentials(), DOMAIN, seconds)


@contextlib.asynccontextmanager
async def members(endpoints: Endpoints, number: int, seconds: int = 1) -> AsyncIterator[list[Member]]:
    """That many candidates, in one process."""
    async with contextlib.AsyncExitStack() as stack:
        made = [Member(one, etcd_of(endpoints, seconds), seconds) for one in range(1, number + 1)]
        for one in made:
            await stack.enter_async_context(one.running())
        yield made


async def one_primary(made: list[Member], seconds: float = 20) -> Member:
    """Wait until one of them is primary."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = [one for one in made if one.primary]
        if found:
            assert len(found) == 1
            return found[0]
        await asyncio.sleep(0.01)
    raise AssertionError([one.coordinated.status() for one in made])


def check_history(*histories: list[tuple[Place, Place]]) -> None:
    """No state was followed by two: what was stored is one chain, or went on in a later epoch."""
    everything = [pair for one in histories for pair in one]
    after = [pair[1] for pair in everything]
    assert len(set(after)) == len(after)
    within = [before for before, later in everything if before.epoch == later.epoch]
    assert len(set(within)) == len(within), "two states follow one in its own epoch"
    assert len({(place.epoch, place.primary) for place in after}) == len({place.epoch for place in after}), (
        "two members changed in one epoch"
    )
