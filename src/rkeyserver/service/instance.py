"""One running instance: its keyring, its role, its counters. Everything that serves looks here."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rkeyserver import __version__
from rkeyserver.appraisal.policy import Policy, parse_policy
from rkeyserver.clock import Clock, utc
from rkeyserver.errors import Corrupt, Misuse, Reason, Rejected, RkeyError
from rkeyserver.exchange.primary import Granter
from rkeyserver.exchange.standby import Received
from rkeyserver.keyring.checkpoint_key import CheckpointKey
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.sealed import seal_keyring
from rkeyserver.keystore.store import Keystore
from rkeyserver.platforms.interface import Platform
from rkeyserver.sealing.record import Header, parse
from rkeyserver.sealing.recovery import Recovery, Sharing
from rkeyserver.secret import MemoryKind, SecretBytes
from rkeyserver.service.audit import Audit
from rkeyserver.service.audit_line import Line, Peer, reason_of
from rkeyserver.service.latency import Latency
from rkeyserver.service.members import Members
from rkeyserver.service.parts import (
    Drilling,
    Provision,
    Recovering,
    Releases,
    TokenListening,
    no_collateral,
    nobody_elected,
)
from rkeyserver.service.recipients import recipients_of, slots_of
from rkeyserver.service.turns import Turns

MAX_PEERS_SHOWN: Final = 1024
TOLD: Final = frozenset(
    {
        Reason.MACHINE_NOT_NAMED,
        Reason.TALKING_TO_ITSELF,
        Reason.NOT_A_SHARE,
        Reason.SHARE_GIVEN_TWICE,
        Reason.UNKNOWN_TOKEN,
    }
)
TOLD_SECONDS: Final = 10
FIRST_STORE_PAUSE: Final = 1.5  # seconds; the first pause after a failure is twice that
MOST_STORE_PAUSE: Final = 300.0
REPLACED: Final = "file already exist, substitute by new file"
RECEIVED: Final = "Successfully received the DomainKey from deploy server."

log = logging.getLogger(__name__)
announce = logging.getLogger("rkeyserver.announce")


class Role(enum.StrEnum):
    """Who may change the keyring, and who follows. Both serve it."""

    PRIMARY = "primary"
    STANDBY = "standby"


@dataclass
class Instance:
    """State of one server. `keyring` is None until it was opened, minted or received.

    members: who this is in the domain, and who else there is. peers: machines that were given the keyring or gave it,
    and when last. hosts: those that gave it, and so have it; of the others only an acknowledgement says so (`members`).
    stepped_down: whether another primary was met whose state is later, and cannot replace the one here yet. elected:
    whether the coordinator says that this is the primary, None without one; resign: gives that back. address:
    where this instance answers its peers. collateral: what status() says of it.
    decided: hand-overs that were asked for, by verdict and reason. latency: of answers, by what was asked for.
    joins: the turns that all who ask for the keyring take together, however many: callers do not wait for all of them.
    """

    platform: Platform
    store: Keystore
    audit: Audit
    clock: Clock
    granter: Granter
    sharing: Sharing
    say: Callable[[str], None]
    members: Members
    keyring: Keyring | None = None
    stepped_down: bool = False
    elected: bool | None = None
    coordination: Callable[[], dict[str, Any]] | None = None
    resign: Callable[[str], None] = nobody_elected
    address: str = ""
    policy: Policy | None = None
    peers: OrderedDict[str, int] = field(default_factory=OrderedDict)
    hosts: set[str] = field(default_factory=set)
    recovering: Recovering | None = None
    refused: Counter[str] = field(default_factory=Counter)
    granted: int = 0
    told: int = 0
    local_socket: Path | None = None
    started: int = 0
    collateral: Callable[[], dict[str, Any]] = no_collateral
    provision: Provision | None = None
    releases: Releases | None = None
    released: int = 0
    tokens: TokenListening | None = None
    drill: Drilling | None = None
    decided: Counter[tuple[str, str]] = field(default_factory=Counter)
    latency: defaultdict[str, Latency] = field(default_factory=lambda: defaultdict(Latency))
    joins: Turns = field(default_factory=lambda: Turns(most=1))
    _store_pause: float = field(default=FIRST_STORE_PAUSE, init=False)
    _store_again: float = field(default=0.0, init=False)

    @property
    def role(self) -> Role:
        """Who made the state that is held is primary, and may make the next one; everybody else follows."""
        mine = self.keyring is not None and self.keyring.header.primary == self.members.own
        leads = mine and not self.stepped_down and self.elected is not False
        return Role.PRIMARY if leads else Role.STANDBY

    def step_down(self, why: str) -> None:
        """Change nothing more until another primary's state can be adopted. why: one sentence."""
        self.stepped_down = True
        if self.elected:
            self.resign(why)

    def own(self, header: Header) -> None:
        """Be the member that a record of this machine says, which has opened."""
        self.members = Members.of(header)

    def hold(self, keyring: Keyring) -> None:
        """Serve `keyring` from now on; the one before is erased.

        Raises: Unavailable if there is no key memory; then nothing has changed.
        """
        policy = parse_policy(keyring.header.policy)
        if self.audit.signs_for != keyring.domain:
            self.audit.sign_with(CheckpointKey.derive(keyring))
        self.stepped_down = False
        if self.elected and keyring.header.primary != self.members.own:
            self.resign(f"Member {keyring.header.primary} is primary in a later state.")
        before, self.keyring, self.policy = self.keyring, keyring, policy
        if before is not None and before is not keyring:
            before.close()
        if self.provision is not None:
            self.provision.changed()
        if self.tokens is not None:
            self.tokens.changed()

    @contextlib.contextmanager
    def erasing(self, keyring: Keyring) -> Iterator[Keyring]:
        """A keyring that is erased when this context ends, unless it is held by then."""
        try:
            yield keyring
        finally:
            if self.keyring is not keyring:
                keyring.close()

    def close(self) -> None:
        """Erase the keyring."""
        if self.keyring is not None:
            self.keyring.close()
            self.keyring = None

    async def reach_store(self) -> None:
        """See in a thread that the keystore answers, where it may hang: before it is used on the event loop.

        Raises: Unavailable.
        """
        if self.store.waits:
            await asyncio.to_thread(self.store.check_reachable)

    def store_keyring(self, keyring: Keyring, keep_as: str | None) -> None:
        """Store `keyring` as _put() does, and say so if it replaces something."""
        if self._put(keyring, keep_as):
            self.say(REPLACED)

    def _put(self, keyring: Keyring, keep_as: str | None) -> bool:
        """Seal `keyring` for this machine, and for the recovery recipients of its policy, and store it durably.

        Raises: Unavailable; the keystore then has the old record or the new one, whole. Misuse if no share can be
        encrypted to a recipient of the policy.
        """
        recovery = self._recovery_of(keyring)
        owner = self.members.owner()
        sealed = seal_keyring(keyring, self.platform, owner, now=self.clock.now(), recovery=recovery)
        try:
            replaced = self.store.replace(sealed, keep_as)
        except RkeyError:
            self._store_pause = min(2 * self._store_pause, MOST_STORE_PAUSE)
            self._store_again = time.monotonic() + self._store_pause
            raise
        self._store_pause, self._store_again = FIRST_STORE_PAUSE, 0.0
        self.members.unsaved = False
        return replaced

    def may_store(self) -> bool:
        """Whether the keystore may be tried for what nobody has asked for, after a failure ever more seldom.

        It is waited for on the event loop: one that hangs each time would leave callers the pauses between.
        """
        return time.monotonic() >= self._store_again

    def save_members(self) -> None:
        """Store what is known of the other members, where the record does not say it yet.

        What lies there instead of the own record stays: somebody has put it there, and no copy of it would be kept.

        Raises: Unavailable.
        """
        if not self.members.unsaved or self.keyring is None or not self.may_store():
            return
        header, problem = self._stored()
        place = self.keyring.place
        if header is None or (header.domain, header.member, header.epoch, header.sequence) != (
            *(self.keyring.domain, self.members.own),
            *place[:2],
        ):
            log.warning(
                "The record here is not the one that is served, and was left as it is; which members are known is not "
                "stored. %s",
                problem,
            )
            return
        self._put(self.keyring, None)

    def _recovery_of(self, keyring: Keyring) -> Recovery | None:
        table = parse_policy(keyring.header.policy).recovery
        if table is None:
            return None
        return Recovery(threshold=table.threshold, recipients=recipients_of(table), sharing=self.sharing)

    @contextlib.contextmanager
    def deciding(
        self, event: str, *, domain: str = "", peer: Peer | None = None, transcript: str = "", where: str = ""
    ) -> Iterator[None]:
        """Record it as a refused `event` when what is tried in this context refuses; that it may go on is not recorded.

        where: what `found` begins with; else as in Line.
        Raises: Unavailable if it cannot be recorded, else the refusal.
        """
        try:
            yield
        except (Rejected, Corrupt, Misuse) as error:
            line = Line(
                event=event,
                verdict="refused",
                domain=domain,
                peer=peer,
                reason=reason_of(error),
                found=where + error.message,
                transcript=transcript,
            )
            self.audit.write_now(line)
            raise

    def received(self, received: Received, peer: Peer, keep_as: str | None) -> None:
        """Record, store and hold a keyring from a peer; only then say so. One that is held already is only recorded."""
        keyring = received.keyring
        self.audit.write_now(
            Line(
                event="join",
                verdict="accepted",
                domain=keyring.domain,
                sequence=keyring.header.sequence,
                peer=peer,
                policy=received.verdict.policy,
                transcript=received.transcript.hex(),
                peer_head=received.peer_head.hex(),
            )
        )
        if self.keyring is not None and self.keyring.same_as(keyring):
            self.heard_again(received, peer.address)
            return
        self.members.gave(received, machine=peer.machine, address=peer.address, now=self.clock.now())
        self.store_keyring(keyring, keep_as)
        self.know_host(received, peer.address)
        self.hold(keyring)
        announce.info(RECEIVED)

    def heard_again(self, received: Received, address: str) -> None:
        """A peer gave what is held already. That is news only the first time."""
        news = received.verdict.claims.ppid not in self.hosts
        self.know_host(received, address)
        received.keyring.close()
        if news:
            announce.info(RECEIVED)

    def know_host(self, received: Received, address: str) -> None:
        """Remember where a keyring came from: there it is, and the members that are known there."""
        machine = received.verdict.claims.ppid
        self.know(machine)
        self.hosts.add(machine)
        self.members.gave(received, machine=machine, address=address, now=self.clock.now())

    def know(self, machine: str) -> None:
        """Remember a machine that the keyring went to or came from."""
        self.peers[machine] = self.clock.now()
        self.peers.move_to_end(machine)
        while len(self.peers) > MAX_PEERS_SHOWN:
            self.peers.popitem(last=False)

    def refuse(self, error: RkeyError, address: str) -> None:
        """Count a refusal by its reason.

        Of what has no genuine evidence that is all (design invariant 9): anyone could have it logged. Some reasons need
        a person to act, and are logged at most once in TOLD_SECONDS.
        """
        reason = reason_of(error)
        self.refused[reason] += 1
        log.debug("Refused %s: %s. %s", address, reason, error)
        if reason in TOLD and self.clock.now() >= self.told + TOLD_SECONDS:
            self.told = self.clock.now()
            log.warning("Refused what is at %s, by what it says of itself: %s. %s", address, reason, error)

    def status(self) -> dict[str, Any]:
        """What `rkeyserver status` shows. No secret."""
        keyring = self.keyring
        memory = self._memory()
        header, problem = self._stored()
        ways = {
            "record": 0 if header is None else 1,
            "hosts": len(self.hosts),
            "recovery": 0 if header is None or header.recovery is None else 1,
        }
        return {
            "version": __version__,
            "role": str(self.role),
            "member": self.members.own,
            "primary": None if keyring is None else keyring.header.primary,
            "domain": None if keyring is None else keyring.domain,
            "epoch": None if keyring is None else keyring.header.epoch,
            "sequence": None if keyring is None else keyring.header.sequence,
            "generations": []
            if keyring is None
            else [
                {"id": one.id, "created": utc(one.created), "state": str(one.state)}
                for one in keyring.header.generations
            ],
            "socket": None if self.local_socket is None else str(self.local_socket),
            "policy": None if self.policy is None else self.policy.digest,
            "platform": self.platform.name,
            "machine": self.platform.attester_identity().machine,
            "simulated": self.platform.simulated,
            "protects": self.platform.protects,
            "key_memory": str(memory),
            "key_memory_hidden": self.platform.hides_memory or memory is MemoryKind.MEMFD_SECRET,
            "started": utc(self.started),
            "hand_overs": self.granted,
            "released": self.released,
            "refused": dict(self.refused),
            "members": self.members.status(None if keyring is None else keyring.place),
            "peers": {machine: utc(at) for machine, at in self.peers.items()},
            "record_problem": problem,
            "audit": self.audit.status(),
            "coordinator": None if self.coordination is None else self.coordination(),
            "collateral": self.collateral(),
            "provision": None if self.provision is None else self.provision.status(),
            "callers": None if self.tokens is None else self.tokens.status(),
            "drill": None if self.drill is None else self.drill.status(),
            "slots": [] if header is None else slots_of(header),
            "recovering": None if self.recovering is None else self.recovering.progress,
            "ways_back": ways,
            "ways_back_total": sum(ways.values()),
        }

    def _memory(self) -> MemoryKind:
        if self.keyring is not None:
            return self.keyring.memory
        with SecretBytes(1) as probe:
            return probe.kind

    def _stored(self) -> tuple[Header | None, str]:
        """The header of the record as it lies there now, and what is wrong with it."""
        try:
            data = self.store.glance()
            if data is not None:
                return parse(data).header, ""
        except RkeyError as error:
            return None, str(error)
        return None, "" if self.keyring is None else "The record is gone."
