from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable

import pytest
from tests.fakes.claims import NOW
from tests.fakes.keyrings import OTHER_SECRET, SECRET, key
from tests.fakes.platform import FakePlatform
from tests.fakes.scene import DEFAULT, PEER, Scene, is_closed
from tests.unit.service.conftest import MakeScene

from rkeyserver.errors import Corrupt, Misuse, Reason, Rejected, RkeyError, Unavailable
from rkeyserver.service.audit_line import Peer, reason_of
from rkeyserver.service.instance import (
    MAX_PEERS_SHOWN,
    RECEIVED,
    REPLACED,
    TOLD,
    TOLD_SECONDS,
)

FROM = Peer.of(PEER, "host:8888")


@pytest.fixture
def announced(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, "rkeyserver")
    return lambda: [one.getMessage() for one in caplog.records if one.name == "rkeyserver.announce"]


# Holding


def test_what_was_held_before_is_erased(scene: Scene) -> None:
    first, second = scene.keyring("a"), scene.keyring("b")
    scene.instance.hold(first)
    assert scene.instance.keyring is first
    scene.instance.hold(second)
    assert scene.instance.keyring is second
    assert is_closed(first)
    assert not is_closed(second)


def test_what_is_held_again_is_not_erased(scene: Scene) -> None:
    keyring = scene.keyring()
    scene.instance.hold(keyring)
    scene.instance.hold(keyring)
    assert scene.instance.keyring is keyring
    assert not is_closed(keyring)


def test_closing_erases_what_is_held(scene: Scene) -> None:
    scene.instance.close()
    keyring = scene.keyring()
    scene.instance.hold(keyring)
    scene.instance.close()
    assert scene.instance.keyring is None
    assert is_closed(keyring)


def test_the_policy_is_that_of_the_keyring(scene: Scene) -> None:
    assert scene.instance.policy is None
    scene.instance.hold(scene.keyring())
    assert scene.instance.policy is not None
    assert scene.instance.policy.digest == DEFAULT.digest
    scene.instance.hold(scene.keyring(policy=DEFAULT.text + "# another\n"))
    assert scene.instance.policy.digest != DEFAULT.digest


def test_a_keyring_whose_policy_cannot_be_read_is_not_held(scene: Scene) -> None:
    before = scene.keyring()
    scene.instance.hold(before)
    with pytest.raises(Misuse):
        scene.instance.hold(scene.keyring(policy="version = 2\n"))
    assert scene.instance.keyring is before
    assert scene.instance.policy is not None
    assert scene.instance.policy.digest == DEFAULT.digest
    assert not is_closed(before)


# Storing


def test_it_is_said_when_a_record_was_replaced_and_only_then(scene: Scene) -> None:
    scene.instance.store_keyring(scene.keyring(), None)
    assert scene.said == []
    later = scene.keyring("a", "b")
    before = scene.store.record
    scene.instance.store_keyring(later, "aside")
    assert scene.said == [REPLACED]
    assert scene.stored().same_as(later)
    assert scene.store.kept == {"aside": before}


def test_a_record_that_could_not_be_stored_is_not_said_to_be(scene: Scene) -> None:
    scene.store.fails = Unavailable("the disk")
    with pytest.raises(Unavailable, match="the disk"):
        scene.instance.store_keyring(scene.keyring(), None)
    assert scene.said == []


def test_a_platform_that_gives_no_key_leaves_the_record(make_scene: MakeScene) -> None:
    scene = make_scene(platform=FakePlatform(fails=Unavailable("no key now")))
    with pytest.raises(Unavailable, match="no key now"):
        scene.instance.store_keyring(scene.keyring(), None)
    assert (scene.store.record, scene.store.writes) == (None, 0)


def test_what_may_hang_is_asked_in_a_thread(scene: Scene) -> None:
    asyncio.run(scene.instance.reach_store())
    assert scene.store.asked_in == [], "a file does not hang"
    scene.store.waits = True
    asyncio.run(scene.instance.reach_store())
    assert scene.store.asked_in != [threading.current_thread()]
    scene.store.unreachable = Unavailable("the database is away")
    with pytest.raises(Unavailable, match="is away"):
        asyncio.run(scene.instance.reach_store())


# Receiving


