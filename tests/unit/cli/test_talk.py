"""Talking to an instance: what it answers, what anybody else does, and what is known when nobody does."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.processes import DEADLINE, reserve

from rkeyserver.cli import talk
from rkeyserver.errors import Corrupt, Misuse, Reason, Rejected, RkeyError, Unavailable
from rkeyserver.service.local_socket import local_socket


@contextlib.contextmanager
def answering(listener: socket.socket, answer: bytes) -> Iterator[list[bytes]]:
    """Whoever listens there reads one request, says that and goes; what was read."""
    read: list[bytes] = []

    def serve() -> None:
        listener.settimeout(DEADLINE)
        with contextlib.suppress(OSError), listener.accept()[0] as client:  # who asked has left
            client.settimeout(DEADLINE)
            read.append(client.recv(65536))
            client.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield read
    thread.join(DEADLINE)


def http(body: Any, status: str = "200 OK") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(data)}\r\nconnection: close\r\n\r\n".encode() + data


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with reserve() as made:
        made.listen()
        yield made


def ops_of(listener: socket.socket) -> str:
    return f"127.0.0.1:{listener.getsockname()[1]}"


def test_an_answer(listener: socket.socket) -> None:
    with answering(listener, http({"a": 1})) as read:
        assert talk.get(ops_of(listener), "/status", "status") == {"a": 1}
    assert read[0].startswith(b"GET /status HTTP/1.1\r\nHost: 127.0.0.1")


def test_a_document_goes_to_the_local_socket(tmp_path: Path) -> None:
    path = tmp_path / ("long" * 40) / "socket"
    path.parent.mkdir()
    with local_socket(path) as listener:
        listener.setblocking(True)  # noqa: FBT003 - the socket module's signature
        with answering(listener, http({"a": 1})) as read:
            assert talk.post("127.0.0.1:1", "/v1/policy", b"{}", "answer", socket=str(path)) == {"a": 1}
    assert read[0].startswith(b"POST /v1/policy HTTP/1.1\r\nHost: localhost")


ERRORS: dict[str, tuple[dict[str, Any], type[RkeyError]]] = {
    "misuse": ({"error": "misuse", "message": "m", "advice": "a"}, Misuse),
    "corrupt": ({"error": "corrupt", "message": "m", "advice": "a"}, Corrupt),
    "unavailable": ({"error": "unavailable", "message": "m", "advice": "a"}, Unavailable),
    "rejected": ({"error": "rejected", "reason": "not-signed", "message": "m", "advice": "a"}, Rejected),
    "rejected for no reason that is known": ({"error": "rejected", "reason": "x", "message": "m"}, Unavailable),
    "what is no kind": ({"error": ["x"], "message": "m", "advice": 3}, Unavailable),
}


@pytest.mark.parametrize(("told", "kind"), ERRORS.values(), ids=ERRORS)
def test_an_instance_s_own_error_is_raised_as_it_raised_it(
    listener: socket.socket, told: dict[str, Any], kind: type[RkeyError]
) -> None:
    with answering(listener, http(told, "403 Forbidden")), pytest.raises(kind) as raised:
        talk.post(ops_of(listener), "/v1/policy", b"{}", "answer", socket=None)
    assert raised.value.message == "m"
    if isinstance(raised.value, Rejected):
        assert raised.value.reason is Reason.NOT_SIGNED


def test_what_it_says_cannot_move_a_terminal(listener: socket.socket) -> None:
    told = {"error": "misuse", "message": "\x1b[2J", "advice": "\u202e"}
    with answering(listener, http(told, "400 Bad Request")), pytest.raises(Misuse) as raised:
        talk.get(ops_of(listener), "/v1/policy", "policy")
    assert str(raised.value) == "\\x1b[2J \\u202e"


NONE: dict[str, bytes] = {
    "a page": http(b"<html>"),
    "a list": http([]),
    "lists in lists": http(b"[" * 100_000),
    "a number without end": http(b"9" * 10_000),
    "an error of somebody else": http({}, "404 Not Found"),
    "a redirect": http(b"", "302 Found"),
}


@pytest.mark.parametrize("answer", NONE.values(), ids=NONE)
def test_what_is_no_instance(listener: socket.socket, answer: bytes) -> None:
    with answering(listener, answer), pytest.raises(Unavailable, match=r"What is on .* answers .*, and no status"):
        talk.get(ops_of(listener), "/status", "status")


def test_nobody_there(tmp_path: Path) -> None:
    with reserve() as dead:
        with pytest.raises(Unavailable, match=r"No instance answers on .*: Connection refused"):
            talk.get(ops_of(dead), "/status", "status")
        with pytest.raises(Unavailable, match=r"No instance answers on .*: Connection refused"):
            talk.post(ops_of(dead), "/v1/policy", b"{}", "answer", socket=None)
    for path in (tmp_path / "none", tmp_path / ("x" * 200) / "none"):
        with pytest.raises(Unavailable, match="No such file or directory") as raised:
            talk.post("127.0.0.1:1", "/v1/policy", b"{}", "answer", socket=str(path))
        assert "only the user who runs it, and root" in raised.value.advice


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"], ids=["nothing", "half"])
def test_where_no_answer_comes_back_it_may_have_taken_effect(listener: socket.socket, answer: bytes) -> None:
    with answering(listener, answer), pytest.raises(Unavailable, match="no answer came back") as raised:
        talk.post(ops_of(listener), "/v1/policy", b"{}", "answer", socket=None)
    assert "rkeyserver policy show" in raised.value.advice


def test_so_also_where_it_takes_too_long(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talk, "CHANGE_SECONDS", 0.2)
    with pytest.raises(Unavailable, match="no answer came back: no answer in time"):
        talk.post(ops_of(listener), "/v1/policy", b"{}", "answer", socket=None)


def test_an_answer_without_end(listener: socket.socket) -> None:
    with answering(listener, http(b" " * (talk.MAX_ANSWER + 1))), pytest.raises(Unavailable, match="more than"):
        talk.get(ops_of(listener), "/status", "status")
