"""A coordinator that lies: it answers with what it once said, with nothing, with another's, or with what it made up.

It has no secret to tell and nothing to hand out. At worst it lets two instances change at a time, which is a reunion;
each case here says what an instance makes of it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import httpx
import pytest
from tests.fakes.coordinated import DOMAIN, OTHER_SECRET, Member, authenticator, etcd_of, member_id
from tests.fakes.etcd import Cluster, etcd

from rkeyserver.address import Address
from rkeyserver.coordinator import order
from rkeyserver.coordinator.endpoints import Endpoints
from rkeyserver.coordinator.etcd_messages import MAX_ANSWER
from rkeyserver.coordinator.interface import Lost
from rkeyserver.coordinator.values import primary_key, state_key
from rkeyserver.errors import Unavailable
from rkeyserver.keyring.place import Place

LEASE: Final = 1
TXN: Final = "/v3/kv/txn"
Lie = Callable[[str, Any, Any], Any]
"""(path, what was asked, what etcd has answered) -> what is answered: JSON, or bytes."""


class Liar:
    """A server that asks a real etcd, and answers as it likes."""

    def __init__(self, real: Address) -> None:
        self.lie: Lie = lambda _path, _asked, answer: answer
        liar = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.path == "/v3/watch":
                    found: Any = {"result": {"header": {"cluster_id": "1"}, "canceled": True}}
                else:
                    found = self.ask(body)
                answer = liar.lie(self.path, json.loads(body), found)
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                with contextlib.suppress(OSError):  # who asked has left: he reads no more than he wants
                    self.wfile.write(data)

            def ask(self, body: bytes) -> Any:
                try:
                    return httpx.post(f"http://{real}{self.path}", content=body, trust_env=False).json()
                except httpx.HTTPError:  # the test is over
                    return {}

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """Nobody waits for the answer any more."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()
        self.endpoints = Endpoints(tls=False, addresses=(Address("127.0.0.1", self.server.server_port),))

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with etcd(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@pytest.fixture
def liar(real: Cluster) -> Iterator[Liar]:
    for key in (primary_key(DOMAIN), state_key(DOMAIN)):
        real.delete(key)
    found = Liar(real.servers[0].address)
    yield found
    found.close()


@contextlib.asynccontextmanager
async def elected(liar: Liar) -> AsyncIterator[Member]:
    """A member that is primary, and has changed its state once."""
    member = Member(1, etcd_of(liar.endpoints))
    async with member.running():
        await member.until(lambda: member.primary)
        await member.change()
        yield member


def shows(value: bytes | None, *, done: bool | None = None) -> Lie:
    """Answers with that value as the state in place of what there is."""

    def lie(path: str, _asked: Any, answer: Any) -> Any:
        if path == TXN:
            last = answer["responses"][-1]["response_range"]
            last["kvs"] = [entry(state_key(DOMAIN), value)] if value is not None else []
            if done is not None:
                answer["succeeded"] = done
        return answer

    return lie


def entry(key: bytes, value: bytes) -> dict[str, str]:
    text = {"key": base64.b64encode(key).decode(), "value": base64.b64encode(value).decode()}
    return text | {"create_revision": "1", "mod_revision": "1", "lease": "0"}


OLD: Final = Place(1, 1, member_id(1), "0" * 64)
# What is shown to a primary when it commits. Each refuses the change, which is dropped.
SHOWN: dict[str, bytes | None] = {
    "an old state of its own": authenticator().state(OLD),
    "no state": None,
    "another domain's state": authenticator(OTHER_SECRET).state(OLD),
    "a forged one": b'{"version":1}\n' + b"0" * 64,
}


@pytest.mark.parametrize("value", SHOWN.values(), ids=SHOWN)
@pytest.mark.parametrize("done", [True, False])
def test_a_commit_that_is_answered_with_something_else(liar: Liar, value: bytes | None, *, done: bool) -> None:
    """Also if it says that it was done: what counts is the very value that was to be committed."""

    async def run() -> None:
        async with elected(liar) as member:
            before = member.own
            liar.lie = shows(value, done=done)
            with pytest.raises(Unavailable, match="refuses to commit"):
                await member.change()
            assert member.own == before
            await member.until(lambda: isinstance(member.events[-1], Lost))

    asyncio.run(run())


# What is shown to a candidate with a state of epoch 1: whether it waits, and in which epoch it goes on. Never an
# earlier one than its own, whatever is shown; and a replayed state never makes it continue one.
CANDIDATE: dict[str, tuple[bytes | None, bool]] = {
    "an old state": (authenticator().state(OLD), False),
    "no state": (None, False),
    "another domain's state": (authenticator(OTHER_SECRET).state(OLD), True),
    "a forged one": (b"x", True),
}


@pytest.mark.parametrize(("value", "waits"), CANDIDATE.values(), ids=CANDIDATE)
def test_an_election_over_something_else(
    liar: Liar,
    monkeypatch: pytest.MonkeyPatch,
    value: bytes | None,
    waits: bool,  # noqa: FBT001 - a table's
) -> None:
    monkeypatch.setattr(order, "BEHIND_LEASES", 1)  # not three: what it does then is what is looked at

    async def run() -> None:
        member = Member(1, etcd_of(liar.endpoints), own=Place(1, 5, member_id(1), "1" * 64))
        honest = authenticator().state(Place(2, 6, member_id(1), member.next(2).digest))
        lies = shows(value)

        def lie(path: str, asked: Any, answer: Any) -> Any:
            written = path == TXN and base64.b64encode(honest).decode() in json.dumps(answer)
            return answer if written else lies(path, asked, answer)

        liar.lie = lie
        async with member.running():
            behind = await member.behind_until(lambda: member.primary or member.events != [])
            assert behind == waits
            # Where the revision was made up too, etcd itself refuses what is to be committed.
            assert member.own.epoch in {1, 2}
            assert member.own.sequence >= 5

    asyncio.run(run())


ENDLESS: dict[str, tuple[Any, str]] = {
    "endless": (b" " * (2 * MAX_ANSWER), "over 65536 bytes"),
    "no JSON": (b"<html>", "something else"),
    "of no cluster": ({"header": {}}, "without the id of its cluster"),
    "with one key of two": ({"header": {"cluster_id": "1"}, "responses": []}, "not what was asked for"),
    "with a terminal's commands": (b'{"error":"\\u001b[2J"}', "without the id"),
}


@pytest.mark.parametrize(("answer", "says"), ENDLESS.values(), ids=ENDLESS)
def test_an_answer_that_is_none(liar: Liar, answer: Any, says: str) -> None:
    async def run() -> None:
        liar.lie = lambda _path, _asked, _answer: answer
        engine = etcd_of(liar.endpoints)
        with pytest.raises(Unavailable, match=says) as raised:
            await engine.look()
        assert str(raised.value).isprintable()
        await engine.close()

    asyncio.run(run())


class Kept:
    """Goes on saying what was said before: the lease is kept, and so is the key. yes: whether every commit is done."""

    def __init__(self, *, yes: bool) -> None:
        self.yes = yes
        self.kept: dict[str, Any] = {}

    def __call__(self, path: str, asked: Any, answer: Any) -> Any:
        if path == "/v3/lease/keepalive":
            return self.kept.setdefault(path, answer)
        if path != TXN or "compare" not in asked:
            return self.kept.setdefault("look", answer) if path == TXN else answer
        if self.yes:
            value = asked["success"][0]["request_put"]["value"]
            primary = self.kept["look"]["responses"][0]
            written = entry(state_key(DOMAIN), b"") | {"value": value, "mod_revision": "99999"}
            state = {"response_range": {"kvs": [written]}}
            return answer | {"succeeded": True, "responses": [{}, primary, state]}
        return answer


@contextlib.asynccontextmanager
async def two(liar: Liar, real: Cluster, *, yes: bool) -> AsyncIterator[tuple[Member, Member]]:
    """One that is told that it is still primary, and the one that is."""
    async with elected(liar) as one:
        liar.lie = Kept(yes=yes)
        await asyncio.sleep(LEASE / 2)
        real.delete(primary_key(DOMAIN))
        other = Member(2, etcd_of(real.endpoints), own=one.own)
        async with other.running():
            await other.until(lambda: other.primary)
            assert one.primary  # so it is told
            yield one, other


def test_a_lease_that_is_said_to_be_kept_for_ever(liar: Liar, real: Cluster) -> None:
    """The real one has ended, and another is primary: the commit is etcd's to refuse, and it does."""

    async def run() -> None:
        async with two(liar, real, yes=False) as (one, _):
            with pytest.raises(Unavailable, match="refuses to commit"):
                await one.change()

    asyncio.run(run())


def test_two_are_told_that_they_are_primary(liar: Liar, real: Cluster) -> None:
    """The worst that a coordinator can do: both change, each in an epoch of its own. That is a reunion's to mend."""

    async def run() -> None:
        async with two(liar, real, yes=True) as (one, other):
            await one.change()
            await other.change()
            assert (one.own.epoch, other.own.epoch) == (1, 2)
            assert other.own > one.own  # and every instance that sees both says so too

    asyncio.run(run())
