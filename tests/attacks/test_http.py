"""Requests that are cheap to send: ahead of their turn, with odd heads, with answers that nobody waits for."""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import select
import signal
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.attacks.parties import edited, verifiers_of
from tests.fakes.flavours import policy_of, processes_in
from tests.fakes.keyrings import MEMBER
from tests.fakes.processes import DEADLINE, Machine, Machines, Running

from rkeyserver.clock import Clock
from rkeyserver.exchange.messages import MAX_MESSAGE, AttestedMessage, Request, decode
from rkeyserver.exchange.standby import Asking, Greeting
from rkeyserver.service.compose import MAX_WORKERS
from rkeyserver.service.limits import MAX_BYTES, MAX_CONNECTION_BYTES
from rkeyserver.service.routes import HAND_OVER_PATH, HELLO_PATH, HINT_PATH, RELEASE_HELLO_PATH, RELEASE_PATH

ATTACKER, ANOTHER, HONEST = "127.0.0.66", "127.0.0.67", "127.0.0.9"
MOST_WORKERS = min(MAX_WORKERS, os.cpu_count() or 1)
MOST_GROWTH = 32 * 1024 * 1024
GET = f"GET {HINT_PATH} HTTP/1.1\r\n\r\n".encode()


def most_memory(pid: int) -> int:
    """The most bytes of memory that the process ever had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


def ask(machine: Machine, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """What somebody at another address is answered, over a connection of its own."""
    client = http.client.HTTPConnection("127.0.0.1", machine.port, timeout=DEADLINE, source_address=(HONEST, 0))
    with contextlib.closing(client):
        client.request(method, path, body)
        answer = client.getresponse()
        return answer.status, answer.read()


def connected(machine: Machine, source: str = ATTACKER) -> socket.socket:
    """A connection that holds little of what it is answered."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    client.settimeout(DEADLINE)
    client.bind((source, 0))
    client.connect(("127.0.0.1", machine.port))
    return client


def pump(clients: list[socket.socket], data: bytes) -> None:
    """Have each send `data`, as far as the server takes it, and read nothing."""
    left = dict.fromkeys(clients, 0)
    end = time.monotonic() + DEADLINE / 3
    for client in clients:
        client.settimeout(0)
    while left and time.monotonic() < end:
        for client in select.select([], left, [], 1.0)[1]:
            try:
                left[client] += client.send(data[left[client] :])
            except BlockingIOError:
                continue
            except ConnectionError:
                left[client] = len(data)
            if left[client] >= len(data):
                del left[client]


FLOODS = {
    "16 connections, 250 kB each": (16, 250_000),
    "20 connections, all that one may send": (20, MAX_CONNECTION_BYTES),
}


