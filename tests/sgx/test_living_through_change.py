"""What becomes of a domain on SGX when images, signers and microcode change, and what doctor said of it beforehand.

The machines are real processes over the tests' stand-in for SGX, and they are the closed program: they judge by what is
measured into them, and policies change by what its admin signs.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.fakes.processes import DEADLINE
from tests.fakes.recipients import age, recovery_table
from tests.sgx.changing import (
    EARLIER,
    IMAGE,
    LATER,
    MICROCODE,
    NO_WAY_BACK,
    SIGNER,
    change_policy,
    doctor,
    promote,
    rebuild,
    recover,
    signed_as_it_is,
    state_of,
    values,
    why_not,
    with_rule,
)
from tests.sgx.machines import IMAGE as FIRST
from tests.sgx.machines import SgxMachine, SgxMachines

from rkeyserver.errors import EXIT_STATUS, Corrupt, Rejected
from rkeyserver.platforms.simulated.tcb import cpu_svn
from rkeyserver.sealing.record import parse
from rkeyserver.service.doctor_ways import THE_IMAGE

CORRUPT, REFUSED = EXIT_STATUS[Corrupt], EXIT_STATUS[Rejected]
SECOND = hashlib.sha256(b"the next image").hexdigest()
NEW_SIGNER = hashlib.sha256(b"the next signer").hexdigest()
UPDATED = cpu_svn("UpToDate")
BEFORE = cpu_svn("SWHardeningNeeded")
BOTH = pytest.mark.parametrize("seal_to", ["mrsigner", "mrenclave"])


@pytest.fixture
def machines(sgx_machines: SgxMachines) -> SgxMachines:
    return sgx_machines


def reasons(machine: SgxMachine) -> list[str]:
    """Why it refused whom, by its audit file."""
    return [line["reason"] for line in machine.audit() if line["verdict"] == "refused"]


def until_refused(machine: SgxMachine, reason: str, *, times: int = 1) -> None:
    """Until it has refused for that reason so often: a primary that is started again asks when it has heard a hint."""
    end = time.monotonic() + DEADLINE
    while reasons(machine).count(reason) < times:
        assert time.monotonic() < end, reasons(machine)
        time.sleep(0.1)


def domain_of(machine: SgxMachine) -> str:
    return str(machine.status()["domain"])


def alone(machines: SgxMachines, name: str = "old", **differences: Any) -> SgxMachine:
    """A machine that has made a domain and serves it; its admin has signed the policy as it was made."""
    machine = machines(name, **differences)
    machine.start()
    applied = change_policy(machine, signed_as_it_is)
    assert (applied["change"], applied["generation"]) == (1, None), applied
    return machine


def with_backup(machines: SgxMachines, **differences: Any) -> tuple[SgxMachine, SgxMachine]:
    """A primary, and a standby on a machine of its own that its admins have admitted; both serve."""
    host, backup = alone(machines, "host", **differences), machines("backup", **differences)
    applied = change_policy(host, with_rule("machines", [host.ppid, backup.ppid]))
    assert applied["generation"] is None, applied
    backup.start("-i", host.address, "--domain", domain_of(host))
    return host, backup


# A new image on one machine


@BOTH
def test_a_new_version_joins_the_old_one_beside_it_and_takes_its_place(machines: SgxMachines, seal_to: str) -> None:
    old = alone(machines, seal_to=seal_to)
    domain, before = domain_of(old), values(old)
    told = doctor(old)
    assert told.change(LATER) == (False, "", [THE_IMAGE])
    assert (told.status, told.ways) == (NO_WAY_BACK, []), "from a change of the machine there is none"

    new = machines("new", beside=old, seal_to=seal_to, mrenclave=SECOND, isv_svn=2)
    new.start("-i", old.address, "--domain", domain)
    old.started[-1].stop()
    record = old.record
    assert [one.member for one in parse(record).header.members] == [new.status()["member"]]
    assert (domain_of(new), values(new)) == (domain, before)
    new.started[-1].stop()
    new.start()
    assert (new.status()["role"], values(new)) == ("standby", before)
    promote(new)
    assert values(new) == before
    assert old.record == record
    assert values(old) == before, "and the old image still opens what it sealed"


def test_a_floor_leaves_the_old_image_with_what_it_has(machines: SgxMachines) -> None:
    old = alone(machines)
    new = machines("new", beside=old, mrenclave=SECOND, isv_svn=2)
    new.start("-i", old.address)
    old.started[-1].stop()
    before, record = values(old), old.record
    new.started[-1].stop()
    new.start()
    promote(new)
    assert doctor(new).change(EARLIER) == (False, "", [THE_IMAGE])

    applied = change_policy(new, with_rule("min_isv_svn", 2))
    assert applied["narrowed"] == ["[sgx] min_isv_svn: the floor was 1, now 2."]
    after = values(new)
    assert after == before | {applied["generation"]: after[applied["generation"]]}
    assert len(after) == 2
    assert doctor(new).change(EARLIER) == (False, "min_isv_svn is 2", [])

    old.start("-i", new.address)
    until_refused(new, "version-too-low")  # as joiner
    assert (values(old), state_of(old.record)) == (before, state_of(record)), "what it has is its own, it gets no more"
    new.started[-1].stop()
    new.start("-i", old.address)
    until_refused(new, "version-too-low", times=2)  # as host
    assert values(new) == after


def test_the_primary_does_not_raise_a_floor_above_itself(machines: SgxMachines) -> None:
    old = alone(machines)
    refused = change_policy(old, with_rule("min_isv_svn", 2))
    assert refused["reason"] == "version-too-low"
    assert doctor(old).change(LATER) == (False, "", [THE_IMAGE])


def test_a_new_version_over_the_old_record_changes_nothing_and_says_what_differs(machines: SgxMachines) -> None:
    old = alone(machines)
    peer = machines("peer", beside=old)
    peer.start("-i", old.address)
    old.started[-1].stop()
    record, kept, before = old.record, old.kept(), values(old)
    assert doctor(old, peer).change(LATER) == (False, "", [THE_IMAGE, f"peer {peer.address}"])

    old.load(mrenclave=SECOND, isv_svn=2)
    ended = old.run()
    assert ended.status == CORRUPT
    assert "since it was sealed, isv_svn was 1, is 2" in ended.err
    assert (old.record, old.kept()) == (record, kept)
    told = doctor(old, peer)
    assert (told.status, told.ways) == (CORRUPT, [f"peer {peer.address}"])
    assert "isv_svn 1 (now 2)" in told.of("sealed to")["found"]
    assert told.said["changes"] == []

    old.start("-i", peer.address)
    assert values(old) == before
    assert record in [path.read_bytes() for path in old.kept()]


def test_back_to_the_version_before_while_the_floor_allows_it(machines: SgxMachines) -> None:
    new = alone(machines, "new", mrenclave=SECOND, isv_svn=2)
    before = values(new)
    assert doctor(new).change(EARLIER) == (False, "", [THE_IMAGE])
    old = machines("old", beside=new)
    old.start("-i", new.address)
    new.started[-1].stop()
    assert values(old) == before
    assert doctor(old).change(EARLIER) == (False, "min_isv_svn is 1", []), "it is the lowest that the policy accepts"
    new.load(isv_svn=1)
    assert "isv_svn was 2, is 1" in new.run().err, "a record follows the version in both directions"


# Which records open


ChangeOf = Callable[[SgxMachine], None]
NEXT: dict[str, tuple[str | None, ChangeOf, dict[str, bool], str]] = {
    "the same": (None, lambda _: None, {"mrsigner": True, "mrenclave": True}, ""),
    "another image": (
        IMAGE, lambda one: one.load(mrenclave=SECOND), {"mrsigner": True, "mrenclave": False}, "mrenclave was",
    ),
    "a later version": (
        LATER, lambda one: one.load(isv_svn=3), {"mrsigner": False, "mrenclave": False}, "isv_svn was 2, is 3",
    ),
    "an earlier version": (
        EARLIER, lambda one: one.load(isv_svn=1), {"mrsigner": False, "mrenclave": False}, "isv_svn was 2, is 1",
    ),
    "another signer": (
        SIGNER, lambda one: one.load(mrsigner=NEW_SIGNER, mrenclave=SECOND),
        {"mrsigner": False, "mrenclave": False}, "mr(signer|enclave) was",
    ),
    "another signer of the same image": (
        None, lambda one: one.load(mrsigner=NEW_SIGNER), {"mrsigner": False, "mrenclave": True}, "mrsigner was",
    ),
    "another product": (
        None, lambda one: one.load(isv_prod_id=2), {"mrsigner": False, "mrenclave": False}, "isv_prod_id was 1, is 2",
    ),
    "later microcode": (
        MICROCODE, lambda one: one.update_microcode(bytes([9]) + bytes(15)),
        {"mrsigner": False, "mrenclave": False}, "cpu_svn was 07",
    ),
    "earlier microcode": (
        MICROCODE, lambda one: one.update_microcode(BEFORE), {"mrsigner": False, "mrenclave": False}, "cpu_svn was 07",
    ),
    "a debug enclave": (
        None, lambda one: one.load(debug=True), {"mrsigner": False, "mrenclave": False}, "its slot was damaged",
    ),
}  # fmt: skip


@BOTH
def test_a_record_opens_with_the_versions_that_it_was_sealed_at_and_no_others(
    machines: SgxMachines, seal_to: str
) -> None:
    """As Gramine asks for keys: at present versions. The processor itself would also make those of lower ones."""
    machine = machines("one", seal_to=seal_to, isv_svn=2)
    machine.start().stop()
    told, first = doctor(machine), machine.stand.state.enclave
    for name, (kind, change, opens, says) in NEXT.items():
        change(machine)
        found = why_not(machine)
        assert (found == "") == opens[seal_to], (name, found)
        assert opens[seal_to] or re.search(says, found), (name, found)
        if kind is not None:
            assert told.change(kind)[0] == opens[seal_to], name
        machine.stand.change(enclave=first)
        machine.update_microcode(UPDATED)
    assert why_not(machine) == ""


def test_an_image_that_seals_otherwise_does_not_open_what_lies_there(machines: SgxMachines) -> None:
    machine = machines("one")
    machine.start().stop()
    machine.seal_to = "mrenclave"
    rebuild(machine, former_signers=[], seal_to="mrenclave")
    said = why_not(machine)
    assert "it was sealed to mrsigner, this instance seals to mrenclave" in said
    assert "was absent" not in said
    told = doctor(machine)
    assert (told.status, told.of("sealed to")["state"]) == (CORRUPT, "warning")


# A new signing key


def test_a_new_signer_takes_over_once_the_policy_names_both_and_then_the_old_one_is_dropped(
    machines: SgxMachines,
) -> None:
    old = alone(machines)
    domain, before = domain_of(old), values(old)
    assert doctor(old).change(SIGNER) == (False, "it names no other MRSIGNER", [])
    new = machines("new", beside=old, mrenclave=SECOND, mrsigner=NEW_SIGNER)

    assert new.run("-i", old.address, "--once", "--wait", "0").status == REFUSED
    assert reasons(new)[-1] == "refused-by-peer", "the policy does not name it"
    added = change_policy(old, with_rule("mrsigner", [FIRST.mrsigner, NEW_SIGNER]))
    assert added["generation"] is None
    assert doctor(old).change(SIGNER) == (False, "", [THE_IMAGE])
    assert new.run("-i", old.address, "--once", "--wait", "0").status == REFUSED
    assert reasons(new)[-1] == "wrong-signer", "nor has it any reason to believe images of another signer"
    assert not new.keystore.exists()

    rebuild(new, former_signers=[FIRST.mrsigner])
    new.start("-i", old.address, "--domain", domain)
    old.started[-1].stop()
    record = old.record
    new.started[-1].stop()
    new.start()
    promote(new)
    assert values(new) == before
    dropped = change_policy(new, with_rule("mrsigner", [NEW_SIGNER]))
    assert dropped["generation"] in values(new)
    assert before.items() < values(new).items()
    old.start("-i", new.address)
    until_refused(new, "wrong-signer")
    assert (old.record, values(old), domain_of(old)) == (record, before, domain)


# A microcode update


def test_after_a_microcode_update_the_key_comes_back_from_a_peer(machines: SgxMachines) -> None:
    host, backup = with_backup(machines)
    before, record = values(backup), backup.record
    backup.started[-1].stop()
    told = doctor(backup, host)
    assert (told.status, told.ways) == (0, [f"peer {host.address}"])
    assert told.change(MICROCODE) == (False, "", told.ways)

    backup.update_microcode(bytes([9]) + bytes(15))
    ended = backup.run()
    assert ended.status == CORRUPT
    assert re.search(r"cpu_svn was 07\w+, is 09", ended.err)
    assert backup.record == record
    told = doctor(backup, host)
    assert (told.status, told.ways) == (CORRUPT, [f"peer {host.address}"])
    backup.start("-i", host.address)
    assert values(backup) == before == values(host)
    assert [path.read_bytes() for path in backup.kept()] == [record]


def test_alone_it_says_do_not_update_yet_and_nothing_but_undoing_it_helps(machines: SgxMachines) -> None:
    machine = alone(machines)
    beside = machines("beside", beside=machine)
    beside.start("-i", machine.address)
    machine.started[-1].stop()
    told = doctor(machine, beside)
    assert (told.status, told.ways) == (NO_WAY_BACK, []), "what is on this machine goes with it"
    assert told.of("ways back")["advice"].startswith("Do not update yet.")
    assert told.change(MICROCODE) == (False, "", [])

    beside.started[-1].stop()
    record = machine.record
    machine.update_microcode(bytes([9]) + bytes(15))
    for one in (machine, beside):
        assert one.run().status == CORRUPT
    assert machine.run("-i", beside.address, "--wait", "0").status != 0
    assert doctor(machine, beside).ways == []
    assert machine.record == record
    machine.update_microcode(UPDATED)
    machine.start()
    assert values(machine) == values(beside)


def test_after_a_microcode_update_of_the_only_machine_its_recipients_bring_it_back(machines: SgxMachines) -> None:
    recipient = age()
    machine = alone(machines, recovery=recovery_table(1, [recipient]))
    domain, before, record = domain_of(machine), values(machine), machine.record
    told = doctor(machine)
    assert (told.status, told.ways) == (0, ["1 of 1 recovery recipients"])
    machine.started[-1].stop()
    machine.update_microcode(bytes([9]) + bytes(15))
    assert machine.run().status == CORRUPT
    assert machine.record == record
    recover(machine, domain, recipient)
    assert values(machine) == before
    assert record in [path.read_bytes() for path in machine.kept()]


def test_a_machine_that_is_out_of_date_joins_as_the_policy_says_and_always_once_it_is_updated(
    machines: SgxMachines,
) -> None:
    host, backup = with_backup(machines)
    before = values(backup)
    backup.started[-1].stop()
    backup.update_microcode(cpu_svn("OutOfDate"))
    assert backup.run("-i", host.address, "--once", "--wait", "0").status == REFUSED
    assert "tcb-status" in reasons(host)
    lenient = with_rule("tcb_statuses", ["UpToDate", "SWHardeningNeeded", "OutOfDate"])
    change_policy(host, lambda text: with_rule("out_of_date_grace_days", 3650)(lenient(text)))
    assert backup.run("-i", host.address, "--once").status == 0
    assert doctor(backup, host).ways == [f"peer {host.address}"]

    backup.update_microcode(UPDATED)
    told = doctor(backup, host)
    assert (told.status, told.ways) == (CORRUPT, [f"peer {host.address}"])
    backup.start("-i", host.address)
    assert values(backup) == before


# What is around it


def test_a_domain_that_nobody_has_signed_is_joined_by_nobody(machines: SgxMachines) -> None:
    host = machines("host")
    host.start()
    told = doctor(host).of("admins")
    assert told["state"] == "warning"
    assert "never signed by admins" in told["found"]
    beside, elsewhere = machines("beside", beside=host), machines("elsewhere")
    for one in (beside, elsewhere):
        assert one.run("-i", host.address, "--once", "--wait", "0").status == REFUSED
        assert one.kept() == []
        assert not one.keystore.exists()
    applied = change_policy(host, signed_as_it_is)
    assert applied["change"] == 1, applied
    assert beside.run("-i", host.address, "--once").status == 0
    assert elsewhere.run("-i", host.address, "--once", "--wait", "0").status == REFUSED


def test_without_collateral_it_says_that_nobody_would_believe_it(machines: SgxMachines) -> None:
    machine = alone(machines)
    machine.started[-1].stop()
    machine.collateral.unlink()
    told = doctor(machine)
    assert (told.of("accepted")["state"], told.of("collateral")["state"]) == ("unknown", "warning")
    assert told.of("collateral")["found"].startswith("none is held for ")
    assert told.change(LATER) == (False, "", [])
    machine.collateral.write_bytes(b"junk")
    assert "cannot be used" in doctor(machine).of("collateral")["found"]
    assert machine.collateral.read_bytes() == b"junk"


def test_inspect_and_status_show_what_a_record_s_key_depends_on(machines: SgxMachines) -> None:
    machine = alone(machines)
    shown = machine.command("inspect", str(machine.keystore)).out
    assert "slot 1       platform sgx, key mrsigner\n" in shown
    for line in ("isv_svn    1", "isv_prod_id 1", f"mrsigner   {FIRST.mrsigner}", f"cpu_svn    {UPDATED.hex()}"):
        assert f"  {line}\n" in shown
    said = machine.command("status", "--ops", machine.ops).out
    assert f"slot         sgx, key mrsigner at config_svn 0, cpu_svn {UPDATED.hex()}, isv_prod_id 1, isv_svn 1" in said
