"""One enclave at a time on one record: a lock on the host, for accidents. No enclave relies on it.

Gramine keeps file locks inside of the enclave, so that the keystore's own keeps no other enclave out. This one is
flock(2)'s, on a file of its own: the enclave inherits it, and it is held as long as any of the two lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rkeyserver.clock import utc
from rkeyserver.errors import Unavailable
from rkeyserver.keystore.file_steps import advice, because

SUFFIX: Final = ".lock.host"  # of the record's name; FileKeystore.owns() counts it to the keystore
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_NOTE: Final = re.compile(r"pid [0-9]{1,10} on [A-Za-z0-9._-]{1,64} since [0-9TZ:-]{20}")
_NOTE_SIZE: Final = 128


@contextlib.contextmanager
def host_lock(record: Path) -> Iterator[int]:
    """Hold the lock of `record`; the descriptor by which it is held, to be inherited.

    Raises: Unavailable if another holds it, or if it cannot be had.
    """
    path = record.with_name(record.name + SUFFIX)
    try:
        fd = os.open(path, _FLAGS, 0o600)
    except OSError as error:
        raise Unavailable(f"Could not lock {path}: {because(error)}.", advice=advice(error, path.parent)) from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write_note(fd)
        except BlockingIOError as error:
            raise Unavailable(
                f"The keystore is in use, by the launcher with {_note(fd)} or its enclave (lock {path}).",
                advice="Stop that one, or give this one another keystore.",
            ) from error
        except OSError as error:
            raise Unavailable(f"Could not lock {path}: {because(error)}.", advice=advice(error, path.parent)) from error
        yield fd
    finally:
        os.close(fd)


def _write_note(fd: int) -> None:
    node = re.sub(r"[^A-Za-z0-9._-]", "-", os.uname().nodename)[:64] or "localhost"
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"pid {os.getpid()} on {node} since {utc(int(time.time()))}\n".encode("ascii"), 0)


def _note(fd: int) -> str:
    found = os.pread(fd, _NOTE_SIZE, 0).decode("ascii", "replace").rstrip("\n")
    return found if _NOTE.fullmatch(found) else "no note"
