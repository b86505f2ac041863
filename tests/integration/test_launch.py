"""The launcher as a terminal, a shell and systemd see it, with the program of the enclave on a simulated machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.gramine import Gramine
from tests.fakes.processes import Running, environment, wait_for_end_of
from tests.sgx.machines import SgxMachine, SgxMachines, sgx_machines_in

from rkeyserver.address import Address
from rkeyserver.cli.supervise import serves

STOPPED = 7  # what the fake ends with when it is told to stop
WAITING = "^waiting$"


@pytest.fixture
def host(tmp_path: Path) -> Gramine:
    (tmp_path / "state").mkdir()
    return Gramine.made(tmp_path / "host", "wait")


@contextlib.contextmanager
def begun(host: Gramine, *words: str, **env: str) -> Iterator[Running]:
    running = host.begin("--keystore", str(host.folder.parent / "state" / "rkey.bin"), *words, **env)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_each_signal_that_stops_it_stops_the_enclave_in_order(host: Gramine, number: signal.Signals) -> None:
    with begun(host) as running:
        running.out.wait_for(WAITING)
        running.send(number)
        assert running.wait().status == STOPPED
    assert host.run_folders() == []


def test_a_terminals_interrupt_reaches_the_whole_group_and_stops_it_in_order(host: Gramine) -> None:
    with begun(host) as running:
        running.out.wait_for(WAITING)
        enclave = host.started()["pid"]
        for pid in (enclave, running.pid):  # as the terminal driver does
            os.kill(pid, signal.SIGINT)
        assert running.wait().status == STOPPED


def test_with_hangups_ignored_it_outlives_its_terminal(host: Gramine) -> None:
    command = [sys.executable, str(host.image / "rkeyserver"), "--keystore", str(host.folder.parent / "state" / "k")]
    running = Running(["nohup", *command], cwd=host.folder, env=environment(**host.environment))
    running.out.wait_for(WAITING)
    running.send(signal.SIGHUP)
    running.send(signal.SIGTERM)
    ended = running.wait()
    assert ended.status == STOPPED, ended


def test_an_enclave_whose_launcher_is_killed_is_stopped_and_what_is_left_goes_at_the_next_start(host: Gramine) -> None:
    with begun(host) as running:
        running.out.wait_for(WAITING)
        enclave = host.started()["pid"]
        running.kill()
        wait_for_end_of(enclave)
    (left,) = host.run_folders()
    host.will("exit", "0")
    with begun(host) as running:
        assert running.wait().status == 0
    assert host.run_folders() == []
    assert not left.exists()


def test_one_record_has_one_enclave_and_two_records_have_two(host: Gramine) -> None:
    with begun(host) as first:
        first.out.wait_for(WAITING)
        with begun(host) as second:
            ended = second.wait()
        assert ended.status == 4
        assert f"in use, by the launcher with pid {first.pid} on " in ended.err
        with begun(host, "--keystore", str(host.folder.parent / "state" / "other.bin")) as other:
            other.out.wait_for(WAITING)
            assert len(host.run_folders()) == 2
            other.send(signal.SIGTERM)
            assert other.wait().status == STOPPED
        assert len(host.run_folders()) == 1
        first.send(signal.SIGTERM)
        assert first.wait().status == STOPPED


def test_the_doctor_looks_beside_a_running_enclave(host: Gramine) -> None:
    with begun(host) as first:
        first.out.wait_for(WAITING)
        host.will("exit", "4")
        doctor = host.begin("doctor", "--keystore", str(host.folder.parent / "state" / "rkey.bin"))
        assert doctor.wait().status == 4


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[Address]:
    """A listener that gives one answer."""

    def give() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        giving = threading.Thread(target=give)
        giving.start()
        yield Address("127.0.0.1", listener.getsockname()[1])
        giving.join()


@pytest.mark.parametrize(
    ("answer", "good"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 503 Not now\r\nContent-Length: 0\r\n\r\n", False),
        (b"SSH-2.0-OpenSSH_9.2\r\n", False),
        (b"", False),
    ],
)
def test_only_who_serves_is_ready(answer: bytes, good: bool) -> None:  # noqa: FBT001 - a table's column
    with answering(answer) as address:
        assert serves(address) is good


class Enclave:
    """A machine whose instances are started by the launcher."""

    def __init__(self, machine: SgxMachine) -> None:
        self.machine = machine
        machine.stand.ready()
        self.host = Gramine.made(machine.folder.with_name(f"{machine.name}.host"), "program", machine.composition)

    def begin(self, *words: str, **env: str) -> Running:
        own = ("--keystore", str(self.machine.keystore), "--listen", self.machine.address, "--ops", self.machine.ops)
        running = self.host.begin(*own, *words, **env)
        self.machine.started.append(running)
        return running


@pytest.fixture
def sgx_machines(tmp_path: Path) -> Iterator[SgxMachines]:
    with sgx_machines_in(tmp_path, judged_as_simulated=True) as made:
        yield made


def test_a_domain_of_enclaves_from_first_start_to_hand_over(sgx_machines: SgxMachines) -> None:
    first, second = (Enclave(sgx_machines(name)) for name in ("first", "second"))
    primary = first.begin().ready()
    assert first.machine.status()["role"] == "primary"
    standby = second.begin("-i", first.machine.address).ready()
    assert second.machine.status()["domain"] == first.machine.status()["domain"]
    standby.out.wait_for("Successfully received the DomainKey from deploy server")
    doctor = second.host.begin(
        *("doctor", "--keystore", str(second.machine.keystore), "--ops", second.machine.ops, "--json"),
        *("-i", first.machine.address),
    ).wait()
    examined = json.loads(doctor.out)
    assert doctor.status == examined["status"]
    findings = {one["topic"]: one["state"] for one in examined["findings"]}
    assert [findings[topic] for topic in ("record", "machine", "opens", "instance")] == ["good"] * 4
    identity = second.host.begin("identity").wait()
    assert identity.out == f"sgx {second.machine.ppid}\n"
    assert standby.stop().status == 0
    assert primary.stop().status == 0
    # What they store lies beside the record, and nowhere else.
    for one in (first, second):
        made = {path.name for path in one.machine.folder.iterdir()} - {"machine"}
        endings = {"", ".lock", ".lock.host", ".audit.jsonl", ".collateral.json"}
        mints = {".minted"} if one is first else set()
        assert {name.removeprefix("rkey.bin") for name in made} == endings | mints


def test_it_ends_with_the_status_and_the_words_of_the_program(sgx_machines: SgxMachines, tmp_path: Path) -> None:
    one = Enclave(sgx_machines("one"))
    one.machine.keystore.write_bytes(b"no record")
    ended = one.begin().wait()
    assert ended.status == 5, ended
    assert "rkeyserver: " in ended.err
    assert one.machine.keystore.read_bytes() == b"no record"
    nobody = one.begin("-i", one.machine.address, "--once", "--wait", "0", "--keystore", str(tmp_path / "new")).wait()
    assert nobody.status == 4, nobody
    assert not (tmp_path / "new").exists()
