"""`make bench`: what a hand-over costs and what a server takes. docs/measured.md says what was found, and how."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from bench import parts, work
from bench.server import Server, health, server

STARTS: Final = 9
BLOCKS: Final = 7
BLOCK: Final = 128
STORM: Final = 640
STORM_BACKUPS: Final = 16
QUIET_SECONDS: Final = 3.0


def percentile(values: list[float], percent: int) -> float:
    """The least value that `percent` of 100 do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def _clients(folder: Path, target: Server, backups: int, exchanges: int) -> subprocess.Popen[bytes]:
    arguments = [str(folder), str(target.port), str(backups), str(exchanges // backups)]
    return subprocess.Popen([sys.executable, "-m", "bench.clients", *arguments], stdout=subprocess.PIPE)


@dataclass
class HandOvers:
    """What was found with so many backups asking. Seconds; one entry of cpu, alone and paced per block of exchanges.

    alone: the parts in a loop. paced: the parts at the pace at which the hand-overs came.
    """

    backups: int
    took: list[float] = field(default_factory=list)
    elapsed: float = 0.0
    cpu: list[float] = field(default_factory=list)
    alone: list[parts.Parts] = field(default_factory=list)
    paced: list[parts.Parts] = field(default_factory=list)


def _hand_overs(folder: Path, target: Server, backups: int) -> HandOvers:
    """Blocks of exchanges in turns with blocks of the parts: a machine's speed changes from minute to minute.

    As many processes measure the parts as there are CPUs that the backups keep busy.
    """
    found = HandOvers(backups)
    processes = min(backups, os.cpu_count() or 1)
    _answer(_clients(folder, target, backups, backups))  # the first ones start what is started late
    for _ in range(BLOCKS):
        before = target.cpu()
        took = _answer(_clients(folder, target, backups, BLOCK))
        found.cpu.append((target.cpu() - before) / len(took))
        found.took += took
        found.elapsed += sum(took) / backups
        found.alone.append(parts.measure(processes, 0))
        found.paced.append(parts.measure(processes, processes * found.elapsed / len(found.took)))
    return found


def _answer(process: subprocess.Popen[bytes]) -> list[float]:
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit("The asking side failed; it says why above.")
    return [float(one) for one in json.loads(out)]


def _storm(folder: Path, target: Server) -> list[float]:
    quiet_end = threading.Event()
    found: list[float] = []

    def ask() -> None:
        while not quiet_end.is_set():
            found.extend(health(target.ops, 0.2))

    clients = _clients(folder, target, STORM_BACKUPS, STORM)
    asking = threading.Thread(target=ask)
    asking.start()
    _answer(clients)
    quiet_end.set()
    asking.join()
    return found


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"


def _report(table: Table, found: HandOvers) -> None:
    asking = f"{found.backups} backup{'s' if found.backups > 1 else ''} asking"
    table.add_section()
    table.add_row(f"{asking}: hand-overs a second", f"{len(found.took) / found.elapsed:.0f}", "")
    table.add_row(f"{asking}: p50", _milliseconds(percentile(found.took, 50)), "")
    table.add_row(f"{asking}: p99", _milliseconds(percentile(found.took, 99)), "")
    table.add_row(f"{asking}: primary's CPU for one", _milliseconds(statistics.median(found.cpu)), "")
    for name, blocks in (("in a loop", found.alone), ("at that pace", found.paced)):
        each = {part: statistics.median(getattr(one, part) for one in blocks) for part in ("verify", "seal", "sign")}
        split = ", ".join(f"{part} {seconds * 1000:.2f}" for part, seconds in each.items())
        ratio = statistics.median(cpu / one.total for cpu, one in zip(found.cpu, blocks, strict=True))
        table.add_row(f"  the parts {name}: {split}", _milliseconds(sum(each.values())), "")
        table.add_row(f"  CPU for one against the parts {name}", f"{ratio:.2f}", "at most 1.50")


def _report_work(table: Table, program: Path, folder: Path) -> None:
    """What a start opens and imports; inside an enclave every file of it is hashed first."""
    table.add_section()
    for name, found in (("a start's work", work.of_a_start(program, folder)), ("  bare python -IS", work.of_nothing())):
        table.add_row(f"{name}: modules imported", str(found.modules), "")
        table.add_row(f"{name}: files opened, opens in all", f"{found.files}, {found.opens}", "")
        table.add_row(f"{name}: bytes of these files", f"{found.bytes / 1e6:.1f} MB", "")
    enclave = program.with_name("enclave")
    if enclave.is_dir():
        number, size = work.of_files(enclave)
        table.add_row("the enclave's tree: files, each of them trusted", f"{number}, {size / 1e6:.1f} MB", "")


def main(program: Path) -> None:
    """Measure everything in one run and print it."""
    console = Console()
    table = Table("measured", "found", "expected", title=f"{os.cpu_count()} CPUs, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory(prefix="rkeyserver-bench-") as name:
        folder = Path(name)
        starts = []
        for _ in range(STARTS):
            with server(program, folder / "starts") as started:
                starts.append(started.started)
        table.add_row("first start ever, to first answer", _milliseconds(starts[0]), "")
        table.add_row(f"start, median of {STARTS - 1}", _milliseconds(statistics.median(starts[1:])), "under 400 ms")
        _report_work(table, program, folder / "starts")

        with server(program, folder / "serving") as target:
            for backups in (1, STORM_BACKUPS):
                _report(table, _hand_overs(folder / "asking", target, backups))
            table.add_section()
            quiet, storm = health(target.ops, QUIET_SECONDS), _storm(folder / "asking", target)
            for what, values in (("quiet", quiet), ("16 backups asking", storm)):
                table.add_row(f"health request, {what}: p50", _milliseconds(percentile(values, 50)), "")
                table.add_row(f"health request, {what}: p99", _milliseconds(percentile(values, 99)), "")
            table.add_section()
            resident = target.resident()
            table.add_row("resident, the server", f"{resident.pop(target.pid) / 1e6:.1f} MB", "under 60 MB")
            table.add_row("resident, its largest helper", f"{max(resident.values()) / 1e6:.1f} MB", "under 60 MB")
    console.print(table)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
