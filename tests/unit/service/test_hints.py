"""What follows from a hint: an exchange, for one of three reasons, or nothing."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from tests.fakes.hints import OTHER_MEMBER, hint_at
from tests.fakes.keyrings import MEMBER, OTHER_SECRET, generation, id_of, keyring_of

from rkeyserver.service.hints import Step, hint_of, next_step, parse_hint

OWN = "aa" * 16
HERE = keyring_of(["first"], sequence=5)
SAME: dict[str, Any] = {"sequence": 5, "primary": MEMBER, "digest": HERE.place.digest}
NEW = [generation("first"), "cd" * 16]

STEPS: dict[str, tuple[dict[str, Any], dict[str, Any], Step]] = {
    "the same state of a standby": (SAME | {"role": "standby"}, {}, Step.NOTHING),
    "the same state of the primary": (SAME, {}, Step.SHOW),
    "the same state of the primary, which was shown": (SAME, {"acknowledged": HERE.place.digest}, Step.NOTHING),
    "a later sequence": ({"sequence": 6}, {}, Step.FETCH),
    "a later sequence, for a primary": ({"sequence": 6}, {"primary": True}, Step.FETCH),
    "a later epoch": ({"epoch": 1, "sequence": 1}, {}, Step.FETCH),
    "a higher digest": (SAME | {"digest": "ff" * 32}, {}, Step.FETCH),
    "a lower digest": (SAME | {"digest": "00" * 32, "role": "standby"}, {}, Step.NOTHING),
    "one that was shown, and waits": (SAME | {"pending": True}, {"acknowledged": HERE.place.digest}, Step.SHOW),
    "a standby's that waits": (SAME | {"role": "standby", "pending": True}, {}, Step.NOTHING),
    "an earlier one": ({"sequence": 4, "role": "standby"}, {}, Step.NOTHING),
    "an earlier one of a primary, for a standby": ({"sequence": 4}, {}, Step.NOTHING),
    "an earlier one of a primary, for another": ({"sequence": 4}, {"primary": True}, Step.SHOW),
    "an earlier one of a standby, for the primary": (
        {"sequence": 4, "role": "standby"},
        {"primary": True},
        Step.SHOW,
    ),
    "one of a standby that was shown it, for the primary": (
        {"sequence": 4, "role": "standby"},
        {"primary": True, "acknowledged": HERE.place.digest},
        Step.NOTHING,
    ),
    "the same state of a standby, for the primary": (
        SAME | {"role": "standby", "pending": True},
        {"primary": True},
        Step.NOTHING,
    ),
    "an earlier one with more generations, for a standby": ({"sequence": 4, "generations": NEW}, {}, Step.NOTHING),
    "an earlier one with more generations": ({"sequence": 4, "generations": NEW}, {"primary": True}, Step.REUNITE),
    "an earlier one with a later policy": ({"sequence": 4, "change": 1}, {"primary": True}, Step.REUNITE),
    "another domain": ({"sequence": 9, "domain": id_of(OTHER_SECRET)}, {"primary": True}, Step.NOTHING),
    "this very member": ({"sequence": 9, "member": OWN}, {}, Step.NOTHING),
}


@pytest.mark.parametrize(("hint", "here", "step"), STEPS.values(), ids=STEPS)
def test_what_follows(hint: dict[str, Any], here: dict[str, Any], step: Step) -> None:
    found = hint_at(**({"sequence": 5} | hint))
    given: dict[str, Any] = {"own": OWN, "primary": False, "acknowledged": ""} | here
    assert next_step(found, HERE, **given) is step


def test_what_an_instance_says_is_read_by_another() -> None:
    with contextlib.closing(keyring_of(["a", "b"], epoch=1, sequence=2)) as keyring:
        said = hint_of(keyring, member=OTHER_MEMBER, primary=False)
        assert parse_hint(msgspec.json.encode(said)) == said
        assert said.place == keyring.place


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"{}", b'{"domain":"x"}', b"\xff", b"[" * 100_000])
def test_what_is_no_hint(data: bytes) -> None:
    assert parse_hint(data) is None
