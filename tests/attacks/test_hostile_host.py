"""What a hostile host can hand the enclave beside its options: the one folder, the clock, what is said to be a quote.

docs/threat-model.md lists every byte of it. Whatever it is: no key is made where a domain was named or anything of a
record is there, nothing outside of the one folder is touched, a record that does not open stays as it is, and the
program ends by itself in one clear sentence.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import pytest
from tests.attacks.hostile_host import RECORD, Came, Host, Prepare, World, host_in
from tests.fakes.admins import key
from tests.fakes.processes import DEADLINE
from tests.sgx.machines import IMAGE, collateral
from tests.sgx.state import FAILS, Fault

from rkeyserver.appraisal.orders import Forget, Order, Promote, Retire, Rotate, name_of, sign_order, text_of
from rkeyserver.keystore.store import MAX_RECORD
from rkeyserver.platforms.simulated.processor import open_processor
from rkeyserver.service.routes import ORDERS_PATH, POLICY_PATH

OTHER_DOMAIN: Final = "0123456789abcdef" * 2
LOOPBACK: Final[dict[str, object]] = {"listen": ["127.0.0.1:0"], "ops": "127.0.0.1:0"}
# Asks for the key where nobody has it, once: a start that ends by itself also where the record opens.
ASKING: Final[dict[str, object]] = {"host": ["127.0.0.1:1"], "wait-ms": 0, "once": True}
AUDIT: Final = f"{RECORD}.audit.jsonl"
MISUSE, REJECTED, UNAVAILABLE, CORRUPT = 2, 3, 4, 5


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with host_in(tmp_path_factory.mktemp("host")) as made:
        yield made


@pytest.fixture(autouse=True)
def _mended(host: Host) -> Iterator[None]:
    yield
    host.machine.mend()
    host.machine.stand.change(attestation_type="dcap", processor=str(host.machine.processor))


def ends_in_one_sentence(came: Came) -> None:
    said = [line for line in came.err.splitlines() if not re.match(r"(INFO|WARNING|ERROR) \[", line)]
    assert "Traceback" not in came.err
    if came.status:
        assert len(said) == 1, came.err
        assert said[0].startswith("rkeyserver: ")
    else:
        assert said == []


def made_no_key(came: Came) -> None:
    assert not came.minted


def at(name: str, make: Callable[[Path], object]) -> Prepare:
    return lambda state: make(state / name)


def holding(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def leading_to(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


def sparse(size: int) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        path.touch()
        os.truncate(path, size)

    return make


def shape(path: Path) -> tuple[int, bytes | str]:
    """What lies there, as far as it can be looked at."""
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return mode, str(path.readlink())
    small = stat.S_ISREG(mode) and path.stat().st_size <= 2 * MAX_RECORD
    return mode, path.read_bytes() if small else ""


def sockets(path: Path) -> None:
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as one:  # its whole path may be too long
        one.bind(path.name)


# No link leads to anything outside of a test's own folders but below /proc: where links are seen, they are followed.
RECORDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a folder": (Path.mkdir, "is a folder"),
    "a FIFO that nobody writes to": (os.mkfifo, "is a FIFO"),
    "a socket": (sockets, "it cannot be told whether it holds a record"),
    "a loop of links": (leading_to(RECORD), "loop of symbolic links"),
    "a link to nowhere": (leading_to("none"), ""),
    "a link to no folder": (leading_to("no/folder"), "not there"),
    "empty": (holding(b""), "is empty"),
    "a terabyte": (sparse(2**40), "bytes; a record has at most"),
    "a byte too many": (sparse(MAX_RECORD + 1), "bytes; a record has at most"),
    "zeros": (sparse(4096), ""),
    "another format": (holding(b"rkeyserver-record/v2\n{}"), ""),
    "no format": (holding(b"\x00\xff" * 500), ""),
    "its own memory": (leading_to("/proc/self/mem"), "Could not lock"),
    "what the kernel makes up": (leading_to("/proc/self/environ"), "Could not lock"),
}


@pytest.mark.parametrize("domain", [True, False], ids=["a domain is named", "none is named"])
@pytest.mark.parametrize(("make", "says"), RECORDS.values(), ids=RECORDS)
def test_what_is_no_record_is_not_taken_for_none(
    host: Host, make: Callable[[Path], object], says: str, *, domain: bool
) -> None:
    named = {"domain": host.domain} if domain else {}
    case = host.case("serve", LOOPBACK | named, at(RECORD, make))
    before = shape(case.state / RECORD)
    came = host.run(case)
    assert came.status in {MISUSE, CORRUPT, UNAVAILABLE}, came
    assert says in came.err
    ends_in_one_sentence(came)
    made_no_key(came)
    assert shape(case.state / RECORD) == before


def cut(host: Host) -> bytes:
    return host.genuine[:-1]


def changed_at_the_end(host: Host) -> bytes:
    return host.genuine[:-1] + bytes([host.genuine[-1] ^ 1])


def of_another_machine_by_its_header(host: Host) -> bytes:
    return host.genuine.replace(host.machine.ppid.encode(), b"0" * 32)


def of_another_domain_by_its_header(host: Host) -> bytes:
    return host.genuine.replace(host.domain.encode(), OTHER_DOMAIN.encode())


def twice(host: Host) -> bytes:
    return host.genuine * 2


FORGED: Final = (cut, changed_at_the_end, of_another_machine_by_its_header, of_another_domain_by_its_header, twice)


@pytest.mark.parametrize("forge", FORGED, ids=lambda one: one.__name__)
def test_a_record_that_was_changed_does_not_open_and_stays(host: Host, forge: Callable[[Host], bytes]) -> None:
    data = forge(host)
    assert data != host.genuine
    for command, options, statuses in (
        ("serve", LOOPBACK, {CORRUPT}),
        ("serve", ASKING, {UNAVAILABLE, CORRUPT}),  # a peer would bring it back, unless it is another machine's
        ("doctor", {}, {CORRUPT}),
    ):
        came = host.run(host.case(command, options, at(RECORD, holding(data))))
        assert came.status in statuses, came
        made_no_key(came)
        assert (came.state / RECORD).read_bytes() == data
        if command == "serve":
            ends_in_one_sentence(came)


def test_the_record_of_another_machine_does_not_open(host: Host, tmp_path: Path) -> None:
    open_processor(tmp_path / "other")
    host.machine.stand.change(processor=str(tmp_path / "other"))
    case = host.case("serve", LOOPBACK, host.with_its_record)
    came = host.run(case)
    assert came.status == CORRUPT
    ends_in_one_sentence(came)
    made_no_key(came)
    assert (case.state / RECORD).read_bytes() == host.genuine


def nothing(_state: Path) -> None:
    pass


# Whether there is a trace of a key, so that without a domain none is made either.
EMPTY: dict[str, tuple[Callable[[Host], Prepare], bool, str]] = {
    "kept copies without their record": (
        lambda host: at(f"{RECORD}.kept.domain-x.sequence-1", holding(host.genuine)), True, "was there once"),
    "something kept": (lambda _host: at(f"{RECORD}.kept.", Path.mkdir), True, "was there once"),
    "an audit file that knows of a key": (lambda host: at(AUDIT, holding(host.audit)), True, "audit file"),
    "a write that was not finished": (lambda host: at(f"{RECORD}.new~{'0' * 16}", holding(host.genuine)), False, ""),
    "nothing at all": (lambda _host: nothing, False, ""),
}  # fmt: skip


@pytest.mark.parametrize(("make", "trace", "says"), EMPTY.values(), ids=EMPTY)
def test_a_record_that_was_taken_away_is_not_replaced_by_a_new_key(
    host: Host, make: Callable[[Host], Prepare], says: str, *, trace: bool
) -> None:
    for named in ({"domain": host.domain}, {})[: 1 + trace]:
        case = host.case("serve", LOOPBACK | named, make(host))
        before = Came.of(case).minted  # by what the host put there
        came = host.run(case)
        assert came.status in ({MISUSE, CORRUPT} if named else {CORRUPT}), came
        assert named or says in came.err
        ends_in_one_sentence(came)
        assert came.minted == before
        assert not (came.state / RECORD).exists()


def beside_damaged_collateral(path: Path) -> None:
    path.mkdir()
    path.with_suffix("").write_bytes(b"[" * 10_000)


# What lies at the other names, and with what status a start ends that has its record and asks nobody; None where a
# start goes on without it, and then nobody answers.
BESIDE: dict[str, tuple[str, Callable[[Path], object], int | None]] = {
    "a lock that is a folder": (f"{RECORD}.lock", Path.mkdir, MISUSE),
    "a lock that is a FIFO": (f"{RECORD}.lock", os.mkfifo, MISUSE),
    "a lock that is a device": (f"{RECORD}.lock", leading_to("/dev/null"), MISUSE),
    "a lock that is a link out": (f"{RECORD}.lock", leading_to("../../outside/file"), MISUSE),
    "a lock with a note of a megabyte": (f"{RECORD}.lock", sparse(2**20), None),
    "an audit file that is a folder": (AUDIT, Path.mkdir, UNAVAILABLE),
    "an audit file that is a FIFO": (AUDIT, os.mkfifo, MISUSE),
    "an audit file that is a device": (AUDIT, leading_to("/dev/null"), UNAVAILABLE),
    "an audit file that is a link out": (AUDIT, leading_to("../outside/file"), UNAVAILABLE),
    "an audit file that is another's": (AUDIT, holding(b"of the host's own"), MISUSE),
    "an audit file of lies": (AUDIT, holding(b'{"at":"x","event":"mint","verdict":"accepted"}\n' * 1000), None),
    "collateral that is a folder": (f"{RECORD}.collateral.json", Path.mkdir, None),
    "collateral that is a device": (f"{RECORD}.collateral.json", leading_to("/dev/zero"), None),
    "collateral that is no JSON": (f"{RECORD}.collateral.json", holding(b"[" * 10_000), None),
    "collateral that is empty": (f"{RECORD}.collateral.json", holding(b""), None),
    "collateral of a gigabyte": (f"{RECORD}.collateral.json", sparse(2**30), None),
    "a kept copy that is a folder": (f"{RECORD}.kept.a", Path.mkdir, None),
    "a kept copy that is a FIFO": (f"{RECORD}.kept.a", os.mkfifo, None),
    "a kept copy that is a link out": (f"{RECORD}.kept.a", leading_to("../outside/file"), None),
    "a kept copy with a terminal's commands": (f"{RECORD}.kept.\x1b[2J", holding(b"x"), None),
    "a name that is no UTF-8": ("\udcff\udcfe", holding(b"x"), None),
    "a statement that is a folder": (f"{RECORD}.minted", Path.mkdir, None),
    "a statement that is a link out": (f"{RECORD}.minted", leading_to("../outside/file"), None),
    "no place where collateral is set aside": (f"{RECORD}.collateral.json.damaged", beside_damaged_collateral, None),
    "a new record that is a folder": (f"{RECORD}.new~{'0' * 16}", Path.mkdir, None),
    "a new record that is a link out": (f"{RECORD}.new~{'0' * 16}", leading_to("../outside/file"), None),
}


@pytest.mark.parametrize(("name", "make", "status"), BESIDE.values(), ids=BESIDE)
def test_what_lies_beside_the_record(host: Host, name: str, make: Callable[[Path], object], status: int | None) -> None:
    def instead(state: Path) -> None:
        (state / name).unlink(missing_ok=True)
        make(state / name)

    case = host.case("serve", ASKING, host.with_its_record, instead)
    came = host.run(case)
    assert came.status == (UNAVAILABLE if status is None else status), came
    assert ("No answer from" in came.err) == (status is None)
    ends_in_one_sentence(came)
    if name != AUDIT:
        made_no_key(came)
    assert (case.state / RECORD).read_bytes() == host.genuine
    assert "\x1b" not in came.err


COORDINATED: Final[dict[str, object]] = {"coordinator": "etcds://127.0.0.1:1"}
FILES: dict[str, tuple[dict[str, object], Callable[[Path], object], str]] = {
    "no CA": ({"pccs": "https://127.0.0.1:1", "pccs-ca": "given"}, nothing, "No such file"),
    "a CA that is a folder": ({"pccs": "https://127.0.0.1:1", "pccs-ca": "given"}, Path.mkdir, "cannot be used"),
    "a CA that is no PEM": (
        {"pccs": "https://127.0.0.1:1", "pccs-ca": "given"},
        holding(b"x" * 5000),
        "cannot be used",
    ),
    "a CA that is the record": ({"pccs": "https://127.0.0.1:1", "pccs-ca": RECORD}, nothing, "cannot be used"),
    "no CA of a coordinator": (COORDINATED | {"coordinator-ca": "given"}, nothing, "cannot be used"),
    "a CA of a coordinator that is a folder": (COORDINATED | {"coordinator-ca": "given"}, Path.mkdir, "cannot be used"),
    "a certificate that is the record": (
        COORDINATED | {"coordinator-cert": RECORD, "coordinator-key": RECORD},
        nothing,
        "cannot be used",
    ),
    "a key without end": (
        COORDINATED | {"coordinator-cert": "given", "coordinator-key": "given"},
        holding(b"x" * 5_000_000),
        "cannot be used",
    ),
    "no change": ({"recover": True, "change": "given"}, nothing, "cannot be read"),
    "a change that is a folder": ({"recover": True, "change": "given"}, Path.mkdir, "cannot be read"),
    "a change without end": ({"recover": True, "change": "given"}, leading_to("/dev/zero"), "has more than"),
    "a change that is no text": ({"recover": True, "change": "given"}, holding(b"\xff"), "UTF-8"),
    "a change that is nonsense": ({"recover": True, "change": "given"}, holding(b"a=1"), "given: "),
    "the record for an audit file": ({"audit": RECORD}, nothing, "part of the keystore"),
    "the lock for an audit file": ({"audit": f"{RECORD}.lock"}, nothing, "part of the keystore"),
    "the record for collateral": ({"collateral": RECORD}, nothing, "part of the keystore"),
    "the audit file for collateral": ({"collateral": AUDIT}, nothing, "is the audit file"),
    "a folder that is not there": ({"audit": "none/audit"}, nothing, "cannot be opened"),
    "a folder that is the kernel's": ({"keystore": "given/self/status"}, leading_to("/proc"), ""),
}


@pytest.mark.parametrize(("options", "make", "says"), FILES.values(), ids=FILES)
def test_a_file_that_an_option_names(
    host: Host, options: dict[str, object], make: Callable[[Path], object], says: str
) -> None:
    named = LOOPBACK | {"domain": host.domain} | options
    case = host.case("serve", named, host.with_its_record, at("given", make))
    came = host.run(case)
    assert came.status in {MISUSE, CORRUPT, UNAVAILABLE}, came
    assert says in came.err
    ends_in_one_sentence(came)
    made_no_key(came)
    assert (case.state / RECORD).read_bytes() == host.genuine


def test_a_record_that_changes_while_it_is_read(host: Host) -> None:
    """Whole, or an error: never half of one and half of another, and never none."""
    case = host.case("serve", ASKING, host.with_its_record)
    record, stop = case.state / RECORD, threading.Event()

    def change() -> None:
        while not stop.is_set():
            record.write_bytes(host.genuine[: len(host.genuine) // 2])
            record.write_bytes(host.genuine + b"more")
            record.write_bytes(host.genuine)

    changing = threading.Thread(target=change)
    changing.start()
    try:
        for _ in range(8):
            came = host.run(case)
            assert came.status in {CORRUPT, UNAVAILABLE}, came
            ends_in_one_sentence(came)
            made_no_key(came)
    finally:
        stop.set()
        changing.join()


NO_STATE: dict[str, Callable[[Path], object]] = {
    "nothing": nothing,
    "a file": holding(b"x"),
    "a device": leading_to("/dev/null"),
    "a loop": leading_to("state"),
    "the kernel's folder": leading_to("/proc"),
}


@pytest.mark.parametrize("make", NO_STATE.values(), ids=NO_STATE)
def test_a_mount_that_is_no_folder_of_records(host: Host, make: Callable[[Path], object]) -> None:
    for options in (LOOPBACK | {"domain": host.domain, "keystore": "self"}, LOOPBACK | {"keystore": "self"}):
        case = host.case("serve", options)
        for one in case.state.iterdir():
            one.unlink()
        case.state.rmdir()
        make(case.state)
        came = host.run(case)
        assert came.status in {MISUSE, CORRUPT, UNAVAILABLE}, came
        ends_in_one_sentence(came)


CLOCKS: dict[str, float] = {
    "before 1970": -1,
    "1970": 0,
    "a year back": 31_536_000.0,
    "2096": 4e9,
    "beyond the calendar": 253_402_300_800,
    "beyond anything": 1e13,
}


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
def test_a_clock_that_lies_makes_no_key_and_keeps_the_record(host: Host, clock: float) -> None:
    # A new domain: its policy is tried on this machine, with collateral that is not in force at that time.
    came = host.run(host.case("serve", LOOPBACK), World(clock=clock))
    assert came.status in {REJECTED, UNAVAILABLE}, came
    ends_in_one_sentence(came)
    made_no_key(came)
    assert not (came.state / RECORD).exists()
    came = host.run(host.case("serve", ASKING, host.with_its_record), World(clock=clock))
    assert came.status == UNAVAILABLE
    assert "No answer from" in came.err
    assert (came.state / RECORD).read_bytes() == host.genuine
    came = host.run(host.case("doctor", {}, host.with_its_record), World(clock=clock))
    assert "the record opens here now" in came.out


WORLDS: dict[str, World] = {
    "no thread can begin": World(threads=0),
    "one thread can begin": World(threads=1),
    "no processor": World(cpus=0),
    "a million processors": World(cpus=10**6),
}


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_a_host_that_gives_few_threads_gets_no_key_for_it(host: Host, world: World) -> None:
    came = host.run(host.case("serve", LOOPBACK | {"domain": OTHER_DOMAIN}, host.with_its_record), world)
    assert came.status == REJECTED
    ends_in_one_sentence(came)
    came = host.run(host.case("doctor", {}, host.with_its_record), world)
    assert "the record opens here now" in came.out


def test_a_host_that_gives_no_thread_is_told_that_there_is_no_evidence(host: Host) -> None:
    asking = ASKING | {"host": [host.machine.address], "domain": host.domain}
    running = host.machine.start()
    came = host.run(host.case("serve", asking), World(threads=0))
    assert came.status == UNAVAILABLE
    assert "can't start new thread" in came.err
    ends_in_one_sentence(came)
    came = host.run(host.case("serve", asking))  # with threads it comes to a keyring, whose policy nobody has signed
    assert came.status == REJECTED
    running.stop()


def orders(host: Host, current: str, member: str) -> dict[str, tuple[bytes, str]]:
    """What a host can send that no measured admin has signed for this domain as it is, and why it is refused."""
    rotate, promote = Rotate(domain=host.domain, current=current), Promote(domain=host.domain, member=member, epoch=1)
    retire = Retire(domain=host.domain, generation=current)
    forget = Forget(domain=host.domain, member=member, epoch=1, sequence=1)
    elsewhere = sign_order(msgspec.structs.replace(rotate, domain=OTHER_DOMAIN), key("ada"))
    passed = sign_order(msgspec.structs.replace(rotate, current="0" * 32), key("ada"))
    taken = msgspec.structs.replace(retire, signatures=sign_order(rotate, key("ada")).signatures)
    unsigned = {name_of(one): (one, "not-signed") for one in (rotate, promote, retire, forget)}
    others: dict[str, tuple[Order, str]] = {
        "by nobody of the image's": (sign_order(rotate, key("mallory")), "not-signed"),
        "for another domain": (elsewhere, "another-domain"),
        "for what is past": (passed, "not-the-next-change"),
        "with the signature of another": (taken, "not-signed"),
    }
    return {name: (text_of(one).encode(), reason) for name, (one, reason) in (unsigned | others).items()} | {
        "no JSON": (b"rotate", ""),
        "deep": (b"[" * 30_000, ""),
        "a megabyte": (b" " * 2**20, "too-large"),
    }


def test_an_order_counts_by_the_signatures_of_the_measured_admins_alone(host: Host) -> None:
    """The host reaches the operations listener, and nobody on it is the owner."""
    running = host.machine.start()
    now = host.machine.status()
    with httpx.Client(base_url=f"http://{host.machine.ops}", trust_env=False, timeout=DEADLINE) as client:
        for name, (data, reason) in orders(host, str(now["generations"][0]["id"]), str(now["member"])).items():
            answer = client.post(ORDERS_PATH, content=data)
            assert answer.is_client_error, name
            assert answer.json().get("reason", "") == reason, name
    after = host.machine.status()
    assert {name: after[name] for name in ("epoch", "sequence", "role", "generations")} == {
        name: now[name] for name in ("epoch", "sequence", "role", "generations")
    }
    running.stop()


def test_two_enclaves_from_one_record_are_one_domain(host: Host) -> None:
    """A copy of the folder is as good as the folder: no enclave can tell, and none gets more than it held."""
    running = host.machine.start()
    case = host.case("serve", ASKING | {"host": [host.machine.address]}, host.with_its_record)
    came = host.run(case)
    ends_in_one_sentence(came)
    made_no_key(came)
    assert came.status in {0, REJECTED, UNAVAILABLE}, came
    assert (case.state / RECORD).read_bytes() == host.genuine
    assert host.machine.status()["domain"] == host.domain
    running.stop()


def test_a_folder_of_nothing_gives_another_domain_that_is_closed(host: Host, tmp_path: Path) -> None:
    """A host that names no domain and shows no trace of a key gets a new one: of another id, for this machine alone."""
    (tmp_path / f"{RECORD}.collateral.json").write_bytes(collateral())
    running = host.machine.start("--keystore", str(tmp_path / RECORD))
    found = host.machine.status()
    assert found["domain"] != host.domain
    policy = httpx.get(f"http://{host.machine.ops}{POLICY_PATH}", trust_env=False, timeout=DEADLINE).json()["policy"]
    assert f'machines = ["{host.machine.ppid}"]' in policy
    running.stop()


def changes(**state: Any) -> Callable[[Host], None]:
    return lambda host: host.machine.stand.change(**state)


def faulty(name: str, fault: Fault) -> Callable[[Host], None]:
    return lambda host: host.machine.fault(name, fault)


QUOTES: dict[str, tuple[Callable[[Host], None], int, str]] = {
    "none is given": (faulty("quote", FAILS), UNAVAILABLE, "gives nothing now"),
    "nothing is given": (faulty("quote", Fault(contents="")), CORRUPT, "cannot be read"),
    "garbage": (faulty("quote", Fault(contents="ff" * 5000)), CORRUPT, "cannot be read"),
    "cut short": (faulty("quote", Fault(size=500)), CORRUPT, "cannot be read"),
    "without end": (faulty("quote", Fault(size=8193)), CORRUPT, "over 8192 bytes"),
    "of another enclave": (changes(quoted=IMAGE.__class__("00" * 32, IMAGE.mrsigner)), CORRUPT, "another enclave"),
    "of another signer": (changes(quoted=IMAGE.__class__(IMAGE.mrenclave, "00" * 32)), CORRUPT, "another enclave"),
    "of a later version": (
        changes(quoted=IMAGE.__class__(IMAGE.mrenclave, IMAGE.mrsigner, isv_svn=2)), CORRUPT, "another enclave"),
    "an old one": (changes(quoted_data="11" * 64), CORRUPT, "is over report data 111111"),
    "of no kind": (changes(attestation_type="none"), MISUSE, "wanted is 'dcap'"),
    "of another kind": (changes(attestation_type="epid"), MISUSE, "wanted is 'dcap'"),
}  # fmt: skip


@pytest.mark.parametrize(("lie", "status", "says"), QUOTES.values(), ids=QUOTES)
def test_what_is_said_to_be_a_quote(host: Host, lie: Callable[[Host], None], status: int, says: str) -> None:
    lie(host)
    came = host.run(host.case("serve", LOOPBACK))
    assert came.status == status, came
    assert says in came.err
    ends_in_one_sentence(came)
    made_no_key(came)
    assert not (came.state / RECORD).exists()


def test_an_honest_host_is_served(host: Host) -> None:
    """Else the tests above would show nothing."""
    came = host.run(host.case("identity", {}))
    assert (came.status, came.out) == (0, f"sgx {host.machine.ppid}\n")
    came = host.run(host.case("doctor", {"json": True}, host.with_its_record))
    found = {one["topic"]: one["state"] for one in json.loads(came.out)["findings"]}
    assert found["opens"] == "good"
