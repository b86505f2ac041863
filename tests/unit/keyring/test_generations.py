"""What becomes of generations: added, activated, retired, merged; and which state of a domain is the later one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.fakes.keyrings import MEMBER, OTHER_SECRET, generation, key, keyring_of, secret_of

from rkeyserver.errors import Misuse, Reason, Rejected
from rkeyserver.keyring.generations import GenerationState
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.wrapping import unwrap, wrap

CURRENT, PENDING, READABLE, RETIRED = (GenerationState[name] for name in ("CURRENT", "PENDING", "READABLE", "RETIRED"))
ANOTHER = "bb" * 16


def made(states: dict[str, GenerationState], **said: Any) -> Keyring:
    """A keyring with generations of those names, in those states."""
    generations = [
        {"id": generation(name), "created": 1_000 + ord(name[0]), "state": str(state)} for name, state in states.items()
    ]
    return keyring_of(list(states), generations=generations, **said)


def states(keyring: Keyring) -> dict[str, str]:
    names = {generation(name): name for name in "abcdefgh"}
    return {names.get(one.id, "new"): str(one.state) for one in keyring.header.generations}


@contextlib.contextmanager
def closing(*keyrings: Keyring) -> Iterator[None]:
    try:
        yield
    finally:
        for one in keyrings:
            with contextlib.closing(Keyring.parse(secret_of(bytes(one.view)))) as again:
                assert again.same_as(one), "what was made can be read again"
            one.close()


STEPS: dict[str, tuple[dict[str, GenerationState], Callable[[Keyring], Keyring], dict[str, str]]] = {
    "rotated, with somebody to wait for": (
        {"a": CURRENT}, lambda k: k.rotated(add=PENDING, now=5), {"a": "current", "new": "pending"}
    ),
    "rotated, with nobody": (
        {"a": CURRENT}, lambda k: k.rotated(add=CURRENT, now=5), {"a": "readable", "new": "current"}
    ),
    "rotated while one is pending": (
        {"a": CURRENT, "b": PENDING},
        lambda k: k.rotated(add=PENDING, now=5),
        {"a": "current", "b": "readable", "new": "pending"},
    ),
    "rotated while one is pending, with nobody left": (
        {"a": CURRENT, "b": PENDING},
        lambda k: k.rotated(add=CURRENT, now=5),
        {"a": "readable", "b": "readable", "new": "current"},
    ),
    "activated": (
        {"r": RETIRED, "a": CURRENT, "b": PENDING},
        lambda k: k.activated(),
        {"new": "retired", "a": "readable", "b": "current"},
    ),
    "retired": ({"a": READABLE, "b": CURRENT}, lambda k: k.retired(generation("a")), {"a": "retired", "b": "current"}),
    "promoted": ({"a": CURRENT, "b": PENDING}, lambda k: k.promoted(ANOTHER), {"a": "current", "b": "pending"}),
}  # fmt: skip


@pytest.mark.parametrize(("before", "step", "after"), STEPS.values(), ids=STEPS)
def test_a_step_is_a_later_state_with_all_keys(
    before: dict[str, GenerationState], step: Callable[[Keyring], Keyring], after: dict[str, str]
) -> None:
    old = made(before, epoch=2, sequence=7)
    new = step(old)
    with closing(old, new):
        assert states(new) == after
        assert new.extends(old)
        assert new.place > old.place
        assert new.header.sequence == 8
        assert states(old) == states(made(before))
        for name in before:
            assert bytes(new.root_key(generation(name))) == key(name)


@pytest.mark.parametrize("state", [CURRENT, PENDING, RETIRED])
def test_only_a_readable_one_is_retired(state: GenerationState) -> None:
    keyring = made({"a": state, "b": CURRENT if state is not CURRENT else READABLE})
    with closing(keyring), pytest.raises(Misuse, match="only a readable one"):
        keyring.retired(generation("a"))


def test_one_that_is_not_there_is_not_retired() -> None:
    keyring = made({"a": CURRENT})
    with closing(keyring), pytest.raises(Rejected) as raised:
        keyring.retired("00" * 16)
    assert raised.value.reason is Reason.NO_SUCH_GENERATION


def test_a_promotion_is_of_an_epoch_that_is_higher_than_any_known() -> None:
    keyring = made({"a": CURRENT}, epoch=2, sequence=7)
    new = keyring.promoted(ANOTHER, at_least=9)
    with closing(keyring, new):
        assert (new.header.epoch, new.header.primary) == (9, ANOTHER)


def test_nothing_is_wrapped_under_a_pending_one_and_nothing_opens_with_a_retired_one() -> None:
    before = made({"a": CURRENT})
    pending = made({"a": CURRENT, "b": PENDING})
    retired = made({"a": RETIRED, "b": CURRENT})
    with closing(before, pending, retired):
        secret = wrap(before, b"l", memoryview(b"secret"), b"")
        assert wrap(pending, b"l", memoryview(b"secret"), b"")[1:17].hex() == generation("a")
        with contextlib.closing(unwrap(pending, b"l", secret, b"").secret) as opened:
            assert bytes(opened.view) == b"secret"
        for use in (lambda: unwrap(retired, b"l", secret, b""), lambda: retired.generation_named("first")):
            with pytest.raises(Rejected) as raised:
                use()
            assert raised.value.reason is Reason.GENERATION_RETIRED


MERGED: dict[str, tuple[dict[str, GenerationState], dict[str, GenerationState], dict[str, str]]] = {
    "both rotated": (
        {"a": READABLE, "b": CURRENT}, {"a": READABLE, "c": CURRENT}, {"a": "readable", "b": "current", "c": "readable"}
    ),
    "one pending there": (
        {"a": CURRENT}, {"a": CURRENT, "c": PENDING}, {"a": "current", "c": "readable"}
    ),
    "one pending here, which was made current there": (
        {"a": CURRENT, "b": PENDING}, {"a": READABLE, "b": CURRENT, "c": READABLE},
        {"a": "current", "b": "pending", "c": "readable"},
    ),
    "one pending on both sides": (
        {"a": CURRENT, "b": PENDING}, {"a": CURRENT, "b": PENDING, "c": READABLE},
        {"a": "current", "b": "pending", "c": "readable"},
    ),
    "retired here, read there": (
        {"a": RETIRED, "b": CURRENT}, {"a": READABLE, "c": CURRENT}, {"a": "readable", "b": "current", "c": "readable"}
    ),
    "retired there, current here": (
        {"a": CURRENT}, {"a": RETIRED, "c": CURRENT}, {"a": "current", "c": "readable"}
    ),
    "retired on both sides": (
        {"a": RETIRED, "b": CURRENT}, {"a": RETIRED, "c": CURRENT}, {"a": "retired", "b": "current", "c": "readable"}
    ),
    "retired there and unknown here": (
        {"a": CURRENT}, {"a": READABLE, "c": RETIRED, "d": CURRENT}, {"a": "current", "c": "retired", "d": "readable"}
    ),
}  # fmt: skip


@pytest.mark.parametrize(("leading", "other", "after"), MERGED.values(), ids=MERGED)
def test_a_union_has_all_of_both_and_is_later_than_both(
    leading: dict[str, GenerationState], other: dict[str, GenerationState], after: dict[str, str]
) -> None:
    here = made(leading, epoch=2, sequence=3)
    there = made(other, epoch=1, sequence=9, primary=ANOTHER)
    new = here.merged(there, MEMBER, policy="p", changes=["c"], rotate=False, now=9)
    with closing(here, there, new):
        assert states(new) == after
        assert (new.header.epoch, new.header.sequence, new.header.primary) == (2, 10, MEMBER)
        assert (new.header.policy, new.header.changes) == ("p", ["c"])
        assert new.extends(here)
        assert new.extends(there)
        for name in after:
            assert bytes(new.root_key(generation(name))) == key(name)


def test_a_union_that_accepts_less_has_a_generation_that_neither_side_had() -> None:
    here = made({"a": READABLE, "b": CURRENT}, epoch=2)
    there = made({"a": READABLE, "c": CURRENT}, primary=ANOTHER)
    new = here.merged(there, MEMBER, policy="p", changes=[], rotate=True, now=9)
    with closing(here, there, new):
        assert states(new) == {"a": "readable", "b": "current", "c": "readable", "new": "pending"}


def test_a_rolled_back_member_makes_the_union_of_a_later_state_of_its_own() -> None:
    rolled_back = made({"a": READABLE, "b": CURRENT}, sequence=3)
    later = made({"a": READABLE, "c": CURRENT}, sequence=8)
    new = rolled_back.merged(later, MEMBER, policy="p", changes=[], rotate=False, now=9)
    with closing(rolled_back, later, new):
        assert states(new) == {"a": "readable", "b": "readable", "c": "current"}
        assert (new.extends(later), new.header.sequence) == (True, 9)


def test_the_first_generation_stays_the_first() -> None:
    here = keyring_of(["b", "c"], epoch=1)
    there = keyring_of(["b", "a"], primary=ANOTHER)
    new = here.merged(there, MEMBER, policy="p", changes=[], rotate=False, now=9)
    with closing(here, there, new):
        assert new.generation_ids[0] == generation("b")


PLACES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a later epoch, whatever the sequence": ({"epoch": 1, "sequence": 1}, {"epoch": 0, "sequence": 9}),
    "a later sequence, whatever the primary": ({"sequence": 2, "primary": "00" * 16}, {"primary": "ff" * 16}),
    "a higher primary": ({"primary": "ff" * 16}, {"primary": "ee" * 16}),
}


@pytest.mark.parametrize(("later", "earlier"), PLACES.values(), ids=PLACES)
def test_which_is_the_later(later: dict[str, Any], earlier: dict[str, Any]) -> None:
    one, other = keyring_of(**later), keyring_of(**earlier)
    with closing(one, other):
        assert one.place > other.place
        assert (one.extends(other), other.extends(one)) == (True, False)


def test_two_states_of_one_place_are_told_apart() -> None:
    one, other = keyring_of(policy="one"), keyring_of(policy="other")
    with closing(one, other):
        assert one.place[:3] == other.place[:3]
        assert one.extends(other) != other.extends(one)


def test_another_domain_is_never_extended() -> None:
    one, other = keyring_of(epoch=9), keyring_of(secret=OTHER_SECRET)
    with closing(one, other):
        assert not one.extends(other)
