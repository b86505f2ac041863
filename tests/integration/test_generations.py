"""A domain of several real machines: generations come and go, the primary changes, and two that went apart reunite."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import Any

import httpx
from tests.fakes.processes import DEADLINE, Ended, Machine, Machines
from tests.fakes.proxy import Proxy

from rkeyserver.address import Address
from rkeyserver.errors import EXIT_STATUS, Misuse, Unavailable

MISUSE, UNAVAILABLE = EXIT_STATUS[Misuse], EXIT_STATUS[Unavailable]


def ops(machine: Machine, *words: str) -> Ended:
    """A command for the instance that runs there."""
    return machine.command(*words, "--ops", machine.ops)


def done(ended: Ended) -> str:
    assert ended.status == 0, ended.err
    return ended.out


def until(what: str, found: Callable[[], bool], seconds: float = 2 * DEADLINE) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(0.1)


def asked(machine: Machine, path: str, **said: str) -> httpx.Response:
    transport = httpx.HTTPTransport(uds=f"{machine.keystore}.socket")
    with httpx.Client(transport=transport, base_url="http://localhost", timeout=DEADLINE) as client:
        return client.post(f"/v1/{path}", json=said)


def wrapped(machine: Machine, text: str) -> str:
    answer = asked(machine, "wrap", label="test", plaintext=base64.b64encode(text.encode()).decode())
    assert answer.status_code == 200, answer.text
    return str(answer.json()["wrapped"])


def opens(machine: Machine, secret: str) -> str:
    answer = asked(machine, "unwrap", label="test", wrapped=secret)
    assert answer.status_code == 200, answer.text
    return base64.b64decode(answer.json()["plaintext"]).decode()


def state(machine: Machine) -> tuple[int, int, str, list[tuple[str, str]]]:
    found = machine.status()
    generations = [(one["id"], one["state"]) for one in found["generations"]]
    return found["epoch"], found["sequence"], found["primary"], generations


def same(*machines: Machine) -> bool:
    return len({str(state(one)) for one in machines}) == 1


def all_acknowledged(machine: Machine) -> bool:
    return all(one["acknowledged"] for one in machine.status()["members"])


def events(machine: Machine) -> list[str]:
    return [line["event"] for line in machine.audit() if line["verdict"] == "accepted"]


def generations(machine: Machine) -> dict[str, str]:
    return {one["id"]: one["state"] for one in machine.status()["generations"]}


def member(machine: Machine) -> str:
    found: dict[str, Any] = machine.status()
    return str(found["member"])


def test_a_generation_wraps_once_a_standby_has_it_and_is_retired_once_all_have_moved_on(machines: Machines) -> None:
    host, backup, other = machines("host"), machines("backup"), machines("other")
    host.start()
    backup.start("-i", host.address)
    running = other.start("-i", host.address)
    (first,) = generations(host)
    secret = wrapped(host, "before")
    until("the standbys have shown what they hold", lambda: all_acknowledged(host))

    said = done(ops(host, "rotate"))
    (second,) = set(generations(host)) - {first}
    assert f"Generation {second} is current." in said
    assert [one for one in events(host) if one in {"rotate", "activate"}] == ["rotate", "activate"]
    until("all follow", lambda: same(host, backup, other))
    assert generations(backup) == {first: "readable", second: "current"}
    later = wrapped(backup, "after")
    assert [opens(one, later) for one in (host, other)] == ["after"] * 2
    assert opens(host, asked(host, "rewrap", label="test", wrapped=secret).json()["wrapped"]) == "before"

    running.kill()
    until("those that live have moved on", lambda: sum(not o["acknowledged"] for o in host.status()["members"]) <= 1)
    refused = ops(host, "retire", second)
    assert (refused.status, "only a readable one is retired" in refused.err) == (MISUSE, True)
    until("the one that is left has shown it", lambda: any(o["acknowledged"] for o in host.status()["members"]))
    assert done(ops(host, "rotate")).count("is current") == 1
    until("the backup follows", lambda: same(host, backup))
    until("the backup has shown it", lambda: any(o["acknowledged"] for o in host.status()["members"]))
    refused = ops(host, "retire", first)
    gone = next(one["member"] for one in host.status()["members"] if not one["acknowledged"])
    assert refused.status == UNAVAILABLE
    assert gone in refused.err
    assert "peer forget" in refused.err

    assert gone in done(ops(host, "peer", "list"))
    done(ops(host, "peer", "forget", gone))
    assert f"Generation {first} is retired." in done(ops(host, "retire", first))
    until("the backup follows", lambda: same(host, backup))
    for machine in (host, backup):
        answer = asked(machine, "unwrap", label="test", wrapped=secret)
        assert (answer.status_code, answer.json()["reason"]) == (403, "generation-retired")
    assert opens(backup, later) == "after"


def test_a_backup_at_the_end_of_a_slow_link_joins_and_follows(machines: Machines) -> None:
    host, backup = machines("host"), machines("backup")
    host.start()
    # A request of some 15 kB takes 0.4 seconds of it.
    with Proxy(Address("127.0.0.1", host.port), lag=0.05, piece=2048) as slow:
        backup.start("-i", str(slow.address))
        secret = wrapped(backup, "before")
        until("the backup has shown what it holds", lambda: all_acknowledged(host))
        done(ops(host, "rotate"))
        until("it follows", lambda: same(host, backup))
        assert "pending" not in generations(backup).values()
        assert [opens(one, secret) for one in (host, backup)] == ["before"] * 2
        assert opens(host, wrapped(backup, "after")) == "after"


def test_a_backup_is_promoted_and_the_old_primary_steps_down_by_itself(machines: Machines) -> None:
    host, backup = machines("host"), machines("backup")
    first = host.start()
    backup.start("-i", host.address)
    until("the standby has shown what it holds", lambda: all_acknowledged(host))
    first.kill()
    refused = ops(backup, "rotate")
    assert refused.status == MISUSE
    assert "rkeyserver promote" in refused.err
    assert f"primary {member(backup)}" in done(ops(backup, "promote"))
    assert (backup.status()["role"], backup.status()["epoch"]) == ("primary", 1)
    pending = ops(backup, "rotate")
    assert "is pending: it wraps nothing until a standby has acknowledged it" in done(pending)
    secret = wrapped(backup, "while it was away")

    host.start()
    until("the old primary follows", lambda: same(host, backup))
    assert host.status()["role"] == "standby"
    assert opens(host, secret) == "while it was away"
    until("what waited goes on", lambda: "pending" not in generations(backup).values())
    assert ops(host, "rotate").status == MISUSE

    # Both down and up again, with nobody at the keyboard: who led, leads.
    for machine in (host, backup):
        machine.started[-1].kill()
    host.start()
    backup.start("-i", host.address)
    until("they agree", lambda: same(host, backup))
    assert (host.status()["role"], backup.status()["role"]) == ("standby", "primary")


def test_two_that_both_rotated_reunite_and_lose_nothing(machines: Machines) -> None:
    host, backup, third = machines("host"), machines("backup"), machines("third")
    host.start()
    backup.start("-i", host.address)
    running = third.start("-i", host.address)
    until("they have shown what they hold", lambda: all_acknowledged(host))
    # Apart: the third one sees neither, and each of the two has somebody who acknowledges.
    backup.started[-1].kill()
    assert "is current" in done(ops(host, "rotate"))
    here = wrapped(host, "on the side of the host")
    until("the third one follows", lambda: same(host, third))
    host.started[-1].kill()
    running.kill()

    backup.start("-i", host.address)
    for one in backup.status()["members"]:
        done(ops(backup, "peer", "forget", one["member"]))
    done(ops(backup, "promote"))
    assert "is current" in done(ops(backup, "rotate"))
    there = wrapped(backup, "on the side of the backup")
    current = next(one for one, said in generations(backup).items() if said == "current")

    host.start()
    third.start("-i", host.address)
    until("all agree", lambda: same(host, backup, third), 60)
    assert len(generations(host)) == 3
    assert generations(host)[current] == "current"
    for machine in (host, backup, third):
        assert [opens(machine, one) for one in (here, there)] == [
            "on the side of the host",
            "on the side of the backup",
        ]
    assert [one.status()["role"] for one in (host, backup, third)] == ["standby", "primary", "standby"]
    assert "reunite" in events(backup)


def test_no_new_domain_is_made_beside_a_peer_that_serves_one(machines: Machines) -> None:
    host, lost = machines("host"), machines("lost")
    running = host.start()
    refused = lost.run("--peer", host.address)
    assert refused.status == MISUSE
    assert f"serves domain {host.status()['domain']}" in refused.err
    assert not lost.keystore.exists()
    assert [(line["event"], line["verdict"]) for line in lost.audit()] == [("mint", "refused")]
    running.kill()
    lost.start("--peer", host.address)
    assert lost.status()["role"] == "primary", "nobody answers: it may be the first one of all"
