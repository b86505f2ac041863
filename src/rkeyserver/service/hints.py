"""What instances tell each other of their states without proof, and what follows (docs/spec/exchange.md, "Hint")."""

from __future__ import annotations

import enum
from typing import Annotated, Literal

import msgspec

from rkeyserver.appraisal.change import last_sequence
from rkeyserver.hex_types import Hex16, Hex32
from rkeyserver.keyring.keyring import MAX_GENERATIONS, Keyring
from rkeyserver.keyring.place import Place
from rkeyserver.sealing.record import Header

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class Hint(msgspec.Struct, frozen=True):
    """What an instance says of its state to anyone. Nothing proves it.

    epoch, sequence, primary, digest: as keyring.Place has them; member, role: who says it; generations: their ids;
    change: the number of the last change of the policy, 0 for none; pending: whether a generation waits for an
    acknowledgement.
    """

    domain: Hex16
    epoch: _Count
    sequence: _Count
    primary: Hex16
    digest: Hex32
    member: Hex16
    role: Literal["primary", "standby"]
    generations: Annotated[list[Hex16], msgspec.Meta(min_length=1, max_length=MAX_GENERATIONS)]
    change: _Count
    pending: bool

    @property
    def place(self) -> Place:
        """Which state of its domain it is of."""
        return Place(self.epoch, self.sequence, self.primary, self.digest)

    def is_after_record(self, header: Header) -> bool:
        """Whether it is of a later state of the same domain than a record whose header alone can be read."""
        return self.domain == header.domain and (self.epoch, self.sequence) > (header.epoch, header.sequence)


class Step(enum.Enum):
    """What follows from a hint: an attested fetch, for one of three reasons, or nothing."""

    NOTHING = "nothing"
    FETCH = "fetch"
    REUNITE = "reunite"
    SHOW = "show"


def hint_of(keyring: Keyring, *, member: str, primary: bool) -> Hint:
    """What an instance says of what it holds."""
    place = keyring.place
    return Hint(
        domain=keyring.domain,
        epoch=place.epoch,
        sequence=place.sequence,
        primary=place.primary,
        digest=place.digest,
        member=member,
        role="primary" if primary else "standby",
        generations=list(keyring.generation_ids),
        change=last_sequence(keyring.header.changes),
        pending=keyring.pending is not None,
    )


def next_step(hint: Hint, keyring: Keyring, *, own: str, primary: bool, acknowledged: str) -> Step:
    """What to do about the hint of another instance.

    own: this member's id; primary: whether it is the primary; acknowledged: the digest of the last state that the
    other one was shown to be held here.
    """
    if hint.domain != keyring.domain or hint.member == own:
        return Step.NOTHING
    if hint.place > keyring.place:
        return Step.FETCH
    if primary:
        has_more = not set(hint.generations) <= set(keyring.generation_ids)
        if has_more or hint.change > last_sequence(keyring.header.changes):
            return Step.REUNITE
    # Who follows shows its primary what it holds. A primary shows whoever is behind that there is a later state: he may
    # know nobody who is left, and hears from then on from whoever has asked him.
    leads = hint.role == "primary"
    if (hint.place < keyring.place) if primary else (leads and hint.place == keyring.place):
        # What was shown may be forgotten there: as long as something waits for it, it is shown again.
        return Step.SHOW if acknowledged != keyring.place.digest or (leads and hint.pending) else Step.NOTHING
    return Step.NOTHING


def parse_hint(data: bytes) -> Hint | None:
    """A hint as it came; None for what is none."""
    try:
        return msgspec.json.decode(data, type=Hint)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
