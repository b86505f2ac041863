"""A verification process: evidence in, claims or a refusal out, over one socket. It never had the keyring.

What goes either way is data of the types below and is parsed as such. A process that hostile evidence has taken over
reads no key; but it can lie about any evidence that it is asked about from then on.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence
from typing import Final

import msgspec

from rkeyserver.attestation.evidence import MAX_ENDORSEMENTS, MAX_EVIDENCE
from rkeyserver.attestation.sgx.bundle import MAX_ENTRIES
from rkeyserver.attestation.sgx.choose import choose
from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.errors import Corrupt, Rejected
from rkeyserver.platforms.interface import VerifyFunction
from rkeyserver.platforms.registry import load_verifier
from rkeyserver.service import interpreter
from rkeyserver.service.background import in_background
from rkeyserver.service.frames import LENGTH_SIZE, Failure, frame

NICE: Final = 5  # behind the server itself where CPUs are short: callers wait for no machine that joins
MAX_ANSWER: Final = 64 * 1024
MAX_TASK: Final = MAX_EVIDENCE + (1 + MAX_ENTRIES) * MAX_ENDORSEMENTS + 1024


class Task(msgspec.Struct, frozen=True, array_like=True):
    """The arguments of a verifier.

    held: the collateral that is held here, from this task on; None for no change, so that it is sent once.
    """

    evidence: bytes
    endorsements: bytes
    expected_report_data: bytes
    now: int
    held: tuple[bytes, ...] | None = None


class Answer(msgspec.Struct, frozen=True):
    """One of the two."""

    claims: SgxClaims | None = None
    refusal: Failure | None = None


def answer(verify: VerifyFunction, task: Task, held: Sequence[bytes] = ()) -> Answer:
    """Carry out one task, with the newer of the collateral that was sent and that is `held`."""
    try:
        endorsements = choose(task.evidence, task.endorsements, held, task.now)
        return Answer(claims=verify(task.evidence, endorsements, task.expected_report_data, task.now))
    except (Rejected, Corrupt) as error:
        return Answer(refusal=Failure.of(error))


def work(channel: socket.socket, verify: VerifyFunction) -> None:
    """Answer tasks until the server has closed its end, as it does by dying too.

    Raises: EOFError in the middle of a task, msgspec.DecodeError if it is none.
    """
    tasks = msgspec.msgpack.Decoder(Task)
    held: tuple[bytes, ...] = ()
    # A task is mostly one part: the server writes it at once, and the next one only after the answer.
    buffer = memoryview(bytearray(LENGTH_SIZE + MAX_TASK))
    while True:
        have = 0
        while have < LENGTH_SIZE or have < LENGTH_SIZE + int.from_bytes(buffer[:LENGTH_SIZE], "big"):
            part = channel.recv_into(buffer[have:])
            if not part and not have:
                return
            if not part:
                raise EOFError(f"a task that ends after {have} bytes")
            have += part
        task = tasks.decode(buffer[LENGTH_SIZE:have])
        held = held if task.held is None else task.held
        channel.sendall(frame(answer(verify, task, held)))


def main(platform: str, fd: int) -> None:
    """The whole life of the process; `fd` is its end of the socket."""
    interpreter.begin()
    in_background()
    with contextlib.suppress(OSError):  # where that is not allowed, nothing is lost but the loop's right of way
        os.nice(NICE)
    with socket.socket(fileno=fd) as channel, contextlib.suppress(ConnectionError):
        work(channel, load_verifier(platform))
