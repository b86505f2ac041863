"""Real rkeyserver processes on loopback, each on a simulated machine of its own.

A machine has addresses that are its own for as long as the test runs: it holds each port by a socket that is bound and
never listens. No other process gets such a port, a server with SO_REUSEADDR does, and until one listens there a
connection is refused. What a process prints is read as it comes, so that a test can wait for a line of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, ClassVar, Final, Self

import httpx

from rkeyserver.appraisal.defaults import default_policy
from rkeyserver.appraisal.policy import Policy
from rkeyserver.clock import Clock
from rkeyserver.keyring.derivation import derive_into
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.sealed import open_keyring
from rkeyserver.platforms.interface import Platform
from rkeyserver.platforms.simulated.platform import SimulatedPlatform
from rkeyserver.sealing.record import parse
from rkeyserver.secret import SecretBytes
from tests.fakes import measured
from tests.fakes.audit_lines import decisions_in
from tests.fakes.forked import Forked, as_from_a_terminal

ROOT: Final = Path(__file__).parents[2]
DEADLINE: Final = 30.0
PROGRAM: Final = (sys.executable, "-m", "rkeyserver")


def environment(**more: str) -> dict[str, str]:
    """What a process is started with: the source tree, warnings as errors, and coverage where it is measured."""
    found = {"PATH": os.defpath, "PYTHONPATH": str(ROOT / "src"), "PYTHONWARNINGS": "error"} | more
    return found | measured.environment(found["PYTHONPATH"])


def reserve(host: str = "127.0.0.1") -> socket.socket:
    """A port of `host` that nobody else gets while the socket is open, and that refuses connections."""
    held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((host, 0))
    return held


class Output:
    """What a process prints to one pipe, as it comes."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._data = bytearray()
        self._ended = False
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with self._pipe:
            while not self._ended:
                select.select([self._pipe], [], [])
                with self._more:
                    self._drain()
                    self._more.notify_all()

    def _drain(self) -> None:
        while not self._ended and select.select([self._pipe], [], [], 0)[0]:
            part = os.read(self._pipe.fileno(), 65536)
            self._data += part
            self._ended = not part

    def _text(self) -> str:
        return self._data.decode(errors="replace")

    @property
    def text(self) -> str:
        """All of it so far, to the last byte printed."""
        with self._more:
            self._drain()
            return self._text()

    def wait_for(self, pattern: str, times: int = 1) -> list[re.Match[str]]:
        """Wait until the regular expression `pattern` is found `times` times."""
        end = time.monotonic() + DEADLINE
        with self._more:
            while len(found := list(re.finditer(pattern, self._text(), re.MULTILINE))) < times:
                left = end - time.monotonic()
                assert not self._ended, f"{pattern!r} was not printed:\n{self._text()}"
                assert left > 0, f"{pattern!r} was not printed in time:\n{self._text()}"
                self._more.wait(left)
        return found

    def finish(self) -> str:
        """Wait until every process that may print here is gone; all of it."""
        self._reader.join(DEADLINE)
        assert not self._reader.is_alive(), "a process that printed here is still there"
        return self.text


@dataclass(frozen=True)
class Ended:
    """A process that is over. status: as subprocess gives it, negative for a signal."""

    status: int
    out: str
    err: str


