"""A machine of the simulation (simulation.py): its disk, its clock, and the program's own instance on it.

What must hold at every moment is looked at here, whenever a keyring is stored or held.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from rkeyserver.address import Address
from rkeyserver.appraisal.appraise import Verdict
from rkeyserver.appraisal.change import last_sequence
from rkeyserver.appraisal.policy import Policy
from rkeyserver.clock import Clock
from rkeyserver.config import Config
from rkeyserver.coordinator.lead import Coordinated
from rkeyserver.coordinator.values import Authenticator
from rkeyserver.errors import RkeyError, Unavailable
from rkeyserver.exchange import messages
from rkeyserver.exchange.primary import Accepted, Granter, Proved, Sealed
from rkeyserver.exchange.standby import Asking, held_of
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.sealed import Owner, open_keyring
from rkeyserver.sealing.record import parse
from rkeyserver.service.adopt import look
from rkeyserver.service.audit_line import Line
from rkeyserver.service.authority import Authority
from rkeyserver.service.election import Election
from rkeyserver.service.follow import Follower
from rkeyserver.service.given import Given
from rkeyserver.service.instance import Instance
from rkeyserver.service.join import start_standby
from rkeyserver.service.members import Members
from rkeyserver.service.start import start_primary
from rkeyserver.service.steward import Steward
from tests.fakes.claims import NOW, claims_with
from tests.fakes.engine import MemoryEngine
from tests.fakes.platform import ISV_PROD_ID, MRSIGNER, FakePlatform
from tests.fakes.scene import DEFAULT
from tests.fakes.sealer import FakeSealer
from tests.fakes.sharing import WatchedSharing
from tests.fakes.stoppable import Stoppable, Stopped
from tests.fakes.store import MemoryKeystore

if TYPE_CHECKING:
    from tests.fakes.simulation import Network

PORT: Final = 8888
LATENCY: Final = 0.2  # seconds at most, one way
LEASE: Final = 10  # seconds
ODD: Final = 0.02  # of what is asked of the coordinator is done with its answer lost; as much is done late
LABEL: Final = b"walk"
_RUNS: ContextVar[Node | None] = ContextVar("whose program runs", default=None)


def asks() -> Node:
    """The machine whose program runs now."""
    node = _RUNS.get()
    assert node is not None
    return node


@contextlib.contextmanager
def part_of(node: Node) -> Iterator[None]:
    """What begins in this context is a part of that machine's program."""
    before = _RUNS.set(node)
    try:
        yield
    finally:
        _RUNS.reset(before)


def stoppable(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
) -> asyncio.Task[Any]:
    """A loop's task factory: what is part of a machine's program stands still with it."""
    node = _RUNS.get()
    return asyncio.Task(coroutine if node is None else Stoppable(coroutine, node.stopped), loop=loop, **options)


class Log:
    """An audit file that keeps nothing but the events."""

    signs_for = ""

    def __init__(self, node: Node) -> None:
        self._node = node

    def sign_with(self, key: Any) -> None:
        key.close()

    def had_a_keyring(self) -> str:
        return ""

    def write_now(self, line: Line) -> None:
        if line.verdict == "accepted" and line.event not in {"hand-over", "acknowledge", "join"}:
            self._node.network.say(f"{self._node.number}: {line.event} {line.sequence} {line.found}")

    async def write(self, line: Line) -> None:
        await asyncio.sleep(0)
        self.write_now(line)


class OpenGranter(Granter):
    """One that believes who asks, and seals nothing."""

    def __init__(self) -> None:
        pass

    async def prove(self, request_bytes: bytes, policy: Policy) -> Proved:  # noqa: ARG002 - as the real one
        machine, claims = msgspec.msgpack.decode(request_bytes, type=tuple[str, bytes])
        return Proved(
            claims_of(machine), messages.decode(claims, messages.RequestClaims), transcript=bytes(64), now=NOW
        )

    def appraise(self, proved: Proved, policy: Policy) -> Accepted:
        return Accepted(Verdict(proved.claims, policy.digest, proved.now), proved.request, proved.transcript)

    def seal(self, accepted: Accepted, keyring: Keyring, owner: Owner) -> Sealed:
        members = messages.Members(member=owner.member, members=list(owner.members))
        return Sealed(accepted, bytes(keyring.view), messages.encode(members))

    async def accepts_self(self, policy: Policy) -> Verdict:
        return Verdict(claims_of(f"{1:032x}"), policy.digest, NOW)

    def grant(self, sealed: Sealed) -> bytes:
        return msgspec.msgpack.encode((sealed.ciphertext, sealed.members))


