"""The commands of the README between two machines with addresses of their own, and everything else by default.

Each machine is a pair of name spaces: its network, and its mounts with an /etc and a /var/lib of its own, so that
/etc/rkey.bin and 10.23.100.2:8888 are what they say and nothing of this machine's is touched. Whoever is not root makes
them in a name space of users. The platform has to be said: `simulated` is never assumed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.fakes.processes import Ended, Machine, Machines, Running, environment

HOST, BACKUP = "10.23.100.2", "10.23.100.1"
HOST6, BACKUP6 = "fd00:10:23:100::2", "fd00:10:23:100::1"
RECEIVED = re.compile(r"INFO \[\S+\(\d+\) -> \w+\]: Successfully received the DomainKey from deploy server\.\n")
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


@pytest.fixture
def which(platform: str) -> list[str]:
    """The options that say what platform this is."""
    return ["--platform", platform]


@pytest.fixture
def network(machines: Machines) -> Iterator[tuple[Place, Place]]:
    """Host and backup, with a cable between them."""
    path = f"{os.defpath}:/usr/sbin:/sbin"
    if shutil.which("ip", path=path) is None or shutil.which("nsenter", path=path) is None:
        pytest.fail("ip (iproute2) and nsenter (util-linux) are needed: tools/install-test-tools installs them.")
    with place(machines("host"), path) as host, place(machines("backup"), path, host) as backup:
        host.ip("link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", str(backup.holder.pid))
        for one, address, address6 in ((host, HOST, HOST6), (backup, BACKUP, BACKUP6)):
            one.ip("address", "add", f"{address}/24", "dev", "cable")
            one.ip("address", "add", f"{address6}/64", "dev", "cable", "nodad")
            one.ip("link", "set", "cable", "up")
        yield host, backup


def shown(place: Place, name: str) -> list[str]:
    """What the record at its default place says."""
    ended = place.run("rkeyserver", "inspect")
    assert ended.status == 0, ended
    return re.findall(rf"^ *{name} +(\w+)$", ended.out, re.MULTILINE)


@pytest.mark.sgx_too
def test_two_machines_with_the_commands_of_the_readme(network: tuple[Place, Place], which: list[str]) -> None:
    host, backup = network
    before = sorted(Path("/etc").glob("rkey.bin*"))
    primary = host.begin("rkeyserver", *which).ready()
    assert "Serving as primary on [::]:8888, 0.0.0.0:8888; operations on 127.0.0.1:9888." in primary.err.text

    standby = backup.begin("rkeyserver", "-i", HOST, "-p", "8888", *which).ready()
    assert RECEIVED.fullmatch(standby.out.text)
    assert shown(backup, "domain") == shown(host, "domain")
    assert shown(backup, "generation") == shown(host, "generation")
    assert shown(backup, "machine") != shown(host, "machine")
    for one, role in ((host, "primary"), (backup, "standby")):
        said = one.run("rkeyserver", "status").out
        assert f"role         {role}" in said
        assert f"domain       {shown(host, 'domain')[0]}" in said
    standby.stop()

    # The port has a default, and IPv6 is as good; each time the file is there already.
    for words in (["-i", HOST], ["-i", f"[{HOST6}]:8888"], ["-i", HOST6]):
        ended = backup.run("rkeyserver", *words, "--once", *which)
        assert ended.status == 0, ended
        replaced, received = ended.out.splitlines(keepends=True)
        assert replaced == "file already exist, substitute by new file\n"
        assert RECEIVED.fullmatch(received)

    # The host is lost with its disk. The backup has the key, and gives it to the machine that takes its place.
    domain = shown(host, "domain")
    assert primary.kill().status == -signal.SIGKILL
    assert host.run("sh", "-c", "rm -rf /etc/rkey.bin* /var/lib/rkeyserver").status == 0
    standby = backup.begin("rkeyserver", "-i", HOST, *which).ready()
    assert "No host gave the keyring; serving from the own record and asking on." in standby.err.text
    ended = host.run("rkeyserver", "-i", BACKUP, "--once", *which)
    assert ended.status == 0, ended
    assert RECEIVED.fullmatch(ended.out)
    assert shown(host, "domain") == domain
    standby.stop()
    assert sorted(Path("/etc").glob("rkey.bin*")) == before, "nothing of this was on the machine itself"


def test_a_host_that_swallows_everything_is_no_reason_not_to_serve(
    network: tuple[Place, Place], which: list[str]
) -> None:
    """No answer, no refusal: packets vanish, as behind a firewall."""
    host, backup = network
    primary = host.begin("rkeyserver", *which).ready()
    assert backup.run("rkeyserver", "-i", HOST, "--once", *which).status == 0
    backup.ip("neighbour", "replace", HOST, "lladdr", "02:00:00:00:00:99", "dev", "cable", "nud", "permanent")
    standby = backup.begin("rkeyserver", "-i", HOST, *which).ready()
    assert f"No answer from {HOST}:8888 ({HOST}:8888: no answer in time)." in standby.err.text
    standby.stop()
    ended = backup.run("rkeyserver", "-i", HOST, "--wait", "1", "--keystore", "/etc/other.bin", *which)
    assert (ended.status, ended.out) == (4, "")
    primary.stop()
