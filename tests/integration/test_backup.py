"""What docs/operations/backup-and-restore.md says of copies, tried."""

from __future__ import annotations

import re
import shutil

import pytest
from tests.fakes.processes import ROOT, Machine, Machines, Running, key_proof
from tests.integration.test_generations import all_acknowledged, done, member, opens, same, until, wrapped
from tests.integration.test_hand_over import stored

from rkeyserver.errors import EXIT_STATUS, Corrupt

CORRUPT = EXIT_STATUS[Corrupt]
PAGE = (ROOT / "docs" / "operations" / "backup-and-restore.md").read_text()


def drill(machine: Machine, domain: str) -> Running:
    """Copy a record into a folder of its own, and try it as the page says."""
    folder = machine.folder / "drill"
    folder.mkdir(mode=0o700)
    shutil.copy2(machine.keystore, folder)
    (line,) = re.findall(r"^    rkeyserver (.* --machine DIR)$", PAGE, re.MULTILINE)
    for name, value in {"/var/lib/rkeyserver/drill": str(folder), "ID": domain}.items():
        line = line.replace(name, value)
    words = [*line.removesuffix(" --platform simulated --machine DIR").split(), *machine.platform_words()]
    running = Running([*machine.program(), *words], cwd=machine.folder, env=machine.environment())
    machine.started.append(running)
    return running


@pytest.mark.sgx_too
def test_a_copy_taken_while_it_runs_is_tried_beside_it(machines: Machines) -> None:
    host = machines("host")
    host.start()
    domain = host.status()["domain"]
    tried = drill(host, domain)
    tried.err.wait_for(f"Opened the record of domain {domain}, sequence 1")
    tried.ready().stop()
    assert host.status()["domain"] == domain


@pytest.mark.simulated_only("only a simulated processor can be copied")
def test_a_copy_on_another_machine_does_not_open_and_with_the_simulated_one_it_does(machines: Machines) -> None:
    host, other = machines("host"), machines("other")
    host.start().stop()
    shutil.copy2(host.keystore, other.keystore)
    before = other.record
    ended = other.run()
    assert ended.status == CORRUPT
    assert "The record was sealed by machine" in ended.err
    assert other.record == before
    shutil.rmtree(other.processor)
    shutil.copytree(host.processor, other.processor)
    other.start().stop()
    assert key_proof(other) == key_proof(host)


def test_an_old_copy_opens_and_a_host_puts_it_right(machines: Machines) -> None:
    host, machine = machines("host"), machines("machine")
    stored(host, "one", "two", sequence=2)
    stored(machine, "one", sequence=1)
    running = machine.start()
    assert machine.status()["sequence"] == 1, "nothing can tell that it is old"
    running.stop()
    host.start()
    machine.start("-i", host.address)
    assert machine.status()["sequence"] == 2


def test_every_message_that_is_explained_is_one(machines: Machines) -> None:
    """The page quotes what the program says."""
    machine = machines("machine")
    machine.start().stop()
    record = machine.record
    said = []
    for damaged in (b"", b"junk", record[:100], record[:-1] + b"!"):
        machine.keystore.write_bytes(damaged)
        said.append(machine.run().err)
    machine.keystore.unlink()
    said.append(machine.run().err)
    kept = machine.folder / "rkey.bin.kept.one"
    kept.write_bytes(record)
    said.append(machine.run().err)
    machine.keystore.write_bytes(record)
    another = machines("another")
    another.keystore.write_bytes(record)
    said.append(another.run().err)
    text = "\n".join(said)
    rows = re.findall(r"^\| (`.*?) \|", PAGE[PAGE.index("## What a message") :], re.MULTILINE)
    quoted = [re.split(r"\.\.\. ?| A; this is machine B", one) for row in rows for one in re.findall("`(.*?)`", row)]
    missing = [part.strip() for parts in quoted for part in parts if part.strip() and part.strip() not in text]
    assert missing == ["it is truncated", "This machine does not open the record"], "of these there are unit tests"


@pytest.mark.simulated_only("what is wrapped is asked for on the local socket: on sgx there is none")
def test_one_record_used_twice_is_one_member_and_loses_nothing(machines: Machines) -> None:
    host, backup = machines("host"), machines("backup")
    copy = machines("copy", beside=host)
    host.start()
    backup.start("-i", host.address)
    until("the standby has shown what it holds", lambda: all_acknowledged(host))
    shutil.copy(host.keystore, copy.keystore)
    copy.start()
    assert member(copy) == member(host)

    secrets = []
    for one in (host, copy):
        assert "is current" in done(one.command("rotate", "--ops", one.ops))
        secrets.append(wrapped(one, one.name))
        until("the backup has carried it over", lambda: same(host, copy, backup))
    assert [one.status()["role"] for one in (host, copy, backup)] == ["primary", "primary", "standby"]
    for machine in (host, copy, backup):
        assert [opens(machine, secret) for secret in secrets] == ["host", "copy"]
