"""Two enclaves: the one that joins is killed at each call that changes its keystore, and then started again.

Over the device and under Gramine's system calls, from the command line to the last fsync: the store alone is killed at
every one of its calls by tests/integration/test_crash_safety.py.
"""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.processes import key_proof
from tests.fakes.traced_writer import Point, Run
from tests.sgx.machines import SgxMachine, SgxMachines, sgx_machines_in

from rkeyserver.keystore.file import FileKeystore

SHARDS = 3
# Of a thread that does much else, those calls whose number does not depend on what the network brings when.
CALLS = "openat,rename,renameat,renameat2,link,linkat,unlink,unlinkat,fchmod,fsync,fdatasync,ftruncate,pwrite64"
OF_THE_STORE = re.compile(r'.*/new/rkey\.bin(?!\.collateral|\.audit)[^/]*[">]|f(data)?sync\(.*/new>')


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[SgxMachines]:
    with sgx_machines_in(tmp_path, judged_as_simulated=True) as made:
        yield made


def joined(machine: SgxMachine, host: SgxMachine, trace: Path, *injections: str) -> Run:
    """A fetch under strace(1), of the thread that stores."""
    words = [word for one in injections for word in ("-e", one)]
    strace = ["strace", "-y", "-s", "64", "-o", str(trace), "-e", f"trace={CALLS}", *words]
    ended = machine.run("-i", host.address, "--once", "--wait", "0", under=strace)
    return Run(ended.status, ended.out.splitlines(), ended.err, trace.read_text().splitlines())


def points_of(run: Run) -> list[Point]:
    return [one for one in run.points() if OF_THE_STORE.match(one.line)]


@pytest.mark.sgx
@pytest.mark.sgx_too("a later one-0")
@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("again", [False, True], ids=["the first record", "a later one"])
def test_killed_at_every_call_that_changes_its_keystore(
    machines: SgxMachines,
    tmp_path: Path,
    again: bool,  # noqa: FBT001 - a case
    shard: int,
) -> None:
    host, machine = machines("host"), machines("new")
    host.start()
    trace = tmp_path / "trace"
    if again:
        assert machine.run("-i", host.address, "--once").status == 0
    kept = tmp_path / "kept"
    shutil.copytree(machine.folder, kept)
    before = machine.record if again else None
    whole = joined(machine, host, trace)
    assert whole.status == 0, whole.log
    points = points_of(whole)
    assert len(points) >= (10 if again else 6), "the trace misses system calls"
    states = []
    for number in range(shard, len(points), SHARDS):
        for path in machine.folder.glob("rkey.bin*"):
            path.unlink()
        for path in kept.glob("rkey.bin*"):
            shutil.copy2(path, machine.folder)
        killed = joined(machine, host, trace, points[number].inject("signal=SIGKILL"))
        assert killed.status == -signal.SIGKILL, f"not killed at {points[number].line}"
        with FileKeystore.open(machine.keystore) as store:
            found = store.load()
        states.append("none" if found is None else "old" if found == before else "new")
        # Whatever it is, what is there is whole; what is not there yet comes with the next fetch.
        if found is not None:
            assert key_proof(machine) == key_proof(host)
        assert machine.run("-i", host.address, "--once", "--wait", "0").status == 0
        assert key_proof(machine) == key_proof(host)
        assert not [path for path in machine.folder.iterdir() if ".new~" in path.name]
    assert states == sorted(states, key=["none", "old", "new"].index), "it changes once"
    assert states[0] == ("old" if again else "none")
    assert shard < SHARDS - 1 or states[-1] in {"new", states[0]}
