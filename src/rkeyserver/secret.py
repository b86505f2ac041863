"""Memory for keys, and the type of everything that is one.

A SecretBytes lies in a mapping of its own that the kernel hides from every other process and from itself
(memfd_secret(2)): not in core dumps, not in swap, not in /proc/PID/mem, not inherited by fork. Where the kernel has no
memfd_secret (before Linux 6.5, unless booted with secretmem.enable=1; Gramine) it lies in a locked, dump-excluded
anonymous mapping, and `kind` says so.

Use its view in place: in `readinto`, `derive_into`, as the key of a cipher. Never make it `bytes`, a slice
assignment or a string: each leaves a copy that nothing erases. docs/limitations.md says what remains.
"""

from __future__ import annotations

import ctypes
import errno
import hmac
import mmap
import os
import resource
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Final, NoReturn, Self

from rkeyserver.errors import Unavailable

if TYPE_CHECKING:
    from types import TracebackType

_SYS_MEMFD_SECRET: Final = 447  # the same number on x86-64, arm64 and riscv64
_MFD_CLOEXEC: Final = os.O_CLOEXEC
_MADV_DONTFORK: Final = 10
_MADV_DONTDUMP: Final = 16
_PR_SET_DUMPABLE: Final = 4
_MAP_FAILED: Final = ctypes.c_void_p(-1).value


class MemoryKind(StrEnum):
    """How key memory is kept: hidden from the kernel's own readers, or only locked and kept out of dumps."""

    MEMFD_SECRET = "memfd_secret"  # noqa: S105 - the name of a system call
    LOCKED = "locked"


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    ]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc


def _map(length: int, flags: int, fd: int) -> int | None:
    # libc's mmap, not Python's: that one keeps a duplicate of the descriptor, through which root reads the pages.
    address = _libc().mmap(None, length, mmap.PROT_READ | mmap.PROT_WRITE, flags, fd, 0)
    return None if address in (None, _MAP_FAILED) else int(address)


def _map_hidden(length: int) -> int | None:
    fd = _libc().syscall(_SYS_MEMFD_SECRET, _MFD_CLOEXEC)
    if fd < 0:
        return None
    try:
        os.ftruncate(fd, length)
        return _map(length, mmap.MAP_SHARED, fd)
    except OSError:  # it counts as a file, and RLIMIT_FSIZE may allow none so large
        return None
    finally:
        os.close(fd)


def _map_locked(length: int) -> int | None:
    address = _map(length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)
    if address is not None and _libc().mlock(address, length) != 0:
        _libc().munmap(address, length)
        return None
    return address


def _map_key_memory(length: int) -> tuple[int, MemoryKind] | None:
    address, kind = _map_hidden(length), MemoryKind.MEMFD_SECRET
    if address is None:
        address, kind = _map_locked(length), MemoryKind.LOCKED
    if address is None:
        return None
    # Neither call exists inside Gramine (no fork into an enclave's memory, no dumps of it): a refusal is harmless.
    _libc().madvise(address, length, _MADV_DONTFORK)
    _libc().madvise(address, length, _MADV_DONTDUMP)
    return address, kind


# Erased pages between two uses. To map one takes ten times as long as all else that a call of a caller does.
_spare: list[tuple[int, MemoryKind, memoryview]] = []
_ZEROS: Final = bytes(mmap.PAGESIZE)
_MOST_SPARE: Final = 16
os.register_at_fork(after_in_child=_spare.clear)  # a child does not have them


def _spare_page() -> tuple[int, MemoryKind, memoryview] | None:
    try:
        return _spare.pop()
    except IndexError:  # asked first, it could be another thread's by now
        return None