def test_a_keyring_from_a_peer_is_recorded_stored_held_and_then_announced(
    scene: Scene, announced: Callable[[], list[str]]
) -> None:
    received = scene.received("a", "b", sequence=4)
    order: list[tuple[bool, bool, int]] = []

    def look() -> None:
        order.append((scene.instance.keyring is not None, bool(announced()), len(scene.lines())))

    scene.store.before = look
    scene.instance.received(received, FROM, None)
    assert order == [(False, False, 1)], "the line is there before the record, the record before the rest"
    assert scene.instance.keyring is received.keyring
    assert scene.stored().same_as(received.keyring)
    assert announced() == [RECEIVED]
    assert scene.lines()[0] == {
        "at": "2026-05-28T20:26:40Z",
        "event": "join",
        "verdict": "accepted",
        "domain": received.keyring.domain,
        "sequence": 4,
        "peer": {
            "address": "host:8888",
            "platform": "simulated",
            "machine": PEER.ppid,
            "mrenclave": PEER.mrenclave,
            "mrsigner": PEER.mrsigner,
            "isv_prod_id": PEER.isv_prod_id,
            "isv_svn": PEER.isv_svn,
            "tcb_status": "UpToDate",
        },
        "policy": DEFAULT.digest,
        "transcript": received.transcript.hex(),
        "peer_head": received.peer_head.hex(),
    }
    assert list(scene.instance.peers) == [PEER.ppid]


def test_what_cannot_be_recorded_is_not_stored(scene: Scene, announced: Callable[[], list[str]]) -> None:
    scene.audit_fails()
    with pytest.raises(Unavailable, match="audit file"):
        scene.instance.received(scene.received(), FROM, None)
    assert (scene.store.record, scene.instance.keyring, announced()) == (None, None, [])


def test_what_cannot_be_stored_is_not_held(scene: Scene, announced: Callable[[], list[str]]) -> None:
    before = scene.keyring()
    scene.instance.hold(before)
    scene.store.fails = Unavailable("the disk")
    with pytest.raises(Unavailable, match="the disk"):
        scene.instance.received(scene.received("a", "b"), FROM, None)
    assert scene.instance.keyring is before
    assert not is_closed(before)
    assert announced() == []
    assert scene.instance.peers == {}


# Refusing


REFUSALS: dict[str, tuple[RkeyError, str]] = {
    "rejected": (Rejected(Reason.ANOTHER_DOMAIN, "found", advice="do"), "another-domain"),
    "corrupt": (Corrupt("found", advice="do"), "corrupt"),
    "misuse": (Misuse("found", advice="do"), "misuse"),
}


