"""The pool of verification processes, with real processes that verify real evidence."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import uvloop
from tests.fakes.claims import CLAIMS
from tests.fakes.keyrings import MEMBER
from tests.fakes.machines import NOW, machine
from tests.fakes.pccs import issued_at
from tests.fakes.processes import environment, wait_for_end_of

from rkeyserver.attestation.evidence import MAX_ENDORSEMENTS
from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.errors import Corrupt, Reason, Rejected, Unavailable
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.platforms.registry import load_verifier
from rkeyserver.service import verification
from rkeyserver.service.frames import Failure, frame
from rkeyserver.service.verification import MAX_WAITING, InlineVerifier, VerifierPool
from rkeyserver.service.worker import MAX_ANSWER, Answer

WAIT = 60.0


@dataclass(frozen=True)
class Quoted:
    """The arguments of a verification that succeeds, and what it finds."""

    evidence: bytes
    endorsements: bytes
    report_data: bytes
    claims: SgxClaims

    async def by(self, verifier: VerifierPool | InlineVerifier, report_data: bytes | None = None) -> SgxClaims:
        return await verifier.verify(self.evidence, self.endorsements, report_data or self.report_data, NOW)


@pytest.fixture(scope="module")
def quoted(tmp_path_factory: pytest.TempPathFactory) -> Quoted:
    platform = machine(tmp_path_factory.mktemp("machine"))
    report_data = os.urandom(64)
    evidence, endorsements = platform.evidence(report_data), platform.endorsements()
    claims = load_verifier("simulated")(evidence, endorsements, report_data, NOW)
    return Quoted(evidence, endorsements, report_data, claims)


@contextlib.asynccontextmanager
async def pool_of(size: int, seconds: float = WAIT) -> AsyncIterator[VerifierPool]:
    pool = VerifierPool("simulated", size, seconds)
    pool.start()
    try:
        async with asyncio.timeout(WAIT * 2):
            yield pool
    finally:
        pool.close()


def run(check: Callable[[], Awaitable[None]]) -> None:
    async def checked() -> None:
        await check()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(checked())


def pids(pool: VerifierPool) -> set[int]:
    return {worker.process.pid for worker in pool._all}


def only(pool: VerifierPool) -> int:
    (pid,) = pids(pool)
    return pid


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def stopped(pid: int) -> int:
    """Stop a process as a hang does."""
    os.kill(pid, signal.SIGSTOP)
    _, status = os.waitpid(pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    return pid


def test_a_process_proves_what_the_function_proves(quoted: Quoted) -> None:
    async def check() -> None:
        async with pool_of(2) as pool:
            found = await asyncio.gather(*(quoted.by(pool) for _ in range(8)))
            assert found == [quoted.claims] * 8
            assert len(pids(pool)) == 2
        assert await quoted.by(InlineVerifier(load_verifier("simulated"))) == quoted.claims

    run(check)


def test_another_process_is_started_when_all_are_busy_and_no_more_than_so_many(quoted: Quoted) -> None:
    async def check() -> None:
        async with pool_of(2) as pool:
            first = only(pool)
            for _ in range(3):
                assert await quoted.by(pool) == quoted.claims
            assert only(pool) == first
            stopped(first)
            busy = asyncio.create_task(quoted.by(pool))
            await asyncio.sleep(0)
            found = await asyncio.gather(*(quoted.by(pool) for _ in range(8)))
            assert found == [quoted.claims] * 8
            assert len(pids(pool)) == 2
            os.kill(first, signal.SIGCONT)
            assert await busy == quoted.claims

    run(check)


def test_a_refusal_survives_the_trip_and_the_process_goes_on(quoted: Quoted) -> None:
    async def check() -> None:
        with pytest.raises(Rejected) as inline:
            await quoted.by(InlineVerifier(load_verifier("simulated")), bytes(64))
        async with pool_of(1) as pool:
            before = only(pool)
            with pytest.raises(Rejected) as raised:
                await quoted.by(pool, bytes(64))
            assert raised.value.reason is inline.value.reason is Reason.NOT_BOUND
            assert (raised.value.message, raised.value.advice) == (inline.value.message, inline.value.advice)
            assert await quoted.by(pool) == quoted.claims
            assert only(pool) == before

    run(check)


def test_what_is_held_stands_in_for_what_was_not_sent_or_is_older(quoted: Quoted) -> None:
    """Every process is given it once: with the first task after it changed, one that was started later too."""
    newer, later = (msgspec.json.encode(issued_at(NOW - 60, number)) for number in (21, 22))

    async def check() -> None:
        async with pool_of(1) as pool:
            inline = InlineVerifier(load_verifier("simulated"))
            for verifier in (pool, inline):
                with pytest.raises(Rejected, match="There is no collateral"):
                    await verifier.verify(quoted.evidence, b"", quoted.report_data, NOW)
                for held, number in ((newer, 21), (later, 22), (b"", 20)):
                    verifier.hold((held,) if held else ())
                    sent = quoted.endorsements
                    assert (await quoted.by(verifier)).tcb_eval_data_number == number
                    if held:
                        found = await verifier.verify(quoted.evidence, b"", quoted.report_data, NOW)
                        assert found.tcb_eval_data_number == number
                    assert (await verifier.verify(quoted.evidence, sent, quoted.report_data, NOW)).ppid
            pool.hold((newer,))
            assert (await quoted.by(pool)).tcb_eval_data_number == 21
            os.kill(only(pool), signal.SIGKILL)
            with pytest.raises(Unavailable, match="died"):
                await quoted.by(pool)
            assert (await quoted.by(pool)).tcb_eval_data_number == 21

    run(check)


GARBAGE: dict[str, tuple[bytes, bytes]] = {
    "no evidence": (b"", b""),
    "no quote": (b"\0" * 2000, b"{}"),
    "endorsements that are none": (b"", b"\xff" * 1000),
}


@pytest.mark.parametrize(("evidence", "endorsements"), GARBAGE.values(), ids=GARBAGE)
def test_evidence_that_is_none_is_refused_and_kills_nothing(evidence: bytes, endorsements: bytes) -> None:
    async def check() -> None:
        async with pool_of(1) as pool:
            before = only(pool)
            with pytest.raises(Rejected):
                await pool.verify(evidence, endorsements, bytes(64), NOW)
            assert only(pool) == before

    run(check)


def test_a_process_that_died_idle_is_replaced(quoted: Quoted) -> None:
    async def check() -> None:
        async with pool_of(1) as pool:
            before = only(pool)
            os.kill(before, signal.SIGKILL)
            with pytest.raises(Unavailable, match="died"):
                await quoted.by(pool)
            assert only(pool) != before
            assert is_gone(before)
            assert await quoted.by(pool) == quoted.claims

    run(check)


def test_a_process_killed_in_mid_task_is_replaced_and_its_request_is_told(quoted: Quoted) -> None:
    async def check() -> None:
        async with pool_of(1) as pool:
            before = stopped(only(pool))
            task = asyncio.create_task(quoted.by(pool))
            while pool._idle.qsize():  # noqa: ASYNC110 - the pool has no event for it, and needs none
                await asyncio.sleep(0)
            os.kill(before, signal.SIGKILL)
            with pytest.raises(Unavailable, match="died"):
                await task
            assert await quoted.by(pool) == quoted.claims
            assert only(pool) != before

    run(check)


def test_a_process_that_hangs_is_replaced_after_the_deadline(quoted: Quoted) -> None:
    async def check() -> None:
        async with pool_of(1, seconds=0.1) as pool:
            before = stopped(only(pool))
            with pytest.raises(Unavailable, match="took over"):
                await quoted.by(pool)
            assert is_gone(before)
            pool.seconds = WAIT
            assert await quoted.by(pool) == quoted.claims

    run(check)


def test_whoever_finds_no_process_free_in_time_is_told_and_nothing_is_replaced(quoted: Quoted) -> None:
    async def check() -> None:
        async with pool_of(1) as pool:
            before = stopped(only(pool))
            first = asyncio.create_task(quoted.by(pool))
            await asyncio.sleep(0)
            pool.seconds = 0.05
            with pytest.raises(Unavailable, match="took over"):
                await quoted.by(pool)
            os.kill(before, signal.SIGCONT)
            assert await first == quoted.claims
            assert only(pool) == before

    run(check)


def test_one_that_hangs_does_not_hold_up_the_others(quoted: Quoted) -> None:
    async def check() -> None:
        async with pool_of(2) as pool:
            before = stopped(min(pids(pool)))
            tasks = [asyncio.create_task(quoted.by(pool)) for _ in range(5)]
            done: set[asyncio.Task[SgxClaims]] = set()
            while len(done) < 4:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.sleep(0)
            assert all(task.result() == quoted.claims for task in done)
            os.kill(before, signal.SIGCONT)
            await asyncio.gather(*tasks)

    run(check)


def test_too_many_that_wait_are_told_so_at_once(quoted: Quoted) -> None:
    async def check() -> None:
        async with pool_of(1) as pool:
            before = stopped(only(pool))
            tasks = [asyncio.create_task(quoted.by(pool)) for _ in range(MAX_WAITING)]
            await asyncio.sleep(0)
            with pytest.raises(Unavailable, match=f"{MAX_WAITING} verifications are waiting"):
                await quoted.by(pool)
            os.kill(before, signal.SIGCONT)
            assert await asyncio.gather(*tasks) == [quoted.claims] * MAX_WAITING
            assert await quoted.by(pool) == quoted.claims

    run(check)


def test_a_request_that_is_given_up_leaves_no_answer_for_the_next(quoted: Quoted) -> None:
    async def check() -> None:
        async with pool_of(1) as pool:
            before = stopped(only(pool))
            task = asyncio.create_task(quoted.by(pool))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert is_gone(before)
            with pytest.raises(Rejected) as raised:
                await quoted.by(pool, bytes(64))
            assert raised.value.reason is Reason.NOT_BOUND

    run(check)


def test_closing_ends_the_processes_whatever_they_do(quoted: Quoted) -> None:
    async def check() -> None:
        async with pool_of(3) as pool:
            await asyncio.gather(*(quoted.by(pool) for _ in range(3)))
            started = pids(pool)
            assert len(started) == 3
            stopped(min(started))
        assert all(is_gone(pid) for pid in started)
        pool.close()
        assert not pool._all

    run(check)


def test_closing_tells_who_waits_and_starts_no_other(quoted: Quoted) -> None:
    async def check() -> None:
        async with pool_of(1) as pool:
            before = stopped(only(pool))
            task = asyncio.create_task(quoted.by(pool))
            await asyncio.sleep(0)
            pool.seconds = 0.05
            late = asyncio.create_task(quoted.by(pool))
            await asyncio.sleep(0)
            task.cancel()
            pool.close()
            with pytest.raises((Unavailable, asyncio.CancelledError)):
                await task
            with pytest.raises(Unavailable):
                await late
            assert is_gone(before)
            assert not pool._all

    run(check)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_what_a_terminal_sends_to_all_ends_none_of_them(quoted: Quoted, number: signal.Signals) -> None:
    async def check() -> None:
        async with pool_of(1) as pool:
            await quoted.by(pool)
            os.kill(only(pool), number)
            before = only(pool)
            assert await quoted.by(pool) == quoted.claims
            assert only(pool) == before

    run(check)


SERVER = """
import os, signal, sys
from rkeyserver.service.verification import VerifierPool
pool = VerifierPool("simulated", 2)
pool.start()
pool._add()
print(*(worker.process.pid for worker in pool._all), flush=True)
signal.pause()
"""


def test_they_die_with_a_server_that_is_killed() -> None:
    server = subprocess.Popen([sys.executable, "-c", SERVER], env=environment(), stdout=subprocess.PIPE)
    with server:
        assert server.stdout is not None
        assert select.select([server.stdout], [], [], WAIT)[0]
        workers = [int(pid) for pid in server.stdout.readline().split()]
        assert len(workers) == 2
        server.kill()
    for pid in workers:
        wait_for_end_of(pid)


def test_where_no_other_can_be_started_the_next_request_tries_again(
    quoted: Quoted, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def check() -> None:
        async with pool_of(1) as pool:
            os.kill(only(pool), signal.SIGKILL)
            with monkeypatch.context() as patched:
                patched.setattr(sys, "executable", "/nowhere/python")
                with pytest.raises(Unavailable, match="died"):
                    await quoted.by(pool)
                pool.seconds = 0.05
                with pytest.raises(Unavailable, match="took over"):
                    await quoted.by(pool)
            assert "No such file" in caplog.text
            pool.seconds = WAIT
            assert await quoted.by(pool) == quoted.claims
            assert len(pids(pool)) == 1

    run(check)


def test_a_closed_pool_starts_nothing() -> None:
    async def check() -> None:
        async with pool_of(1, seconds=0.05) as pool:
            pool.close()
            with pytest.raises(Unavailable):
                await pool.verify(b"", b"", bytes(64), NOW)
            assert not pool._all

    run(check)


# Processes that answer something else

FAKE = """
import os, socket, sys
sys.path[:] = {!r}
platform = {!r}
channel = socket.socket(fileno={})
"""


@pytest.fixture
def boot(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have the pool start processes that run other code."""

    def replace(code: str) -> None:
        braced = code.replace("{", "{{").replace("}", "}}")
        monkeypatch.setattr(verification, "_BOOT", FAKE + braced)

    return replace


