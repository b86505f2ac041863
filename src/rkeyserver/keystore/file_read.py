"""Where a record's file really is, and its bytes, whole or not at all."""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
from pathlib import Path
from typing import Final

from rkeyserver.errors import Corrupt, Misuse, Unavailable
from rkeyserver.keystore.file_steps import advice, because
from rkeyserver.keystore.store import MAX_RECORD, Fetch, ways_out

_log = logging.getLogger(__name__)

_MAX_LINKS: Final = 40  # as the kernel's own limit, path_resolution(7)
_MOUNTINFO: Final = Path("/proc/self/mountinfo")
_MOUNT_POINT_FIELD: Final = 4  # proc_pid_mountinfo(5), counted from 0
# O_NONBLOCK: opening a FIFO that nobody writes to must not hang. It changes nothing for a regular file.
_READ_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
RESTORE: Final = (
    "Nothing was changed. Put the record in its place, from a copy kept beside it or a backup; or move what is there"
    " elsewhere and fetch the keyring from a running instance with -i HOST and --domain ID."
)
KEPT_INFIX: Final = ".kept."
KEEP_AS: Final = re.compile(r"[A-Za-z0-9.-]{1,128}")
_KINDS: Final = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISLNK, "a symbolic link"),
)


def kind_of(mode: int) -> str:
    """What a file that is not a regular one is, in words."""
    return next((words for test, words in _KINDS if test(mode)), "no regular file")


def resolve(path: Path) -> Path:
    """The absolute path of the file that `path` leads to, symbolic links followed; the file need not exist.

    The lock, the kept copies and the rename belong to the folder that really holds the record.

    Raises: Misuse if the path cannot name a file here; Corrupt if its links lead nowhere; Unavailable if it cannot be
    followed now.
    """
    current, followed = path, False
    for _ in range(_MAX_LINKS):
        if current.name in ("", ".."):
            raise Misuse(f"The keystore {path} names a folder; the path of a file is wanted.")
        try:
            folder = Path(os.path.realpath(current.parent, strict=True))
        except ValueError as error:
            raise Misuse(f"The keystore {str(path)!r} is no path: {error}.") from error
        except OSError as error:
            raise _cannot_follow(path, current.parent, error, followed=followed) from error
        here = folder / current.name
        try:
            current, followed = folder / here.readlink(), True
        except ValueError as error:
            raise Misuse(f"The keystore {str(path)!r} is no path: {error}.") from error
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):  # readlink(2): is no link, or is not there
                return here
            raise _cannot_follow(path, folder, error, followed=followed) from error
    raise _loop(path)


def _loop(path: Path) -> Corrupt:
    return Corrupt(
        f"The keystore {path} is a loop of symbolic links; a file, or a link to one, is wanted.",
        advice="Nothing was changed. Point the link at the record's file.",
    )


def _cannot_follow(path: Path, folder: Path, error: OSError, *, followed: bool) -> Corrupt | Misuse | Unavailable:
    if error.errno == errno.ELOOP:
        return _loop(path)
    if error.errno in (errno.ENOENT, errno.ENOTDIR) and followed:
        return Corrupt(
            f"The keystore {path} is a symbolic link into {folder}, which is not there: {because(error)}.",
            advice="Nothing was changed. Mount or restore that folder, or remove the link if it is out of date.",
        )
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return Misuse(
            f"The keystore {path} has no folder: {folder}: {because(error)}.",
            advice="Create the folder, or mount what should be there; it is not created by itself.",
        )
    text = f"The keystore {path} cannot be reached: {because(error)}."
    if error.errno in (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG):
        return Misuse(text, advice="Give a path that this process's user can reach, or change the folder's rights.")
    return Unavailable(text, advice=advice(error, folder))


def refuse_mount_point(record: Path, mountinfo: Path = _MOUNTINFO) -> None:
    """Refuse a file that is itself a mount point: rename(2) cannot replace it.

    record: resolved. mountinfo: the kernel's table; where there is none (inside Gramine) nothing can be told, and the
    rename will.

    Raises: Misuse.
    """
    wanted = os.fsencode(record)
    for character in b"\\ \t\n":  # the kernel's escapes; the backslash first, so that none is escaped twice
        wanted = wanted.replace(bytes([character]), b"\\%03o" % character)
    try:
        lines = mountinfo.read_bytes().splitlines()
    except OSError:  # without /proc the rename tells, later and in the same words
        return
    mounted = any(line.split(b" ")[_MOUNT_POINT_FIELD : _MOUNT_POINT_FIELD + 1] == [wanted] for line in lines)
    if mounted and not record.is_dir():
        raise mount_point(record)


def mount_point(record: Path) -> Misuse:
    """The error for a file mounted by itself."""
    return Misuse(
        f"The keystore {record} is a file mounted by itself, which cannot be replaced in one step.",
        advice=f"Mount a folder instead (for example on {record.parent}) and keep the record in it.",
    )


def warn_if_exposed(record: Path) -> None:
    """Log what others could do to the record. It is sealed, so they can delay or delete, not read or forge."""
    try:
        folder = record.parent.stat()
        if folder.st_mode & stat.S_IWOTH and not folder.st_mode & stat.S_ISVTX:
            _log.warning("Everybody may replace files in %s; make it writable only for its owner.", record.parent)
        found = record.lstat()
    except OSError:
        return  # whatever is wrong there is told by load()
    if found.st_uid != os.geteuid():
        _log.warning("%s belongs to user %d; this process runs as %d.", record, found.st_uid, os.geteuid())
    if stat.S_ISREG(found.st_mode) and found.st_mode & 0o077:
        _log.warning("%s has mode %04o; 0600 is wanted.", record, stat.S_IMODE(found.st_mode))


