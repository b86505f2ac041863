"""Where quotes are verified: in a few processes of their own, that never had the keyring.

One verification holds the interpreter's lock for about a millisecond, so threads would not help and the loop would
stall. Each process is a fresh interpreter with one socket; what comes back is parsed as data. The first is started
before the keyring is opened, another when all are busy: few instances ever have need of it, and it costs 60 ms of CPU
and 40 MB. Where there can be none (inside Gramine) the same function runs inline.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Final, cast

import msgspec

from rkeyserver.attestation.sgx.choose import choose
from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.errors import Unavailable
from rkeyserver.platforms.interface import VerifyFunction
from rkeyserver.service import interpreter
from rkeyserver.service.frames import LENGTH_SIZE, frame
from rkeyserver.service.worker import MAX_ANSWER, Answer, Task

MAX_WAITING: Final = 256
VERIFY_SECONDS: Final = 10.0
_BOOT: Final = "import sys; sys.path[:] = {!r}; from rkeyserver.service.worker import main; main({!r}, {})"
log = logging.getLogger(__name__)


class InlineVerifier:
    """Verifies on the event loop."""

    def __init__(self, function: VerifyFunction) -> None:
        self._function = function
        self._held: tuple[bytes, ...] = ()

    def start(self) -> None:
        """As VerifierPool.start(): there is nothing to start."""

    def close(self) -> None:
        """As VerifierPool.close()."""

    def hold(self, held: tuple[bytes, ...]) -> None:
        """As VerifierPool.hold()."""
        self._held = held

    async def verify(self, evidence: bytes, endorsements: bytes, expected_report_data: bytes, now: int) -> SgxClaims:
        """As exchange.attested.Verifier."""
        await asyncio.sleep(0)  # the loop gets its turn: a storm of joins must not starve the rest
        return self._function(evidence, choose(evidence, endorsements, self._held, now), expected_report_data, now)


@dataclass(eq=False)
class _Worker(asyncio.Protocol):
    """One process and this end of its socket. held: the collateral that it was given to hold.

    The loop reads the socket for as long as the process lives: to begin and end waiting for one with each task costs
    more than the task's way through it.
    """

    process: subprocess.Popen[bytes]
    channel: socket.socket
    held: tuple[bytes, ...] = field(default=(), init=False, repr=False)
    _transport: asyncio.WriteTransport | None = field(default=None, init=False)
    _answered: asyncio.Future[None] | None = field(default=None, init=False)
    _data: bytearray = field(default_factory=bytearray, init=False)
    _lost: bool = field(default=False, init=False)

    @classmethod
    def start(cls, platform: str) -> _Worker:
        here, there = socket.socketpair()
        here.setblocking(False)  # noqa: FBT003 - the socket module's signature
        with there:
            boot = _BOOT.format(sys.path, platform, there.fileno())
            try:
                process = interpreter.start(boot, there.fileno())
            except OSError:
                here.close()
                raise
        return cls(process, here)

    async def ask(self, task: Task) -> Answer:
        """Raises: OSError, EOFError or one of _UNREADABLE if the process is of no more use."""
        loop = asyncio.get_running_loop()
        if self._transport is None:
            await loop.create_unix_connection(lambda: self, sock=self.channel)
            assert self._transport is not None  # noqa: S101 - connection_made() was called
        if self._lost or self._data:
            raise EOFError("it ended, or said something unasked")
        self._answered = loop.create_future()
        self._transport.write(frame(task))
        await self._answered
        data, self._data = self._data, bytearray()
        if self._lost:
            raise EOFError(f"an answer of {len(data)} bytes")
        return _ANSWERS.decode(memoryview(data)[LENGTH_SIZE:])

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As asyncio.Protocol."""
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        """Take a part of an answer; mostly there is one, for it is far smaller than the socket's buffer."""
        self._data += data
        size = len(self._data)
        if size > MAX_ANSWER:
            self.end()
        elif size >= LENGTH_SIZE and size >= LENGTH_SIZE + int.from_bytes(self._data[:LENGTH_SIZE], "big"):
            self._settle()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - however it ended
        """The process is gone, or was given up."""
        self._lost = True
        self._settle()

    def _settle(self) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(None)

    def end(self) -> None:
        """Kill it; again does nothing."""
        if self._transport is None:
            self.channel.close()
        else:
            self._transport.abort()
        self.process.kill()
        self.process.wait()


_ANSWERS: Final = msgspec.msgpack.Decoder(Answer)
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


@dataclass
class VerifierPool:
    """Up to `size` processes that verify for `platform`. One that dies or hangs is replaced; its request is refused."""

    platform: str
    size: int
    seconds: float = VERIFY_SECONDS
    _waiting: int = field(default=0, init=False)
    _idle: asyncio.Queue[_Worker] = field(default_factory=asyncio.Queue, init=False)
    _all: set[_Worker] = field(default_factory=set, init=False)
    _closed: bool = field(default=False, init=False)
    _held: tuple[bytes, ...] = field(default=(), init=False, repr=False)

    def hold(self, held: tuple[bytes, ...]) -> None:
        """From now on verify with the newer of what is sent and of `held`: collateral, one for each model."""
        self._held = held

    def start(self) -> None:
        """Start the first process, without waiting for it."""
        self._add()

    def _add(self) -> None:
        worker = _Worker.start(self.platform)
        self._all.add(worker)
        self._idle.put_nowait(worker)

    async def verify(self, evidence: bytes, endorsements: bytes, expected_report_data: bytes, now: int) -> SgxClaims:
        """As exchange.attested.Verifier.

        Raises: Unavailable if too many wait, or if the process died or hung over it.
        """
        if self._waiting >= MAX_WAITING:
            raise Unavailable(f"{MAX_WAITING} verifications are waiting already.")
        self._grow()
        self._waiting += 1
        worker = answer = None
        try:
            async with asyncio.timeout(self.seconds):
                worker = await self._idle.get()
                held = self._held
                given = None if worker.held is held else held
                answer = await worker.ask(Task(evidence, endorsements, expected_report_data, now, given))
                worker.held = held
        except TimeoutError as error:
            raise Unavailable(f"The verification took over {self.seconds:.0f} seconds.") from error
        except (OSError, EOFError, *_UNREADABLE) as error:
            raise Unavailable("The process that verified this died of it.") from error
        finally:
            self._waiting -= 1
            if worker is not None and answer is not None:
                self._idle.put_nowait(worker)
            elif worker is not None:
                self._replace(worker)
        if answer.claims is None:
            raise Unavailable("The verification gave no answer.") if answer.refusal is None else answer.refusal.error()
        return answer.claims

    def _replace(self, worker: _Worker) -> None:
        self._all.discard(worker)
        worker.end()
        if self._closed:
            return
        log.warning("Verification process %d gave no answer; it is replaced.", worker.process.pid)
        self._grow()

    def _grow(self) -> None:
        # Tried again with each request: what is short now (memory, descriptors) may not be for long.
        if not self._idle.empty() or len(self._all) >= self.size or self._closed:
            return
        try:
            self._add()
        except OSError as error:
            log.warning("No other verification process can be started now: %s.", error.strerror)

    def close(self) -> None:
        """End the processes."""
        self._closed = True
        while self._all:
            self._all.pop().end()
