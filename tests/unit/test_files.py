from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from rkeyserver import files

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
