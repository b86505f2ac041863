"""A domain of machines that die, stand still, are cut off, emptied, rolled back, promoted and changed in any order.

When it is quiet again: one domain, one state, one primary, no generation lost, whatever was wrapped anywhere opens
everywhere, and nothing wraps that somebody has who was taken off. And each of that is looked at: without any one of the
rules below some walk fails.
"""

from __future__ import annotations

import logging
import secrets
from typing import Any, Final
from unittest import mock

import pytest
from tests.fakes.simulated import Link
from tests.property.walk import walked

from rkeyserver.appraisal.narrowing import narrows
from rkeyserver.appraisal.policy import parse_policy
from rkeyserver.coordinator import order
from rkeyserver.coordinator.interface import Entry, Outcome
from rkeyserver.coordinator.lead import Coordinated
from rkeyserver.keyring.generations import GenerationState
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.place import Place
from rkeyserver.service import authority, start, steward
from rkeyserver.service.instance import Instance
from rkeyserver.service.members import Members
from rkeyserver.service.steward import Steward

SEEDS: Final = range(8)
MORE: Final = range(1000, 1100)
TRIED: Final = 200  # walks at most until one finds that a rule is missing


@pytest.fixture(autouse=True)
def quiet_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "rkeyserver")
    caplog.set_level(logging.CRITICAL, "asyncio")


@pytest.mark.parametrize("coordinated", [False, True], ids=["alone", "coordinated"])
@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_they_are_one_again(seed: int, *, coordinated: bool) -> None:
    walked(seed, coordinated=coordinated)


@pytest.mark.walk
@pytest.mark.parametrize("coordinated", [False, True], ids=["alone", "coordinated"])
@pytest.mark.parametrize("seed", MORE)
def test_however_long_it_goes_on(seed: int, *, coordinated: bool) -> None:
    walked(seed, coordinated=coordinated)


@pytest.mark.parametrize("coordinated", [False, True], ids=["alone", "coordinated"])
def test_another_walk_in_each_run(*, coordinated: bool) -> None:
    walked(secrets.randbits(32), coordinated=coordinated)


# Without a rule


async def nothing(*_: object, **__: object) -> None:
    """Instead of something."""


def ids_are_not_looked_at(self: Keyring, other: Keyring) -> bool:
    return self.same_as(other) or (self.domain == other.domain and self.place > other.place)


async def put_anyway(self: Link, _token: int, _modified: int, value: bytes) -> Any:
    """Whoever holds the lease, and whatever is there."""

    def do() -> Outcome:
        revision = self.store.next()
        self.store.state = Entry(value, revision, revision, 0)
        return Outcome(done=True, seen=self.store.now())

    return await self._reached("put", do)


ELECTED: Final = order.elected


def epoch_of_the_own_state(token: int, own: Place, state: order.State, member: str) -> Any:
    del state
    return ELECTED(token, own, order.Nothing(), member)


def all_of_them(self: Members, place: object, policy: Any) -> object:
    del place
    return self.accepted_by(policy)


def theirs(_self: Steward, _keyring: Keyring, other: Keyring) -> tuple[str, list[str]]:
    return other.header.policy, other.header.changes


def only_by_the_own_policy(keyring: Keyring, _other: Keyring, policy: str) -> bool:
    return bool(narrows(parse_policy(keyring.header.policy), parse_policy(policy)))


CURRENT: Final = GenerationState.CURRENT
# What is replaced, with what, and whether there is a coordinator.
WITHOUT: Final[dict[str, tuple[object, str, object, bool]]] = {
    "adopting only what has all generations": (Keyring, "extends", ids_are_not_looked_at, False),
    "merging": (Steward, "reunite", nothing, False),
    "waiting for an acknowledgement": (Steward, "added", lambda _self, _policy: CURRENT, False),
    "an acknowledgement of the very state": (Members, "acknowledged", all_of_them, False),
    "change numbers that only rise": (Steward, "_later_policy", theirs, False),
    "a removal that rotates": (authority, "narrows", lambda _old, _new: [], False),
    "a reunion that rotates": (steward, "_undoes_a_removal", lambda *_: False, False),
    "looking at both sides of a reunion": (steward, "_undoes_a_removal", only_by_the_own_policy, False),
    "stepping down": (Instance, "step_down", lambda _self, _why: None, False),
    "retiring only what all have moved on from": (Members, "behind", lambda *_: [], False),
    "minting only where no domain is named": (start, "check_may_mint", lambda _domain: None, False),
    "a commit": (Coordinated, "commit", nothing, True),
    "the comparison in the engine": (Link, "put", put_anyway, True),
    "an epoch above the committed one": (order, "elected", epoch_of_the_own_state, True),
    "a new epoch": (Steward, "promote", nothing, True),
    "losing a lease": (Coordinated, "_over", lambda *_: None, True),
}


def found_by(seeds: range, *, coordinated: bool) -> AssertionError | None:
    for seed in seeds:
        try:
            walked(seed, coordinated=coordinated)
        except AssertionError as error:
            return error
    return None


SOON: Final = {
    "waiting for an acknowledgement",
    "an acknowledgement of the very state",
    "a removal that rotates",
    "a reunion that rotates",
    "the comparison in the engine",
}  # these the first walks find; the others are left to `make test-domain`


@pytest.mark.parametrize("rule", [one if one in SOON else pytest.param(one, marks=pytest.mark.walk) for one in WITHOUT])
def test_some_walk_fails_without(rule: str) -> None:
    where, name, instead, coordinated = WITHOUT[rule]
    with mock.patch.object(where, name, instead):
        assert found_by(range(TRIED), coordinated=coordinated) is not None, "no walk finds that it is missing"
