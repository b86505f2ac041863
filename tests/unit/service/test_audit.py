from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fakes.audit_lines import decisions_in
from tests.fakes.claims import CLAIMS, NOW, claims_with
from tests.fakes.full_disk import room_for
from tests.fakes.processes import environment

from rkeyserver.clock import Clock
from rkeyserver.errors import Misuse, Rejected, Unavailable
from rkeyserver.service.audit import Audit, _Entry
from rkeyserver.service.audit_line import Line, Peer
from rkeyserver.service.audit_verify import verify

WAIT = 20.0
LINE = Line(event="mint", verdict="accepted", domain="d" * 32, sequence=1)


def clock() -> Clock:
    return Clock(lambda: NOW)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def audit(path: Path) -> Iterator[Audit]:
    opened = Audit.open(path, clock())
    yield opened
    opened.close()


def lines(path: Path) -> list[dict[str, Any]]:
    """Every decision, one a line by every reader's idea of one, in a chain that holds."""
    text = path.read_bytes().decode("ascii")
    assert text == "" or text.endswith("\n")
    assert text.splitlines() == text.split("\n")[:-1]
    if text:
        verify([path])
    return decisions_in(path)


def test_a_decision_is_one_line_with_all_that_was_known(audit: Audit, path: Path) -> None:
    line = Line(
        event="hand-over",
        verdict="refused",
        domain="d" * 32,
        sequence=3,
        peer=Peer.of(CLAIMS, "fd00::2"),
        policy="e" * 64,
        reason="tcb-status",
        found="The TCB status is Revoked.",
        transcript="f" * 128,
    )
    audit.write_now(line)
    assert lines(path) == [
        {
            "at": "2026-05-28T20:26:40Z",
            "event": "hand-over",
            "verdict": "refused",
            "domain": "d" * 32,
            "sequence": 3,
            "peer": {
                "address": "fd00::2",
                "platform": "sgx",
                "machine": CLAIMS.ppid,
                "mrenclave": CLAIMS.mrenclave,
                "mrsigner": CLAIMS.mrsigner,
                "isv_prod_id": CLAIMS.isv_prod_id,
                "isv_svn": CLAIMS.isv_svn,
                "tcb_status": "UpToDate",
            },
            "policy": "e" * 64,
            "reason": "tcb-status",
            "found": "The TCB status is Revoked.",
            "transcript": "f" * 128,
        }
    ]


def test_what_was_not_known_is_left_out(audit: Audit, path: Path) -> None:
    audit.write_now(Line(event="open", verdict="refused"))
    assert lines(path) == [{"at": "2026-05-28T20:26:40Z", "event": "open", "verdict": "refused"}]


def test_the_time_is_the_clock_s_at_the_decision(path: Path) -> None:
    host = [float(NOW)]
    ticking = Clock(lambda: host[0])
    audit = Audit.open(path, ticking)
    audit.write_now(LINE)
    host[0] += 61
    audit.write_now(LINE)
    host[0] -= 1_000_000
    audit.write_now(LINE)
    audit.close()
    assert [line["at"][11:] for line in lines(path)] == ["20:26:40Z", "20:27:41Z", "20:27:41Z"]


def test_lines_are_kept_and_added_to_on_opening_again(path: Path) -> None:
    for sequence in range(3):
        audit = Audit.open(path, clock())
        audit.write_now(Line(event="open", verdict="accepted", sequence=sequence))
        audit.close()
    assert [line["sequence"] for line in lines(path)] == [0, 1, 2]


def test_only_its_owner_reads_it(audit: Audit, path: Path) -> None:
    audit.write_now(LINE)
    assert path.stat().st_mode & 0o777 == 0o600


def test_two_writers_lose_nothing_and_have_no_chain_that_holds(audit: Audit, path: Path) -> None:
    other = Audit.open(path, clock())
    for sequence in range(20):
        (audit, other)[sequence % 2].write_now(Line(event="open", verdict="accepted", sequence=sequence))
    other.close()
    assert [line["sequence"] for line in decisions_in(path)] == list(range(20))
    with pytest.raises(Rejected, match="or something else writes to this file"):
        verify([path])


def test_a_file_that_was_cut_is_added_to_at_its_end_and_what_is_gone_shows(audit: Audit, path: Path) -> None:
    audit.write_now(LINE)
    os.truncate(path, 0)
    audit.write_now(LINE)
    assert len(decisions_in(path)) == 1
    with pytest.raises(Rejected, match=r"line 1: it is number 2 of its chain; .* what was before it is cut off"):
        verify([path])


