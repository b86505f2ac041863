"""Server processes over the stand-in: that they are the ones meant, and what a test can do to their machines."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.fakes.admins import key
from tests.fakes.processes import Ended, Running, key_proof, rkeyserver
from tests.sgx.machines import IMAGE, SgxMachine, SgxMachines
from tests.sgx.state import FAILS, Enclave

from rkeyserver.errors import EXIT_STATUS, Corrupt, Misuse, Rejected, Unavailable
from rkeyserver.platforms.simulated.tcb import cpu_svn

REFUSED, UNAVAILABLE, CORRUPT, MISUSE = (EXIT_STATUS[kind] for kind in (Rejected, Unavailable, Corrupt, Misuse))
NEXT: Final = Enclave(mrenclave="5e" * 32, mrsigner=IMAGE.mrsigner, isv_svn=2)


def seccomp_of(running: Running) -> str:
    lines = Path(f"/proc/{running.pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith("Seccomp:"))


def test_an_instance_runs_as_inside_and_says_what_it_is(sgx_machines: SgxMachines) -> None:
    machine = sgx_machines("machine")
    running = machine.start()
    status = machine.status()
    assert (status["platform"], status["machine"], status["simulated"]) == ("sgx", machine.ppid, False)
    assert [(one["platform"], one["policy"]) for one in status["slots"]] == [("sgx", "mrsigner")]
    assert status["collateral"]["held"][0]["source"] == "a test"
    assert (seccomp_of(running), running.children()) == ("2", [])
    running.stop()
    assert not machine.audit()[0].get("reason")


def test_the_program_itself_believes_in_no_stand_in(sgx_machines: SgxMachines) -> None:
    machine = sgx_machines("machine")
    machine.stand.ready()
    ended = rkeyserver(*machine.words(), cwd=machine.folder)
    assert (ended.status, ended.out) == (MISUSE, "")
    assert "no /dev/attestation: this process is in no SGX enclave" in ended.err


def test_closed_is_what_it_is_by_default(sgx_machines: SgxMachines) -> None:
    """The host's word does not count, and a domain that its admins have not signed for is believed by nobody else."""
    host, other = sgx_machines("host"), sgx_machines("other")
    policy = host.folder / "policy.toml"
    policy.write_text(host.new_policy().text)
    ended = host.run("--policy", str(policy))
    assert ended.status == MISUSE
    assert "--policy is a host's word on what to accept" in ended.err
    host.start()
    refused = other.run("-i", host.address, "--once", "--wait", "0")
    assert (refused.status, other.keystore.exists()) == (REFUSED, False)


def test_two_images_on_one_chip(machines: SgxMachines) -> None:
    old = machines("old")
    new = machines("new", beside=old, mrenclave=NEXT.mrenclave, isv_svn=NEXT.isv_svn)
    assert (old.ppid, old.platform().mrenclave) == (new.ppid, IMAGE.mrenclave)
    assert (new.platform().mrenclave, new.platform().isv_svn) == (NEXT.mrenclave, 2)
    old.start()
    new.start("-i", old.address)
    assert key_proof(new) == key_proof(old)


CHANGES: dict[str, tuple[dict[str, object], bytes]] = {
    "the version": ({"isv_svn": 2}, cpu_svn("UpToDate")),
    "the signer": ({"mrsigner": "5f" * 32}, cpu_svn("UpToDate")),
    "the microcode": ({}, cpu_svn("SWHardeningNeeded")),
}


@pytest.mark.parametrize(("image", "microcode"), CHANGES.values(), ids=CHANGES)
def test_a_record_does_not_open_after_a_change_of(
    machines: SgxMachines, image: dict[str, object], microcode: bytes
) -> None:
    machine = machines("machine")
    machine.start().stop()
    before = machine.record
    machine.load(**image)
    machine.update_microcode(microcode)
    assert (machine.run().status, machine.record) == (CORRUPT, before)
    machine.load(**{name: getattr(IMAGE, name) for name in image})
    machine.update_microcode(cpu_svn("UpToDate"))
    machine.start()
    assert machine.record == before


