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
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from bench import parts
from bench.server import Server, health, server

STARTS: Final = 9
EXCHANGES: Final = 600
STORM_BACKUPS: Final = 16
QUIET_SECONDS: Final = 3.0


def percentile(values: list[float], percent: int) -> float:
    """The least value that `percent` of 100 do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def _clients(folder: Path, target: Server, backups: int) -> subprocess.Popen[bytes]:
    arguments = [str(folder), str(target.port), str(backups), str(EXCHANGES // backups)]
    return subprocess.Popen([sys.executable, "-m", "bench.clients", *arguments], stdout=subprocess.PIPE)


def _hand_overs(folder: Path, target: Server, backups: int) -> tuple[list[float], float, float]:
    """What each exchange took, all of them together, and the primary's CPU for one; seconds."""
    _answer(_clients(folder, target, 1))  # the first ones start what is started late
    before = target.cpu()
    took = _answer(_clients(folder, target, backups))
    return took, sum(took) / backups, (target.cpu() - before) / len(took)


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

    clients = _clients(folder, target, STORM_BACKUPS)
    asking = threading.Thread(target=ask)
    asking.start()
    _answer(clients)
    quiet_end.set()
    asking.join()
    return found


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"


def main() -> None:
    """Measure everything in one run and print it."""
    console = Console()
    table = Table("measured", "found", "expected", title=f"{os.cpu_count()} CPUs, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory(prefix="rkeyserver-bench-") as name:
        folder = Path(name)
        starts = []
        for _ in range(STARTS):
            with server(folder / "starts") as started:
                starts.append(started.started)
        table.add_row("first start ever, to first answer", _milliseconds(starts[0]), "")
        table.add_row(f"start, median of {STARTS - 1}", _milliseconds(statistics.median(starts[1:])), "under 400 ms")

        needed = parts.measure(folder)
        table.add_section()
        for part, seconds in (("verify", needed.verify), ("seal", needed.seal), ("sign", needed.sign)):
            table.add_row(f"CPU: {part}", _milliseconds(seconds), "")
        table.add_row("CPU: the parts' sum", _milliseconds(needed.total), "")

        with server(folder / "serving") as target:
            for backups in (1, STORM_BACKUPS):
                took, seconds, cpu = _hand_overs(folder / "asking", target, backups)
                table.add_section()
                asking = f"{backups} backup{'s' if backups > 1 else ''} asking"
                table.add_row(f"{asking}: hand-overs a second", f"{len(took) / seconds:.0f}", "")
                table.add_row(f"{asking}: p50", _milliseconds(percentile(took, 50)), "")
                table.add_row(f"{asking}: p99", _milliseconds(percentile(took, 99)), "")
                table.add_row(f"{asking}: primary's CPU for one", _milliseconds(cpu), "")
                table.add_row(f"{asking}: against the parts' sum", f"{cpu / needed.total:.2f}", "at most 1.50")
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
    main()
