"""What `rkeyserver audit verify` finds: the first line that was changed, cut, moved or put in, by its number."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fakes.audit_lines import decisions_in
from tests.fakes.claims import CLAIMS, NOW
from tests.fakes.full_disk import room_for
from tests.fakes.keyrings import keyring_of
from tests.fakes.processes import environment

from rkeyserver.clock import Clock
from rkeyserver.errors import Misuse, Reason, Rejected, Unavailable
from rkeyserver.keyring.checkpoint_key import CheckpointKey
from rkeyserver.service.audit import CHECKPOINT_LINES, CHECKPOINT_SECONDS, Audit
from rkeyserver.service.audit_chain import MAX_LINE, read_line
from rkeyserver.service.audit_end import TAIL
from rkeyserver.service.audit_line import Line, Peer
from rkeyserver.service.audit_match import match
from rkeyserver.service.audit_verify import check_contains, verify

ONE, TWO, THREE = "1a" * 16, "2b" * 16, "3c" * 16
DOMAIN = "d0" * 16
WAIT = 20.0


def the_key() -> CheckpointKey:
    keyring = keyring_of(("a",))
    try:
        return CheckpointKey.derive(keyring)
    finally:
        keyring.close()


@contextlib.contextmanager
def log_at(path: Path, machine: str = ONE, *, signs: bool = True, host: list[float] | None = None) -> Iterator[Audit]:
    times = [float(NOW)] if host is None else host
    audit = Audit.open(path, Clock(lambda: times[0]), machine)
    if signs:
        audit.sign_with(the_key())
    try:
        yield audit
    finally:
        audit.close()


def decision(sequence: int) -> Line:
    return Line(event="open", verdict="accepted", domain=DOMAIN, sequence=sequence)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """begin, six decisions, a checkpoint, two decisions that nothing signs: lines 1 to 10."""
    path = tmp_path / "log"
    with log_at(path) as audit:
        for sequence in range(6):
            audit.write_now(decision(sequence))
    with log_at(path, signs=False) as audit:
        for sequence in (6, 7):
            audit.write_now(decision(sequence))
    return path


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def put(path: Path, lines: list[bytes]) -> Path:
    path.write_bytes(b"".join(lines))
    return path


def test_a_log_that_holds_is_told_of(log: Path) -> None:
    found = verify([log])
    assert found.head is not None
    assert (found.machine, found.begins, found.head.lines, found.checkpoints) == (ONE, 0, 10, 1)
    assert found.signed is not None
    assert found.signed.lines == 8
    assert found.head.digest == hashlib.sha256(lines_of(log)[-1]).digest()
    key = the_key()
    assert found.key == key.public
    assert verify([log], key=key.public) == found
    key.close()


Edit = Callable[[list[bytes]], list[bytes]]


def changed(index: int, old: bytes, new: bytes) -> Edit:
    def edit(lines: list[bytes]) -> list[bytes]:
        assert old in lines[index]
        return [*lines[:index], lines[index].replace(old, new, 1), *lines[index + 1 :]]

    return edit


def without(*indices: int) -> Edit:
    return lambda lines: [line for index, line in enumerate(lines) if index not in indices]


def moved(index: int, to: int) -> Edit:
    def edit(lines: list[bytes]) -> list[bytes]:
        rest = [*lines[:index], *lines[index + 1 :]]
        return [*rest[:to], lines[index], *rest[to:]]

    return edit


def inserted(index: int, data: bytes) -> Edit:
    return lambda lines: [*lines[:index], data, *lines[index:]]


def again(index: int, at: int) -> Edit:
    return lambda lines: [*lines[:at], lines[index], *lines[at:]]


def rewritten(first: int) -> Edit:
    """Line `first` changed, and all after it made to fit."""

    def edit(lines: list[bytes]) -> list[bytes]:
        out = [*lines[:first], lines[first].replace(b"accepted", b"refused", 1)]
        for line in lines[first + 1 :]:
            digest = hashlib.sha256(out[-1]).hexdigest().encode()
            out.append(re.sub(rb'"prev":"[0-9a-f]{64}"', b'"prev":"%s"' % digest, line))
        return out

    return edit


BROKEN: dict[str, tuple[Edit, int, str]] = {
    "a word changed": (changed(3, b'"sequence":2', b'"sequence":9'), 4, "by the next line: changed"),
    "a word changed in the last line but one": (changed(8, b"accepted", b"refused"), 9, "by the next line: changed"),
    "a line's number changed": (changed(3, b'"number":3', b'"number":4'), 4, "wanted is number 3"),
    "a line's hash changed": (changed(3, b'"prev":"', b'"prev":"0000'), 4, "is no line of the chain"),
    "what a line says of the one before": (
        lambda lines: [*lines[:3], re.sub(rb'prev":"....', b'prev":"0000', lines[3]), *lines[4:]],
        4,
        "it names 0000",
    ),
    "a line's chain changed": (changed(3, b'"chain":"', b'"chain":"z'), 4, "is no line of the chain"),
    "a line without its end": (changed(3, b"}\n", b"\n"), 4, "is no line of the chain"),
    "two lines made one": (changed(3, b"}\n", b"}"), 4, "has the form of a line and does not decode"),
    "a line that ends as on another system": (changed(3, b"}\n", b"}\r\n"), 4, "is no line of the chain"),
    "a line cut out": (without(3), 4, "it is number 4 of its chain; wanted is number 3: 1 line(s) cut out here"),
    "three lines cut out": (
        without(3, 4, 5),
        4,
        "it is number 6 of its chain; wanted is number 3: 3 line(s) cut out here",
    ),
    "the first line cut off": (without(0), 1, "what was before it is cut off"),
    "all up to the checkpoint cut off": (without(*range(7)), 1, "a checkpoint by the key in --key"),
    "two lines the other way round": (moved(3, 4), 4, "lines were put in another order"),
    "a line put further back": (moved(6, 2), 3, "lines were put in another order"),
    "a line put further on": (moved(2, 6), 3, "line(s) cut out here"),
    "a line twice": (again(3, 4), 5, "it is number 3 of its chain, which came before; wanted is number 4"),
    "an old line once more at the end": (again(3, 10), 11, "it is number 3 of its chain, which came before"),
    "a line put in": (inserted(4, b'{"at":"x","event":"open","verdict":"accepted"}\n'), 5, "inserted or changed"),
    "an empty line put in": (inserted(4, b"\n"), 5, "inserted or changed"),
    "a line without an end, endless": (inserted(4, b"{" * 10 * MAX_LINE + b"\n"), 5, "inserted or changed"),
    "a checkpoint changed": (changed(7, b'"signature":"', b'"signature":"f'), 8, "is a checkpoint that does not count"),
    "all anew before a checkpoint": (rewritten(3), 8, "is a checkpoint that does not count: its signature"),
    "a line that is no JSON": (
        lambda lines: [lines[0].replace(b'Z"', b'Z" "'), *lines[1:]],
        1,
        "it has the form of a line and does not decode",
    ),
    "no begin": (changed(0, b'"event":"begin"', b'"event":"began"'), 1, "does not begin one"),
    "what began it": (changed(0, b'"size":0', b'"size":1'), 1, "says that 1 bytes before it are no lines"),
    "something before it all": (inserted(0, b"{}\n"), 1, "says that 0 bytes before it are no lines"),
}


@pytest.mark.parametrize(("edit", "line", "says"), BROKEN.values(), ids=BROKEN)
def test_the_first_line_that_does_not_hold_is_named(log: Path, edit: Edit, line: int, says: str) -> None:
    put(log, edit(lines_of(log)))
    with pytest.raises(Rejected, match=re.escape(says)) as raised:
        verify([log])
    assert raised.value.message.startswith(f"{log}, line {line}: ")
    assert raised.value.reason in {Reason.LOG_BROKEN, Reason.NOT_SIGNED}


HOLDS: dict[str, Edit] = {
    "as it is": lambda lines: lines,
    "with its last line cut off": without(9),
    "with its last three lines cut off": without(7, 8, 9),
    "with its last line changed": changed(9, b"accepted", b"refused"),
    "with all anew after the checkpoint": rewritten(8),
}


@pytest.mark.parametrize("edit", HOLDS.values(), ids=HOLDS)
def test_what_nothing_after_it_shows_is_said_to_be_open(log: Path, edit: Edit) -> None:
    """A chain says nothing of its own end: that takes a checkpoint kept elsewhere, or another instance's log."""
    put(log, edit(lines_of(log)))
    found = verify([log])
    assert found.head is not None
    assert found.signed is None or found.signed.lines == 8


