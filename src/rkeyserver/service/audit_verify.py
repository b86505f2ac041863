"""Whether the lines of an audit file are a chain, and where not (docs/spec/audit.md, "Verifying").

A file is read once, line by line, and never more of it at once than a few lines. What is refused names the first line
that was changed, cut out or put elsewhere, by its number in the file, with what was found and what was wanted.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, NoReturn, Protocol

from rkeyserver.errors import Misuse, Reason, Rejected
from rkeyserver.service.audit_chain import (
    NO_HEAD,
    Chained,
    Checkpoint,
    Head,
    Piece,
    Told,
    check_signature,
    checkpoint_bytes,
    pieces,
    read_line,
    told_by,
)

_RECENT: Final = 4096  # lines that the next file may begin with again
_WRITER: Final = "or something else writes to this file"
RECEIVED: Final = frozenset({"join", "acknowledge"})  # what the other end of a hand-over writes of it
_LINKED: Final = RECEIVED | {"hand-over"}


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


@dataclass(frozen=True)
class Link:
    """One end of a hand-over. at: where its line is, for people; number: the line's place in its chain."""

    at: str
    number: int
    told: Told

    @property
    def peer(self) -> str:
        """The machine at the other end."""
        return "" if self.told.peer is None else self.told.peer.machine


@dataclass
class Log:
    """One instance's log, in one file or several, and what was found in it.

    before: bytes of lines that are older than the chain; torn: where bytes are that are no lines, and how many; rest:
    bytes behind the last whole line. signed: the last head that a checkpoint in it signs; key: whose key that is.
    """

    paths: tuple[Path, ...]
    machine: str = ""
    begins: int = 0
    head: Head | None = None
    last_at: str = ""
    before: int = 0
    torn: list[tuple[str, int]] = field(default_factory=list)
    rest: int = 0
    checkpoints: int = 0
    signed: Head | None = None
    key: str = ""
    links: list[Link] = field(default_factory=list)

    @property
    def name(self) -> str:
        """How people call it."""
        return str(self.paths[-1])


def verify(paths: Sequence[Path], *, key: str = "") -> Log:
    """The log in `paths`, the oldest file first.

    key: the public key that its checkpoints have to be signed with, hex; empty for whichever they name, if it is one.
    Raises: Rejected(LOG_BROKEN | NOT_SIGNED), Misuse if a file cannot be read.
    """
    reader = _Reader(Log(tuple(paths)), key)
    for path in paths:
        with _opened(path) as file:
            reader.read(path, file)
    if reader.log.head is None:
        raise Rejected(
            Reason.LOG_BROKEN,
            f"{reader.log.name} has no line of a chain; wanted is at least one.",
            advice="It was emptied, or was written by a version that made no chains: such lines cannot be verified.",
        )
    return reader.log


def check_contains(log: Log, checkpoint: Checkpoint, key: str) -> None:
    """Whether a log has what a checkpoint signs.

    Raises: Rejected(NOT_SIGNED | LOG_BROKEN), Misuse if a file cannot be read.
    """
    try:
        checkpoint.check(key)
    except Rejected as error:
        raise Rejected(error.reason, f"The checkpoint of {checkpoint.at} does not count: {error.message}.") from error
    signed, head = checkpoint.signed, log.head
    if head is None or signed.chain != head.chain:
        _disagree(f"{log.name} is chain {'none' if head is None else head.chain}", checkpoint, "another one's")
    if signed.lines > head.lines:
        _disagree(f"{log.name} ends with line number {head.lines - 1}", checkpoint, "it was cut")
    if signed.lines < log.begins:
        raise Misuse(
            f"{log.name} begins with line number {log.begins}; the checkpoint signs number {signed.lines - 1}.",
            advice="Give the older files too, before this one.",
        )
    if signed.lines == log.begins and signed.digest == _first_prev(log):
        return
    if heads_in(log, {signed.digest}).get(signed.digest) != signed.lines - 1:
        _disagree(f"{log.name} has another line number {signed.lines - 1}", checkpoint, "it was written anew")


def _disagree(found: str, checkpoint: Checkpoint, why: str) -> NoReturn:
    raise Rejected(
        Reason.LOG_BROKEN,
        f"{found}; the checkpoint of {checkpoint.at} signs line number {checkpoint.lines - 1} of chain "
        f"{checkpoint.chain}, {checkpoint.head}: {why}.",
    )


def _first_prev(log: Log) -> bytes:
    for line in _chained(log):
        return line.prev
    return b""


def heads_in(log: Log, wanted: set[bytes]) -> dict[bytes, int]:
    """Those of `wanted` that are digests of lines in a log that was verified, with the lines' numbers.

    Raises: Misuse if a file cannot be read.
    """
    return {digest: line.number for line in _chained(log) if (digest := line.digest) in wanted}


def _chained(log: Log) -> Iterator[Chained]:
    for path in log.paths:
        with _opened(path) as file:
            for piece in pieces(file):
                if piece.whole and (line := read_line(piece.data)) is not None:
                    yield line


def _opened(path: Path) -> IO[bytes]:
    try:
        if not path.is_file():
            raise Misuse(f"The audit file {path} is not there, or is no file.")
        return path.open("rb")
    except OSError as error:
        raise Misuse(f"The audit file {path} cannot be read: {error.strerror}.") from error


