"""`rkeyserver doctor`, and the ways back that it names, walked."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.keyrings import MEMBER, OWNER
from tests.fakes.machines import set_microcode
from tests.fakes.processes import Ended, Machine, Machines, key_proof, rkeyserver

from rkeyserver.errors import EXIT_STATUS, Corrupt, Misuse, Rejected, Unavailable
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.sealed import seal_keyring

CORRUPT, MISUSE, REJECTED, UNAVAILABLE = (EXIT_STATUS[kind] for kind in (Corrupt, Misuse, Rejected, Unavailable))
UPDATED = bytes([8]).ljust(16, b"\0")
pytestmark = pytest.mark.simulated_only("the doctor changes nothing and hands over nothing")
AGE = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"


def files_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    """All that lies in a folder, and when it was changed last; without what a running instance may write meanwhile."""
    return {
        str(path.relative_to(folder)): (path.read_bytes() if path.is_file() else b"", path.lstat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
    }


@dataclass(frozen=True)
class Examined:
    status: int
    said: dict[str, Any]

    def of(self, topic: str) -> dict[str, str]:
        return next(one for one in self.said["findings"] if one["topic"] == topic)

    @property
    def ways(self) -> list[str]:
        found: list[str] = self.said["ways_back"]
        return found


def words(machine: Machine) -> list[str]:
    return [
        *machine.platform_words(),
        *("--keystore", str(machine.keystore), "--ops", machine.ops),
    ]


def run(machine: Machine, *more: str) -> Ended:
    """The doctor, which has to leave everything as it was."""
    before = files_of(machine.folder)
    ended = machine.command("doctor", *words(machine), *more)
    assert files_of(machine.folder) == before
    return ended


def examine(machine: Machine, *more: str) -> Examined:
    ended = run(machine, "--json", *more)
    assert ended.err == ""
    said = json.loads(ended.out)
    assert said["status"] == ended.status
    return Examined(ended.status, said)


@dataclass(frozen=True)
class Pair:
    host: Machine
    backup: Machine
    domain: str


@pytest.fixture
def pair(machines: Machines) -> Pair:
    """A host that serves, and a backup that has the key and is stopped."""
    host, backup = machines("host"), machines("backup")
    host.start()
    assert backup.run("-i", host.address, "--once").status == 0
    return Pair(host, backup, str(host.status()["domain"]))


def test_in_order_with_a_living_peer(pair: Pair) -> None:
    found = examine(pair.backup, "-i", pair.host.address)
    assert (found.status, found.ways) == (0, [f"peer {pair.host.address}"])
    assert {one["topic"] for one in found.said["findings"] if one["state"] == "bad"} == set()
    assert "(unproved)" in found.of("peer")["found"]
    assert found.of("peer")["found"].startswith(f"{pair.host.address} says that it serves domain {pair.domain}")


def test_for_people(pair: Pair) -> None:
    ended = run(pair.backup, "-i", pair.host.address)
    assert ended.status == 0
    assert ended.out.startswith(f"ok      record: domain {pair.domain}, ")
    assert "\nWARNING machine: simulated " in ended.out
    assert "\n-       instance: none answers: " in ended.out


def test_alone_there_is_no_way_back(pair: Pair) -> None:
    found = examine(pair.backup)
    assert (found.status, found.ways) == (UNAVAILABLE, [])
    assert found.of("ways back")["advice"].startswith("Do not update yet.")


def test_a_peer_that_is_gone_is_no_way_back(pair: Pair) -> None:
    pair.host.started[0].kill()
    found = examine(pair.backup, "-i", pair.host.address)
    assert (found.status, found.ways) == (UNAVAILABLE, [])
    assert "does not answer" in found.of("peer")["found"]


def test_this_very_machine_is_no_way_back_while_its_instance_holds_the_keystore(pair: Pair) -> None:
    found = examine(pair.host, "-i", pair.host.address)
    assert (found.status, found.ways) == (UNAVAILABLE, [])
    assert "this very machine" in found.of("peer")["found"]
    assert found.of("instance") | {"found": ""} == {
        "topic": "instance",
        "state": "good",
        "found": "",
        "advice": "",
    }


def test_the_way_back_from_an_update_of_microcode_is_named_before_and_walked_after(pair: Pair) -> None:
    host, backup = pair.host, pair.backup
    assert examine(backup, "-i", host.address).ways == [f"peer {host.address}"]
    old = backup.record
    set_microcode(backup.processor, UPDATED)
    found = examine(backup, "-i", host.address)
    assert (found.status, found.ways) == (CORRUPT, [f"peer {host.address}"])
    assert "cpu_svn was " in found.of("opens")["found"]
    assert "start with -i HOST" in found.of("opens")["advice"]
    assert backup.run().status == CORRUPT, "as the doctor said"
    backup.start("-i", host.address)
    assert backup.status()["domain"] == pair.domain
    assert key_proof(backup) == key_proof(host)
    assert [path.read_bytes() for path in backup.kept()] == [old]
    again = examine(backup, "-i", host.address)
    assert again.status == 0
    assert again.of("instance")["state"] == "good"
    assert again.of("kept copies")["found"] == backup.kept()[0].name


def test_after_an_update_alone_nothing_brings_it_back_but_undoing_it(pair: Pair) -> None:
    state = pair.backup.processor / "processor.json"
    before = state.read_text()
    set_microcode(pair.backup.processor, UPDATED)
    found = examine(pair.backup)
    assert (found.status, found.ways) == (CORRUPT, [])
    assert found.of("ways back")["state"] == "bad"
    state.write_text(before)
    assert examine(pair.backup).of("opens")["state"] == "good"


def test_an_instance_that_outlives_its_record_is_not_to_be_stopped(pair: Pair) -> None:
    pair.host.keystore.unlink()
    found = examine(pair.host)
    assert found.status == CORRUPT, "its audit file knows of a keyring"
    assert found.of("instance")["advice"].startswith("Do not stop it")
    third = pair.backup
    third.keystore.unlink()
    assert third.run("-i", pair.host.address, "--once", "--domain", pair.domain).status == 0
    assert examine(third).of("opens")["state"] == "good"


def test_a_record_of_another_machine(pair: Pair) -> None:
    pair.backup.keystore.write_bytes(pair.host.record)
    found = examine(pair.backup, "-i", pair.host.address)
    assert found.status == CORRUPT
    assert "It opens only there" in found.of("opens")["found"]
    assert "move the file and all kept copies elsewhere" in found.of("opens")["advice"]


def test_a_damaged_record(pair: Pair) -> None:
    pair.backup.keystore.write_bytes(pair.backup.record[:-1])
    found = examine(pair.backup, "-i", pair.host.address)
    assert (found.status, found.ways) == (CORRUPT, [f"peer {pair.host.address}"])
    assert found.of("record")["state"] == "good", "by its header alone"
    assert found.of("opens")["state"] == "bad"


def test_nothing_at_all_and_nothing_is_made(machines: Machines) -> None:
    machine = machines("new")
    found = examine(machine)
    assert found.status == MISUSE
    assert "no trace of one" in found.of("record")["found"]
    assert "There is no simulated machine" in found.of("machine")["found"]
    machine.processor.mkdir()
    assert "There is no simulated machine" in examine(machine).of("machine")["found"]
    assert not list(machine.processor.iterdir())


def test_another_domain_runs_here_and_is_asked(machines: Machines, pair: Pair) -> None:
    other = machines("other")
    other.start()
    pair.backup.keystore.rename(pair.backup.folder / "aside")
    found = rkeyserver(
        *("doctor", "--json", "--platform", "simulated", "--machine", str(other.processor), "--ops", other.ops),
        *("--keystore", str(pair.backup.folder / "aside"), "-i", other.address),
        cwd=pair.backup.folder,
    )
    examined = Examined(found.status, json.loads(found.out))
    assert (found.status, examined.ways) == (CORRUPT, [])
    assert f"serves domain {other.status()['domain']}" in examined.of("instance")["found"]
    assert examined.of("peer")["advice"] == "It is no way back from what changes this machine. Name another."


def test_a_peer_of_another_domain_is_no_way_back(machines: Machines, pair: Pair) -> None:
    other = machines("other")
    other.start()
    found = examine(pair.backup, "-i", other.address)
    assert (found.status, found.ways) == (UNAVAILABLE, [])
    assert found.of("peer")["advice"] == f"Wanted is domain {pair.domain}."
    assert examine(pair.backup, "--domain", str(other.status()["domain"])).status == REJECTED


def policy_of(machine: Machine, **changes: str) -> str:
    """The policy of a running machine's domain, with other values."""
    shown = rkeyserver("policy", "show", "--ops", machine.ops, cwd=machine.folder)
    lines = shown.out.splitlines()
    for key, value in changes.items():
        lines = [f"{key} = {value}" if line.startswith(f"{key} = ") else line for line in lines]
    return "\n".join(lines) + "\n"


