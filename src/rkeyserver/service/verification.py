"""Where quotes are verified: in a few processes of their own, that never had the keyring.

One verification holds the interpreter's lock for about a millisecond, so threads would not help and the loop would
stall. Each process is a fresh interpreter, started before the keyring is opened, with one socket; what comes back is
parsed as data. Where there can be none (inside Gramine) the same function runs inline.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Final

import msgspec

from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.errors import Unavailable
from rkeyserver.platforms.interface import VerifyFunction
from rkeyserver.service import interpreter
from rkeyserver.service.worker import LENGTH_SIZE, MAX_ANSWER, Answer, Task, frame

MAX_WAITING: Final = 256
VERIFY_SECONDS: Final = 10.0
_BOOT: Final = "import sys; sys.path[:] = {!r}; from rkeyserver.service.worker import main; main({!r}, {})"
log = logging.getLogger(__name__)


class InlineVerifier:
    """Verifies on the event loop."""

    def __init__(self, function: VerifyFunction) -> None:
        self._function = function

    async def verify(self, evidence: bytes, endorsements: bytes, expected_report_data: bytes, now: int) -> SgxClaims:
        """As exchange.attested.Verifier."""
        await asyncio.sleep(0)  # the loop gets its turn: a storm of joins must not starve the rest
        return self._function(evidence, endorsements, expected_report_data, now)


@dataclass(eq=False)
class _Worker:
    """One process and this end of its socket."""

    process: subprocess.Popen[bytes]
    channel: socket.socket

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
        await loop.sock_sendall(self.channel, frame(task))
        # One answer is one write of the other side and far smaller than the socket's buffer: mostly one part.
        data = bytearray()
        while len(data) < LENGTH_SIZE or len(data) < LENGTH_SIZE + int.from_bytes(data[:LENGTH_SIZE], "big"):
            part = await loop.sock_recv(self.channel, MAX_ANSWER)
            data += part
            if not part or len(data) > MAX_ANSWER:
                raise EOFError(f"an answer of {len(data)} bytes")
        return _ANSWERS.decode(memoryview(data)[LENGTH_SIZE:])

    def end(self) -> None:
        self.channel.close()
        self.process.kill()
        self.process.wait()


_ANSWERS: Final = msgspec.msgpack.Decoder(Answer)
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


@dataclass
class VerifierPool:
    """`size` processes that verify for `platform`. One that dies or hangs is replaced; its request is refused."""

    platform: str
    size: int
    seconds: float = VERIFY_SECONDS
    _waiting: int = field(default=0, init=False)
    _idle: asyncio.Queue[_Worker] = field(default_factory=asyncio.Queue, init=False)
    _all: set[_Worker] = field(default_factory=set, init=False)
    _closed: bool = field(default=False, init=False)

    def start(self) -> None:
        """Start the processes, without waiting for them."""
        for _ in range(self.size):
            self._add()

    def _add(self) -> None:
        worker = _Worker.start(self.platform)
        self._all.add(worker)
        self._idle.put_nowait(worker)

    async def verify(self, evidence: bytes, endorsements: bytes, expected_report_data: bytes, now: int) -> SgxClaims:
        """As exchange.attested.Verifier.

        Raises: Unavailable if too many wait, or if the process died or hung over it.
        """
        task = Task(evidence, endorsements, expected_report_data, now)
        if self._waiting >= MAX_WAITING:
            raise Unavailable(f"{MAX_WAITING} verifications are waiting already.")
        self._refill()
        self._waiting += 1
        worker = answer = None
        try:
            async with asyncio.timeout(self.seconds):
                worker = await self._idle.get()
                answer = await worker.ask(task)
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
        log.warning("Verification process %d gave no answer; starting another.", worker.process.pid)
        self._refill()

    def _refill(self) -> None:
        # Tried again with each request: what is short now (memory, descriptors) may not be for long.
        try:
            while len(self._all) < self.size and not self._closed:
                self._add()
        except OSError as error:
            log.warning("No other verification process can be started now: %s.", error.strerror)

    def close(self) -> None:
        """End the processes."""
        self._closed = True
        while self._all:
            self._all.pop().end()
