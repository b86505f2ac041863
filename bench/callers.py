"""What callers on the local socket get, beside an empty request to the same server, SoftHSM and PyKMIP; and what one
caller gets while another one, or a storm of machines that join, asks without a pause.

docs/measured.md says what was found, and how.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from bench import other_kmip, other_pkcs11
from bench.load import PING
from bench.server import Server, free_port, server
from rkeyserver.appraisal.defaults import default_policy
from rkeyserver.clock import Clock
from rkeyserver.platforms.simulated.platform import SimulatedPlatform

CALLERS: Final = (1, 32)
ACTIONS: Final = ("derive", "wrap", "unwrap")
ROUNDS: Final = 5
SECONDS: Final = 0.6
OTHERS_SECONDS: Final = 2.0
FAIR_SECONDS: Final = 1.5
FAIR_ROUNDS: Final = 5
BEGIN_SECONDS: Final = 1.0  # until a noise is there
ENDLESS: Final = 10**6  # seconds or exchanges: noise is ended, it does not end
PAUSE: Final = 0.002
ANOTHER: Final = 64999  # a user that is not the one of the server
BACKUPS: Final = 16


@dataclass
class Calls:
    """What calls took, in seconds; over how many seconds; the server's CPU for one, one entry per round."""

    took: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cpu: list[float] = field(default_factory=list)

    def cells(self) -> list[str]:
        """Calls per second, p50, p99."""
        return [
            f"{len(self.took) / self.seconds:.0f}",
            *(f"{percentile(self.took, one) * 1000:.3f}" for one in (50, 99)),
        ]


def percentile(values: list[float], percent: int) -> float:
    """The least value that `percent` of 100 do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def _load(
    target: Server, what: str, callers: int, seconds: float, pause: float = 0, *who: str
) -> subprocess.Popen[bytes]:
    arguments = [str(target.socket), what, str(callers), str(seconds), str(pause), *who]
    return subprocess.Popen([sys.executable, "-m", "bench.load", *arguments], stdout=subprocess.PIPE)


def _took(process: subprocess.Popen[bytes]) -> list[float]:
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit("The asking side failed; it says why above.")
    return [float(one) for one in json.loads(out)]


def _calls(target: Server, callers: int) -> dict[str, Calls]:
    """All kinds in turns, for a machine's speed changes from minute to minute."""
    found = {what: Calls() for what in (PING, *ACTIONS)}
    for _ in range(ROUNDS):
        for what, calls in found.items():
            before = target.cpu()
            took = _took(_load(target, what, callers, SECONDS))
            calls.cpu.append((target.cpu() - before) / len(took))
            calls.took += took
            calls.seconds += SECONDS
    return found


def _own(table: Table, target: Server) -> None:
    for callers in CALLERS:
        found = _calls(target, callers)
        floor = found[PING]
        for what, calls in found.items():
            name = "rkeyserver: empty request, the floor" if what == PING else f"rkeyserver: {what}"
            ratio = f"{percentile(calls.took, 50) / percentile(floor.took, 50):.2f}"
            cpu = f"{statistics.median(one / base for one, base in zip(calls.cpu, floor.cpu, strict=True)):.2f}"
            table.add_row(name, str(callers), *calls.cells(), ratio, cpu)
        table.add_section()


def _others(table: Table, name: str, found: dict[str, list[float]], callers: int) -> None:
    for what, took in found.items():
        table.add_row(f"{name}: nearest to {what}", str(callers), *Calls(took, OTHERS_SECONDS).cells(), "", "")


def _asked(*arguments: str) -> dict[str, list[float]] | str:
    """What another program's loader found, or why there is nothing."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", *arguments], check=False, capture_output=True, text=True, timeout=120
    )
    if run.returncode:
        return (run.stderr.strip().splitlines() or ["no reason given"])[-1]
    found: dict[str, list[float]] = json.loads(run.stdout)
    return found


def _soft_hsm(table: Table, folder: Path) -> None:
    for callers in CALLERS:
        within = folder / f"softhsm-{callers}"
        within.mkdir()
        if other_pkcs11.library() is None:
            found: dict[str, list[float]] | str = "softhsm2 is not installed"
        else:
            found = _asked("bench.other_pkcs11", str(within), str(callers), str(OTHERS_SECONDS))
        if isinstance(found, str):
            table.add_row(f"SoftHSM: not measured: {found}", str(callers), "", "", "", "", "")
        else:
            _others(table, "SoftHSM", found, callers)


@contextlib.contextmanager
def _kmip_server(folder: Path) -> Iterator[int]:
    folder.mkdir()
    other_kmip.certify(folder)
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "bench.other_kmip", "serve", str(folder), str(port)]
    with (
        (folder / "said").open("wb") as said,
        subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True) as process,
    ):
        try:
            time.sleep(3)  # it says nothing when it is ready, and a probe of its port would be a broken handshake
            yield port
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # told to stop, it waits for its connections, and its helpers for it


def _py_kmip(table: Table, folder: Path) -> None:
    with _kmip_server(folder / "kmip") as port:
        for callers in CALLERS:
            found = _asked(
                "bench.other_kmip", "load", str(folder / "kmip"), str(port), str(callers), str(OTHERS_SECONDS)
            )
            if isinstance(found, str):
                table.add_row(f"PyKMIP: not measured: {found}", str(callers), "", "", "", "", "")
            else:
                _others(table, "PyKMIP", found, callers)


Noise = Callable[[Server], subprocess.Popen[bytes]]


@dataclass(frozen=True)
class Shared:
    """All processes have all CPUs."""

    title: str = "all on the same CPUs"

    def begins(self, server: Server) -> None:
        """Before each measurement, of the server that is measured."""

    def asks(self, process: subprocess.Popen[bytes]) -> None:
        """The one whose calls are measured."""

    def noise(self, process: subprocess.Popen[bytes]) -> None:
        """What makes the noise."""


@dataclass(frozen=True)
class Apart(Shared):
    """The server has a CPU to itself; what it starts and all others have another one, on which who asks goes first.

    So a wait for the server is what is measured, and not one for a CPU: machines that join have their own in life.
    """

    title: str = "the server on a CPU of its own"

    def begins(self, server: Server) -> None:
        """As Shared."""
        for pid in server.processes():
            for task in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(task.name), {0} if pid == server.pid else {1})

    def asks(self, process: subprocess.Popen[bytes]) -> None:
        """As Shared."""
        os.sched_setaffinity(process.pid, {1})
        os.sched_setscheduler(process.pid, os.SCHED_FIFO, os.sched_param(1))

    def noise(self, process: subprocess.Popen[bytes]) -> None:
        """As Shared."""
        os.sched_setaffinity(process.pid, {1})


def _quiet(target: Server, noise: subprocess.Popen[bytes] | None, cpus: Shared) -> list[float]:
    """What the quiet one's calls take while there is this noise; it ends with them."""
    if noise is not None:
        cpus.noise(noise)
        time.sleep(BEGIN_SECONDS)
    cpus.begins(target)
    asking = _load(target, "derive", 1, FAIR_SECONDS, PAUSE)
    cpus.asks(asking)
    try:
        return _took(asking)
    finally:
        if noise is not None:
            if noise.poll() is not None:
                raise SystemExit("The noise was over before its time.")
            noise.kill()
            noise.communicate()


