"""The audit file: one JSON line for every decision, on disk before the decision takes effect (design invariant 9)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import re
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import msgspec

from rkeyserver import files
from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.clock import Clock, utc
from rkeyserver.errors import Misuse, Rejected, RkeyError, Unavailable
from rkeyserver.service.background import in_background

_FLAGS: Final = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_HELD: Final = re.compile(rb'\{"at":"[^"]*","event":"(?:mint|open|join|hand-over|recover)","verdict":"accepted"')
_NOT_MINTED: Final = re.compile(rb'\{"at":"[^"]*","event":"mint","verdict":"refused","domain":"([0-9a-f]{32})"')


def reason_of(error: RkeyError) -> str:
    """The code of a refusal, in audit lines, counters and logs."""
    if isinstance(error, Rejected | Unavailable) and error.reason is not None:
        return str(error.reason)
    return error.code


class Peer(msgspec.Struct, frozen=True):
    """Who it was, as proved by evidence."""

    address: str
    platform: str
    machine: str
    mrenclave: str
    mrsigner: str
    isv_prod_id: int
    isv_svn: int
    tcb_status: str

    @classmethod
    def of(cls, claims: SgxClaims, address: str) -> Self:
        """The peer at `address` that these claims are proved of."""
        return cls(
            address=address,
            platform=claims.platform,
            machine=claims.ppid,
            mrenclave=claims.mrenclave,
            mrsigner=claims.mrsigner,
            isv_prod_id=claims.isv_prod_id,
            isv_svn=claims.isv_svn,
            tcb_status=claims.tcb_status,
        )


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One decision. transcript: SHA-512, hex.

    event: mint, open, hand-over, join, acknowledge, recover, provision, release, contribution to a recovery, drill
    where its outcome changes, or audit where lines can be written again; of a primary also policy, rotate, activate,
    retire, promote, reunite and forget; verdict: accepted or refused. label: of the application that was given a key.
    labels, generations: of the keys that an enclave asked for.
    """

    event: str
    verdict: str
    domain: str = ""
    sequence: int = -1
    peer: Peer | None = None
    policy: str = ""
    reason: str = ""
    found: str = ""
    transcript: str = ""
    label: str = ""
    labels: tuple[str, ...] = ()
    generations: tuple[str, ...] = ()

    def refused(self, error: RkeyError) -> Line:
        """The same decision, refused after all: a line before it may have said that it was accepted."""
        return msgspec.structs.replace(self, verdict="refused", reason=reason_of(error), found=error.message)


@dataclass
class _Waiting:
    data: bytes
    done: asyncio.Future[None]


