"""What follows from a committed state: pure, in tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.coordinated import OTHER_SECRET, authenticator, digest_of, member_id

from rkeyserver.coordinator.interface import Entry
from rkeyserver.coordinator.order import (
    Committed,
    Nothing,
    State,
    Unreadable,
    check_commit,
    elected,
    is_behind,
    state_of,
)
from rkeyserver.errors import Misuse, Reason, RkeyError, Unavailable
from rkeyserver.keyring.place import Place

VALUES = authenticator()
ME, OTHER = member_id(1), member_id(2)
GARBAGE = Unreadable("")


def place(epoch: int, sequence: int, primary: str = ME, text: str = "") -> Place:
    return Place(epoch, sequence, primary, digest_of(text))


OWN = place(3, 5)

# what lies there: what it is taken for
LIES: dict[str, tuple[Entry | None, State]] = {
    "nothing": (None, Nothing()),
    "a state": (Entry(VALUES.state(OWN), 1, 2, 0), Committed(OWN)),
    "another domain's": (Entry(authenticator(OTHER_SECRET).state(OWN), 1, 2, 0), Unreadable("...")),
    "garbage": (Entry(b"x", 1, 2, 0), Unreadable("...")),
}


@pytest.mark.parametrize(("entry", "found"), LIES.values(), ids=LIES)
def test_what_lies_there(entry: Entry | None, found: State) -> None:
    assert state_of(entry, VALUES) == found or isinstance(found, Unreadable)
    assert type(state_of(entry, VALUES)) is type(found)


# what is committed: whether a candidate with OWN waits, whether it continues, and in which epoch it goes on
ELECTED: dict[str, tuple[State, bool, bool, int]] = {
    "nothing: the first one, or it was deleted": (Nothing(), False, False, 4),
    "its own state": (Committed(OWN), False, True, 4),
    "an older one: replayed, or restored from a backup": (Committed(place(3, 4)), False, False, 4),
    "an older one of an earlier epoch": (Committed(place(1, 99, OTHER)), False, False, 4),
    "a later sequence, that nobody stored": (Committed(place(3, 6)), True, False, 4),
    "a later epoch": (Committed(place(9, 1, OTHER)), True, False, 10),
    "another state of the same place": (Committed(place(3, 5, text="b")), digest_of("b") > digest_of(""), False, 4),
    "what nobody can read": (GARBAGE, True, False, 4),
}


@pytest.mark.parametrize(("state", "waits", "continues", "epoch"), ELECTED.values(), ids=ELECTED)
def test_an_election(state: State, waits: bool, continues: bool, epoch: int) -> None:  # noqa: FBT001 - a table's
    assert is_behind(OWN, state) == waits
    found = elected(11, OWN, state, ME)
    assert (found.token, found.continues, found.epoch) == (11, continues, epoch)
    assert found.committed == (state.place if isinstance(state, Committed) else None)


def test_another_members_state_is_not_continued() -> None:
    """It was fetched, and is the last one: who takes over from its maker begins an epoch."""
    theirs = place(3, 5, OTHER)
    assert elected(1, theirs, Committed(theirs), ME).continues is False


NEXT = place(3, 6)
COMMITS: dict[str, tuple[Place, Place, State, int, type[RkeyError] | None]] = {
    "the next one": (OWN, NEXT, Committed(OWN), 0, None),
    "the first one that is committed": (OWN, NEXT, Nothing(), 0, None),
    "a later epoch than another's": (OWN, place(5, 6), Committed(place(4, 9, OTHER)), 5, None),
    "a later epoch over what nobody can read": (OWN, place(4, 6), GARBAGE, 4, None),
    "the same epoch as another's": (OWN, NEXT, Committed(place(3, 5, OTHER)), 0, Unavailable),
    "an earlier epoch than another's": (OWN, NEXT, Committed(place(4, 1, OTHER)), 0, Unavailable),
    "after one that nobody stored": (OWN, NEXT, Committed(place(3, 6, text="lost")), 0, Unavailable),
    "an earlier epoch than the election asks for": (OWN, NEXT, Nothing(), 4, Misuse),
    "the same one": (OWN, OWN, Committed(OWN), 0, Misuse),
    "an earlier one": (OWN, place(3, 4), Committed(OWN), 0, Misuse),
    "another member's": (OWN, place(3, 6, OTHER), Committed(OWN), 0, Misuse),
}


@pytest.mark.parametrize(("before", "after", "state", "least", "raises"), COMMITS.values(), ids=COMMITS)
def test_a_commit(before: Place, after: Place, state: State, least: int, raises: type[RkeyError] | None) -> None:
    if raises is None:
        check_commit(before, after, state, ME, least)
        return
    with pytest.raises(raises) as raised:
        check_commit(before, after, state, ME, least)
    assert raises is Misuse or raised.value.reason is Reason.NO_LEASE  # type: ignore[attr-defined]  # Unavailable has one


SMALL = st.builds(place, st.integers(0, 4), st.integers(0, 4), st.sampled_from([ME, OTHER]), st.sampled_from("ab"))


@given(SMALL, SMALL)
def test_what_an_election_asks_for_may_always_be_committed(own: Place, committed: Place) -> None:
    found = elected(1, own, Committed(committed), ME)
    if not found.continues:
        after = place(found.epoch, own.sequence + 1)
        check_commit(own, after, Committed(committed), ME, found.epoch)
        assert after > own
        assert after > committed
