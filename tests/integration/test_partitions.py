"""A domain on machines with addresses of their own, cut off from each other, killed, stopped and emptied.

Afterwards, always: one domain, one primary, one state, no generation lost, and whatever was wrapped anywhere opens
everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import httpx
import pytest
from tests.fakes.etcd import QUICK
from tests.fakes.processes import Machines, Running
from tests.fakes.site import SERVICE, Host, Site, site, until

OK: Final = httpx.codes.OK
LEASE: Final = 2
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


def ask_etcd(site: Site) -> Running:
    """An etcd on the switch, which every machine reaches."""
    client, peer = f"http://{SERVICE}:2379", f"http://{SERVICE}:2380"
    folder = site.switch.folder / "etcd"
    words = ["--name", "one", "--data-dir", str(folder), "--initial-cluster", f"one={peer}", *QUICK]
    words += ["--listen-client-urls", client, "--advertise-client-urls", client]
    words += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--unsafe-no-fsync"]
    return site.switch.begin("etcd", *words)


def changes(host: Host) -> bool:
    """Whether it could rotate now."""
    return bool(host.rotate().status_code == OK)


@pytest.mark.walk
def test_with_a_coordinator_another_leads_by_itself_and_changes_stop_without_it(machines: Machines) -> None:
    with site(machines, 3) as made:
        etcd = ask_etcd(made)
        first, second, third = made.hosts
        for one in made.hosts:
            one.more = ("--coordinator", f"etcd://{SERVICE}:2379", "--lease", str(LEASE))
        first.start()
        for one in (second, third):
            one.start("-i", first.address)
        until("it is elected", lambda: changes(first))
        made.settled("all have joined")

        # The primary is killed: another one leads, with nobody at the keyboard.
        made.wrap(*made.hosts)
        first.kill()
        until("another one leads", lambda: second.leads() or third.leads())
        leader = second if second.leads() else third
        until("and rotates", lambda: changes(leader))
        made.wrap(second, third)
        first.start()
        made.settled("the killed one is back")
        assert made.primary() is leader

        # It stands still past its lease, and wakes believing that it leads.
        leader.pause()
        rest = [one for one in made.hosts if one is not leader]
        until("another one leads", lambda: any(one.leads() for one in rest))
        after = next(one for one in rest if one.leads())
        until("and rotates", lambda: changes(after))
        leader.go_on()
        assert not changes(leader)
        made.wrap(*made.hosts)
        made.settled("the primary had stood still")
        assert made.primary() is after

        # The primary does not reach the coordinator, nor anybody else.
        made.unplug(after)
        rest = [one for one in made.hosts if one is not after]
        until("another one leads", lambda: any(one.leads() for one in rest))
        assert not changes(after)
        made.wrap(*made.hosts)
        made.plug(after)
        made.settled("the primary was cut off")

        # The coordinator is gone: service goes on, changes stop.
        etcd.kill()
        leader = made.primary()
        until("it knows", lambda: not changes(leader))
        made.wrap(*made.hosts)
        refused = leader.rotate()
        assert (refused.status_code, refused.json()["error"]) == (httpx.codes.SERVICE_UNAVAILABLE, "unavailable")
        ask_etcd(made)
        until("they change again", lambda: any(changes(one) for one in made.hosts))
        made.settled("the coordinator is back")
