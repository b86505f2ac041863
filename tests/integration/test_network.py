"""The commands of the README between two machines with addresses of their own, and everything else by default.

Each machine is a pair of name spaces: its network, and its mounts with an /etc and a /var/lib of its own, so that
/etc/rkey.bin and 10.23.100.2:8888 are what they say and nothing of this machine's is touched. Whoever is not root makes
them in a name space of users. The platform has to be said: `simulated` is never assumed.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.places import Place, cable, place, programs
from tests.fakes.processes import Machines

HOST, BACKUP = "10.23.100.2", "10.23.100.1"
HOST6, BACKUP6 = "fd00:10:23:100::2", "fd00:10:23:100::1"
RECEIVED = re.compile(r"INFO \[\S+\(\d+\) -> \w+\]: Successfully received the DomainKey from deploy server\.\n")


@pytest.fixture
def which(platform: str) -> list[str]:
    """The options that say what platform this is."""
    return ["--platform", platform]


@pytest.fixture
def network(machines: Machines) -> Iterator[tuple[Place, Place]]:
    """Host and backup, with a cable between them."""
    path = programs()
    with place(machines("host"), path) as host, place(machines("backup"), path, host) as backup:
        cable(host, "cable", backup, "cable")
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
