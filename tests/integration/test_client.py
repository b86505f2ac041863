"""The client, sync and async, over real servers in every state that they can be in."""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from tests.fakes.listeners import full
from tests.fakes.processes import DEADLINE, Machine, Machines, Running, environment, machines_in, opened, reserve
from tests.integration.test_tokens import OTHER, TOKEN, base, entry, provision_ca, written

from rkeyserver.client import AsyncClient, Client, connections
from rkeyserver.client.attempts import SILENT_SECONDS
from rkeyserver.client.servers import parse_server
from rkeyserver.errors import Misuse, Reason, Rejected, RkeyError, Unavailable
from rkeyserver.keyring.derived import derive

SHORT: Final = 0.5


def derived(machine: Machine, label: str, size: int = 32) -> bytes:
    with (
        contextlib.closing(opened(machine)) as keyring,
        derive(keyring, label.encode(), size=size, generation="current").secret as secret,
    ):
        return secret.view.tobytes()


@dataclass(frozen=True)
class Domain:
    """A primary with its standby, and a machine that has no keyring and asks for one in vain."""

    primary: Machine
    standby: Machine
    waiting: Machine
    port: int
    ca: Path
    key: bytes

    @property
    def local(self) -> str:
        return local(self.primary)

    @property
    def tls(self) -> str:
        return f"https://localhost:{self.port}"

    def client(self, *servers: str, token: str = TOKEN, silent: float = SHORT) -> Client:
        over_tls = any(one.startswith("https") for one in servers)
        said = {"ca": self.ca, "token": token} if over_tls else {}
        return Client(servers, silent_seconds=silent, **said)  # type: ignore[arg-type]  # mypy takes both for one type

    def asynchronous(self, *servers: str, token: str = TOKEN, silent: float = SHORT) -> AsyncClient:
        over_tls = any(one.startswith("https") for one in servers)
        said = {"ca": self.ca, "token": token} if over_tls else {}
        return AsyncClient(servers, silent_seconds=silent, **said)  # type: ignore[arg-type]  # as above


def local(machine: Machine) -> str:
    return f"unix:{machine.keystore}.socket"


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Domain]:
    with machines_in(tmp_path_factory.mktemp("c")) as machines, reserve() as held, reserve() as nobody:
        primary, standby, waiting = (machines(name) for name in ("p", "s", "w"))
        port = int(held.getsockname()[1])
        rules = written(primary, "policy.toml", base() + entry())
        server = primary.start("--policy", rules, "--callers", f"127.0.0.1:{port}")
        server.err.wait_for("Answering callers with 1 token")
        standby.start("-i", primary.address, "--callers", "127.0.0.1:0")
        asking = waiting.begin("-i", f"127.0.0.1:{nobody.getsockname()[1]}", "--wait", "600")
        end = time.monotonic() + DEADLINE
        while not Path(f"{waiting.keystore}.socket").exists():
            assert time.monotonic() < end, asking.err.text
            time.sleep(0.05)
        ca = Path(written(primary, "ca.pem", provision_ca(primary)))
        yield Domain(primary, standby, waiting, port, ca, derived(primary, "db/x"))


Ask = Callable[[Domain, list[str], float], bytes]


def ask_sync(domain: Domain, servers: list[str], silent: float = SHORT) -> bytes:
    with domain.client(*servers, silent=silent) as client, client.derive("db/x") as key:
        return key.unprotected_bytes()


def ask_async(domain: Domain, servers: list[str], silent: float = SHORT) -> bytes:
    async def ask() -> bytes:
        async with domain.asynchronous(*servers, silent=silent) as client:
            with await client.derive("db/x") as key:
                return key.unprotected_bytes()

    return asyncio.run(ask())


KINDS: Final[dict[str, Ask]] = {"sync": ask_sync, "async": ask_async}


@pytest.fixture(params=KINDS)
def ask(request: pytest.FixtureRequest) -> Ask:
    return KINDS[request.param]


# --- Servers that are none, or none that helps


