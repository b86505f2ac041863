"""What both acts of the demo are told with: a narrator, and machines that are simulated."""
# ruff: noqa: T201 - a program, in no package, that prints

from __future__ import annotations

import json
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

PROGRAM: Final = Path("rkeyserver") / "rkeyserver"
READY_SECONDS: Final = 20.0
WIDTH: Final = 110
SIMULATED_WARNING: Final = "Platform simulated: nothing here is protected."
BOLD, PLAIN = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")


def tell(text: str) -> None:
    """A paragraph of the story."""
    print("\n".join(textwrap.wrap(" ".join(text.split()), WIDTH)))


def scene(number: int, title: str) -> None:
    """Begin a part of the story."""
    print(f"\n{BOLD}{number}. {title}{PLAIN}")


def show(output: str, *, warning: bool = False) -> None:
    """What a program said; without the warning that each start on this platform begins with, unless that is wanted."""
    for line in output.strip().splitlines():
        if SIMULATED_WARNING in line and not warning:
            continue
        print(textwrap.fill(line, WIDTH, initial_indent="   | ", subsequent_indent="   |   "))


def show_command(*words: str) -> None:
    """A command as somebody types it."""
    print("\n".join(textwrap.wrap(f"$ {' '.join(words)}", WIDTH, initial_indent="   ", subsequent_indent="       ")))


def expect(condition: object, what: str) -> None:
    """Raises: SystemExit if something did not happen that the story told."""
    if not condition:
        sys.exit(f"demo: this did not happen as told: {what}.")


def free_port() -> int:
    """A port of loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(what: str, found: Callable[[], bool]) -> None:
    """Wait for that.

    Raises: SystemExit if it does not come.
    """
    end = time.monotonic() + READY_SECONDS
    while not found():
        expect(time.monotonic() < end, what)
        time.sleep(0.1)


@dataclass
class Machine:
    """One simulated machine: a folder for its processor, a keystore, and the program that runs on it."""

    name: str
    home: Path
    program: Path
    port: int = field(default_factory=free_port)
    ops: int = field(default_factory=free_port)
    process: subprocess.Popen[str] | None = None

    @property
    def keystore(self) -> Path:
        """Where its sealed record lies."""
        return self.home / "rkey.bin"

    @property
    def socket(self) -> str:
        """Where its programs ask its instance; the kernel takes 107 characters."""
        return str(self.home / "socket")

    def command(self, *more: str) -> list[str]:
        """The command line of its instance."""
        return [
            *(str(self.program), "--platform", "simulated", "--machine", str(self.home / "processor")),
            *("--keystore", str(self.keystore), "--listen", f"127.0.0.1:{self.port}", "--ops", f"127.0.0.1:{self.ops}"),
            *("--socket", self.socket, *more),
        ]

    def start(self, *more: str, warning: bool = False) -> None:
        """Start its instance and wait until that serves; show what it said by then."""
        self.begin(*more)
        self.wait_for("Serving as")
        show("\n".join(self.said()), warning=warning)

    def begin(self, *more: str) -> None:
        """Start its instance."""
        self.home.mkdir(parents=True, exist_ok=True)
        log = self.home / "log"
        with log.open("w") as output:
            self.process = subprocess.Popen(  # noqa: S603 - the program that was just built
                self.command(*more), stdout=output, stderr=subprocess.STDOUT, text=True
            )

    def wait_for(self, text: str) -> None:
        """Wait until its instance says that."""
        process, end = self.process, time.monotonic() + READY_SECONDS
        while not any(text in line for line in self.said()):
            alive = process is not None and process.poll() is None and time.monotonic() < end
            expect(alive, f"{self.name} says {text!r}:\n" + "\n".join(self.said()))
            time.sleep(0.02)

    def fails(self, *more: str) -> tuple[int, str]:
        """Start its instance, which is to give up: its exit status and what it said."""
        self.home.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(  # noqa: S603 - as in start()
            self.command(*more), capture_output=True, text=True, timeout=READY_SECONDS, check=False
        )
        return done.returncode, done.stdout + done.stderr

    def run(self, *words: str) -> str:
        """Run a command of the program that has to succeed; what it printed."""
        done = subprocess.run(  # noqa: S603 - as in begin()
            [str(self.program), *words], capture_output=True, text=True, timeout=READY_SECONDS, check=False
        )
        expect(done.returncode == 0, f"rkeyserver {' '.join(words)}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def ask(self, *words: str) -> str:
        """Run a command that asks its instance."""
        return self.run(*words, "--ops", f"127.0.0.1:{self.ops}")

    def status(self) -> dict[str, Any]:
        """What `rkeyserver status --json` says of it."""
        found: dict[str, Any] = json.loads(self.ask("status", "--json"))
        return found

    def identity(self) -> str:
        """The line by which a policy names it."""
        return self.run("identity", "--platform", "simulated", "--machine", str(self.home / "processor")).strip()

    def said(self) -> list[str]:
        """The lines of its log."""
        return (self.home / "log").read_text().splitlines()

    def end(self, *, kill: bool = False) -> None:
        """End its instance, if there is one."""
        if self.process is not None:
            (self.process.kill if kill else self.process.terminate)()
            self.process.wait()
            self.process = None


def keys(machine: Machine) -> tuple[str, list[str]]:
    """The ids of its domain and root keys."""
    status = machine.status()
    return status["domain"], [one["id"] for one in status["generations"]]