def test_another_chain_s_line_and_a_chain_begun_anew(log: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with log_at(other) as audit:
        audit.write_now(decision(1))
    lines = lines_of(log)
    put(log, [*lines, lines_of(other)[1]])
    with pytest.raises(Rejected, match=r"line 11: it is of chain .* inserted"):
        verify([log])
    put(log, [*lines, *lines_of(other)])
    with pytest.raises(Rejected, match=r"line 11: it is of chain .*: another chain begins here"):
        verify([log])


@pytest.mark.parametrize(
    "data", [b"", b"\n\n", b'{"at":"x","event":"mint","verdict":"accepted"}\n', b"{" * 3 * MAX_LINE]
)
def test_a_file_without_a_chain_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "log").write_bytes(data)
    with pytest.raises(Rejected, match="has no line of a chain") as raised:
        verify([tmp_path / "log"])
    assert "emptied" in raised.value.advice


@pytest.mark.parametrize("name", ["none", "folder", "/dev/zero"])
def test_what_is_no_file_is_not_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(Misuse, match="is no file"):
        verify([tmp_path / name])


def test_a_file_that_may_not_be_read_is_named(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(Misuse, match="Permission denied"):
        verify([log])


@given(st.data())
# One log serves all examples: each changes a copy.
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_no_byte_before_the_last_line_is_changed_unseen(log: Path, data: st.DataObject) -> None:
    whole = log.read_bytes()
    at = data.draw(st.integers(0, len(whole) - len(lines_of(log)[-1]) - 2))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != whole[at]))
    copy = log.with_name("copy")
    copy.write_bytes(whole[:at] + bytes([byte]) + whole[at + 1 :])
    with pytest.raises(Rejected) as raised:
        verify([copy])
    found = re.match(rf"{re.escape(str(copy))}, line (\d+): ", raised.value.message)
    assert found is not None
    # Where a line break is changed, or one is put in, it is that line or the next that shows it.
    assert abs(int(found[1]) - whole.count(b"\n", 0, at) - 1) <= 1