TORN: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 0),
    "whole lines": (b'{"at":"x"}\n', 1),
    "half a line": (b'{"at":"x"}\n{"at"', 2),
    "one byte": (b"{", 1),
    "a line that lost its end": (b'{"at":"x"}', 1),
}


@pytest.mark.parametrize(("before", "kept"), TORN.values(), ids=TORN)
def test_after_a_crash_the_next_line_stands_alone(path: Path, before: bytes, kept: int) -> None:
    path.write_bytes(before)
    audit = Audit.open(path, clock())
    audit.write_now(LINE)
    audit.write_now(LINE)
    audit.close()
    data = path.read_bytes()
    assert data.startswith(before)
    found = data.decode().splitlines()
    assert [json.loads(line)["event"] for line in found[kept:]] == ["begin", "mint", "mint"]
    assert verify([path]).before == len(before) + (1 if before and not before.endswith(b"\n") else 0)


# What it knows

ACCEPTED = [Line(event=event, verdict="accepted", sequence=1) for event in ("mint", "open", "join", "hand-over")]


@pytest.mark.parametrize("held", ACCEPTED, ids=lambda line: line.event)
def test_it_knows_whether_there_was_a_keyring(audit: Audit, held: Line) -> None:
    assert audit.had_a_keyring() == ""
    audit.write_now(held)
    audit.write_now(Line(event="open", verdict="refused", sequence=2))
    assert json.loads(audit.had_a_keyring())["event"] == held.event


UNHELD: dict[str, Line] = {
    "refused": Line(event="mint", verdict="refused"),
    "refused, with a text that looks like more": Line(
        event="join", verdict="refused", found='{"at":"x","event":"mint","verdict":"accepted"'
    ),
    "another event": Line(event="minted", verdict="accepted"),
}


@pytest.mark.parametrize("line", UNHELD.values(), ids=UNHELD)
def test_what_was_refused_is_no_keyring(audit: Audit, line: Line) -> None:
    audit.write_now(line)
    assert audit.had_a_keyring() == ""


MINTED = Line(event="mint", verdict="accepted", domain="d1" * 16, sequence=1)
NOT_STORED = Unavailable("The disk is full.")


def test_a_mint_that_could_not_be_stored_was_none(audit: Audit) -> None:
    audit.write_now(MINTED)
    audit.write_now(MINTED.refused(NOT_STORED))
    assert audit.had_a_keyring() == ""


STILL_HELD: dict[str, tuple[Line, Line]] = {
    "another domain's": (MINTED, msgspec.structs.replace(MINTED, domain="d2" * 16).refused(NOT_STORED)),
    "a join that could not be stored": (
        msgspec.structs.replace(MINTED, event="join"),
        msgspec.structs.replace(MINTED, event="join").refused(NOT_STORED),
    ),
    "a mint after a hand-over": (
        msgspec.structs.replace(MINTED, event="hand-over"),
        MINTED.refused(NOT_STORED),
    ),
}


@pytest.mark.parametrize(("held", "refused"), STILL_HELD.values(), ids=STILL_HELD)
def test_no_other_refusal_undoes_it(audit: Audit, held: Line, refused: Line) -> None:
    audit.write_now(held)
    audit.write_now(refused)
    assert json.loads(audit.had_a_keyring())["event"] == held.event


def test_a_torn_line_is_no_obstacle_to_what_it_knows(path: Path) -> None:
    path.write_bytes(b'{"at":"x","event":"mi\n\xff\xff\n')
    audit = Audit.open(path, clock())
    assert audit.had_a_keyring() == ""
    audit.write_now(LINE)
    assert '"event":"mint"' in audit.had_a_keyring()
    audit.close()


# What cannot be opened


@pytest.mark.parametrize("data", [b"root:x:0:0\n", b"rkeyserver-record/v1\n", b"\0", b" {}"], ids=repr)
def test_another_file_is_not_written_to(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(Misuse, match="is no audit file"):
        Audit.open(path, clock())
    assert path.read_bytes() == data


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _link(path: Path) -> None:
    path.with_name("elsewhere").touch()
    path.symlink_to(path.with_name("elsewhere"))


PLACES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a folder": (Path.mkdir, "Is a directory"),
    "a symbolic link": (_link, "Too many levels"),
    "a symbolic link to itself": (_loop, "Too many levels"),
}


