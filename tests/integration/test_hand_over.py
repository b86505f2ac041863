"""What an operator does and sees: two machines, the first one dies, a third joins; and how each step is refused."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.fakes.keyrings import keyring_of, owner_of
from tests.fakes.processes import DEADLINE, Ended, Machine, Machines, key_proof, reserve, wait_for_end_of

from rkeyserver.errors import EXIT_STATUS, Corrupt, Misuse, Rejected, Unavailable
from rkeyserver.keyring.sealed import seal_keyring
from rkeyserver.sealing.record import parse
from rkeyserver.service.join import FIRST_SECONDS

RECEIVED = re.compile(r"INFO \[[\w/]+\.py\(\d+\) -> \w+\]: Successfully received the DomainKey from deploy server\.\n")
REPLACED = "file already exist, substitute by new file\n"
REFUSED, UNAVAILABLE, CORRUPT, MISUSE = (EXIT_STATUS[kind] for kind in (Rejected, Unavailable, Corrupt, Misuse))
FULL = 1024 * 1024


def domain_of(machine: Machine) -> str:
    return str(machine.status()["domain"])


def minted(machine: Machine) -> str:
    """Make a domain on `machine` and stop it; the domain's id."""
    running = machine.start()
    domain = domain_of(machine)
    running.stop()
    return domain


def joined(machine: Machine, host: Machine, *words: str) -> Ended:
    """Fetch once from a host that runs."""
    ended = machine.run("-i", host.address, "--once", *words)
    assert ended.status == 0, ended
    return ended


