"""A domain in one process: the program's own instances, stewards, joiners and elections, on a network that is a table.

Nothing is real below the exchange: evidence is believed, what is sealed lies open, the coordinator is in memory, and
time passes at once (tests/fakes/loop.py). All that decides is the program's own (simulated.py). Of what did not hold,
`Network.broken` has a sentence each.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, cast
from unittest import mock

import msgspec

from rkeyserver.address import Address
from rkeyserver.appraisal.appraise import Verdict
from rkeyserver.errors import Rejected, Unavailable
from rkeyserver.exchange import messages
from rkeyserver.exchange.standby import Asking, Received, _check_policy
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.place import Place
from rkeyserver.keyring.wrapping import unwrap, wrap
from rkeyserver.secret import SecretBytes
from rkeyserver.service.app import grant
from rkeyserver.service.hints import Hint, hint_of
from rkeyserver.service.instance import Role
from tests.fakes.claims import NOW
from tests.fakes.engine import Store
from tests.fakes.keyrings import secret_of
from tests.fakes.simulated import LABEL, LATENCY, Node, asks, claims_of, stoppable

SLOW: Final = 6.0  # as LATENCY, of a slow link
PATIENCE: Final = 20.0  # seconds for which an answer is waited for


@dataclass
class Network:
    """The machines, who sees whom, and all that was ever wrapped. draw: decides all that is left to chance.

    slow: pairs whose messages take long; coordinated: whether a coordinator says who is primary, and
    without_coordinator the machines that do not reach it; committed: by domain, the last epoch and sequence. policies:
    each policy with the one that it replaced and its floor: the higher, the fewer it accepts; shown: by generation,
    with which policies it was in a keyring. places: all states that were held; made: each with the one before it, since
    all agreed. emptied: whether a disk was lost or rolled back since.
    """

    draw: random.Random
    coordinated: bool = False
    nodes: list[Node] = field(default_factory=list)
    parted: set[frozenset[int]] = field(default_factory=set)
    slow: set[frozenset[int]] = field(default_factory=set)
    without_coordinator: set[int] = field(default_factory=set)
    engines: defaultdict[str, Store] = field(default_factory=lambda: defaultdict(Store))
    committed: dict[str, tuple[int, int]] = field(default_factory=dict)
    domain: str = ""
    wrapped: list[bytes] = field(default_factory=list)
    policies: dict[str, tuple[str, int]] = field(default_factory=dict)
    shown: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    places: set[Place] = field(default_factory=set)
    made: list[tuple[Place, Place]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    exchanges: int = 0
    emptied: bool = False

    @staticmethod
    def time() -> float:
        return asyncio.get_running_loop().time()

    def say(self, text: str) -> None:
        self.told.append(f"{self.time():.1f} {text}")

    def check(self, holds: bool, otherwise: str) -> None:  # noqa: FBT001 - as assert
        if not holds:
            self.say(f"BROKEN: {otherwise}")
            self.broken.append(otherwise)

    def sees(self, one: Node, other: Node) -> bool:
        return frozenset((one.number, other.number)) not in self.parted

    def at(self, host: Address) -> Node | None:
        return next((one for one in self.nodes if one.address == host), None)

    def exposed(self, keyring: Keyring) -> None:
        for one in keyring.generation_ids:
            self.shown[one].add(keyring.header.policy)

    def line_of(self, policy: str) -> list[str]:
        """A policy with all that it came from, the last first."""
        found = []
        while policy:
            found.append(policy)
            policy = self.policies[policy][0]
        return found

    async def _takes(self, one: Node, other: Node) -> None:
        most = SLOW if frozenset((one.number, other.number)) in self.slow else LATENCY
        await asyncio.sleep(self.draw.random() * most)

    async def _reached(self, host: Address) -> Node:
        own, node = asks(), self.at(host)
        if node is not None:
            await self._takes(own, node)
        if node is None or node.instance is None or not self.sees(own, node) or node is own:
            await asyncio.sleep(self.draw.choice([0.0, 1.0]))
            raise Unavailable(f"No answer from {host}.")
        return node

    async def fetch_hint(self, host: Address) -> Hint | None:
        try:
            node = await self._reached(host)
        except Unavailable:
            return None
        if node.stopped or node.instance is None or node.keyring is None:
            return None
        found = hint_of(node.keyring, member=node.instance.members.own, primary=node.instance.role is Role.PRIMARY)
        await self._takes(node, asks())
        return found

    async def fetch_keyring(self, host: Address, asking: Asking) -> Received:
        own, node = asks(), await self._reached(host)
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
        request = msgspec.msgpack.encode((own.machine, messages.encode(claims)))
        assert node.steward is not None
        # One that stands still answers when it wakes, whether or not anybody waits for it then.
        answering = node.does(grant(node.steward, request, own.address.host))
        await asyncio.wait([answering], timeout=PATIENCE)
        if not answering.done() or answering.cancelled():
            raise Unavailable(f"No answer from {host}.")
        answer = answering.result()
        await self._takes(node, own)
        if not self.sees(own, node):
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
        if node.keyring is not None and node.keyring.domain == self.domain:
            self.wrapped.append(wrap(node.keyring, LABEL, memoryview(b"secret"), b""))

    def check_opens(self, node: Node) -> None:
        assert node.keyring is not None
        for one in self.wrapped:
            unwrap(node.keyring, LABEL, one, b"").secret.close()

    def check_removals(self, keyring: Keyring) -> None:
        """What wraps now was with no policy that accepted more and had not heard of a removal (design invariant 8)."""
        line, current = self.line_of(keyring.header.policy), keyring.current.id
        floor = {policy: own for policy, (_, own) in self.policies.items()}
        removals = {one for one, before in itertools.pairwise(line) if floor[one] > floor[before]}
        for policy in self.shown[current]:
            known = removals <= set(self.line_of(policy))
            self.check(known or floor[policy] >= floor[line[0]], f"{current} wraps, and was there before a removal")

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """With every exchange and hint of the program over this network, and every key by its chance."""
        where = "rkeyserver.service.fetch."

        async def answers(host: Address) -> bool:
            return await self.fetch_hint(host) is not None

        asyncio.get_running_loop().set_task_factory(cast("Any", stoppable))
        with (
            mock.patch.object(SecretBytes, "random", lambda size: secret_of(self.draw.randbytes(size))),
            mock.patch(where + "fetch_keyring", self.fetch_keyring),
            mock.patch(where + "fetch_hint", self.fetch_hint),
            mock.patch(where + "answers", answers),
        ):
            try:
                yield
            finally:
                for one in self.nodes:
                    one.stopped.go_on()