class SecretBytes:
    """`size` bytes of key memory, all zero at first. A context manager: leaving it erases and unmaps.

    brief: for a secret of one call. If it fits a page, that page is kept, erased, for the next one of these, and is in
    every other way as any key memory. A view that is used after close() may then see the next one's: hand out none.

    Raises: Unavailable if the system gives no such memory.
    """

    __slots__ = ("_address", "_kept", "_length", "_page", "_view", "kind", "size")

    def __init__(self, size: int, *, brief: bool = False) -> None:
        self.size = size
        self._length = max(1, -(-size // mmap.PAGESIZE)) * mmap.PAGESIZE
        self._kept = brief and self._length == mmap.PAGESIZE
        found = _spare_page() if self._kept else None
        if found is not None:
            self._address, self.kind, self._page = found
        else:
            self._address, self.kind, self._page = self._mapped()
        self._view = self._page[:size]

    def _mapped(self) -> tuple[int, MemoryKind, memoryview]:
        found = _map_key_memory(self._length)
        if found is None:
            limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
            raise Unavailable(
                f"No locked memory for a key: {self.size} bytes wanted, RLIMIT_MEMLOCK is {limit}.",
                advice="Raise the limit (LimitMEMLOCK= in the unit file, ulimit -l in a shell).",
            )
        address, kind = found
        return address, kind, memoryview((ctypes.c_char * self._length).from_address(address)).cast("B")

    @classmethod
    def random(cls, size: int) -> Self:
        """`size` bytes from the kernel's generator, written straight into key memory."""
        secret = cls(size)
        fill_random(secret.view)
        return secret

    @property
    def view(self) -> memoryview:
        """The bytes, in place.

        Raises: ValueError after close().
        """
        return self._view[:]

    def close(self) -> None:
        """Erase and unmap. Views of it must not be used afterwards."""
        if self._address:
            self._view.release()
            if self._kept and len(_spare) < _MOST_SPARE:
                self._page[:] = _ZEROS
                _spare.append((self._address, self.kind, self._page))
            else:
                ctypes.memset(self._address, 0, self._length)
                self._page.release()
                _libc().munmap(self._address, self._length)
            self._address = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __len__(self) -> int:
        return self.size

    def __eq__(self, other: object) -> bool:
        """Compare in constant time."""
        if not isinstance(other, SecretBytes):
            return NotImplemented
        return hmac.compare_digest(self._view, other._view)

    __hash__ = None  # type: ignore[assignment]  # a key is no dictionary key

    def __repr__(self) -> str:
        return f"<SecretBytes of {self.size} bytes>"

    def __bytes__(self) -> NoReturn:
        raise TypeError("a secret is used in place, never copied into bytes")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is never pickled or copied")


def fill_random(view: memoryview) -> None:
    """Fill `view` from getrandom(2) in place, so that the bytes are nowhere else."""
    start = ctypes.addressof(ctypes.c_char.from_buffer(view))
    libc = _libc()
    done = 0
    while done < len(view):
        got = libc.getrandom(ctypes.c_void_p(start + done), ctypes.c_size_t(len(view) - done), 0)
        if got < 0:
            code = ctypes.get_errno()
            if code == errno.EINTR:
                continue
            raise Unavailable(f"The kernel gives no random bytes: {os.strerror(code)}.")
        done += got


def copy_secret(source: memoryview, into: memoryview) -> None:
    """Copy between two pieces of key memory of one length, without Python objects in between."""
    if len(source) != len(into):
        raise ValueError(f"{len(source)} bytes do not fit a view of {len(into)}")
    if len(source):
        ctypes.memmove(
            ctypes.addressof(ctypes.c_char.from_buffer(into)),
            ctypes.addressof(ctypes.c_char.from_buffer(source)),
            len(source),
        )


def erase(buffer: bytes) -> None:
    """Overwrite a bytes object that a library returned and that holds a secret. Nobody else may hold it."""
    if len(buffer) <= 1:
        return  # the interpreter has each of these once, for everybody
    header = bytes.__basicsize__ - 1
    ctypes.memset(id(buffer) + header, 0, len(buffer))


def harden_process() -> None:
    """No core dumps of this process, and no reading of it by others of the same user."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Inside Gramine there is no prctl, and nothing outside reads an enclave: a refusal is harmless there.
    _libc().prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def take_bytes(found: bytes) -> SecretBytes:
    """Move a secret that a library returned as bytes into key memory, and erase the bytes."""
    secret = SecretBytes(len(found))
    if found:
        ctypes.memmove(ctypes.addressof(ctypes.c_char.from_buffer(secret.view)), found, len(found))
    erase(found)
    return secret
