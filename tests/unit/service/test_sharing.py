"""Shares are made in a process of their own: whatever it does, a secret or an error comes back, and it is gone."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fakes.keyrings import secret_of
from tests.fakes.recipients import age, one_of_each

from rkeyserver.errors import Corrupt, Misuse, Unavailable
from rkeyserver.sealing.recovery import RecoveryShare, ShareSet
from rkeyserver.service import sharing
from rkeyserver.service.frames import Failure, frame
from rkeyserver.service.sharing import ProcessSharing
from rkeyserver.service.sharing_messages import MAX_ANSWER, Done

RECIPIENTS = one_of_each()
SHARE_SET = ShareSet("d0" * 16, "5e" * 16, 2, tuple(one.public for one in RECIPIENTS))
SECRET = bytes(range(32))


def children() -> set[int]:
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {int(pid) for pid in found}


def test_no_process_stays() -> None:
    before = children()
    with secret_of(SECRET) as secret:
        shares = ProcessSharing().split(secret.view, SHARE_SET)
    assert children() == before
    with secret_of(RECIPIENTS[0].opens(shares[0].sealed)) as one, pytest.raises(Corrupt):
        ProcessSharing().combine([one.view], SHARE_SET)
    assert children() == before


def test_where_no_process_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with secret_of(SECRET) as secret, pytest.raises(Unavailable, match="No such file"):
        ProcessSharing().split(secret.view, SHARE_SET)


@pytest.fixture
def boot(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have it start processes that run other code."""

    def replace(code: str) -> None:
        begin = "import os, socket, sys, time\nsys.path[:] = {!r}\nchannel = socket.socket(fileno={})\n"
        monkeypatch.setattr(sharing, "_BOOT", begin + code.replace("{", "{{").replace("}", "}}"))

    return replace


def sending(data: bytes) -> str:
    return f"channel.recv(1 << 20)\nchannel.sendall({data!r})\nchannel.recv(1 << 20)\n"


OTHER = [RecoveryShare(age().public, "00" * 32, b"x")]
WRONG: dict[str, tuple[str, str]] = {
    "it dies at once": ("", "gave no answer"),
    "it dies after the task": ("channel.recv(1 << 20)", "it ended"),
    "it answers half": (sending(frame(Done([]))[:-1]) + "channel.close()", "timed out"),
    "it answers half and dies": (f"channel.recv(1 << 20)\nchannel.sendall({frame(Done([]))[:-1]!r})", "it ended"),
    "it answers nonsense": (sending(b"\0\0\0\1\xc1"), "gave no answer"),
    "it answers too much": (sending((MAX_ANSWER + 1).to_bytes(4, "big")), "bytes"),
    "it hangs": ("time.sleep(60)", "timed out"),
    "it makes too few shares": (sending(frame(Done([]))), "0 shares were made for 3"),
    "it makes shares for others": (sending(frame(Done(OTHER * 3))), "3 shares were made for 3"),
}


@pytest.mark.parametrize(("code", "says"), WRONG.values(), ids=WRONG)
def test_whatever_it_does_nothing_is_taken_for_shares(boot: Callable[[str], None], code: str, says: str) -> None:
    boot(code)
    before = children()
    with secret_of(SECRET) as secret, pytest.raises(Unavailable, match=says):
        ProcessSharing(seconds=1.5).split(secret.view, SHARE_SET)
    assert children() == before


@pytest.mark.parametrize("sent", [b"", bytes(31)], ids=["nothing", "too little"])
def test_half_a_secret_is_none(boot: Callable[[str], None], sent: bytes) -> None:
    boot(f"channel.recv(1 << 20)\nchannel.sendall({frame(Done([])) + sent!r})")
    with secret_of(b"share") as share, pytest.raises(Unavailable, match="it ended"):
        ProcessSharing(seconds=5).combine([share.view], SHARE_SET)


def test_its_errors_are_again_errors_of_their_kind() -> None:
    assert isinstance(Failure("m", "a", misuse=True).error(), Misuse)
    assert isinstance(Failure("m", "a", misuse=False).error(), Corrupt)
