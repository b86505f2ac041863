"""A keystore in one file, replaced as a whole.

A write: new file beside the record, fsync; the old record kept by a hard link; fsync of the folder; rename over the
record; fsync of the folder, and of what has a new name in it. Whoever is killed in between leaves the old record or the
new one, whole, and at most one half-written file, which the next open() removes. Beside the record `rkey.bin` lie

    rkey.bin.lock            held from open() to close()
    rkey.bin.kept.NAME       what was replaced; NAME is the caller's, with a number where it is taken
    rkey.bin.new~16 hex      being written
    rkey.bin.lock.host       the launcher's of an enclave (cli/host_lock.py)

Only files of these names are ever removed: give a copy of your own another one.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
import time
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from rkeyserver.errors import Corrupt, Misuse, Unavailable
from rkeyserver.keystore.file_lock import FileLock
from rkeyserver.keystore.file_read import (
    KEEP_AS,
    KEPT_INFIX,
    RESTORE,
    kept_beside,
    kept_names,
    kind_of,
    mount_point,
    read_if_there,
    read_record,
    refuse_lost,
    refuse_mount_point,
    resolve,
    warn_if_exposed,
)
from rkeyserver.keystore.file_steps import because, step, sync_name
from rkeyserver.keystore.store import KEPT, MAX_RECORD, Fetch, ways_out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

__all__ = ["FileKeystore", "read_record"]

_log = logging.getLogger(__name__)

_LOCK: Final = ".lock"
_NEW_INFIX: Final = ".new~"  # `~` is in no name that a caller may give
_NEW_SUFFIX: Final = re.compile(r"[0-9a-f]{16}")
_NEW_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK: Final = 64 * 1024
# What link(2) says where the file system, the kernel's rules on hard links, or Gramine have none.
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})


class FileKeystore:
    """The record at one path: see store.Keystore. Made by open(), used by one thread at a time, ended by close()."""

    def __init__(self, record: Path, lock: FileLock, folder_fd: int, *, linked: bool = False) -> None:
        self._record = record
        self._linked = linked
        self._folder = record.parent
        self._lock = lock
        self._folder_fd = folder_fd

    @classmethod
    def open(cls, path: Path, *, now: Callable[[], float] = time.time) -> FileKeystore:
        """Lock the keystore at `path`; there need be no record yet. A symbolic link is followed, once, now.

        now: seconds since 1970, for the note on who holds the lock since when.

        Raises: Unavailable if another process holds it, named, or if it cannot be locked now; Misuse if the path can
        hold no keystore; Corrupt if it is a link that leads nowhere.
        """
        record = resolve(path)
        refuse_mount_point(record)
        lock = FileLock.acquire(record.with_name(record.name + _LOCK), now)
        folder_fd = -1
        try:
            with step("open the keystore's folder", "Nothing was changed.", record.parent):
                folder_fd = os.open(record.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                store = cls(record, lock, folder_fd, linked=path.is_symlink())
                store._remove_stale()
            warn_if_exposed(record)
        except BaseException:  # whatever it is, nothing half done stays
            if folder_fd >= 0:
                os.close(folder_fd)
            lock.release()
            raise
        return store

    @property
    def waits(self) -> bool:
        """As store.Keystore: a disk is local."""
        return False

    def check_reachable(self) -> None:
        """As store.Keystore."""
        self._lock.check()

    def glance(self) -> bytes | None:
        """As store.Keystore: a file is read at once."""
        return self.load()

    def ways_out(self, fetch: Fetch) -> str:
        """As store.Keystore."""
        return ways_out(self.kept_names(), fetch)

    def owns(self, path: Path) -> bool:
        """Whether a file of that path is, or may become, part of this keystore: the record, its lock, its copies."""
        try:
            found = path.resolve()
        except (OSError, RuntimeError):  # links in a circle, a folder that nobody may enter: no file of ours
            return False
        mine = found.parent == self._folder and (
            found == self._record
            or any(found.name.startswith(self._record.name + infix) for infix in (_LOCK, KEPT_INFIX, _NEW_INFIX))
        )
        return mine or (found.exists() and self._record.exists() and found.samefile(self._record))

    @property
    def path(self) -> Path:
        """Where the record really lies: absolute, links followed."""
        return self._record

    def kept(self) -> list[Path]:
        """The copies kept beside the record, newest first.

        Raises: Unavailable if the folder cannot be listed.
        """
        with step("list the copies kept beside the record", "Nothing was changed.", self._folder):
            return kept_beside(self._record)

    def kept_names(self) -> list[str]:
        """As store.Keystore."""
        return kept_names(self._record)

    def load(self) -> bytes | None:
        """The record's bytes; None only if certainly no file of that name is in the folder, nor ever was replaced.

        Raises: Corrupt if something is there that cannot be read whole, or if only kept copies are there;
        Unavailable if the lock was lost or the folder cannot be listed. Nothing is changed.
        """
        record = read_if_there(self._record, os.O_NOFOLLOW)
        if record is not None:
            return record
        self._lock.check()  # ENOENT also comes from a folder that was removed, or unmounted, since open()
        with step("look for copies kept beside the record", "Nothing was changed.", self._folder):
            refuse_lost(self._record)
        return None

    def check_new(self) -> None:
        """As store.Keystore: what a symbolic link names may lie on a disk that is not mounted."""
        if self._linked:
            raise Corrupt(
                f"The keystore is a symbolic link to {self._record}, which is not there.",
                advice="Nothing was changed. Mount or restore what it names. For a new domain, name the file itself.",
            )

    def replace(self, record: bytes, keep_as: str | None) -> bool:
        """Store `record` durably (file mode 0600); True if there was something to replace. See store.Keystore.

        Raises: Unavailable if it could not be stored: the text names the step and what is stored now; Misuse if the
        record, the name or the place can never be stored; Corrupt if something other than a file has that name.
        """
        if not 0 < len(record) <= MAX_RECORD:
            raise Misuse(f"A record of {len(record)} bytes; 1 to {MAX_RECORD} are wanted. Nothing was changed.")
        if keep_as is not None and not KEEP_AS.fullmatch(keep_as):
            raise Misuse(f"{keep_as!r} names no kept copy; 1 to 128 letters, digits, '.' and '-' do.")
        self._lock.check()
        old = self._something_there()
        now = "The old record is in place, unchanged." if old else "There is no record yet."
        kept = None
        new = self._new_name()
        try:
            with step(f"write the new record to {new}", now, self._folder):
                _write(new, [record])
            if old and keep_as is not None:
                with step("keep the old record beside the new one", now, self._folder):
                    kept = self._keep(keep_as)
                    sync_name(self._folder_fd, kept)
            with step(f"rename the new record to {self._record}", now, self._folder):
                self._rename(new)
        except BaseException:  # whatever it is, nothing half done stays
            _discard(new)
            raise
        now = "The new record is in place, whole, but a power failure now might bring back the one before."
        with step("make the new record's name durable (fsync of the folder)", now, self._folder):
            sync_name(self._folder_fd, self._record)
        if kept:
            _log.info("Kept what was replaced as %s.", kept)
            self._prune(kept)
        return old

    def close(self) -> None:
        """Let another process open it. A second call does nothing."""
        self._lock.release()
        if self._folder_fd >= 0:
            os.close(self._folder_fd)
            self._folder_fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _something_there(self) -> bool:
        with step(f"look at {self._record}", "Nothing was changed.", self._folder):
            try:
                found = self._record.lstat()
            except FileNotFoundError:
                return False
        if not stat.S_ISREG(found.st_mode):
            raise Corrupt(f"{self._record} is {kind_of(found.st_mode)}; a regular file is wanted.", advice=RESTORE)
        return True

    def _new_name(self) -> Path:
        return self._record.with_name(f"{self._record.name}{_NEW_INFIX}{os.urandom(8).hex()}")

    def _rename(self, new: Path) -> None:
        try:
            new.rename(self._record)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise mount_point(self._record) from error
            raise

    def _keep(self, keep_as: str) -> Path:
        """Give what is there a second name, or a copy; the name it has now."""
        wanted = f"{self._record.name}{KEPT_INFIX}{keep_as}"
        for number in count():
            kept = self._record.with_name(f"{wanted}.{number}" if number else wanted)
            try:
                there = kept.lstat()
            except FileNotFoundError:
                break
            if stat.S_ISREG(there.st_mode) and _same(kept, self._record):
                return kept
        try:
            kept.hardlink_to(self._record)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self._copy(kept)
        return kept

    def _copy(self, kept: Path) -> None:
        new = self._new_name()
        try:
            _write(new, _chunks(self._record))
            new.rename(kept)
        except BaseException:  # whatever it is, nothing half done stays
            _discard(new)
            raise

    def _prune(self, just_kept: Path) -> None:
        # The record is stored by now: a copy too many is no reason to report that it is not.
        try:
            newer = {self._kind(just_kept)}
            for number, path in enumerate((one for one in self.kept() if one != just_kept), start=1):
                if number >= KEPT and self._kind(path) in newer:
                    path.unlink()
                newer.add(self._kind(path))
        except (OSError, Unavailable) as error:
            _log.warning("Could not remove the oldest kept copies in %s: %s", self._folder, error)

    def _kind(self, kept: Path) -> str:
        """What a copy's name has before its first dot, if it has one: the last of a kind (a domain) always stays."""
        kind, dot, _ = kept.name.removeprefix(self._record.name + KEPT_INFIX).partition(".")
        return kind if dot else ""

    def _remove_stale(self) -> None:
        # Whoever writes holds the lock, and that is this process: what others left half-written is nobody's.
        start = self._record.name + _NEW_INFIX
        for path in list(self._folder.iterdir()):
            if not (path.name.startswith(start) and _NEW_SUFFIX.fullmatch(path.name.removeprefix(start))):
                continue
            try:
                path.unlink()
                _log.info("Removed %s, left by a process that died while it wrote.", path)
            except OSError as error:
                _log.warning("Could not remove the left-over %s: %s.", path, because(error))


def _write(new: Path, parts: Iterable[bytes]) -> None:
    """Write `parts` to a file that must not exist yet, down to the disk."""
    fd = os.open(new, _NEW_FLAGS, 0o600)
    try:
        os.fchmod(fd, 0o600)  # whatever the umask was
        for part in parts:
            rest = memoryview(part)
            while rest:
                written = os.write(fd, rest)
                if written == 0:
                    raise OSError(errno.EIO, "write(2) took no byte")
                rest = rest[written:]
        os.fsync(fd)
    finally:
        os.close(fd)


def _discard(new: Path) -> None:
    try:
        new.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("Could not remove %s: %s. The next start will.", new, because(error))


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while part := file.read(_CHUNK):
            yield part


def _same(one: Path, other: Path) -> bool:
    """Whether two regular files hold the same bytes; one that cannot be read is like no other."""
    try:
        if one.samefile(other):
            return True
        if one.stat().st_size != other.stat().st_size:
            return False
        return all(a == b for a, b in zip(_chunks(one), _chunks(other), strict=True))
    except (OSError, ValueError):  # ValueError: a file changed its length meanwhile
        return False
