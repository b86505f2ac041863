"""The process that splits a recovery secret, or puts it together again: one task, one answer, and it ends.

The libraries that it works with leave copies of what they work on wherever they go, and with the process they are gone.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any

from rkeyserver.errors import Corrupt, Misuse
from rkeyserver.sealing.shares import combine_shares, split_secret
from rkeyserver.service import interpreter
from rkeyserver.service.frames import LENGTH_SIZE, Failure, frame
from rkeyserver.service.sharing_messages import TASKS, Answer, Done, Split, Task

if TYPE_CHECKING:
    from io import BufferedRWPair


def answer(task: Task, secret: bytes) -> tuple[Answer, bytes]:
    """Carry out one task; the answer, and what follows it."""
    try:
        if isinstance(task, Split):
            return Done(split_secret(secret, task.share_set)), b""
        shares = []
        for size in task.sizes:
            shares.append(secret[:size])
            secret = secret[size:]
        return Done([]), combine_shares(shares, task.share_set)
    except (Misuse, Corrupt) as error:
        return Failure.of(error), b""


def work(channel: BufferedRWPair[Any, Any]) -> None:
    """Read one task and answer it."""
    task = TASKS.decode(channel.read(int.from_bytes(channel.read(LENGTH_SIZE), "big")))
    found, secret = answer(task, channel.read(task.secret_size))
    channel.write(frame(found) + secret)
    channel.flush()


def main(fd: int) -> None:
    """The whole life of the process; `fd` is its end of the socket."""
    interpreter.begin()
    with socket.socket(fileno=fd) as channel, channel.makefile("rwb") as stream, contextlib.suppress(ConnectionError):
        work(stream)