class Audit:
    """Appends lines to one file. Lines that wait at the same moment share one write.

    One thread waits for the disk, and gets what is to be written by a queue: it holds the interpreter's lock for a few
    microseconds of each write, where a thread pool's hand-over and return cost as much as the write.

    Raises: Unavailable from open() and write(): then the decision must not take effect.
    """

    def __init__(self, fd: int, path: Path, clock: Clock) -> None:
        self._fd = fd
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()  # write_now() may come while the thread writes for write()
        self._failed = False  # whether the last write was refused
        self._whole = False  # whether the file is known to end with a whole line
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None

    @classmethod
    def open(cls, path: Path, clock: Clock) -> Self:
        """Open or create the file, to append only."""
        try:
            fd = os.open(path, _FLAGS, 0o600)
            try:
                check_is_one(fd, path)
            except (Misuse, OSError):
                os.close(fd)
                raise
            files.sync_folder(path.parent)
        except OSError as error:
            raise Unavailable(
                f"The audit file {path} cannot be opened: {error.strerror}.",
                advice="Nothing is decided without it: make its folder writable, or name another with --audit.",
            ) from error
        return cls(fd, path, clock)

    def _encode(self, line: Line) -> bytes:
        stamped = {"at": utc(self._clock.now())} | msgspec.to_builtins(line)
        # ASCII, all else escaped: whatever a peer had put into an error, nobody reads it as two lines or as a command.
        return json.dumps(stamped, separators=(",", ":")).replace("\x7f", "\\u007f").encode() + b"\n"

    def write_now(self, line: Line) -> None:
        """Write one line and wait for the disk; for the time before the event loop runs."""
        self._commit(self._encode(line))

    async def write(self, line: Line) -> None:
        """Write one line; returns when it is on disk."""
        entry = _Waiting(self._encode(line), asyncio.get_running_loop().create_future())
        if self._writer is None:
            self._writer = self._started()
        self._queue.put(entry)
        await entry.done

    def _started(self) -> threading.Thread:
        # A daemon: what ends the process without close() must not wait for it.
        writer = threading.Thread(target=self._write_on, name="audit", daemon=True)
        try:
            writer.start()
        except RuntimeError as error:
            raise Unavailable(f"The audit file {self._path} cannot be written: {error}.") from error
        return writer

    def _write_on(self) -> None:
        in_background()
        while (entry := self._queue.get()) is not None:
            batch = [entry]
            while not self._queue.empty() and (entry := self._queue.get()) is not None:
                batch.append(entry)
            refusal = None
            try:
                self._commit(b"".join(one.data for one in batch))
            except Unavailable as error:
                refusal = error
            # A loop that is closed has nobody who waits.
            with contextlib.suppress(RuntimeError):
                batch[-1].done.get_loop().call_soon_threadsafe(_settle, batch, refusal)
            if entry is None:
                return

    def _commit(self, data: bytes) -> None:
        try:
            with self._lock:
                # What a full disk or a crash left of a line stays one bad line: the next one begins on its own.
                whole, self._whole = self._whole or not _ends_in_mid_line(self._fd), False
                rest = memoryview(data if whole else b"\n" + data)
                while rest:
                    rest = rest[os.write(self._fd, rest) :]
                os.fdatasync(self._fd)  # and not O_DSYNC, which Gramine takes and drops
                self._whole, self._failed = True, False
        except OSError as error:
            self._failed = True
            raise Unavailable(
                f"The audit file {self._path} cannot be written: {error.strerror}. No key leaves until it can."
            ) from error

    def problem(self) -> str:
        """Why no line can be written now; empty if nothing is against it.

        That is looked at, not tried: a file must not grow by being asked for. Only after a write that was refused one
        line is tried, for nobody else may try any more.
        """
        try:
            if os.fstat(self._fd).st_nlink == 0:
                return f"The audit file {self._path} was removed: what is written to it is lost."
            place = os.fstatvfs(self._fd)
        except OSError as error:
            return f"The audit file {self._path} cannot be looked at: {error.strerror}."
        if place.f_flag & os.ST_RDONLY:
            return f"The audit file {self._path} cannot be written: its file system is read-only."
        if place.f_blocks and not (place.f_bfree if os.geteuid() == 0 else place.f_bavail):
            return f"The audit file {self._path} cannot be written: its disk is full."
        if self._failed:
            try:
                self.write_now(Line(event="audit", verdict="accepted", found="Lines can be written again."))
            except Unavailable as error:
                return error.message
        return ""

    def had_a_keyring(self) -> str:
        """The last line of this file by which the instance that wrote it held a keyring; empty if there is none."""
        return had_a_keyring(self._path)

    def close(self) -> None:
        """Close the file; nothing can be written any more."""
        if self._writer is not None:
            self._queue.put(None)
            self._writer.join()
            self._writer = None
        with self._lock:
            fd, self._fd = self._fd, -1
            os.close(fd)


def _settle(batch: list[_Waiting], refusal: Unavailable | None) -> None:
    for entry in batch:
        if entry.done.done():
            continue  # nobody waits for it any more
        if refusal is None:
            entry.done.set_result(None)
        else:
            entry.done.set_exception(refusal)


def check_is_one(fd: int, path: Path) -> None:
    """Whether what is open as `fd`, and named `path`, is an audit file or may become one.

    Raises: Misuse, OSError.
    """
    advice = "Name another with --audit."
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise Misuse(
            f"The audit file {path} is no regular file: nothing would be kept of what is decided.", advice=advice
        )
    if os.pread(fd, 1, 0) not in (b"", b"{", b"\n"):
        raise Misuse(f"{path} is no audit file: it begins with something else than a line of one.", advice=advice)


def had_a_keyring(path: Path) -> str:
    """The last line of the audit file `path` by which the instance that wrote it held a keyring; empty for none.

    Raises: OSError.
    """
    found = b""
    with path.open("rb") as file:
        for line in file:
            if _HELD.match(line):
                found = line
            elif (undone := _NOT_MINTED.match(line)) and b'"event":"mint"' in found and undone[1] in found:
                found = b""  # it could not be stored, so it was never held
    return found.decode("ascii", "replace").strip()


def _ends_in_mid_line(fd: int) -> bool:
    size = os.fstat(fd).st_size
    return size > 0 and os.pread(fd, 1, size - 1) != b"\n"
