"""Machines with networks of their own: name spaces, and cables between them. Whoever is not root makes them in a name
space of users."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.fakes.processes import Ended, Machine, Running, environment

OWN_PLACES = """
set -e
mount -t tmpfs tmpfs "$1"
cp -a /etc/. "$1" 2>/dev/null || true
rm -f "$1"/rkey.bin*
mount --bind "$1" /etc
mount -t tmpfs tmpfs /var/lib
ip link set lo up
echo there
exec cat
"""


@dataclass
class Place:
    """A machine: the process that holds its name spaces open, and how to get into them."""

    holder: subprocess.Popen[str]
    folder: Path
    path: str
    env: dict[str, str]
    started: list[Running] = field(default_factory=list)

    def enter(self) -> list[str]:
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        return ["nsenter", f"--target={self.holder.pid}", *user, "--net", "--mount", "--"]

    def begin(self, *command: str) -> Running:
        running = Running([*self.enter(), *command], cwd=self.folder, env=self.env | {"PATH": self.path})
        self.started.append(running)
        return running

    def close(self) -> None:
        for running in self.started:
            if running.process.poll() is None:
                running.kill()

    def run(self, *command: str) -> Ended:
        return self.begin(*command).wait()

    def ip(self, *words: str) -> None:
        ended = self.run("ip", *words)
        assert ended.status == 0, ended


@contextlib.contextmanager
def place(machine: Machine, path: str, inside: Place | None = None) -> Iterator[Place]:
    """The name spaces of a machine; `inside`: made in the name space of users of that one."""
    folder = machine.folder
    etc = folder / "etc"
    etc.mkdir()
    program = folder / "bin" / "rkeyserver"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.join(machine.program())} "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}:{path}"
    command = ["unshare", "--net", "--mount", "sh", "-c", OWN_PLACES, "sh", str(etc)]
    if inside is None and os.geteuid() != 0:
        command.insert(1, "--map-root-user")
    if inside is not None and os.geteuid() != 0:
        command = ["nsenter", f"--target={inside.holder.pid}", "--user", "--preserve-credentials", "--", *command]
    with subprocess.Popen(
        command,
        env=environment(PATH=path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stderr is not None
        try:
            if holder.stdout.readline() != "there\n":
                pytest.fail(f"No name spaces for networks and mounts can be made here: {holder.stderr.read()}")
            with contextlib.closing(Place(holder, folder, path, machine.environment())) as made:
                if (held := machine.folder / "rkey.bin.collateral.json").exists():
                    assert made.run("cp", str(held), "/etc").status == 0
                yield made
        finally:
            holder.kill()


def programs() -> str:
    """The PATH on which the programs that make name spaces are."""
    path = f"{os.defpath}:/usr/sbin:/sbin"
    if shutil.which("ip", path=path) is None or shutil.which("nsenter", path=path) is None:
        pytest.fail("ip (iproute2) and nsenter (util-linux) are needed: tools/install-test-tools installs them.")
    return path


def cable(one: Place, name: str, other: Place, other_name: str) -> None:
    """A cable between two machines."""
    end = ("peer", "name", other_name, "netns", str(other.holder.pid))
    one.ip("link", "add", name, "type", "veth", *end)
