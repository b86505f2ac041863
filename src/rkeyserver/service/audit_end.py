"""Where the chain of an audit file ends, by what is in the file: after a start, a crash, or a write that failed.

The last line in the form of one of a chain is believed: whether all before it hold, `rkeyserver audit verify` says, and
not a start. What lies behind that line is what a write left that did not come to its end.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rkeyserver.service.audit_chain import Chained, read_line

if TYPE_CHECKING:
    from hashlib import _Hash

    from rkeyserver.service.audit_chain import Head

TAIL: Final = 1024 * 1024  # bytes that are looked at
_CHUNK: Final = 64 * 1024
_CHECKPOINT: Final = b'"event":"checkpoint",'


@dataclass(frozen=True)
class End:
    """The end of a chain. head: None for a file without one; at: offset of the first byte behind its last line.

    signed: whether that line is a checkpoint. A last line that lacks only its newline is one, and `at` is the file's
    size.
    """

    head: Head | None
    at: int
    signed: bool = False


def find_end(fd: int, size: int) -> End:
    """The end in a file of `size` bytes, by the file alone.

    Raises: OSError.
    """
    start = max(0, size - TAIL)
    found = End(None, 0)
    for end, line in _lines(os.pread(fd, size - start, start), start):
        found = End(line.head, end, _is_signed(line))
    return found


def end_after(fd: int, size: int, known: End, tried: bytes, at: int) -> End:
    """The end after a write of `tried` at offset `at` that may have failed. known: the end before it.

    What somebody else has appended or cut meanwhile is not believed: then the next line shows it.
    Raises: OSError.
    """
    if size < known.at:
        return End(known.head, size, known.signed)
    written = os.pread(fd, max(0, min(len(tried), size - at)), at)
    found = known
    if tried.startswith(written):
        for end, line in _lines(written, at):
            if found.head is not None and line.follows(found.head):
                found = End(line.head, end, _is_signed(line))
    return found


def _is_signed(line: Chained) -> bool:
    return line.data.partition(b",")[2].startswith(_CHECKPOINT)


def _lines(data: bytes, start: int) -> Iterator[tuple[int, Chained]]:
    """The lines of chains in `data`, which begins at offset `start`, and where each ends."""
    at, last = start, start + len(data)
    for line in data.split(b"\n"):
        at = min(last, at + len(line) + 1)
        if (found := read_line(line + b"\n")) is not None:
            yield at, found


def digest_between(fd: int, start: int, end: int) -> _Hash:
    """SHA-256 over the bytes of a file from `start` to `end`, to be gone on with.

    Raises: OSError.
    """
    found = hashlib.sha256()
    while start < end and (data := os.pread(fd, min(_CHUNK, end - start), start)):
        found.update(data)
        start += len(data)
    return found
