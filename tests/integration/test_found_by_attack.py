"""What an attacker got through with once: records overwritten or made anew, policies slipped in, a status that lies."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from tests.attacks.parties import changed
from tests.fakes.keyrings import OTHER_SECRET, SECRET, id_of, keyring_of, owner_of
from tests.fakes.processes import DEADLINE, PROGRAM, Ended, Machine, Machines, environment, reserve, rkeyserver

from rkeyserver.cli.talk import SECONDS
from rkeyserver.errors import EXIT_STATUS, Corrupt, Misuse, Unavailable
from rkeyserver.keyring.sealed import seal_keyring
from rkeyserver.keystore.file import FileKeystore
from rkeyserver.sealing import record

UNAVAILABLE, CORRUPT, MISUSE = (EXIT_STATUS[kind] for kind in (Unavailable, Corrupt, Misuse))
HERE, THERE = id_of(SECRET), id_of(OTHER_SECRET)


def sealed(machine: Machine, secret: bytes = SECRET, **said: Any) -> bytes:
    """A record of that machine, with a keyring of a domain that has this secret; said: of the keyring's header."""
    with contextlib.closing(keyring_of(secret=secret, **{"policy": machine.new_policy().text} | said)) as keyring:
        return seal_keyring(keyring, machine.platform(), owner_of(machine.folder.name), now=1)


def put(machine: Machine, data: bytes) -> bytes:
    """What a person does who restores a record."""
    machine.keystore.write_bytes(data)
    machine.keystore.chmod(0o600)
    return data


def files(machine: Machine) -> dict[str, bytes]:
    """What lies in the machine's own folder; locks say who has them."""
    return {one.name: one.read_bytes() for one in machine.folder.iterdir() if one.is_file() and one.suffix != ".lock"}


# A record that is restored while its machine asks another


def is_asked(host: Machine) -> None:
    """Wait until somebody is connected to the host; nobody tells when."""
    end, established = time.monotonic() + DEADLINE, "01"
    while True:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        if any(row[2] == host.in_proc_net_tcp and row[3] == established for row in rows):
            return
        assert time.monotonic() < end, "nobody asks"
        time.sleep(0.01)


RESTORED: dict[str, tuple[Callable[[Machine], bytes], str]] = {
    "of another domain": (lambda machine: sealed(machine, OTHER_SECRET), f"{HERE}; the record here is of {THERE}"),
    "of a later state": (lambda machine: sealed(machine, sequence=2), "is behind"),
    "of nothing": (lambda _machine: b"nonsense", "This is no record"),
}


@pytest.mark.sgx_too("of another domain")
@pytest.mark.parametrize(("restored", "says"), RESTORED.values(), ids=RESTORED)
def test_a_record_restored_while_its_machine_asks_stays(
    machines: Machines, restored: Callable[[Machine], bytes], says: str
) -> None:
    host, backup = machines("host"), machines("backup")
    put(host, sealed(host))
    before = restored(backup)
    asking = backup.begin("-i", host.address)
    asking.err.wait_for("Asking again in")
    put(backup, before)
    host.start()
    asking.err.wait_for(f"{says}|Serving as")
    assert "Successfully received" not in asking.out.text
    assert backup.record == before


@pytest.mark.sgx_too
def test_a_record_restored_in_the_midst_of_an_exchange_stays(machines: Machines) -> None:
    host, backup = machines("host"), machines("backup")
    put(host, sealed(host))
    before = sealed(backup, OTHER_SECRET)
    serving = host.start()
    serving.send(signal.SIGSTOP)
    try:
        asking = backup.begin("-i", host.address)
        is_asked(host)
        put(backup, before)
    finally:
        serving.send(signal.SIGCONT)
    asking.err.wait_for("was changed while the host was asked|Serving as")
    asking.err.wait_for(f"{HERE}; the record here is of {THERE}|Serving as")
    assert "Successfully received" not in asking.out.text
    assert backup.record == before


def test_what_a_restored_record_may_be_replaced_by_leaves_it_as_a_copy(machines: Machines) -> None:
    host, backup = machines("host"), machines("backup")
    put(host, sealed(host, sequence=2))
    before = sealed(backup)
    asking = backup.begin("-i", host.address)
    asking.err.wait_for("Asking again in")
    put(backup, before)
    host.start()
    asking.ready()
    assert backup.record != before
    assert [one.read_bytes() for one in backup.kept()] == [before]


