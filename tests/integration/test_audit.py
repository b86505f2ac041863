"""The record of who got the key, of real instances: two ends that agree, an end cut off, a disk that is full."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from tests.fakes.processes import Machine, Machines
from tests.integration.test_hand_over import joined

from rkeyserver.errors import EXIT_STATUS, Reason, Rejected, Unavailable
from rkeyserver.service.audit_chain import read_line
from rkeyserver.service.audit_match import match
from rkeyserver.service.audit_verify import verify

UNAVAILABLE = EXIT_STATUS[Unavailable]


def log_of(machine: Machine) -> Path:
    return machine.keystore.with_name(machine.keystore.name + ".audit.jsonl")


def machine_of(machine: Machine) -> str:
    return machine.platform().attester_identity().machine


@pytest.mark.sgx_too
def test_two_ends_of_a_hand_over_agree_and_a_tail_cut_off_one_shows_in_the_other(machines: Machines) -> None:
    host, backup, third = machines("host"), machines("backup"), machines("third")
    running = host.start()
    joined(backup, host)
    joined(third, host)
    key = host.status()["audit"]["key"]
    joined(backup, host)
    running.stop()
    logs = [verify([log_of(one)], key=key) for one in (host, backup, third)]
    assert [one.signed == one.head for one in logs] == [True] * 3, "each was stopped in order"
    assert [one.machine for one in logs] == [
        one.platform().attester_identity().machine for one in (host, backup, third)
    ]
    found = match(logs)
    assert (found.pairs, found.without) == (3, ())
    given, taken = ([link.told.transcript for link in one.links] for one in logs[:2])
    assert [given[0], given[2]] == taken

    whole = log_of(host).read_bytes()
    lines = whole.splitlines(keepends=True)
    assert all(map(read_line, lines))
    # What is cut is gone for good, and the host serves on: it does not even know.
    log_of(host).write_bytes(b"".join(lines[:4]))
    host.start().stop()
    with pytest.raises(Rejected, match="no log of that machine given here has that line") as raised:
        match([verify([log_of(one)], key=key) for one in (host, backup, third)])
    assert raised.value.reason is Reason.LOGS_DISAGREE
    assert str(log_of(backup)) in raised.value.message or str(log_of(third)) in raised.value.message
    log_of(host).write_bytes(whole)

    # The other way: the host has heard, with the second request, of what the backup had written by then.
    lines = log_of(backup).read_bytes().splitlines(keepends=True)
    log_of(backup).write_bytes(lines[0])
    with pytest.raises(Rejected, match=r"machine \w+ had a line with SHA-256") as raised:
        match([verify([log_of(one)]) for one in (host, backup)])
    assert raised.value.message.startswith(f"{log_of(host)}, line 5: ")


@pytest.mark.simulated_only("callers on the local socket: on sgx there is none")
def test_a_full_disk_stops_hand_overs_and_no_caller(machines: Machines) -> None:
    host, backup = machines("host"), machines("backup")
    running = host.start()
    before = resource.prlimit(running.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (log_of(host).stat().st_size + 100, before[1]))
    ended = backup.run("-i", host.address, "--once", "--wait", "0")
    assert (ended.status, backup.keystore.exists()) == (UNAVAILABLE, False)
    status = host.status()
    assert "cannot be written: File too large. No key leaves until it can." in status["audit"]["problem"]
    assert status["hand_overs"] == 0
    assert status["refused"] == {"unavailable": 1}
    socket = str(status["socket"])
    derived = host.command("derive", "label", "--base64", "--socket", socket)
    assert derived.status == 0, derived
    assert verify([log_of(host)]).rest == 100

    resource.prlimit(running.pid, resource.RLIMIT_FSIZE, before)
    assert host.command("derive", "label", "--base64", "--socket", socket).out == derived.out
    joined(backup, host)
    assert host.status()["audit"]["problem"] == ""
    running.stop()
    logs = [verify([log_of(one)]) for one in (host, backup)]
    assert [size for _, size in logs[0].torn] == [101]
    assert match(logs).pairs == 1
