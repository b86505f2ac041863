"""What is asked of etcd's servers, and what is made of their errors; over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from tests.fakes.coordinated import etcd_of
from tests.fakes.processes import reserve
from tests.property.coordinator_targets import CREATED, EMPTY, ERROR, GRANTED, WATCHED

from rkeyserver.address import Address
from rkeyserver.coordinator.endpoints import Endpoints
from rkeyserver.coordinator.etcd import Etcd
from rkeyserver.coordinator.etcd_messages import MAX_ANSWER
from rkeyserver.coordinator.interface import Lease, Seen
from rkeyserver.errors import Unavailable
from rkeyserver.why import why

LEASE = Lease(7, 1)


class Scripted:
    """A server that gives each path its answer."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.asked: list[tuple[str, Any]] = []
        self.headers: list[tuple[str, str]] = []
        self.cookies: list[str | None] = []
        script = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                script.asked.append((self.path, json.loads(body)))
                script.cookies.append(self.headers["cookie"])
                status, answer = script.answers[self.path]
                self.send_response(status)
                for name, value in script.headers:
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(OSError):  # who asked has left: he reads no more than he wants
                    self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.server.server_port)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def server() -> Iterator[Scripted]:
    found = Scripted()
    yield found
    found.close()


def run(check: Callable[[Etcd], Awaitable[None]], *addresses: Address) -> None:
    async def all_of_it() -> None:
        engine = etcd_of(Endpoints(tls=False, addresses=addresses))
        try:
            await check(engine)
        finally:
            await engine.close()

    asyncio.run(all_of_it())


def test_a_lease_that_is_not_there_any_more(server: Scripted) -> None:
    server.answers = {"/v3/lease/keepalive": (404, ERROR), "/v3/lease/revoke": (404, ERROR)}

    async def check(engine: Etcd) -> None:
        assert await engine.keep(LEASE) is False
        await engine.revoke(LEASE)
        assert engine.status()["errors"] == {}

    run(check, server.address)
    assert [body for _, body in server.asked] == [{"ID": "7"}, {"ID": "7"}]


ERRORS: dict[str, tuple[int, bytes, str]] = {
    "no majority": (503, b'{"error":"etcdserver: no leader","code":14}', "it answers 503 etcdserver: no leader"),
    "not allowed": (403, b'{"error":"etcdserver: permission denied","code":7}', "permission denied"),
    "no gateway": (404, b"404 page not found", "it answers 404"),
    "no such lease, of a transaction": (400, ERROR, "lease not found"),
    "a redirect": (307, b"", "it answers 307"),
    "a terminal's commands": (500, b'{"error":"\\u001b[2J"}', r"it answers 500 \\x1b"),
    "too much": (500, b" " * (MAX_ANSWER + 1), "over 65536 bytes"),
}


@pytest.mark.parametrize(("status", "answer", "says"), ERRORS.values(), ids=ERRORS)
def test_an_error_is_told_and_the_next_one_asked(server: Scripted, status: int, answer: bytes, says: str) -> None:
    server.answers = {"/v3/kv/txn": (status, answer)}

    async def check(engine: Etcd) -> None:
        with pytest.raises(Unavailable, match=says):
            await engine.look()

    run(check, server.address)
    good = Scripted()
    good.answers = {"/v3/kv/txn": (200, EMPTY)}

    async def check_next(engine: Etcd) -> None:
        assert await engine.look() == Seen(7, None, None)
        assert engine.status()["asked"] == str(good.address)
        assert list(engine.status()["errors"]) == [str(server.address)]
        await engine.look()
        assert len(good.asked) == 2

    with contextlib.closing(good):
        run(check_next, server.address, good.address)
    assert len(server.asked) == 3


def test_nobody_listens() -> None:
    async def check(engine: Etcd) -> None:
        for ask in (engine.look(), engine.grant(), engine.changed(1)):
            with pytest.raises(Unavailable, match="Connection refused"):
                await ask

    with reserve() as held:
        run(check, Address("127.0.0.1", held.getsockname()[1]))


WATCHES: dict[str, tuple[int, bytes, str]] = {
    "a change": (200, CREATED + b"\n\n" + WATCHED + b"\n", ""),
    "an end": (200, CREATED + b"\n", "it ends what it was to tell"),
    "an error": (503, b"", "it answers 503"),
    "a line without end": (200, b" " * (MAX_ANSWER + 70_000), "over 65536 bytes"),
    "what is no line of a watch": (200, b"[]\n", "something else"),
}


@pytest.mark.parametrize(("status", "answer", "says"), WATCHES.values(), ids=WATCHES)
def test_a_watch(server: Scripted, status: int, answer: bytes, says: str) -> None:
    server.answers = {"/v3/watch": (status, answer)}

    async def check(engine: Etcd) -> None:
        if not says:
            await engine.changed(6)
            return
        with pytest.raises(Unavailable, match=says):
            await engine.changed(6)

    run(check, server.address)
    assert server.asked[0][1]["create_request"]["start_revision"] == "7"


def test_a_watch_in_which_nothing_happens_ends_after_a_lease() -> None:
    async def check(engine: Etcd) -> None:
        began = asyncio.get_running_loop().time()
        await engine.changed(6)
        assert 0.9 < asyncio.get_running_loop().time() - began < 3

    with reserve() as held:
        held.listen()
        run(check, Address("127.0.0.1", held.getsockname()[1]))


def test_a_lease_may_be_longer_than_was_asked_for(server: Scripted) -> None:
    server.answers = {"/v3/lease/grant": (200, GRANTED.replace(b'"TTL":"1"', b'"TTL":"2"'))}

    async def check(engine: Etcd) -> None:
        assert (await engine.grant()).seconds == 2

    run(check, server.address)
    assert server.asked == [("/v3/lease/grant", {"TTL": "1"})]


def test_why_of_what_says_little() -> None:
    assert why(ValueError("about it")) == "about it"
    assert why(ValueError()) == "ValueError"


def test_what_an_engine_sets_is_not_kept(server: Scripted) -> None:
    """Cookies would stay in memory, and come back with each request, for as long as the instance runs."""
    server.answers["/v3/kv/txn"] = (200, EMPTY)
    server.headers = [("set-cookie", "a=1; path=/"), ("set-cookie2", 'b="1"; version=1; path=/')]

    async def check(engine: Etcd) -> None:
        await engine.look()
        await engine.look()
        assert len(engine._http.cookies) == 0

    run(check, server.address)
    assert server.cookies == [None, None]


def test_a_watch_that_tells_of_nothing_without_end(server: Scripted) -> None:
    server.answers["/v3/watch"] = (200, b'{"result":{"header":{"cluster_id":"1"}}}\n' * (MAX_ANSWER // 8))

    async def check(engine: Etcd) -> None:
        with pytest.raises(Unavailable, match="over 65536 bytes"):
            await engine.changed(1)

    run(check, server.address)