def test_a_record_exchanged_under_a_standby_that_serves_is_not_lost(machines: Machines) -> None:
    host = machines("host")
    put(host, sealed(host, sequence=3))
    other, earlier = machines("other"), machines("earlier")
    for backup in (other, earlier):
        put(backup, sealed(backup, sequence=2))
        backup.start("-i", host.address)
    of_another_domain, of_an_earlier_state = put(other, sealed(other, OTHER_SECRET)), put(earlier, sealed(earlier))
    host.start()
    # Both ask on in the background, and hear that there is a later state.
    other.started[0].err.wait_for(f"{HERE}; the record here is of {THERE}")
    earlier.started[0].out.wait_for("Successfully received")
    assert other.record == of_another_domain
    assert other.status()["domain"] == HERE, "it serves what it has"
    assert [one.read_bytes() for one in earlier.kept()] == [of_an_earlier_state]


def test_a_record_exchanged_under_a_primary_that_lets_a_machine_in_is_not_lost(machines: Machines) -> None:
    """Whom it gave the keyring is written into its own record, and into no other."""
    host, new = machines("host"), machines("new")
    put(host, sealed(host))
    running = host.start()
    before = put(host, sealed(host, OTHER_SECRET))
    assert new.run("-i", host.address, "--once").status == 0
    assert [one["machine"] for one in host.status()["members"]] == list(host.status()["peers"])
    assert host.record == before
    assert host.kept() == []
    running.err.wait_for("is not the one that is served, and was left as it is")


# A keystore that is a link to what is not there


def link(machine: Machine, target: str) -> None:
    """Make the keystore a symbolic link; the folder `disk` is where a disk would be mounted."""
    (machine.folder / "disk").mkdir(exist_ok=True)
    machine.keystore.symlink_to(target)


LINKS = {
    "to a link": "link",
    "by an absolute path": "{folder}/disk/rkey.bin",
}


@pytest.mark.parametrize("target", LINKS.values(), ids=LINKS)
def test_behind_a_link_that_leads_nowhere_nothing_is_minted(machines: Machines, target: str) -> None:
    machine = machines("machine")
    (machine.folder / "link").symlink_to("disk/rkey.bin")
    link(machine, target.format(folder=machine.folder))
    ended = machine.run()
    assert ended.status == CORRUPT
    assert "is not there" in ended.err
    assert not machine.keystore.exists()
    assert {(line["event"], line["verdict"]) for line in machine.audit()} <= {("mint", "refused")}


@pytest.mark.sgx_too
def test_behind_a_link_into_a_disk_that_is_not_mounted_nothing_is_minted(machines: Machines) -> None:
    machine = machines("machine")
    link(machine, "disk/rkey.bin")
    before = put(machine, sealed(machine))
    (machine.folder / "disk").rename(machine.folder / "unmounted")
    (machine.folder / "disk").mkdir()
    assert machine.run().status == CORRUPT
    assert not any(one.name == "rkey.bin" for one in (machine.folder / "disk").iterdir())
    assert (machine.folder / "unmounted" / "rkey.bin").read_bytes() == before


# An audit file that is part of the keystore

AUDITS = {
    "the record": "rkey.bin",
    "the record, by a hard link": "second-name",
    "its lock": "rkey.bin.lock",
    "a kept copy that there may be once": "rkey.bin.kept.two",
}
OWN = AUDITS | {
    "the record, in other words": "machine/../rkey.bin",
    "the record, by a link": "link",
    "a kept copy": "rkey.bin.kept.one",
    "what is removed at each start": "rkey.bin.new~0123456789abcdef",
}
OTHERS = ["rkey.bin.audit.jsonl", "machine/rkey.bin", "rkey", "rkey.bin2", "link-to-nowhere"]


def lay_out(machine: Machine) -> None:
    """A record, and other names for it."""
    put(machine, sealed(machine))
    machine.keystore.with_name("rkey.bin.kept.one").write_bytes(b"{")
    machine.keystore.with_name("link").symlink_to("rkey.bin")
    machine.keystore.with_name("link-to-nowhere").symlink_to("nowhere")
    machine.keystore.with_name("second-name").hardlink_to(machine.keystore)


@pytest.mark.parametrize("audit", AUDITS.values(), ids=AUDITS)
def test_an_audit_file_that_is_part_of_the_keystore(machines: Machines, audit: str) -> None:
    machine = machines("machine")
    lay_out(machine)
    before = files(machine)
    ended = machine.run("--audit", str(machine.folder / audit))
    assert (ended.status, ended.out) == (MISUSE, "")
    assert "is part of the keystore" in ended.err
    assert files(machine) == before


def test_what_is_part_of_a_keystore(machines: Machines) -> None:
    machine = machines("machine")
    lay_out(machine)
    with FileKeystore.open(machine.keystore) as store:
        for name, path in OWN.items():
            assert store.owns(machine.folder / path), name
        for path in OTHERS:
            assert not store.owns(machine.folder / path), path