@pytest.mark.parametrize(("number", "size"), FLOODS.values(), ids=FLOODS)
def test_requests_sent_ahead_with_answers_unread_take_no_memory(processes: Machines, number: int, size: int) -> None:
    host = processes("host")
    pid = host.start().pid
    assert ask(host, "GET", HINT_PATH)[0] == 200
    before = most_memory(pid)
    with contextlib.ExitStack() as stack:
        pump([stack.enter_context(connected(host)) for _ in range(number)], GET * (size // len(GET)))
        for _ in range(3):
            assert ask(host, "GET", HINT_PATH)[0] == 200
        assert ask(host, "POST", HELLO_PATH, greeting(host).message)[0] == 200
        assert most_memory(pid) - before < MOST_GROWTH


def greeting(machine: Machine) -> Greeting:
    """Of a machine of the attacker's own."""
    platform = machine.another("attacker")
    return Greeting.begin(
        Asking(
            attester=platform,
            verifiers=verifiers_of(platform),
            policy=policy_of(platform),
            clock=Clock(),
            random=secrets.token_bytes,
            instance=secrets.token_bytes(16),
            held=None,
            admins=None,
            member=MEMBER,
            address="",
            holds=None,
            audit_head=lambda: bytes(32),
        )
    )


def unproved(host: Machine) -> bytes:
    """A request that has to be verified to be refused: its quote's signature is wrong."""
    hello = greeting(host)
    status, challenge = ask(host, "POST", HELLO_PATH, hello.message)
    assert status == 200
    request = hello.challenged(challenge).message
    attested = decode(request, Request).attested
    evidence = bytearray(attested.evidence)
    evidence[440] ^= 1
    return edited(request, Request, attested=AttestedMessage(attested.claims, bytes(evidence), attested.endorsements))


def post(path: str, body: bytes) -> bytes:
    return f"POST {path} HTTP/1.1\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def said(process: int) -> bytes:
    """What a process was started as; nothing if it is gone."""
    with contextlib.suppress(OSError):  # it is gone
        return Path(f"/proc/{process}/cmdline").read_bytes()
    return b""


@contextlib.contextmanager
def verifying_nothing(host: Machine, running: Running, request: bytes) -> Iterator[int]:
    """Hold all verification processes: what needs one is being answered for as long as this lasts.

    request: one that needs one. As many as the context is given are waiting already.
    """
    held: list[int] = []
    end = time.monotonic() + DEADLINE
    with contextlib.ExitStack() as stack:
        waiting: list[socket.socket] = []
        try:
            while len(held) < MOST_WORKERS:
                for worker in set(running.children()) - set(held):
                    if said(worker) == said(running.pid):
                        continue  # it is not yet another program, and its parent waits for that
                    os.kill(worker, signal.SIGSTOP)
                    held.append(worker)
                if len(waiting) <= len(held) < MOST_WORKERS:
                    # Each that is held gets one to be busy with; one more has another process started.
                    waiting.append(stack.enter_context(connected(host, ANOTHER)))
                    waiting[-1].sendall(request)
                assert time.monotonic() < end, held
            yield len(waiting)
        finally:
            for worker in held:
                with contextlib.suppress(ProcessLookupError):  # given up for what failed above, which is to be seen
                    os.kill(worker, signal.SIGCONT)
        for client in waiting:
            assert client.recv(64).startswith(b"HTTP/1.1 403 "), "it was refused"


def refused(machine: Machine, times: int) -> None:
    """Wait until so many were refused, for whatever reason; nobody tells when."""
    end = time.monotonic() + DEADLINE
    while sum((found := machine.status()["refused"]).values()) < times:
        assert time.monotonic() < end, found


def until_read(machine: Machine) -> None:
    """Wait until the server has read everything that it was sent; nobody tells when."""
    end, own = time.monotonic() + DEADLINE, machine.in_proc_net_tcp
    while True:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        # A row's queues are what is sent and not yet acknowledged, and what has arrived and is not yet read.
        unread = [row for row in rows if row[2] == own and not row[4].startswith("00000000:")]
        unread += [row for row in rows if row[1] == own and not row[4].endswith(":00000000")]
        if not unread:
            return
        assert time.monotonic() < end, "\n".join(map(" ".join, unread))
        time.sleep(0.001)  # the server needs the CPU more


@pytest.mark.simulated_only("it holds the processes that verify: sgx has none, and verifies in the event loop")
@pytest.mark.parametrize("ahead", [b"", GET, GET * 100], ids=["alone", "one ahead", "many ahead"])
def test_whoever_resets_its_connection_writes_nothing_to_the_log(processes: Machines, ahead: bytes) -> None:
    host, number = processes("host"), 8
    running = host.start()
    request = post(HAND_OVER_PATH, unproved(host))
    before = running.err.text
    with verifying_nothing(host, running, request) as waiting:
        clients = [connected(host) for _ in range(number)]
        for client in clients:
            client.sendall(request + ahead)
        until_read(host)
        for client in clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        assert ask(host, "GET", HINT_PATH)[0] == 200
    refused(host, waiting + number)
    assert running.err.text == before


@pytest.mark.simulated_only("it holds the processes that verify: sgx has none, and verifies in the event loop")
def test_requests_that_are_being_answered_crowd_nobody_out(processes: Machines) -> None:
    """One address fills the memory that all may take with requests whose answers it lets wait."""
    host, number, others = processes("host"), 1 + MAX_BYTES // MAX_CONNECTION_BYTES, 5
    running = host.start()
    request = post(HAND_OVER_PATH, unproved(host))
    # What fills is a body that nobody asked for: it is counted, answered and done with.
    filling = (MAX_BYTES - MOST_WORKERS * len(request)) // number - len(request) - 100
    head = f"GET {HINT_PATH} HTTP/1.1\r\ncontent-length: {filling - 100}\r\n".encode()
    head += b"a: ".ljust(100 - len(head) - 4, b"x") + b"\r\n\r\n"
    hello = greeting(host)
    with verifying_nothing(host, running, request) as waiting, contextlib.ExitStack() as stack:
        for _ in range(number):
            client = stack.enter_context(connected(host))
            client.sendall(head.ljust(filling, b"x"))
            assert client.recv(2048).startswith(b"HTTP/1.1 200 OK\r\n")
            client.sendall(request)
        until_read(host)
        # What was read takes its turn; who is answered now came behind all of it.
        assert ask(host, "GET", HINT_PATH)[0] == 200
        for _ in range(others):
            assert ask(host, "POST", HELLO_PATH, hello.message)[0] == 200
            # Even what is read in many parts, and waits for its client in between.
            assert ask(host, "POST", HAND_OVER_PATH, bytes(MAX_MESSAGE[Request])) == (403, b'{"error":"rejected"}')
    refused(host, waiting + number + others)


ODD: dict[str, tuple[bytes, int]] = {
    "5,001 digits, nearly all zeros": (b"0" * 5000 + b"5", 413),
    "5,001 digits": (b"5" * 5001, 400),
    "19 digits": (b"9" * 19, 413),
    "5,001 digits and a sign": (b"+" + b"0" * 5000 + b"5", 400),
}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, platform: str) -> Iterator[Machine]:
    with processes_in(platform, tmp_path_factory.mktemp("odd")) as made:
        machine = made("host")
        machine.start()
        yield machine


@pytest.mark.parametrize("path", [HELLO_PATH, HAND_OVER_PATH, RELEASE_HELLO_PATH, RELEASE_PATH])
@pytest.mark.parametrize(("length", "status"), ODD.values(), ids=ODD)
def test_a_length_that_is_none(host: Machine, path: str, length: bytes, status: int) -> None:
    (running,) = host.started
    before = running.err.text
    with connected(host) as client:
        client.sendall(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: ".encode() + length + b"\r\n\r\n12345")
        answer = http.client.HTTPResponse(client)
        answer.begin()
        answer.read()
    assert answer.status == status
    assert running.err.text == before
    assert ask(host, "GET", HINT_PATH)[0] == 200
