"""Every parser of outside bytes, on changed genuine inputs. tests/property/fuzz.py does the same for longer."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.property.check import check
from tests.property.mutate import Step, apply, steps
from tests.property.targets import TARGETS, Target

from rkeyserver.errors import RkeyError

bounded = settings(
    max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), print_blob=False, database=None
)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_genuine_inputs_are_taken(target: Target) -> None:
    for data in target.seeds():
        with contextlib.suppress(*((RkeyError,) if target.refuses else ())):
            target.run(data)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_changed_inputs_are_taken_or_refused_and_nothing_else(target: Target) -> None:
    seeds = target.seeds()

    @bounded
    @given(st.sampled_from(seeds), steps())
    def changed(seed: bytes, changes: list[Step]) -> None:
        check(target, apply(seed, changes, seeds))

    changed()
    for data in (b"", b"\0", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 20_000, b"\x91" * 100_000, b"9" * 5000):
        check(target, data)
