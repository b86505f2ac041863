"""A host that starts the program of an enclave again and again, each time in a world that it has made for it.

    python -m tests.attacks.hostile_host COMPOSITION

is the program: loaded once and forked for each case, for a start takes longer than most cases. Each line of its stdin
is a case, JSON: a run folder with options.json and state, and of World's fields those that are not honest. It answers
with the exit status. What is done before main() is what tests/fakes/enclave_program.py does.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec
from tests.fakes.processes import environment
from tests.sgx.gramine_calls import answer_as_gramine
from tests.sgx.machines import PATH, SgxMachine, collateral, sgx_machines_in
from tests.sgx.program import Composition, compose

from rkeyserver import clock
from rkeyserver.cli import doctor, enclave, identity, serve
from rkeyserver.enclave_options import written
from rkeyserver.service import run as program

LOADED: Final = (doctor, identity, serve, program)
SECONDS: Final = 20  # after which a case hangs
NO_STATUS: Final = 70  # what no command ends with
RECORD: Final = "rkey.bin"

Prepare = Callable[[Path], object]
"""Makes something of the one folder, given its path."""


class World(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a host says and gives beside files. clock: seconds since 1970; threads: how many it lets begin; cpus: how

    many there are said to be. None for an honest one.
    """

    clock: float | None = None
    threads: int | None = None
    cpus: int | None = None


HONEST: Final = World()


@dataclass(frozen=True)
class Came:
    """What came of a case: its exit status, what it said, and what is in its folder then."""

    status: int
    out: str
    err: str
    state: Path

    @classmethod
    def of(cls, case: Case) -> Came:
        """Of a case that was not run yet."""
        return cls(NO_STATUS, "", "", case.state)

    @property
    def minted(self) -> int:
        """How many keys were made, by the audit file; 0 where there is none that can be read."""
        path = self.state / f"{RECORD}.audit.jsonl"
        return path.read_bytes().count(b'"event":"mint","verdict":"accepted"') if path.is_file() else 0


@dataclass
class Case:
    """A run folder. outside: a folder beside the one that the enclave sees, which nothing may touch."""

    folder: Path

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def outside(self) -> Path:
        return self.folder / "outside"


@dataclass
class Host:
    """The host of one machine. genuine: the record that this machine has made; collateral lies beside each."""

    machine: SgxMachine
    folder: Path
    genuine: bytes
    domain: str
    audit: bytes
    _process: subprocess.Popen[str]
    _made: int = field(default=0, init=False)

    def with_its_record(self, state: Path) -> None:
        (state / RECORD).write_bytes(self.genuine)
        (state / RECORD).chmod(0o600)

    def case(self, command: str, options: dict[str, object], *prepared: Prepare) -> Case:
        """A run folder for the command with these options, its state prepared so."""
        self._made += 1
        case = Case(self.folder / str(self._made))
        case.state.mkdir(parents=True)
        case.outside.mkdir()
        (case.outside / "file").write_bytes(b"of the host's own")
        (case.state / f"{RECORD}.collateral.json").write_bytes(collateral())
        for prepare in prepared:
            prepare(case.state)
        usual = {} if command == "identity" else {"keystore": RECORD}
        (case.folder / "options.json").write_bytes(written(command, usual | options))
        return case

    def run(self, case: Case, world: World = HONEST) -> Came:
        """Start the enclave there and wait for its end. Nothing outside may have been touched."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        before = _seen(case.outside)
        self._process.stdin.write(json.dumps([str(case.folder), msgspec.to_builtins(world)]) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        assert _seen(case.outside) == before
        out, err = ((case.folder / name).read_text() for name in ("out", "err"))
        return Came(status, out, err, case.state)


def _seen(folder: Path) -> dict[str, tuple[bytes, float]]:
    return {one.name: (one.read_bytes(), one.stat().st_mtime) for one in folder.iterdir()}


@contextlib.contextmanager
def host_in(folder: Path) -> Iterator[Host]:
    """The host of a machine that has made a domain's key and was stopped."""
    with sgx_machines_in(folder) as machines:
        machine = machines("machine")
        running = machine.start()
        domain = str(machine.status()["domain"])
        running.stop()
        audit = (machine.folder / f"{RECORD}.audit.jsonl").read_bytes()
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.attacks.hostile_host", machine.composition],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(PYTHONPATH=PATH),
            text=True,
        )
        with process:
            yield Host(machine, folder / "cases", machine.record, domain, audit, process)
            assert process.stdin is not None
            process.stdin.close()


def _make(world: World) -> None:
    if world.clock is not None:
        said = world.clock
        clock.Clock.__init__.__defaults__ = (lambda: said,)
    if world.cpus is not None:
        os.cpu_count = lambda: world.cpus
    if world.threads is not None:
        start, left = threading._start_new_thread, iter(range(world.threads))  # type: ignore[attr-defined]  # what a host can do, a test does by hand

        def begin(*given: Any) -> Any:
            if next(left, None) is None:
                raise RuntimeError("can't start new thread")
            return start(*given)

        threading._start_new_thread = begin  # type: ignore[attr-defined]  # what a host can do, a test does by hand


def _play(folder: str, world: World, composition: Composition) -> NoReturn:
    signal.alarm(SECONDS)
    os.chdir(folder)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    _make(world)
    enclave.OPTIONS = Path("options.json")  # type: ignore[misc]  # what a host can do, a test does by hand
    enclave.STATE = Path("state").absolute()  # type: ignore[misc]  # what a host can do, a test does by hand
    compose(composition)
    answer_as_gramine()
    status = NO_STATUS
    try:
        status = enclave.main()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main(path: str) -> None:
    composition = msgspec.json.decode(Path(path).read_bytes(), type=Composition)
    while line := sys.stdin.readline():
        folder, world = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _play(folder, msgspec.convert(world, World), composition)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)  # noqa: T201 - the answer


if __name__ == "__main__":
    main(*sys.argv[1:])
