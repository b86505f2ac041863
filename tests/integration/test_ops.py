"""What an operator asks a running instance: status, health, and where that is answered."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import httpx
import pytest
from tests.fakes.listeners import answering
from tests.fakes.processes import (
    DEADLINE,
    Ended,
    Machine,
    Machines,
    Running,
    reserve,
    rkeyserver,
)

import rkeyserver as package
from rkeyserver.config import Config
from rkeyserver.errors import EXIT_STATUS, Unavailable
from rkeyserver.platforms.simulated.tcb import CURRENT_CPU_SVN
from rkeyserver.service.ops import is_own

UNAVAILABLE = EXIT_STATUS[Unavailable]
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"


def ask(machine: Machine, *words: str) -> str:
    ended = rkeyserver("status", "--ops", machine.ops, *words, cwd=machine.folder)
    assert (ended.status, ended.err) == (0, "")
    return ended.out


def health(machine: Machine) -> tuple[int, Any]:
    answer = httpx.get(f"http://{machine.ops}/healthz", trust_env=False)
    return answer.status_code, answer.json()


@pytest.mark.sgx_too
def test_status_has_everything(machines: Machines) -> None:
    host, backup = machines("host"), machines("backup")
    host.start()
    backup.start("-i", host.address)
    simulated = host.platform_name == "simulated"
    for machine, role, peer, handed in ((host, "primary", backup, 2), (backup, "standby", host, 0)):
        found = json.loads(ask(machine, "--json"))
        (generation,) = found.pop("generations")
        assert re.fullmatch("[0-9a-f]{32}", generation.pop("id"))
        assert re.fullmatch(TIME, generation.pop("created"))
        assert generation == {"state": "current"}
        assert re.fullmatch(TIME, found.pop("started"))
        assert re.fullmatch("[0-9a-f]{64}", found.pop("policy"))
        ((known, at),) = found.pop("peers").items()
        assert known == json.loads(ask(peer, "--json"))["machine"]
        assert re.fullmatch(TIME, at)
        assert re.fullmatch("[0-9a-f]{32}", found.pop("domain"))
        assert re.fullmatch("[0-9a-f]{32}", found.pop("machine"))
        assert re.fullmatch("[0-9a-f]{32}", found.pop("primary"))
        (member,) = found.pop("members")
        other = json.loads(ask(peer, "--json"))
        assert (member["member"], member["machine"]) == (other["member"], other["machine"])
        assert re.fullmatch("[0-9a-f]{32}", found.pop("member"))
        assert found.pop("protects").startswith("Nothing: " if simulated else "Against the host ")
        assert found.pop("key_memory") in {"memfd_secret", "locked"}
        assert found.pop("key_memory_hidden") in ({True, False} if simulated else {True})
        assert found.pop("socket") == (f"{machine.keystore}.socket" if simulated else None)
        audit = found.pop("audit")
        assert (audit.pop("path"), audit.pop("problem")) == (
            f"{machine.keystore}.audit.jsonl" if simulated else ANY,
            "",
        )
        assert audit.pop("lines") >= 2
        assert audit.pop("key") == peer.status()["audit"]["key"]
        assert {name: len(bytes.fromhex(one)) for name, one in audit.items()} == {"chain": 16, "head": 32}
        collateral = found.pop("collateral")
        assert collateral | {"held": []} == {"pccs": "", "last_success": None, "last_error": "", "held": []}
        assert len(collateral["held"]) == (0 if simulated else 1)
        versions = machine.platform().identity().versions
        assert versions["cpu_svn"] == CURRENT_CPU_SVN.hex()
        assert found == {
            "version": package.__version__,
            "role": role,
            "epoch": 0,
            "sequence": 1,
            "platform": host.platform_name,
            "simulated": simulated,
            "hand_overs": handed,
            "released": 0,
            "refused": {},
            "record_problem": "",
            "recovering": None,
            "coordinator": None,
            "drill": {"at": None, "passed": None, "reason": "", "found": "", "advice": "", "last_success": None},
            "provision": {"listening": [], "problem": "", "given": 0, "ca_generation": None, "ca_sha256": None},
            "callers": {"listening": [], "problem": "", "ca_generation": None, "ca_sha256": None},
            "slots": [{"type": "platform", "platform": host.platform_name, "policy": "mrsigner", "versions": versions}],
            "ways_back": {"record": 1, "hosts": int(role == "standby"), "recovery": 0},
            "ways_back_total": 1 + (role == "standby"),
        }


def test_status_for_people_warns_of_the_last_way_back(machines: Machines) -> None:
    host, backup = machines("host"), machines("backup")
    host.start()
    said = ask(host)
    assert "lost with this one or its record. Add a backup." in said
    assert said.endswith("SIMULATED: nothing here is protected.\n") == (host.platform_name == "simulated")
    assert backup.run("-i", host.address, "--once").status == 0
    # That the backup has stored it, only the backup can tell.
    assert "or its record. It was given to 1:" in ask(host)
    httpx.post(f"http://{host.address}/v1/hand-over", content=b"nonsense", trust_env=False)
    assert "refused      1 for malformed" in ask(host)


def test_a_standby_that_still_asks(machines: Machines) -> None:
    host, backup = machines("host"), machines("backup")
    running = backup.begin("-i", host.address)
    running.err.wait_for("Asking again in")
    assert health(backup) == (503, {"serving": False})
    found = json.loads(ask(backup, "--json"))
    assert (found["role"], found["domain"], found["generations"], found["slots"]) == ("standby", None, [], [])
    assert "none yet: it is asking its hosts" in ask(backup)
    for path in ("/v1/hello", "/v1/hand-over"):
        assert httpx.post(f"http://{backup.address}{path}", content=b"", trust_env=False).status_code in {403, 503}
    assert httpx.get(f"http://{backup.address}/v1/hint", trust_env=False).status_code == 503
    host.start()
    running.ready()
    assert health(backup) == (200, {"serving": True})


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "emptied": (lambda path: path.write_bytes(b""), "is empty; a sealed record is wanted"),
    "something else": (lambda path: path.write_bytes(b"nonsense"), "This is no record"),
    "removed": (Path.unlink, "The record is gone."),
}


@pytest.mark.parametrize(("damage", "says"), DAMAGE.values(), ids=DAMAGE)
def test_what_happens_to_the_record_meanwhile(machines: Machines, damage: Callable[[Path], object], says: str) -> None:
    """It serves what it holds; that a restart would not is what the operator has to see."""
    host, backup = machines("host"), machines("backup")
    host.start()
    damage(host.keystore)
    found = json.loads(ask(host, "--json"))
    assert says in found["record_problem"]
    assert (found["ways_back"]["record"], found["slots"]) == (0, [])
    said = ask(host)
    assert says in said
    assert "WARNING: no way back." in said
    assert health(host) == (200, {"serving": True})
    assert backup.run("-i", host.address, "--once").status == 0


def asked(port: int, folder: Path) -> Ended:
    return rkeyserver("status", "--ops", f"127.0.0.1:{port}", cwd=folder)


FOREIGN: dict[str, tuple[int, bytes]] = {
    "no JSON": (200, b"<html>"),
    "another JSON": (200, b"{}"),
    "a list": (200, b"[]"),
    "of another shape": (200, b'{"role": 1, "ways_back": 2, "domain": null, "generations": 3}'),
    "nothing": (200, b""),
    "an error": (404, b"{}"),
    "a redirect": (302, b""),
    "one that has another name": (421, b"{}"),
}


@pytest.mark.parametrize(("status", "body"), FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_instance(tmp_path: Path, status: int, body: bytes) -> None:
    with answering(status, body) as there:
        ended = asked(there.port, tmp_path)
    assert (ended.status, ended.out) == (UNAVAILABLE, "")
    assert ended.err.startswith(f"rkeyserver: What is on {there} ")
    assert "Traceback" not in ended.err


def test_nobody_there(tmp_path: Path) -> None:
    with reserve() as dead:
        port = dead.getsockname()[1]
        ended = asked(port, tmp_path)
    assert (ended.status, ended.out) == (UNAVAILABLE, "")
    assert ended.err.startswith(f"rkeyserver: No instance answers on 127.0.0.1:{port}: Connection refused.")
    assert "Was it started with another --ops?" in ended.err


def listening(pid: int) -> set[str]:
    """The addresses, as the kernel writes them, that sockets of the process listen on."""
    files = {link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
    ]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in files}


def test_operations_are_on_the_loopback_alone_and_peers_everywhere(machines: Machines) -> None:
    assert Config().ops.host == "127.0.0.1"
    assert [str(address) for address in Config().listen] == [":8888"]
    host, backup = machines("host"), machines("backup")
    words = [":0" if word == host.address else word for word in host.words()]
    running = Running([*host.program(), *words], cwd=host.folder, env=host.environment()).ready()
    host.started.append(running)
    assert listening(running.pid) == {"0100007F", "00000000", "0" * 32}
    port = running.err.wait_for(r"Serving as primary on \[::\]:(\d+), 0\.0\.0\.0:\1;")[0][1]
    for address in ("127.0.0.1", "127.1.2.3", "[::1]"):
        assert backup.run("-i", f"{address}:{port}", "--once").status == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://{address.replace('127.0.0.1', '127.0.0.2')}:{host.ops_port}/healthz", trust_env=False)


OPEN: dict[str, tuple[str, bool]] = {
    "this machine's loopback": ("127.0.0.1", False),
    "another of its addresses": ("127.1.2.3", False),
    "that of IPv6": ("[::1]", False),
    "a name of it": ("localhost", False),
    "every address": ("0.0.0.0", True),  # noqa: S104 - that is what is warned of
    "every one of IPv6": ("[::]", True),
}


@pytest.mark.parametrize(("host", "warned"), OPEN.values(), ids=OPEN)
def test_operations_that_the_network_reaches_are_warned_of(machines: Machines, host: str, warned: bool) -> None:  # noqa: FBT001 - a case
    machine = machines("machine")
    running = machine.start("--ops", f"{host}:{machine.ops_port}")
    said = f"Operations on {host}:{machine.ops_port} are open to the network (--ops): anyone who reaches it reads"
    assert (said in running.err.text) == warned
    assert ("open to the network" in running.err.text) == warned


ASKED: dict[str, tuple[list[str], bool]] = {
    "its address and port": (["127.0.0.1:9888"], True),
    "its address": (["127.0.0.1"], True),
    "any address": (["10.23.100.2:1"], True),
    "an address of IPv6": (["[::1]:9888"], True),
    "localhost": (["localhost:9888"], True),
    "localhost, loudly": (["LocalHost"], True),
    "a name of somebody": (["rebound.example:9888"], False),
    "a name that begins like one": (["localhost.rebound.example"], False),
    "a name that ends like one": (["rebound.localhost"], False),
    "an address as a name": (["127.0.0.1.rebound.example"], False),
    "an address in short": (["127.1"], False),
    "an address as a number": (["2130706433.x"], False),
    "an address of IPv6 without brackets": (["[::1"], False),
    "two": (["localhost", "rebound.example"], False),
    "the same twice": (["localhost", "localhost"], False),
    "nothing": ([""], False),
    "no header": ([], False),
    "no name": (["/"], False),
    "no ASCII": (["l\u00f6calhost"], False),
}


def answers_to(address: tuple[str, int], hosts: list[str], path: str = "/status") -> int:
    """The status that a request with these Host headers gets."""
    with socket.create_connection(address, DEADLINE) as client:
        head = [f"GET {path} HTTP/1.1", *(f"Host: {host}" for host in hosts), "Connection: close", "", ""]
        client.sendall("\r\n".join(head).encode("latin-1"))
        with client.makefile("rb") as answer:
            return int(answer.readline().split()[1])


def test_operations_are_told_to_nobody_who_asks_for_another_name(machines: Machines) -> None:
    """A web page whose name was made to lead here (DNS rebinding) reads nothing."""
    host = machines("host")
    host.start()
    for path in ("/status", "/healthz"):
        found = {name: answers_to(("127.0.0.1", host.ops_port), asked, path) for name, (asked, _) in ASKED.items()}
        assert found == {name: 200 if good else 421 for name, (_, good) in ASKED.items()}
    ended = rkeyserver("status", "--ops", f"localhost:{host.ops_port}", cwd=host.folder)
    assert ended.status == 0


NAMES: dict[str, tuple[str, str, bool]] = {
    "by its name": ("ops.example", "ops.example", True),
    "by its name, loudly": ("OPS.example:1", "ops.Example", True),
    "by another": ("example", "ops.example", False),
    "by an address": ("10.0.0.1", "ops.example", True),
    "by localhost": ("localhost", "ops.example", True),
    "by a name where --ops has an address": ("ops.example", "10.0.0.1", False),
}


@pytest.mark.parametrize(("asked", "name", "good"), NAMES.values(), ids=NAMES)
def test_the_name_that_ops_gives_is_its_own(asked: str, name: str, good: bool) -> None:  # noqa: FBT001 - a case
    assert is_own(asked, name) == good


def test_operations_listener_answers_nothing_else(machines: Machines) -> None:
    host = machines("host")
    host.start()
    for method, path, status in (
        ("GET", "/v1/hint", 404),
        ("POST", "/v1/hello", 404),
        ("POST", "/status", 405),
        ("DELETE", "/healthz", 405),
        ("GET", "/", 404),
    ):
        assert httpx.request(method, f"http://{host.ops}{path}", trust_env=False).status_code == status
