"""Recovery when every machine is lost: an instance that has only a record collects shares until they open it.

    Recoverer.run()    look at the record, make the request, wait, open, judge, record, store, serve
    Collected.take()   one contribution from outside; a wrong one is refused and changes nothing

docs/spec/recovery.md has each check, docs/operations/recovery.md the day itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from rkeyserver.appraisal.applications import check_generations
from rkeyserver.appraisal.change import PolicyChange, appended, check_authority, check_next, last_sequence, propose
from rkeyserver.appraisal.narrowing import narrows
from rkeyserver.appraisal.policy import AdminsTable, parse_policy
from rkeyserver.appraisal.succession import check_succession
from rkeyserver.attestation.evidence import Attester
from rkeyserver.config import Config
from rkeyserver.errors import Corrupt, Misuse, Reason, Rejected, Unavailable
from rkeyserver.exchange.armour import Kind, armour, dearmour, is_armoured
from rkeyserver.exchange.recovery import RecoveryAsking
from rkeyserver.exchange.standby import held_of
from rkeyserver.keyring.generations import GenerationState
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.sealed import open_recovered, set_aside_name
from rkeyserver.sealing.record import Record, parse
from rkeyserver.sealing.recovery import RecoverySlot, fingerprint, share_set_of
from rkeyserver.secret import SecretBytes
from rkeyserver.service.adopt import Nothing, Opened, Own, Unopenable, look
from rkeyserver.service.audit_line import Line, Peer
from rkeyserver.service.instance import Instance
from rkeyserver.service.recipients import check_recoverable, recipients_of
from rkeyserver.service.start import open_own

log = logging.getLogger(__name__)


@dataclass
class Collected:
    """A recovery under way: the request that is out, and the shares that came by index. Close it when done."""

    asking: RecoveryAsking
    instance: Instance
    shares: dict[int, SecretBytes] = field(default_factory=dict)
    whole: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def request(self) -> bytes:
        """As service.instance.Recovering."""
        return self.asking.message

    @property
    def progress(self) -> dict[str, int]:
        """As service.instance.Recovering."""
        return {"shares": len(self.shares), "threshold": self.asking.slot.threshold}

    def take(self, body: bytes) -> dict[str, int]:
        """As service.instance.Recovering."""
        if self.whole.is_set():
            raise Unavailable("There are shares enough already.")
        index, share = self.asking.opened(dearmour(body, Kind.RECOVERY_CONTRIBUTION) if is_armoured(body) else body)
        slot = self.asking.slot
        recipient = fingerprint(slot.shares[index].recipient)
        try:
            self._record(index, recipient)
        except BaseException:  # whatever it is, the secret does not stay
            share.close()
            raise
        self.shares[index] = share
        log.info("Share of %s: %d of %d.", recipient, len(self.shares), slot.threshold)
        if len(self.shares) >= slot.threshold:
            self.whole.set()
        return self.progress

    def _record(self, index: int, recipient: str) -> None:
        if index in self.shares:
            raise Rejected(
                Reason.SHARE_GIVEN_TWICE,
                f"The share of {recipient} is here already; wanted is another recipient's.",
            )
        found = f"share {index} of set {self.asking.slot.set}, of {recipient}"
        self.instance.audit.write_now(Line(event="contribution", verdict="accepted", found=found))

    def close(self) -> None:
        """Erase the shares."""
        while self.shares:
            self.shares.popitem()[1].close()


@dataclass(frozen=True)
class Recoverer:
    """Brings a domain back on this instance. random: gives n fresh random bytes.

    admins: who must have signed the policy in the record, None where nobody was named. change: what is to be done to
    that policy before it is judged, None for nothing. attester: of the request, None for the platform itself.
    """

    config: Config
    instance: Instance
    random: Callable[[int], bytes]
    admins: AdminsTable | None = None
    change: PolicyChange | None = None
    attester: Attester | None = None

    async def run(self, own: Own) -> None:
        """Serve from the record if it opens here; else collect shares until it opens, however long that takes.

        Raises: Misuse without a record; Rejected, Corrupt if it is not the one to recover, or not what it says.
        """
        instance = self.instance
        if isinstance(own, Opened):
            log.warning("The record opens on this machine: there is nothing to recover.")
            if self.change is not None:
                log.warning("--change was not looked at. A running primary takes it by `rkeyserver policy apply`.")
            open_own(self.config, instance, own.keyring)
            return
        with instance.deciding("recover", domain=self.config.domain or ""):
            data, record = self._to_recover(own)
            asking = RecoveryAsking.begin(
                data,
                record,
                attester=self.attester or instance.platform,
                random=self.random,
                now=instance.clock.now(),
            )
        collected = Collected(asking, instance)
        try:
            instance.recovering = collected
            instance.say(armour(asking.message, Kind.RECOVERY_REQUEST).rstrip())
            log.info(
                "Asking for %d of %d shares of domain %s. Each recipient runs: rkeyserver recovery contribute.",
                asking.slot.threshold,
                len(asking.slot.shares),
                record.header.domain,
            )
            await collected.whole.wait()
            with instance.deciding("recover", domain=record.header.domain):
                keyring, line = await self._accepted(await self._opened(collected, record), collected)
            self._adopt(keyring, line, data)
        finally:
            instance.recovering = None
            collected.close()

    def _to_recover(self, own: Nothing | Unopenable) -> tuple[bytes, Record]:
        if isinstance(own, Nothing):
            raise Misuse(
                "The keystore is empty: recovery opens a record that some machine of the domain sealed.",
                advice="Copy the newest record that is left of any machine to --keystore, and start again.",
            )
        if own.header is None:
            raise own.error
        if own.header.domain != self.config.domain:
            raise Rejected(
                Reason.ANOTHER_DOMAIN,
                f"The record here is of domain {own.header.domain}; --domain asks for {self.config.domain}.",
                advice="Nothing was changed. Copy a record of that domain here, or name the right one.",
            )
        return own.record, parse(own.record)

    async def _opened(self, collected: Collected, record: Record) -> Keyring:
        """The keyring that the shares open. Its domain is the header's, which is the one that was asked for.

        Raises: Corrupt, Unavailable.
        """
        share_set = share_set_of(collected.asking.slot, record.header.domain)
        views = [share.view for share in collected.shares.values()]
        combined = await asyncio.to_thread(self.instance.sharing.combine, views, share_set)
        with combined as secret:
            return open_recovered(record, secret.view)

    async def _accepted(self, keyring: Keyring, collected: Collected) -> tuple[Keyring, Line]:
        """The keyring to serve and what the audit file will say of it, if its policy accepts this instance.

        Raises: Rejected, Misuse, Unavailable; the keyring is then closed.
        """
        try:
            _check_recipients(keyring, collected.asking.slot)
            if self.change is not None:
                owner, now = self.instance.platform.trusts_host, self.instance.clock.now()
                with contextlib.closing(keyring) as before:
                    keyring = changed(before, self.change, owner=owner, now=now)
            # Whoever comes by recovery leads: nobody else is left who could.
            with contextlib.closing(keyring) as before:
                keyring = before.promoted(self.instance.members.own)
            self._check_believed(keyring)
            return keyring, await self._judged(keyring, collected)
        except BaseException:  # whatever it is, the secret does not stay
            keyring.close()
            raise

    def _check_believed(self, keyring: Keyring) -> None:
        try:
            check_succession(held_of(keyring), held=None, root=self.admins)
        except Rejected as error:
            # No machine is left at which a change could be proposed, and a domain's first policy is never signed.
            self._say_what_to_change(keyring)
            raise Rejected(
                error.reason,
                f"The record opens, but the domain's policy is not to be believed. {error.message}",
                advice="Nothing was changed. Have the admins sign what was printed, by `rkeyserver recovery amend "
                "--key`, and start again with --change.",
            ) from error

    async def _judged(self, keyring: Keyring, collected: Collected) -> Line:
        policy = parse_policy(keyring.header.policy)
        try:
            verdict = await self.instance.granter.accepts_self(policy)
        except Rejected as error:
            self._say_what_to_change(keyring)
            raise Rejected(
                error.reason,
                f"The record opens, but the domain's policy does not accept this machine. {error.message}",
                advice="Nothing was changed. Recover on a machine that the policy names, or with --change: what was "
                "printed is what `rkeyserver recovery amend` makes such a change from.",
            ) from error
        members = ", ".join(map(str, sorted(collected.shares)))
        found = f"shares {members} of set {collected.asking.slot.set}"
        return Line(
            event="recover",
            verdict="accepted",
            domain=keyring.domain,
            sequence=keyring.header.sequence,
            peer=Peer.of(verdict.claims, "this machine"),
            policy=policy.digest,
            found=found if self.change is None else f"{found}, with policy change {self.change.sequence}",
        )

    def _say_what_to_change(self, keyring: Keyring) -> None:
        """Print the domain's policy, as a change that does not change anything yet: nobody else may have it."""
        header = keyring.header
        number = last_sequence(header.changes) + 1
        same = propose(domain=header.domain, sequence=number, replaces=header.policy, policy=header.policy)
        self.instance.say(same.text())

    def _check_unchanged(self, data: bytes) -> None:
        if self.instance.store.load() != data:
            raise Unavailable("The record here was changed during the recovery.", advice="It was left as it is.")

    def _adopt(self, keyring: Keyring, line: Line, data: bytes) -> None:
        instance = self.instance
        try:
            self._check_unchanged(data)
            instance.audit.write_now(line)
            instance.store_keyring(keyring, set_aside_name(data))
        except BaseException:  # whatever it is, the secret does not stay
            keyring.close()
            raise
        instance.hold(keyring)
        log.info("Recovered domain %s, sequence %d, and sealed it to this machine.", keyring.domain, line.sequence)