def kept_beside(record: Path) -> list[Path]:
    """The copies kept beside the record, newest first: of one domain by the state that their names have, else by time.

    Raises: OSError if the folder cannot be listed.
    """
    start = record.name + KEPT_INFIX
    paths = [path for path in record.parent.iterdir() if path.name.startswith(start)]
    times = {path: path.lstat() for path in paths if KEEP_AS.fullmatch(path.name.removeprefix(start))}
    times = {path: status for path, status in times.items() if stat.S_ISREG(status.st_mode)}
    newest: dict[str, int] = {}
    for path, status in times.items():
        domain = _domain(path)
        newest[domain] = max(newest.get(domain, 0), status.st_mtime_ns)

    def age(path: Path) -> tuple[int, list[str | int], list[str | int]]:
        # Numbers in a name count as numbers: inside Gramine every file's time is 0, and the name alone decides.
        domain = _domain(path)
        return newest[domain], _natural(domain), _natural(path.name)

    return sorted(times, key=age, reverse=True)


def _domain(path: Path) -> str:
    """What copies of one domain have in common, where a name has the state as well; else the whole name."""
    domain, state, _ = path.name.rpartition(".epoch-")
    return domain if state and KEPT_INFIX in domain else path.name


def kept_names(record: Path) -> list[str]:
    """Their names; none where they cannot be listed now."""
    try:
        return [path.name for path in kept_beside(record)]
    except OSError as error:
        _log.warning("Could not list the copies kept beside %s: %s.", record, because(error))
        return []


def _natural(name: str) -> list[str | int]:
    """A sort key that puts 10 after 9."""
    return [int(part) if number % 2 else part for number, part in enumerate(re.split(r"([0-9]+)", name))]


def refuse_lost(record: Path) -> None:
    """Refuse to take a record that is not there for one that never was, where copies kept beside it show otherwise.

    Raises: Corrupt; OSError if the folder cannot be listed.
    """
    start = record.name + KEPT_INFIX
    traces = sorted(path.name for path in record.parent.iterdir() if path.name.startswith(start))
    if traces:
        newest = next(iter(kept_names(record)), traces[-1])
        raise Corrupt(
            f"{record} is missing, but was there once: beside it lie {', '.join(traces)}.",
            advice=f"Nothing was changed. Copy the newest ({newest}), or a backup, to {record.name}. Or move"
            " the kept copies elsewhere and fetch the keyring from a running instance with -i HOST and --domain ID."
            " Only to give its key up for a new domain: move the kept copies and the audit file elsewhere.",
        )


def read_record(path: Path) -> bytes:
    """The bytes of the record at `path`, without a lock: whole, since a record is only ever replaced by rename.

    Raises: Misuse if there is no such file; Corrupt if something there cannot be read whole. Nothing is changed.
    """
    record = read_if_there(path)
    if record is None:
        raise Misuse(f"There is no record at {path}.", advice="Give the path of a record's file.")
    return record


def read_if_there(path: Path, flags: int = 0) -> bytes | None:
    """The bytes of the regular file at `path`; None only if open(2) says ENOENT. flags: more flags for open(2).

    Raises: Corrupt if something is there that cannot be read whole.
    """
    try:
        fd = os.open(path, _READ_FLAGS | flags)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise Misuse(f"{str(path)!r} is no path: {error}.") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        return _read_whole(path, fd)
    except OSError as error:
        raise _unreadable(path, error) from error
    finally:
        os.close(fd)


def _read_whole(path: Path, fd: int) -> bytes:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise Corrupt(f"{path} is {kind_of(found.st_mode)}; a regular file is wanted.", advice=RESTORE)
    if found.st_size == 0:
        raise Corrupt(
            f"{path} is empty; a sealed record is wanted.", advice=ways_out(kept_names(path), Fetch.IN_THE_WAY)
        )
    if found.st_size > MAX_RECORD:
        raise Corrupt(
            f"{path} has {found.st_size} bytes; a record has at most {MAX_RECORD}.",
            advice=ways_out(kept_names(path), Fetch.IN_THE_WAY),
        )
    content = bytearray()
    while len(content) <= found.st_size:  # one byte more than there should be shows a file that grew
        part = os.read(fd, found.st_size + 1 - len(content))
        if not part:
            break
        content += part
    if len(content) != found.st_size:
        least = "at least " if len(content) > found.st_size else ""
        raise Corrupt(
            f"{path} gave {least}{len(content)} bytes where {found.st_size} were wanted: it changes while it is read.",
            advice=RESTORE,
        )
    return bytes(content)


def _unreadable(path: Path, error: OSError) -> Corrupt:
    advice = RESTORE
    if error.errno == errno.ELOOP:
        found = "a symbolic link where a file is wanted, or a loop of them"
    elif error.errno in (errno.EACCES, errno.EPERM):
        found = f"not readable for user {os.geteuid()}"
        advice = "Nothing was changed. Let this process's user read it and write to its folder (chown, chmod)."
    else:
        found = f"not readable ({because(error)})"
    return Corrupt(f"{path} is {found}: it cannot be told whether it holds a record.", advice=advice)
