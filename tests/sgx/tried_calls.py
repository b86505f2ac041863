"""System calls tried under the filter that answers as Gramine does: what each fails with, as JSON.

python -m tests.sgx.tried_calls
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import json
import mmap
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import uvloop
from tests.sgx.gramine_calls import NUMBERS, SYS_RSEQ, answer_as_gramine

from rkeyserver.secret import MemoryKind, SecretBytes

# All numbers of Linux 6.12; between them are two that the kernel itself makes, and lets through every filter.
ALL: Final = {*range(335), *range(424, 462)}
EVERYTHING_ELSE: Final = "every call that is not implemented"
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_MEMFD_SECRET, _PIDFD_OPEN, _CLONE3, _IO_URING_SETUP, _MREMAP, _PRCTL = 447, 434, 435, 425, 25, 157
_F_OFD_SETLK: Final = 37


def call(number: int, *arguments: int) -> int:
    """A system call, without the C library's own ways around it."""
    found = int(_LIBC.syscall(number, *(ctypes.c_long(one) for one in arguments)))
    if found < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return found


def advise(advice: int) -> None:
    with mmap.mmap(-1, mmap.PAGESIZE) as memory:
        memory.madvise(advice)


def advised_to_drop() -> None:
    """MADV_DONTNEED is no refusal and no pretence: the page is zero."""
    with mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[:4] = b"here"
        memory.madvise(mmap.MADV_DONTNEED)
        assert memory[:4] == bytes(4)


def lock_file(command: int) -> None:
    with tempfile.TemporaryFile() as file:
        fcntl.fcntl(file, command, bytes(32))


def lock_record() -> None:
    with tempfile.TemporaryFile() as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def in_a_thread() -> None:
    done: list[int] = []
    thread = threading.Thread(target=lambda: done.append(threading.get_native_id()))
    thread.start()
    thread.join()
    assert done != [os.getpid()]


def renamed() -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "new").write_bytes(b"-")
        (Path(folder) / "new").replace(Path(folder) / "old")
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(fd)
        os.close(fd)


def linked() -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "new").write_bytes(b"-")
        (Path(folder) / "old").hardlink_to(Path(folder) / "new")


def preallocated(mode: int) -> None:
    with tempfile.TemporaryFile() as file:
        call(NUMBERS["fallocate"], file.fileno(), mode, 0, 10)


def signalled() -> None:
    seen: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, _frame: seen.append(number))
    os.kill(os.getpid(), signal.SIGUSR1)
    time.sleep(0)
    assert seen == [signal.SIGUSR1]


def paired() -> None:
    for one in socket.socketpair():
        one.close()


async def _echo() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(2))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"hi")
        assert await reader.read() == b"hi"
        writer.close()
        assert await asyncio.to_thread(socket.getaddrinfo, "localhost", port)


def served() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_echo())


def kept_a_key() -> None:
    with SecretBytes.random(32) as key:
        assert key.kind is MemoryKind.LOCKED


def everything_else() -> None:
    answered = []
    for number in ALL - {*NUMBERS.values(), SYS_RSEQ}:
        try:
            call(number, -1, -1, -1, -1, -1, -1)
        except OSError as error:
            if error.errno == errno.ENOSYS:
                continue
        answered.append(number)
    assert answered == []


