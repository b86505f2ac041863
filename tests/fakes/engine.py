"""An engine in memory, whose leases end by the loop's clock, and which fails as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rkeyserver.coordinator.interface import Entry, Lease, Outcome, Seen
from rkeyserver.errors import Unavailable


@dataclass
class Store:
    """What the engine has."""

    revision: int = 1
    primary: Entry | None = None
    state: Entry | None = None
    leases: dict[int, tuple[float, int]] = field(default_factory=dict)

    def now(self) -> Seen:
        time = asyncio.get_running_loop().time()
        self.leases = {one: (end, seconds) for one, (end, seconds) in self.leases.items() if end > time}
        if self.primary is not None and self.primary.lease and self.primary.lease not in self.leases:
            self.primary = None
            self.revision += 1
        return Seen(self.revision, self.primary, self.state)

    def next(self) -> int:
        self.revision += 1
        return self.revision


@dataclass
class MemoryEngine:
    """One instance's way to the store.

    silent: nothing comes through; deaf: what is asked is done, and its answer lost; slow: what is asked is done by
    later(), and its answer lost.
    """

    store: Store
    seconds: int
    silent: bool = False
    deaf: bool = False
    slow: bool = False
    waiting: list[Callable[[], object]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    async def _reached(self, name: str, do: Callable[[], Any]) -> Any:
        self.asked.append(name)
        await asyncio.sleep(0.01)
        if self.silent:
            await asyncio.sleep(0.3)
            raise Unavailable("No answer.")
        if self.slow:
            self.waiting.append(do)
            raise Unavailable("No answer yet.")
        done = do()
        if self.deaf:
            raise Unavailable("The answer was lost.")
        return done

    def later(self) -> None:
        for do in self.waiting:
            do()
        self.waiting.clear()

    async def grant(self) -> Lease:
        def do() -> Lease:
            lease = Lease(self.store.next(), self.seconds)
            self.store.leases[lease.id] = (asyncio.get_running_loop().time() + self.seconds, self.seconds)
            return lease

        found: Lease = await self._reached("grant", do)
        return found

    async def keep(self, lease: Lease) -> bool:
        def do() -> bool:
            self.store.now()
            if lease.id not in self.store.leases:
                return False
            self.store.leases[lease.id] = (asyncio.get_running_loop().time() + lease.seconds, lease.seconds)
            return True

        return bool(await self._reached("keep", do))

    async def revoke(self, lease: Lease) -> None:
        await self._reached("revoke", lambda: self.store.leases.pop(lease.id, None))

    async def look(self) -> Seen:
        found: Seen = await self._reached("look", self.store.now)
        return found

    async def take(self, lease: Lease, value: bytes) -> Outcome:
        def do() -> Outcome:
            done = self.store.now().primary is None and lease.id in self.store.leases
            if done:
                revision = self.store.next()
                self.store.primary = Entry(value, revision, revision, lease.id)
            return Outcome(done, self.store.now())

        found: Outcome = await self._reached("take", do)
        return found

    async def put(self, token: int, modified: int, value: bytes) -> Outcome:
        def do() -> Outcome:
            seen = self.store.now()
            same = (0 if seen.state is None else seen.state.modified) == modified
            done = seen.primary is not None and seen.primary.created == token and same
            if done:
                revision = self.store.next()
                self.store.state = Entry(value, seen.state.created if seen.state else revision, revision, 0)
            return Outcome(done, self.store.now())

        found: Outcome = await self._reached("put", do)
        return found

    async def changed(self, revision: int) -> None:
        self.asked.append("changed")
        end = asyncio.get_running_loop().time() + self.seconds
        while self.store.now().revision == revision and asyncio.get_running_loop().time() < end:  # noqa: ASYNC110 - time is what changes it
            await asyncio.sleep(0.25)

    def status(self) -> dict[str, Any]:
        return {"engine": "memory"}

    async def close(self) -> None:
        self.asked.append("close")
