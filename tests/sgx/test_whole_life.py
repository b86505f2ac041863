"""A domain of enclaves from its first key to the loss of the machine that made it, by what is measured into the image.

Nothing here is judged as on `simulated`: the default policy is closed, the host says neither policy nor admins, and
whoever joins was named by a change that the measured admins signed.
"""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.fakes.admins import admins, key
from tests.fakes.processes import DEADLINE, Ended, Running, finished, key_proof, opened, rkeyserver
from tests.fakes.recipients import Recipient, age, recovery_table
from tests.sgx.changing import promote
from tests.sgx.machines import SgxMachine, SgxMachines, sgx_machines_in

from rkeyserver.appraisal.policy import parse_policy
from rkeyserver.errors import EXIT_STATUS, Misuse, Rejected
from rkeyserver.sealing.record import parse

REFUSED, MISUSE = EXIT_STATUS[Rejected], EXIT_STATUS[Misuse]


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[SgxMachines]:
    with sgx_machines_in(tmp_path) as made:
        yield made


def key_file(machine: SgxMachine, name: str) -> str:
    """An admin's private key."""
    path = machine.folder / f"{name}.key"
    path.write_bytes(key(name).private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    return str(path)


def signing(at: SgxMachine, name: str) -> list[str]:
    """The words of an admin who has noted the id of the domain that a machine serves."""
    return ["--key", key_file(at, name), "--domain", at.status()["domain"]]


def told(machine: SgxMachine, action: str, *words: str) -> Ended:
    """`rkeyserver policy` of the instance on a machine: an ordinary program on its host."""
    return rkeyserver("policy", action, "--ops", machine.ops, *words, cwd=machine.folder)


def done(ended: Ended) -> str:
    assert ended.status == 0, ended
    return ended.out


def admit(at: SgxMachine, machine: SgxMachine) -> str:
    return done(told(at, "admit", f"sgx {machine.ppid}", *signing(at, "ada")))


def named(machine: SgxMachine) -> object:
    """The machines that the policy in a machine's record names."""
    with closing(opened(machine)) as keyring:
        return parse_policy(keyring.header.policy).tables["sgx"].machines


def generations(machine: SgxMachine) -> list[str]:
    return [one["id"] for one in machine.status()["generations"]]


def until(found: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE
    while not found():
        assert time.monotonic() < end, f"{what}: not in time"
        time.sleep(0.1)


def test_a_domain_from_its_first_key_to_the_loss_of_the_machine_that_made_it(closed: SgxMachines) -> None:
    first, second, third = closed("first"), closed("second"), closed("third")
    primary = first.start()
    domain = first.status()["domain"]
    assert named(first) == [first.ppid]

    # Refused, with the line that enrols it; an admin signs, and it has the key.
    waiting = second.begin("-i", first.address, "--wait", "60")
    waiting.err.wait_for(f"This machine is: sgx {second.ppid} ")
    primary.err.wait_for(rf"Refused .*machine-not-named\. .*sgx {second.ppid}")
    assert not second.keystore.exists()
    assert f"sgx {second.ppid}\n" == done(second.command("identity", *second.platform_words()))
    admit(first, second)
    waiting.ready()
    assert key_proof(second) == key_proof(first)
    assert named(second) == [first.ppid, second.ppid]

    # The one that made it dies. The other serves, and is made the primary by whoever runs it.
    assert primary.kill().status == -signal.SIGKILL
    assert second.status()["domain"] == domain
    refused = told(second, "admit", f"sgx {third.ppid}", *signing(second, "ada"))
    assert refused.status == MISUSE
    assert "is a standby" in refused.err
    waiting.stop()
    second.start()
    promote(second)
    admit(second, third)
    follower = third.start("-i", second.address, "--domain", domain)
    assert key_proof(third) == key_proof(second)

    # The dead one is taken off, and with that comes a new key, which only the others have.
    (old,) = generations(second)
    said = done(told(second, "remove", f"sgx {first.ppid}", *signing(second, "ada")))
    new = generations(second)[1]
    assert f"A generation was added: {new}." in said
    until(lambda: generations(third) == [old, new], "the standby has the new generation")
    assert named(third) == [second.ppid, third.ppid]

    # Everything is started again, from the records. Who was taken off has what it had, and gets no more.
    follower.stop()
    second.started[-1].stop()
    second.start()
    third.start("-i", second.address)
    assert generations(second) == generations(third) == [old, new]
    assert key_proof(second) == key_proof(third)
    ended = first.run("-i", second.address, "--once", "--wait", "0")
    assert ended.status == REFUSED
    assert f"This machine is: sgx {first.ppid} " in ended.err
    with closing(opened(first)) as keyring:
        assert keyring.generation_ids == (old,)


def test_nobody_but_the_measured_admins_lets_a_machine_in(closed: SgxMachines) -> None:
    host, new = closed("host"), closed("new")
    host.start()
    before = host.record
    ended = told(host, "admit", f"sgx {new.ppid}", *signing(host, "mallory"))
    assert ended.status != 0
    assert told(host, "admit", f"sgx {new.ppid}").status == REFUSED, "the owner of the host is nobody here"
    rotate = ("rotate", "--ops", host.ops)
    assert rkeyserver(*rotate, cwd=host.folder).status == REFUSED, "as little for a new key"
    assert rkeyserver(*rotate, "--key", key_file(host, "mallory"), cwd=host.folder).status == REFUSED
    assert (host.record, new.run("-i", host.address, "--once", "--wait", "0").status) == (before, REFUSED)
    assert not new.keystore.exists()
    (old,) = generations(host)
    said = done(rkeyserver(*rotate, "--key", key_file(host, "ada"), cwd=host.folder))
    assert generations(host)[0] == old
    assert f"Generation {generations(host)[1]} is current." in said


def test_an_image_of_other_admins_takes_no_key_of_theirs(closed: SgxMachines) -> None:
    """The host chose the image; what it would have to believe, the admins that are in it did not sign."""
    host, other = closed("host"), closed("other", admins=admins(1, ["mallory"]))
    host.start()
    admit(host, other)
    ended = other.run("-i", host.address, "--once", "--wait", "0")
    assert (ended.status, other.keystore.exists()) == (REFUSED, False)
    assert "is not signed by 1 of the 1 admins" in ended.err


def test_two_of_three_measured_admins_sign_in_files(closed: SgxMachines) -> None:
    three = admins(2, ["ada", "bob", "cleo"])
    host, new = closed("host", admins=three), closed("new", admins=three)
    host.start()
    change = str(host.folder / "change.json")
    words = (f"sgx {new.ppid}", *signing(host, "ada"), "-o", change)
    assert told(host, "admit", *words).status == REFUSED
    assert told(host, "apply", change).status == REFUSED
    assert new.run("-i", host.address, "--once", "--wait", "0").status == REFUSED
    signed = rkeyserver(*("policy", "sign", change, *signing(host, "cleo"), "-o", change), cwd=host.folder)
    assert signed.status == 0, signed
    assert done(told(host, "apply", change)).startswith("Change 1 ")
    assert new.run("-i", host.address, "--once").status == 0
    assert key_proof(new) == key_proof(host)


def test_what_is_measured_is_the_first_policy(closed: SgxMachines) -> None:
    host = closed("host", seal_to="mrenclave", recovery=recovery_table(1, [age(), age()]))
    host.start()
    with closing(opened(host)) as keyring:
        policy = parse_policy(keyring.header.policy)
    assert policy.admins == host.admins
    assert policy.recovery is not None
    assert policy.recovery.threshold == 1
    assert set(policy.tables) == {"sgx"}
    assert host.status()["ways_back"] == {"record": 1, "hosts": 0, "recovery": 1}
    assert parse(host.record).header.slot.policy == "mrenclave"


@dataclass(frozen=True)
class Office:
    """Where the people sit who bring a domain back: recipients, each with his key, and one admin."""

    folder: Path
    domain: str
    recipients: list[Recipient]

    def __post_init__(self) -> None:
        self.folder.mkdir()
        for number, one in enumerate(self.recipients):
            (self.folder / f"{number}.key").write_bytes(one.file)

    def contribute(self, running: Running, to: SgxMachine, policy: str) -> None:
        """Give a machine every share, as soon as it asks."""
        (self.folder / "own.toml").write_text(re.sub(r"machines = \[[^\]]*\]", f'machines = ["{to.ppid}"]', policy))
        running.out.wait_for("-----END RKEYSERVER RECOVERY REQUEST-----")
        for number in range(len(self.recipients)):
            given = ("--identity", f"{number}.key", "--policy", "own.toml", "--domain", self.domain, "-i", to.address)
            command = [*to.program(), "recovery", "contribute", *given]
            done(finished(command, cwd=self.folder, env=to.environment()))

    def amend(self, printed: str, *words: str) -> str:
        """What an instance printed last, made a change: its path."""
        (self.folder / "printed.json").write_text(printed.splitlines()[-1] + "\n")
        path = self.folder / "change.json"
        path.write_text(done(rkeyserver("recovery", "amend", "printed.json", *words, cwd=self.folder)))
        return str(path)


def recovered(machine: SgxMachine, office: Office, policy: str, *admit: str) -> None:
    """Bring a domain back whose first policy nobody has signed: its admin does now."""
    recover, copy = ("--recover", "--domain", office.domain), machine.record
    asking = machine.begin(*recover)
    office.contribute(asking, machine, policy)
    refused = asking.wait()
    assert (refused.status, machine.record) == (REFUSED, copy)
    assert "was never signed by admins" in refused.err
    if admit:
        asking = machine.begin(*recover, "--change", office.amend(refused.out, *admit))
        office.contribute(asking, machine, policy)
        assert (asking.wait().status, machine.record) == (REFUSED, copy), "nobody signed that"
    change = office.amend(refused.out, *admit, "--key", key_file(machine, "ada"), "--domain", office.domain)
    asking = machine.begin(*recover, "--change", change)
    office.contribute(asking, machine, policy)
    asking.err.wait_for("Serving as primary")


def test_measured_recipients_and_admins_bring_a_domain_back(closed: SgxMachines) -> None:
    people = [age(), age()]
    first, new = (closed(name, recovery=recovery_table(2, people)) for name in ("first", "new"))
    running = first.start()
    office = Office(first.folder.with_name("people"), first.status()["domain"], people)
    policy, proof, copy = done(told(first, "show")), key_proof(first), first.record

    # On the machine that made it, which does not open its own record after an update of microcode.
    running.stop()
    first.update_microcode(bytes([8] * 16))
    recovered(first, office, policy)
    assert (key_proof(first), named(first)) == (proof, [first.ppid])

    # And on another, when that one is lost before anybody was let in.
    first.started[-1].kill()
    new.keystore.write_bytes(copy)
    new.keystore.chmod(0o600)
    recovered(new, office, policy, "--admit", f"sgx {new.ppid}")
    assert (key_proof(new), named(new)) == (proof, [first.ppid, new.ppid])


SAID = {
    "a policy": ["--policy", "policy.toml"],
    "admins": ["--admins", "admins.toml"],
    "a socket": ["--socket", "socket"],
}


@pytest.mark.parametrize("words", SAID.values(), ids=SAID)
def test_the_host_says_nothing_of_who_decides(closed: SgxMachines, words: list[str]) -> None:
    host = closed("host")
    (host.folder / "admins.toml").write_text(f"[admins]\nthreshold = 1\nkeys = {json.dumps(admins(1, ['eve']).keys)}\n")
    (host.folder / "policy.toml").write_text("version = 1\n")
    ended = host.run(*words)
    assert (ended.status, host.keystore.exists()) == (MISUSE, False)
    assert re.search(rf"{words[0]}\b", ended.err)
