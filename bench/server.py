"""A real server process on loopback, and what the kernel says of it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import httpx

READY_SECONDS: Final = 20


def free_port() -> int:
    """A port of loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Server:
    """A running instance."""

    pid: int
    port: int
    ops: int
    socket: Path
    started: float  # seconds from the start of the process to its first answer

    def processes(self) -> list[int]:
        """It and its descendants: the verification processes and what Python starts for them."""
        found, waiting = [], [self.pid]
        while waiting:
            pid = waiting.pop()
            found.append(pid)
            for task in Path(f"/proc/{pid}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
        return found

    def cpu(self) -> float:
        """CPU seconds of all of them so far, all threads, by the scheduler's own count (nanoseconds)."""
        return (
            sum(
                int((task / "schedstat").read_text().split()[0])
                for pid in self.processes()
                for task in Path(f"/proc/{pid}/task").iterdir()
            )
            / 1e9
        )

    def resident(self) -> dict[int, int]:
        """Resident bytes of each process."""
        return {
            pid: int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
            for pid in self.processes()
        }


@contextlib.contextmanager
def server(
    program: Path,
    folder: Path,
    *,
    under: Sequence[str] = (),
    stderr: IO[str] | None = None,
    options: Sequence[str] = (),
) -> Iterator[Server]:
    """An instance of its own on a machine of its own; it is told to stop when the context ends.

    under: what the program is started by, if not by itself; it has to become the program's own process.
    options: more of the program's.
    """
    port, ops = free_port(), free_port()
    arguments = [
        *("--platform", "simulated", "--machine", str(folder / "machine"), "--keystore", str(folder / "rkey.bin")),
        *("--listen", f"127.0.0.1:{port}", "--ops", f"127.0.0.1:{ops}", "--log-level", "error"),
        *options,
    ]
    before = time.monotonic()
    with subprocess.Popen([*under, program, *arguments], stdout=sys.stderr, stderr=stderr) as process:
        try:
            yield Server(process.pid, port, ops, folder / "rkey.bin.socket", _first_answer(process, ops) - before)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _first_answer(process: subprocess.Popen[bytes], ops: int) -> float:
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end and process.poll() is None:
        # It does not listen yet.
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", ops), timeout=1) as connection:
            connection.sendall(request)
            if connection.recv(64).startswith(b"HTTP/1.1 200"):
                return time.monotonic()
        time.sleep(0.001)
    raise SystemExit(f"The server gave no answer within {READY_SECONDS} seconds (exit status {process.poll()}).")


def health(ops: int, seconds: float) -> list[float]:
    """Ask /healthz one time after the other for `seconds`; the seconds that each took."""
    took, end = [], time.monotonic() + seconds
    with httpx.Client(trust_env=False) as client:
        while time.monotonic() < end:
            before = time.monotonic()
            client.get(f"http://127.0.0.1:{ops}/healthz").raise_for_status()
            took.append(time.monotonic() - before)
            time.sleep(0.005)
    return took
