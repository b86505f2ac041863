"""Files as this process would see them inside Gramine, so far as a store on them could notice.

Read in Gramine (libos/src/fs/libos_fs_util.c, libos_dcache.c, sys/libos_stat.c, sys/libos_open.c, sys/libos_file.c):

    inode number         a hash of the path
    device               a hash of the mount's URI, one for all here
    times                0
    owner                whoever asks
    symbolic links       followed, and never seen to be links
    hard links           ENOSYS
    fsync of a folder    does nothing

Only the functions of `os` are exchanged, which pathlib too goes through.
"""

from __future__ import annotations

import errno
import os
import stat
import zlib
from pathlib import Path
from typing import Any, Final

import pytest

_DEVICE: Final = 4711
_ONE: Final = 1  # number of links, of a file


def _as_seen(found: os.stat_result, path: str) -> os.stat_result:
    inode = zlib.crc32(os.fsencode(path))
    seen = (found.st_mode, inode, _DEVICE, _ONE, os.geteuid(), os.getegid(), found.st_size, 0, 0, 0)
    return os.stat_result(seen, {"st_atime_ns": 0, "st_mtime_ns": 0, "st_ctime_ns": 0})


def see_files_as_gramine(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, until the monkeypatch is undone."""
    real_stat, real_fsync, real_readlink = os.stat, os.fsync, os.readlink

    def look(path: Any, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        del follow_symlinks
        name = real_readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.path.abspath(os.fspath(path))  # noqa: PTH100 - Path's goes through here
        return _as_seen(real_stat(path, dir_fd=dir_fd), name)

    def look_at_link(path: Any, *, dir_fd: int | None = None) -> os.stat_result:
        return look(path, dir_fd=dir_fd)

    def read_link(path: Any, *, dir_fd: int | None = None) -> str:
        real_stat(path, dir_fd=dir_fd)
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)

    def link(source: Any, target: Any, **_: Any) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), source, None, target)

    def sync(fd: int) -> None:
        if not stat.S_ISDIR(real_stat(fd).st_mode):
            real_fsync(fd)

    for name, function in {
        "stat": look,
        "lstat": look_at_link,
        "fstat": look,
        "readlink": read_link,
        "link": link,
        "fsync": sync,
    }.items():
        monkeypatch.setattr(os, name, function)


def is_seen_so(path: Path) -> bool:
    """Whether that is in force now, for a file that is there."""
    return path.stat().st_dev == _DEVICE