def sending(data: str, then: str = "channel.recv(1 << 20)") -> str:
    """Code that reads a task, sends what the expression `data` gives, and waits for the next one."""
    return f"channel.recv(1 << 20)\nchannel.sendall({data})\n{then}\n"


def answering(data: bytes, then: str = "channel.recv(1 << 20)") -> str:
    return sending(f"bytes.fromhex({data.hex()!r})", then)


def framed(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


GOOD = frame(Answer(claims=CLAIMS))
DISTURBED: dict[str, str] = {
    "nothing, and is gone": "channel.recv(1 << 20)",
    "nothing, and was never there": "",
    "half a length": answering(GOOD[:2], then=""),
    "half an answer": answering(GOOD[:-1], then=""),
    "an empty answer": answering(bytes(4)),
    "no msgpack": answering(framed(b"\xc1")),
    "a list": answering(framed(msgspec.msgpack.encode([1, 2]))),
    "claims of another form": answering(framed(msgspec.msgpack.encode({"claims": {"platform": "simulated"}}))),
    "text that is no UTF-8": answering(frame(Answer(refusal=Failure("@@", ""))).replace(b"@@", b"\xff\xff")),
    "deep": answering(framed(b"\x81\xa1x" + b"\x91" * 5000)),
    "a byte too many": answering(GOOD + b"\0"),
    "two answers": answering(GOOD + GOOD),
    "a giant answer": sending(f"{MAX_ANSWER}.to_bytes(4, 'big') + bytes({MAX_ANSWER})"),
    "without end": sending("b'\\0\\1\\0\\0' * (1 << 24)"),
    "a giant length, and then nothing more": sending(f"bytes([255] * {MAX_ANSWER + 1})"),
}


@pytest.mark.parametrize("code", DISTURBED.values(), ids=DISTURBED)
def test_what_is_no_answer_costs_its_process_and_one_request(boot: Callable[[str], None], code: str) -> None:
    async def check() -> None:
        boot(code)
        async with pool_of(1) as pool:
            before = only(pool)
            boot(answering(GOOD))
            with pytest.raises(Unavailable, match="died"):
                await pool.verify(b"", b"", bytes(64), NOW)
            assert only(pool) != before
            assert is_gone(before)
            assert await pool.verify(b"", b"", bytes(64), NOW) == CLAIMS

    run(check)


UNASKED: dict[str, str] = {
    "a byte": "b'x'",
    "an answer": f"bytes.fromhex({GOOD.hex()!r})",
    "more than any answer": f"bytes({MAX_ANSWER + 1})",
}


@pytest.mark.parametrize("data", UNASKED.values(), ids=UNASKED)
def test_what_comes_unasked_is_no_answer_to_the_next(boot: Callable[[str], None], tmp_path: Path, data: str) -> None:
    async def check() -> None:
        told = tmp_path / "told"
        os.mkfifo(told)
        boot(answering(GOOD, then=f"open({str(told)!r}).read()\nchannel.sendall({data})\nchannel.recv(1 << 20)"))
        async with pool_of(1) as pool:
            assert await pool.verify(b"", b"", bytes(64), NOW) == CLAIMS
            (worker,) = pool._all
            await asyncio.to_thread(told.write_text, "now")
            while not worker._data:  # noqa: ASYNC110 - the pool has no event for it, and needs none
                await asyncio.sleep(0.001)
            boot(answering(GOOD))
            with pytest.raises(Unavailable, match="died"):
                await pool.verify(b"", b"", bytes(64), NOW)
            assert is_gone(worker.process.pid)
            assert await pool.verify(b"", b"", bytes(64), NOW) == CLAIMS

    run(check)


def test_a_process_that_dies_between_two_tasks_is_replaced(quoted: Quoted) -> None:
    async def check() -> None:
        async with pool_of(1) as pool:
            assert await quoted.by(pool) == quoted.claims
            (worker,) = pool._all
            os.kill(worker.process.pid, signal.SIGKILL)
            while not worker._lost:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.001)
            with pytest.raises(Unavailable, match="died"):
                await quoted.by(pool)
            assert await quoted.by(pool) == quoted.claims
            assert pids(pool) != {worker.process.pid}

    run(check)


