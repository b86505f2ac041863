"""Where a record cannot be used, each way out that is named is one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.fakes.processes import Machine, Machines, key_proof

from rkeyserver.errors import EXIT_STATUS, Corrupt

CORRUPT = EXIT_STATUS[Corrupt]
KEPT = "rkey.bin.kept.domain-{}.epoch-0.sequence-1"

DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _record: b"", "move the file and all kept copies elsewhere, and start with -i HOST and --domain"),
    "no record": (lambda record: record[100:], "start with -i HOST and --domain ID, and it is kept beside the new one"),
    "a header that is cut": (lambda record: record[:100], "start with -i HOST and --domain ID, and it is kept"),
    "a changed byte": (lambda record: record[:-1] + bytes([record[-1] ^ 1]), "start with -i HOST, and it is kept"),
}  # fmt: skip


def elsewhere(machine: Machine, *patterns: str) -> None:
    folder = machine.folder / "elsewhere"
    folder.mkdir()
    for pattern in patterns:
        for path in machine.folder.glob(pattern):
            path.rename(folder / path.name)


@pytest.fixture(params=list(DAMAGE.values()), ids=list(DAMAGE))
def damaged(request: pytest.FixtureRequest, machines: Machines) -> tuple[Machine, Machine, str, str]:
    """A host; a machine of its domain with a kept copy and a damaged record; the domain; the way to fetch."""
    damage, fetch = request.param
    host, machine = machines("host"), machines("machine")
    host.start()
    assert machine.run("-i", host.address, "--once").status == 0
    domain = str(host.status()["domain"])
    (machine.folder / KEPT.format(domain)).write_bytes(machine.record)
    machine.keystore.write_bytes(damage(machine.record))
    return host, machine, domain, fetch


@pytest.mark.sgx_too("a changed byte")
def test_each_way_out_is_named_and_leads_out(damaged: tuple[Machine, Machine, str, str]) -> None:
    host, machine, domain, fetch = damaged
    before = machine.record
    ended = machine.run()
    assert ended.status == CORRUPT
    said = ended.err.splitlines()[-1]
    assert fetch in said
    assert f"(newest first: {KEPT.format(domain)})" in said
    assert "Only to give its key up for a new domain" in said
    assert machine.record == before
    asked = machine.run("-i", host.address, "--once")
    if "--domain" in fetch:
        assert asked.status == CORRUPT
        assert machine.record == before
        assert KEPT.format(domain) in asked.err
        if "elsewhere" in fetch:
            elsewhere(machine, "rkey.bin", "rkey.bin.kept.*")
        asked = machine.run("-i", host.address, "--once", "--domain", domain)
    assert asked.status == 0, asked
    assert key_proof(machine) == key_proof(host)
    assert before in [path.read_bytes() for path in machine.folder.rglob("rkey.bin*") if path != machine.keystore]


def test_a_kept_copy_in_its_place_opens(damaged: tuple[Machine, Machine, str, str]) -> None:
    host, machine, domain, _fetch = damaged
    machine.keystore.rename(machine.folder / "aside")
    machine.keystore.write_bytes((machine.folder / KEPT.format(domain)).read_bytes())
    machine.start().stop()
    assert key_proof(machine) == key_proof(host)


def test_given_up_it_makes_a_new_domain(damaged: tuple[Machine, Machine, str, str]) -> None:
    _host, machine, domain, _fetch = damaged
    elsewhere(machine, "rkey.bin", "rkey.bin.kept.*")
    assert machine.run().status == CORRUPT, "the audit file knows of a keyring"
    (machine.folder / "rkey.bin.audit.jsonl").rename(machine.folder / "elsewhere" / "audit.jsonl")
    machine.start()
    assert machine.status()["domain"] != domain