def claims_of(machine: str) -> Any:
    return claims_with(platform="simulated", ppid=machine, mrsigner=MRSIGNER, isv_prod_id=ISV_PROD_ID)


class Disk(MemoryKeystore):
    """A keystore that looks whether what was there stays: each generation, and each change of the policy."""

    node: Node

    def replace(self, record: bytes, keep_as: str | None) -> bool:
        if self.record is not None and parse(self.record).header.domain == parse(record).header.domain:
            self._check(self.record, record)
        return super().replace(record, keep_as)

    def _check(self, *records: bytes) -> None:
        node, ids, changes = self.node, [], []
        for one in records:
            with contextlib.closing(open_keyring(parse(one), node.platform)) as keyring:
                ids.append(set(keyring.generation_ids))
                changes.append(last_sequence(keyring.header.changes))
        node.network.check(ids[0] <= ids[1], f"{node.number} stores fewer generations than were there")
        node.network.check(changes[0] <= changes[1], f"{node.number} goes from change {changes[0]} to {changes[1]}")


class Watched(Instance):
    """An instance that shows what it holds."""

    node: Node
    gave_way: bool = False

    def step_down(self, why: str) -> None:
        self.gave_way = True
        super().step_down(why)

    def hold(self, keyring: Keyring) -> None:
        before = None if self.keyring is None else (self.keyring.place, self.keyring.current.id)
        super().hold(keyring)
        network = self.node.network
        network.exposed(keyring)
        gave_way, self.gave_way = self.gave_way, False
        if before is None or keyring.domain != network.domain:
            return
        place, current = before
        if keyring.header.primary == self.members.own and keyring.place not in network.places:
            network.made.append((place, keyring.place))
            later = keyring.header.epoch > place.epoch  # promoted again, or with what the other one has
            network.check(not gave_way or later, f"{self.node.number} changes what a later state is known of")
            if keyring.current.id != current:
                self._wraps_anew(keyring)
        network.places.add(keyring.place)

    def _wraps_anew(self, keyring: Keyring) -> None:
        """What wraps from now on is elsewhere too, where anybody is known who could have it."""
        network = self.node.network
        others = [one for one in self.members.known.values() if one.digest.strip("0")]
        holders = [one.number for one in network.nodes if keyring.current.id in one.durable()]
        network.check(
            not others or len(holders) > 1 or network.emptied,
            f"{keyring.current.id} wraps at {self.node.number} and is on {holders} alone",
        )


@dataclass
class Link(MemoryEngine):
    """A machine's way to the coordinator, on which requests and answers are lost, or come late."""

    node: Node = field(kw_only=True)

    def _check_reached(self) -> None:
        if self.node.dead or self.node.number in self.node.network.without_coordinator:
            raise Unavailable("No answer from the coordinator.")

    async def _reached(self, name: str, do: Callable[[], Any]) -> Any:
        draw, loop = self.node.network.draw, asyncio.get_running_loop()
        await asyncio.sleep(draw.random() * LATENCY)
        self._check_reached()
        if name == "put" and self.node.naps:
            self.node.naps = False
            self.node.stopped.stop()
            await asyncio.sleep(0)
        fate = draw.random()
        if fate < ODD:
            loop.call_later(draw.random() * 2 * LEASE, self._ordered, name, do)
            raise Unavailable("No answer from the coordinator yet.")
        done = self._ordered(name, do)
        if fate < 2 * ODD:
            raise Unavailable("The coordinator's answer was lost.")
        await asyncio.sleep(draw.random() * LATENCY)
        self._check_reached()
        return done

    def _ordered(self, name: str, do: Callable[[], Any]) -> Any:
        """Do it; no state is committed after a later one, unless the coordinator has lied since."""
        done = do()
        if name == "put" and done.done:
            network = self.node.network
            said = msgspec.json.decode(done.seen.state.value.partition(b"\n")[0])
            place = (said["epoch"], said["sequence"])
            last = network.committed.get(said["domain"], (0, 0))
            network.check(place > last, f"{self.node.number} commits {place} after {last}")
            network.committed[said["domain"]] = place
        return done

    async def changed(self, revision: int) -> None:
        end = self.node.network.time() + self.seconds
        while self.store.now().revision == revision and self.node.network.time() < end:
            await asyncio.sleep(1)
            self._check_reached()