def test_a_task_that_does_not_fit_into_the_socket_arrives_whole(quoted: Quoted) -> None:
    async def check() -> None:
        async with pool_of(1) as pool:
            (worker,) = pool._all
            worker.channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            with pytest.raises(Rejected) as raised:
                await pool.verify(quoted.evidence, b"x" * MAX_ENDORSEMENTS, quoted.report_data, NOW)
            assert raised.value.reason is Reason.MALFORMED
            assert await quoted.by(pool) == quoted.claims

    run(check)


def test_a_process_lets_the_event_loop_go_first(quoted: Quoted) -> None:
    async def check() -> None:
        async with pool_of(1) as pool:
            await quoted.by(pool)
            assert os.sched_getscheduler(only(pool)) == os.SCHED_BATCH

    run(check)


def test_an_answer_that_stops_in_the_middle_is_waited_for_until_the_deadline(boot: Callable[[str], None]) -> None:
    async def check() -> None:
        boot(answering(GOOD[:-1]))
        async with pool_of(1, seconds=1) as pool:
            before = only(pool)
            with pytest.raises(Unavailable, match="took over 1 second"):
                await pool.verify(b"", b"", bytes(64), NOW)
            assert is_gone(before)

    run(check)


def test_an_answer_may_come_in_pieces(boot: Callable[[str], None]) -> None:
    async def check() -> None:
        pieces = "channel.recv(1 << 20)\nfor byte in data: channel.sendall(bytes([byte]))\nchannel.recv(1)\n"
        boot(f"data = bytes.fromhex({GOOD.hex()!r})\n{pieces}")
        async with pool_of(1) as pool:
            assert await pool.verify(b"", b"", bytes(64), NOW) == CLAIMS

    run(check)