def _joins(target: Server, folder: Path) -> subprocess.Popen[bytes]:
    arguments = [str(folder), str(target.port), str(BACKUPS), str(ENDLESS)]
    return subprocess.Popen([sys.executable, "-m", "bench.clients", *arguments], stdout=subprocess.PIPE)


def _fair(console: Console, target: Server, other: Server, folder: Path, cpus: Shared) -> None:
    """All in turns, and of each the median of its rounds: a machine's speed, and what else it does, changes meanwhile.

    Where CPUs are shared, the same noise at another server keeps the machine as busy: what is left of the difference is
    the server's.
    """
    noises: dict[str, Noise] = {"16 backups joining": lambda one: _joins(one, folder / "asking")}
    if os.geteuid() == 0:
        noises["32 connections of another user"] = lambda one: _load(one, "derive", 32, ENDLESS, 0, str(ANOTHER))
    else:
        console.print("One noisy caller: not measured, for two users are needed, and only root can be another one.")
    places = {"at this one": target} if isinstance(cpus, Apart) else {"at another server": other, "at this one": target}
    quiet = list[list[float]]()
    found = {(name, where): list[list[float]]() for name in noises for where in places}
    for _ in range(FAIR_ROUNDS):
        quiet.append(_quiet(target, None, cpus))
        for (name, where), rounds in found.items():
            rounds.append(_quiet(target, noises[name](places[where]), cpus))
    table = Table(
        "one quiet caller, derive",
        "p50",
        "p99",
        "p99 / quiet",
        title=f"Fairness, {cpus.title}, ms, medians of {FAIR_ROUNDS} rounds",
    )

    def p99(rounds: list[list[float]]) -> list[float]:
        return [percentile(one, 99) * 1000 for one in rounds]

    def row(name: str, rounds: list[list[float]]) -> None:
        p50 = statistics.median(percentile(one, 50) * 1000 for one in rounds)
        ratio = statistics.median(one / base for one, base in zip(p99(rounds), p99(quiet), strict=True))
        table.add_row(name, f"{p50:.3f}", f"{statistics.median(p99(rounds)):.3f}", f"{ratio:.2f}")

    row("quiet", quiet)
    for (name, where), rounds in found.items():
        row(f"{name}, {where}", rounds)
    console.print(table)


def _policy(folder: Path) -> Path:
    """The policy of a new machine, and one more user who may do the same."""
    platform = SimulatedPlatform.open(folder / "machine", Clock())
    text = default_policy(platform.name, mrsigner=platform.mrsigner, isv_prod_id=platform.isv_prod_id).text
    entry = f'\n[[callers]]\nuid = {ANOTHER}\nlabels = ["bench/*"]\nmay = ["derive", "wrap", "unwrap"]\n'
    path = folder / "policy.toml"
    path.write_text(text + entry)
    return path


def main(program: Path) -> None:
    """Measure everything in one run and print it."""
    console = Console(width=120)
    table = Table(
        "what", "callers", "calls/s", "p50 ms", "p99 ms", "p50 / floor", "CPU / floor", title="Callers, 32 bytes each"
    )
    with tempfile.TemporaryDirectory(prefix="rkeyserver-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # another user connects to a socket in it
        for one in ("one", "two"):
            (folder / one).mkdir(mode=0o711)
        options = ["--policy", str(_policy(folder / "one"))]
        with server(program, folder / "one", options=options) as target:
            _own(table, target)
            with server(program, folder / "two", options=["--policy", str(_policy(folder / "two"))]) as other:
                _fair(console, target, other, folder, Shared())
                if os.geteuid() == 0 and {0, 1} <= os.sched_getaffinity(0):
                    _fair(console, target, other, folder, Apart())
                else:
                    console.print("With a CPU of its own: not measured, for it takes two CPUs and root.")
        _soft_hsm(table, folder)
        table.add_section()
        _py_kmip(table, folder)
    console.print(table)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
