"""What may hang does not hang whoever asks for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from rkeyserver.errors import Misuse, Unavailable
from rkeyserver.keystore.patience import Job, Patience


class Hanging:
    """Something that hangs until it is cut, or for good."""

    def __init__(self, *, can_be_cut: bool = True) -> None:
        self.cuts = 0
        self.can_be_cut = can_be_cut
        self.end = threading.Event()

    def cut(self) -> None:
        self.cuts += 1
        if self.can_be_cut:
            self.end.set()

    def work(self, _job: Job) -> str:
        assert self.end.wait(10)
        self.end.clear()
        return "done"


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    made = Hanging()
    yield made
    made.end.set()


def test_what_is_done_in_time_is_given(hanging: Hanging) -> None:
    patience = Patience("It", hanging.cut)
    assert patience.call(lambda _job: 1, 1) == 1
    with pytest.raises(Misuse, match="as it is raised"):
        patience.call(_raise, 1)
    patience.close(lambda: None)
    patience.close(lambda: None)
    with pytest.raises(Unavailable, match="It was closed"):
        patience.call(lambda _job: 1, 1)
    assert hanging.cuts == 0


def _raise(_job: Job) -> None:
    raise Misuse("as it is raised")


def test_what_hangs_is_cut(hanging: Hanging) -> None:
    patience = Patience("It", hanging.cut)
    assert patience.call(hanging.work, 0.05, 5) == "done", "what it gives once it is cut, where that is waited for"
    with pytest.raises(Unavailable, match="has not answered for 0 seconds"):
        patience.call(hanging.work, 0.05)
    assert hanging.cuts == 2
    assert patience.call(lambda _job: 1, 5) == 1
    patience.close(lambda: None)


def test_what_cannot_be_cut_is_not_waited_for_again() -> None:
    hanging = Hanging(can_be_cut=False)
    patience = Patience("It", hanging.cut)
    with pytest.raises(Unavailable, match=r"for 0 seconds\. It may be there\."):
        patience.call(hanging.work, 0.1, 0.1, "It may be there.")
    begun = time.monotonic()
    with pytest.raises(Unavailable, match="has not answered"):
        patience.call(lambda _job: 1, 10)
    assert time.monotonic() - begun < 1
    hanging.end.set()
    end = time.monotonic() + 5
    while patience._now is not None:
        assert time.monotonic() < end
    assert patience.call(lambda _job: 1, 5) == 1
    patience.close(lambda: None)


def test_what_was_not_begun_in_time_is_never_done(hanging: Hanging) -> None:
    patience = Patience("It", lambda: None)
    other = threading.Thread(target=lambda: patience.call(hanging.work, 5))
    other.start()
    done: list[int] = []
    while patience._now is None:
        pass
    with pytest.raises(Unavailable):
        patience.call(lambda _job: done.append(1), 0.05, 0.05, "It may be there.")
    hanging.end.set()
    other.join()
    assert patience.call(lambda _job: done.append(2), 5) is None
    assert done == [2]
    patience.close(lambda: done.append(3))
    assert done == [2, 3]


def test_closing_leaves_what_hangs(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rkeyserver.keystore.patience._CLOSING_SECONDS", 0.05)
    hanging = Hanging(can_be_cut=False)
    patience = Patience("It", hanging.cut)
    with pytest.raises(Unavailable):
        patience.call(hanging.work, 0.05)
    patience.close(lambda: None)
    assert "It does not answer; it is left as it is." in caplog.text
    hanging.end.set()
