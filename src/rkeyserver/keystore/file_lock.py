"""One process at a time: a POSIX record lock on a file that says who holds it.

fcntl(2) locks, since flock(2) does not exist inside Gramine. The kernel drops such a lock as soon as the process
closes *any* descriptor of the file, so within one process a table refuses the second opener before it opens anything.
The file stays: removing it would let two processes lock two files of one name.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import stat
import struct
import threading
from typing import TYPE_CHECKING, Final

from rkeyserver.clock import utc
from rkeyserver.errors import Misuse, RkeyError, Unavailable
from rkeyserver.keystore.file_steps import advice, because

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_log = logging.getLogger(__name__)

_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_MODE: Final = 0o600
_ATTEMPTS: Final = 10  # a holder may leave, or the file be removed, between two system calls
_FLOCK: Final = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux: type, whence, start, length, pid
_NOTE: Final = re.compile(r"pid ([0-9]{1,10}) on ([A-Za-z0-9._-]{1,64}) since ([0-9TZ:-]{20})\n")
_NOTE_SIZE: Final = 128

_held: set[tuple[int, int]] = set()
_guard = threading.Lock()
os.register_at_fork(after_in_child=_held.clear)  # a child has the parent's memory but none of its locks


class FileLock:
    """A lock held from acquire() to release(). Made only by acquire()."""

    def __init__(self, path: Path, fd: int, key: tuple[int, int]) -> None:
        self._path = path
        self._fd = fd
        self._key = key

    @classmethod
    def acquire(cls, path: Path, now: Callable[[], float]) -> FileLock:
        """Take the lock on the file `path` (made if missing) at once, and note in it who has it since `now`.

        Raises: Unavailable if another holds it, named, or if it cannot be taken now; Misuse if it never can.
        """
        with _guard:
            for _ in range(_ATTEMPTS):
                if _inode(path) in _held:
                    raise _in_use(path, f"this very process (pid {os.getpid()})")
                fd = _open(path)
                try:
                    holder = _try_lock(fd, path)
                    key = _inode(path)
                    if holder is None and key is not None and key == _inode(fd):
                        _write_note(fd, path, now)
                        _held.add(key)
                        return cls(path, fd, key)
                except BaseException:  # whatever it is, nothing half done stays
                    os.close(fd)
                    raise
                os.close(fd)
                if holder:
                    raise _in_use(path, holder)
        raise Unavailable(f"The lock {path} keeps changing hands: {_ATTEMPTS} attempts.", advice="Try again.")

    def check(self) -> None:
        """See that the lock still keeps others out.

        Raises: Unavailable if it was released or its file was removed or replaced.
        """
        if self._fd < 0:
            raise Unavailable(f"The lock {self._path} was released.", advice="Open the keystore again.")
        if _inode(self._path) != self._key:
            raise Unavailable(
                f"The lock {self._path} was removed or replaced while it was held: another process may be writing.",
                advice="Nothing was changed. Stop all processes that use this keystore and start one.",
            )

    def release(self) -> None:
        """Let others have it. A second call does nothing."""
        with _guard:
            if self._fd < 0:
                return
            try:
                os.ftruncate(self._fd, 0)
            except OSError as error:
                _log.warning("Could not clear %s: %s.", self._path, because(error))
            _held.discard(self._key)
            os.close(self._fd)
            self._fd = -1


def _open(path: Path) -> int:
    try:
        fd = os.open(path, _FLAGS, _MODE)
    except OSError as error:
        raise _cannot_lock(path, error) from error
    try:
        found = os.fstat(fd)
        if stat.S_IMODE(found.st_mode) != _MODE and found.st_uid == os.geteuid():
            os.fchmod(fd, _MODE)  # whatever the umask was
    except OSError as error:
        os.close(fd)
        raise _cannot_lock(path, error) from error
    if not stat.S_ISREG(found.st_mode):
        os.close(fd)
        raise Misuse(f"The lock {path} is no regular file.", advice="Remove it, or keep the record in another folder.")
    return fd


def _cannot_lock(path: Path, error: OSError) -> RkeyError:
    text = f"Could not lock the keystore: {path}: {because(error)}. Nothing was changed."
    if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
        return Misuse(text, advice="Something other than a lock has that name: remove it.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG):
        return Misuse(text, advice=advice(error, path.parent))
    return Unavailable(text, advice=advice(error, path.parent))


def _inode(file: Path | int) -> tuple[int, int] | None:
    try:
        found = os.fstat(file) if isinstance(file, int) else file.lstat()
    except OSError:  # what is not there is not the lock that is held
        return None
    return found.st_dev, found.st_ino


def _try_lock(fd: int, path: Path) -> str | None:
    """Lock; None if done, else who holds it (in words; empty if nobody does any more)."""
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise _cannot_lock(path, error) from error
        return _holder(fd)
    return None


def _holder(fd: int) -> str:
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    if kind == fcntl.F_UNLCK:
        return ""
    note = _NOTE.fullmatch(os.pread(fd, _NOTE_SIZE, 0).decode("ascii", "replace"))
    if note is None:
        return f"process {pid}, which left no note" if pid > 0 else "a process that left no note"
    noted = f"process {note[1]} on {note[2]} since {note[3]}"
    # The kernel gives 0 for a process of another container and -1 for one of another machine.
    if pid > 0 and pid != int(note[1]):
        return f"process {pid} (the note in the lock is stale: {noted})"
    return noted


def _write_note(fd: int, path: Path, now: Callable[[], float]) -> None:
    node = re.sub(r"[^A-Za-z0-9._-]", "-", os.uname().nodename)[:64] or "localhost"
    note = f"pid {os.getpid()} on {node} since {utc(int(now()))}\n"
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, note.encode("ascii"), 0)
    except OSError as error:
        # The note is for people. The lock holds without it, and a full disk must not keep a record from being served.
        _log.warning("Could not note the holder in %s: %s.", path, because(error))


def _in_use(path: Path, holder: str) -> Unavailable:
    return Unavailable(
        f"The keystore is held by {holder}: one process at a time may open it (lock {path}).",
        advice="Stop that process, or give this one another keystore.",
    )