def test_an_audit_file_that_is_to_become_the_keystore(machines: Machines) -> None:
    machine = machines("machine")
    before = files(machine)
    ended = machine.run("--audit", str(machine.keystore))
    assert ended.status == MISUSE
    assert files(machine) == before
    running = machine.start()
    assert machine.status()["ways_back"]["record"] == 1
    running.stop()


# Records that say odd things of themselves


def deep(before: bytes) -> Callable[[bytes], bytes]:
    """A header that is nested as deeply as one may be long."""

    def make(_honest: bytes) -> bytes:
        return record.MAGIC + before + b"[" * (record.MAX_HEADER - len(before) - 2) + b"\n" + bytes(100)

    return make


def beyond_the_calendar(honest: bytes) -> bytes:
    parsed = record.parse(honest)
    header = msgspec.structs.replace(parsed.header, written=2**62)
    return record.MAGIC + msgspec.json.encode(header) + b"\n" + parsed.ciphertext


SLOT = b'{"domain":"%s","generations":["%s"],"epoch":0,"sequence":0,"written":0,"slots":[{"type":"platform","versions":'

ODD: dict[str, tuple[Callable[[bytes], bytes], int]] = {
    "written after the end of time": (beyond_the_calendar, 0),
    "lists in lists": (deep(b""), CORRUPT),
    "lists in a field that is none": (deep(b'{"x":'), CORRUPT),
    "lists in a field": (deep(b'{"domain":'), CORRUPT),
    "lists in a slot": (deep(SLOT % (b"0" * 32, b"0" * 32)), CORRUPT),
    "lists in a slot's type": (deep(b'{"slots":[{"type":'), CORRUPT),
}


DEEP = [name for name, (_make, status) in ODD.items() if status == CORRUPT]


@pytest.mark.parametrize("name", DEEP)
def test_a_header_of_lists_in_lists(name: str) -> None:
    with pytest.raises(Corrupt):
        record.parse(ODD[name][0](b""))


@pytest.mark.parametrize("name", ["written after the end of time", "lists in a slot's type"])
def test_a_record_that_says_odd_things_of_itself(machines: Machines, name: str) -> None:
    machine = machines("machine")
    make, status = ODD[name]
    before = put(machine, make(sealed(machine)))
    ended = rkeyserver("inspect", str(machine.keystore), cwd=machine.folder)
    assert ended.status == status, ended
    assert "Traceback" not in ended.err
    assert ("written      second 4611686018427387904\n" in ended.out) == (status == 0)
    ended = machine.run()
    assert (ended.status, ended.out) == (CORRUPT, "")
    assert machine.record == before


# A policy that nobody signed

LAXER: dict[str, tuple[dict[str, Any], str]] = {
    "in a later sequence": ({"sequence": 2}, "policy-not-believed"),
    "in the same state": ({}, "policy-not-believed"),
}


@pytest.mark.sgx_too
@pytest.mark.parametrize(("state", "reason"), LAXER.values(), ids=LAXER)
def test_another_policy_is_not_adopted(machines: Machines, state: dict[str, Any], reason: str) -> None:
    host, backup = machines("host"), machines("backup")
    policy = host.new_policy()
    laxer = changed(policy, min_isv_svn=0, tcb_statuses=["UpToDate", "SWHardeningNeeded", "ConfigurationNeeded"])
    put(host, sealed(host, policy=laxer.text, **state))
    put(backup, sealed(backup, policy=policy.text))
    host.start()
    before = backup.record
    backup.start("-i", host.address)
    assert backup.status()["policy"] == policy.digest
    join, opened = backup.audit()
    assert (join["event"], join["verdict"], join["reason"]) == ("join", "refused", reason)
    assert (opened["event"], opened["sequence"]) == ("open", 1)
    assert (backup.record, backup.kept()) == (before, [])


# `rkeyserver status` asks a port that any user may have been first to take

MOST_MEMORY: Final = 256 * 1024 * 1024
BOMB: Final = 400
HONEST: Final[dict[str, Any]] = {
    **dict.fromkeys(("domain", "machine", "protects", "key_memory", "started"), "x"),
    **dict.fromkeys(("epoch", "sequence", "hand_overs", "released"), 1),
    "role": "primary",
    "platform": "p",
    "record_problem": "",
    "ways_back_total": 2,
    "simulated": False,
    "generations": [],
    "slots": [],
    "refused": {},
    "peers": {},
    "ways_back": {"record": 1, "hosts": 1, "recovery": 0},
    "recovering": None,
    "member": "m",
    "primary": "m",
    "members": [],
    "coordinator": None,
    "audit": {"lines": 1, "head": "h", "chain": "c", "key": "k", "problem": ""},
    "drill": None,
    "provision": None,
    "callers": None,
    "collateral": {"pccs": None, "last_success": None, "last_error": None, "held": []},
}
HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