def files(folder: Path) -> dict[str, bytes]:
    """All that a machine's folder holds but locks, which say who has them, and audit files, which grow."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in {".lock", ".jsonl"}]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.mark.sgx_too
def test_a_root_key_on_two_machines_outlives_the_first(machines: Machines) -> None:
    first, second, third = machines("first"), machines("second"), machines("third")
    host = first.start()
    assert host.out.text == ""
    status = first.status()
    domain, generations = status["domain"], status["generations"]
    assert status["role"] == "primary"

    backup = second.start("-i", first.host, "-p", str(first.port))
    assert RECEIVED.fullmatch(backup.out.text)
    assert second.status()["role"] == "standby"

    workers = host.children()
    assert bool(workers) == first.starts_processes
    assert host.kill().status == -signal.SIGKILL
    for worker in workers:
        wait_for_end_of(worker)
    late = third.start("-i", second.address)
    assert RECEIVED.fullmatch(late.out.text)

    again = first.start()
    assert again.out.text == ""
    for machine in (first, second, third):
        found = machine.status()
        assert (found["domain"], found["generations"]) == (domain, generations)
    assert len({key_proof(machine) for machine in (first, second, third)}) == 1
    assert len({machine.record for machine in (first, second, third)}) == 3
    # A standby that has had the time shows what it holds, by another hand-over.
    assert events(first) == ["mint", "hand-over", "open"]
    assert events(second) == ["join", "acknowledge", "hand-over"]
    for running in (backup, late, again):
        running.stop()


def test_key_proof_tells_domains_apart(machines: Machines) -> None:
    one, other = machines("one"), machines("other")
    assert minted(one) != minted(other)
    assert key_proof(one) != key_proof(other)


def test_a_rewritten_record_is_announced_and_the_same_keyring_leaves_no_copy(machines: Machines) -> None:
    host, backup = machines("host"), machines("backup")
    host.start()
    assert RECEIVED.fullmatch(joined(backup, host).out)
    before = backup.record
    out = joined(backup, host).out
    assert out.startswith(REPLACED)
    assert RECEIVED.fullmatch(out.removeprefix(REPLACED))
    assert backup.record != before, "sealed anew"
    assert backup.kept() == []


@pytest.mark.sgx_too
def test_another_domain_is_refused_with_both_ids_named(machines: Machines) -> None:
    host, other = machines("host"), machines("other")
    there, here = minted(host), minted(other)
    before = files(other.folder)
    host.start()
    ended = other.run("-i", host.address, "--once", "--wait", "0")
    assert (ended.status, ended.out) == (REFUSED, "")
    assert f"The host's keyring is of domain {there}; the record here is of {here}." in ended.err
    assert f"say --domain {there}" in ended.err
    assert files(other.folder) == before
    running = other.start("-i", host.address)
    assert domain_of(other) == here, "it serves what it has, and goes on asking"
    running.stop()
    assert files(other.folder) == before


@pytest.mark.sgx_too
def test_domain_option_adopts_that_very_one_and_keeps_what_was_there(machines: Machines) -> None:
    host, other = machines("host"), machines("other")
    there, here = minted(host), minted(other)
    before = other.record
    host.start()
    ended = joined(other, host, "--domain", there)
    assert ended.out.startswith(REPLACED)
    assert key_proof(other) == key_proof(host)
    (kept,) = other.kept()
    assert kept.name == f"rkey.bin.kept.domain-{here}.epoch-0.sequence-1"
    assert kept.read_bytes() == before
    # The copy is a record like any other: on the processor that sealed it, it is the old domain again.
    back = machines("back", beside=other)
    back.keystore.write_bytes(before)
    back.start("--domain", here)
    assert domain_of(back) == here


def events(machine: Machine) -> list[str]:
    """What its audit file has, each kind once, in the order of the first."""
    return list(dict.fromkeys(line["event"] for line in machine.audit()))


def wait_for_line(machine: Machine, event: str) -> dict[str, Any]:
    """The first line of its audit file of such an event, as soon as there is one."""
    end = time.monotonic() + DEADLINE
    while not (found := [line for line in machine.audit() if line["event"] == event]):
        assert time.monotonic() < end, f"no {event} in time"
        time.sleep(0.1)
    return found[0]


def stored(machine: Machine, *names: str, sequence: int) -> None:
    """Give a machine that does not run a record of one domain, with root keys of these names."""
    with contextlib.closing(keyring_of(names, sequence=sequence, policy=machine.new_policy().text)) as keyring:
        machine.keystore.write_bytes(seal_keyring(keyring, machine.platform(), owner_of(machine.folder.name), now=1))
    machine.keystore.chmod(0o600)


@pytest.mark.sgx_too
def test_a_host_that_is_ahead_replaces_and_what_was_there_is_kept(machines: Machines) -> None:
    host, backup = machines("host"), machines("backup")
    stored(host, "one", "two", sequence=2)
    stored(backup, "one", sequence=1)
    before = backup.record
    host.start()
    assert joined(backup, host).out.startswith(REPLACED)
    assert key_proof(backup) == key_proof(host)
    (kept,) = backup.kept()
    assert kept.name == f"rkey.bin.kept.domain-{domain_of(host)}.epoch-0.sequence-1"
    assert kept.read_bytes() == before


def test_a_host_that_is_behind_takes_nothing_away(machines: Machines) -> None:
    host, backup = machines("host"), machines("backup")
    stored(host, "one", sequence=1)
    stored(backup, "one", "two", sequence=2)
    before = backup.record
    host.start()
    running = backup.start("-i", host.address)
    assert f"Host {host.address} is behind" in running.err.text
    assert (running.out.text, backup.status()["sequence"], backup.record) == ("", 2, before)
    # It serves what it has, and shows the host that there is more than that one knows.
    told = [(line["event"], line["verdict"]) for line in backup.audit()]
    assert told == [("open", "accepted"), ("acknowledge", "accepted")]
    assert backup.kept() == []
    running.stop()


@pytest.mark.sgx_too
def test_a_host_that_went_another_way_is_refused(machines: Machines) -> None:
    host, backup = machines("host"), machines("backup")
    stored(host, "one", "two", sequence=2)
    stored(backup, "one", "three", sequence=3)
    before = files(backup.folder)
    host.start()
    ended = backup.run("-i", host.address, "--once", "--wait", "0")
    assert (ended.status, ended.out) == (REFUSED, "")
    assert "it is at epoch 0, sequence 2, this at epoch 0, sequence 3." in ended.err
    assert files(backup.folder) == before
    assert backup.audit()[-1]["reason"] == "not-an-extension"


OTHER_DOMAIN = "00112233445566778899aabbccddeeff"

DOMAIN_CASES: dict[str, tuple[list[str], int, str]] = {
    "an empty keystore": ([], MISUSE, f"The keystore is empty, and --domain asks for {OTHER_DOMAIN}"),
    "an own record of another": (["own"], REFUSED, f"--domain asks for {OTHER_DOMAIN}."),
    "a host with another": (["host"], REFUSED, f"--domain asks for {OTHER_DOMAIN}."),
    "a host with another and an own record of that": (["own", "host"], REFUSED, f"--domain asks for {OTHER_DOMAIN}."),
    "no host there and an own record of another": (["own", "dead"], UNAVAILABLE, "No answer from 127.0.0.1"),
}


@pytest.mark.parametrize(("given", "status", "says"), DOMAIN_CASES.values(), ids=DOMAIN_CASES)
def test_domain_option_refuses_to_mint_open_or_adopt_another(
    machines: Machines, given: list[str], status: int, says: str
) -> None:
    host, here = machines("host"), machines("here")
    if given:
        host.start()
    if "own" in given:
        joined(here, host)
    before = files(here.folder)
    asked = host.address
    if "dead" in given:
        host.started[0].stop()
    words = ["-i", asked, "--wait", "0"] if {"host", "dead"} & set(given) else []
    ended = here.run(*words, "--domain", OTHER_DOMAIN)
    assert (ended.status, ended.out) == (status, "")
    assert says in ended.err
    assert {name: data for name, data in files(here.folder).items() if not name.startswith("machine/")} == {
        name: data for name, data in before.items() if not name.startswith("machine/")
    }


@pytest.mark.sgx_too
def test_hosts_down_and_an_own_record_serves_and_asks_on(machines: Machines) -> None:
    host, backup, third = machines("host"), machines("backup"), machines("third")
    host.start()
    joined(backup, host)
    host.started[0].kill()
    running = backup.start("-i", host.address)
    assert "WARNING" in running.err.text
    assert "No host gave the keyring; serving from the own record and asking on. (unavailable)" in running.err.text
    assert running.out.text == ""
    joined(third, backup)
    host.start()
    # What it gets from there it has already: it shows so, and the host has proved what it holds.
    shown = wait_for_line(backup, "acknowledge")
    assert (shown["verdict"], shown["domain"], shown["peer"]["address"]) == ("accepted", domain_of(host), host.address)
    assert shown["peer"]["machine"] == host.status()["machine"]
    assert backup.status()["ways_back"]["hosts"] == 1
    assert key_proof(third) == key_proof(backup) == key_proof(host)
    running.stop()


def test_no_record_and_no_host_asks_for_as_long_as_wait_says(machines: Machines) -> None:
    backup = machines("backup")
    with reserve() as dead:
        ended = backup.run("-i", f"127.0.0.1:{dead.getsockname()[1]}", "--wait", "2.5")
    assert (ended.status, ended.out) == (UNAVAILABLE, "")
    pauses = [float(text) for text in re.findall(r"Asking again in ([\d.]+) seconds", ended.err)]
    assert len(pauses) >= 2, "it asked once only"
    assert sum(pauses) <= 2.7
    assert "No answer from 127.0.0.1" in ended.err
    assert ended.err.splitlines()[-1].startswith("rkeyserver: No answer from"), "said last, for people"
    assert not backup.keystore.exists(), "a standby never mints"
    assert backup.audit() == []


def test_wait_of_nothing_asks_once(machines: Machines) -> None:
    backup = machines("backup")
    with reserve() as dead:
        ended = backup.run("-i", f"127.0.0.1:{dead.getsockname()[1]}", "--wait", "0")
    assert ended.status == UNAVAILABLE
    assert ended.err.count("No answer from") == 2, "one attempt, and the last word"
    assert "Asking again" not in ended.err


def test_a_host_that_comes_up_within_wait_is_found(machines: Machines) -> None:
    host, backup = machines("host"), machines("backup")
    running = backup.begin("-i", host.address)
    running.err.wait_for("Asking again in")
    assert backup.status()["domain"] is None, "operations answer meanwhile"
    host.start()
    running.ready()
    assert RECEIVED.fullmatch(running.out.text)
    running.stop()


@pytest.mark.sgx_too
def test_two_standbys_that_ask_each_other_serve_what_they_have(machines: Machines) -> None:
    """A cold start of everything: none may wait for the other to be up first."""
    host, one, other = machines("host"), machines("one"), machines("other")
    host.start()
    joined(one, host)
    joined(other, host)
    host.started[0].stop()
    started = [one.begin("-i", other.address), other.begin("-i", one.address)]
    for running in started:
        running.ready()
    assert domain_of(one) == domain_of(other)
    for running in started:
        running.stop()


def test_hosts_are_tried_in_order(machines: Machines) -> None:
    host, other, backup = machines("host"), machines("other"), machines("backup")
    host.start()
    other.start()
    with reserve() as dead:
        nobody = f"127.0.0.1:{dead.getsockname()[1]}"
        ended = backup.run("-i", nobody, "-i", other.address, "-i", host.address, "--once")
    assert ended.status == 0
    assert f"{nobody} does not answer" in ended.err
    assert key_proof(backup) == key_proof(other)
    assert [line["event"] for line in host.audit()] == ["mint"], "it was not asked"


@pytest.mark.parametrize(
    "host_words",
    [
        pytest.param(lambda host: ["-i", f"127.0.0.1:{host.port}"], id="HOST:PORT"),
        pytest.param(lambda host: ["-i", "127.0.0.1", "-p", str(host.port)], id="-p"),
        pytest.param(lambda host: ["--host", "localhost", "--port", str(host.port)], id="a name"),
        pytest.param(lambda host: ["-i", f"localhost:{host.port}", "-p", "1"], id="HOST:PORT over -p"),
    ],
)
def test_how_a_host_is_named(machines: Machines, host_words: Callable[[Machine], list[str]]) -> None:
    host, backup = machines("host"), machines("backup")
    host.start()
    ended = backup.run(*host_words(host), "--once")
    assert ended.status == 0, ended
    assert key_proof(backup) == key_proof(host)


@pytest.mark.parametrize("bare", [False, True], ids=["[::1]:port", "::1 and -p"])
def test_a_host_on_ipv6(machines: Machines, bare: bool) -> None:  # noqa: FBT001 - a case
    host, backup = machines("host", host="::1"), machines("backup")
    host.start()
    words = ["-i", "::1", "-p", str(host.port)] if bare else ["-i", f"[::1]:{host.port}"]
    ended = backup.run(*words, "--once")
    assert ended.status == 0, ended
    assert key_proof(backup) == key_proof(host)


@pytest.mark.sgx_too
def test_a_stolen_record_opens_nowhere_else(machines: Machines) -> None:
    owner, thief = machines("owner"), machines("thief")
    minted(owner)
    thief.keystore.write_bytes(owner.record)
    ended = thief.run()
    assert (ended.status, ended.out) == (CORRUPT, "")
    assert re.search(r"sealed by machine [0-9a-f]{32}; this is machine [0-9a-f]{32}\. It opens only there\.", ended.err)
    owner.start()
    ended = thief.run("-i", owner.address)
    assert (ended.status, ended.out) == (CORRUPT, ""), "it may be the only copy that machine has"
    assert thief.record == owner.record
    assert thief.kept() == []
    assert [line["event"] for line in owner.audit()] == ["mint", "open"], "the host was not even asked"


def test_a_link_to_the_record_is_followed_and_stays(machines: Machines) -> None:
    host, backup = machines("host"), machines("backup")
    host.start()
    real = backup.folder / "store" / "key"
    real.parent.mkdir()
    backup.keystore.symlink_to("store/key")
    joined(backup, host)
    assert joined(backup, host).out.startswith(REPLACED)
    assert backup.keystore.readlink() == Path("store/key")
    assert real.is_file()
    assert real.stat().st_mode & 0o777 == 0o600
    assert key_proof(backup) == key_proof(host)


@pytest.mark.sgx_too
def test_a_second_process_is_told_who_holds_the_keystore(machines: Machines) -> None:
    host, second = machines("host"), machines("second")
    running = host.start()
    before = host.record
    ended = second.run("--keystore", str(host.keystore))
    assert (ended.status, ended.out) == (UNAVAILABLE, "")
    assert f"The keystore is held by process {running.pid} on " in ended.err
    assert host.record == before


def test_a_port_that_is_taken_is_named_before_anything_is_made(machines: Machines) -> None:
    host, second = machines("host"), machines("second")
    host.start()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = f"127.0.0.1:{listener.getsockname()[1]}"
        ended = second.run("--listen", taken)
    assert ended.status == UNAVAILABLE
    assert f"Cannot listen on {taken}: Address already in use." in ended.err
    assert not second.keystore.exists()


@pytest.mark.sgx_too("standby that asks on-15")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("state", ["primary", "standby that asks on", "standby that waits"])
def test_signals_stop_it_cleanly(machines: Machines, number: signal.Signals, state: str) -> None:
    host, machine = machines("host"), machines("machine")
    if state == "primary":
        running = machine.start()
    elif state == "standby that asks on":
        host.start()
        joined(machine, host)
        host.started[0].kill()
        running = machine.start("-i", host.address)
    else:
        running = machine.begin("-i", host.address)
        running.err.wait_for("Asking again in")
    children = running.children()
    running.send(number)
    assert running.notified() == "STOPPING=1"
    ended = running.wait()
    assert ended.status == 0, ended
    assert "Stopping." in ended.err
    for child in children:
        wait_for_end_of(child)
    assert (machine.folder / "rkey.bin.lock").read_bytes() == b"", "nobody holds it"
    assert machine.keystore.exists() == (state != "standby that waits")


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 128 + signal.SIGINT), (signal.SIGHUP, -signal.SIGHUP)],
    ids=["TERM", "INT", "HUP"],
)
def test_a_fetch_that_is_stopped_does_not_look_done(machines: Machines, number: signal.Signals, status: int) -> None:
    host, backup = machines("host"), machines("backup")
    running = backup.begin("-i", host.address, "--once")
    running.err.wait_for("Asking again in")
    running.send(number)
    assert running.wait().status == status
    assert not backup.keystore.exists()


def test_nohup_keeps_it_running_when_its_terminal_ends(machines: Machines) -> None:
    machine = machines("machine")
    running = machine.start(under=["nohup"])
    running.send(signal.SIGHUP)
    assert machine.status()["role"] == "primary"
    assert running.stop().err.endswith("Stopping.\n")


def test_hosts_that_hang_keep_an_own_record_from_being_served_for_some_seconds_only(machines: Machines) -> None:
    host, backup = machines("host"), machines("backup")
    host.start()
    joined(backup, host)
    with contextlib.ExitStack() as stack:
        hung = [stack.enter_context(reserve()) for _ in range(3)]
        words = []
        for listener in hung:
            listener.listen()
            words += ["-i", f"127.0.0.1:{listener.getsockname()[1]}"]
        before = time.monotonic()
        running = backup.start(*words)
        assert FIRST_SECONDS <= time.monotonic() - before < 2 * FIRST_SECONDS
        assert "serving from the own record and asking on. (no answer in time)" in running.err.text
        before = time.monotonic()
        running.stop()
        assert time.monotonic() - before < FIRST_SECONDS


@pytest.mark.parametrize("unreached_first", [True, False], ids=["unreached first", "unreached last"])
def test_one_host_that_did_not_answer_makes_it_worth_trying_again(machines: Machines, unreached_first: bool) -> None:  # noqa: FBT001 - a case
    other, gone, backup = machines("other"), machines("gone"), machines("backup")
    other.start()
    hosts = [gone, other] if unreached_first else [other, gone]
    asked = [word for host in hosts for word in ("-i", host.address)]
    ended = backup.run(*asked, "--once", "--wait", "0", "--domain", "0" * 32)
    assert ended.status == UNAVAILABLE, ended
    assert f"No answer from {gone.address}" in ended.err.splitlines()[-1]


def test_hosts_of_another_domain_are_asked_once(machines: Machines) -> None:
    one, two, backup = machines("one"), machines("two"), machines("backup")
    one.start()
    two.start()
    ended = backup.run("-i", one.address, "-i", two.address, "--wait", "3600", "--domain", "0" * 32)
    assert ended.status == REFUSED, ended
    assert [line["reason"] for line in backup.audit()] == ["another-domain"] * 2


@pytest.mark.sgx_too
def test_decisions_are_recorded_before_their_effect(machines: Machines) -> None:
    """With an audit file that takes nothing, there is no key, no hand-over and no serving."""
    host, backup = machines("host"), machines("backup")
    audit = host.folder.parent / "full"
    audit.write_bytes(b"\n" * FULL)
    full, limit = ("--audit", str(audit)), ("prlimit", f"--fsize={FULL}")
    ended = host.run(*full, under=limit)
    assert (ended.status, host.keystore.exists()) == (UNAVAILABLE, False)
    minted(host)
    ended = host.run(*full, under=limit)
    assert ended.status == UNAVAILABLE
    assert f"The audit file {audit} cannot be written: File too large." in ended.err
    host.start()
    before, proof, state = files(host.folder), key_proof(host), parse(host.record).header
    ended = backup.run("-i", host.address, "--once", "--wait", "0", *full, under=limit)
    assert (ended.status, ended.out, backup.keystore.exists()) == (UNAVAILABLE, "", False)
    # The host has recorded the hand-over, and whom it gave the keyring to: nothing else is another.
    after = files(host.folder)
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == {"rkey.bin"}
    header = parse(host.record).header
    assert [one.machine for one in header.members] == list(host.status()["peers"])
    anew = msgspec.structs.replace(header.slot, wrapped=state.slot.wrapped)  # it is sealed under another key
    assert msgspec.structs.replace(header, members=[], written=state.written, slots=[anew]) == state
    assert (key_proof(host), state.members) == (proof, [])


@pytest.mark.sgx_too
def test_audit_lines(machines: Machines) -> None:
    host, backup = machines("host"), machines("backup")
    host.start()
    joined(backup, host)
    mint, handed = host.audit()
    (join,) = backup.audit()
    domain = domain_of(host)
    assert (mint["event"], mint["verdict"], mint["domain"], mint["sequence"]) == ("mint", "accepted", domain, 1)
    machine = host.status()["machine"]
    assert (join["domain"], join["peer"]["machine"], join["peer"]["address"]) == (domain, machine, host.address)
    assert handed["peer"]["address"] == "127.0.0.1"
    assert [handed["peer"]["machine"]] == list(host.status()["peers"])
    assert handed["policy"] == join["policy"] == host.status()["policy"]
    assert re.fullmatch("[0-9a-f]{128}", handed["transcript"])
    assert handed["peer"]["tcb_status"] == join["peer"]["tcb_status"] == "UpToDate"


@pytest.mark.parametrize("streams", [">/dev/full", ">&-", ">&- 2>&-"], ids=["full", "closed", "both closed"])
def test_nobody_reads_what_it_prints(machines: Machines, streams: str) -> None:
    """The record is stored by then: a reader that went away must not end a server that has the key."""
    host, backup, third = machines("host"), machines("backup"), machines("third")
    host.start()
    joined(backup, host)
    running = backup.start("-i", host.address, under=["sh", "-c", f'exec "$@" {streams}', "sh"])
    if streams == ">/dev/full":
        assert "Could not print 'file already exist, substitute by new file'" in running.err.text
    joined(third, backup)
    running.stop()
