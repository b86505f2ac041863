"""Every parser of outside bytes, on changed genuine inputs. tests/property/fuzz.py does the same for longer."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.property.check import check
from tests.property.everything import TARGETS, Target
from tests.property.mutate import Step, apply, steps
from tests.property.targets import HELD, STATUS

from rkeyserver.errors import RkeyError

# What the long run has found, by target: it stays found.
FOUND: dict[str, dict[str, bytes]] = {
    "policy": {
        "a key of many parts took minutes to read": b"version = 1\n" + b"x." * 60_000 + b"x = 1\n",
        "so did a header": b"version = 1\n[" + b"x." * 60_000 + b"x]\n",
        "and many such lines": b"".join(b"%d%s.x = 1\n" % (one, b".x" * 62) for one in range(900)),
    },
    "configuration": {
        "a key of many parts took minutes to read": b"x." * 30_000 + b"x = 1\n",
        "a file without end was read whole": b"# x\n" * 100_000,
    },
    "admins": {
        "a key of many parts took minutes to read": b"x." * 60_000 + b"x = 1\n",
        "a key that is no UTF-8 ended in a traceback": b'"\xff" = 1\n',
    },
    "measured": {"a value that is no UTF-8 ended in a traceback": b'seal_to = "\xff"\n'},
    "policy change": {"its error was as long as the change": b'{"' + b"x" * 200_000 + b'":1}'},
    "progress of a recovery": {"deep nesting ended in a traceback": b'{"a":' * 1_000 + b"1" + b"}" * 1_000},
    "done change": {
        "a lone surrogate ended in a traceback": b'{"domain":"d","polic\xed\xa0\x80y":1}',
        "an escaped one too": rb'{"domain":"d","polic\ud800y":1}',
    },
    "status": {
        "what is no number ended in a traceback": json.dumps(
            STATUS | {"collateral": STATUS["collateral"] | {"held": [HELD | {"days_left": "x"}]}}
        ).encode()
    },
    "error of an instance": {"it was as long as the answer": b'{"message":"' + b"x" * 500_000 + b'"}'},
    "recipient's name": {"what is no ASCII ended in a traceback": "ssh-rsa é".encode()},
}


bounded = settings(
    # Of health: seeds are large, and how long an example takes is the target's.
    max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), print_blob=False, database=None,
)  # fmt: skip


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_genuine_inputs_are_taken(target: Target) -> None:
    for data in target.seeds():
        with contextlib.suppress(*((RkeyError,) if target.refuses else ())):
            target.run(data)


def test_what_was_found_is_of_targets_that_are_there() -> None:
    assert set(FOUND) <= set(TARGETS)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_changed_inputs_are_taken_or_refused_and_nothing_else(target: Target) -> None:
    seeds = target.seeds()

    @bounded
    @given(st.sampled_from(seeds), steps())
    def changed(seed: bytes, changes: list[Step]) -> None:
        check(target, apply(seed, changes, seeds))

    changed()
    for data in FOUND.get(target.name, {}).values():
        check(target, data)
    for data in (b"", b"\0", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 20_000, b"\x91" * 100_000, b"9" * 5000):
        check(target, data)
