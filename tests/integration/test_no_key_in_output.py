"""No byte of a key where anyone could read it: not in what is printed or stored, not in memory, not in a core."""

from __future__ import annotations

import base64
import json
import mmap
import os
import resource
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.fakes import key_scan, no_memfd_secret
from tests.fakes.processes import DEADLINE, ROOT, Machine, Machines, Running, environment, rkeyserver

from rkeyserver.secret import MemoryKind

DEBUG = ("--log-level", "debug")
LEAST_MEMORY = 20 * 1024 * 1024
KERNELS = {"this kernel": (), "one without memfd_secret": no_memfd_secret.UNDER}


def scan(
    machine: Machine, *, processes: Sequence[int] = (), files: Sequence[Path] = (), labels: Sequence[str] = ()
) -> dict[str, Any]:
    """What of the keys in a machine's record, and of those labels, is where; in the name space of its processes."""
    command = [sys.executable, "-m", key_scan.__name__, str(machine.opener()), str(machine.keystore)]
    command += ["--processes", *map(str, processes), "--files", *map(str, files), "--labels", *labels]
    inside = (
        ["nsenter", "--user", "--preserve-credentials", f"--target={processes[0]}"] if processes and under() else []
    )
    done = subprocess.run(
        [*inside, *command], env=environment(), capture_output=True, text=True, check=False, timeout=4 * DEADLINE
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def under() -> list[str]:
    """Only root reads the memory of a process that forbade it; where the tests are not root, one of a name space is."""
    return [] if os.geteuid() == 0 else ["unshare", "--map-root-user"]


FORMS: dict[str, Callable[[bytes], bytes]] = {
    "raw": lambda key: key,
    "the second half": lambda key: key[16:],
    "one part": lambda key: key[8:16],
    "a number": lambda key: key[::-1],
    "hex": lambda key: key.hex().encode(),
    "HEX": lambda key: key.hex().upper().encode(),
    "hex with colons": lambda key: key.hex(":").encode(),
    "decimal": lambda key: str(list(key)).encode(),
    "base64": base64.b64encode,
    "base64 with a byte before": lambda key: base64.b64encode(b"x" + key),
    "base64 with two bytes before": lambda key: base64.b64encode(b"xy" + key),
    "base64 for URLs": base64.urlsafe_b64encode,
    "part of base64": lambda key: base64.b64encode(key)[3:-9],
    "repr": lambda key: repr(key).encode(),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_scanner_finds_a_key_in_every_form(form: Callable[[bytes], bytes]) -> None:
    key = secrets.token_bytes(32)
    text = b"before " + form(key) + b" after"
    found: set[tuple[str, str]] = set()
    assert key_scan.look(iter([("text", text)]), key_scan.patterns(key), found) == len(text)
    assert found


def test_the_scanner_finds_nothing_where_there_is_nothing() -> None:
    found: set[tuple[str, str]] = set()
    noise = secrets.token_bytes(1_000_000)
    key_scan.look(
        iter([("noise", noise), ("text", base64.b64encode(noise))]), key_scan.patterns(bytes(range(32))), found
    )
    assert found == set()


PLANT = """
import sys, time
from pathlib import Path
from tests.fakes.key_scan import keys
kept = dict(keys(Path(sys.argv[1]), Path(sys.argv[2])))
Path(sys.argv[3]).write_text(kept["root key"].hex())
print("planted", flush=True)
time.sleep(3600)
"""


def test_the_scanner_finds_what_is_planted(machines: Machines) -> None:
    """Without this, a scanner that reads nothing would make the tests below pass."""
    machine = machines("machine")
    machine.start().stop()
    leak = machine.folder / "leak"
    program = [*under(), sys.executable, "-c", PLANT, str(machine.opener()), str(machine.keystore), str(leak)]
    planter = Running(program, cwd=ROOT, env=environment())
    machine.started.append(planter)
    planter.out.wait_for("planted")
    found = scan(machine, processes=[planter.pid], files=[leak])["found"]
    memory = {form.split(",")[0] for where, form in found if where.startswith("process")}
    assert memory == {"root key", "domain secret", "record key", "sealing key"}
    assert [str(leak), "root key, hex"] in found


# What root finds in a process that serves: nothing, or what is in the key's own page, and nowhere else.
READABLE: dict[MemoryKind, Callable[[int], list[list[str]]]] = {
    MemoryKind.MEMFD_SECRET: lambda _pid: [],
    MemoryKind.LOCKED: lambda pid: [
        [f"process {pid}, key memory", f"{name}, raw"] for name in ("domain secret", "root key")
    ],
}


def readable(machine: Machine, pid: int) -> list[list[str]]:
    """What of its keys root finds in the process that serves on a machine."""
    if machine.platform_name == "sgx":
        # Inside an enclave all memory is hidden, and the calls that would tell key memory from other do nothing: here
        # it is seen in one place that has no name.
        return [[f"process {pid}, anonymous", f"{name}, raw"] for name in ("domain secret", "root key")]
    return READABLE[MemoryKind(machine.status()["key_memory"])](pid)


def exercise(machines: Machines, kernel: Sequence[str]) -> tuple[Machine, list[Machine], list[Running]]:
    """Everything that handles a key or fails over one, at the chattiest level; host, all machines, what still runs."""
    as_there = [*under(), *kernel]
    host, backup, third, other, thief = (machines(name) for name in ("host", "backup", "third", "other", "thief"))
    first = host.start(*DEBUG, under=as_there)
    second = backup.start("-i", host.address, *DEBUG, under=as_there)
    for body in (b"", b"nonsense", bytes(1000)):
        for path in ("/v1/hello", "/v1/hand-over", "/v1/release/hello", "/v1/release"):
            assert httpx.post(f"http://{host.address}{path}", content=body, trust_env=False).is_client_error
    for _ in range(2):
        assert third.run("-i", backup.address, "--once", *DEBUG, under=as_there).status == 0
    other.start(*DEBUG, under=as_there)
    assert backup.run("-i", host.address, *DEBUG).status != 0, "its keystore is held"
    assert third.run("-i", other.address, "--once", "--wait", "0", *DEBUG, under=as_there).status != 0
    thief.keystore.write_bytes(host.record)
    assert thief.run(*DEBUG).status != 0
    damaged = bytearray(host.record)
    damaged[-1] ^= 1
    thief.keystore.write_bytes(damaged)
    assert host.run("--keystore", str(thief.keystore), *DEBUG).status != 0
    for words in (
        ["status", "--ops", host.ops],
        ["status", "--json", "--ops", backup.ops],
        ["inspect", str(host.keystore)],
    ):
        ended = rkeyserver(*words, cwd=host.folder)
        assert ended.status == 0
        (host.folder / f"{words[0]}.out").write_text(ended.out + ended.err)
    return host, [host, backup, third, other, thief], [first, second]


@pytest.mark.sgx_too("this kernel")
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_no_key_in_what_is_printed_or_stored_or_in_memory(machines: Machines, kernel: Sequence[str]) -> None:
    host, everyone, running = exercise(machines, kernel)
    for machine in everyone:
        for number, one in enumerate(machine.started):
            (machine.folder / f"printed.{number}").write_text(one.out.text + one.err.text)
    # Not what only an enclave may read: its sealing keys are there.
    files = [path for path in machines.folder.rglob("*") if path.is_file() and "attestation" not in path.parts]
    assert {"printed.0", "rkey.bin", "rkey.bin.audit.jsonl", "status.out"} <= {path.name for path in files}
    assert "DEBUG" in (host.folder / "printed.0").read_text()
    for machine, one in zip(everyone, running, strict=False):
        workers = one.children()
        assert bool(workers) == machine.starts_processes
        done = scan(machine, processes=[one.pid, *workers], files=files)
        assert done["found"] == readable(machine, one.pid)
        if machine.platform_name == "sgx":
            continue
        # The keyring's page, those of the keys behind the challenges of each purpose, and that of the key that signs
        # heads of the audit file; nothing left of any exchange.
        assert done["key_memory"] == {str(one.pid): 4 * mmap.PAGESIZE} | {str(worker): 0 for worker in workers}
        assert done["looked"] > LEAST_MEMORY * (1 + len(workers))


def end_of(program: Sequence[str], number: signal.Signals, machine: Machine, *, ready: bool) -> int:
    """Start a program that may dump cores of any size, end it by `number`; how the kernel says that it ended."""

    def begin() -> Running:
        limited = ["sh", "-c", 'ulimit -c unlimited; exec "$@"', "sh", *program]
        one = Running(limited, cwd=machine.folder, env=machine.environment())
        machine.started.append(one)
        return one

    one = begin()
    if ready:
        one.ready()
    else:
        one.out.wait_for("ready")
    one.send(number)
    found = os.waitid(os.P_PID, one.pid, os.WEXITED | os.WNOWAIT)
    assert found is not None
    assert found.si_status == number
    return found.si_code


FATAL = [signal.SIGABRT, signal.SIGSEGV, signal.SIGQUIT]


@pytest.mark.parametrize("number", FATAL)
def test_no_core(machines: Machines, number: signal.Signals) -> None:
    machine = machines("machine")
    program = [*machine.program(), *machine.words()]
    assert end_of(program, number, machine, ready=True) == os.CLD_KILLED
    assert not list(machine.folder.glob("core*"))


def test_a_core_would_be_noticed(machines: Machines) -> None:
    if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        pytest.fail("The hard limit of core dumps is 0 here: that there are none would prove nothing.")
    machine = machines("machine")
    program = [sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(3600)"]
    assert end_of(program, signal.SIGABRT, machine, ready=False) == os.CLD_DUMPED
