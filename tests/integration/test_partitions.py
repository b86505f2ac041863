"""A domain on machines with addresses of their own, cut off from each other, killed, stopped and emptied.

Afterwards, always: one domain, one primary, one state, no generation lost, and whatever was wrapped anywhere opens
everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from tests.fakes.processes import Machines
from tests.fakes.site import Site, site, until

OK = httpx.codes.OK
pytestmark = pytest.mark.simulated_only("what is looked at is the network and the order of things, not the platform")


@pytest.fixture
def three(machines: Machines) -> Iterator[Site]:
    """Host, backup and another one, all of which follow the first."""
    with site(machines, 3) as made:
        first, *rest = made.hosts
        first.start()
        for one in rest:
            one.start("-i", first.address)
        until("all are known", lambda: len(first.header.members) == len(rest))
        # By the exchanges of one change everybody hears of everybody.
        assert first.rotate().status_code == OK
        made.settled("all have joined")
        yield made


def test_every_pair_is_parted_and_both_sides_rotate(three: Site) -> None:
    first, second, third = three.hosts
    # The primary and one standby do not see each other; what the third hears, both hear from it.
    three.part(first, second)
    assert first.rotate().status_code == OK
    three.wrap(first, second, third)
    three.settled("first and second parted")
    three.join(first, second)

    # Two standbys: nothing that anybody would miss.
    three.part(second, third)
    assert first.rotate().status_code == OK
    three.settled("second and third parted")
    three.join(second, third)

    # The primary is alone; another leads, both rotate. What waits for nobody's acknowledgement wraps nothing.
    three.unplug(first)
    assert first.rotate().json()["state"] == "pending"
    assert second.promote().status_code == OK
    assert second.rotate().status_code == OK
    until("the new one is current", lambda: "pending" not in second.generations().values())
    three.wrap(*three.hosts)
    three.plug(first)
    three.settled("first alone")
    assert three.primary() is second
    assert len(first.generations()) == 6


def test_killed_stopped_and_all_down_with_nobody_at_the_keyboard(three: Site) -> None:
    first, second, third = three.hosts
    three.wrap(first)
    first.pause()
    assert second.promote().status_code == OK
    assert second.rotate().status_code == OK
    until("the new one is current", lambda: "pending" not in second.generations().values())
    three.wrap(second, third)
    first.go_on()
    three.settled("the primary had stood still")
    assert three.primary() is second

    # The power goes while a generation waits, and comes back in another order, with the command lines of the first day.
    third.kill()
    assert second.rotate().status_code == OK
    for one in (first, second):
        one.kill()
    for one in (third, second, first):
        one.start(*(() if one is first else ("-i", first.address)))
    three.settled("all were down")
    assert three.primary() is second
    three.wrap(*three.hosts)

    # The primary's disk is gone. Nobody leads until somebody is told to, and everything opens.
    domain = second.header.domain
    second.kill()
    second.lose_disk()
    assert first.promote().status_code == OK
    three.wrap(first, third)
    second.start("-i", third.address, "--domain", domain)
    three.settled("the primary came back without its disk")
    assert first.rotate().status_code == OK
    three.settled("and is waited for under its new id")

    # Without -i it is another domain, which is nobody's.
    third.kill()
    third.lose_disk()
    third.start()
    assert third.header.domain != domain
    third.kill()
    third.lose_disk()
    third.start("-i", second.address)
    three.settled("it was fetched again")
