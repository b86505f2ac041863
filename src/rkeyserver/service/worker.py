"""A verification process: evidence in, claims or a refusal out, over one socket. It never had the keyring.

What goes either way is data of the types below and is parsed as such. A process that hostile evidence has taken over
reads no key; but it can lie about any evidence that it is asked about from then on.

    frame = length, 4 bytes big-endian ‖ msgpack
"""

from __future__ import annotations

import contextlib
import signal
import socket
from typing import TYPE_CHECKING, Any, Final

import msgspec

from rkeyserver.attestation.evidence import MAX_ENDORSEMENTS, MAX_EVIDENCE
from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.errors import Corrupt, Reason, Rejected, RkeyError
from rkeyserver.platforms.interface import VerifyFunction
from rkeyserver.platforms.registry import load_verifier
from rkeyserver.secret import harden_process

if TYPE_CHECKING:
    from io import BufferedRWPair

LENGTH_SIZE: Final = 4
MAX_ANSWER: Final = 64 * 1024
MAX_TASK: Final = MAX_EVIDENCE + MAX_ENDORSEMENTS + 1024


class Task(msgspec.Struct, frozen=True, array_like=True):
    """The arguments of a verifier."""

    evidence: bytes
    endorsements: bytes
    expected_report_data: bytes
    now: int


class Refusal(msgspec.Struct, frozen=True):
    """A Rejected, or with no reason a Corrupt, on its way."""

    message: str
    advice: str
    reason: Reason | None

    @classmethod
    def of(cls, error: RkeyError) -> Refusal:
        """What is left of an error between processes."""
        return cls(error.message, error.advice, error.reason if isinstance(error, Rejected) else None)

    def error(self) -> RkeyError:
        """The error again."""
        if self.reason is None:
            return Corrupt(self.message, advice=self.advice)
        return Rejected(self.reason, self.message, advice=self.advice)


class Answer(msgspec.Struct, frozen=True):
    """One of the two."""

    claims: SgxClaims | None = None
    refusal: Refusal | None = None


def frame(message: msgspec.Struct) -> bytes:
    """A message as it goes over the socket."""
    data = msgspec.msgpack.encode(message)
    return len(data).to_bytes(LENGTH_SIZE, "big") + data


def answer(verify: VerifyFunction, task: Task) -> Answer:
    """Carry out one task."""
    try:
        return Answer(claims=verify(task.evidence, task.endorsements, task.expected_report_data, task.now))
    except (Rejected, Corrupt) as error:
        return Answer(refusal=Refusal.of(error))


def work(channel: BufferedRWPair[Any, Any], verify: VerifyFunction) -> None:
    """Answer tasks until the server has closed its end, as it does by dying too."""
    tasks = msgspec.msgpack.Decoder(Task)
    while length := channel.read(LENGTH_SIZE):
        task = tasks.decode(channel.read(int.from_bytes(length, "big")))
        channel.write(frame(answer(verify, task)))
        channel.flush()


def main(platform: str, fd: int) -> None:
    """The whole life of the process; `fd` is its end of the socket."""
    # A terminal's Ctrl-C, and its end, go to the whole group: when to end is the server's to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    harden_process()
    with socket.socket(fileno=fd) as channel, channel.makefile("rwb") as stream, contextlib.suppress(ConnectionError):
        work(stream, load_verifier(platform))
