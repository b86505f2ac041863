"""The audit file: one JSON line for every decision, on disk before the decision takes effect (design invariant 9).

What a line says is service/audit_line.py's. Lines are a chain (service/audit_chain.py), so that what was changed later
shows. What is here writes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from rkeyserver import files
from rkeyserver.clock import Clock, utc
from rkeyserver.errors import LONGEST, Misuse, Unavailable
from rkeyserver.keyring.checkpoint_key import CheckpointKey
from rkeyserver.service.audit_chain import (
    CHAIN_ID_SIZE,
    CHECKPOINT_FORMAT,
    NO_HEAD,
    Checkpoint,
    Head,
    body_of,
    checkpoint_bytes,
)
from rkeyserver.service.audit_end import End, digest_between, end_after, find_end
from rkeyserver.service.audit_line import Line
from rkeyserver.service.audit_look import check_is_one, had_a_keyring
from rkeyserver.service.background import in_background

CHECKPOINT_LINES: Final = 64
CHECKPOINT_SECONDS: Final = 300
_FLAGS: Final = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Entry:
    """A decision that is to be written. at: when it was made, seconds since 1970; body: its own part of the line."""

    at: int
    body: bytes


@dataclass
class _Waiting:
    entry: _Entry | None  # None: only have what is there signed
    done: asyncio.Future[None]


class Audit:
    """Appends lines to one file, each chained to the one before it. Lines that wait at the same moment share one write.

    One thread waits for the disk, and gets what is to be written by a queue: it holds the interpreter's lock for a few
    microseconds of each write, where a thread pool's hand-over and return cost as much as the write.

    machine: whose log it is; random: gives n fresh random bytes. problem: why the last line could not be written, empty
    if it was; the next decision tries again.

    Raises: Unavailable from open() and write(): then the decision must not take effect.
    """

    def __init__(
        self, fd: int, path: Path, clock: Clock, machine: str = "", random: Callable[[int], bytes] = os.urandom
    ) -> None:
        self._fd = fd
        self._path = path
        self._clock = clock
        self._machine = machine
        self._random = random
        self._lock = threading.Lock()  # write_now() may come while the thread writes for write()
        self._end = End(None, 0)  # of the chain, as far as it is known to be on disk
        self._whole = False  # whether the file is known to end there
        self._tried = (b"", 0)  # what was written last, and at which offset
        self._key: CheckpointKey | None = None
        self._unsigned = 0  # lines that no checkpoint is after
        self._signed_at = clock.now()
        self.problem = ""
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None

    @classmethod
    def open(cls, path: Path, clock: Clock, machine: str = "") -> Self:
        """Open or create the file, to append only. A chain is begun in it with the first decision."""
        try:
            fd = os.open(path, _FLAGS, 0o600)
            try:
                check_is_one(fd, path)
                opened = cls(fd, path, clock, machine)
                opened._find_end()
            except (Misuse, OSError):
                os.close(fd)
                raise
            files.sync_folder(path.parent)
        except OSError as error:
            raise Unavailable(
                f"The audit file {path} cannot be opened: {error.strerror}.",
                advice="Nothing is decided without it: make its folder writable, or name another with --audit.",
            ) from error
        return opened

    @property
    def head(self) -> bytes:
        """SHA-256 of the last line that is on disk; NO_HEAD before there is one."""
        head = self._end.head
        return NO_HEAD if head is None else head.digest

    @property
    def signs_for(self) -> str:
        """The domain whose key signs checkpoints; empty for none yet."""
        return "" if self._key is None else self._key.domain

    def sign_with(self, key: CheckpointKey) -> None:
        """Have checkpoints signed with `key` from now on; it is closed with this."""
        before, self._key = self._key, key
        if before is not None:
            with self._lock:  # the thread may be signing with it
                before.close()

    def status(self) -> dict[str, Any]:
        """Of it, for Instance.status()."""
        head, key = self._end.head, self._key
        return {
            "path": str(self._path.absolute()),
            "chain": None if head is None else head.chain,
            "lines": 0 if head is None else head.lines,
            "head": self.head.hex(),
            "key": None if key is None else key.public,
            "problem": self.problem,
        }

    def checkpoint(self) -> Checkpoint:
        """The head as it is now, signed.

        Raises: Unavailable if there is none, or no key to sign with.
        """
        head, key = self._end.head, self._key  # without the lock, which is held as long as the disk takes
        if key is None or head is None:
            raise Unavailable("There is nothing to sign yet: this instance has no keyring.")
        return self._signed(head, key, utc(self._clock.now()))

    def _signed(self, head: Head, key: CheckpointKey, at: str) -> Checkpoint:
        signed = checkpoint_bytes(domain=key.domain, machine=self._machine, head=head, at=at)
        return Checkpoint(
            format=CHECKPOINT_FORMAT,
            domain=key.domain,
            machine=self._machine,
            chain=head.chain,
            lines=head.lines,
            head=head.digest.hex(),
            at=at,
            key=key.public,
            signature=key.sign(signed),
        )

    def _entry(self, line: Line) -> _Entry:
        at = self._clock.now()
        if len(line.found) > LONGEST:
            line = msgspec.structs.replace(line, found=line.found[:LONGEST])
        return _Entry(at, body_of({"at": utc(at)} | msgspec.to_builtins(line)))

    def write_now(self, line: Line) -> None:
        """Write one line and wait for the disk; for the time before the event loop runs."""
        self._commit([self._entry(line)], sign=False)

    async def write(self, line: Line) -> None:
        """Write one line; returns when it is on disk."""
        await self._wait_for(self._entry(line))

    async def keep_signed(self) -> None:
        """Without end: have what is there signed, every CHECKPOINT_SECONDS that brought a line."""
        while True:
            await asyncio.sleep(CHECKPOINT_SECONDS)
            if self._unsigned:
                with contextlib.suppress(Unavailable):  # `problem` says so, and the next decision tries again
                    await self._wait_for(None)

    async def _wait_for(self, entry: _Entry | None) -> None:
        waiting = _Waiting(entry, asyncio.get_running_loop().create_future())
        if self._writer is None:
            self._writer = self._started()
        self._queue.put(waiting)
        await waiting.done

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
        while (waiting := self._queue.get()) is not None:
            batch = [waiting]
            while not self._queue.empty() and (waiting := self._queue.get()) is not None:
                batch.append(waiting)
            refusal = None
            try:
                entries = [one.entry for one in batch if one.entry is not None]
                self._commit(entries, sign=len(entries) < len(batch))
            except Unavailable as error:
                refusal = error
            # A loop that is closed has nobody who waits.
            with contextlib.suppress(RuntimeError):
                batch[-1].done.get_loop().call_soon_threadsafe(_settle, batch, refusal)
            if waiting is None:
                return

    def _commit(self, entries: list[_Entry], *, sign: bool) -> None:
        """Write and wait for the disk. sign: whether a checkpoint comes last in any case."""
        try:
            with self._lock:
                self._append(entries, sign=sign)
        except OSError as error:
            self.problem = (
                f"The audit file {self._path} cannot be written: {error.strerror}. No key leaves until it can."
            )
            raise Unavailable(self.problem) from error
        self.problem = ""

    def _append(self, entries: list[_Entry], *, sign: bool) -> None:
        found = os.fstat(self._fd)
        if found.st_nlink == 0:
            raise OSError(errno.ENOENT, "it was removed, and what is written to it is lost")
        size = found.st_size
        if not self._whole or size != self._end.at:
            self._whole = False
            size = self._find_end()
        at = entries[-1].at if entries else self._clock.now()
        head, written = self._begun(size, utc(at))
        for one in entries:
            line, head = head.append(one.body)
            written.append(line)
        unsigned = self._unsigned + len(entries)
        due = unsigned >= CHECKPOINT_LINES or at >= self._signed_at + CHECKPOINT_SECONDS
        key = self._key if unsigned and (sign or due) else None
        if key is not None:
            said = self._signed(head, key, utc(at))
            fields = {"at": said.at, "event": "checkpoint", "domain": said.domain, "machine": said.machine}
            line, head = head.append(body_of(fields | {"key": said.key, "signature": said.signature}))
            written.append(line)
            unsigned = 0
        data = b"".join(written)
        rest = memoryview(data)
        self._whole, self._tried = False, (data, size)
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        os.fdatasync(self._fd)  # and not O_DSYNC, which Gramine takes and drops
        self._end = End(head, size + len(data))
        self._whole, self._tried = True, (b"", 0)
        self._unsigned = unsigned
        if key is not None:
            self._signed_at = at

    def _find_end(self) -> int:
        """Look where the chain ends that is in the file; the file's size.

        What was once known to be on disk counts, whatever the file has now: then the next line shows what is gone.
        """
        size, known = os.fstat(self._fd).st_size, self._end
        self._end = find_end(self._fd, size) if known.head is None else end_after(self._fd, size, known, *self._tried)
        self._unsigned = max(self._unsigned, 1 if self._end.head is not None and not self._end.signed else 0)
        return size

    def _begun(self, size: int, at: str) -> tuple[Head, list[bytes]]:
        """The head that the next decision is appended to, and what is to be written before it."""
        head, written = self._end.head, []
        loose = size - self._end.at
        if not self._whole and size and os.pread(self._fd, 1, size - 1) != b"\n":
            # What a full disk or a crash left of a line stays one bad line: the next one begins on its own.
            written.append(b"\n")
        if head is not None and loose <= 0:
            return head, written
        found = digest_between(self._fd, max(0, self._end.at), size)
        for one in written:
            found.update(one)
        fields = {"size": loose + sum(map(len, written)), "sha256": found.hexdigest()}
        if head is None:
            head = Head.before(self._random(CHAIN_ID_SIZE).hex())
            fields = {"at": at, "event": "begin", "machine": self._machine} | fields
        else:
            fields = {"at": at, "event": "torn"} | fields
        line, head = head.append(body_of(fields))
        return head, [*written, line]

    def looked_at(self) -> str:
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
        if self.problem:
            try:
                self.write_now(Line(event="audit", verdict="accepted", found="Lines can be written again."))
            except Unavailable as error:
                return error.message
        return ""

    def had_a_keyring(self) -> str:
        """The last line of this file by which the instance that wrote it held a keyring; empty if there is none."""
        return had_a_keyring(self._path)

    def close(self) -> None:
        """Sign the head that it ends with, and close the file; nothing can be written any more."""
        if self._writer is not None:
            self._queue.put(None)
            self._writer.join()
            self._writer = None
        if self._key is not None and self._unsigned:
            try:
                self._commit([], sign=True)
            except Unavailable as error:
                log.warning("The audit file ends without a checkpoint. %s", error)
        with self._lock:
            fd, self._fd = self._fd, -1
            os.close(fd)
            if self._key is not None:
                self._key.close()


def _settle(batch: list[_Waiting], refusal: Unavailable | None) -> None:
    for entry in batch:
        if entry.done.done():
            continue  # nobody waits for it any more
        if refusal is None:
            entry.done.set_result(None)
        else:
            entry.done.set_exception(refusal)