# Torn


def test_a_log_cut_at_every_byte_of_its_last_lines_holds_up_to_the_last_whole_one_and_goes_on(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, lines = log.read_bytes(), lines_of(log)
    monkeypatch.setattr(os, "fdatasync", lambda _fd: None)  # hundreds of times; that it is called is seen elsewhere
    for size in range(len(whole) - len(lines[-1]) - len(lines[-2]), len(whole) + 1):
        log.write_bytes(whole[:size])
        found = verify([log])
        kept = whole[:size].count(b"\n")
        assert found.head is not None
        assert (found.head.lines, found.rest) == (kept, size - sum(map(len, lines[:kept])))
        with log_at(log, signs=False) as audit:
            audit.write_now(decision(100))
        assert log.read_bytes().startswith(whole[:size])
        after = verify([log])
        assert after.head is not None
        # A line that lacks only its end of line gets it, and is one.
        complete = sum(size >= sum(map(len, lines[: index + 1])) - 1 for index in range(len(lines)))
        torn = size not in {sum(map(len, lines[:complete])), sum(map(len, lines[:complete])) - 1}
        assert (after.head.lines, len(after.torn), after.rest) == (complete + 1 + torn, torn, 0)
        assert decisions_in_whole(log)[-1]["sequence"] == 100


def decisions_in_whole(path: Path) -> list[dict[str, object]]:
    found = [msgspec.json.decode(line) for line in lines_of(path) if read_line(line)]
    return [one for one in found if "verdict" in one]


def test_torn_twice_before_anything_is_written(log: Path) -> None:
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"at":"2026\n{"at":"20')
    assert verify([log]).rest == 21
    with log_at(log) as audit:
        audit.write_now(decision(9))
    assert verify([log]).torn == [(f"{log}, line 11", 22)]


def test_a_tail_longer_than_any_line_begins_no_chain_in_the_middle(log: Path) -> None:
    log.write_bytes(log.read_bytes() + b"{" * MAX_LINE * 2 + b"\n")
    with log_at(log) as audit:
        audit.write_now(decision(9))
    assert verify([log]).torn == [(f"{log}, line 11", 2 * MAX_LINE + 1)]


def test_a_tail_in_which_no_end_is_found_begins_another_chain_and_that_shows(log: Path) -> None:
    before = log.read_bytes()
    log.write_bytes(before + b"x" * (TAIL + 1))
    with log_at(log) as audit:
        audit.write_now(decision(9))
    with pytest.raises(Rejected, match=r"line 11: .*another chain begins here"):
        verify([log])


def refused_at_last(audit: Audit) -> None:
    with contextlib.suppress(Unavailable):
        for sequence in range(1, 9):
            audit.write_now(decision(sequence))
        pytest.fail("all of them fitted")


@pytest.mark.parametrize("room", [0, 1, 40, 300, 420, 700])
def test_a_full_disk_is_a_problem_until_a_line_fits_again(tmp_path: Path, room: int) -> None:
    path = tmp_path / "log"
    with log_at(path) as audit:
        audit.write_now(decision(0))
        assert (audit.problem, audit.status()["problem"]) == ("", "")
        for again_and_again in range(3):
            with room_for(path.stat().st_size + (0 if again_and_again else room)):
                refused_at_last(audit)
            assert "cannot be written: File too large. No key leaves" in audit.problem
            assert audit.status()["problem"] == audit.problem
            assert verify([path]).head is not None
        audit.write_now(decision(10))
        assert audit.problem == ""
    found = verify([path])
    assert found.rest == 0
    assert found.checkpoints == 1


def test_a_disk_that_fails_after_it_took_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"

    def fail(_fd: int) -> None:
        raise OSError(5, "Input/output error")

    with log_at(path) as audit:
        audit.write_now(decision(0))
        with monkeypatch.context() as patched:
            patched.setattr(os, "fdatasync", fail)
            with pytest.raises(Unavailable, match="Input/output error"):
                audit.write_now(decision(1))
        audit.write_now(decision(2))
    # The line is there, and its decision did not take effect: as after a crash between the two.
    assert [line["sequence"] for line in decisions_in(path)] == [0, 1, 2]
    assert verify([path]).torn == []


def test_what_is_appended_or_cut_while_it_runs_shows(log: Path) -> None:
    with log_at(log, signs=False) as audit:
        audit.write_now(decision(8))
        follows, _ = verify([log]).head.append(b'{"at":"x","event":"open"')  # type: ignore[union-attr]  # it has one here
        with log.open("ab") as file:
            file.write(follows)
        audit.write_now(decision(9))
    with pytest.raises(Rejected, match="line 13: it is number 11 of its chain, which came before; wanted is number 12"):
        verify([log])
    with log_at(log, signs=False) as audit:
        audit.write_now(decision(10))
        os.truncate(log, log.stat().st_size - 10)
        audit.write_now(decision(11))
    assert b"}\n" in lines_of(log)[-1]


WRITER = """
import sys
from pathlib import Path
from rkeyserver.clock import Clock
from rkeyserver.service.audit import Audit
from rkeyserver.service.audit_line import Line
audit = Audit.open(Path(sys.argv[1]), Clock(), "1a" * 16)
for sequence in range(int(sys.argv[2]), 10**9):
    audit.write_now(Line(event="open", verdict="accepted", sequence=sequence, found="x" * (sequence % 3000)))
    print(sequence, flush=True)
"""


def test_a_process_killed_at_any_moment_leaves_a_log_that_holds_and_goes_on(tmp_path: Path) -> None:
    path, last = tmp_path / "log", -1
    for turn in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(last + 1)],
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.002 * turn)  # a moment that no line has chosen
            process.send_signal(signal.SIGKILL)
            said = process.stdout.read().split()
        found = verify([path])
        assert found.head is not None
        kept = [line["sequence"] for line in decisions_in_whole(path)]
        # What it said is on disk; one more may be, of which it could not say so.
        last = int(str(kept[-1]))
        assert kept == list(range(last + 1))
        assert not said or last - int(said[-1]) in {0, 1}


