"""The commands of callers, where they are given a terminal, or ask something that is no instance."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.processes import DEADLINE

from rkeyserver.cli import caller, derive, rewrap, unwrap, wrap
from rkeyserver.cli.caller import read_wrapped
from rkeyserver.cli.main import main
from rkeyserver.errors import EXIT_STATUS, Misuse, Unavailable

MISUSE, UNAVAILABLE = EXIT_STATUS[Misuse], EXIT_STATUS[Unavailable]
COMMANDS = {"derive": derive, "wrap": wrap, "unwrap": unwrap, "rewrap": rewrap}


@pytest.fixture
def terminal() -> Iterator[io.TextIOWrapper]:
    """One that nobody looks at."""
    ours, theirs = pty.openpty()
    try:
        with io.TextIOWrapper(io.FileIO(theirs, "r+", closefd=False), write_through=True) as made:
            yield made
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_terminal_is_shown_nothing_that_is_binary(
    name: str, terminal: io.TextIOWrapper, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main([name, "db", "--socket", "/none"]) == MISUSE
    assert "Standard output is a terminal" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["derive", "wrap", "rewrap"])
def test_it_is_shown_what_was_asked_for_as_text(
    name: str, terminal: io.TextIOWrapper, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"AAAA")))
    assert main([name, "db", "--base64", "--socket", "/none"]) == UNAVAILABLE
    assert "No instance answers on /none" in capsys.readouterr().err


def test_not_even_then_a_secret(
    terminal: io.TextIOWrapper, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["unwrap", "db", "--base64", "--socket", "/none"]) == MISUSE
    assert "would show the secret" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["wrap", "unwrap", "rewrap"])
def test_nothing_is_typed(
    name: str, terminal: io.TextIOWrapper, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", terminal)
    assert main([name, "db", "--socket", "/none"]) == MISUSE
    assert "Standard input is a terminal" in capsys.readouterr().err


def test_input_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = os.open("/", os.O_RDONLY)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Folder(folder))))
    assert main(["wrap", "db", "--socket", "/none"]) == MISUSE
    assert "cannot be read: Is a directory" in capsys.readouterr().err


class Folder(io.RawIOBase):
    """A folder, opened as only another program can hand it over."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return os.readv(self._fd, [buffer])

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
        super().close()


def test_associated_data_that_is_too_long(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wrap", "db", "--socket", "/none", "--associated-data", "x" * 65537]) == MISUSE
    assert "The associated data has 65537 bytes; at most 65536 are taken" in capsys.readouterr().err


def test_base64_of_several_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"YQ\n  ==\r\n")))
    assert read_wrapped(unwrap.parser().parse_args(["db", "--base64"])) == b"a"


NONE: dict[str, bytes] = {
    "a page": b"<html>",
    "nothing that was asked for": b"{}",
    "a key that is no base64": b'{"key": "x", "generation": "00112233445566778899aabbccddeeff"}',
    "a short key": b'{"key": "AAAA", "generation": "00112233445566778899aabbccddeeff"}',
    "a generation that is none": b'{"key": "AAAAAAAAAAAAAAAAAAAAAA==", "generation": "\\u001b[2J"}',
}


@contextlib.contextmanager
def answering(path: Path, body: bytes) -> Iterator[None]:
    """Something that answers one request on `path`."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            with listener.accept()[0] as connection:
                connection.recv(65536)
                if body:
                    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))

        thread = threading.Thread(target=answer)
        thread.start()
        yield
        thread.join(DEADLINE)


OTHERS: dict[str, list[str]] = {
    "of another size": ["--size", "16"],
    "of another generation": ["--generation", "ff" * 16],
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_key_than_was_asked_for(tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    key = b'{"key": "%s", "generation": "%s"}' % (b"A" * 43 + b"=", b"0a" * 16)
    with answering(tmp_path / "socket", key):
        assert main(["derive", "db", *OTHERS[case], "--socket", str(tmp_path / "socket")]) == UNAVAILABLE
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "another key than was asked for" in printed.err


@pytest.mark.parametrize("there", [[], ["beside"], ["run"], ["run", "beside"]])
def test_where_it_asks_without_a_word(
    tmp_path: Path, there: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(caller, "DEFAULT_SOCKET", tmp_path / "run")
    monkeypatch.setattr(caller, "_BESIDE", tmp_path / "beside")
    for name in there:
        with socket.socket(socket.AF_UNIX) as gone:
            gone.bind(str(tmp_path / name))
    assert main(["derive", "db"]) == UNAVAILABLE
    asked = tmp_path / ("beside" if there == ["beside"] else "run")
    assert f"No instance answers on {asked}" in capsys.readouterr().err


@pytest.mark.parametrize("body", NONE.values(), ids=NONE)
def test_what_is_no_instance(tmp_path: Path, body: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    with answering(tmp_path / "socket", body):
        assert main(["derive", "db", "--socket", str(tmp_path / "socket")]) == UNAVAILABLE
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "What is on" in printed.err


def test_no_answer_is_no_harm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with answering(tmp_path / "socket", b""):
        assert main(["derive", "db", "--socket", str(tmp_path / "socket")]) == UNAVAILABLE
    assert "Ask again: nothing is changed by it." in capsys.readouterr().err
