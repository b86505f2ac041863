"""Every machine is lost, with real processes: what is left is a record, and the keys of its recipients."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from shamir_mnemonic import Share  # type: ignore[import-untyped]
from tests.attacks.test_left_in_memory import scan as scan_values
from tests.fakes.processes import (
    DEADLINE,
    Ended,
    Machine,
    Machines,
    Running,
    finished,
    key_proof,
    rkeyserver,
)
from tests.fakes.recipients import Recipient, age, recovery_table, ssh_ed25519, ssh_rsa
from tests.fakes.signing import admins_table, key_file
from tests.integration.test_no_key_in_output import readable, scan, under

from rkeyserver.address import Address
from rkeyserver.errors import EXIT_STATUS, Corrupt, Misuse, Reason, Rejected, Unavailable
from rkeyserver.exchange.armour import Kind, armour
from rkeyserver.sealing.record import parse
from rkeyserver.sealing.recovery import RecoverySlot, share_set_of
from rkeyserver.sealing.shares import combine_shares, read_share
from rkeyserver.service.contribute import fetch_request, post_contribution

REFUSED, UNAVAILABLE, CORRUPT, MISUSE = (EXIT_STATUS[kind] for kind in (Rejected, Unavailable, Corrupt, Misuse))


@dataclass
class People:
    """The recipients, each with a folder in which lie his private key and his policy.

    office: a machine like those of the domain, at which they sit: it knows whose evidence is genuine.
    """

    folder: Path
    recipients: list[Recipient]
    office: Machine

    def __post_init__(self) -> None:
        self.folder.mkdir()
        for number, one in enumerate(self.recipients):
            (self.folder / f"{number}.key").write_bytes(one.file)

    def key(self, number: int) -> str:
        return str(self.folder / f"{number}.key")

    def file(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def run(self, *words: str) -> Ended:
        office = self.office
        return finished([*office.program(), "recovery", *words], cwd=self.folder, env=office.environment())

    def contribute(self, number: int, policy: str, domain: str, *words: str) -> Ended:
        return self.run("contribute", "--identity", self.key(number), "--policy", policy, "--domain", domain, *words)


@pytest.fixture
def people(tmp_path: Path, machines: Machines) -> People:
    return People(tmp_path / "people", [age(), ssh_ed25519(), ssh_rsa()], machines("office"))


def policy_of(machine: Machine) -> str:
    """The default."""
    return machine.new_policy().text


def slot_of(data: bytes) -> RecoverySlot:
    slot = parse(data).header.recovery
    assert slot is not None
    return slot


def lose(*machines: Machine) -> None:
    for machine in machines:
        for running in machine.started:
            if running.process.poll() is None:
                running.kill()
        shutil.rmtree(machine.folder)


def recovering(machine: Machine, domain: str, *words: str) -> Running:
    """Start it, and wait until it asks for shares."""
    running = machine.begin("--recover", "--domain", domain, *words, under=under())
    running.out.wait_for("-----END RKEYSERVER RECOVERY REQUEST-----")
    return running


def serving(running: Running) -> None:
    running.err.wait_for("Serving as primary")


def secrets_of(data: bytes, recipients: list[Recipient]) -> dict[str, bytes]:
    """What leads to the keys in a record beside them: the recovery secret, and every share in each of its forms."""
    slot = slot_of(data)
    shares = [one.opens(share.sealed) for one, share in zip(recipients, slot.shares, strict=True)]
    found = {"recovery secret": combine_shares(shares[: slot.threshold], share_set_of(slot, parse(data).header.domain))}
    for index, share in enumerate(shares):
        words = read_share(share).mnemonic
        found[f"share {index}"] = bytes(Share.from_mnemonic(words).value)
        # By parts, since what is left of freed memory is seldom whole. The first words tell set and index, no secret.
        for start in range(60, 200, 40):
            found[f"words {start} of share {index}"] = words[start : start + 24].encode()
    return found


def scanned(machine: Machine, running: Running, values: dict[str, bytes]) -> None:
    """Nothing of its keys, and none of these values, is in the memory of a server."""
    done = scan(machine, processes=[running.pid])
    assert done["found"] == readable(machine, running.pid)
    if machine.platform_name == "sgx":
        return  # shares are made in this very process there, whose memory is hidden: test_shares_left_in_memory.py
    seen = values | {"domain": machine.status()["domain"].encode()}
    names = {name for _where, name in scan_values(running.pid, seen, [])["found"]}
    assert names == {"domain", "domain, first half", "domain, second half"}, "that the domain's id is there, is right"


@pytest.mark.sgx_too
def test_a_domain_comes_back_from_its_shares_and_a_record(machines: Machines, people: People) -> None:
    first, second, new = machines("first"), machines("second"), machines("new")
    policy = people.file("domain.toml", policy_of(first) + recovery_table(2, people.recipients))
    host = first.start("--policy", policy, under=under())
    domain = first.status()["domain"]
    assert first.status()["ways_back"] == {"record": 1, "hosts": 0, "recovery": 1}
    second.start("-i", first.address)
    proof = key_proof(first)
    assert slot_of(first.record).set != slot_of(second.record).set
    scanned(first, host, secrets_of(first.record, people.recipients))

    copy = second.record
    lose(first, second)
    new.keystore.write_bytes(copy)
    new.keystore.chmod(0o600)
    own = people.file("own.toml", policy_of(new))

    running = recovering(new, domain)
    assert new.status()["domain"] is None
    assert new.status()["recovering"] == {"shares": 0, "threshold": 2}
    given = people.contribute(1, own, domain, "-i", new.address)
    assert given.status == 0, given.err
    assert "it has 1 of 2 shares" in given.out
    assert re.search(r"^request +made .*, \d+ seconds ago$", given.err, re.MULTILINE)
    assert "WARNING: your policy accepts any machine." in given.err
    request = people.file("request", running.out.text)
    by_hand = people.contribute(2, own, domain, request)
    assert by_hand.status == 0, by_hand.err
    answer = httpx.post(f"http://{new.address}/v1/recovery", content=by_hand.out.encode(), trust_env=False)
    assert answer.json() == {"shares": 2, "threshold": 2}
    serving(running)

    assert new.status()["role"] == "primary"
    assert new.status()["domain"] == domain
    assert key_proof(new) == proof
    assert [line["event"] for line in new.audit()] == ["contribution", "contribution", "recover"]
    assert [path.read_bytes() for path in new.kept()] == [copy]
    values = secrets_of(copy, people.recipients)
    values |= {f"new {name}": value for name, value in secrets_of(new.record, people.recipients).items()}
    scanned(new, running, values)

    third = machines("third")
    third.start("-i", new.address, "--domain", domain)
    assert key_proof(third) == proof
    running.stop()
    again = new.start()
    assert again.out.text == ""
    assert key_proof(new) == proof


def only(machine: Machine) -> str:
    own = machine.platform().attester_identity().machine
    return policy_of(machine).replace('machines = "any"', f'machines = ["{own}"]')


def admitted(people: People, printed: str, *words: str) -> Ended:
    change = people.file("printed", printed.splitlines()[-1] + "\n")
    return people.run("amend", change, *words)


def test_a_machine_that_the_domain_did_not_know_is_admitted_first(machines: Machines, people: People) -> None:
    first, new = machines("first"), machines("new")
    named = only(first)
    # Without admins the owner admits it: on sgx nobody is the owner.
    admins, key = ("", []) if first.platform_name == "simulated" else (admins_table(["alice"]), ["--key", "alice.key"])
    policy = people.file("domain.toml", named + admins + recovery_table(1, people.recipients))
    first.start("--policy", policy)
    domain, proof, copy = first.status()["domain"], key_proof(first), first.record
    lose(first)
    new.keystore.write_bytes(copy)
    running = recovering(new, domain)
    line = f"{new.platform_name} {new.status()['machine']}"

    stranger = people.contribute(0, people.file("old.toml", named), domain, "-i", new.address)
    assert stranger.status == REFUSED
    assert line in stranger.err
    assert new.status()["recovering"] == {"shares": 0, "threshold": 1}

    own = people.file("own.toml", policy_of(new))
    assert people.contribute(0, own, domain, "-i", new.address).status == 0
    ended = running.wait()
    assert ended.status == REFUSED
    assert "the domain's policy does not accept this machine" in ended.err
    assert new.record == copy

    key_file(people.folder, "alice")
    change = admitted(people, ended.out, "--admit", line, "--domain", domain, *key)
    assert change.status == 0, change.err
    running = recovering(new, domain, "--change", people.file("change", change.out))
    assert people.contribute(2, own, domain, "-i", new.address).status == 0
    serving(running)
    assert key_proof(new) == proof
    assert new.audit()[-1]["found"].endswith("with policy change 1")


@dataclass
class Left:
    """A record that is left of a domain, and what its recipients need."""

    machine: Machine
    domain: str
    record: bytes
    policy: str


@pytest.fixture
def left(machines: Machines, people: People) -> Left:
    """Of a domain whose machine is lost, on a new machine."""
    first, new = machines("first"), machines("new")
    text = policy_of(first)
    first.start("--policy", people.file("domain.toml", text + recovery_table(2, people.recipients))).stop()
    copy = first.record
    domain = parse(copy).header.domain
    lose(first)
    new.keystore.write_bytes(copy)
    return Left(new, domain, copy, people.file("own.toml", text))


def test_what_a_recipient_sees_of_a_record(left: Left, people: People) -> None:
    record = str(left.machine.keystore)
    shown = people.run("show", record)
    assert shown.status == 0
    assert "threshold    2 of 3: so many of them together hold the root key" in shown.out
    assert people.recipients[0].public in shown.out
    for number in range(3):
        drill = people.run("verify", "--identity", people.key(number), record)
        assert drill.status == 0, drill.err
        assert "is readable, whole, and of this record" in drill.out
        words = read_share(people.recipients[number].opens(slot_of(left.record).shares[number].sealed)).mnemonic
        assert words.split()[10] + " " + words.split()[11] not in drill.out + drill.err
    stranger = people.file("stranger.key", age().file.decode())
    refused = people.run("verify", "--identity", stranger, record)
    assert refused.status == REFUSED
    assert "No share here is for this key" in refused.err
    damaged = bytearray(left.record)
    at = damaged.index(b'"digest":"') + len(b'"digest":"')
    damaged[at] = ord("0") if damaged[at] != ord("0") else ord("1")
    left.machine.keystore.write_bytes(damaged)
    broken = people.run("verify", "--identity", people.key(0), record)
    assert broken.status == CORRUPT
    assert "its digest differs" in broken.err


def test_a_domain_without_recovery_says_so(machines: Machines, people: People) -> None:
    machine = machines("machine")
    running = machine.start()
    told = rkeyserver("status", "--ops", machine.ops, cwd=machine.folder)
    assert "No recovery: nobody but its machines can bring the key back." in told.out
    assert machine.status()["ways_back"]["recovery"] == 0
    shown = people.run("show", str(machine.keystore))
    assert "recovery     none" in shown.out
    assert people.run("verify", "--identity", people.key(0), str(machine.keystore)).status == CORRUPT
    running.stop()
    refused = machine.run("--recover", "--domain", "00" * 16, "--keystore", str(machine.folder / "other.bin"))
    assert refused.status == MISUSE
    assert "The keystore is empty" in refused.err


def test_an_instance_that_recovers_nothing_takes_no_share(machines: Machines) -> None:
    machine = machines("machine")
    machine.start()
    for method in ("GET", "POST"):
        answer = httpx.request(method, f"http://{machine.address}/v1/recovery", content=b"x", trust_env=False)
        assert (answer.status_code, answer.json()) == (503, {"error": "unavailable"})
    host = Address(machine.host, machine.port)
    for asked in (fetch_request(host), post_contribution(host, b"x")):
        with pytest.raises(Unavailable, match="asks for no recovery"):
            asyncio.run(asked)


def test_what_strangers_send_to_a_recovering_instance(left: Left, people: People) -> None:
    new = left.machine
    running = recovering(new, left.domain)
    host = Address(new.host, new.port)
    for body, status in ((b"", 403), (b"nonsense", 403), (bytes(20_000), 413)):
        answer = httpx.post(f"http://{new.address}/v1/recovery", content=body, trust_env=False)
        assert (answer.status_code, answer.json()) == (status, {"error": "rejected"})
    assert httpx.post(f"http://{new.address}/v1/hello", content=b"", trust_env=False).status_code == 403
    with pytest.raises(Rejected) as refused:
        asyncio.run(post_contribution(host, b"nonsense"))
    assert refused.value.reason is Reason.REFUSED_BY_PEER
    assert new.status()["refused"]["malformed"] == 4
    assert new.record == left.record
    for number in (0, 1):
        assert people.contribute(number, left.policy, left.domain, "-i", new.address).status == 0
    serving(running)


def test_how_a_recipient_is_refused(left: Left, people: People) -> None:
    new = left.machine
    running = recovering(new, left.domain)
    request = people.file("request", running.out.text)
    stranger = people.file("stranger.key", age().file.decode())
    cases: dict[str, tuple[list[str], int, str]] = {
        "another domain": (["--domain", "00" * 16, request], REFUSED, "--domain names"),
        "no request": (["--domain", left.domain], MISUSE, "which request to answer"),
        "no such request": (["--domain", left.domain, "nowhere"], MISUSE, "cannot be read"),
        "no armour": (["--domain", left.domain, people.file("cut", "-----BEGIN\n")], REFUSED, "no recovery request"),
        "junk": (["--domain", left.domain, people.file("junk", "x")], REFUSED, "recovery-request"),
        "another key": (["--domain", left.domain, "--identity", stranger, request], REFUSED, "for this key"),
        "no key": (["--domain", left.domain, "--identity", request, request], MISUSE, "no identity"),
        "no policy": (["--domain", left.domain, "--policy", request, request], MISUSE, "policy"),
        "no such policy": (["--domain", left.domain, "--policy", "nowhere", request], MISUSE, "cannot be read"),
        "nobody there": (["--domain", left.domain, "-i", "127.0.0.1:1"], UNAVAILABLE, "No answer"),
    }
    for name, (words, status, says) in cases.items():
        ended = people.run("contribute", "--identity", people.key(0), "--policy", left.policy, *words)
        assert (ended.status, ended.out) == (status, ""), (name, ended)
        assert says in ended.err, name
    assert new.status()["recovering"] == {"shares": 0, "threshold": 2}
    assert people.contribute(0, left.policy, left.domain, "-i", new.address).status == 0
    again = people.contribute(0, left.policy, left.domain, "-i", new.address)
    assert again.status == REFUSED
    assert "cannot use what was contributed" in again.err
    running.stop()
    assert new.record == left.record


def test_a_request_from_standard_input(left: Left, people: People) -> None:
    running = recovering(left.machine, left.domain)
    host = Address(left.machine.host, left.machine.port)
    message = asyncio.run(fetch_request(host))
    assert armour(message, Kind.RECOVERY_REQUEST).strip() == running.out.text.strip()
    for form in (message, armour(message, Kind.RECOVERY_REQUEST).encode()):
        ended = _piped(people, form, left)
        assert ended.startswith("-----BEGIN RKEYSERVER RECOVERY CONTRIBUTION-----\n")
    running.stop()


def _piped(people: People, data: bytes, left: Left) -> str:
    done = subprocess.run(
        [
            *people.office.program(),
            *("recovery", "contribute", "-", "--identity", people.key(0)),
            *("--policy", left.policy, "--domain", left.domain),
        ],
        input=data,
        env=people.office.environment(),
        capture_output=True,
        check=True,
        timeout=DEADLINE,
    )
    return done.stdout.decode()


def test_a_recovery_that_is_stopped_changes_nothing(left: Left, people: People) -> None:
    new = left.machine
    running = recovering(new, left.domain)
    assert people.contribute(0, left.policy, left.domain, "-i", new.address).status == 0
    running.stop()
    assert new.record == left.record
    assert new.kept() == []
    running = recovering(new, left.domain)
    assert new.status()["recovering"] == {"shares": 0, "threshold": 2}
    running.stop()
    for ended in (new.run(), new.run("-i", "127.0.0.1:1", "--wait", "0")):
        assert ended.status == CORRUPT
        assert f"--recover --domain {left.domain}" in ended.err