class Stub:
    """A Unix socket whose connections get this answer, a piece each `pause` seconds; None for nothing at all."""

    def __init__(self, path: Path, answer: list[bytes] | None, pause: float = 0) -> None:
        self.name = f"unix:{path}"
        self.connections = 0
        self._answer, self._pause = answer, pause
        self._kept: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # it was closed
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                self._kept.append(connection)
                if self._answer is not None:
                    with contextlib.suppress(OSError):  # the client has left
                        # All of the request: what is closed before it is sent is another case.
                        while (part := connection.recv(65536)) and not part.endswith(b"}"):
                            pass
                        for part in self._answer:
                            connection.sendall(part)
                            time.sleep(self._pause)
                        connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(DEADLINE)
        for one in [self._listener, *self._kept]:
            one.close()


def http(status: str, body: bytes, *headers: bytes) -> list[bytes]:
    head = [f"HTTP/1.1 {status}".encode(), *headers, b"content-length: %d" % len(body)]
    return [b"\r\n".join(head) + b"\r\n\r\n" + body]


STUBS: Final[dict[str, tuple[list[bytes] | None, float, str]]] = {
    "a silent socket": (None, 0, "no answer in time"),
    "one that closes at once": ([], 0, ""),
    "garbage": ([b"\x00\xff" * 500], 0, ""),
    "another protocol": ([b"SSH-2.0-OpenSSH_9.2\r\n"], 0, ""),
    "half an answer": ([http("200 OK", b"x" * 100)[0][:-50]], 0, ""),
    "half a head": ([b"HTTP/1.1 200 OK\r\ncontent-le"], 0, ""),
    "a page": (http("200 OK", b"<html>hello</html>"), 0, "answers 200, and nothing that an rkeyserver answers"),
    "not found": (http("404 Not Found", b"{}"), 0, "answers 404"),
    "a redirect": (http("307 Temporary Redirect", b"", b"location: http://127.0.0.1:1/"), 0, "answers 307"),
    "an answer without an end": ([b"HTTP/1.1 200 OK\r\n\r\n", *[b"x" * 65536] * 8], 0, "answers with more than"),
    "an answer that drips": ([http("200 OK", b"")[0][:-1], *[b" "] * 40], 0.2, ""),
    "a secret of another size": (
        http("200 OK", b'{"key": "QUJD", "generation": "%s"}' % (b"0a" * 16)), 0, "nothing that an rkeyserver",
    ),
    "an answer in gzip": (http("200 OK", b"\x1f\x8b\x08", b"content-encoding: gzip"), 0, "nothing that an rkeyserver"),
    "503": (
        http("503 Service Unavailable", b'{"error": "unavailable", "message": "Not now."}', b"retry-after: 1"),
        0, "Not now.",
    ),
}  # fmt: skip


@pytest.fixture
def stub(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stub]:
    answer, pause, _ = STUBS[request.param]
    made = Stub(tmp_path / "stub", answer, pause)
    yield made
    made.close()


@pytest.mark.parametrize("stub", STUBS, indirect=True)
def test_a_server_that_does_not_help_is_passed_by(domain: Domain, ask: Ask, stub: Stub) -> None:
    begun = time.monotonic()
    assert ask(domain, [stub.name, domain.local], SHORT) == domain.key
    assert time.monotonic() - begun < 3 * SHORT + 1
    assert stub.connections == 1


@pytest.mark.parametrize("case", ["garbage", "a page", "503", "half an answer", "one that closes at once"])
def test_alone_it_is_asked_twice_and_told_of(domain: Domain, ask: Ask, tmp_path: Path, case: str) -> None:
    answer, pause, says = STUBS[case]
    stub = Stub(tmp_path / "stub", answer, pause)
    try:
        with pytest.raises(Unavailable) as raised:
            ask(domain, [stub.name], SHORT)
        assert says in str(raised.value)
        assert stub.connections == 2
    finally:
        stub.close()


def others(domain: Domain, folder: Path) -> dict[str, str]:
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(folder / "gone"))
    with reserve() as held:
        closed = held.getsockname()[1]
    return {
        "nobody listens": f"unix:{folder / 'gone'}",
        "there is no socket": f"unix:{folder / 'missing'}",
        "a port that refuses": f"https://127.0.0.1:{closed}",
        "no such host": "https://nobody.invalid",
        "no keyring yet": local(domain.waiting),
        "no TLS": f"https://127.0.0.1:{domain.primary.ops_port}",
        "another name": f"https://127.0.0.2:{domain.port}",
    }


