"""Kernels that have no memfd_secret(2), or have it switched off: everything works, and it is said what that means.

What such a process's memory shows is in test_no_key_in_output.py.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.fakes import no_memfd_secret
from tests.fakes.key_scan import KEY_MEMORY, mappings
from tests.fakes.processes import Machine, Machines, Running, environment, key_proof, rkeyserver

from rkeyserver.errors import EXIT_STATUS, Unavailable
from rkeyserver.secret import MemoryKind, SecretBytes

WARNING = r"^WARNING .*No memfd_secret\(2\) here: .* root can read them\. Linux 6\.5 .* secretmem\.enable=1\.$"


def this_kernels() -> MemoryKind:
    with SecretBytes(1) as probe:
        return probe.kind


KERNELS = {
    "this kernel": ((), this_kernels()),
    "one without memfd_secret": (no_memfd_secret.UNDER, MemoryKind.LOCKED),
}


@pytest.mark.sgx_too("this kernel")
@pytest.mark.parametrize(("under", "kind"), KERNELS.values(), ids=KERNELS)
def test_says_how_keys_lie_in_memory(machines: Machines, under: Sequence[str], kind: MemoryKind) -> None:
    machine = machines("machine")
    running = machine.start("--log-level", "warning", under=under)
    status = machine.status()
    hidden = kind is MemoryKind.MEMFD_SECRET
    if machine.platform_name == "sgx":  # Gramine has no such call, and all of an enclave's memory is hidden
        kind, hidden = MemoryKind.LOCKED, True
    assert (status["key_memory"], status["key_memory_hidden"]) == (kind, hidden)
    shown = rkeyserver("status", "--ops", machine.ops, cwd=machine.folder).out.splitlines()
    assert f"key memory   {kind}" in shown
    warnings = [line for line in running.err.text.splitlines() if "memfd_secret" in line]
    assert len(warnings) == (0 if hidden else 1)
    if not hidden:
        running.err.wait_for(WARNING)


def locked(machine: Machine) -> bool:
    return MemoryKind(machine.status()["key_memory"]) is MemoryKind.LOCKED


def test_a_root_key_travels_and_outlives_the_first_machine(machines: Machines) -> None:
    """From locked memory to locked memory, and from there to what this kernel has."""
    host, backup, third = machines("host"), machines("backup"), machines("third")
    first = host.start(under=no_memfd_secret.UNDER)
    second = backup.start("-i", host.address, under=no_memfd_secret.UNDER)
    warned = host.platform_name == "simulated"
    assert bool(re.search(WARNING, second.err.text, re.MULTILINE)) == warned
    assert locked(host)
    assert locked(backup)
    first.kill()
    third.start("-i", backup.address)
    again = host.run("-i", backup.address, "--once", under=no_memfd_secret.UNDER)
    assert again.status == 0
    assert again.err.count("No memfd_secret(2) here") == warned
    assert key_proof(host) == key_proof(backup) == key_proof(third)


@pytest.mark.simulated_only("inside Gramine mlock(2) does nothing, and there is no limit of it")
@pytest.mark.parametrize("under", [(), no_memfd_secret.UNDER], ids=KERNELS)
def test_no_memory_for_keys_at_all(machines: Machines, under: Sequence[str]) -> None:
    machine = machines("machine")
    # As root of a name space: the limit does not hold for the root of all.
    ended = machine.run(under=["prlimit", "--memlock=0", "unshare", "--map-root-user", *under])
    assert (ended.status, ended.out) == (EXIT_STATUS[Unavailable], "")
    assert "No locked memory for a key: 1 bytes wanted, RLIMIT_MEMLOCK is 0. Raise the limit" in ended.err
    assert not machine.keystore.exists()


# It writes down what it keeps, so that its core can be searched; on the way there the secret leaves key memory only by
# a system call that reads it in place.
KEEPER = """
import os, time
from pathlib import Path
from rkeyserver.secret import SecretBytes
secret, plain = SecretBytes.random(32), os.urandom(32)
for name, kept in (("secret", secret.view), ("plain", plain)):
    with open(name, "wb", buffering=0) as file:
        file.write(kept)
print(secret.kind, flush=True)
time.sleep(3600)
"""


@pytest.mark.simulated_only("no server runs in it")
@pytest.mark.parametrize(("under", "kind"), KERNELS.values(), ids=KERNELS)
def test_key_memory_is_in_no_core(machines: Machines, under: Sequence[str], kind: MemoryKind) -> None:
    """Of a process that, unlike the server, may dump one: a core has no locked memory either."""
    machine = machines("machine")
    program = [*under, "sh", "-c", 'ulimit -c unlimited; exec "$@"', "sh", sys.executable, "-c", KEEPER]
    keeper = Running(program, cwd=machine.folder, env=environment())
    machine.started.append(keeper)
    keeper.out.wait_for(f"^{kind}$")
    (memory,) = [one for one in mappings(keeper.pid) if one.holds_keys]
    assert memory.end - memory.start == resource.getpagesize()
    assert memory.flags >= KEY_MEMORY
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        assert resource.prlimit(keeper.pid, limit) == (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    keeper.send(signal.SIGABRT)
    found = os.waitid(os.P_PID, keeper.pid, os.WEXITED | os.WNOWAIT)
    assert found is not None
    assert found.si_code == os.CLD_DUMPED
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if not set(pattern) & set("|/@"):  # elsewhere a program takes it, and the mapping's flags have to do
        (core,) = (path.read_bytes() for path in machine.folder.glob("core*"))
        assert (machine.folder / "plain").read_bytes() in core
        secret = (machine.folder / "secret").read_bytes()
        assert not [part for part in range(0, len(secret), 8) if secret[part : part + 8] in core]
