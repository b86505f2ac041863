"""Run the store writer as a real process, also under strace(1) with its system calls made to fail or to kill.

strace is attached when the writer is about to begin and has done all its imports, so that the n-th call of a name
is the n-th call of the store. PATH of the writer's imports: the tree's own `src`.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WRITER = ROOT / "tests" / "fakes" / "store_writer.py"
DEADLINE = 30  # seconds; only ends a test that hangs

_CALL = re.compile(r"([a-z_0-9]+)\(")
# Calls of the allocator and for signals: they touch no file, and their number depends on the address space.
_NOT_OF_THE_STORE = {"brk", "mmap", "munmap", "mremap", "mprotect", "madvise", "futex", "rt_sigtimedwait"}


def writer_command(path: Path, *commands: str) -> list[str]:
    return [sys.executable, "-S", "-s", "-B", str(WRITER), str(path), *commands]


def writer_environment() -> dict[str, str]:
    return {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "PYTHONHASHSEED": "0", "PATH": os.environ["PATH"]}


@dataclass(frozen=True)
class Point:
    """The `number`-th call of system call `call` since the writer began."""

    call: str
    number: int
    line: str

    def inject(self, what: str) -> str:
        return f"inject={self.call}:{what}:when={self.number}"


@dataclass(frozen=True)
class Run:
    status: int
    output: list[str]
    log: str
    trace: list[str]

    def points(self) -> list[Point]:
        """Every system call of the run that could matter to a store, in order."""
        seen: dict[str, int] = {}
        points = []
        for line in self.trace:
            match = _CALL.match(line)
            if match and match[1] not in _NOT_OF_THE_STORE:
                seen[match[1]] = seen.get(match[1], 0) + 1
                points.append(Point(match[1], seen[match[1]], line))
        return points

    def find(self, pattern: str, nth: int = 1) -> Point:
        """The `nth` call whose line in the trace matches `pattern`."""
        found = [point for point in self.points() if re.match(pattern, point.line)]
        assert len(found) >= nth, f"no call {pattern!r} number {nth} in\n" + "\n".join(self.trace)
        return found[nth - 1]


def start(command: Sequence[str]) -> subprocess.Popen[str]:
    """A writer that runs until its first `wait`, and waits there."""
    writer = subprocess.Popen(
        command,
        env=writer_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    while (line := writer.stdout.readline()) != "waiting\n":
        if not line:
            end(writer)
            pytest.fail("the writer ended before it waited")
    return writer


def go(writer: subprocess.Popen[str]) -> None:
    writer.send_signal(signal.SIGUSR1)


def end(writer: subprocess.Popen[str]) -> None:
    writer.kill()
    writer.communicate(timeout=DEADLINE)


def run(path: Path, *commands: str) -> Run:
    """The writer from start to end, untraced."""
    done = subprocess.run(
        writer_command(path, *commands),
        env=writer_environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    return Run(done.returncode, done.stdout.splitlines(), done.stderr, [])


def traced(path: Path, commands: list[str], injections: list[str], log: Path) -> Run:
    """The writer, traced from its first `wait` on, with `injections` in the syntax of strace's -e."""
    return traced_command(writer_command(path, *commands), injections, log)


def traced_command(command: Sequence[str], injections: list[str], log: Path) -> Run:
    """Any program that waits as the writer does; otherwise as traced()."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.fail("strace is not installed; without it nothing here is tested (apt-get install strace)")
    writer = start(command)
    expressions = [word for injection in injections for word in ("-e", injection)]
    tracer = subprocess.Popen(
        [strace, "-y", "-s", "64", "-o", str(log), *expressions, "-p", str(writer.pid)],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert tracer.stderr is not None
        attached = tracer.stderr.readline()
        if "attached" not in attached:
            pytest.fail(f"strace could not attach to the writer: {attached}{tracer.stderr.read()}")
        go(writer)
        output, errors = writer.communicate(timeout=DEADLINE)
        tracer.wait(timeout=DEADLINE)
    finally:
        for process in (writer, tracer):
            if process.poll() is None:
                process.kill()
        tracer.communicate(timeout=DEADLINE)
    return Run(writer.returncode, output.splitlines(), errors, log.read_text().splitlines())
