"""Users of the machine, and whoever reaches the listener for tokens, who want more than their share."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import http.client
import json
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from tests.fakes.processes import DEADLINE, machines_in, reserve
from tests.integration.test_tokens import OTHER, TOKEN, Listener, base, entry, provision_ca, serving, tls, written

from rkeyserver.service.limits import CONNECTION_SECONDS, PER_ADDRESS
from rkeyserver.service.token_listener import MOST_DELAYED
from rkeyserver.service.token_listener import PER_ADDRESS as PER_TOKEN_ADDRESS
from rkeyserver.service.token_tls import MAX_SILENT

ASKED: Final = b'{"label": "db/x"}'
UPDATES: Final = 4000  # of keys, 27 bytes each: more than are listened to


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listener]:
    """Answers callers by its local socket and by tokens."""
    with machines_in(tmp_path_factory.mktemp("callers")) as machines, reserve() as held:
        yield serving(machines("host"), int(held.getsockname()[1]), entry())


def local(listener: Listener) -> str:
    return str(listener.machine.keystore) + ".socket"


def post(connection: socket.socket, path: str = "/v1/derive", body: bytes = ASKED) -> tuple[int, bytes]:
    """What is answered on a connection that is there."""
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n"
    connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer.status, answer.read()


# --- The local socket


def named(path: str, name: str | bytes) -> socket.socket:
    """A connection of a client that has given its own end a name."""
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(DEADLINE)
    made.bind(name)
    made.connect(path)
    return made


@pytest.mark.parametrize("kind", ["a path", "an abstract one", "one like an address"])
def test_a_name_of_ones_own_is_no_disguise(listener: Listener, tmp_path: Path, kind: str) -> None:
    """The kernel says who has connected, whatever his socket is called: known, counted, and nothing in the log."""
    names: dict[str, str | bytes] = {
        "a path": str(tmp_path / "me"),
        "an abstract one": b"\0me",
        "one like an address": b"\x00127.0.0.1",
    }
    before = listener.server.err.text
    with named(local(listener), names[kind]) as client:
        assert post(client)[0] == 200
        assert post(client, "/v1/policy", b"")[0] == 400
        assert post(client, "/v1/derive", b"{}")[0] == 400
    assert listener.server.err.text == before


def test_names_of_ones_own_are_no_more_connections(listener: Listener) -> None:
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(named(local(listener), b"\0first"))
        for number in range(PER_ADDRESS):
            last = stack.enter_context(named(local(listener), b"\0number %d" % number))
        assert post(last)[0] == 200
        with pytest.raises((ConnectionError, http.client.BadStatusLine)):
            post(first)  # as the oldest of its user, it made room


# --- The listener for tokens


class Shaken:
    """A client's TLS over a socket, that can say what a program has no word for."""

    def __init__(self, listener: Listener) -> None:
        self.raw = socket.create_connection(("127.0.0.1", listener.port), DEADLINE)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = tls(listener).wrap_bio(self._in, self._out, server_hostname="localhost")
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.raw.sendall(self._out.read())
                self._in.write(self.raw.recv(65536))
        self.raw.sendall(self._out.read())

    def key_updates(self, number: int) -> bytes:
        """So many updates of its keys, each of which asks for one of the server's (RFC 8446, section 4.6.3)."""
        path = next(line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libssl" in line)
        library = ctypes.CDLL(path)
        # CPython's _ssl._SSLSocket: the head of every object, the socket, the SSL*.
        connection = ctypes.c_void_p.from_address(id(self._tls._sslobj) + 24)  # type: ignore[attr-defined]  # its own
        for _ in range(number):
            assert library.SSL_key_update(connection, 1) == 1
            assert library.SSL_do_handshake(connection) == 1
        return self._out.read()


def dropped(connection: socket.socket) -> bool:
    """Whether the server ends it, whatever it says before, and sooner than it ends any that is old."""
    connection.settimeout(CONNECTION_SECONDS / 2)
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        pass
    except TimeoutError:
        return False
    return True


def test_key_updates_without_end_are_not_answered(listener: Listener) -> None:
    """Without a token: each update costs the server two keys, and memory if its answer is not read."""
    client = Shaken(listener)
    with client.raw:
        updates = client.key_updates(UPDATES)
        assert len(updates) > MAX_SILENT
        with contextlib.suppress(ConnectionError):
            client.raw.sendall(updates)
        assert dropped(client.raw)


def test_small_records_are_no_offence(listener: Listener) -> None:
    with (
        socket.create_connection(("127.0.0.1", listener.port), DEADLINE) as raw,
        tls(listener).wrap_socket(raw, server_hostname="localhost") as client,
    ):
        body = json.dumps({"label": "db/x", "plaintext": "A" * 4000}).encode()
        head = f"POST /v1/wrap HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n"
        whole = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
        for at in range(0, len(whole), 8):
            client.sendall(whole[at : at + 8])
        assert client.recv(12) == b"HTTP/1.1 200"


def test_wrong_tokens_crowd_nobody_out(listener: Listener) -> None:
    """One address is all that there is here: whoever waits for a refusal must not keep the places of the others."""
    context = tls(listener)
    wrong = f"GET /v1/ping HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {OTHER}\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:

        def refused() -> None:
            raw = stack.enter_context(socket.create_connection(("127.0.0.1", listener.port), DEADLINE))
            client = stack.enter_context(context.wrap_socket(raw, server_hostname="localhost"))
            client.sendall(wrong)

        begun = time.monotonic()
        for _ in range(PER_TOKEN_ADDRESS):
            refused()
        honest = stack.enter_context(socket.create_connection(("127.0.0.1", listener.port), DEADLINE))
        for _ in range(MOST_DELAYED):
            refused()
        with context.wrap_socket(honest, server_hostname="localhost") as client:
            assert post(client)[0] == 200, time.monotonic() - begun


# --- What is written down

SECRET: Final = "qzx-" + "a-secret-of-the-caller"
ENCODED: Final = base64.b64encode(SECRET.encode()).decode()
HEADS: Final = {
    "a header of one's own": f"x-key: {SECRET}",
    "a scheme of one's own": f"authorization: Basic {SECRET}",
    "an encoding": f"transfer-encoding: {SECRET}",
    "a length": f"content-length: {SECRET}",
    "an expectation": f"expect: {SECRET}",
    "an upgrade": f"connection: upgrade\r\nupgrade: {SECRET}",
    "a host": f"host: {SECRET}",
    "no header": SECRET,
    "a long head": f"x: {'x' * 40_000}{SECRET}",
}
BODIES: Final = {
    "a plaintext that is no base64": ("/v1/wrap", json.dumps({"label": "db/x", "plaintext": SECRET})),
    "a plaintext for another label": ("/v1/wrap", json.dumps({"label": "web", "plaintext": ENCODED})),
    "a plaintext that is not whole": ("/v1/wrap", json.dumps({"label": "db/x", "plaintext": ENCODED})[:-9]),
    "a plaintext as what is wrapped": ("/v1/unwrap", json.dumps({"label": "db/x", "wrapped": ENCODED * 8})),
    "a secret as a size": ("/v1/derive", json.dumps({"label": "db/x", "size": SECRET})),
    "a secret as a generation": ("/v1/derive", json.dumps({"label": "db/x", "generation": SECRET})),
    "a secret as a field": ("/v1/derive", json.dumps({SECRET: 1})),
    "a secret as a path": (f"/v1/{SECRET}", ""),
    "a secret as a query": (f"/v1/derive?{SECRET}", "{}"),
    "a secret alone": ("/v1/wrap", SECRET),
    "what is no text": ("/v1/wrap", f'"{SECRET}\udcff'),
    "too much": ("/v1/wrap", SECRET * 20_000),
}


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listener]:
    """One that logs all that it has to say."""
    with machines_in(tmp_path_factory.mktemp("talkative")) as machines, reserve() as held:
        machine, port = machines("host"), int(held.getsockname()[1])
        rules = written(machine, "policy.toml", base() + entry())
        server = machine.start("--policy", rules, "--callers", f"127.0.0.1:{port}", "--log-level", "debug")
        server.err.wait_for("Answering callers with 1 token")
        yield Listener(machine, server, port, Path(written(machine, "ca.pem", provision_ca(machine))))