@pytest.mark.parametrize(
    "case",
    ["nobody listens", "there is no socket", "a port that refuses", "no such host", "no keyring yet", "no TLS",
     "another name"],
)  # fmt: skip
def test_the_next_is_asked_at_once(domain: Domain, ask: Ask, tmp_path: Path, case: str) -> None:
    begun = time.monotonic()
    assert ask(domain, [others(domain, tmp_path)[case], domain.tls], 10 * SHORT) == domain.key
    assert time.monotonic() - begun < 9 * SHORT


def test_any_server_of_the_domain_gives_the_same(domain: Domain, ask: Ask) -> None:
    assert ask(domain, [domain.tls], SILENT_SECONDS) == domain.key
    assert ask(domain, [domain.local], SILENT_SECONDS) == domain.key
    assert ask(domain, [local(domain.standby)], SILENT_SECONDS) == domain.key


WRAPPED: Final = b"\x01" + b"\x0a" * 16
GOOD: Final = b'{"wrapped": "%s", "generation": "%s"}' % (base64.b64encode(WRAPPED), b"0a" * 16)


class Good(Stub):
    """Answers the first request of each connection well, and does with it then what `then` does."""

    def __init__(self, path: Path, then: Callable[[socket.socket], None]) -> None:
        self._then = then
        super().__init__(path, [])

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # it was closed
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                self._kept.append(connection)
                connection.recv(65536)
                connection.sendall(http("200 OK", GOOD)[0])
                self._then(connection)


def close_at_the_second(connection: socket.socket) -> None:
    """And without a word."""
    connection.recv(65536)
    connection.shutdown(socket.SHUT_RDWR)


