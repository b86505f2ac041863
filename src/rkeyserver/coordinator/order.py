"""What follows from a committed state, for one who wants to be primary and for one who wants to change.

Pure: places in, decisions out. What the engine says is not believed for secrecy and not for truth: it may show an old
state, another domain's, none, or garbage. What each leads to is in docs/spec/coordinator.md, "A lying coordinator".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rkeyserver.coordinator.interface import Elected, Entry
from rkeyserver.coordinator.values import Authenticator
from rkeyserver.errors import Misuse, Reason, Rejected, Unavailable
from rkeyserver.keyring.place import Place

BEHIND_LEASES: Final = 3  # for so many leases a candidate that lacks the committed state waits for one that has it


@dataclass(frozen=True)
class Nothing:
    """No state was ever committed, or it was deleted."""


@dataclass(frozen=True)
class Committed:
    """A state that a machine of this domain committed; whether it is the last one, only the engine knows."""

    place: Place


@dataclass(frozen=True)
class Unreadable:
    """Something lies there that no machine of this domain made."""

    why: str


State = Nothing | Committed | Unreadable


def state_of(entry: Entry | None, values: Authenticator) -> State:
    """What lies under the state's key."""
    if entry is None:
        return Nothing()
    try:
        return Committed(values.read_state(entry.value))
    except Rejected as error:
        return Unreadable(error.message)


def is_behind(own: Place, state: State) -> bool:
    """Whether another candidate may have a later state than this one. Of what cannot be read it is assumed."""
    match state:
        case Nothing():
            return False
        case Committed(place):
            return place > own
        case Unreadable():
            return True


def elected(token: int, own: Place, state: State, member: str) -> Elected:
    """What `member`, with its state `own`, has to do as the new holder of `token`."""
    place = state.place if isinstance(state, Committed) else None
    return Elected(
        token=token,
        committed=place,
        continues=place == own and own.primary == member,
        epoch=max(own.epoch, place.epoch if place is not None else 0) + 1,
    )


def check_commit(before: Place, after: Place, state: State, member: str, least: int) -> None:
    """Whether a holder may have `after` follow `before`, where `state` is committed.

    least: the epoch that its election asks for. Raises: Misuse for a state that is no later one of this member, or of
    an earlier epoch; Unavailable(NO_LEASE) if what is committed is neither `before` nor of an earlier epoch.
    """
    if after.primary != member or after <= before or after.epoch < least:
        raise Misuse(
            f"The state ({after}) is no later one of member {member} than ({before}), in epoch {least} or later."
        )
    if isinstance(state, Committed) and state.place != before and after.epoch <= state.place.epoch:
        raise Unavailable(
            f"The coordinator has ({state.place}) as the last state, this instance has ({before}).",
            advice="Nothing was changed. The primary is elected anew, and goes on in a later epoch.",
            reason=Reason.NO_LEASE,
        )