SAID: dict[str, tuple[Answer, type[Exception], str]] = {
    "a refusal": (Answer(refusal=Failure("no", "do", Reason.NOT_GENUINE)), Rejected, "^no do$"),
    "corrupt": (Answer(refusal=Failure("no", "do")), Corrupt, "^no do$"),
    "neither": (Answer(), Unavailable, "gave no answer"),
}


@pytest.mark.parametrize(("said", "kind", "text"), SAID.values(), ids=SAID)
def test_an_answer_without_claims_opens_nothing(
    boot: Callable[[str], None], said: Answer, kind: type[Exception], text: str
) -> None:
    async def check() -> None:
        boot(answering(frame(said)))
        async with pool_of(1) as pool:
            before = only(pool)
            with pytest.raises(kind, match=text):
                await pool.verify(b"", b"", bytes(64), NOW)
            assert only(pool) == before

    run(check)


TELL = """
from rkeyserver.service import frames, worker
channel.recv(1 << 20)
paths = ["/proc/self/fd/" + name for name in os.listdir("/proc/self/fd")]
files = [os.readlink(path) for path in paths if os.path.exists(path)]
maps = open("/proc/self/maps").read()
told = [sys.flags.isolated, sys.flags.no_site, dict(os.environ), files, "secretmem" in maps, os.getppid()]
channel.sendall(frames.frame(worker.Answer(refusal=frames.Failure(repr(told), ""))))
channel.recv(1)
"""


def test_they_inherit_no_key_no_file_and_no_environment(
    boot: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RKEYSERVER_TEST", "seen")

    async def check() -> None:
        boot(TELL)
        # Even one that is started late, when the keyring is open, has none of it.
        keyring = Keyring.mint(primary=MEMBER, now=NOW, policy="version = 1\n")
        with contextlib.closing(keyring), (tmp_path / "open file").open("wb") as file:
            os.set_inheritable(file.fileno(), True)  # noqa: FBT003 - the os module's signature
            async with pool_of(1) as pool:
                with pytest.raises(Corrupt) as raised:
                    await pool.verify(b"", b"", bytes(64), NOW)
        told = raised.value.message
        assert told.startswith("[1, 1, {")
        assert "RKEYSERVER_TEST" not in told
        assert "open file" not in told
        assert "secretmem" not in re.sub(r", False, \d+\]$", "", told)
        assert told.endswith(f", False, {os.getpid()}]")

    run(check)
