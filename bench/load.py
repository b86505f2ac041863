"""Callers of the local socket that ask without a pause, each on a connection that it keeps.

A process of its own with one loop for all of them, and as little of it as there can be, so that the figures are the
server's. Run as `python -m bench.load SOCKET WHAT CALLERS SECONDS PAUSE [UID]`; prints the seconds that each call took,
as JSON. PAUSE: seconds before the next call, for one caller alone; UID: who asks, if not who runs it.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from base64 import b64encode
from typing import Final

PLAINTEXT: Final = b64encode(bytes(range(32))).decode()
PING: Final = "ping"
WARM_SECONDS: Final = 0.3


def _request(path: str, body: object) -> bytes:
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: local\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    )
    return head.encode() + b"\r\n" + content


def _whole(answer: bytes) -> bool:
    head, ended, body = answer.partition(b"\r\n\r\n")
    _, given, after = head.partition(b"\r\ncontent-length: ")
    return bool(ended) and len(body) >= (int(after.partition(b"\r\n")[0]) if given else 0)


def _read(connection: socket.socket) -> bytes:
    """A whole answer. Nobody is kept waiting for the rest of one: the server writes it at once."""
    answer = connection.recv(65536)
    while not _whole(answer):
        more = connection.recv(65536)
        if not more:
            raise SystemExit(f"The server ends the connection after {answer[:40]!r}.")
        answer += more
    if not answer.startswith((b"HTTP/1.1 2", b"HTTP/1.1 503")):  # too often, in the words of docs/spec/callers.md
        raise SystemExit(f"The server answers {answer[:40]!r}.")
    return answer


def _ask(connection: socket.socket, request: bytes) -> bytes:
    connection.sendall(request)
    return _read(connection)


def _connected(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return connection


def request_for(what: str, path: str) -> bytes:
    """One write with a whole request of that kind: ping (the empty one), derive, wrap or unwrap of 32 bytes."""
    wrap = _request("/v1/wrap", {"label": "bench/wrap", "plaintext": PLAINTEXT})
    if what == PING:
        return b"GET /v1/ping HTTP/1.1\r\nHost: local\r\n\r\n"
    if what == "wrap":
        return wrap
    if what == "derive":
        return _request("/v1/derive", {"label": "bench/derive"})
    with _connected(path) as connection:
        answer = _ask(connection, wrap)
    wrapped = json.loads(answer.partition(b"\r\n\r\n")[2])["wrapped"]
    return _request("/v1/unwrap", {"label": "bench/wrap", "wrapped": wrapped})


def load(path: str, what: str, callers: int, seconds: float, pause: float = 0) -> list[float]:
    """So many callers for so long; what each call took that was not refused, in seconds, once they are warm."""
    request = request_for(what, path)
    poll, connections, sent = select.epoll(), dict[int, socket.socket](), dict[int, float]()

    def connect() -> None:
        one = _connected(path)
        connections[one.fileno()] = one
        poll.register(one, select.EPOLLIN)
        sent[one.fileno()] = time.perf_counter()
        one.sendall(request)

    for _ in range(callers):
        connect()
    took = list[float]()
    warm = time.perf_counter() + WARM_SECONDS
    end = warm + seconds
    now = time.perf_counter()
    while now < end:
        for number, _event in poll.poll():
            one = connections[number]
            answer = _read(one)
            now = time.perf_counter()
            if now > warm and not answer.startswith(b"HTTP/1.1 503"):
                took.append(now - sent[number])
            if b"\r\nconnection: close" in answer:  # a connection has an end, and the next one begins
                poll.unregister(one)
                del connections[number]
                one.close()
                connect()
                continue
            if pause:
                time.sleep(pause)
                now = time.perf_counter()
            sent[number] = now
            one.sendall(request)
    for one in connections.values():
        one.close()
    return took


if __name__ == "__main__":
    _path, _what, _callers, _seconds, _pause, *_uid = sys.argv[1:]
    if _uid:
        os.setresuid(int(_uid[0]), int(_uid[0]), int(_uid[0]))
    json.dump(load(_path, _what, int(_callers), float(_seconds), float(_pause)), sys.stdout)