def requests() -> Iterator[bytes]:
    own = f"host: localhost\r\nauthorization: Bearer {TOKEN}\r\n"
    for line in HEADS.values():
        yield f"POST /v1/derive HTTP/1.1\r\n{own}{line}\r\ncontent-length: {len(ASKED)}\r\n\r\n".encode() + ASKED
    for path, body in BODIES.values():
        sent = body.encode(errors="surrogateescape")
        yield f"POST {path} HTTP/1.1\r\n{own}content-length: {len(sent)}\r\n\r\n".encode() + sent


def test_nothing_that_a_caller_sends_is_written_down(talkative: Listener) -> None:
    context = tls(talkative)
    for request in requests():
        with contextlib.suppress(ConnectionError, ssl.SSLError), named(local(talkative), b"\0me") as client:
            client.sendall(request)
            assert SECRET.encode() not in client.recv(65536)
        with (
            contextlib.suppress(ConnectionError, ssl.SSLError),
            socket.create_connection(("127.0.0.1", talkative.port), DEADLINE) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as client,
        ):
            client.sendall(request)
            assert SECRET.encode() not in client.recv(65536)
    assert talkative.machine.status()["role"] == "primary"
    said = talkative.server.err.text + Path(f"{talkative.machine.keystore}.audit.jsonl").read_text()
    assert "unknown-token" in said, "it logs what it refuses"
    for one in (SECRET, ENCODED, TOKEN, "Traceback"):
        assert one not in said