# Checkpoints


def test_a_checkpoint_comes_after_so_many_lines_and_after_so_many_seconds_and_at_the_end(tmp_path: Path) -> None:
    path, host = tmp_path / "log", [float(NOW)]

    def events() -> list[str]:
        return [msgspec.json.decode(line)["event"] for line in lines_of(path)]

    with log_at(path, host=host) as audit:
        for sequence in range(CHECKPOINT_LINES):
            assert "checkpoint" not in (events() if sequence else [])
            audit.write_now(decision(sequence))
        assert events()[-1] == "checkpoint"
        audit.write_now(decision(100))
        host[0] += CHECKPOINT_SECONDS - 1
        audit.write_now(decision(101))
        assert events()[-2:] == ["open", "open"]
        host[0] += 1
        audit.write_now(decision(102))
        assert events()[-2:] == ["open", "checkpoint"]
        audit.write_now(decision(103))
    assert events()[-2:] == ["open", "checkpoint"]
    with log_at(path, host=host):
        pass
    assert events().count("checkpoint") == 3, "nothing is new"
    assert verify([path]).checkpoints == 3


def test_a_checkpoint_is_of_the_head_at_that_moment(log: Path) -> None:
    with log_at(log) as audit:
        found = audit.checkpoint()
        audit.write_now(decision(9))
    check_contains(verify([log]), found, found.key)
    assert (found.lines, found.machine, found.head) == (10, ONE, hashlib.sha256(lines_of(log)[9]).hexdigest())


