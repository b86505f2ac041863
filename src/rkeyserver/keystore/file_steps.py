"""What the steps of a file keystore have in common: how a failed one is reported."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rkeyserver.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NO_SPACE: Final = "Free some space (or raise the quota) for {folder}, then try again."
_NO_RIGHT: Final = (
    "Let this process's user write to {folder} (chown, chmod, ReadWritePaths= in the unit), then try again; "
    "or name another place."
)
_ADVICE: Final = {
    errno.ENOSPC: _NO_SPACE,
    errno.EDQUOT: _NO_SPACE,
    errno.EACCES: _NO_RIGHT,
    errno.EPERM: _NO_RIGHT,
    errno.EROFS: "Mount {folder} writable, then try again; if it turned read-only by itself, look for disk errors.",
    errno.EIO: "The disk under {folder} fails: look into the kernel's log (dmesg) and copy the record elsewhere.",
    errno.EMFILE: "Raise the limit of open files (LimitNOFILE=), then try again.",
    errno.ENOLCK: "The file system of {folder} gives no locks: keep the record on a local file system.",
}


def advice(error: OSError, folder: Path) -> str:
    """What to do about `error`, met in `folder`."""
    return _ADVICE.get(error.errno or 0, "Look at {folder}, then try again.").format(folder=folder)


def because(error: OSError) -> str:
    """The system's own words for `error`, without the file names that Python adds."""
    return error.strerror or str(error)


@contextmanager
def step(doing: str, on_disk: str, folder: Path) -> Iterator[None]:
    """One step of a change: `doing` names it, `on_disk` says what is stored if it fails.

    Raises: Unavailable instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise Unavailable(f"Could not {doing}: {because(error)}. {on_disk}", advice=advice(error, folder)) from error


def sync_name(folder_fd: int, path: Path) -> None:
    """Have the name that a file was just given on disk; `folder_fd` is its folder's.

    The folder's fsync(2) is what does it. Inside Gramine that one does nothing and answers 0, and the file's own, which
    reaches the disk, has to: a journaling file system (ext4, XFS, Btrfs) writes the name that a file has with the file.
    Raises: OSError.
    """
    os.fsync(folder_fd)
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