@pytest.mark.parametrize("name", ["quote", "report", "keys/_sgx_mrsigner"])
def test_a_machine_that_gives_nothing_mints_nothing(machines: SgxMachines, name: str) -> None:
    machine = machines("machine")
    machine.fault(name, FAILS)
    ended = machine.run()
    assert (ended.status, machine.keystore.exists()) == (UNAVAILABLE, False)
    assert f"{name} gives nothing now: Permission denied" in ended.err


def test_a_machine_is_mended(machines: SgxMachines) -> None:
    machine = machines("machine")
    machine.fault("quote", FAILS)
    assert machine.run().status == UNAVAILABLE
    machine.mend()
    machine.start()


def test_a_host_that_lies_is_noticed(machines: SgxMachines) -> None:
    machine = machines("machine")
    machine.stand.change(quoted=Enclave(mrenclave="aa" * 32, mrsigner=IMAGE.mrsigner))
    ended = machine.run()
    assert (ended.status, machine.keystore.exists()) == (CORRUPT, False)
    assert "The quote is of another enclave than this one" in ended.err


def test_a_command_runs_on_the_machine(sgx_machines: SgxMachines) -> None:
    machine: SgxMachine = sgx_machines("machine", seal_to="mrenclave")
    said = machine.command("identity", "--platform", "sgx")
    assert (said.status, said.out) == (0, f"sgx {machine.ppid}\n")
    machine.start()
    assert machine.status()["slots"][0]["policy"] == "mrenclave"


def done(ended: Ended) -> str:
    assert ended.status == 0, ended.err
    return ended.err


def test_from_the_first_start_to_a_second_machine(sgx_machines: SgxMachines, tmp_path: Path) -> None:
    """The statement goes to an admin with the proposal; he notes the id, and goes by that from then on."""
    host, other = sgx_machines("host"), sgx_machines("other")
    admin, change, minted = tmp_path / "ada", tmp_path / "change.json", host.folder / "rkey.bin.minted"
    admin.write_bytes(key("ada").private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    assert not minted.exists()
    host.start()
    domain = host.status()["domain"]
    done(host.command("policy", "propose", "--ops", host.ops, "-o", str(change)))
    signing = ("policy", "sign", str(change), "--key", str(admin), "-o", str(change))
    refused = host.command(*signing)
    assert (refused.status, f"Nothing but the host says that {domain}" in refused.err) == (MISUSE, True)
    told = done(host.command(*signing, "--minted", str(minted)))
    assert f"Domain {domain} was made at" in told
    assert f"by sgx {host.ppid}: genuine" in told
    done(host.command("policy", "apply", str(change), "--ops", host.ops))

    admit = ("policy", "admit", f"sgx {other.ppid}", "--key", str(admin), "--ops", host.ops)
    assert host.command(*admit).status == MISUSE
    assert host.command(*admit, "--domain", "00" * 16).status == REFUSED
    done(host.command(*admit, "--domain", domain))
    other.start("-i", host.address, "--domain", domain)
    assert key_proof(other) == key_proof(host)
    assert not (other.folder / "rkey.bin.minted").exists()

    # Of another machine that makes a domain nobody takes the statement for this one.
    foreign = sgx_machines("foreign")
    foreign.start()
    done(host.command("policy", "propose", "--ops", host.ops, "-o", str(change)))
    refused = host.command(*signing, "--minted", str(foreign.folder / "rkey.bin.minted"))
    assert (refused.status, "Sign nothing." in refused.err) == (REFUSED, True)
    # Nor is the stand-in's root the one of the program itself.
    real = rkeyserver(*signing, "--minted", str(minted), cwd=tmp_path)
    assert (real.status, "genuine" in real.err) == (REFUSED, True)


@pytest.mark.parametrize("what", ["folder", "quote"])
def test_a_host_that_takes_no_statement_gets_no_domain(sgx_machines: SgxMachines, what: str) -> None:
    machine = sgx_machines("machine")
    if what == "quote":
        machine.fault("quote", FAILS)
    else:
        (machine.folder / "rkey.bin.minted").mkdir()
    assert (machine.run().status, machine.keystore.exists()) == (UNAVAILABLE, False)
