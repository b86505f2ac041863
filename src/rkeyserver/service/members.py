"""The instances of the domain, as one of them knows them: who has acknowledged which state of the keyring.

An acknowledgement is proved: it stands in an attested request, of an instance that the policy accepts (design invariant
7). What others tell of a member is taken over only where nothing is known of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Self

import msgspec

from rkeyserver.appraisal.policy import Policy
from rkeyserver.clock import utc
from rkeyserver.errors import Misuse
from rkeyserver.exchange.messages import RequestClaims
from rkeyserver.exchange.standby import Received
from rkeyserver.keyring.place import Place
from rkeyserver.keyring.sealed import Owner
from rkeyserver.sealing.record import MAX_MEMBERS, MAX_MEMBERS_SIZE, Header, KnownMember, MemberAddress

JUST_GIVEN_SECONDS: Final = 60
_NO_DIGEST: Final = "00" * 32
_LONGEST: Final = 1024  # bytes of one member in a record's header


@dataclass
class Members:
    """own: this instance's id in the domain; unsaved: whether more is known than the record in the keystore says.

    forgotten: members that come back by their own word only, and by nobody else's.
    """

    own: str
    known: OrderedDict[str, KnownMember] = field(default_factory=OrderedDict)
    unsaved: bool = False
    forgotten: OrderedDict[str, None] = field(default_factory=OrderedDict, init=False)

    @classmethod
    def of(cls, header: Header) -> Self:
        """Those of an own record that has opened."""
        return cls(header.member, OrderedDict((one.member, one) for one in header.members))

    def owner(self) -> Owner:
        """For a record, or for a peer."""
        return Owner(self.own, tuple(self.known.values()))

    def asked(self, claims: RequestClaims, *, machine: str, host: str, now: int) -> bool:
        """Note what an accepted request says of its sender; whether it was unknown. host: where it came from."""
        new = claims.member not in self.known and claims.member != self.own
        address = f"{bracketed(host)}{claims.address}" if claims.address.startswith(":") else claims.address
        self._heard(
            KnownMember(
                member=claims.member,
                machine=machine,
                address=_as_stored(address),
                epoch=claims.epoch,
                sequence=claims.sequence,
                digest=claims.digest.hex() or _NO_DIGEST,
                seen=now,
            )
        )
        return new

    def gave(self, received: Received, *, machine: str, address: str, now: int) -> None:
        """Note whom a keyring came from, which therefore holds it, and whom that one knows."""
        place = received.keyring.place
        giver = received.members.member
        self._heard(
            KnownMember(
                member=giver,
                machine=machine,
                address=address,
                epoch=place.epoch,
                sequence=place.sequence,
                digest=place.digest,
                seen=now,
            )
        )
        self.told(received.members.members)

    def told(self, members: Iterable[KnownMember]) -> None:
        """Take over whom a peer knows and this instance does not.

        A peer may know an instance by the id that it had before it lost its record: whoever was seen last stays.
        """
        for one in members:
            if one.member in self.known or one.member in self.forgotten:
                continue
            if not any(_are_one(other, one) and other.seen >= one.seen for other in self.known.values()):
                self._note(one)
        self._make_room()

    def _heard(self, one: KnownMember) -> None:
        """Note what a member has said of itself."""
        self.forgotten.pop(one.member, None)
        self._note(one)
        self._make_room()

    def _note(self, one: KnownMember) -> None:
        if one.member == self.own:
            return
        # An instance that lost its record comes again under another id: nobody has to forget the one that it was.
        for other in [other for other in self.known.values() if other.member != one.member and _are_one(other, one)]:
            del self.known[other.member]
        before = self.known.get(one.member)
        if before is None or msgspec.structs.replace(before, seen=one.seen) != one:
            self.unsaved = True
        self.known[one.member] = one
        self.known.move_to_end(one.member)

    def _make_room(self) -> None:
        """Drop whom a record has no room for: one whose header is too long is stored, and never opens again."""
        while len(self.known) > MAX_MEMBERS:
            self.known.popitem(last=False)
        if len(self.known) * _LONGEST <= MAX_MEMBERS_SIZE:
            return
        sizes = {member: len(msgspec.json.encode(one)) + 1 for member, one in self.known.items()}
        size = sum(sizes.values())
        while size > MAX_MEMBERS_SIZE:
            size -= sizes[self.known.popitem(last=False)[0]]

    def forget(self, member: str) -> KnownMember:
        """Know that one no longer.

        Raises: Misuse if it is not known.
        """
        if member not in self.known:
            raise Misuse(
                f"No member {member} is known here.", advice="`rkeyserver peer list` says who is, by their ids."
            )
        self.unsaved = True
        self.forgotten[member] = None
        while len(self.forgotten) > MAX_MEMBERS:
            self.forgotten.popitem(last=False)
        return self.known.pop(member)

    def remember(self, one: KnownMember) -> None:
        """Know one again that was to be forgotten."""
        del self.forgotten[one.member]
        self.known[one.member] = one

    def accepted_by(self, policy: Policy) -> list[KnownMember]:
        """Those whose machine the policy names. Whom it does not, is not waited for."""
        tables = policy.tables.values()
        named = {machine for table in tables if table.machines != "any" for machine in table.machines}
        anyone = any(table.machines == "any" for table in tables)
        return [one for one in self.known.values() if anyone or one.machine in named]

    def holding(self, policy: Policy, now: int) -> list[KnownMember]:
        """Those of them that can acknowledge a state: who ever did, or was given the keyring a moment ago."""
        return [
            one for one in self.accepted_by(policy) if one.digest != _NO_DIGEST or now < one.seen + JUST_GIVEN_SECONDS
        ]

    def behind(self, place: Place, policy: Policy) -> list[KnownMember]:
        """Those that the policy accepts and that have not acknowledged the state at `place`."""
        return [one for one in self.accepted_by(policy) if one.digest != place.digest]

    def acknowledged(self, place: Place, policy: Policy) -> list[KnownMember]:
        """Those that the policy accepts and that have acknowledged the state at `place`."""
        return [one for one in self.accepted_by(policy) if one.digest == place.digest]

    def addresses(self) -> list[str]:
        """Where the others answer, by what they say; the last heard of first."""
        return [one.address for one in reversed(self.known.values()) if one.address]

    def status(self, place: Place | None) -> list[dict[str, Any]]:
        """Of the others, for Instance.status(). place: of the state that is held here."""
        return [
            {
                "member": one.member,
                "machine": one.machine,
                "address": one.address,
                "epoch": one.epoch,
                "sequence": one.sequence,
                "acknowledged": place is not None and one.digest == place.digest,
                "seen": utc(one.seen),
            }
            for one in self.known.values()
        ]


def _as_stored(address: str) -> str:
    """An address as a record can have it; empty for one that it cannot."""
    try:
        found: str = msgspec.convert(address, MemberAddress)
    except msgspec.ValidationError:
        return ""
    return found


def _are_one(one: KnownMember, other: KnownMember) -> bool:
    return bool(one.address) and (one.machine, one.address) == (other.machine, other.address)


def bracketed(host: str) -> str:
    """A host as it stands before a port: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host