@pytest.mark.parametrize(("make", "says"), PLACES.values(), ids=PLACES)
def test_what_is_no_file_is_not_opened(path: Path, make: Callable[[Path], object], says: str) -> None:
    make(path)
    with pytest.raises(Unavailable, match=says) as raised:
        Audit.open(path, clock())
    assert str(path) in raised.value.message
    assert "--audit" in raised.value.advice
    assert not path.with_name("elsewhere").exists() or path.with_name("elsewhere").read_bytes() == b""


@pytest.mark.parametrize(
    ("below", "says"), [("none/a", "No such file"), ("file/a", "Not a directory"), ("a" * 300, "name too long")]
)
def test_a_file_that_cannot_be_made_is_named(tmp_path: Path, below: str, says: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match=says):
        Audit.open(tmp_path / below, clock())


# What cannot be written


def test_a_file_that_takes_nothing_refuses_the_decision(audit: Audit, path: Path) -> None:
    with room_for(0):
        for _ in range(2):
            with pytest.raises(Unavailable, match="File too large") as raised:
                audit.write_now(LINE)
            assert str(path) in raised.value.message
        with pytest.raises(Unavailable, match="File too large"):
            asyncio.run(audit.write(LINE))


@pytest.mark.parametrize("name", ["/dev/null", "/dev/full", "pipe"])
def test_what_keeps_nothing_is_no_audit_file(tmp_path: Path, name: str) -> None:
    if name == "pipe":
        os.mkfifo(tmp_path / name)
    with pytest.raises(Misuse, match="no regular file"):
        Audit.open(tmp_path / name, clock())


def test_a_line_that_did_not_fit_is_refused_and_the_next_stands_alone(audit: Audit, path: Path) -> None:
    audit.write_now(LINE)
    whole = path.stat().st_size
    with room_for(whole + 10), pytest.raises(Unavailable, match="File too large"):
        audit.write_now(LINE)
    assert path.stat().st_size == whole + 10
    audit.write_now(LINE)
    audit.write_now(LINE)
    found = path.read_text().splitlines()
    assert (len(found), len(found[2])) == (6, 10)
    assert [json.loads(found[index])["event"] for index in (0, 1, 3, 4, 5)] == ["begin", "mint", "torn", "mint", "mint"]
    assert verify([path]).torn == [(f"{path}, line 3", 11)]


def test_a_disk_without_any_room_leaves_no_trace_of_the_line(audit: Audit, path: Path) -> None:
    audit.write_now(LINE)
    for _ in range(3):
        with room_for(path.stat().st_size), pytest.raises(Unavailable, match="File too large"):
            audit.write_now(LINE)
    audit.write_now(LINE)
    assert len(lines(path)) == 2


def test_a_closed_file_refuses_the_decision_and_no_other_file_gets_it(path: Path, tmp_path: Path) -> None:
    audit = Audit.open(path, clock())
    audit.close()
    with (tmp_path / "other").open("wb") as other:  # it gets the same number
        with pytest.raises(Unavailable, match="Bad file descriptor"):
            audit.write_now(LINE)
        other.flush()
        assert (tmp_path / "other").read_bytes() == b""
    assert path.read_bytes() == b""


# Many at once


class GatedAudit(Audit):
    """An audit whose disk is slow: each write waits for its turn."""

    def __init__(self, fd: int, path: Path, clock: Clock, machine: str) -> None:
        super().__init__(fd, path, clock, machine)
        self.began = threading.Semaphore(0)
        self.turn = threading.Semaphore(0)
        self.batches: list[int] = []

    def _commit(self, entries: list[_Entry], *, sign: bool) -> None:
        self.batches.append(len(entries))
        self.began.release()
        assert self.turn.acquire(timeout=WAIT)
        super()._commit(entries, sign=sign)


@pytest.fixture
def gated(path: Path) -> Iterator[GatedAudit]:
    opened = GatedAudit.open(path, clock())
    yield opened
    opened.close()


def numbered(sequence: int) -> Line:
    return Line(event="hand-over", verdict="accepted", sequence=sequence)


async def reached(semaphore: threading.Semaphore) -> None:
    assert await asyncio.to_thread(semaphore.acquire, timeout=WAIT)