def started(command: Sequence[str], cwd: Path, env: Mapping[str, str], told: str) -> subprocess.Popen[bytes] | Forked:
    """Start a process. The program itself, under nothing and in the usual environment, is a fork (template.py)."""
    whole = {**env, "NOTIFY_SOCKET": told}
    if tuple(command[: len(PROGRAM)]) == PROGRAM and env == (usual := environment()):
        return Forked(command[len(PROGRAM) :], cwd=cwd, env=whole, loaded=usual)
    return subprocess.Popen(
        as_from_a_terminal(command),
        cwd=cwd,
        env=whole,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


class Running:
    """A process that was started, and may be over."""

    def __init__(self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> None:
        self._notify_folder = tempfile.TemporaryDirectory(prefix="rk-")  # a socket's path has to be short
        path = str(Path(self._notify_folder.name) / "notify")
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._manager.bind(path)
        self.process = started(command, cwd, env, path)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.out, self.err = Output(self.process.stdout), Output(self.process.stderr)
        self._ended: Ended | None = None

    @property
    def pid(self) -> int:
        return self.process.pid

    def notified(self) -> str:
        """The next state that the service manager is told; fails when the process ends without telling one."""
        pidfd = os.pidfd_open(self.pid)
        select.select([self._manager.fileno(), pidfd], [], [], DEADLINE)
        os.close(pidfd)
        assert select.select([self._manager], [], [], 0)[0], f"no state was told:\n{self.out.text}{self.err.text}"
        return self._manager.recv(256).decode()

    def ready(self) -> Self:
        """Wait until it serves."""
        told = self.notified()
        assert told == "READY=1", f"{told}:\n{self.out.text}{self.err.text}"
        return self

    def children(self) -> list[int]:
        """Its verification processes."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]

    def wait(self) -> Ended:
        """Wait until it ends by itself."""
        if self._ended is None:
            status = self.process.wait(DEADLINE)
            self._ended = Ended(status, self.out.finish(), self.err.finish())
            self._manager.close()
            self._notify_folder.cleanup()
        return self._ended

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> Ended:
        """Stop it as a service manager does; it has to end well."""
        self.send(number)
        ended = self.wait()
        assert ended.status == 0, ended
        return ended

    def kill(self) -> Ended:
        """End it as a power failure does."""
        self.send(signal.SIGKILL)
        return self.wait()


def wait_for_end_of(pid: int) -> None:
    """Wait until a process that may be nobody's child here is gone."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = select.select([pidfd], [], [], DEADLINE)[0]
    os.close(pidfd)
    assert ended, f"process {pid} is still there"


@dataclass
class Machine:
    """A simulated machine: the folder of its processor, its keystore, and its two addresses.

    chip: the folder of its processor, where that is another machine's too. platform_name, starts_processes: as its
    platform has them.
    A machine of another platform has other ones of the methods from program() to another() (tests/sgx/machines.py).
    """

    name: str
    folder: Path
    host: str = "127.0.0.1"
    ops_host: str = "127.0.0.1"
    chip: Path | None = None
    platform_name: ClassVar[str] = "simulated"
    starts_processes: ClassVar[bool] = True
    started: list[Running] = field(default_factory=list, init=False)
    _held: list[socket.socket] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self._held += [reserve(self.host), reserve(self.ops_host)]

    @property
    def port(self) -> int:
        """Of the peers' listener."""
        return int(self._held[0].getsockname()[1])

    @property
    def ops_port(self) -> int:
        return int(self._held[1].getsockname()[1])

    @property
    def address(self) -> str:
        """Where peers ask it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def in_proc_net_tcp(self) -> str:
        """The same, as /proc/net/tcp writes it. By the port alone a row may be one of another address."""
        return f"{int.from_bytes(socket.inet_aton(self.host), sys.byteorder):08X}:{self.port:04X}"

    @property
    def ops(self) -> str:
        return f"{self.ops_host}:{self.ops_port}"

    @property
    def keystore(self) -> Path:
        return self.folder / "rkey.bin"

    @property
    def processor(self) -> Path:
        """The --machine folder."""
        return self.chip or self.folder / "machine"

    @property
    def record(self) -> bytes:
        return self.keystore.read_bytes()

    def audit(self) -> list[dict[str, Any]]:
        """The decisions in its audit file."""
        path = self.keystore.with_name("rkey.bin.audit.jsonl")
        return decisions_in(path) if path.exists() else []

    def kept(self) -> list[Path]:
        """The kept copies, by name."""
        return sorted(self.folder.glob("rkey.bin.kept.*"))

    def program(self) -> list[str]:
        """What is started."""
        return list(PROGRAM)

    def environment(self, **more: str) -> dict[str, str]:
        """What it is started with."""
        return environment(**more)

    def platform_words(self) -> list[str]:
        """The options that say which machine this is."""
        return ["--platform", "simulated", "--machine", str(self.processor)]

    def platform(self) -> Platform:
        """The same machine, in this process."""
        return SimulatedPlatform.open(self.processor, Clock())

    def new_policy(self) -> Policy:
        """The policy of a domain that is made here without one."""
        own = self.platform()
        return default_policy(own.name, mrsigner=own.mrsigner, isv_prod_id=own.isv_prod_id)

    def opener(self) -> Path:
        """The folder by which whoever has the machine opens its record (tests.fakes.key_scan.machine_in)."""
        return self.processor

    def another(self, name: str) -> Platform:
        """Another machine of the same platform, in this process: an attester as a peer's."""
        return SimulatedPlatform.open(self.folder / name, Clock())

    def words(self) -> list[str]:
        """The options that make a process this machine's."""
        return [
            *(*self.platform_words(), "--keystore", str(self.keystore)),
            *("--listen", self.address, "--ops", self.ops),
        ]

    def begin(self, *words: str, under: Sequence[str] = (), **env: str) -> Running:
        """Start a process with more options; do not wait for it. Of an option said twice the last counts."""
        command = [*under, *self.program(), *self.words(), *words]
        running = Running(command, cwd=self.folder, env=self.environment(**env))
        self.started.append(running)
        return running

    def start(self, *words: str, under: Sequence[str] = (), **env: str) -> Running:
        """Start a process and wait until it serves."""
        return self.begin(*words, under=under, **env).ready()

    def run(self, *words: str, under: Sequence[str] = (), **env: str) -> Ended:
        """Run a process that ends by itself."""
        return self.begin(*words, under=under, **env).wait()

    def command(self, *words: str, **env: str) -> Ended:
        """Run a command that serves nothing to its end, as on this machine; its words have to say which that is."""
        return finished([*self.program(), *words], cwd=self.folder, env=self.environment(**env))

    def status(self) -> dict[str, Any]:
        """What the running instance says of itself."""
        found: dict[str, Any] = httpx.get(f"http://{self.ops}/status", trust_env=False, timeout=DEADLINE).json()
        return found

    def close(self) -> None:
        """End what still runs; no process may have ended in a traceback."""
        # Whoever is killed writes no coverage; where none is measured, a clean stop would only take longer.
        number = signal.SIGTERM if any(name.startswith("COVERAGE_") for name in environment()) else signal.SIGKILL
        for running in self.started:
            if running.process.poll() is None:
                running.send(number)
        for held in self._held:
            held.close()
        for running in self.started:
            assert "Traceback" not in running.wait().err, running.wait().err


@dataclass
class Machines:
    """The machines of one test."""

    folder: Path
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, repr=False)

    def __call__(self, name: str, *, host: str = "127.0.0.1", beside: Machine | None = None) -> Machine:
        """A machine. beside: one whose processor it shares."""
        machine = Machine(name, self.folder / name, host=host, chip=None if beside is None else beside.processor)
        self._stack.callback(machine.close)
        return machine


@contextlib.contextmanager
def machines_in(folder: Path) -> Iterator[Machines]:
    """Machines in `folder`; their processes are ended with the context."""
    machines = Machines(folder)
    with machines._stack:
        yield machines


def rkeyserver(*words: str, cwd: Path, **env: str) -> Ended:
    """Run a command that serves nothing, like `inspect`, to its end."""
    return finished([*PROGRAM, *words], cwd=cwd, env=environment(**env))


def finished(command: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> Ended:
    """Run any command to its end."""
    if tuple(command[: len(PROGRAM)]) == PROGRAM:
        return Running(command, cwd=cwd, env=env).wait()
    done = subprocess.run(
        command,
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def opened(machine: Machine) -> Keyring:
    """The keyring in a machine's record, opened here as the machine itself opens it; the caller closes it."""
    return open_keyring(parse(machine.record), machine.platform())


def key_proof(machine: Machine) -> str:
    """What follows, one way, from the very root key in a machine's record: equal only where the key is."""
    with contextlib.closing(opened(machine)) as keyring, SecretBytes(32) as derived:
        root_key = keyring.root_key(keyring.current.id)
        derive_into(root_key, domain=keyring.domain, purpose="test", label=b"proof", into=derived.view)
        return hashlib.sha256(derived.view).hexdigest()