@pytest.mark.parametrize(("error", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_a_refused_decision_is_recorded_with_its_reason(scene: Scene, error: RkeyError, reason: str) -> None:
    with (
        pytest.raises(type(error)) as raised,
        scene.instance.deciding("join", domain="d" * 32, peer=FROM, where="host: "),
    ):
        raise error
    assert raised.value is error
    (line,) = scene.lines()
    assert (line["event"], line["verdict"], line["reason"]) == ("join", "refused", reason)
    assert (line["found"], line["domain"], line["peer"]["machine"]) == ("host: found", "d" * 32, PEER.ppid)


def test_what_may_be_tried_again_is_no_decision(scene: Scene) -> None:
    with pytest.raises(Unavailable), scene.instance.deciding("join"):
        raise Unavailable("later")
    with scene.instance.deciding("join"):
        pass
    assert scene.lines() == []


def test_a_refusal_that_cannot_be_recorded_says_so(scene: Scene) -> None:
    scene.audit_fails()
    error = Rejected(Reason.ANOTHER_DOMAIN, "found")
    with pytest.raises(Unavailable, match="audit file") as raised, scene.instance.deciding("join"):
        raise error
    assert raised.value.__context__ is not None


def test_refusals_are_counted_by_reason(scene: Scene) -> None:
    for error in [
        Rejected(Reason.MALFORMED, "x"),
        Rejected(Reason.MALFORMED, "y"),
        Rejected(Reason.BAD_MAC, "x"),
        Unavailable("x"),
        Corrupt("x"),
    ]:
        scene.instance.refuse(error, "127.0.0.1")
    assert scene.instance.refused == {"malformed": 2, "bad-mac": 1, "unavailable": 1, "corrupt": 1}
    assert scene.lines() == [], "whoever has no evidence is counted, not recorded"


def test_every_kind_of_refusal_has_a_code() -> None:
    assert [reason_of(error) for error, _ in REFUSALS.values()] == [reason for _, reason in REFUSALS.values()]
    assert reason_of(Unavailable("x")) == "unavailable"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


@pytest.mark.parametrize("reason", Reason)
def test_what_anyone_can_cause_is_not_logged_but_for_what_a_person_has_to_see(
    scene: Scene, caplog: pytest.LogCaptureFixture, reason: Reason
) -> None:
    scene.instance.refuse(Rejected(reason, "found it", advice="sgx 00"), "10.0.0.1")
    assert bool(warnings(caplog)) == (reason in TOLD)
    for text in warnings(caplog):
        assert "10.0.0.1" in text
        assert "found it sgx 00" in text


def test_a_machine_that_is_not_named_is_told_of_but_not_without_end(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    error = Rejected(Reason.MACHINE_NOT_NAMED, "not named", advice="sgx 00")
    for _ in range(100):
        scene.instance.refuse(error, "10.0.0.1")
    scene.host.now += TOLD_SECONDS - 1
    scene.instance.refuse(error, "10.0.0.1")
    assert len(warnings(caplog)) == 1
    scene.host.now += 1
    scene.instance.refuse(error, "10.0.0.1")
    assert len(warnings(caplog)) == 2
    assert scene.instance.refused["machine-not-named"] == 102


# Peers


def test_the_machines_that_hold_the_keyring_are_known_by_their_last_time(scene: Scene) -> None:
    scene.instance.know("a")
    scene.host.now += 5
    scene.instance.know("b")
    scene.host.now += 5
    scene.instance.know("a")
    assert list(scene.instance.peers.items()) == [("b", NOW + 5), ("a", NOW + 10)]


def test_so_many_machines_are_known_and_the_longest_unseen_go(scene: Scene) -> None:
    for number in range(MAX_PEERS_SHOWN + 3):
        scene.instance.know(str(number))
    scene.instance.know("3")
    assert len(scene.instance.peers) == MAX_PEERS_SHOWN
    assert next(iter(scene.instance.peers)) == "4"
    assert list(scene.instance.peers)[-1] == "3"


# Status


def test_the_status_of_an_instance_that_still_asks(scene: Scene) -> None:
    found = scene.instance.status()
    assert (found["role"], found["domain"], found["epoch"], found["policy"]) == ("standby", None, None, None)
    assert (found["generations"], found["slots"], found["ways_back_total"]) == ([], [], 0)
    assert (found["platform"], found["machine"], found["simulated"]) == ("simulated", "a1" * 16, True)
    assert found["record_problem"] == ""
    json.dumps(found)


def test_the_status_says_what_is_held_and_how_many_ways_lead_back(scene: Scene) -> None:
    scene.instance.received(scene.received("a", "b", epoch=1, sequence=4), FROM, None)
    scene.instance.granted = 3
    scene.instance.refuse(Rejected(Reason.BAD_MAC, "x"), "x")
    found = scene.instance.status()
    keyring = scene.instance.keyring
    assert keyring is not None
    assert (found["domain"], found["epoch"], found["sequence"]) == (keyring.domain, 1, 4)
    assert [(one["id"], one["state"]) for one in found["generations"]] == [
        (keyring.generation_ids[0], "readable"),
        (keyring.generation_ids[1], "current"),
    ]
    assert found["generations"][0]["created"] == "1970-01-01T00:16:40Z"
    assert found["policy"] == DEFAULT.digest
    assert found["ways_back"] == {"record": 1, "hosts": 1, "recovery": 0}
    assert found["ways_back_total"] == 2
    assert found["slots"] == [
        {"type": "platform", "platform": "simulated", "policy": "mrsigner", "versions": {"cpu_svn": "1"}}
    ]
    assert (found["hand_overs"], found["refused"]) == (3, {"bad-mac": 1})
    assert found["peers"] == {PEER.ppid: "2026-05-28T20:26:40Z"}
    assert found["started"] == "2026-05-28T20:26:40Z"


def test_the_status_holds_no_key(scene: Scene) -> None:
    scene.instance.received(scene.received("a", "b"), FROM, None)
    text = json.dumps(scene.instance.status()) + repr(scene.instance.keyring)
    for secret in (key("a"), key("b"), SECRET, OTHER_SECRET):
        assert secret.decode() not in text
        assert secret.hex() not in text


def _fail(scene: Scene) -> None:
    scene.store.fails = Corrupt("the disk")


def _lose(scene: Scene) -> None:
    scene.store.record = None


def _damage(scene: Scene) -> None:
    scene.store.record = b"junk"


PROBLEMS: dict[str, tuple[Callable[[Scene], None], str]] = {
    "it cannot be read": (_fail, "the disk"),
    "it is gone": (_lose, "is gone"),
    "it is damaged": (_damage, "no record"),
}


@pytest.mark.parametrize(("happens", "says"), PROBLEMS.values(), ids=PROBLEMS)
def test_the_status_tells_of_a_record_that_is_not_what_it_was(
    scene: Scene, happens: Callable[[Scene], None], says: str
) -> None:
    scene.instance.received(scene.received(), FROM, None)
    happens(scene)
    found = scene.instance.status()
    assert says in found["record_problem"]
    assert found["ways_back"]["record"] == 0
    assert found["domain"] is not None