# What is done, and the errno that it fails with; 0 where it works.
CALLS: Final[dict[str, tuple[Callable[[], object], int]]] = {
    # secret memory
    "memfd_create": (lambda: os.memfd_create("x"), errno.ENOSYS),
    "memfd_secret": (lambda: call(_MEMFD_SECRET, 0), errno.ENOSYS),
    "mremap": (lambda: call(_MREMAP, 0, 0, 0, 0, 0), errno.ENOSYS),
    "prctl, not dumpable": (lambda: call(_PRCTL, 4, 0, 0, 0, 0), errno.ENOSYS),
    "madvise, not in dumps": (lambda: advise(mmap.MADV_DONTDUMP), errno.ENOSYS),
    "madvise, wiped by a fork": (lambda: advise(18), errno.ENOSYS),
    "madvise, not in a child": (lambda: advise(mmap.MADV_DONTFORK), errno.ENOSYS),
    "madvise, one that is none": (lambda: advise(77), errno.EINVAL),
    "madvise, soon": (lambda: advise(mmap.MADV_WILLNEED), 0),
    "madvise, no more": (advised_to_drop, 0),
    "mlock, of what is not there": (lambda: call(NUMBERS["mlock"], 4096, 4096), 0),
    "mlockall": (lambda: call(NUMBERS["mlockall"], 1), 0),
    "getrandom": (lambda: os.getrandom(32), 0),
    "a key": (kept_a_key, 0),
    # files
    "flock": (lambda: fcntl.flock(0, fcntl.LOCK_SH), errno.ENOSYS),
    "a lock of an open file description": (lambda: lock_file(_F_OFD_SETLK), errno.EINVAL),
    "seals": (lambda: lock_file(1034), errno.EINVAL),
    "a record lock": (lock_record, 0),
    "O_TMPFILE": (lambda: os.open(tempfile.gettempdir(), os.O_TMPFILE | os.O_RDWR), errno.EISDIR),
    "a temporary file that has a name": (lambda: tempfile.NamedTemporaryFile().close(), 0),
    "a folder": (lambda: os.close(os.open("/", os.O_RDONLY | os.O_DIRECTORY)), 0),
    "rename, fsync of the folder": (renamed, 0),
    "link": (linked, errno.ENOSYS),
    "utimensat": (lambda: os.utime("."), errno.ENOSYS),
    "fallocate": (lambda: preallocated(0), 0),
    "fallocate, a hole": (lambda: preallocated(3), errno.ENOSYS),
    "stat": (lambda: Path().stat(), 0),
    # sockets
    "AF_UNIX": (lambda: socket.socket(socket.AF_UNIX), errno.EAFNOSUPPORT),
    "AF_UNIX, datagrams": (lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), errno.EAFNOSUPPORT),
    "AF_NETLINK": (lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW), errno.EAFNOSUPPORT),
    "AF_INET, raw": (lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW), errno.EPROTONOSUPPORT),
    "AF_INET": (lambda: socket.socket(socket.AF_INET).close(), 0),
    "AF_INET6": (lambda: socket.socket(socket.AF_INET6).close(), 0),
    "a pair of sockets": (paired, 0),
    "a pair for datagrams": (lambda: socket.socketpair(type=socket.SOCK_DGRAM), errno.EPROTONOSUPPORT),
    "a server on an event loop": (served, 0),
    # processes
    "fork": (lambda: os._exit(0) if os.fork() == 0 else None, errno.EAGAIN),
    "a raw fork": (lambda: os._exit(0) if call(NUMBERS["fork"]) == 0 else None, errno.EAGAIN),
    "a raw vfork": (lambda: os._exit(0) if call(NUMBERS["vfork"]) == 0 else None, errno.EAGAIN),
    "clone3": (lambda: call(_CLONE3, 0, 0), errno.ENOSYS),
    "subprocess": (lambda: subprocess.run(["true"], check=True), errno.EAGAIN),
    "posix_spawn": (lambda: os.posix_spawn("/bin/true", ["true"], {}), errno.EAGAIN),
    "execve": (lambda: os.execv("/bin/true", ["true"]), errno.EACCES),  # noqa: S606 - no shell is wanted
    "pidfd_open": (lambda: call(_PIDFD_OPEN, os.getpid(), 0), errno.ENOSYS),
    "a thread": (in_a_thread, 0),
    "a signal": (signalled, 0),
    "sched_setaffinity": (lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)), 0),
    # the rest
    "io_uring": (lambda: call(_IO_URING_SETUP, 1, 0), errno.ENOSYS),
    "eventfd": (lambda: os.close(os.eventfd(0)), 0),
    EVERYTHING_ELSE: (everything_else, 0),
}


def tried(what: Callable[[], object]) -> int:
    """The errno that it fails with, 0 if it works."""
    try:
        what()
    except OSError as error:
        return error.errno or -1
    return 0


if __name__ == "__main__":
    answer_as_gramine()
    print(json.dumps({name: tried(what) for name, (what, _) in CALLS.items()}))  # noqa: T201 - for the test
