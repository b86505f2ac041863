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
        return self._function(evidence, endorsements, expected_report_data, now)


@dataclass(eq=False)
class _Worker:
    """One process and this end of its socket."""

    process: subprocess.Popen[bytes]
    channel: socket.socket
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @classmethod
    def start(cls, platform: str) -> _Worker:
        here, there = socket.socketpair()
        with there:
            boot = _BOOT.format(sys.path, platform, there.fileno())
            # Isolated and without site: it imports what this process imports, and no environment says otherwise.
            process = subprocess.Popen(  # noqa: S603 - this interpreter, arguments of our own
                [sys.executable, "-IS", "-c", boot], env={}, stdin=subprocess.DEVNULL, pass_fds=[there.fileno()]
            )
        return cls(process, here)

    async def ask(self, task: Task) -> Answer:
        """Raises: OSError, EOFError or msgspec.DecodeError if the process is of no more use."""
        if self.streams is None:
            self.streams = await asyncio.open_unix_connection(sock=self.channel)
        reader, writer = self.streams
        writer.write(frame(task))
        await writer.drain()
        length = int.from_bytes(await reader.readexactly(LENGTH_SIZE), "big")
        if length > MAX_ANSWER:
            raise EOFError(f"an answer of {length} bytes")
        return _ANSWERS.decode(await reader.readexactly(length))

    def end(self) -> None:
        if self.streams is not None:
            self.streams[1].transport.abort()
        self.channel.close()
        self.process.kill()
        self.process.wait()


_ANSWERS: Final = msgspec.msgpack.Decoder(Answer)


@dataclass
class VerifierPool:
    """`size` processes that verify for `platform`. One that dies or hangs is replaced; its request is refused."""

    platform: str
    size: int
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
        worker = await self._free()
        answer = None
        try:
            async with asyncio.timeout(VERIFY_SECONDS):
                answer = await worker.ask(task)
        except TimeoutError as error:
            raise Unavailable(f"The verification took over {VERIFY_SECONDS:.0f} seconds.") from error
        except (OSError, EOFError, msgspec.DecodeError) as error:
            raise Unavailable("The process that verified this died of it.") from error
        finally:
            if answer is not None:
                self._idle.put_nowait(worker)
            else:
                self._replace(worker)
        if answer.claims is None:
            raise Unavailable("The verification gave no answer.") if answer.refusal is None else answer.refusal.error()
        return answer.claims

    async def _free(self) -> _Worker:
        if self._waiting >= MAX_WAITING:
            raise Unavailable(f"{MAX_WAITING} verifications are waiting already.")
        self._waiting += 1
        try:
            async with asyncio.timeout(VERIFY_SECONDS):
                return await self._idle.get()
        except TimeoutError as error:
            raise Unavailable(f"No verification process was free for {VERIFY_SECONDS:.0f} seconds.") from error
        finally:
            self._waiting -= 1

    def _replace(self, worker: _Worker) -> None:
        self._all.discard(worker)
        worker.end()
        if self._closed:
            return
        log.warning("Verification process %d gave no answer; starting another.", worker.process.pid)
        try:
            self._add()
        except OSError:
            log.exception("No other verification process can be started.")

    def close(self) -> None:
        """End the processes."""
        self._closed = True
        while self._all:
            self._all.pop().end()