@dataclass
class Node:
    """A machine: its disk, its clock, and the instance on it while one runs.

    ahead: seconds, of its clocks; naps: its program stands still when its next commit is on its way; dead: its program
    was killed, and what is left of it reaches nobody; backups: records that somebody has put aside.
    """

    network: Network
    number: int
    store: Disk = field(default_factory=Disk)
    instance: Watched | None = None
    steward: Steward | None = None
    authority: Authority | None = None
    task: asyncio.Task[None] | None = None
    stopped: Stopped = field(default_factory=Stopped)
    ahead: float = 0.0
    naps: bool = False
    dead: bool = False
    backups: list[bytes] = field(default_factory=list)
    doing: dict[asyncio.Task[Any], None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store.node = self

    @property
    def machine(self) -> str:
        return f"{self.number:032x}"

    @property
    def address(self) -> Address:
        return Address(f"10.0.0.{self.number}", PORT)

    @property
    def platform(self) -> FakePlatform:
        return FakePlatform(FakeSealer(platform="simulated", machine=self.machine))

    @property
    def keyring(self) -> Keyring | None:
        return None if self.instance is None else self.instance.keyring

    def durable(self) -> list[str]:
        """The generations on its disk."""
        return [] if self.store.record is None else parse(self.store.record).header.generations

    def time(self) -> float:
        """What its clocks say, which may jump."""
        return self.network.time() + self.ahead

    def does(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Do it as a part of its program, which is stopped and ends with it."""
        with part_of(self):
            task = asyncio.get_running_loop().create_task(coroutine)
        self.doing[task] = None
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        del self.doing[task]
        error = None if task.cancelled() else task.exception()
        self.network.check(error is None or isinstance(error, RkeyError), f"{self.number}: {error!r}")

    def begin(self, *hosts: Node, domain: str | None = None) -> None:
        """Start an instance, as after a crash of the one before. hosts: whom it is told with -i; domain: --domain."""
        assert self.task is None
        draw = self.network.draw
        clock = Clock(lambda: NOW + self.time())
        platform = self.platform
        config = Config(hosts=tuple(one.address for one in hosts), domain=domain, wait=1e9)
        instance = Watched(
            members=Members(f"{draw.getrandbits(128):032x}"),
            platform=platform,
            store=self.store,
            audit=cast("Any", Log(self)),
            clock=clock,
            granter=OpenGranter(),
            sharing=WatchedSharing(),
            say=lambda _said: None,
        )
        instance.node = self
        instance.elected = False if self.network.coordinated else None
        steward = Steward(instance)

        def asking(policy: Policy, held: Keyring | None) -> Asking:
            return Asking(
                attester=platform,
                verifiers={},
                policy=policy,
                clock=clock,
                random=draw.randbytes,
                instance=bytes(16),
                held=None if held is None else held_of(held),
                admins=None,
                member=instance.members.own,
                address=f":{PORT}",
                holds=None if held is None else held.place,
                audit_head=lambda: bytes(32),
            )

        given = Given(policy=DEFAULT, admins=None, change=None)
        joiner = Follower(config, instance, given, steward, asking, draw.random, draw.sample)
        joiner.reach.now = self.network.time
        steward.listen = joiner.listen
        self.instance, self.steward, self.authority = instance, steward, Authority(steward)
        self.dead = False
        with part_of(self):
            self.task = asyncio.get_running_loop().create_task(self._live(config, instance, joiner, given))

    async def _live(self, config: Config, instance: Instance, joiner: Follower, given: Given) -> None:
        if config.hosts:
            joined = await start_standby(config, instance, joiner)
        else:
            own = look(self.store, instance.platform)
            if self.store.record is not None:
                instance.own(parse(self.store.record).header)
            await start_primary(config, instance, own, given)
            joined = True
        async with self._elected(joiner.steward):
            await joiner.follow(joined=joined)

    @contextlib.asynccontextmanager
    async def _elected(self, steward: Steward) -> AsyncIterator[None]:
        """As service.compose has it."""
        instance, keyring = steward.instance, steward.instance.keyring
        if not self.network.coordinated or keyring is None:
            yield
            return
        coordinated = Coordinated(
            Link(self.network.engines[keyring.domain], LEASE, node=self),
            Authenticator.derive(keyring.domain_secret, keyring.domain),
            instance.members.own,
            lambda: (instance.keyring or keyring).place,
            LEASE,
            clock=self.time,
            jitter=self.network.draw.random,
        )
        async with Election(steward, coordinated).running():
            yield

    async def kill(self, *, at_once: bool = True) -> None:
        """Nothing is left but the disk. at_once: the program has no time to take leave of the coordinator."""
        self.dead, self.naps = at_once, False
        self.stopped.go_on()
        for task in [*self.doing, *([] if self.task is None else [self.task])]:
            task.cancel()
            await asyncio.wait([task])
        if self.instance is not None:
            self.instance.close()
        self.task = self.instance = self.steward = self.authority = None
