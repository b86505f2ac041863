from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from rkeyserver import files
from rkeyserver.errors import Misuse, Unavailable

WRITERS: dict[str, Callable[[Path, bytes], object]] = {"create": files.create, "replace": files.replace}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_file_is_whole_and_its_owners_alone(write: Callable[[Path, bytes], object], tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write(tmp_path / "file", b"whole")
    finally:
        os.umask(before)
    assert (tmp_path / "file").read_bytes() == b"whole"
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    assert files.create(tmp_path / "file", b"first")
    assert not files.create(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"first"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_what_is_there_is_replaced(tmp_path: Path) -> None:
    files.replace(tmp_path / "file", b"first")
    files.replace(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"second"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_link_is_replaced_and_what_it_points_to_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"elsewhere")
    (tmp_path / "file").symlink_to("elsewhere")
    assert not files.create(tmp_path / "file", b"new")
    files.replace(tmp_path / "file", b"new")
    assert (tmp_path / "elsewhere").read_bytes() == b"elsewhere"
    assert not (tmp_path / "file").is_symlink()


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_write_that_fails_leaves_what_was_there(
    write: Callable[[Path, bytes], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"old")

    def fail(_fd: int) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError, match="file"):
        files.replace(tmp_path / "file", b"new")
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_what_somebody_named_is_read_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "-").write_bytes(b"file")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"said")))
    monkeypatch.chdir(tmp_path)
    assert files.read(Path("-"), 4, "quote") == b"file"
    assert files.read(Path("-"), 4, "quote", stdin=True) == b"said"
    with pytest.raises(Misuse, match="The quote - has more than 3 bytes; at most so many are read"):
        files.read(Path("-"), 3, "quote")


UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "not there": (lambda _path: None, "cannot be read: No such file or directory"),
    "a folder": (Path.mkdir, "cannot be read: Is a directory"),
    "no text": (lambda path: path.write_bytes(b"\n\n\xff"), "is no text in UTF-8: see line 3"),
    "endless": (lambda path: path.symlink_to("/dev/zero"), "has more than 99 bytes"),
}


@pytest.mark.parametrize(("make", "says"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read_is_named(tmp_path: Path, make: Callable[[Path], object], says: str) -> None:
    make(tmp_path / "file")
    with pytest.raises(Misuse, match=f"The policy {tmp_path}/file {says}"):
        files.read_text(tmp_path / "file", 99, "policy")


def test_text_is_read_to_the_byte(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a\r\nb\r")
    assert files.read_text(tmp_path / "file", 99, "policy") == "a\r\nb\r"


@pytest.mark.parametrize("old", [None, b"old"], ids=["nothing there", "a file there"])
def test_what_is_wanted_in_a_file_is_whole_and_as_the_umask_has_it(tmp_path: Path, old: bytes | None) -> None:
    if old is not None:
        (tmp_path / "file").write_bytes(old)
    before = os.umask(0o027)
    try:
        files.put(tmp_path / "file", b"new")
    finally:
        os.umask(before)
    assert (tmp_path / "file").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("there", [True, False], ids=["to a file", "to nothing"])
def test_a_link_is_written_through(tmp_path: Path, *, there: bool) -> None:
    if there:
        (tmp_path / "elsewhere").write_bytes(b"old")
    (tmp_path / "link").symlink_to("elsewhere")
    files.put(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere").read_bytes() == b"new"


def test_a_device_stays_one() -> None:
    before = Path("/dev/null").stat()
    files.put(Path("/dev/null"), b"new")
    assert os.path.samestat(before, Path("/dev/null").stat())


@pytest.mark.parametrize("name", ["", "none/file"], ids=["a folder", "in no folder"])
def test_what_cannot_be_written_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(Unavailable, match="cannot be written: "):
        files.put(tmp_path / name, b"new")
    assert not list(tmp_path.iterdir())