@dataclass
class _Reader:
    """Reads one log's files one after the other. at: the line that is read, by its number in its file, from 1."""

    log: Log
    key: str
    path: Path = Path()
    at: int = 0
    recent: deque[bytes] = field(default_factory=lambda: deque(maxlen=_RECENT))
    last: str = ""
    _loose: _Hash = field(default_factory=hashlib.sha256)
    _size: int = 0
    _loose_at: int = 0

    def read(self, path: Path, file: IO[bytes]) -> None:
        """Read the next file.

        Raises: Rejected.
        """
        if self._size:
            self._refuse("it is in no line of the chain, and another file comes after it", at=self._loose_at)
        self.path, self.at = path, 0
        source = pieces(file)
        again = self.log.head is not None  # whether its first lines may be the last file's last ones
        for piece in source:
            self.at += piece.begins
            line = read_line(piece.data) if piece.whole else None
            if line is None:
                self._hold(piece)
            elif not (again and self._was_read(line)):
                again = False
                self._take(line, source)
        # Two crashes may have left whole lines of it, and no line after it says yet that it is there.
        self.log.rest = self._size

    def _hold(self, piece: Piece) -> None:
        """Bytes that are no line: the next line has to say that they are there."""
        if not self._size:
            self._loose_at = self.at
        self._loose.update(piece.data)
        self._size += len(piece.data)

    def _was_read(self, line: Chained) -> bool:
        head = self.log.head
        back = 0 if head is None else head.lines - line.number
        return 0 < back <= len(self.recent) and self.recent[-back] == line.digest

    def _take(self, line: Chained, source: Iterator[Piece]) -> None:
        try:
            told = told_by(line.data)
        except Rejected as error:
            self._refuse(f"it {error.message}", reason=error.reason)
        head = self.log.head
        if self._size and told.event not in {"begin", "torn"}:
            self._refuse(
                f"it is no line of the chain, and the next one says nothing of that: inserted or changed, {_WRITER}"
            )
        if head is None:
            self._begin(line, told)
        elif not line.follows(head):
            self._refuse_line(line, head, source)
        elif told.event in {"begin", "torn"}:
            self._check_loose(told)
            self.log.torn.append((f"{self.path}, line {self._loose_at}", told.size))
        self.log.head, self.log.last_at = line.head, told.at
        self.recent.append(line.head.digest)
        self.last = f"{self.path}, line {self.at}"
        self._size, self._loose = 0, hashlib.sha256()
        if told.event == "checkpoint":
            self._check_signed(line, told)
        if told.transcript and told.event in _LINKED:
            self.log.links.append(Link(self.last, line.number, told))

    def _begin(self, line: Chained, told: Told) -> None:
        if line.number == 0:
            if told.event != "begin" or line.prev != NO_HEAD:
                self._refuse("it is number 0 of its chain and does not begin one: changed")
            self._check_loose(told)
            self.log.before, self.log.machine = told.size, told.machine
        elif told.event == "checkpoint" and self.key and not self._size:
            self.log.begins = line.number
        else:
            self._refuse(
                f"it is number {line.number} of its chain; wanted is number 0, or a checkpoint by the key in --key: "
                "what was before it is cut off",
                advice="Was the file rotated? Give the older files too, before this one.",
            )

    def _check_loose(self, told: Told) -> None:
        """Whether what is before a line that is none is what that line says."""
        if (found := (self._size, self._loose.hexdigest())) != (told.size, told.sha256):
            self._refuse(
                f"it says that {told.size} bytes before it are no lines of the chain, SHA-256 {told.sha256}; found are "
                f"{found[0]}, SHA-256 {found[1]}: they were changed"
            )

    def _check_signed(self, line: Chained, told: Told) -> None:
        signed = Head(line.chain, line.number, line.prev)
        said = checkpoint_bytes(domain=told.domain, machine=told.machine, head=signed, at=told.at)
        try:
            check_signature(said, key=told.key, signature=told.signature, wanted=self.key or self.log.key)
        except Rejected as error:
            self._refuse(f"it is a checkpoint that does not count: {error.message}", reason=error.reason)
        self.log.checkpoints += 1
        self.log.signed, self.log.key = line.head, told.key
        self.log.machine = self.log.machine or told.machine

    def _refuse_line(self, line: Chained, head: Head, source: Iterator[Piece]) -> NoReturn:
        """Say which line it is: the one after it tells whether this one is as it was written."""
        piece = next(source, None)
        after = read_line(piece.data) if piece is not None and piece.whole else None
        found, wanted = f"it is number {line.number} of its chain", f"wanted is number {head.lines}"
        if line.chain != head.chain:
            why = "another chain begins here" if line.number == 0 else f"inserted, {_WRITER}"
            self._refuse(f"it is of chain {line.chain}; wanted is chain {head.chain}: {why}")
        if line.number < head.lines:
            self._refuse(f"{found}, which came before; {wanted}: repeated or put elsewhere, {_WRITER}")
        if line.number > head.lines:
            moved = after is not None and after.number == head.lines
            why = "lines were put in another order" if moved else f"{line.number - head.lines} line(s) cut out here"
            self._refuse(f"{found}; {wanted}: {why}")
        if after is not None and after.prev != line.digest:
            self._refuse(f"it names {line.prev.hex()} as SHA-256 of the line before it; found is {head.digest.hex()}")
        raise Rejected(
            Reason.LOG_BROKEN,
            f"{self.last}: its SHA-256 is {head.digest.hex()}; wanted is {line.prev.hex()}, by the next line: changed.",
        )

    def _refuse(self, found: str, *, at: int = 0, reason: Reason = Reason.LOG_BROKEN, advice: str = "") -> NoReturn:
        where = at or (self._loose_at if self._size else self.at)
        raise Rejected(reason, f"{self.path}, line {where}: {found}.", advice=advice)