def test_lines_that_wait_together_share_one_write_and_none_returns_before_it(gated: GatedAudit, path: Path) -> None:
    async def check() -> None:
        first = asyncio.create_task(gated.write(numbered(0)))
        await reached(gated.began)
        rest = [asyncio.create_task(gated.write(numbered(sequence))) for sequence in range(1, 51)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in [first, *rest])
        gated.turn.release()
        await asyncio.wait_for(first, WAIT)
        await reached(gated.began)
        assert len(lines(path)) == 1
        assert not any(task.done() for task in rest)
        gated.turn.release()
        await asyncio.wait_for(asyncio.gather(*rest), WAIT)

    asyncio.run(check())
    assert gated.batches == [1, 50]
    assert [line["sequence"] for line in lines(path)] == list(range(51))


def test_a_decision_that_nobody_waits_for_any_more_holds_up_no_other(gated: GatedAudit, path: Path) -> None:
    async def check() -> None:
        gone = [asyncio.create_task(gated.write(numbered(0)))]
        await reached(gated.began)
        gone.append(asyncio.create_task(gated.write(numbered(1))))
        waits = asyncio.create_task(gated.write(numbered(2)))
        await asyncio.sleep(0)
        for task in gone:
            task.cancel()
        gated.turn.release(2)
        await asyncio.wait_for(waits, WAIT)
        assert all(task.cancelled() for task in gone)

    asyncio.run(check())
    assert [line["sequence"] for line in lines(path)] == [0, 1, 2]


def test_a_write_that_fails_refuses_all_that_shared_it_and_nobody_else(gated: GatedAudit, path: Path) -> None:
    async def check() -> None:
        first = asyncio.create_task(gated.write(numbered(0)))
        await reached(gated.began)
        shared = [asyncio.create_task(gated.write(numbered(sequence))) for sequence in (1, 2, 3)]
        await asyncio.sleep(0)
        shared.pop().cancel()
        gated.turn.release()
        await asyncio.wait_for(first, WAIT)
        await reached(gated.began)
        later = asyncio.create_task(gated.write(numbered(4)))
        await asyncio.sleep(0)
        with room_for(os.stat(path).st_size):  # noqa: PTH116 - the loop waits for nothing else
            gated.turn.release()
            found = await asyncio.wait_for(asyncio.gather(*shared, return_exceptions=True), WAIT)
        assert [type(one) for one in found] == [Unavailable, Unavailable]
        gated.turn.release()
        await asyncio.wait_for(later, WAIT)

    asyncio.run(check())
    assert [line["sequence"] for line in lines(path)] == [0, 4]


def test_a_line_from_before_the_loop_and_one_from_within_do_not_mix(gated: GatedAudit, path: Path) -> None:
    async def check() -> None:
        task = asyncio.create_task(gated.write(numbered(0)))
        await reached(gated.began)
        gated.turn.release(2)
        gated.write_now(numbered(1))
        await asyncio.wait_for(task, WAIT)

    asyncio.run(check())
    assert sorted(line["sequence"] for line in lines(path)) == [0, 1]


def test_closing_writes_what_still_waits(path: Path) -> None:
    gated = GatedAudit.open(path, clock())

    async def check() -> None:
        tasks = [asyncio.create_task(gated.write(numbered(0)))]
        await reached(gated.began)
        tasks.append(asyncio.create_task(gated.write(numbered(1))))
        await asyncio.sleep(0)
        closing = asyncio.create_task(asyncio.to_thread(gated.close))
        gated.turn.release(2)
        await asyncio.wait_for(closing, WAIT)
        await asyncio.wait_for(asyncio.gather(*tasks), WAIT)

    asyncio.run(check())
    assert [line["sequence"] for line in lines(path)] == [0, 1]


def test_a_loop_that_ended_meanwhile_holds_up_nothing(gated: GatedAudit, path: Path) -> None:
    async def give_up() -> None:
        task = asyncio.create_task(gated.write(numbered(0)))
        await reached(gated.began)
        task.cancel()

    async def go_on() -> None:
        await asyncio.wait_for(gated.write(numbered(1)), WAIT)

    asyncio.run(give_up())
    gated.turn.release(2)
    asyncio.run(go_on())
    assert [line["sequence"] for line in lines(path)] == [0, 1]