def answer_unasked(connection: socket.socket) -> None:
    """A moment later, with another secret."""
    time.sleep(0.05)
    other = GOOD.replace(base64.b64encode(WRAPPED), base64.b64encode(WRAPPED + b"another's"))
    connection.sendall(http("200 OK", other)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_connection_that_the_server_closed_meanwhile_costs_nothing(tmp_path: Path, kind: str) -> None:
    stub = Good(tmp_path / "once", close_at_the_second)
    try:
        if kind == "sync":
            with Client([stub.name], silent_seconds=DEADLINE) as client:
                for _ in range(3):
                    assert client.rewrap("x", b"w").wrapped == WRAPPED
                assert client._health._until == {}
        else:

            async def run() -> None:
                async with AsyncClient([stub.name], silent_seconds=DEADLINE) as client:
                    for _ in range(3):
                        assert (await client.rewrap("x", b"w")).wrapped == WRAPPED
                    assert client._health._until == {}

            asyncio.run(run())
        assert stub.connections == 3
    finally:
        stub.close()


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_was_not_asked_for_is_nobodys(tmp_path: Path, kind: str) -> None:
    stub = Good(tmp_path / "ahead", answer_unasked)
    try:
        if kind == "sync":
            with Client([stub.name], silent_seconds=DEADLINE) as client:
                for _ in range(2):
                    assert client.rewrap("x", b"w").wrapped == WRAPPED
                    time.sleep(0.2)
        else:

            async def run() -> None:
                async with AsyncClient([stub.name], silent_seconds=DEADLINE) as client:
                    for _ in range(2):
                        assert (await client.rewrap("x", b"w")).wrapped == WRAPPED
                        await asyncio.sleep(0.2)

            asyncio.run(run())
        assert stub.connections == 2
    finally:
        stub.close()


def test_a_client_without_time_asks_nobody(domain: Domain) -> None:
    with pytest.raises(Unavailable, match="no answer in time"), domain.client(domain.local, silent=0) as client:
        client.derive("db/x")


# what the policy and the server refuse: by the token, with what; the kind, the reason
def refused(domain: Domain, call: str) -> Any:  # noqa: PLR0911 - a table
    with domain.client(domain.tls) as client:
        match call:
            case "another label":
                return client.derive("web")
            case "another action":
                return client.rewrap("db/x", b"")
            case "another generation":
                return client.derive("db/x", generation="0a" * 16)
            case "a size that is none":
                return client.derive("db/x", size=65)
            case "a label that is none":
                return client.derive(" ")
            case "not wrapped":
                return client.unwrap("db/x", b"\x01" * 80)
            case "wrapped for another label":
                wrapped = client.wrap("db/y", b"secret", b"a").wrapped
                return client.unwrap("db/x", wrapped, b"a")
    with domain.client(domain.tls, token=OTHER) as client:
        return client.derive("db/x")


REFUSED: Final[dict[str, tuple[type[RkeyError], Reason | None]]] = {
    "another label": (Rejected, Reason.NOT_PERMITTED),
    "another action": (Rejected, Reason.NOT_PERMITTED),
    "another generation": (Rejected, Reason.NO_SUCH_GENERATION),
    "a size that is none": (Misuse, None),
    "a label that is none": (Misuse, None),
    "not wrapped": (Rejected, Reason.NO_SUCH_GENERATION),
    "wrapped for another label": (Rejected, Reason.DOES_NOT_OPEN),
    "another token": (Rejected, Reason.UNKNOWN_TOKEN),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_told_as_the_server_says_it(domain: Domain, case: str) -> None:
    kind, reason = REFUSED[case]
    with pytest.raises(kind) as raised:
        refused(domain, case)
    assert getattr(raised.value, "reason", None) == reason
    assert TOKEN not in str(raised.value)


def test_wrap_unwrap_and_rewrap_on_every_surface(domain: Domain) -> None:
    servers = [domain.local, local(domain.standby)]
    with domain.client(domain.tls) as one, domain.client(*servers[:1]) as two, domain.client(*servers[1:]) as three:
        for size in (0, 1, 32, 64 * 1024):
            secret = os.urandom(size)
            wrapped = one.wrap("db/x", secret, b"a")
            for other in (one, two, three):
                with other.unwrap("db/x", wrapped.wrapped, b"a") as found:
                    assert found.view == secret
                    assert found.generation == wrapped.generation
            assert two.rewrap("db/x", wrapped.wrapped, b"a") == wrapped
        with two.derive("db/x", size=64, generation="first") as key:
            assert key.unprotected_bytes() == derived(domain.primary, "db/x", 64)
        assert repr(one) == f"<Client of {domain.tls}>"


def test_the_async_client_does_the_same(domain: Domain) -> None:
    async def run() -> None:
        async with domain.asynchronous(domain.tls, domain.local, silent=SILENT_SECONDS) as client:
            wrapped = await client.wrap("db/x", b"secret", b"a")
            with await client.unwrap("db/x", wrapped.wrapped, b"a") as found:
                assert found.unprotected_bytes() == b"secret"
            async with domain.asynchronous(domain.local) as local_client:
                assert await local_client.rewrap("db/x", wrapped.wrapped, b"a") == wrapped
            assert repr(client) == f"<AsyncClient of {domain.tls}, {domain.local}>"

            async def one(number: int) -> bytes:
                with await client.derive(f"db/{number}") as key:
                    return key.unprotected_bytes()

            found_keys = await asyncio.gather(*(one(number) for number in range(50)))
            assert len(set(found_keys)) == 50
            # Cancelled in the middle: the next call is none the worse.
            task = asyncio.create_task(client.derive("db/x"))
            await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                (await task).close()
            assert await one(0) == found_keys[0]

    asyncio.run(run())


def test_an_async_client_outlives_its_event_loop(domain: Domain) -> None:
    client = domain.asynchronous(domain.local)

    async def run() -> bytes:
        with await client.derive("db/x") as key:
            found = key.unprotected_bytes()
        await client.aclose()
        return found

    assert asyncio.run(run()) == asyncio.run(run()) == domain.key


def test_threads_share_a_client(domain: Domain) -> None:
    labels = [f"db/{number}" for number in range(16)]
    wanted = {label: derived(domain.primary, label) for label in labels}
    with domain.client(domain.local, silent=DEADLINE) as client:

        def one(number: int) -> bool:
            label = labels[number % len(labels)]
            with client.derive(label) as key:
                return key.view == wanted[label]

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert all(pool.map(one, range(200)))


def forked(domain: Domain, way: str, program: str) -> tuple[list[str], str, str]:
    """What a program says that forks with a client; and which keys are right, of the child's label and the parent's."""
    words = [domain.local] if way == "socket" else [domain.tls, str(domain.ca), TOKEN]
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=DEADLINE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    child, parent = (base64.b64encode(derived(domain.primary, label)).decode() for label in ("db/c", "db/p"))
    return done.stdout.split(), child, parent


FORKED: Final = """
import base64, os, sys, threading
from rkeyserver.client import Client

client = Client(sys.argv[1:2], silent_seconds=30, **({"ca": sys.argv[2], "token": sys.argv[3]} if sys.argv[2:] else {}))

def ask(label):
    with client.derive(label) as key:
        return base64.b64encode(key.view).decode()

before = ask("db/p")
children = []
for number in range(3):
    child = os.fork()
    if not child:
        good = {ask("db/c") for _ in range(20)}
        os.write(1, (" ".join(good) + "\\n").encode())
        os._exit(0)
    children.append(child)
good = {ask("db/p") for _ in range(20)}
assert good == {before}, good
for child in children:
    assert os.waitpid(child, 0)[1] == 0
client.close()
print(before)
"""


@pytest.mark.parametrize("way", ["socket", "TLS"])
def test_a_fork_goes_on_with_connections_of_its_own(domain: Domain, way: str) -> None:
    said, child, parent = forked(domain, way, FORKED)
    assert sorted(said) == sorted([child] * 3 + [parent])


FORKED_IN_A_LOOP: Final = """
import asyncio, base64, gc, os, sys, time
from rkeyserver.client import AsyncClient

known = {"ca": sys.argv[2], "token": sys.argv[3]} if sys.argv[2:] else {}
client = AsyncClient(sys.argv[1:2], silent_seconds=30, **known)

async def ask(label):
    with await client.derive(label) as key:
        return base64.b64encode(key.view).decode()

async def run():
    before = await ask("db/p")
    kept = client._streams._kept
    waits = asyncio.create_task(ask("db/p"))  # it takes the stream that is kept, and is in the middle of its request
    await asyncio.sleep(0)
    child = os.fork()
    if not child:
        asyncio._set_running_loop(None)
        os.write(1, (asyncio.run(ask("db/c")) + "\\n").encode())
        waits.cancel()
        del waits
        gc.collect()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    begun = time.monotonic()
    assert {await waits, *[await ask("db/p") for _ in range(20)]} == {before}
    assert time.monotonic() - begun < 10, "it waited for what the child had taken from it"
    assert client._streams._kept is kept and client._health._until == {}
    await client.aclose()
    print(before)

asyncio.run(run())
"""


@pytest.mark.parametrize("way", ["socket", "TLS"])
def test_a_fork_in_an_event_loop_takes_nothing_from_the_parent(domain: Domain, way: str) -> None:
    said, child, parent = forked(domain, way, FORKED_IN_A_LOOP)
    assert said == [child, parent]


def test_a_name_with_many_addresses_has_one_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each address is that of a listener whose queue is full, which answers nothing."""
    with full() as silent:
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", silent)] * 12
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: list(found))
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            connections._reached(parse_server("https://many.example"), begun + 0.4)
        assert time.monotonic() - begun < 1


def test_an_address_that_refuses_is_passed_by(domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    with reserve() as held:
        refuses = held.getsockname()
    well = ("127.0.0.1", domain.port)
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", one) for one in (refuses, well)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: list(found))
    with domain.client(domain.tls) as client, client.derive("db/x") as key:
        assert key.view == domain.key


def test_servers_that_are_killed_while_a_client_has_connections_to_them(machines: Machines) -> None:
    names = ("a", "b", "c")
    first, second, third = (machines(name) for name in names)
    running: list[Running] = [first.start("--policy", written(first, "policy.toml", base()))]
    running += [one.start("-i", first.address) for one in (second, third)]
    wanted = derived(first, "db/x")
    with Client([local(one) for one in (first, second, third)], silent_seconds=SHORT) as client:

        def ask() -> bytes:
            with client.derive("db/x") as key:
                return key.unprotected_bytes()

        assert ask() == wanted
        running[0].kill()
        assert ask() == wanted
        running[1].kill()
        assert ask() == wanted  # one of three is alive
        running[2].kill()
        with pytest.raises(Unavailable, match=r"No server helped, 2 times each: unix:\S+: Connection refused; unix:"):
            ask()
        first.start()
        assert ask() == wanted
