"""What a verification process does with its socket, in a thread: the processes themselves are in test_verification."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.claims import CLAIMS, NOW, claims_with

from rkeyserver.attestation.evidence import MAX_ENDORSEMENTS, MAX_EVIDENCE
from rkeyserver.attestation.sgx.bundle import MAX_ENTRIES
from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.errors import Corrupt, Misuse, Reason, Rejected, RkeyError, Unavailable
from rkeyserver.platforms.interface import VerifyFunction
from rkeyserver.service.frames import LENGTH_SIZE, Failure, frame
from rkeyserver.service.worker import MAX_ANSWER, MAX_TASK, Answer, Task, answer, work

WAIT = 20.0
TASK = Task(b"evidence", b"endorsements", bytes(64), NOW)


@dataclass
class Asked:
    """A verifier that notes what it was asked, and answers in turn."""

    answers: list[SgxClaims | Exception]
    tasks: list[Task] = field(default_factory=list)

    def __call__(self, evidence: bytes, endorsements: bytes, expected: bytes, now: int) -> SgxClaims:
        self.tasks.append(Task(evidence, endorsements, expected, now))
        found = self.answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


@dataclass
class Worked:
    """work() in a thread, and the server's end of its socket. error: what ended it, None for a plain end."""

    channel: socket.socket
    thread: threading.Thread
    errors: list[Exception]

    def answers(self, count: int) -> list[Answer]:
        with self.channel.makefile("rb") as stream:
            found = []
            for _ in range(count):
                length = int.from_bytes(stream.read(LENGTH_SIZE), "big")
                found.append(msgspec.msgpack.decode(stream.read(length), type=Answer))
            return found

    def ended(self) -> Exception | None:
        self.thread.join(WAIT)
        assert not self.thread.is_alive()
        return self.errors[0] if self.errors else None


@contextlib.contextmanager
def working(verify: VerifyFunction) -> Iterator[Worked]:
    here, there = socket.socketpair()
    here.settimeout(WAIT)
    errors: list[Exception] = []

    def run() -> None:
        with there:
            try:
                work(there, verify)
            except Exception as error:  # noqa: BLE001 - it is what is looked at
                errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    with here:
        yield Worked(here, thread, errors)
    thread.join(WAIT)
    assert not thread.is_alive()


def test_claims_come_back_as_they_were_proved() -> None:
    claims = claims_with(advisory_ids=("INTEL-SA-00001", "INTEL-SA-00002"), report_data=bytes(range(64)))
    verify = Asked([claims])
    with working(verify) as worked:
        worked.channel.sendall(frame(TASK))
        assert worked.answers(1) == [Answer(claims=claims)]
    assert verify.tasks == [TASK]


def test_tasks_are_answered_one_after_the_other() -> None:
    refused = Rejected(Reason.NOT_GENUINE, "no", advice="try")
    with working(Asked([CLAIMS, refused, claims_with(isv_svn=9)])) as worked:
        found = []
        for _ in range(3):
            worked.channel.sendall(frame(TASK))
            found += worked.answers(1)
        first, second, third = found
    assert first.claims == CLAIMS
    assert second.refusal == Failure("no", "try", Reason.NOT_GENUINE)
    assert third.claims is not None
    assert third.claims.isv_svn == 9


def test_a_task_of_the_largest_size_arrives_whole() -> None:
    held = (b"c" * MAX_ENDORSEMENTS,) * MAX_ENTRIES
    task = Task(b"e" * MAX_EVIDENCE, b"c" * MAX_ENDORSEMENTS, bytes(64), 2**62, held)
    assert len(frame(task)) - LENGTH_SIZE <= MAX_TASK
    verify = Asked([CLAIMS])
    with working(verify) as worked:
        worked.channel.sendall(frame(task))
        worked.answers(1)
    assert verify.tasks == [msgspec.structs.replace(task, held=None)]


def test_a_task_that_comes_byte_by_byte_is_one_task() -> None:
    with working(Asked([CLAIMS])) as worked:
        for byte in frame(TASK):
            worked.channel.sendall(bytes([byte]))
        assert worked.answers(1) == [Answer(claims=CLAIMS)]


def test_it_ends_when_the_server_is_gone() -> None:
    with working(Asked([])) as worked:
        worked.channel.shutdown(socket.SHUT_WR)
        assert worked.ended() is None


