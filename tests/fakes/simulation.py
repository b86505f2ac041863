"""A domain in one process: the program's own instances, stewards and joiners, on a network that is a table.

Nothing is real below the exchange: evidence is believed, what is sealed lies open, and time passes at once
(tests/fakes/loop.py). All that decides is the program's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, cast
from unittest import mock

import msgspec

from rkeyserver.address import Address
from rkeyserver.appraisal.appraise import Verdict
from rkeyserver.appraisal.policy import Policy
from rkeyserver.clock import Clock
from rkeyserver.config import Config
from rkeyserver.errors import Rejected, Unavailable
from rkeyserver.exchange import messages
from rkeyserver.exchange.primary import Accepted, Granter, Proved, Sealed
from rkeyserver.exchange.standby import Asking, Received, _check_policy, held_of
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.sealed import Owner
from rkeyserver.keyring.wrapping import unwrap, wrap
from rkeyserver.sealing.record import parse
from rkeyserver.service.adopt import look
from rkeyserver.service.app import grant
from rkeyserver.service.audit_line import Line
from rkeyserver.service.follow import Follower
from rkeyserver.service.given import Given
from rkeyserver.service.hints import Hint, hint_of
from rkeyserver.service.instance import Instance, Role
from rkeyserver.service.join import start_standby
from rkeyserver.service.members import Members
from rkeyserver.service.start import start_primary
from rkeyserver.service.steward import Steward
from tests.fakes.claims import NOW, claims_with
from tests.fakes.keyrings import secret_of
from tests.fakes.platform import ISV_PROD_ID, MRSIGNER, FakePlatform
from tests.fakes.scene import DEFAULT
from tests.fakes.sealer import FakeSealer
from tests.fakes.sharing import WatchedSharing
from tests.fakes.store import MemoryKeystore

PORT: Final = 8888
LATENCY: Final = 0.2  # seconds at most, one way
LABEL: Final = b"walk"
_ASKS: ContextVar[Node] = ContextVar("who asks")


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
        self._node.network.recorded(self._node, line)

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


@dataclass
class Node:
    """A machine: its disk, and the instance on it while one runs."""

    network: Network
    number: int
    store: MemoryKeystore = field(default_factory=MemoryKeystore)
    instance: Instance | None = None
    steward: Steward | None = None
    task: asyncio.Task[None] | None = None

    @property
    def machine(self) -> str:
        return f"{self.number:032x}"

    @property
    def address(self) -> Address:
        return Address(f"10.0.0.{self.number}", PORT)

    @property
    def keyring(self) -> Keyring | None:
        return None if self.instance is None else self.instance.keyring

    def durable(self) -> list[str]:
        """The generations on its disk."""
        return [] if self.store.record is None else parse(self.store.record).header.generations

    def begin(self, *hosts: Node) -> None:
        """Start an instance, as after a crash of the one before. hosts: whom it is told with -i."""
        assert self.task is None
        draw = self.network.draw
        clock = Clock(lambda: NOW + self.network.time())
        platform = FakePlatform(FakeSealer(platform="simulated", machine=self.machine))
        config = Config(hosts=tuple(one.address for one in hosts), wait=1e9)
        instance = Instance(
            members=Members(f"{draw.getrandbits(128):032x}"),
            platform=platform,
            store=self.store,
            audit=cast("Any", Log(self)),
            clock=clock,
            granter=OpenGranter(),
            sharing=WatchedSharing(),
            say=lambda _said: None,
        )
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
        self.instance, self.steward = instance, steward
        self.task = asyncio.get_running_loop().create_task(self._live(config, instance, joiner, given))

    async def _live(self, config: Config, instance: Instance, joiner: Follower, given: Given) -> None:
        _ASKS.set(self)
        if config.hosts:
            joined = await start_standby(config, instance, joiner)
        else:
            own = look(self.store, instance.platform)
            if self.store.record is not None:
                instance.own(parse(self.store.record).header)
            await start_primary(config, instance, own, given)
            joined = True
        await joiner.follow(joined=joined)

    async def kill(self) -> None:
        """Nothing is left but the disk."""
        if self.task is not None:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task
        if self.instance is not None:
            self.instance.close()
        self.task = self.instance = self.steward = None


@dataclass
class Network:
    """The machines, who sees whom, and all that was ever wrapped. draw: decides all that is left to chance."""

    draw: random.Random
    nodes: list[Node] = field(default_factory=list)
    parted: set[frozenset[int]] = field(default_factory=set)
    wrapped: list[bytes] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    exchanges: int = 0
    emptied: bool = False  # whether a disk was lost since all agreed

    @staticmethod
    def time() -> float:
        return asyncio.get_running_loop().time()

    def sees(self, one: Node, other: Node) -> bool:
        return frozenset((one.number, other.number)) not in self.parted

    def at(self, host: Address) -> Node | None:
        return next((one for one in self.nodes if one.address == host), None)

    def recorded(self, node: Node, line: Line) -> None:
        if line.verdict == "accepted" and line.event not in {"hand-over", "acknowledge", "join"}:
            self.told.append(f"{self.time():.1f} {node.number}: {line.event} {line.sequence} {line.found}")
        if line.event == "activate" and node.keyring is not None and "nobody" not in line.found:
            pending = node.keyring.pending
            assert pending is not None
            holders = [one.number for one in self.nodes if pending.id in one.durable()]
            assert len(holders) > 1 or self.emptied, f"{pending.id} would wrap and is on {holders} alone"

    async def _reached(self, host: Address) -> Node:
        asks, node = _ASKS.get(), self.at(host)
        await asyncio.sleep(self.draw.random() * LATENCY)
        if node is None or node.instance is None or not self.sees(asks, node) or node is asks:
            await asyncio.sleep(self.draw.choice([0.0, 1.0]))
            raise Unavailable(f"No answer from {host}.")
        return node

    async def fetch_hint(self, host: Address) -> Hint | None:
        try:
            node = await self._reached(host)
        except Unavailable:
            return None
        if node.instance is None or node.keyring is None:
            return None
        found = hint_of(node.keyring, member=node.instance.members.own, primary=node.instance.role is Role.PRIMARY)
        await asyncio.sleep(self.draw.random() * LATENCY)
        return found

    async def fetch_keyring(self, host: Address, asking: Asking) -> Received:
        asks, node = _ASKS.get(), await self._reached(host)
        self.exchanges += 1
        holds = asking.holds
        claims = messages.RequestClaims(
            nonce=bytes(32),
            kem_public_key=bytes(messages.KEM_PUBLIC_KEY_SIZE),
            credential_mac=b"",
            credential=b"",
            member=asking.member,
            address=asking.address,
            epoch=0 if holds is None else holds.epoch,
            sequence=0 if holds is None else holds.sequence,
            digest=b"" if holds is None else bytes.fromhex(holds.digest),
            audit_head=bytes(32),
        )
        request = msgspec.msgpack.encode((asks.machine, messages.encode(claims)))
        assert node.steward is not None
        answer = await grant(node.steward, request, asks.address.host)
        await asyncio.sleep(self.draw.random() * LATENCY)
        if not self.sees(asks, node):
            raise Unavailable(f"No answer from {host}: it was cut off.")
        ciphertext, members = msgspec.msgpack.decode(answer, type=tuple[bytes, bytes])
        keyring = Keyring.parse(secret_of(ciphertext))
        verdict = Verdict(claims_of(node.machine), asking.policy.digest, NOW)
        try:
            _check_policy(keyring, verdict, asking, NOW)
        except Rejected:
            keyring.close()
            raise
        return Received(verdict, keyring, messages.decode(members, messages.Members), bytes(64), bytes(32))

    def wrap(self, node: Node) -> None:
        if node.keyring is not None:
            self.wrapped.append(wrap(node.keyring, LABEL, memoryview(b"secret"), b""))

    def check_opens(self, node: Node) -> None:
        assert node.keyring is not None
        for one in self.wrapped:
            unwrap(node.keyring, LABEL, one, b"").secret.close()

    @contextlib.contextmanager
    def asked_by(self, node: Node) -> Iterator[None]:
        """What is asked for in this context, that machine asks for."""
        before = _ASKS.set(node)
        try:
            yield
        finally:
            _ASKS.reset(before)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """With every exchange and hint of the program over this network."""
        where = "rkeyserver.service.fetch."

        async def answers(host: Address) -> bool:
            return await self.fetch_hint(host) is not None

        with (
            mock.patch(where + "fetch_keyring", self.fetch_keyring),
            mock.patch(where + "fetch_hint", self.fetch_hint),
            mock.patch(where + "answers", answers),
        ):
            yield