def _check_recipients(keyring: Keyring, slot: RecoverySlot) -> None:
    """Whether the record is sealed for whom its own policy names, as every instance seals it.

    Anyone can write a record to keys of his own. Raises: Corrupt.
    """
    table = parse_policy(keyring.header.policy).recovery
    wanted = None if table is None else (table.threshold, recipients_of(table))
    if wanted != (slot.threshold, tuple(one.recipient for one in slot.shares)):
        raise Corrupt(
            "The record opens by shares of other recipients than its own policy names.",
            advice="No instance has sealed it so. Nothing was changed; look for another record of the domain.",
        )


def changed(keyring: Keyring, change: PolicyChange, *, owner: bool, now: int) -> Keyring:
    """The recovered keyring after a change of its policy, which is judged as one at a running primary is.

    owner: whether whoever started this instance may change a policy that has no admins.
    Raises: Rejected(ANOTHER_DOMAIN | NOT_THE_NEXT_CHANGE | NOT_SIGNED), Misuse.
    """
    header = keyring.header
    check_next(change, domain=header.domain, policy=header.policy, changes=header.changes)
    before, after = parse_policy(header.policy), parse_policy(change.policy)
    check_authority(change, before.admins, owner=owner)
    check_generations(after, keyring.generation_ids)
    check_recoverable(after)
    changes = appended(header.changes, change, admins=before.admins)
    # Current at once: every other machine is lost, and none can acknowledge it.
    add = GenerationState.CURRENT if narrows(before, after) else None
    return keyring.changed(policy=change.policy, changes=changes, add=add, now=now)


def look_for_recovery(instance: Instance) -> Own:
    """What lies here, opened or not.

    Raises: Corrupt if the store cannot even be read.
    """
    with instance.deciding("recover"):
        return look(instance.store, instance.platform)