def answer(body: bytes) -> Iterator[bytes]:
    yield HEAD + b"content-length: %d\r\n\r\n" % len(body) + body


def endless() -> Iterator[bytes]:
    yield HEAD + b"\r\n"
    while True:
        yield b" " * 65536


def bomb() -> Iterator[bytes]:
    """What would be 400 MB if it were unpacked."""
    yield HEAD + b"content-encoding: gzip\r\n\r\n"
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    yield packer.compress(bytes(1024 * 1024)) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(bytes(1024 * 1024)) + packer.flush(zlib.Z_FULL_FLUSH)
    yield from [again] * (BOMB - 1)


def drips(first: bytes, then: bytes) -> Callable[[], Iterator[bytes]]:
    """Bytes that keep coming, and never are the whole answer."""

    def make() -> Iterator[bytes]:
        yield first
        while True:
            time.sleep(0.2)
            yield then

    return make


ESCAPES = "p\x1b]0;owned\x07\x1b[2J\nrole         standby\r\x9b1m\u202e"

HOLDERS: dict[str, tuple[Callable[[], Iterator[bytes]], list[str], int]] = {
    "an honest one": (lambda: answer(json.dumps(HONEST).encode()), [], 0),
    "terminal escapes": (
        lambda: answer(json.dumps(HONEST | {"platform": ESCAPES, "refused": {ESCAPES: 1}}).encode()),
        [],
        0,
    ),
    "terminal escapes, as JSON": (lambda: answer(json.dumps(HONEST | {"platform": ESCAPES}).encode()), ["--json"], 0),
    "escapes in the reason": (lambda: iter([b"HTTP/1.1 404 \x1b[2J\r\ncontent-length: 0\r\n\r\n"]), [], UNAVAILABLE),
    "lists in lists": (lambda: answer(b"[" * 500_000), [], UNAVAILABLE),
    "an endless number": (lambda: answer(b"9" * 500_000), [], UNAVAILABLE),
    "an endless body": (endless, [], UNAVAILABLE),
    "a packed body": (bomb, [], UNAVAILABLE),
    "a body that drips": (drips(HEAD + b"content-length: 100000\r\n\r\n", b" "), [], UNAVAILABLE),
    "heads that drip": (drips(HEAD, b"a: b\r\n"), [], UNAVAILABLE),
    "one head that drips": (drips(HEAD + b"a: ", b"b"), [], UNAVAILABLE),
    "nothing": (lambda: iter([b""]), [], UNAVAILABLE),
}


def serve(listener: socket.socket, parts: Iterator[bytes]) -> None:
    """Answer one client, until it has gone."""
    with contextlib.suppress(OSError), listener.accept()[0] as client:  # it has gone
        client.settimeout(DEADLINE)
        client.recv(65536)
        for part in parts:
            client.sendall(part)


@pytest.fixture(scope="module", autouse=True)
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Ended]]]:
    """What `rkeyserver status` says of each of them; all at once and from the first, since some take their time."""
    folder = tmp_path_factory.mktemp("status")
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(len(HOLDERS)) as pool:
        futures = {}
        for name, (parts, words, _status) in HOLDERS.items():
            listener = stack.enter_context(reserve())
            listener.listen()
            listener.settimeout(DEADLINE)
            threading.Thread(target=serve, args=(listener, parts()), daemon=True).start()
            ops = f"127.0.0.1:{listener.getsockname()[1]}"
            futures[name] = pool.submit(limited, "status", "--ops", ops, *words, cwd=folder)
        yield futures


def limited(*words: str, cwd: Path) -> Ended:
    """Run a command that has little memory."""
    done = subprocess.run(
        ["prlimit", f"--as={MOST_MEMORY}", *PROGRAM, *words],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=4 * SECONDS,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("name", HOLDERS)
def test_status_of_whatever_holds_the_port(asked: dict[str, Future[Ended]], name: str) -> None:
    ended = asked[name].result(2 * DEADLINE)
    assert ended.status == HOLDERS[name][2], ended
    assert "Traceback" not in ended.err
    shown = ended.out + ended.err
    assert all(line.isprintable() for line in shown.split("\n")), "a terminal obeys what it is shown"
    assert ended.out.count("\nrole ") == 0
