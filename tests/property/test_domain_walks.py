"""A domain of machines that die, are cut off, emptied, promoted and rotated in any order.

When it is quiet again: one state, one primary, and whatever was wrapped anywhere opens everywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import pytest
from tests.fakes.loop import run_timeless
from tests.fakes.simulation import Network, Node

from rkeyserver.appraisal.orders import Forget, Promote, Retire, Rotate
from rkeyserver.errors import RkeyError
from rkeyserver.keyring.wrapping import rewrap
from rkeyserver.service.instance import Role

SEEDS: Final = range(30)
STEPS: Final = 120
QUIET_EVERY: Final = 30
QUIET_SECONDS: Final = 3000.0


@dataclass
class Walk:
    """One domain and what happens to it. said: every step, for whoever reads a failure."""

    seed: int
    network: Network = field(init=False)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)  # noqa: S311 - a walk that can be repeated
        self.network = Network(self.draw)
        self.nodes = [Node(self.network, number) for number in range(1, self.draw.choice([2, 3, 3, 4, 5]) + 1)]
        self.network.nodes = self.nodes

    def say(self, text: str) -> None:
        self.network.told.append(f"{self.network.time():.1f} {text}")

    async def run(self) -> None:
        first, *rest = self.nodes
        first.begin()
        await asyncio.sleep(1)
        for one in rest:
            one.begin(first)
        await self.quiet()
        steps: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self.passes, 6),
            (self.wraps, 6),
            (self.rotates, 4),
            (self.is_cut_off, 3),
            (self.sees_again, 3),
            (self.dies, 2),
            (self.starts, 4),
            (self.is_promoted, 1),
            (self.is_retired, 1),
            (self.loses_its_disk, 1),
        ]
        for number in range(STEPS):
            (step,) = self.draw.choices([one for one, _ in steps], [weight for _, weight in steps])
            await step()
            if number % QUIET_EVERY == QUIET_EVERY - 1:
                await self.quiet()
        for one in self.nodes:
            await one.kill()

    async def passes(self) -> None:
        await asyncio.sleep(self.draw.random() * self.draw.choice([1, 10, 30]))

    async def wraps(self) -> None:
        self.network.wrap(self.draw.choice(self.nodes))

    async def rotates(self) -> None:
        node = self.draw.choice(self.nodes)
        if node.steward is not None and (keyring := node.keyring) is not None:
            await self.ordered(node, Rotate(domain=keyring.domain, current=keyring.current.id))

    async def is_promoted(self) -> None:
        node = self.draw.choice(self.nodes)
        if node.instance is not None and (keyring := node.keyring) is not None:
            own = node.instance.members.own
            await self.ordered(node, Promote(domain=keyring.domain, member=own, epoch=keyring.header.epoch))

    async def is_retired(self) -> None:
        """What the primary can open was wrapped anew before."""
        node = self.draw.choice(self.nodes)
        keyring = node.keyring
        if node.instance is None or keyring is None or node.instance.role is not Role.PRIMARY:
            return
        unknown = {one.instance.members.own for one in self.nodes if one.instance is not None and one is not node}
        if unknown - set(node.instance.members.known) or any(one.instance is None for one in self.nodes):
            return  # of whom nobody has told it, it cannot wait for
        for index, one in enumerate(self.network.wrapped):
            with contextlib.suppress(RkeyError):
                self.network.wrapped[index] = rewrap(keyring, b"walk", one, b"")
        generation = self.draw.choice(keyring.generation_ids)
        await self.ordered(node, Retire(domain=keyring.domain, generation=generation))

    async def ordered(self, node: Node, order: Rotate | Promote | Retire | Forget) -> None:
        assert node.steward is not None
        with self.network.asked_by(node):
            try:
                await node.steward.obey(order, owner=True)
            except RkeyError as error:
                self.say(f"{node.number} refuses {type(order).__name__}: {error.message[:60]}")

    async def is_cut_off(self) -> None:
        one, other = self.draw.sample(self.nodes, 2)
        self.say(f"{one.number} and {other.number} are parted")
        self.network.parted.add(frozenset((one.number, other.number)))

    async def sees_again(self) -> None:
        if self.network.parted:
            pair = self.draw.choice(sorted(self.network.parted, key=sorted))
            self.say(f"{sorted(pair)} see each other")
            self.network.parted.remove(pair)

    async def dies(self) -> None:
        node = self.draw.choice(self.nodes)
        self.say(f"{node.number} dies")
        await node.kill()

    async def starts(self) -> None:
        down = [one for one in self.nodes if one.instance is None]
        if down:
            self.started(self.draw.choice(down))

    def started(self, node: Node) -> None:
        others = [one for one in self.nodes if one is not node]
        hosts = self.draw.sample(others, self.draw.randint(1 if node.store.record is None else 0, len(others)))
        self.say(f"{node.number} starts with -i {[one.number for one in hosts]}")
        node.begin(*hosts)

    async def loses_its_disk(self) -> None:
        """Of a machine that nothing was on alone: what is lost with the only copy, nobody can bring back."""
        node = self.draw.choice(self.nodes)
        elsewhere = {one for other in self.nodes if other is not node for one in other.durable()}
        if not set(node.durable()) <= elsewhere:
            return
        await node.kill()
        self.say(f"{node.number} loses its disk")
        node.store.record = None
        node.store.kept.clear()
        self.network.emptied = True

    async def quiet(self) -> None:
        """All run and see each other; whoever leads is told to by a person, where nobody does."""
        self.say("quiet")
        self.network.parted.clear()
        for one in self.nodes:
            if one.instance is None:
                self.started(one)
        end = self.network.time() + QUIET_SECONDS
        promoted = self.network.time() + 400
        named = self.network.time() + 200
        while not self.settled():
            assert self.network.time() < end, "no rest: " + str([self.state(one) for one in self.nodes])
            await asyncio.sleep(5)
            leads = [one for one in self.nodes if one.instance and one.instance.role is Role.PRIMARY]
            held = [one for one in self.nodes if one.keyring is not None]
            if not leads and held and self.network.time() > promoted:
                best = max(held, key=lambda one: one.keyring.place)  # type: ignore[union-attr]  # those that are held
                keyring, instance = best.keyring, best.instance
                assert keyring is not None
                assert instance is not None
                self.say(f"a person promotes {best.number}")
                own = instance.members.own
                await self.ordered(best, Promote(domain=keyring.domain, member=own, epoch=keyring.header.epoch))
                promoted = self.network.time() + 400
            for one in leads:
                await self.forgets(one)
            if held and self.network.time() > named:
                named = end
                for one in self.nodes:
                    if one.keyring is None:  # it was told of others alone that have nothing either
                        await one.kill()
                        self.say(f"a person names {held[0].number} to {one.number}")
                        one.begin(held[0])
        for one in self.nodes:
            self.network.check_opens(one)
        self.network.emptied = False

    async def forgets(self, node: Node) -> None:
        """A person forgets whose record is no more."""
        there = {one.instance.members.own for one in self.nodes if one.instance is not None}
        if node.instance is None or node.keyring is None or any(one.keyring is None for one in self.nodes):
            return
        for member in set(node.instance.members.known) - there:
            header = node.keyring.header
            order = Forget(domain=header.domain, member=member, epoch=header.epoch, sequence=header.sequence)
            await self.ordered(node, order)

    def settled(self) -> bool:
        for one in self.nodes:
            if one.task is not None and one.task.done():
                one.task.result()
        digests = {None if one.keyring is None else one.keyring.place.digest for one in self.nodes}
        leads = [one for one in self.nodes if one.instance and one.instance.role is Role.PRIMARY]
        (first, *_) = self.nodes
        return len(digests) == 1 and len(leads) == 1 and first.keyring is not None and first.keyring.pending is None

    def state(self, node: Node) -> str:
        if node.instance is None or node.keyring is None:
            return f"{node.number}: {'down' if node.instance is None else 'asks'}"
        place = node.keyring.place
        pending = node.keyring.pending is not None
        return (
            f"{node.number}: {node.instance.role} {place.epoch}/{place.sequence} of {place.primary[:4]} "
            f"{place.digest[:4]}{' pending' if pending else ''}{' stepped down' if node.instance.stepped_down else ''} "
            f"knows {[one.address for one in node.instance.members.known.values()]}"
        )


def walked(seed: int) -> None:
    walk = Walk(seed)

    async def run() -> None:
        with walk.network.running():
            await walk.run()

    try:
        run_timeless(run)
    except (Exception, asyncio.CancelledError) as error:  # whatever it is, with what came before it
        history = "\n".join(walk.network.told[-120:])
        raise AssertionError(f"seed {seed}: {error!r}\n{history}") from error


@pytest.fixture(autouse=True)
def quiet_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "rkeyserver")


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_they_are_one_again(seed: int) -> None:
    walked(seed)


def test_another_walk_in_each_run() -> None:
    walked(secrets.randbits(32))