def identity_of(machine: Machine) -> str:
    said = machine.command("identity", *machine.platform_words()).out
    return said.split()[1]


def test_a_policy_that_does_not_accept_this_machine(pair: Pair) -> None:
    machine = pair.backup
    shown = policy_of(pair.host, mrsigner=json.dumps(["ab" * 32]))
    with contextlib.closing(Keyring.mint(primary=MEMBER, now=int(time.time()), policy=shown)) as keyring:
        machine.keystore.write_bytes(seal_keyring(keyring, machine.platform(), OWNER, now=int(time.time())))
    found = examine(machine)
    assert (found.status, found.of("opens")["state"]) == (UNAVAILABLE, "good")
    assert "MRSIGNER is" in found.of("accepted")["found"]
    assert "admit this machine first" in found.of("ways back")["advice"]


def test_a_machine_that_was_removed_is_told_that_the_domain_has_moved_on(machines: Machines, pair: Pair) -> None:
    host, backup = machines("strict"), machines("named")
    names = [identity_of(host), identity_of(backup)]
    policy = host.folder / "policy.toml"
    policy.write_text(policy_of(pair.host, machines=json.dumps(names)))
    host.start("--policy", str(policy))
    assert backup.run("-i", host.address, "--once").status == 0
    assert examine(backup, "-i", host.address).of("peer")["state"] == "good"
    assert (
        rkeyserver("policy", "remove", f"{host.platform_name} {names[1]}", "--ops", host.ops, cwd=host.folder).status
        == 0
    )
    assert backup.run("-i", host.address, "--once", "--wait", "0").status == REJECTED
    behind = examine(backup, "-i", host.address).of("peer")
    assert (behind["state"], behind["advice"][:43]) == ("warning", "It is at a later state than the record here")