BROKEN: dict[str, bytes] = {
    "half a length": b"\0\0",
    "half a task": frame(TASK)[:-1],
    "a length alone": frame(TASK)[:LENGTH_SIZE],
    "an empty task": bytes(LENGTH_SIZE),
    "no msgpack": b"\0\0\0\1\xc1",
    "too few fields": frame(TASK)[:LENGTH_SIZE - 1] + b"\2\x91\xc4",
    "another type": b"\0\0\0\5\x94\1\2\3\4",
    "two at once": frame(TASK) * 2,
    "a giant length": b"\xff" * LENGTH_SIZE,
}  # fmt: skip


@pytest.mark.parametrize("sent", BROKEN.values(), ids=BROKEN)
def test_what_is_no_task_ends_it_without_an_answer(sent: bytes) -> None:
    verify = Asked([])
    with working(verify) as worked:
        worked.channel.sendall(sent)
        worked.channel.shutdown(socket.SHUT_WR)
        assert isinstance(worked.ended(), (msgspec.DecodeError, EOFError))
        assert worked.channel.recv(1) == b""
    assert verify.tasks == []


def test_a_task_over_the_largest_size_ends_it_and_fills_no_memory() -> None:
    verify = Asked([])
    with working(verify) as worked:
        with contextlib.suppress(ConnectionError):  # it may end before all of it is sent
            worked.channel.sendall((MAX_TASK + 1).to_bytes(LENGTH_SIZE, "big") + bytes(MAX_TASK + 1))
        assert isinstance(worked.ended(), EOFError)
    assert verify.tasks == []


@pytest.mark.parametrize("error", [Unavailable("x"), Misuse("x"), KeyError("x"), RecursionError()], ids=repr)
def test_what_is_no_refusal_ends_it_without_an_answer(error: Exception) -> None:
    with working(Asked([error])) as worked:
        worked.channel.sendall(frame(TASK))
        assert worked.ended() is error
        assert worked.channel.recv(1) == b""


ERRORS: dict[str, RkeyError] = {
    **{reason: Rejected(reason, f"found {reason}", advice="do") for reason in Reason},
    "corrupt": Corrupt("found", advice="do"),
    "no advice": Rejected(Reason.MALFORMED, "found"),
    "nothing said": Corrupt(""),
}


def same(error: RkeyError, other: RkeyError) -> bool:
    return (
        type(error) is type(other)
        and (error.message, error.advice, str(error)) == (other.message, other.advice, str(other))
        and getattr(error, "reason", None) is getattr(other, "reason", None)
    )


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_a_refusal_survives_the_trip(error: RkeyError) -> None:
    found = answer(Asked([error]), TASK)
    back = msgspec.msgpack.decode(frame(found)[LENGTH_SIZE:], type=Answer)
    assert back.claims is None
    assert back.refusal is not None
    assert same(back.refusal.error(), error)


@given(st.text(), st.text(), st.sampled_from(Reason))
def test_whatever_an_error_quotes_survives_the_trip(message: str, advice: str, reason: Reason) -> None:
    error = Rejected(reason, message, advice=advice)
    back = msgspec.msgpack.decode(frame(answer(Asked([error]), TASK))[LENGTH_SIZE:], type=Answer)
    assert back.refusal is not None
    assert same(back.refusal.error(), error)


def test_an_answer_fits_what_the_server_reads() -> None:
    advisories = tuple(f"INTEL-SA-{number:05}" for number in range(1000))
    assert len(frame(Answer(claims=claims_with(advisory_ids=advisories)))) <= MAX_ANSWER


CHANGES: dict[str, Callable[[dict[str, object]], object]] = {
    "a reason that is none": lambda said: said.update(refusal={"message": "", "advice": "", "reason": "none"}),
    "a refusal without a message": lambda said: said.update(refusal={"advice": "", "reason": None}),
    "claims of another type": lambda said: said.update(claims=[1]),
    "claims without a machine": lambda said: said.update(claims={"platform": "sgx"}),
    "a version that is text": lambda said: said.update(claims=msgspec.to_builtins(CLAIMS) | {"isv_svn": "9"}),
    "a debug flag that is a number": lambda said: said.update(claims=msgspec.to_builtins(CLAIMS) | {"debug": 0}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_an_answer_of_another_form_is_none(change: Callable[[dict[str, object]], object]) -> None:
    said: dict[str, object] = {"claims": None, "refusal": None}
    change(said)
    with pytest.raises(msgspec.DecodeError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(said), type=Answer)
