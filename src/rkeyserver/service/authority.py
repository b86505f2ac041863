"""Changing the domain's policy, at a primary (docs/spec/policy.md, "Changes"; design invariants 4, 8 and 9).

A change is judged whole before anything is touched; then it is recorded, stored, and only then in force. What narrows
the policy adds a generation, so that whoever is left out has no key that is made from now on.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field

from rkeyserver.appraisal.applications import check_generations, derived_from
from rkeyserver.appraisal.change import (
    PolicyChange,
    appended,
    check_authority,
    check_next,
    digest,
    parse_change,
    signers,
)
from rkeyserver.appraisal.narrowing import narrows, takes_from_users
from rkeyserver.appraisal.policy import Policy, parse_policy
from rkeyserver.errors import Misuse, Rejected, RkeyError
from rkeyserver.keyring.generations import GenerationState
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.service.audit_line import Line, reason_of
from rkeyserver.service.instance import Instance
from rkeyserver.service.recipients import check_recoverable
from rkeyserver.service.steward import Steward

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Applied:
    """What a change has done.

    narrowed: in which ways less is accepted now; generation: the id of the one that it added, None for none.
    """

    domain: str
    change: int
    sequence: int
    policy: str
    narrowed: list[str]
    generation: str | None


@dataclass
class Authority:
    """Applies changes to one instance's keyring, one after the other.

    _on_record: digests of signed changes that were refused and recorded; only who may change the policy adds any.
    """

    steward: Steward
    _on_record: set[bytes] = field(default_factory=set, init=False)

    @property
    def instance(self) -> Instance:
        """Whose keyring it is."""
        return self.steward.instance

    async def apply(self, document: bytes, *, owner: bool) -> Applied:
        """Judge a change and put it into force.

        owner: whether it came from the owner of this machine; that counts only where the platform trusts its host.
        Raises: Misuse, Rejected, Unavailable; then nothing has changed.
        """
        async with self.steward.lock:
            try:
                return await self._apply(parse_change(document), owner=owner and self.instance.platform.trusts_host)
            except RkeyError as error:
                self.instance.refused[reason_of(error)] += 1
                raise

    async def _apply(self, change: PolicyChange, *, owner: bool) -> Applied:
        instance = self.instance
        keyring, before = self.steward.held()
        self.steward.check_primary(keyring)
        header = keyring.header
        check_next(change, domain=header.domain, policy=header.policy, changes=header.changes)
        after = parse_policy(change.policy)
        check_authority(change, before.admins, owner=owner)
        check_generations(after, keyring.generation_ids)
        _check_none_retired(before, after, keyring)
        check_recoverable(after)
        line = self._line(change, before, keyring)
        try:
            await self._check_self(after)
        except Rejected as error:
            # Once: whoever got hold of the document could else fill the disk by sending it again and again.
            if (signed := hashlib.sha256(change.signed_bytes()).digest()) not in self._on_record:
                await instance.audit.write(line.refused(error))
                self._on_record.add(signed)
            raise
        await self.steward.ask_others(keyring)
        narrowed = narrows(before, after)
        with instance.erasing(
            keyring.changed(
                policy=change.policy,
                changes=appended(header.changes, change, admins=before.admins),
                add=self.steward.added(after) if narrowed else None,
                now=instance.clock.now(),
            )
        ) as new:
            await self.steward.put_line(line, keyring, new)
        self._on_record.clear()
        added = (new.pending or new.current).id if narrowed else None
        applied = Applied(
            domain=new.domain,
            change=change.sequence,
            sequence=new.header.sequence,
            policy=after.digest,
            narrowed=[*narrowed, *takes_from_users(before, after)],
            generation=added,
        )
        log.info("Policy change %d of domain %s is in force: policy %s.", change.sequence, new.domain, after.digest)
        if narrowed:
            log.info("It accepts less (%s), so generation %s was added.", "; ".join(narrowed), applied.generation)
        return applied

    async def _check_self(self, after: Policy) -> None:
        try:
            await self.instance.granter.accepts_self(after)
        except Rejected as error:
            raise Rejected(
                error.reason,
                f"The new policy does not accept this very machine, so nobody could join from it. {error.message}",
                advice="Nothing was changed. To take this machine off, make another one the primary first.",
            ) from error

    def _line(self, change: PolicyChange, before: Policy, keyring: Keyring) -> Line:
        by = [] if before.admins is None else signers(change, before.admins)
        return Line(
            event="policy",
            verdict="accepted",
            domain=keyring.domain,
            sequence=keyring.header.sequence + 1,
            policy=digest(change.policy),
            found=f"change {change.sequence}, replaces {change.replaces}, by {', '.join(by) or 'the owner'}",
        )


def _check_none_retired(before: Policy, after: Policy, keyring: Keyring) -> None:
    """Whether the new policy has nothing derived from a retired generation that the present one has not.

    Raises: Misuse naming it.
    """
    first = keyring.generation_ids[0]
    for one in keyring.header.generations:
        needs = derived_from(after, one.id, first=first)
        if one.state is GenerationState.RETIRED and needs and needs != derived_from(before, one.id, first=first):
            raise Misuse(
                f"By the new policy, {needs} is derived from generation {one.id}, which was retired: it could not be.",
                advice='Nothing was changed. Name another one: ca_generation = "current" under [provision] for the CA '
                "(unsaid it is that of the first), or the application's generation.",
            )