def test_recovery_is_a_way_back(machines: Machines, pair: Pair) -> None:
    machine = machines("recoverable")
    policy = machine.folder / "policy.toml"
    policy.write_text(policy_of(pair.host) + f'\n[recovery]\nthreshold = 1\nrecipients = ["{AGE}"]\n')
    machine.start("--policy", str(policy))
    found = examine(machine)
    assert (found.status, found.ways) == (0, ["1 of 1 recovery recipients"])
    assert machine.status()["ways_back"] == {"record": 1, "hosts": 0, "recovery": 1}
    said = rkeyserver("status", "--ops", machine.ops, cwd=machine.folder).out
    assert "\nways back    2: record 1, hosts 0, recovery 1\n" in said
    assert "\nRecovery opens a copy of the record" in said
    assert "WARNING: one way back" not in said


def test_wrong_use_is_said(machines: Machines) -> None:
    machine = machines("new")
    for more in (["-i", "no host"], ["--nothing"], ["-p", "0"]):
        ended = run(machine, *more)
        assert (ended.status, ended.out) == (MISUSE, "")


def test_by_the_instance_s_own_configuration(pair: Pair) -> None:
    config = pair.backup.folder / "rkeyserver.toml"
    config.write_text(
        f'platform = "simulated"\nmachine = "{pair.backup.processor}"\nkeystore = "{pair.backup.keystore}"\n'
        f'host = ["{pair.host.address}"]\ndomain = "{pair.domain}"\nops = "{pair.backup.ops}"\n'
    )
    ended = rkeyserver("doctor", "--config", str(config), cwd=pair.backup.folder)
    assert ended.status == 0, ended
