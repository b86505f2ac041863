"""The file keystore: what it reads, refuses, keeps and locks. A disk that fails is in integration/test_crash_safety."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.fakes import traced_writer
from tests.fakes.store_writer import record

from rkeyserver.errors import Corrupt, Misuse, RkeyError, Unavailable
from rkeyserver.keystore import file_read
from rkeyserver.keystore.file import FileKeystore, read_record
from rkeyserver.keystore.store import KEPT, MAX_RECORD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "etc"
    folder.mkdir()
    return folder / "rkey.bin"


@pytest.fixture
def store(path: Path) -> Iterator[FileKeystore]:
    with FileKeystore.open(path) as opened:
        yield opened


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(p): p.read_bytes() if p.is_file() else None for p in folder.rglob("*") if p.suffix != ".lock"}


# What lies at the path


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(path))  # the whole path may be longer than a socket's may be


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, MAX_RECORD + 1)


UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "an empty file": (Path.touch, "is empty; a sealed record is wanted"),
    "a byte too many": (_sparse, f"has {MAX_RECORD + 1} bytes; a record has at most {MAX_RECORD}"),
    "a folder": (Path.mkdir, "is a folder; a regular file is wanted"),
    "a FIFO": (os.mkfifo, "is a FIFO; a regular file is wanted"),
    "a socket": (_socket, "is not readable (No such device or address)"),
}


@pytest.mark.parametrize(("make", "says"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_cannot_be_read_whole_is_corrupt(path: Path, make: Callable[[Path], object], says: str) -> None:
    make(path)
    before = snapshot(path.parent)
    with FileKeystore.open(path) as store:
        with pytest.raises(Corrupt) as raised:
            store.load()
        assert says in raised.value.message
        assert "Nothing was changed" in raised.value.advice
    with pytest.raises(Corrupt) as raised:
        read_record(path)
    assert says in raised.value.message
    assert snapshot(path.parent) == before


def test_a_record_that_may_not_be_read_is_no_damage(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(b"record")

    def refuse(*_arguments: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(Corrupt, match="not readable for user") as raised:
        read_record(path)
    assert "chown" in raised.value.advice


def test_copies_that_cannot_be_listed_are_not_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.touch()
    path.with_name("rkey.bin.kept.1").write_bytes(b"older")
    with pytest.raises(Corrupt) as raised:
        read_record(path)
    assert "newest first: rkey.bin.kept.1)" in raised.value.advice

    def refuse(_path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(Corrupt, match="is empty") as raised:
        read_record(path)
    assert "kept.1" not in raised.value.advice


def test_a_device_is_corrupt() -> None:
    with pytest.raises(Corrupt, match="/dev/zero is a character device; a regular file is wanted"):
        read_record(Path("/dev/zero"))


def test_a_file_that_grows_while_it_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(b"record")
    read = os.read

    def grow(fd: int, size: int) -> bytes:
        with path.open("ab") as file:
            file.write(b"!")
        return read(fd, size)

    monkeypatch.setattr(os, "read", grow)
    with pytest.raises(Corrupt, match="gave at least 7 bytes where 6 were wanted"):
        read_record(path)


def test_a_file_read_in_small_parts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(record("old"))
    read = os.read
    monkeypatch.setattr(os, "read", lambda fd, size: read(fd, min(size, 7)))
    assert read_record(path) == record("old")


def test_a_record_written_in_small_parts(store: FileKeystore, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr("rkeyserver.keystore.file.os.write", lambda fd, data: write(fd, data[:7]))
    store.replace(record("new"), None)
    monkeypatch.undo()
    assert store.load() == record("new")


def test_a_write_that_takes_nothing_is_no_endless_loop(store: FileKeystore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.replace(record("old"), None)
    monkeypatch.setattr("rkeyserver.keystore.file.os.write", lambda _fd, _data: 0)
    with pytest.raises(Unavailable, match="took no byte"):
        store.replace(record("new"), "name")
    assert store.load() == record("old")


def test_nothing_to_inspect(path: Path) -> None:
    with pytest.raises(Misuse, match="no record at"):
        read_record(path)


NO_PATHS = {"a NUL": "a\0b", "the root": "/", "a parent": "..", "here": ".", "a name too long": "n" * 300}


@pytest.mark.parametrize("name", NO_PATHS.values(), ids=NO_PATHS.keys())
def test_no_path_of_a_file(name: str) -> None:
    with pytest.raises(Misuse):
        FileKeystore.open(Path(name))


def test_inspecting_no_path() -> None:
    with pytest.raises(Misuse, match="is no path"):
        read_record(Path("a\0b"))


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="Create the folder"):
        FileKeystore.open(tmp_path / "missing" / "rkey.bin")
    assert list(tmp_path.iterdir()) == []


def test_a_file_as_folder(path: Path) -> None:
    path.write_bytes(b"a file")
    with pytest.raises(Misuse, match="Not a directory"):
        FileKeystore.open(path / "rkey.bin")


# Never None where a record was


def test_a_lost_record_is_not_an_empty_store(path: Path) -> None:
    with FileKeystore.open(path) as store:
        for number in range(3):
            store.replace(b"record %d" % number, f"seq-{number}")
    path.unlink()
    with FileKeystore.open(path) as store, pytest.raises(Corrupt) as raised:
        store.load()
    assert "rkey.bin.kept.seq-1, rkey.bin.kept.seq-2" in raised.value.message
    assert "rkey.bin.kept.seq-2" in raised.value.advice


def test_a_lost_record_can_be_replaced(path: Path) -> None:
    path.with_name("rkey.bin.kept.seq-1").write_bytes(b"older")
    with FileKeystore.open(path) as store:
        assert store.replace(b"fetched again", "seq-2") is False
        assert store.load() == b"fetched again"
        assert [copy.read_bytes() for copy in store.kept()] == [b"older"]


def test_copies_of_another_keystore_are_not_this_ones(path: Path) -> None:
    for name in (
        "rkey.kept.1",
        "rkey.bin2.kept.1",
        "xrkey.bin.kept.1",
        "rkey.bin.bak",
        "rkey.bin.lock",
    ):
        path.with_name(name).write_bytes(b"not mine")
    with FileKeystore.open(path) as store:
        assert store.load() is None


def test_a_folder_removed_while_open(store: FileKeystore, path: Path) -> None:
    shutil.rmtree(path.parent)
    with pytest.raises(Unavailable, match="removed or replaced"):
        store.load()
    with pytest.raises(Unavailable, match="removed or replaced"):
        store.replace(b"new", None)


def test_another_folder_in_its_place(store: FileKeystore, path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))
    path.parent.mkdir()
    (path.parent / "rkey.bin.lock").touch()
    with pytest.raises(Unavailable, match="removed or replaced"):
        store.load()


# Symbolic links


def test_a_link_to_a_record(tmp_path: Path, path: Path) -> None:
    path.write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to("second")
    (tmp_path / "second").symlink_to(path)
    with FileKeystore.open(link) as store:
        assert store.path == path
        assert store.load() == b"old"
        store.replace(b"new", "was")
    assert link.is_symlink()
    assert sorted(p.name for p in path.parent.iterdir()) == ["rkey.bin", "rkey.bin.kept.was", "rkey.bin.lock"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["etc", "link", "second"]
    assert path.read_bytes() == read_record(link) == b"new"


def test_a_link_to_a_record_to_be(tmp_path: Path, path: Path) -> None:
    (tmp_path / "link").symlink_to(path)
    with FileKeystore.open(tmp_path / "link") as store:
        assert store.load() is None
        # Its disk may not be mounted: what comes from a host may go there, a new root key may not.
        with pytest.raises(Corrupt, match="which is not there"):
            store.check_new()
        store.replace(b"new", None)
    assert path.read_bytes() == b"new"


def test_a_first_record_may_be_made_where_no_link_leads(store: FileKeystore) -> None:
    store.check_new()


def test_link_and_target_are_one_keystore(tmp_path: Path, path: Path, store: FileKeystore) -> None:
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(Unavailable, match="held by"):
        FileKeystore.open(tmp_path / "link")
    store.replace(b"new", None)


def test_a_relative_path_stays_the_same_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    with FileKeystore.open(Path("rkey.bin")) as store:
        monkeypatch.chdir("/")
        store.replace(b"new", None)
    assert path.read_bytes() == b"new"


def test_links_that_lead_nowhere(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(tmp_path / "pool")
    (tmp_path / "pool").symlink_to(loop)
    gone = tmp_path / "gone"
    gone.symlink_to(tmp_path / "unmounted" / "rkey.bin")
    for link, says in (
        (loop, "a loop of symbolic links"),
        (loop / "rkey.bin", "a loop"),
        (gone, "unmounted, which is"),
    ):
        with pytest.raises(Corrupt, match=says):
            FileKeystore.open(link)
    with pytest.raises(Corrupt, match="or a loop of them"):
        read_record(loop)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gone", "loop", "pool"]


def test_a_link_to_a_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("..")
    with pytest.raises(Misuse, match="names a folder"):
        FileKeystore.open(tmp_path / "link")


def test_a_link_put_in_the_place_of_the_record(tmp_path: Path, path: Path, store: FileKeystore) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"theirs")
    path.symlink_to(elsewhere)
    with pytest.raises(Corrupt, match="a symbolic link where a file is wanted"):
        store.load()
    with pytest.raises(Corrupt, match="is a symbolic link; a regular file is wanted"):
        store.replace(b"new", "name")
    assert elsewhere.read_bytes() == b"theirs"


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["a folder", "a FIFO"])
def test_what_is_no_file_is_not_replaced(store: FileKeystore, path: Path, make: Callable[[Path], object]) -> None:
    make(path)
    before = snapshot(path.parent)
    with pytest.raises(Corrupt, match="a regular file is wanted"):
        store.replace(b"new", "name")
    assert snapshot(path.parent) == before


# Mount points


def test_a_file_that_is_a_mount_point(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_bytes(b"36 35 98:0 /f /etc/my\\040rkey\\134.bin rw,noatime shared:1 - ext3 /dev/root rw\nshort line\n")
    with pytest.raises(Misuse, match=r"Mount a folder instead \(for example on /etc\)"):
        file_read.refuse_mount_point(Path("/etc/my rkey\\.bin"), table)
    for other in ("/etc/my rkey\\.bi", "/etc/my rkey\\.bin2", "/f", "/etc"):
        file_read.refuse_mount_point(Path(other), table)


def test_no_table_of_mounts(tmp_path: Path) -> None:
    file_read.refuse_mount_point(tmp_path / "rkey.bin", tmp_path / "missing")


# Copies


def test_an_unreadable_record_is_kept_as_it_is(path: Path) -> None:
    path.touch()
    with FileKeystore.open(path) as store:
        assert store.replace(b"new", "unopenable") is True
        assert [copy.read_bytes() for copy in store.kept()] == [b""]


def test_a_taken_name_gets_a_number(store: FileKeystore, path: Path) -> None:
    path.with_name("rkey.bin.kept.name").mkdir()
    for content in (b"one", b"two", b"three"):
        store.replace(content, "name")
    assert path.with_name("rkey.bin.kept.name.1").read_bytes() == b"one"
    assert path.with_name("rkey.bin.kept.name.2").read_bytes() == b"two"


def test_numbers_in_names_count_where_times_do_not(store: FileKeystore, path: Path) -> None:
    for number in range(8, 13):
        kept = path.with_name(f"rkey.bin.kept.seq-{number}")
        kept.write_bytes(b"%d" % number)
        os.utime(kept, (0, 0))
    assert [copy.name.rpartition("-")[2] for copy in store.kept()] == ["12", "11", "10", "9", "8"]


def test_times_count_before_names(store: FileKeystore, path: Path) -> None:
    for name, seconds in (("b", 1), ("c", 2), ("a", 3)):
        kept = path.with_name(f"rkey.bin.kept.{name}")
        kept.touch()
        os.utime(kept, (seconds, seconds))
    assert [copy.suffix for copy in store.kept()] == [".a", ".c", ".b"]


def test_of_one_domain_the_state_counts_before_the_time(store: FileKeystore, path: Path) -> None:
    """An old copy that was put back, and was replaced again, is kept last and is no newer for that."""
    of_a, of_b = f"domain-{'0a' * 16}", f"domain-{'0b' * 16}"
    names = [f"{of_a}.epoch-{state}" for state in ("10.sequence-7", "9.sequence-14", "9.sequence-9.1", "9.sequence-9")]
    for seconds, name in enumerate((f"{of_b}.epoch-11.sequence-1", *names, "unreadable"), start=1):
        kept = path.with_name(f"rkey.bin.kept.{name}")
        kept.touch()
        os.utime(kept, (seconds, seconds))
    found = [copy.name.removeprefix("rkey.bin.kept.") for copy in store.kept()]
    assert found == ["unreadable", *names, f"{of_b}.epoch-11.sequence-1"]


def test_what_was_just_kept_stays_even_if_it_looks_oldest(store: FileKeystore, path: Path) -> None:
    for number in range(KEPT):
        path.with_name(f"rkey.bin.kept.{number}").write_bytes(b"%d" % number)
    store.replace(b"restored from an old backup", None)
    os.utime(path, (1, 1))
    store.replace(b"new", "restored")
    assert len(store.kept()) == KEPT
    assert path.with_name("rkey.bin.kept.restored").exists()


def test_the_last_copy_of_a_domain_is_never_removed(store: FileKeystore, path: Path) -> None:
    store.replace(b"only", None)
    store.replace(b"0", "domain-a.sequence-1")
    for number in range(KEPT + 3):
        store.replace(b"%d" % (number + 1), f"domain-b.sequence-{number}")
    names = {one.name.removeprefix("rkey.bin.kept.") for one in store.kept()}
    assert path.with_name("rkey.bin.kept.domain-a.sequence-1").read_bytes() == b"only"
    assert names == {"domain-a.sequence-1", *(f"domain-b.sequence-{number}" for number in range(3, KEPT + 3))}


def test_copies_that_a_person_made_are_never_removed(store: FileKeystore, path: Path) -> None:
    theirs = ["rkey.bin.bak", "rkey.bin.old.1", "rkey.bin.gpg", "rkey.bin.kept.by hand", "rkey.bin.new~by-hand"]
    for name in theirs:
        path.with_name(name).write_bytes(b"theirs")
    for number in range(KEPT + 3):
        store.replace(b"%d" % number, f"seq-{number}")
    assert [name for name in theirs if path.with_name(name).exists()] == theirs


def test_left_overs_are_removed_only_under_the_lock(store: FileKeystore, path: Path) -> None:
    left = path.with_name("rkey.bin.new~0123456789abcdef")
    left.write_bytes(b"half")
    with pytest.raises(Unavailable):
        FileKeystore.open(path)
    assert left.exists()
    store.close()
    FileKeystore.open(path).close()
    assert not left.exists()


# The lock


@pytest.fixture
def holder(path: Path) -> Iterator[int]:
    """The pid of another process that holds the keystore."""
    writer = traced_writer.start(traced_writer.writer_command(path, "open", "wait"))
    yield writer.pid
    traced_writer.end(writer)


def refused(path: Path) -> str:
    """What another process is told that wants to open it; empty if it could."""
    done = traced_writer.run(path, "open")
    return "" if done.status == 0 else done.output[-1]


def test_another_process_is_named(path: Path, holder: int) -> None:
    with pytest.raises(Unavailable) as raised:
        FileKeystore.open(path)
    assert f"held by process {holder} on " in raised.value.message
    assert " since 20" in raised.value.message
    assert "stale" not in raised.value.message
    assert "Stop that process" in raised.value.advice


def test_a_killed_process_holds_nothing(path: Path, holder: int) -> None:
    os.kill(holder, signal.SIGKILL)
    os.waitid(os.P_PID, holder, os.WEXITED | os.WNOWAIT)
    with FileKeystore.open(path) as store:
        assert store.load() is None


NOTES = {
    "of another process": (b"pid 1 on elsewhere since 2026-01-01T00:00:00Z\n", "the note in the lock is stale"),
    "missing": (b"", "left no note"),
    "hostile": (b"\x1b[2Jpid 1 on x since now\n", "left no note"),
    "binary": (b"\xff" * 500, "left no note"),
}


@pytest.mark.parametrize(("note", "says"), NOTES.values(), ids=NOTES.keys())
def test_the_kernel_knows_better_than_the_note(path: Path, holder: int, note: bytes, says: str) -> None:
    path.with_name("rkey.bin.lock").write_bytes(note)
    with pytest.raises(Unavailable) as raised:
        FileKeystore.open(path)
    assert f"process {holder}" in raised.value.message
    assert says in raised.value.message
    assert raised.value.message.isprintable()


def test_the_note_tells_since_when(path: Path) -> None:
    with FileKeystore.open(path, now=lambda: 1_000_000_000.9):
        note = refused(path)
    assert f"process {os.getpid()} on " in note
    assert "since 2001-09-09T01:46:40Z" in note
    assert path.with_name("rkey.bin.lock").read_bytes() == b""


def test_a_refusal_in_this_process_does_not_open_it_for_others(path: Path, store: FileKeystore) -> None:
    # Closing any descriptor of the lock's file would drop the lock.
    with pytest.raises(Unavailable, match=f"this very process \\(pid {os.getpid()}\\)"):
        FileKeystore.open(path)
    assert f"held by process {os.getpid()}" in refused(path)
    assert store.load() is None


def test_reading_without_the_lock_does_not_drop_it(path: Path, store: FileKeystore) -> None:
    store.replace(b"record", None)
    assert read_record(path) == b"record"
    assert f"held by process {os.getpid()}" in refused(path)


def test_closed_it_is_free_for_others(path: Path, store: FileKeystore) -> None:
    store.close()
    assert refused(path) == ""


def test_a_failed_open_leaves_it_free(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_record: Path) -> None:
        raise RkeyError("stopped")

    monkeypatch.setattr("rkeyserver.keystore.file.warn_if_exposed", fail)
    with pytest.raises(RkeyError, match="stopped"):
        FileKeystore.open(path)
    monkeypatch.undo()
    assert refused(path) == ""
    FileKeystore.open(path).close()


def test_a_lock_that_was_removed_protects_nobody(path: Path, store: FileKeystore) -> None:
    store.replace(b"old", None)
    path.with_name("rkey.bin.lock").unlink()
    with FileKeystore.open(path) as second:
        with pytest.raises(Unavailable, match="another process may be writing"):
            store.replace(b"new", None)
        assert second.load() == b"old"
        store.close()
        assert f"held by process {os.getpid()}" in refused(path)


NO_LOCKS: dict[str, Callable[[Path], object]] = {
    "a symbolic link": lambda lock: lock.symlink_to("elsewhere"),
    "a folder": Path.mkdir,
    "a FIFO": os.mkfifo,
    "a socket": _socket,
}


@pytest.mark.parametrize("make", NO_LOCKS.values(), ids=NO_LOCKS.keys())
def test_something_else_has_the_name_of_the_lock(path: Path, make: Callable[[Path], object]) -> None:
    make(path.with_name("rkey.bin.lock"))
    with pytest.raises(Misuse, match=r"rkey\.bin\.lock.*[Rr]emove it"):
        FileKeystore.open(path)
    assert not path.with_name("elsewhere").exists()


# Warnings


def warnings_of_opening(path: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    with caplog.at_level(logging.WARNING):
        FileKeystore.open(path).close()
    return [r.getMessage() for r in caplog.records]


def test_nothing_to_warn_of(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_bytes(b"record")
    path.chmod(0o600)
    path.parent.chmod(0o1777)
    assert warnings_of_opening(path, caplog) == []


def test_warned_of_a_folder_open_to_all(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.chmod(0o777)
    assert [w for w in warnings_of_opening(path, caplog) if f"replace files in {path.parent}" in w]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660], ids=oct)
def test_warned_of_a_record_open_to_others(path: Path, caplog: pytest.LogCaptureFixture, mode: int) -> None:
    path.write_bytes(b"record")
    path.chmod(mode)
    assert [w for w in warnings_of_opening(path, caplog) if f"has mode 0{mode:o}; 0600 is wanted" in w]


def test_warned_of_a_record_of_another_user(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(b"record")
    path.chmod(0o600)
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    assert [w for w in warnings_of_opening(path, caplog) if f"belongs to user {me}; this process runs as {me + 1}" in w]
