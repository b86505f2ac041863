"""A fork of the program that is loaded already is to a test what a process of its own is."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from tests.fakes.forked import Forked
from tests.fakes.processes import DEADLINE, PROGRAM, Ended, Running, environment, reserve

WORDS: dict[str, list[str]] = {
    "the version": ["--version"],
    "help of a command": ["doctor", "--help"],
    "an option that is none": ["--nothing"],
    "a file that is not there": ["inspect", "nothing"],
    "a command by the folder it is in": ["inspect", "here"],
}


def executed(words: list[str], folder: Path) -> Ended:
    done = subprocess.run(
        [*PROGRAM, *words], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_it_says_and_ends_as_the_program_does(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "here").write_bytes(b"no record")
    forked = Running([*PROGRAM, *words], cwd=tmp_path, env=environment())
    assert isinstance(forked.process, Forked)
    assert forked.wait() == executed(words, tmp_path)


@contextlib.contextmanager
def serving(folder: Path, **more: str) -> Iterator[Running]:
    with reserve() as peers, reserve() as ops:
        at = [f"127.0.0.1:{held.getsockname()[1]}" for held in (peers, ops)]
        words = ["--platform", "simulated", "--machine", "machine", "--keystore", "rkey.bin"]
        server = Running(
            [*PROGRAM, *words, "--listen", at[0], "--ops", at[1]], cwd=folder, env=environment(**more)
        ).ready()
        try:
            yield server
        finally:
            server.kill()


def test_it_has_the_files_and_the_folder_that_a_process_of_its_own_has(tmp_path: Path) -> None:
    """And no other: nothing of the template's or of the test's."""

    def files(server: Running) -> list[str]:
        folder, found = Path(f"/proc/{server.pid}/cwd").readlink(), []
        for one in Path(f"/proc/{server.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                found.append(str(one.readlink()).replace(str(folder), ""))
        return sorted(one.partition(":[")[0] for one in found)

    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    with serving(one) as forked, serving(other, ANOTHER="1") as own:
        assert isinstance(forked.process, Forked)
        assert isinstance(own.process, subprocess.Popen)
        assert Path(f"/proc/{forked.pid}/cwd").readlink() == one
        # Both load and ask something still, and have files open for that.
        end = time.monotonic() + DEADLINE
        while (found := files(forked)) != (wanted := files(own)):
            assert time.monotonic() < end, (found, wanted)
            time.sleep(0.02)


ENDS: dict[str, tuple[Callable[[Running], Ended], int]] = {
    "stopped": (Running.stop, 0),
    "killed": (Running.kill, -signal.SIGKILL),
    "interrupted": (lambda server: server.stop(signal.SIGINT), 0),
}


@pytest.mark.parametrize(("end", "status"), ENDS.values(), ids=ENDS)
def test_it_ends_as_it_is_told_and_is_there_until_then(
    tmp_path: Path, end: Callable[[Running], Ended], status: int
) -> None:
    with serving(tmp_path) as server:
        assert server.process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(0.01)
        assert end(server).status == status == server.process.wait(DEADLINE)
        server.send(signal.SIGKILL)  # of nobody, whoever has its number by now
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)


@pytest.mark.parametrize("more", [{"LC_ALL": "C.UTF-8"}, {"PYTHONWARNINGS": "default"}], ids=["locale", "warnings"])
def test_another_environment_has_a_process_of_its_own(tmp_path: Path, more: Mapping[str, str]) -> None:
    running = Running([*PROGRAM, "--version"], cwd=tmp_path, env=environment(**more))
    assert isinstance(running.process, subprocess.Popen)
    assert running.wait().status == 0