def test_there_is_no_checkpoint_without_a_key_or_a_line(tmp_path: Path) -> None:
    with log_at(tmp_path / "log", signs=False) as audit:
        audit.write_now(decision(0))
        with pytest.raises(Unavailable, match="nothing to sign"):
            audit.checkpoint()
        assert audit.status()["key"] is None
    with log_at(tmp_path / "other") as audit, pytest.raises(Unavailable, match="nothing to sign"):
        audit.checkpoint()
    assert (tmp_path / "other").read_bytes() == b""


def test_another_domain_s_key_takes_the_place_of_the_first(tmp_path: Path) -> None:
    with log_at(tmp_path / "log") as audit:
        first = audit._key
        assert audit.signs_for == first.domain  # type: ignore[union-attr]  # it has one here
        audit.sign_with(the_key())
        with pytest.raises(ValueError, match="released"):
            first.sign(b"")  # type: ignore[union-attr]  # as above
        assert "CheckpointKey of domain" in repr(audit._key)


def test_a_log_that_cannot_be_signed_at_its_end_is_closed_all_the_same(
    log: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with log_at(log), room_for(0):
        pass
    assert "ends without a checkpoint" not in caplog.text, "nothing had been written"


CUT: dict[str, tuple[Edit, str]] = {
    "cut before it": (without(8, 9), "ends with line number 7; the checkpoint of .* signs line number 9 .*it was cut"),
    "written anew before it": (rewritten(8), "has another line number 9; .*it was written anew"),
}


@pytest.mark.parametrize(("edit", "says"), CUT.values(), ids=CUT)
def test_a_checkpoint_kept_elsewhere_shows_a_tail_that_is_gone(log: Path, edit: Edit, says: str) -> None:
    with log_at(log) as audit:
        kept = audit.checkpoint()
    put(log, edit(lines_of(log)[:10]))
    with pytest.raises(Rejected, match=says):
        check_contains(verify([log]), kept, "")


def test_a_checkpoint_of_another_log_or_key(log: Path, tmp_path: Path) -> None:
    with log_at(tmp_path / "other") as audit:
        audit.write_now(decision(0))
        other = audit.checkpoint()
    with pytest.raises(Rejected, match=r"is chain .*: another one's"):
        check_contains(verify([log]), other, "")
    with pytest.raises(Rejected, match="does not count: it is signed with key") as raised:
        check_contains(verify([log]), other, "00" * 32)
    assert raised.value.reason is Reason.NOT_SIGNED


# Rotation


def test_a_rotated_log_goes_on_from_its_last_line(log: Path, tmp_path: Path) -> None:
    """Stopped, copied, and begun anew with its last line, which is the checkpoint of the stop."""
    with log_at(log) as audit:
        early = audit.checkpoint()
        audit.write_now(decision(8))
    old = tmp_path / "old"
    shutil.copy(log, old)
    put(log, lines_of(log)[-1:])
    with log_at(log) as audit:
        assert audit.had_a_keyring().startswith('{"at":"2026-05-28T20:26:40Z","event":"checkpoint"')
        audit.write_now(decision(9))
        late = audit.checkpoint()
    both = verify([old, log])
    assert both.head is not None
    assert (both.begins, both.head.lines) == (0, 14)
    for one in (early, late):
        check_contains(both, one, one.key)
    with pytest.raises(Rejected, match="what was before it is cut off") as raised:
        verify([log])
    assert "Give the older files" in raised.value.advice
    alone = verify([log], key=both.key)
    assert (alone.begins, alone.machine) == (11, ONE)
    check_contains(alone, late, "")
    with pytest.raises(Misuse, match="begins with line number 11; the checkpoint signs number 9"):
        check_contains(alone, early, "")
    put(log, lines_of(log)[1:])
    with pytest.raises(Rejected, match="what was before it is cut off"):
        verify([log], key=both.key)


def test_the_checkpoint_of_exactly_what_was_rotated_away(log: Path) -> None:
    with log_at(log) as audit:
        kept = audit.checkpoint()
        audit.write_now(decision(8))
    lines = lines_of(log)
    del lines[10]  # the decision after it: now a checkpoint of another number comes first
    put(log, lines_of(log)[-1:])
    alone = verify([log], key=kept.key)
    assert alone.begins == 11
    with pytest.raises(Misuse, match="begins with line number 11"):
        check_contains(alone, kept, "")


def test_files_in_the_wrong_order_or_with_a_part_between_them(log: Path, tmp_path: Path) -> None:
    lines = lines_of(log)
    first, second = put(tmp_path / "1", lines[:4]), put(tmp_path / "2", lines[2:])
    assert verify([first, second]).head == verify([log]).head
    with pytest.raises(Rejected, match=r"/2, line 1: .* cut off"):
        verify([second, first])
    put(second, lines[5:])
    with pytest.raises(Rejected, match=r"/2, line 1: .*wanted is number 4: 1 line\(s\) cut out here"):
        verify([first, second])
    put(second, [lines[2].replace(b"accepted", b"refused"), *lines[3:]])
    with pytest.raises(Rejected, match=r"/2, line 1: .*came before"):
        verify([first, second])
    put(first, [*lines[:4], b'{"at'])
    with pytest.raises(Rejected, match=r"/1, line 5: .*another file comes after it"):
        verify([first, put(second, lines[4:])])


# Two logs


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two logs of two hand-overs from ONE to TWO, the second for an acknowledgement, and of one to THREE."""
    one, two = tmp_path / "one", tmp_path / "two"
    with log_at(one, ONE) as giver, log_at(two, TWO) as joiner:
        giver.write_now(Line(event="mint", verdict="accepted", domain=DOMAIN, sequence=1))
        for index, machine in ((1, TWO), (2, THREE), (3, TWO)):
            transcript = f"{index:0128x}"
            given_to = msgspec.structs.replace(Peer.of(CLAIMS, "10.0.0.1"), machine=machine)
            line = Line(event="hand-over", verdict="accepted", domain=DOMAIN, peer=given_to, transcript=transcript)
            giver.write_now(msgspec.structs.replace(line, peer_head=joiner.head.hex() if machine == TWO else "ab" * 32))
            if machine == TWO:
                by = msgspec.structs.replace(given_to, machine=ONE)
                event = "join" if index == 1 else "acknowledge"
                joiner.write_now(msgspec.structs.replace(line, event=event, peer=by, peer_head=giver.head.hex()))
    return one, two


def test_two_logs_that_agree(pair: tuple[Path, Path]) -> None:
    one, two = map(verify, ([pair[0]], [pair[1]]))
    found = match([one, two])
    assert (found.pairs, found.without) == (2, ())
    assert match([two, one]) == found
    assert match([one]).pairs == 0
    assert match([two]).pairs == 0, "of the other log nothing can be said"


DISAGREE: dict[str, tuple[int, Edit, str]] = {
    "the giver's tail cut": (0, lambda lines: lines[:4], r"two, line 3: machine 1a.* gave the keyring, transcript"),
    "all of the giver's cut": (0, lambda lines: lines[:2], r"two, line 2: machine 1a.* gave the keyring, transcript"),
    "the joiner's tail cut": (1, lambda lines: lines[:1], r"one, line 5: machine 2b.* had a line with SHA-256"),
}


@pytest.mark.parametrize(("index", "edit", "says"), DISAGREE.values(), ids=DISAGREE)
def test_a_tail_cut_off_one_log_shows_in_the_other(pair: tuple[Path, Path], index: int, edit: Edit, says: str) -> None:
    put(pair[index], edit(lines_of(pair[index])))
    with pytest.raises(Rejected, match=says) as raised:
        match([verify([path]) for path in pair])
    assert raised.value.reason is Reason.LOGS_DISAGREE
    assert "another instance on that machine" in raised.value.advice


def test_a_hand_over_that_did_not_arrive_is_told_and_not_refused(pair: tuple[Path, Path]) -> None:
    put(pair[1], lines_of(pair[1])[:2])
    found = match([verify([path]) for path in pair])
    assert found.pairs == 1
    assert len(found.without) == 1
    assert "one, line 5: transcript 0000" in found.without[0]


def test_a_log_that_names_a_head_which_is_none_is_told_of(tmp_path: Path) -> None:
    """Of a machine whose host made it up: it has the form of a chain, and is compared with others."""
    path = tmp_path / "log"
    peer = Peer.of(CLAIMS, "10.0.0.1")
    with log_at(path) as audit:
        audit.write_now(
            Line(event="join", verdict="accepted", domain=DOMAIN, peer=peer, transcript="ab", peer_head="zz" * 32)
        )
    with pytest.raises(Rejected, match="does not decode") as raised:
        match([verify([path])])
    assert raised.value.reason is Reason.LOG_BROKEN
