"""Shares of recovery secrets, made and put together in a process of its own for each time (sealing.recovery.Sharing).

The secret goes there from key memory, and comes from there into key memory: this process has no other copy of it, nor
of any share.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from rkeyserver.errors import Unavailable
from rkeyserver.sealing.recovery import RECOVERY_SECRET_SIZE, RecoveryShare, ShareSet
from rkeyserver.secret import SecretBytes
from rkeyserver.service import interpreter
from rkeyserver.service.frames import LENGTH_SIZE, Failure, frame
from rkeyserver.service.sharing_messages import ANSWERS, MAX_ANSWER, Combine, Split, Task

SHARING_SECONDS: Final = 20.0
_BOOT: Final = "import sys; sys.path[:] = {!r}; from rkeyserver.service.sharing_worker import main; main({})"


@dataclass(frozen=True)
class ProcessSharing:
    """Implements sealing.recovery.Sharing. seconds: how long one process may take over each step."""

    seconds: float = SHARING_SECONDS

    def split(self, secret: memoryview, share_set: ShareSet) -> list[RecoveryShare]:
        """As sealing.recovery.Sharing."""
        with self._process() as process:
            process.send(Split(share_set), [secret])
            shares = process.receive()
        if tuple(one.recipient for one in shares) != share_set.recipients:
            raise Unavailable(f"{len(shares)} shares were made for {len(share_set.recipients)} recipients.")
        return shares

    def combine(self, shares: Sequence[memoryview], share_set: ShareSet) -> SecretBytes:
        """As sealing.recovery.Sharing."""
        with self._process() as process:
            process.send(Combine(share_set, [len(one) for one in shares]), shares)
            process.receive()
            secret = SecretBytes(RECOVERY_SECRET_SIZE)
            try:
                process.receive_into(secret.view)
            except BaseException:  # whatever it is, the secret does not stay
                secret.close()
                raise
        return secret

    @contextlib.contextmanager
    def _process(self) -> Iterator[_Process]:
        """A process for one task; ended with the context, whatever it does.

        Raises: Unavailable if it cannot be started, dies, hangs or answers what is no answer.
        """
        here, there = socket.socketpair()
        with here, contextlib.ExitStack() as stack:
            try:
                with there:
                    process = interpreter.start(_BOOT.format(sys.path, there.fileno()), there.fileno())
                stack.callback(process.wait)
                stack.callback(process.kill)
                here.settimeout(self.seconds)
                yield _Process(here)
            except (OSError, EOFError, msgspec.DecodeError, UnicodeDecodeError) as error:
                why = (isinstance(error, OSError) and error.strerror) or error
                raise Unavailable(f"The process that makes recovery shares gave no answer: {why}.") from error


@dataclass(frozen=True)
class _Process:
    """One process, by our end of its socket."""

    channel: socket.socket

    def send(self, task: Task, secrets: Sequence[memoryview]) -> None:
        self.channel.sendall(frame(task))
        for one in secrets:
            self.channel.sendall(one)

    def receive(self) -> list[RecoveryShare]:
        """The answer's shares, and not a byte of what follows it."""
        length = bytearray(LENGTH_SIZE)
        self.receive_into(memoryview(length))
        size = int.from_bytes(length, "big")
        if size > MAX_ANSWER:
            raise EOFError(f"an answer of {size} bytes")
        data = bytearray(size)
        self.receive_into(memoryview(data))
        answer = ANSWERS.decode(data)
        if isinstance(answer, Failure):
            raise answer.error()
        return answer.shares

    def receive_into(self, view: memoryview) -> None:
        while view:
            got = self.channel.recv_into(view)
            if not got:
                raise EOFError("it ended")
            view = view[got:]
