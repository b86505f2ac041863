"""What the process that makes shares does with its socket, in a thread. The processes are in test_sharing."""

from __future__ import annotations

import socket
import threading

import msgspec
import pytest
from tests.fakes.recipients import age

from rkeyserver.sealing.recovery import ShareSet
from rkeyserver.service.frames import LENGTH_SIZE, Failure, frame
from rkeyserver.service.sharing_messages import ANSWERS, Combine, Done, Split, Task
from rkeyserver.service.sharing_worker import work

RECIPIENTS = [age() for _ in range(3)]
SHARE_SET = ShareSet("d0" * 16, "5e" * 16, 2, tuple(one.public for one in RECIPIENTS))
WAIT = 20.0


def answered(sent: bytes) -> tuple[Done | Failure, bytes]:
    """The answer, and what follows it."""
    here, there = socket.socketpair()
    here.settimeout(WAIT)
    with here, there, there.makefile("rwb") as stream:
        thread = threading.Thread(target=work, args=(stream,))
        thread.start()
        here.sendall(sent)
        here.shutdown(socket.SHUT_WR)
        thread.join(WAIT)
        assert not thread.is_alive()
        there.shutdown(socket.SHUT_WR)
        with here.makefile("rb") as answers:
            data = answers.read()
    end = LENGTH_SIZE + int.from_bytes(data[:LENGTH_SIZE], "big")
    return ANSWERS.decode(data[LENGTH_SIZE:end]), data[end:]


def test_a_secret_is_split_and_combined() -> None:
    done, after = answered(frame(Split(SHARE_SET)) + bytes(range(32)))
    assert isinstance(done, Done)
    assert after == b""
    shares = [one.opens(share.sealed) for one, share in zip(RECIPIENTS, done.shares, strict=True)][:2]
    done, after = answered(frame(Combine(SHARE_SET, [len(one) for one in shares])) + b"".join(shares))
    assert done == Done([])
    assert after == bytes(range(32))


def test_a_refusal_is_answered_without_a_secret() -> None:
    failed, after = answered(frame(Combine(SHARE_SET, [2])) + b"{}")
    assert isinstance(failed, Failure)
    assert not failed.misuse
    assert after == b""
    failed, after = answered(frame(Split(ShareSet("d0" * 16, "5e" * 16, 1, ("age1q",)))) + bytes(32))
    assert isinstance(failed, Failure)
    assert failed.misuse
    assert after == b""


def test_a_task_is_of_its_form() -> None:
    for wrong in (b"", b"\xc1", msgspec.msgpack.encode(Done([]))):
        with pytest.raises(msgspec.DecodeError):
            msgspec.msgpack.decode(wrong, type=Task)