def test_where_no_thread_can_be_started_the_decision_is_refused(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(Unavailable, match="can't start new thread"):
            asyncio.run(audit.write(LINE))
    asyncio.run(audit.write(LINE))


@pytest.mark.parametrize("allowed", [True, False])
def test_the_thread_lets_the_event_loop_go_first(
    audit: Audit, path: Path, monkeypatch: pytest.MonkeyPatch, *, allowed: bool
) -> None:
    policies: list[int] = []

    def note(pid: int, policy: int, _param: os.sched_param) -> None:
        assert pid == 0
        assert threading.current_thread().name == "audit"
        policies.append(policy)
        if not allowed:
            raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", note)
    asyncio.run(audit.write(LINE))
    assert policies == [os.SCHED_BATCH]
    assert len(lines(path)) == 1


def test_threads_that_write_at_once_leave_whole_lines(audit: Audit, path: Path) -> None:
    threads = [threading.Thread(target=audit.write_now, args=[numbered(sequence)]) for sequence in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert sorted(line["sequence"] for line in lines(path)) == list(range(16))


# On disk before the effect

EFFECT = """
import asyncio, os, sys
from pathlib import Path
from rkeyserver.clock import Clock
from rkeyserver.service.audit import Audit
from rkeyserver.service.audit_line import Line
audit = Audit.open(Path(sys.argv[1]), Clock())
audit.write_now(Line(event="now", verdict="accepted"))
os.write(1, b"EFFECT-now")
async def decide(event):
    await audit.write(Line(event=event, verdict="accepted"))
    os.write(1, b"EFFECT-" + event.encode())
async def many():
    await asyncio.gather(decide("one"), decide("two"))
asyncio.run(many())
"""


def test_a_line_is_on_disk_before_its_effect(path: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    traced = ["strace", "-f", "-s", "2000", "-e", "trace=openat,write,fsync,fdatasync", "-o", str(trace)]
    subprocess.run(
        [*traced, sys.executable, "-c", EFFECT, str(path)],
        env=environment(),
        check=True,
        timeout=WAIT * 3,
        stdout=subprocess.DEVNULL,
    )
    calls = trace.read_text()
    opened = re.search(rf'openat\(AT_FDCWD, "{re.escape(str(path))}", (\S+), 0600\) = (\d+)', calls)
    assert opened is not None
    assert {"O_APPEND", "O_CREAT", "O_CLOEXEC", "O_NOFOLLOW"} <= set(opened[1].split("|"))
    # The folder too: or a crash could take the whole new file.
    synced = re.search(
        rf'"{re.escape(str(tmp_path))}", \S*O_DIRECTORY\S*\) = (\d+)\n(?:.*\n)*?\d+ +fsync\(\1\) += 0', calls
    )
    assert synced is not None
    assert opened.end() < synced.start() < calls.index("EFFECT-now")
    for event in ("now", "one", "two"):
        written = re.search(rf'write\({opened[2]}, ".*{event}.*', calls)
        assert written is not None
        # O_DSYNC would not do: Gramine takes it and drops it. A call that another thread's cut in two has returned
        # when it is resumed.
        end = calls.index(f"fdatasync({opened[2]}", written.end())
        if "unfinished" in calls[end : calls.index("\n", end)]:
            end = calls.index("fdatasync resumed", end)
        assert end < calls.index(f"EFFECT-{event}")
    assert [line["event"] for line in lines(path)] == ["now", "one", "two"]


# Whatever a peer says

ANYTHING = st.text(max_size=60) | st.text('\n\r\x1b\x9b\x7f\x85\u2028\u2029\x00\x1c\ud800"\\{}', max_size=20)


def unicode(text: str) -> str:
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


@given(ANYTHING, ANYTHING, ANYTHING)
# One folder serves all examples: each begins with no file.
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_makes_a_second_line(path: Path, found: str, address: str, status: str) -> None:
    path.unlink(missing_ok=True)
    audit = Audit.open(path, clock())
    peer = Peer.of(claims_with(tcb_status=status), address)
    audit.write_now(Line(event="join", verdict="refused", peer=peer, found=found, reason="malformed"))
    audit.close()
    (line,) = lines(path)
    assert set(path.read_bytes()) <= set(range(0x20, 0x7F)) | {0x0A}
    assert line.get("found", "") == unicode(found)
    assert (line["peer"]["address"], line["peer"]["tcb_status"]) == (unicode(address), unicode(status))
    assert line["verdict"] == "refused"


def test_where_the_file_was_removed_nothing_is_decided(audit: Audit, path: Path) -> None:
    audit.write_now(LINE)
    path.unlink()
    with pytest.raises(Unavailable, match="it was removed"):
        audit.write_now(LINE)
    with pytest.raises(Unavailable, match="it was removed"):
        asyncio.run(audit.write(LINE))
    assert "was removed" in audit.looked_at()
