"""What `rkeyserver status` makes of the ways back that an instance counts."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fakes.scene import DEFAULT, Scene

from rkeyserver.cli.status import _lines

AGE = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
RECOVERY = DEFAULT.text + f'\n[recovery]\nthreshold = 1\nrecipients = ["{AGE}"]\n'


def status_with(scene: Scene, **ways: int) -> list[str]:
    scene.instance.hold(scene.keyring())
    found: dict[str, Any] = scene.instance.status()
    found["ways_back"] = {"record": 0, "hosts": 0, "recovery": 0} | ways
    found["ways_back_total"] = sum(ways.values())
    return _lines(found)


WAYS: dict[str, tuple[dict[str, int], str]] = {
    "none": ({}, "WARNING: no way back. When this instance ends, the key is lost here. Add a backup."),
    "the record": (
        {"record": 1},
        "WARNING: one way back is known here. If no other machine holds the key, it is lost with",
    ),
    "a host": ({"hosts": 1}, "WARNING: one way back, the machine that gave the key: do not stop this instance before"),
    "record and recovery": ({"record": 1, "recovery": 1}, "Recovery opens a copy of the record: keep one elsewhere."),
}


@pytest.mark.parametrize(("ways", "says"), WAYS.values(), ids=WAYS)
def test_it_warns_at_one_way_back_and_says_what_it_hangs_on(scene: Scene, ways: dict[str, int], says: str) -> None:
    assert [line for line in status_with(scene, **ways) if line.startswith(says)]


@pytest.mark.parametrize("ways", [{"record": 1, "hosts": 1}, {"record": 1, "hosts": 2, "recovery": 1}])
def test_it_warns_of_nothing_where_there_are_more(scene: Scene, ways: dict[str, int]) -> None:
    assert not [
        line for line in status_with(scene, **ways) if line.startswith(("WARNING: one", "WARNING: no", "Recovery"))
    ]


def test_an_instance_that_still_asks_is_warned_of_nothing(scene: Scene) -> None:
    assert not [line for line in _lines(scene.instance.status()) if "way back" in line]


def test_a_recovery_slot_is_counted_as_long_as_the_record_has_it(scene: Scene) -> None:
    keyring = scene.keyring(policy=RECOVERY)
    scene.instance.store_keyring(keyring, None)
    scene.instance.hold(keyring)
    found = scene.instance.status()
    assert found["ways_back"] == {"record": 1, "hosts": 0, "recovery": 1}
    assert found["ways_back_total"] == 2
    assert found["slots"][1] == {"type": "recovery", "threshold": 1, "recipients": [AGE]}
    assert any(line.startswith(f"slot         recovery, 1 of 1: {AGE}") for line in _lines(found))
    scene.store.record = None
    assert scene.instance.status()["ways_back_total"] == 0, "the slot was in the record"
