"""One domain of machines, and what happens to it, step by step, as a seed says."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from tests.fakes.coordinated import check_history
from tests.fakes.loop import run_timeless
from tests.fakes.scene import DEFAULT
from tests.fakes.simulated import LEASE, Node
from tests.fakes.simulation import Network

from rkeyserver.appraisal.change import last_sequence, propose
from rkeyserver.appraisal.orders import Forget, Order, Promote, Retire, Rotate
from rkeyserver.coordinator.interface import Entry
from rkeyserver.errors import Misuse, RkeyError
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.wrapping import rewrap
from rkeyserver.sealing.record import parse
from rkeyserver.service.instance import Role

STEPS: Final = 120
QUIET_EVERY: Final = 30
QUIET_SECONDS: Final = 3000.0
FLOOR: Final = "min_isv_svn = "
JUMPS: Final = (1, 20, 90)  # seconds
Step = Callable[[], Awaitable[None]]


@dataclass
class Walk:
    """What happens to one domain. coordinated: whether a coordinator says who is primary; else persons do.

    behind: machines whose record was rolled back; retired: generations that somebody wanted to retire; lied: whether
    the coordinator has; states: what it had before. All but the generations since all agreed.
    """

    seed: int
    coordinated: bool = False
    network: Network = field(init=False)
    behind: set[int] = field(default_factory=set)
    retired: set[str] = field(default_factory=set)
    states: list[Entry | None] = field(default_factory=lambda: [None])
    lied: bool = False

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)  # noqa: S311 - a walk that can be repeated
        self.network = Network(self.draw, self.coordinated)
        self.nodes = [Node(self.network, number) for number in range(1, self.draw.choice([2, 3, 3, 4, 5]) + 1)]
        self.network.nodes = self.nodes
        self.say = self.network.say

    async def run(self) -> None:
        first, *rest = self.nodes
        first.begin()
        await asyncio.sleep(1)
        assert first.keyring is not None
        self.network.domain = first.keyring.domain
        self.network.policies[DEFAULT.text] = ("", self.floor(DEFAULT.text))
        for one in rest:
            one.begin(first)
        await self.quiet()
        steps: list[tuple[Step, int]] = [
            (self.passes, 8),
            (self.wraps, 6),
            (self.rotates, 4),
            (self.policy_changes, 4),
            (self.is_cut_off, 3),
            (self.sees_again, 3),
            (self.link_is_slow, 1),
            (self.stands_still, 2),
            (self.stands_still_in_a_change, 2),
            (self.goes_on, 3),
            (self.clock_jumps, 2),
            (self.dies, 2),
            (self.starts, 4),
            (self.is_retired, 1),
            (self.is_copied, 2),
            (self.is_rolled_back, 1),
            (self.loses_its_disk, 1),
            *(
                [(self.loses_coordinator, 3), (self.finds_coordinator, 3), (self.coordinator_lies, 1)]
                if self.coordinated
                else [(self.is_promoted, 2)]
            ),
        ]
        for number in range(STEPS):
            (step,) = self.draw.choices([one for one, _ in steps], [weight for _, weight in steps])
            await step()
            self.check()
            if number % QUIET_EVERY == QUIET_EVERY - 1:
                await self.quiet()
        for one in self.nodes:
            await one.kill()

    def check(self) -> None:
        assert not self.network.broken, self.network.broken[0]

    # What happens

    async def passes(self) -> None:
        await asyncio.sleep(self.draw.random() * self.draw.choice([1, 10, 30]))

    async def wraps(self) -> None:
        node = self.draw.choice(self.nodes)
        # What a record from before a retirement wraps, is under what was retired.
        late = node.keyring is not None and node.number in self.behind and node.keyring.current.id in self.retired
        if not node.stopped and not late:
            self.network.wrap(node)

    def leading(self) -> Node:
        """A machine that may change something; now and then another."""
        leads = [one for one in self.nodes if one.instance and one.instance.role is Role.PRIMARY]
        return self.draw.choice(leads if leads and self.draw.random() < 0.8 else self.nodes)

    async def rotates(self) -> None:
        node = self.leading()
        if (keyring := self.held(node)) is not None:
            await self.ordered(node, Rotate(domain=keyring.domain, current=keyring.current.id))

    async def policy_changes(self) -> None:
        node = self.leading()
        if (keyring := self.held(node)) is not None:
            await self.changed(node, keyring)

    async def changed(self, node: Node, keyring: Keyring) -> None:
        """One of the machines that the policy wants: with more, with fewer, or as it was."""
        header, policies = keyring.header, self.network.policies
        before, after = (self.floor(header.policy), self.draw.randint(0, 3))
        text = f"# {len(policies)}\n" + DEFAULT.text.replace(FLOOR + str(self.floor(DEFAULT.text)), f"{FLOOR}{after}")
        policies[text] = (header.policy, after)
        number = last_sequence(header.changes) + 1
        made = propose(domain=header.domain, sequence=number, replaces=header.policy, policy=text)
        self.say(f"change {number} at {node.number}: {before} -> {after}")

        async def apply() -> None:
            assert node.authority is not None
            done = await node.authority.apply(made.text().encode(), owner=True)
            self.network.check((done.generation is not None) == (after > before), f"change {number} rotates wrongly")

        await self.tried(node, apply, f"change {number}")

    @staticmethod
    def floor(policy: str) -> int:
        return int(policy.partition(FLOOR)[2].partition("\n")[0])

    async def is_promoted(self) -> None:
        node = self.draw.choice(self.nodes)
        if (keyring := self.held(node)) is not None:
            await self.promoted(node, keyring)

    async def promoted(self, node: Node, keyring: Keyring) -> None:
        assert node.instance is not None
        own, header = node.instance.members.own, keyring.header
        await self.ordered(node, Promote(domain=header.domain, member=own, epoch=header.epoch))

    async def is_retired(self) -> None:
        """What the primary can open was wrapped anew before."""
        node = self.draw.choice(self.nodes)
        keyring = self.held(node)
        if node.instance is None or keyring is None or node.instance.role is not Role.PRIMARY:
            return
        unknown = {one.instance.members.own for one in self.nodes if one.instance is not None and one is not node}
        if unknown - set(node.instance.members.known) or any(one.instance is None for one in self.nodes):
            return  # of whom nobody has told it, it cannot wait for
        for index, one in enumerate(self.network.wrapped):
            with contextlib.suppress(RkeyError):
                self.network.wrapped[index] = rewrap(keyring, b"walk", one, b"")
        generation = self.draw.choice(keyring.generation_ids[-3:])
        self.retired.add(generation)
        await self.ordered(node, Retire(domain=keyring.domain, generation=generation))

    def held(self, node: Node) -> Keyring | None:
        """What a machine holds of the domain."""
        keyring = node.keyring
        return keyring if keyring is not None and keyring.domain == self.network.domain else None

    async def ordered(self, node: Node, order: Order, seconds: float = 30) -> None:
        async def obey() -> None:
            assert node.steward is not None
            await node.steward.obey(order, owner=True)

        await self.tried(node, obey, type(order).__name__, seconds)

    async def tried(self, node: Node, ask: Step, what: str, seconds: float = 30) -> None:
        """Ask for something, and wait for it for so long."""

        async def told() -> None:
            try:
                await ask()
            except RkeyError as error:
                self.say(f"{node.number} refuses {what}: {error.message[:70]}")

        await asyncio.wait([node.does(told())], timeout=seconds)

    async def is_cut_off(self) -> None:
        one, other = self.draw.sample(self.nodes, 2)
        self.say(f"{one.number} and {other.number} are parted")
        self.network.parted.add(frozenset((one.number, other.number)))

    async def sees_again(self) -> None:
        if self.network.parted:
            pair = self.draw.choice(sorted(self.network.parted, key=sorted))
            self.say(f"{sorted(pair)} see each other")
            self.network.parted.remove(pair)

    async def link_is_slow(self) -> None:
        one, other = self.draw.sample(self.nodes, 2)
        self.network.slow ^= {frozenset((one.number, other.number))}

    async def stands_still(self) -> None:
        node = self.draw.choice(self.nodes)
        if node.instance is not None:
            self.say(f"{node.number} stands still")
            node.stopped.stop()

    async def stands_still_in_a_change(self) -> None:
        """Until somebody else leads, where that comes about by itself, and a little longer."""
        node = self.leading()
        if (keyring := self.held(node)) is None:
            return
        node.naps = self.coordinated and self.draw.random() < 0.5
        await self.ordered(node, Rotate(domain=keyring.domain, current=keyring.current.id), self.draw.random() * 2)
        self.say(f"{node.number} stands still in a rotation")
        if not node.naps:
            node.stopped.stop()
        await asyncio.sleep(self.draw.random() * 4 * LEASE)
        if self.draw.random() < 0.5:
            node.stopped.go_on()

    async def goes_on(self) -> None:
        still = [one for one in self.nodes if one.stopped]
        if still:
            node = self.draw.choice(still)
            self.say(f"{node.number} goes on")
            node.stopped.go_on()

    async def clock_jumps(self) -> None:
        node, seconds = self.draw.choice(self.nodes), self.draw.choice(JUMPS) * self.draw.choice([-1, 1])
        self.say(f"the clock of {node.number} jumps by {seconds}")
        node.ahead += seconds

    async def dies(self) -> None:
        node, at_once = self.draw.choice(self.nodes), self.draw.random() < 0.7
        self.say(f"{node.number} {'dies' if at_once else 'ends'}")
        await node.kill(at_once=at_once)

    async def starts(self) -> None:
        down = [one for one in self.nodes if one.instance is None]
        if down:
            await self.started(self.draw.choice(down))

    async def started(self, node: Node) -> None:
        """By somebody who names any other machines, and the domain or not; also where there is nothing any more."""
        others = [one for one in self.nodes if one is not node and not self.is_foreign(one)]
        hosts = self.draw.sample(others, self.draw.randint(0, len(others)))
        domain = self.draw.choice([None, self.network.domain])
        empty = node.store.record is None
        if self.is_foreign(node) and not hosts:
            domain = None
        if empty and not hosts and domain is None and any(self.held(one) is None for one in self.nodes if one.instance):
            hosts = others or hosts  # who waits for a keyring takes any
        self.say(f"{node.number} starts with -i {[one.number for one in hosts]} --domain {domain} empty {empty}")
        node.begin(*hosts, domain=domain)
        if empty and not hosts:
            assert node.task is not None
            await asyncio.wait([node.task], timeout=1)
            if domain is None:
                self.say(f"{node.number} has made another domain")
                assert node.keyring is not None
                return
            refused = node.task.exception() if node.task.done() else None
            assert isinstance(refused, Misuse), f"{node.number} started on nothing with --domain: {refused!r}"
            assert node.store.record is None
            await node.kill()

    def is_foreign(self, node: Node) -> bool:
        """Whether a machine has made a domain of its own, as one does that is started like the first."""
        return node.store.record is not None and parse(node.store.record).header.domain != self.network.domain

    async def is_copied(self) -> None:
        """Somebody keeps what is there now."""
        node = self.draw.choice(self.nodes)
        if node.store.record is not None and not self.is_foreign(node):
            node.backups.append(node.store.record)
        if self.coordinated:
            self.states.append(self.network.engines[self.network.domain].state)

    def is_elsewhere(self, node: Node) -> bool:
        """Whether nothing is on that machine alone: what is lost with the only copy, nobody can bring back."""
        return set(node.durable()) <= {one for other in self.nodes if other is not node for one in other.durable()}

    async def is_rolled_back(self) -> None:
        node = self.draw.choice(self.nodes)
        kept = [one for one in node.store.kept.values() if parse(one).header.domain == self.network.domain]
        if not [*kept, *node.backups] or not self.is_elsewhere(node):
            return
        await node.kill()
        self.say(f"{node.number} gets an earlier record")
        node.store.record = self.draw.choice([*kept, *node.backups])
        self.network.emptied = True
        self.behind.add(node.number)

    async def loses_its_disk(self) -> None:
        node = self.draw.choice(self.nodes)
        if not self.is_elsewhere(node):
            return
        await node.kill()
        self.say(f"{node.number} loses its disk")
        node.store.record = None
        node.store.kept.clear()
        self.network.emptied = True

    async def loses_coordinator(self) -> None:
        gone = {one.number for one in self.nodes} if self.draw.random() < 0.3 else {self.draw.choice(self.nodes).number}
        self.say(f"{sorted(gone)} do not reach the coordinator")
        self.network.without_coordinator |= gone

    async def finds_coordinator(self) -> None:
        back = {one.number for one in self.nodes if self.draw.random() < 0.7}
        self.say(f"{sorted(back)} reach the coordinator")
        self.network.without_coordinator -= back

    async def coordinator_lies(self) -> None:
        """It shows an old state, or none; or says that nobody is primary."""
        engine = self.network.engines[self.network.domain]
        if self.draw.random() < 0.5:
            self.say("the coordinator has an old state")
            engine.state = self.draw.choice(self.states)
        else:
            self.say("the coordinator says that nobody is primary")
            engine.primary = None
        engine.next()
        self.network.committed.clear()
        self.lied = True

    # And afterwards

    async def quiet(self) -> None:
        """All run and see each other; whoever leads is told to by a person, where nobody does."""
        self.say("quiet")
        self.network.parted.clear()
        self.network.slow.clear()
        self.network.without_coordinator.clear()
        for one in self.nodes:
            one.naps = False
            one.stopped.go_on()
        await self.all_start()
        there = {generation for one in self.nodes if not self.is_foreign(one) for generation in one.durable()}
        await self.settle()
        for one in self.nodes:
            self.network.check_opens(one)
        keyring = self.nodes[0].keyring
        assert keyring is not None
        assert there <= set(keyring.generation_ids), "a generation is lost"
        self.network.check_removals(keyring)
        if self.coordinated and not self.lied:
            check_history(self.network.made)
        self.check()
        self.network.made.clear()
        self.behind.clear()
        self.network.emptied = self.lied = False

    async def all_start(self) -> None:
        """First those that have a record, each with any hosts; then the others, with those."""
        for one in self.nodes:
            if one.instance is None and one.store.record is not None and not self.is_foreign(one):
                await self.started(one)
        while not (held := [one for one in self.nodes if self.held(one) is not None]):
            self.check()
            await asyncio.sleep(1)
        for one in self.nodes:
            if one.instance is None or self.is_foreign(one):
                await one.kill()
                self.say(f"a person names {[other.number for other in held]} and the domain to {one.number}")
                one.begin(*held, domain=self.network.domain)

    async def settle(self) -> None:
        """Until nothing is left to do, with the help of persons where it takes one."""
        time = self.network.time
        end, promoted, named, changed = time() + QUIET_SECONDS, time() + 400, time() + 200, time() + 300
        while not self.settled():
            assert time() < end, "no rest: " + str([self.state(one) for one in self.nodes])
            await asyncio.sleep(5)
            self.check()
            leads = [one for one in self.nodes if one.instance and one.instance.role is Role.PRIMARY]
            held = [one for one in self.nodes if self.held(one) is not None]
            # Nobody leads; or who made the latest state is no more, and who leads has a later change of the policy.
            if held and not self.coordinated and time() > promoted:
                best = max(held, key=lambda one: one.keyring.place)  # type: ignore[union-attr]  # those that are held
                self.say(f"a person promotes {best.number}")
                assert best.keyring is not None
                await self.promoted(best, best.keyring)
                promoted = time() + 400
            for one in leads:
                await self.forgets(one)
            if leads and time() > changed:  # two have made a change in one place: the next one is for both
                changed = time() + 300
                best = max(leads, key=lambda one: one.keyring.place)  # type: ignore[union-attr]  # those that are held
                assert best.keyring is not None
                await self.changed(best, best.keyring)
            if held and time() > named:
                named = end
                for one in self.nodes:
                    if one.keyring is None:  # it was told of others alone that have nothing either
                        await one.kill()
                        self.say(f"a person names {held[0].number} to {one.number}")
                        one.begin(held[0])

    async def forgets(self, node: Node) -> None:
        """A person forgets whose record is no more."""
        there = {one.instance.members.own for one in self.nodes if one.instance is not None}
        if node.instance is None or node.keyring is None or any(one.keyring is None for one in self.nodes):
            return
        for member in sorted(set(node.instance.members.known) - there):
            if node.keyring is not None:
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
            f"change {last_sequence(node.keyring.header.changes)} "
            f"knows {[one.address for one in node.instance.members.known.values()]}"
        )


def walked(seed: int, *, coordinated: bool = False) -> None:
    """Take a domain its way. Raises: AssertionError with the seed, and what happened last."""
    walk = Walk(seed, coordinated)

    async def run() -> None:
        with walk.network.running():
            await walk.run()

    try:
        run_timeless(run)
    except (Exception, asyncio.CancelledError) as error:  # whatever it is, with what came before it
        history = "\n".join(walk.network.told[-120:])
        how = "with a coordinator" if coordinated else "without a coordinator"
        raise AssertionError(f"seed {seed} {how}: {error!r}\n{history}") from error
