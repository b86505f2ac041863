"""What a primary does to the keyring, one thing after the other (design invariants 2, 7, 8 and 9).

Each is judged whole before anything is touched; then it is recorded, committed, stored, and only then in force.

Over 400 lines, for one reason: all that a primary does to a keyring stands here, and is read as one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from rkeyserver.appraisal.applications import derived_from
from rkeyserver.appraisal.change import last_sequence
from rkeyserver.appraisal.narrowing import narrows
from rkeyserver.appraisal.orders import Forget, Order, Promote, Retire, Rotate, check_order, signed_bytes
from rkeyserver.appraisal.policy import Policy, parse_policy
from rkeyserver.appraisal.succession import believe
from rkeyserver.errors import Misuse, Reason, Rejected, RkeyError, Unavailable
from rkeyserver.exchange.standby import Received
from rkeyserver.keyring.generations import GenerationState
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.place import Place
from rkeyserver.keyring.sealed import set_aside_name
from rkeyserver.service.audit_line import Line, Peer, reason_of
from rkeyserver.service.instance import Instance, Role

_SHOWN: Final = 5
log = logging.getLogger(__name__)
Commit = Callable[[Place, Place], Awaitable[None]]


async def nobody_to_ask() -> None:
    """Of an instance that knows no other."""


async def no_coordinator(_before: Place, _after: Place) -> None:
    """Of a domain without one: nobody else has to agree."""


@dataclass(frozen=True)
class Done:
    """What an order has done. generation: that it was about; waiting: members who have to acknowledge it first."""

    order: str
    domain: str
    epoch: int
    sequence: int
    primary: str
    generation: str
    state: str
    waiting: list[str]


@dataclass
class Steward:
    """Makes the next states of one instance's keyring.

    listen: asks the other instances for a later state, and raises if there is one. commit: has a new state agreed on
    before it is stored, and raises if it is not. _forgotten: what was signed of orders to forget that were carried out:
    of a member that has come back in the same state such an order would say so again.
    """

    instance: Instance
    listen: Callable[[], Awaitable[None]] = nobody_to_ask
    commit: Commit = no_coordinator
    lock: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _forgotten: set[bytes] = field(default_factory=set, init=False)

    def held(self) -> tuple[Keyring, Policy]:
        """What there is to change.

        Raises: Unavailable.
        """
        keyring, policy = self.instance.keyring, self.instance.policy
        if keyring is None or policy is None:
            raise Unavailable("This instance has no keyring yet.")
        return keyring, policy

    def check_primary(self, keyring: Keyring) -> None:
        """Whether this instance may change the keyring.

        Raises: Misuse; Unavailable where it has met a later primary.
        """
        if self.instance.stepped_down:
            raise Unavailable(
                "This instance was the primary; another one has a later state, which is to take over what is here.",
                advice="Nothing was changed. It follows by itself once that one has: see `rkeyserver status`.",
            )
        if self.instance.elected is False:
            last, own = keyring.header.primary, self.instance.members.own
            known = "" if last == own else f" (the last one that is known here is {last})"
            raise Unavailable(
                f"The coordinator has another primary{known}, or does not say that this instance is it.",
                advice="Nothing was changed. `rkeyserver status` shows what is known of it.",
                reason=Reason.NO_LEASE,
            )
        if self.instance.role is not Role.PRIMARY:
            raise Misuse(
                f"This instance is a standby; what is changed is changed at the primary, {keyring.header.primary}.",
                advice="If that one is gone for good: `rkeyserver promote` makes this one the primary.",
            )

    async def ask_others(self, keyring: Keyring) -> None:
        """Whether `keyring` is still what is to be changed, and here, once the others were listened to.

        Raises: Unavailable, Misuse.
        """
        await self._listen(keyring)
        self.check_primary(keyring)

    async def _listen(self, keyring: Keyring) -> None:
        await self.listen()
        if self.instance.keyring is not keyring:
            raise Unavailable("The keyring was replaced while others were asked for a later state.")

    def added(self, policy: Policy) -> GenerationState:
        """In which state a generation is added under `policy`: it waits where anybody could acknowledge it."""
        waits = self.instance.members.holding(policy, self.instance.clock.now())
        return GenerationState.PENDING if waits else GenerationState.CURRENT

    async def obey(self, order: Order, *, owner: bool) -> Done:
        """Carry out an order. owner: whether it came from the owner of this machine, where its platform trusts him.

        Raises: Misuse, Rejected, Unavailable; then nothing has changed.
        """
        async with self.lock:
            keyring, policy = self.held()
            try:
                by = check_order(
                    order,
                    domain=keyring.domain,
                    admins=policy.admins,
                    owner=owner and self.instance.platform.trusts_host,
                )
                return await self._obey(order, keyring, policy, by)
            except RkeyError as error:
                self.instance.refused[reason_of(error)] += 1
                raise

    async def _obey(self, order: Order, keyring: Keyring, policy: Policy, by: str) -> Done:
        match order:
            case Promote(_, member, epoch):
                return await self._promote(keyring, member, epoch, by)
            case Rotate(_, current):
                return await self._rotate(keyring, policy, current, by)
            case Retire(_, generation):
                return await self._retire(keyring, policy, generation, by)
            case Forget():
                return await self._forget(order, keyring, by)

    async def _promote(self, keyring: Keyring, member: str, epoch: int, by: str) -> Done:
        own = self.instance.members.own
        if self.instance.elected is not None:
            raise Misuse(
                "The coordinator says who is primary; nobody is promoted beside it.",
                advice="If it is gone for good, restart all instances without --coordinator.",
            )
        if member != own:
            raise Rejected(Reason.NOT_BOUND, f"The order promotes member {member}; this is member {own}.")
        if epoch != keyring.header.epoch:
            raise Rejected(
                Reason.NOT_THE_NEXT_CHANGE,
                f"The order is for what comes after epoch {epoch}; this is epoch {keyring.header.epoch}.",
                advice="Nothing was changed. Make it anew.",
            )
        if self.instance.role is Role.PRIMARY:
            raise Misuse("This instance is the primary already.")
        # Whoever has a later state is followed first: it would be merged, and a retirement undone. And the order is for
        # what comes after the state that it was judged by.
        await self._listen(keyring)
        return await self.promote(by)

    async def promote(self, by: str, *, at_least: int = 0) -> Done:
        """Become the primary. by: on whose word. at_least: the lowest epoch that it may be. Under the lock.

        Raises: Unavailable.
        """
        keyring, _ = self.held()
        new = keyring.promoted(self.instance.members.own, at_least=at_least)
        await self.put("promote", keyring, new, f"by {by}")
        log.warning("This instance is the primary of domain %s now, epoch %d.", new.domain, new.header.epoch)
        return self._done("promote", new)

    async def _rotate(self, keyring: Keyring, policy: Policy, current: str, by: str) -> Done:
        self.check_primary(keyring)
        if keyring.current.id != current:
            raise Rejected(
                Reason.NOT_THE_NEXT_CHANGE,
                f"The order rotates generation {current} away; the current one is {keyring.current.id}.",
                advice="Nothing was changed. Make it anew.",
            )
        if (pending := keyring.pending) is not None:
            waits = _some([one.member for one in self.instance.members.behind(keyring.place, policy)])
            raise Unavailable(
                f"Generation {pending.id} was added already and waits until a standby has acknowledged it ({waits}).",
                advice="Nothing was changed. Start one of them, or `rkeyserver peer forget ID` who is gone for good.",
            )
        await self.ask_others(keyring)
        add = self.added(policy)
        new = keyring.rotated(add=add, now=self.instance.clock.now())
        generation = (new.pending or new.current).id
        await self.put("rotate", keyring, new, f"generation {generation}, {add}, by {by}")
        return self._done("rotate", new, generation)

    async def _retire(self, keyring: Keyring, policy: Policy, generation: str, by: str) -> Done:
        self.check_primary(keyring)
        behind = self.instance.members.behind(keyring.place, policy)
        with self.instance.erasing(keyring.retired(generation)) as new:
            if needs := derived_from(policy, generation, first=keyring.generation_ids[0]):
                raise Misuse(
                    f"Generation {generation} is in use: by the policy, {needs} is derived from it.",
                    advice="Nothing was changed. Name another one in the policy first "
                    "(docs/operations/many-machines.md#rotating).",
                )
            if behind:
                raise Unavailable(
                    f"Not all have moved on: {len(behind)} of {len(self.instance.members.accepted_by(policy))} members "
                    f"have not acknowledged the present state ({_some([one.member for one in behind])}).",
                    advice="Nothing was changed. Start them, or `rkeyserver peer forget ID` who is gone for good.",
                )
            await self.ask_others(keyring)
            await self.put("retire", keyring, new, f"generation {generation}, by {by}")
        return self._done("retire", new, generation)

    async def _forget(self, order: Forget, keyring: Keyring, by: str) -> Done:
        if (order.epoch, order.sequence) != (keyring.header.epoch, keyring.header.sequence):
            raise Rejected(
                Reason.NOT_THE_NEXT_CHANGE,
                f"The order is for epoch {order.epoch}, sequence {order.sequence}; this is epoch "
                f"{keyring.header.epoch}, sequence {keyring.header.sequence}.",
                advice="Nothing was changed. Make it anew.",
            )
        signed = signed_bytes(order) if order.signatures else b""
        if signed in self._forgotten:
            raise Rejected(
                Reason.NOT_THE_NEXT_CHANGE,
                f"The order to forget member {order.member} was carried out before, in this very state.",
                advice="Nothing was changed. In the next state, after any change, a new one can be signed.",
            )
        instance = self.instance
        await instance.reach_store()
        gone = instance.members.forget(order.member)
        try:
            await instance.audit.write(
                Line(
                    event="forget",
                    verdict="accepted",
                    domain=keyring.domain,
                    found=f"member {gone.member} on machine {gone.machine}, by {by}",
                )
            )
            instance.save_members()
        except RkeyError:
            instance.members.remember(gone)
            raise
        if signed:
            self._forgotten.add(signed)
        await self._activate_if_it_may(*self.held())
        return self._done("forget", instance.keyring or keyring)

    async def acknowledged(self) -> None:
        """Somebody may have acknowledged the state that is held: what waits for that goes on.

        Raises: Unavailable.
        """
        async with self.lock:
            keyring, policy = self.held()
            await self._activate_if_it_may(keyring, policy)

    async def _activate_if_it_may(self, keyring: Keyring, policy: Policy) -> None:
        members = self.instance.members
        if keyring.pending is None or self.instance.role is not Role.PRIMARY or not self.instance.may_store():
            return
        by = members.acknowledged(keyring.place, policy)
        if not by and members.holding(policy, self.instance.clock.now()):
            return
        new = keyring.activated()
        who = by[-1].member if by else "nobody, for no other member is known"
        await self.put("activate", keyring, new, f"generation {new.current.id}, acknowledged by {who}")

    async def reunite(self, received: Received, address: str) -> None:
        """Take over what a peer has and this primary does not: generations, and a newer policy that it believes.

        Raises: Rejected, Misuse, Unavailable; then nothing has changed.
        """
        async with self.lock:
            keyring, _ = self.held()
            other = received.keyring
            mine = other.header.primary == self.instance.members.own
            if not mine and (self.instance.role is not Role.PRIMARY or other.place > keyring.place):
                return  # whoever made the later state makes the union
            newer = last_sequence(other.header.changes) > last_sequence(keyring.header.changes)
            if other.domain != keyring.domain or (keyring.extends(other) and not newer):
                return
            text, changes = self._later_policy(keyring, other)
            new = keyring.merged(
                other,
                self.instance.members.own,
                policy=text,
                changes=changes,
                rotate=_undoes_a_removal(keyring, other, text),
                now=self.instance.clock.now(),
            )
            peer = Peer.of(received.verdict.claims, address)
            brought = sorted(set(new.generation_ids) - set(keyring.generation_ids))
            found = f"generations {_some(brought) or 'none'} from {received.members.member}"
            await self.put("reunite", keyring, new, found, peer=peer)
            log.warning("Reunited with member %s at %s: took over %s.", received.members.member, address, found)

    def _later_policy(self, keyring: Keyring, other: Keyring) -> tuple[str, list[str]]:
        """The policy of the side whose last change has the higher number, if it is one to believe here."""
        mine, theirs = last_sequence(keyring.header.changes), last_sequence(other.header.changes)
        if theirs <= mine:
            if theirs == mine and other.header.policy != keyring.header.policy:
                log.error(
                    "Two primaries have each made change %d of the policy; the one of this side stays. What the other "
                    "side had changed (policy %s) has to be proposed anew; with the next change it follows.",
                    mine,
                    parse_policy(other.header.policy).digest,
                )
            return keyring.header.policy, keyring.header.changes
        if (admins := parse_policy(keyring.header.policy).admins) is not None:
            believe(domain=other.domain, policy=other.header.policy, changes=other.header.changes, admins=admins)
        return other.header.policy, other.header.changes

    async def put(self, event: str, keyring: Keyring, new: Keyring, found: str, *, peer: Peer | None = None) -> None:
        """Record, commit, store and hold a new state. found: what the audit file says of it."""
        line = Line(
            event=event,
            verdict="accepted",
            domain=new.domain,
            sequence=new.header.sequence,
            peer=peer,
            policy=parse_policy(new.header.policy).digest,
            found=found,
        )
        with self.instance.erasing(new):
            await self.put_line(line, keyring, new)
        log.info("Domain %s is at epoch %d, sequence %d (%s).", new.domain, *new.place[:2], event)

    async def put_line(self, line: Line, keyring: Keyring, new: Keyring) -> None:
        """The same, with its line of the audit file. Who made `new`, erases it if it is not held then."""
        instance, before, after = self.instance, keyring.place, new.place
        stepped_down = instance.stepped_down
        await instance.reach_store()
        await instance.audit.write(line)
        try:
            await self.commit(before, after)
            if instance.stepped_down and not stepped_down:
                raise Unavailable("Another primary's later state was met while this change was recorded.")
            self._store(keyring, new)
        except RkeyError as error:
            # A second line: the first says that it may be, this one that it was not.
            await instance.audit.write(line.refused(error))
            raise
        instance.hold(new)

    def _store(self, keyring: Keyring, new: Keyring) -> None:
        instance = self.instance
        if instance.keyring is not keyring:
            raise Unavailable("The keyring was replaced while this change was recorded.")
        stored = instance.store.load()
        if stored is None:
            raise Unavailable("The record here is gone; nothing is changed until it is back.")
        instance.store_keyring(new, set_aside_name(stored))

    def _done(self, order: str, keyring: Keyring, generation: str = "") -> Done:
        header = keyring.header
        state = next((str(one.state) for one in header.generations if one.id == generation), "")
        policy = parse_policy(header.policy)
        behind = self.instance.members.behind(keyring.place, policy) if keyring.pending else []
        return Done(
            order=order,
            domain=header.domain,
            epoch=header.epoch,
            sequence=header.sequence,
            primary=header.primary,
            generation=generation,
            state=state,
            waiting=[one.member for one in behind],
        )


def _undoes_a_removal(keyring: Keyring, other: Keyring, policy: str) -> bool:
    """Whether, in the union of both under `policy`, a generation would wrap that somebody has who was taken off.

    That is so where a side has that generation and accepts more than the union, or has rotated it away and the sides do
    not have the same changes of the policy: one of them may have been a removal (design invariant 8).
    """
    leading, after = max(keyring, other, key=lambda one: one.place), parse_policy(policy)
    wraps = _next(leading)
    apart = keyring.header.changes != other.header.changes
    return any(
        narrows(parse_policy(one.header.policy), after) or (apart and _next(one) != wraps)
        for one in (keyring, other)
        if wraps in one.generation_ids
    )


def _next(keyring: Keyring) -> str:
    """The generation that wraps, or is to wrap as soon as it is elsewhere too."""
    return (keyring.pending or keyring.current).id


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
