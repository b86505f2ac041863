"""The takeover drill: what it finds, when it is run, what is told of it; and that its copy of the keyring is erased."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest
from tests.fakes.claims import NOW
from tests.fakes.keyrings import OTHER_SECRET
from tests.fakes.loop import run_timeless
from tests.fakes.scene import Scene, is_closed

from rkeyserver.errors import Corrupt, RkeyError, Unavailable
from rkeyserver.keyring import sealed
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.sealing.record import Record
from rkeyserver.sealing.sealer import PlatformSealer
from rkeyserver.service import drill as module
from rkeyserver.service.drill import EVERY_SECONDS, FIRST_SECONDS, Drill, Failure
from rkeyserver.service.latency import BOUNDS, Latency
from rkeyserver.service.ready import CHECKS, looked, readiness


@pytest.fixture
def drill(scene: Scene) -> Drill:
    """Of an instance that serves a keyring, and has its record."""
    keyring = scene.keyring()
    scene.holds_record_of(keyring)
    scene.instance.hold(keyring)
    made = Drill(scene.instance, lambda: 0.5)
    scene.instance.drill = made
    return made


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Keyring]:
    """Each copy that a drill has opened."""
    found: list[Keyring] = []

    def watched(parsed: Record, sealer: PlatformSealer) -> Keyring:
        found.append(sealed.open_keyring(parsed, sealer))
        return found[-1]

    monkeypatch.setattr(module, "open_keyring", watched)
    return found


def lose(scene: Scene) -> None:
    scene.store.record = None


def damage(scene: Scene) -> None:
    assert scene.store.record is not None
    scene.store.record = scene.store.record[:-1] + bytes((scene.store.record[-1] ^ 1,))


def no_sealing_key(scene: Scene) -> None:
    def unseal(*_: object) -> None:
        raise Unavailable("No key now.")

    object.__setattr__(scene.platform, "unseal", unseal)


def failing(error: RkeyError) -> Callable[[Scene], None]:
    def fail(scene: Scene) -> None:
        scene.store.fails = error

    return fail


CASES: dict[str, tuple[Callable[[Scene], object], Failure, str, int]] = {
    "gone": (lose, Failure.GONE, "The record is gone.", 0),
    "gone, with kept copies": (failing(Corrupt("It was there.")), Failure.UNREADABLE, "It was there.", 0),
    "not readable": (failing(Unavailable("I/O error.")), Failure.UNREADABLE, "I/O error.", 0),
    "damaged": (damage, Failure.DOES_NOT_OPEN, "", 0),
    "the platform gives no key": (no_sealing_key, Failure.NO_SEALING_KEY, "No key now.", 0),
    "of another domain": (
        lambda scene: scene.holds_record_of(scene.keyring(secret=OTHER_SECRET)),
        Failure.ANOTHER_DOMAIN, "served is domain", 1,
    ),
    "an older state": (
        lambda scene: scene.holds_record_of(scene.keyring(sequence=0)), Failure.ANOTHER_STATE, "sequence 0", 1,
    ),
    "other generations": (
        lambda scene: scene.holds_record_of(scene.keyring("b")), Failure.ANOTHER_STATE, "generations", 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_it_finds(
    scene: Scene, drill: Drill, opened: list[Keyring], caplog: pytest.LogCaptureFixture, case: str
) -> None:
    breaks, failure, says, copies = CASES[case]
    kept = scene.store.record
    assert drill.now().failure is None
    assert len(opened) == 1
    breaks(scene)
    for _ in range(2):
        proof = drill.now()
        assert (proof.at, proof.failure) == (NOW, failure)
        assert says in proof.found
    assert len(opened) == 1 + 2 * copies
    assert all(map(is_closed, opened))
    assert scene.instance.keyring is not None
    assert not is_closed(scene.instance.keyring)
    shown = drill.status()
    assert (shown["passed"], shown["reason"], shown["last_success"]) == (False, str(failure), "2026-05-28T20:26:40Z")
    assert "serves on from memory" in shown["advice"]
    # Each is told in the log, each change of the outcome in the audit file.
    told = [one for one in caplog.records if "TAKEOVER DRILL FAILED" in one.getMessage()]
    assert [one.levelno for one in told] == [logging.ERROR] * 2
    lines = scene.lines()
    assert [(one["event"], one["verdict"], one["reason"]) for one in lines] == [("drill", "refused", str(failure))]
    scene.store.fails, scene.store.record = None, kept
    if failure is Failure.NO_SEALING_KEY:
        object.__delattr__(scene.platform, "unseal")
    assert drill.now().failure is None
    assert scene.decisions() == [("drill", "refused"), ("drill", "accepted")]
    assert (drill.passed, drill.failed) == (2, 2)


def test_the_first_one_that_passes_is_no_change(scene: Scene, drill: Drill) -> None:
    assert drill.status() == {
        "at": None, "passed": None, "reason": "", "found": "", "advice": "", "last_success": None,
    }  # fmt: skip
    drill.now()
    assert scene.lines() == []


def test_an_outcome_that_could_not_be_recorded_is_recorded_by_the_next(scene: Scene, drill: Drill) -> None:
    lose(scene)
    audit = scene.instance.audit
    scene.audit_fails()
    # scene.audit_fails() has closed the first one.
    del audit
    assert drill.now().failure is Failure.GONE
    assert scene.lines() == []
    failed = scene.instance.audit
    scene.instance.audit = type(failed).open(scene.folder / "audit.jsonl", scene.instance.clock)
    failed.close()
    assert drill.now().failure is Failure.GONE
    assert scene.decisions() == [("drill", "refused")]


def test_a_proof_holds_for_the_bytes_and_the_keyring_that_it_is_of(
    scene: Scene, drill: Drill, opened: list[Keyring]
) -> None:
    for _ in range(3):
        proof = drill.proof()
        assert proof is not None
        assert proof.failure is None
    assert len(opened) == 1
    # The same keyring, sealed anew: other bytes.
    assert scene.instance.keyring is not None
    scene.holds_record_of(scene.instance.keyring)
    drill.proof()
    assert len(opened) == 2
    # The same bytes, and another keyring served.
    scene.instance.hold(scene.keyring(sequence=7))
    proof = drill.proof()
    assert proof is not None
    assert proof.failure is Failure.ANOTHER_STATE
    assert len(opened) == 3


def test_nothing_is_proved_of_what_is_not_served(scene: Scene) -> None:
    made = Drill(scene.instance, lambda: 0)
    assert made.proof() is None
    with pytest.raises(Unavailable, match="serves no keyring yet"):
        made.now()


def test_when_it_is_run(scene: Scene) -> None:
    """A minute after the start; where there is no keyring yet, a minute after that; then by the schedule."""
    pauses: list[float] = []
    jitters = iter([0.0, 1.0, 0.5])

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            keyring = scene.keyring()
            scene.holds_record_of(keyring)
            scene.instance.hold(keyring)
        if len(pauses) == 5:
            await asyncio.sleep(1e9)

    made = Drill(scene.instance, lambda: next(jitters), sleep)

    async def check() -> None:
        async with made.running():
            await asyncio.sleep(1)

    run_timeless(check)
    assert pauses == [FIRST_SECONDS, FIRST_SECONDS, EVERY_SECONDS / 2, EVERY_SECONDS * 1.5, EVERY_SECONDS]
    assert made.passed == 3
    assert (FIRST_SECONDS, EVERY_SECONDS) == (60, 6 * 3600)


def test_that_it_ended_by_a_bug_is_told(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    async def sleep(_: float) -> None:
        raise RuntimeError

    async def check() -> None:
        async with Drill(scene.instance, lambda: 0, sleep).running():
            await asyncio.sleep(1)

    run_timeless(check)
    assert "No drill is run any more, which is a bug." in caplog.text


# Readiness


def held(days: float, *, own: bool = True) -> Callable[[], dict[str, object]]:
    return lambda: {"held": [{"own": own, "expires": "then", "days_left": days}]}


def test_everything_is_good(scene: Scene, drill: Drill) -> None:
    found = readiness(scene.instance)
    assert (found["ready"], found["serving"]) == (True, True)
    assert list(found["checks"]) == list(CHECKS) == ["keyring", "record", "audit", "collateral", "coordinator"]
    assert [name for name, one in CHECKS.items() if one.stops_callers] == ["keyring"]
    assert drill.passed == 1


COLLATERAL: dict[str, tuple[Callable[[], dict[str, object]], bool, str]] = {
    "of this machine": (held(9), True, "9.0 days from now"),
    "of this machine, expired": (held(-1), False, "expired at then"),
    "of others alone, expired": (held(-1, own=False), True, "None is held"),
}


@pytest.mark.parametrize(("has", "good", "says"), COLLATERAL.values(), ids=COLLATERAL)
def test_collateral(
    scene: Scene, drill: Drill, has: Callable[[], dict[str, object]], good: bool, says: str  # noqa: FBT001 - a case
) -> None:  # fmt: skip
    scene.instance.collateral = has
    found = looked(scene.instance)["collateral"]
    assert found.good == good
    assert says in found.says
    assert readiness(scene.instance)["serving"] is True
    assert drill.failed == 0


def test_without_a_keyring_nothing_is_ready(scene: Scene) -> None:
    found = readiness(scene.instance)
    assert (found["ready"], found["serving"]) == (False, False)
    assert [name for name, one in found["checks"].items() if not one["good"]] == ["keyring", "record"]


def test_a_check_that_cannot_be_made_is_not_good(scene: Scene, drill: Drill) -> None:
    def fails() -> dict[str, object]:
        raise Unavailable("No evidence now.")

    scene.instance.collateral = fails
    assert looked(scene.instance)["collateral"].says == "No evidence now."
    assert drill.passed == 1


# Latency


@pytest.mark.parametrize(("seconds", "bucket"), [(0, 0), (BOUNDS[0], 0), (0.00011, 1), (25, -2), (25.1, -1)])
def test_an_answer_is_counted_where_it_belongs(seconds: float, bucket: int) -> None:
    latency = Latency()
    latency.observe(seconds)
    assert latency.counts[bucket] == 1
    assert (sum(latency.counts), latency.total) == (1, seconds)


COORDINATED: dict[str, tuple[dict[str, str], bool, str]] = {
    "it answers": ({"last_error": "", "holder": "aa"}, True, "aa is primary"),
    "nobody is primary": ({"last_error": "", "holder": ""}, True, "nobody is primary"),
    "it does not": ({"last_error": "No server answers.", "holder": ""}, False, "No server answers"),
}


@pytest.mark.parametrize(("said", "good", "says"), COORDINATED.values(), ids=COORDINATED)
def test_a_coordinator_that_does_not_answer(scene: Scene, said: dict[str, str], good: bool, says: str) -> None:  # noqa: FBT001 - of the table
    scene.instance.coordination = lambda: said
    found = looked(scene.instance)["coordinator"]
    assert (found.good, says in found.says) == (good, True)
