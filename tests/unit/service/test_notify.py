from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rkeyserver.service.notify import notify


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    monkeypatch.chdir(tmp_path)  # a socket's path has to be short
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(20)
        yield listener


NAMES: dict[str, Callable[[], tuple[str, str]]] = {
    "a path": lambda: ("notify", "notify"),
    "an abstract name": lambda: (f"\0rkeyserver-test-{os.getpid()}", f"@rkeyserver-test-{os.getpid()}"),
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_the_manager_is_told(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch, name: Callable[[], tuple[str, str]]
) -> None:
    bound, said = name()
    manager.bind(bound)
    monkeypatch.setenv("NOTIFY_SOCKET", said)
    notify("READY=1")
    notify("STOPPING=1")
    assert [manager.recv(100) for _ in range(2)] == [b"READY=1", b"STOPPING=1"]


@pytest.mark.parametrize("said", [None, ""])
def test_without_a_manager_nobody_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, said: str | None
) -> None:
    if said is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", said)
    notify("READY=1")
    assert caplog.records == []


DEAF: dict[str, str] = {
    "nobody there": "none",
    "no folder": "none/none",
    "a path too long": "x" * 200,
    "an abstract name that nobody has": "@rkeyserver-nobody",
    "a file": "file",
}


@pytest.mark.parametrize("said", DEAF.values(), ids=DEAF)
def test_a_manager_that_does_not_listen_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setenv("NOTIFY_SOCKET", said)
    notify("READY=1")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert said in record.getMessage()
    assert "READY=1" in record.getMessage()


def test_a_manager_that_does_not_read_holds_up_nothing(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    manager.bind("notify")
    monkeypatch.setenv("NOTIFY_SOCKET", "notify")
    for _ in range(2000):
        notify("READY=1")
        if caplog.records:
            break
    assert "was not told" in caplog.records[0].getMessage()
