"""The stand-in for Gramine's /dev/attestation: a FUSE mount whose files are made at open by a software processor.

    python -m tests.sgx.device FOLDER MOUNTPOINT

FOLDER has the state (tests/sgx/state.py). It prints `mounted` when it is; it unmounts and ends when it is told to
(SIGTERM) or when its parent is gone. Should it be killed itself, a child that it has for this unmounts in its stead.

What it does is what Gramine's libos/src/fs/dev/attestation.c and libos/src/fs/libos_fs_pseudo.c do: a file's contents
are made at each open and stay as they are for that descriptor; a write replaces a buffer of the *process*, and what was
written can be read back through that descriptor alone. Inside an enclave there is one process: here each that comes by
has buffers of its own, so that an instance and a command beside it do not mix, as two enclaves would not.
"""

from __future__ import annotations

import errno
import itertools
import os
import select
import signal
import stat
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

import mfusepy
from tests.sgx.answers import BUFFERS, Buffers, Quoting, contents
from tests.sgx.state import KEYS, NO_FAULT, QUOTE, State, read_state

MOUNTED: Final = "mounted"
_READ_ONLY: Final = ("attestation_type", "my_target_info", "report", QUOTE, *KEYS)
_FILES: Final = (*BUFFERS, *_READ_ONLY)
_TOLD_TO_END: Final = 8  # what libfuse returns for a signal, and for a loop that failed
_FOLDERS: Final = ("", "keys")


def _process_of(thread: int) -> int:
    """The process that a thread belongs to."""
    for line in Path(f"/proc/{thread}/status").read_text().splitlines():
        if line.startswith("Tgid:"):
            return int(line.split()[1])
    raise ProcessLookupError(thread)


def _present(name: str, state: State) -> bool:
    if state.faults.get(name, NO_FAULT).absent:
        return False
    return name in _FILES and not (name == QUOTE and state.attestation_type == "none")


class Attestation(mfusepy.Operations):  # type: ignore[misc]  # the library has no types
    """The pseudo-files, over the state in `folder`."""

    use_ns = True  # asked for by the library; there are no times here

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._quoting = Quoting()
        self._buffers: defaultdict[int, Buffers] = defaultdict(Buffers)
        self._open: dict[int, bytes] = {}
        self._numbers = itertools.count(1)

    def init(self, _path: str) -> None:
        print(MOUNTED, flush=True)  # noqa: T201 - for whoever started it

    def getattr(self, path: str, _handle: int | None = None) -> dict[str, int]:
        name = path[1:]
        if name in _FOLDERS:
            return {"st_mode": stat.S_IFDIR | 0o555, "st_nlink": 2}
        if not _present(name, read_state(self._folder)):
            raise OSError(errno.ENOENT, path)
        return {"st_mode": stat.S_IFREG | (0o666 if name in BUFFERS else 0o444), "st_nlink": 1, "st_size": 0}

    def readdir(self, path: str, _handle: int) -> list[str]:
        state = read_state(self._folder)
        found = [Path(name) for name in _FILES if _present(name, state)]
        return [
            ".",
            "..",
            *sorted(
                {
                    name.name if name.parent == Path(path[1:]) else name.parts[0]
                    for name in found
                    if Path(path[1:]) in name.parents
                }
            ),
        ]

    def open(self, path: str, flags: int) -> int:
        name, state = path[1:], read_state(self._folder)
        if flags & os.O_ACCMODE != os.O_RDONLY and name not in BUFFERS:
            raise OSError(errno.EACCES, path)
        fault = state.faults.get(name, NO_FAULT)
        time.sleep(fault.delay)
        if fault.error is not None:
            raise OSError(getattr(errno, fault.error), path)
        if fault.contents is None:
            data = contents(name, state, self._own(), self._quoting)
        else:
            data = bytes.fromhex(fault.contents)
        number = next(self._numbers)
        self._open[number] = data if fault.size is None else data[: fault.size].ljust(fault.size, b"\0")
        return number

    def read(self, _path: str, size: int, offset: int, number: int) -> bytes:
        return self._open[number][offset : offset + size]

    def write(self, path: str, data: bytes, _offset: int, number: int) -> int:
        """Whatever the offset, it replaces."""
        self._own().write(path[1:], data)
        self._open[number] = data
        return len(data)

    def truncate(self, path: str, _length: int, _handle: int | None = None) -> None:
        """Of a descriptor's own copy, which a new descriptor does not have: nothing is left to do."""
        if path[1:] not in BUFFERS:
            raise OSError(errno.EACCES, path)

    def release(self, _path: str, number: int) -> None:
        del self._open[number]

    def _own(self) -> Buffers:
        return self._buffers[_process_of(mfusepy.fuse_get_context()[2])]


def _end_with(parent: int) -> None:
    """Let this process be told to end when `parent` is gone."""
    fd = os.pidfd_open(parent)

    def wait() -> None:
        select.select([fd], [], [])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


class _Guard:
    """A child that unmounts when this process is gone without having said that it has unmounted itself."""

    def __init__(self, mountpoint: str) -> None:
        reads, self._writes = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            self._watch(reads, mountpoint)
        os.close(reads)

    def _watch(self, reads: int, mountpoint: str) -> NoReturn:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        os.close(self._writes)
        if os.read(reads, 1):
            os._exit(0)
        os.execlp("fusermount3", "fusermount3", "-u", "-q", "-z", mountpoint)  # noqa: S606 - no shell is wanted

    def dismiss(self) -> None:
        os.write(self._writes, b"-")
        os.waitpid(self._child, 0)


def main(words: Sequence[str]) -> int:
    folder, mountpoint = words
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # libfuse leaves a handler that is there, as coverage's, as it is
    parent = os.getppid()
    guard = _Guard(mountpoint)
    _end_with(parent)
    try:
        _serve(folder, mountpoint)
    except RuntimeError as error:
        if error.args != (_TOLD_TO_END,):
            raise
    finally:
        guard.dismiss()
    return 0


def _serve(folder: str, mountpoint: str) -> None:
    mfusepy.FUSE(
        Attestation(Path(folder)),
        mountpoint,
        foreground=True,
        direct_io=True,  # sizes are as they are read, not as stat(2) says: that says 0, as inside
        attr_timeout=0,
        entry_timeout=0,
        negative_timeout=0,
        fsname="attestation",
        allow_other=os.geteuid() == 0,  # as an ordinary user, only where /etc/fuse.conf lets him
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
