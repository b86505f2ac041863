"""The standby's HTTP side against peers on real sockets that answer what a test says."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
import uvloop
from tests.attacks.parties import Machines, Pair, honest_pair
from tests.fakes.claims import NOW
from tests.fakes.keyrings import MEMBER
from tests.fakes.platform import FakePlatform
from tests.fakes.processes import reserve
from tests.fakes.scene import DEFAULT

from rkeyserver.address import Address
from rkeyserver.attestation.evidence import Identity
from rkeyserver.clock import Clock
from rkeyserver.errors import Reason, Rejected, RkeyError, Unavailable
from rkeyserver.exchange.messages import MAX_MESSAGE, Challenge, ChallengeBody, Grant, Hello, decode, encode
from rkeyserver.exchange.standby import Asking
from rkeyserver.service import fetch
from rkeyserver.service.fetch import fetch_claimed, fetch_keyring
from rkeyserver.service.routes import HAND_OVER_PATH, HELLO_PATH

WAIT = 20.0
OWN_ID = b"i" * 16


def asking() -> Asking:
    return Asking(
        attester=FakePlatform(),
        verifiers={},
        policy=DEFAULT,
        clock=Clock(lambda: NOW),
        random=lambda size: b"r" * size,
        instance=OWN_ID,
        held=None,
        admins=None,
        member=MEMBER,
        address="",
        holds=None,
        audit_head=lambda: bytes(32),
    )


def challenge(instance: bytes = b"p" * 16) -> bytes:
    body = ChallengeBody(
        nonce=bytes(32),
        time=NOW,
        instance=instance,
        platform="simulated",
        machine="b2" * 16,
        identity=b"",
        credential=b"",
    )
    return encode(Challenge(body=encode(body), mac=bytes(32)))


def http(status: int, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} x", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


Respond = Callable[[str, bytes], Awaitable[bytes]]


@dataclass
class Peer:
    """What listens, and what it was asked."""

    respond: Respond
    port: int = 0
    connections: int = 0
    asked: list[tuple[str, bytes]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.port)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError), contextlib.closing(writer):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.partition("content-length: ")[2].split("\r\n")[0])
                path = head.split()[1]
                body = await reader.readexactly(length)
                self.heads.append(head)
                self.asked.append((path, body))
                answer = await self.respond(path, body)
                writer.write(answer)
                await writer.drain()
                if b"connection: close" in answer:
                    return


@contextlib.asynccontextmanager
async def peer_that(respond: Respond) -> AsyncIterator[Peer]:
    peer = Peer(respond)
    server = await asyncio.start_server(peer.handle, "127.0.0.1", 0)
    peer.port = server.sockets[0].getsockname()[1]
    try:
        async with asyncio.timeout(WAIT):
            yield peer
    finally:
        server.close()


def run(check: Callable[[], Awaitable[None]]) -> None:
    async def checked() -> None:
        await check()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(checked())


def always(answer: bytes) -> Respond:
    async def respond(_path: str, _body: bytes) -> bytes:
        return answer

    return respond


def after_hello(answer: bytes) -> Respond:
    """Challenges as it should, and answers the request with `answer`."""

    async def respond(path: str, _body: bytes) -> bytes:
        return http(200, challenge()) if path == HELLO_PATH else answer

    return respond


async def refused_by(peer: Peer) -> RkeyError:
    with pytest.raises(RkeyError) as raised:
        await fetch_keyring(peer.address, asking())
    return raised.value


# An honest peer


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Machines:
    return Machines.in_folder(tmp_path_factory.mktemp("machines"))


@dataclass(frozen=True)
class Primary:
    pair: Pair

    async def respond(self, path: str, body: bytes) -> bytes:
        if path == HELLO_PATH:
            return http(200, self.pair.primary.challenge(body))
        return http(200, await self.pair.primary.answered(body))


def test_the_keyring_comes_in_one_exchange_over_one_connection(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    async def check() -> None:
        with honest_pair(machines) as pair:
            async with peer_that(Primary(pair).respond) as peer:
                received = await fetch_keyring(peer.address, pair.standby.greet().asking)
                with contextlib.closing(received.keyring):
                    assert received.keyring.same_as(pair.primary.keyring)
                    assert received.verdict.claims.ppid == pair.primary.platform.attester_identity().machine
                assert [path for path, _ in peer.asked] == [HELLO_PATH, HAND_OVER_PATH]
                assert peer.connections == 1
                assert all("content-type: application/msgpack" in head for head in peer.heads)

    run(check)


def test_the_next_address_of_a_name_is_asked_where_one_is_dead(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check() -> None:
        with honest_pair(machines) as pair, contextlib.closing(reserve()) as dead:
            async with peer_that(Primary(pair).respond) as peer:
                addresses = [Address("127.0.0.1", dead.getsockname()[1]), peer.address]

                async def resolve(_host: Address) -> list[Address]:
                    return addresses

                monkeypatch.setattr(fetch, "_resolve", resolve)
                received = await fetch_keyring(Address("name", 1), pair.standby.greet().asking)
                received.keyring.close()

    run(check)


def test_an_address_that_refuses_keeps_no_other_from_being_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is on the network can send such an answer: it is not proved."""

    async def check() -> None:
        async with peer_that(always(http(403))) as refusing, peer_that(always(http(503))) as other:

            async def resolve(_host: Address) -> list[Address]:
                return [refusing.address, other.address]

            monkeypatch.setattr(fetch, "_resolve", resolve)
            with pytest.raises(Rejected) as raised:
                await fetch_keyring(Address("name", 1), asking())
            assert raised.value.reason is Reason.REFUSED_BY_PEER
            assert f"{refusing.address} refused this machine; {other.address}: it answers 503" in raised.value.message
            assert len(other.asked) == 1

    run(check)


def test_every_address_that_failed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        with contextlib.closing(reserve()) as one, contextlib.closing(reserve()) as two:
            ports = [held.getsockname()[1] for held in (one, two)]

            async def resolve(_host: Address) -> list[Address]:
                return [Address("127.0.0.1", port) for port in ports]

            monkeypatch.setattr(fetch, "_resolve", resolve)
            with pytest.raises(Unavailable, match="No answer from name:1") as raised:
                await fetch_keyring(Address("name", 1), asking())
            for port in ports:
                assert f"127.0.0.1:{port}: " in raised.value.message

    run(check)


class NamesLoop(asyncio.SelectorEventLoop):
    """A loop whose resolver knows what a test says, and asks nobody."""

    def __init__(self, found: list[str] | OSError) -> None:
        super().__init__()
        self._found = found

    async def getaddrinfo(self, host: Any, port: Any, *, family: int = 0, type: int = 0, **_more: Any) -> Any:  # noqa: A002 - asyncio's names
        assert (host, type) == ("name", socket.SOCK_STREAM)
        if isinstance(self._found, OSError):
            raise self._found
        return [(family, type, 6, "", (ip, port)) for ip in self._found]


def resolved(found: list[str] | OSError) -> list[Address]:
    with asyncio.Runner(loop_factory=lambda: NamesLoop(found)) as runner:
        return runner.run(fetch._resolve(Address("name", 5)))


def test_a_name_is_resolved_to_each_of_its_addresses_once_and_in_order() -> None:
    found = resolved(["fd00::2", "10.0.0.2", "fd00::2", "10.0.0.1"])
    assert found == [Address("fd00::2", 5), Address("10.0.0.2", 5), Address("10.0.0.1", 5)]


def test_a_name_that_does_not_resolve_is_named() -> None:
    with pytest.raises(Unavailable, match="The name name does not resolve: not known"):
        resolved(socket.gaierror(socket.EAI_NONAME, "not known"))


def test_an_address_needs_no_resolver() -> None:
    async def check() -> None:
        for host in ("127.0.0.1", "::1"):
            assert await fetch._resolve(Address(host, 5)) == [Address(host, 5)]

    run(check)


# Answers of the wrong kind

STATUS: dict[int, tuple[type[RkeyError], str]] = {
    400: (Unavailable, "answers 400"),
    403: (Rejected, "refused this machine"),
    404: (Unavailable, "answers 404"),
    413: (Unavailable, "answers 413"),
    500: (Unavailable, "answers 500"),
    503: (Unavailable, "answers 503"),
    204: (Unavailable, "answers 204"),
    302: (Unavailable, "answers 302"),
    200: (Rejected, "no"),
}


@pytest.mark.parametrize("status", STATUS)
@pytest.mark.parametrize("step", [HELLO_PATH, HAND_OVER_PATH], ids=["hello", "hand-over"])
def test_what_a_status_means(status: int, step: str) -> None:
    kind, says = STATUS[status]

    async def check() -> None:
        answer = http(status, b"", "location: /v1/elsewhere")
        async with peer_that(always(answer) if step == HELLO_PATH else after_hello(answer)) as peer:
            error = await refused_by(peer)
            assert type(error) is kind
            assert says in error.message
            if isinstance(error, Rejected):
                wanted = Reason.MALFORMED if status == 200 else Reason.REFUSED_BY_PEER
                assert error.reason is wanted
            assert len(peer.asked) == (1 if step == HELLO_PATH else 2), "nothing is asked twice, or elsewhere"

    run(check)


def test_a_refusal_tells_where_its_reason_is() -> None:
    async def check() -> None:
        async with peer_that(always(http(403, b'{"error": "rejected"}'))) as peer:
            assert "log" in (await refused_by(peer)).advice

    run(check)


def unframed(body: bytes) -> bytes:
    return b"HTTP/1.1 200 x\r\nconnection: close\r\n\r\n" + body


def in_chunks(size: int) -> bytes:
    chunk = b"1000\r\n" + bytes(0x1000) + b"\r\n"
    return b"HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\n" + chunk * (size // 0x1000 + 1) + b"0\r\n\r\n"


LARGE: dict[str, Callable[[int], bytes]] = {
    "of a length": lambda most: http(200, bytes(most + 1)),
    "of a length that is not to come": lambda most: http(200)[:-2].replace(b"th: 0", b"th: 99999999") + b"\r\n" + bytes(
        most + 1),
    "without a length": lambda most: unframed(bytes(most + 1)),
    "in chunks": in_chunks,
    "a refusal": lambda most: http(403, bytes(most + 1)),
}  # fmt: skip


@pytest.mark.parametrize("answer", LARGE.values(), ids=LARGE)
@pytest.mark.parametrize("step", [HELLO_PATH, HAND_OVER_PATH], ids=["hello", "hand-over"])
def test_an_answer_is_read_to_its_cap_and_no_further(step: str, answer: Callable[[int], bytes]) -> None:
    async def check() -> None:
        if step == HELLO_PATH:
            respond = always(answer(MAX_MESSAGE[Challenge]))
        else:
            respond = after_hello(answer(MAX_MESSAGE[Grant]))
        async with peer_that(respond) as peer:
            error = await refused_by(peer)
            assert isinstance(error, Rejected)
            assert error.reason is Reason.TOO_LARGE

    run(check)


def test_an_answer_at_its_cap_is_read() -> None:
    async def check() -> None:
        async with peer_that(always(http(200, bytes(MAX_MESSAGE[Challenge])))) as peer:
            error = await refused_by(peer)
            assert isinstance(error, Rejected)
            assert error.reason is Reason.MALFORMED

    run(check)


GARBAGE: dict[str, bytes] = {
    "no HTTP": b"SSH-2.0-OpenSSH\r\n\r\n",
    "a header that is none": b"HTTP/1.1 200 x\r\n\0\0\r\n\r\n",
    "headers without end": b"HTTP/1.1 200 x\r\n" + b"a: b\r\n" * 50_000 + b"connection: close\r\n",
    "a length that is none": b"HTTP/1.1 200 x\r\ncontent-length: x\r\n\r\n",
    "a chunk that is none": b"HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    "the end": b"connection: close",
    "half an answer": http(200, b"12345")[:-3].replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"),
    "half the chunks": b"HTTP/1.1 200 x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12",
}


@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize("step", [HELLO_PATH, HAND_OVER_PATH], ids=["hello", "hand-over"])
def test_what_is_no_http_is_no_answer(step: str, answer: bytes) -> None:
    async def check() -> None:
        async with peer_that(always(answer) if step == HELLO_PATH else after_hello(answer)) as peer:
            error = await refused_by(peer)
            assert type(error) is Unavailable
            assert f"No answer from 127.0.0.1:{peer.port}" in error.message

    run(check)


CHALLENGES: dict[str, tuple[bytes, Reason]] = {
    "nothing": (b"", Reason.MALFORMED),
    "JSON": (b'{"error": "rejected"}', Reason.MALFORMED),
    "another message": (encode(msgspec.msgpack.decode(challenge(), type=Challenge))[:-1], Reason.MALFORMED),
    "a field that is not ours": (
        msgspec.msgpack.encode(msgspec.msgpack.decode(challenge()) | {"a\nINFO": 1}), Reason.MALFORMED),
    "its own challenge": (challenge(OWN_ID), Reason.TALKING_TO_ITSELF),
}  # fmt: skip


@pytest.mark.parametrize(("body", "reason"), CHALLENGES.values(), ids=CHALLENGES)
def test_a_challenge_that_is_none_ends_the_exchange(body: bytes, reason: Reason) -> None:
    async def check() -> None:
        async with peer_that(always(http(200, body))) as peer:
            error = await refused_by(peer)
            assert isinstance(error, Rejected)
            assert error.reason is reason
            assert str(error).isprintable(), "a peer writes no line of the log"
            assert len(peer.asked) == 1

    run(check)


def test_a_compressed_answer_is_not_unpacked() -> None:
    async def check() -> None:
        bomb = gzip.compress(bytes(50_000_000))
        assert len(bomb) < MAX_MESSAGE[Challenge]
        async with peer_that(always(http(200, bomb, "content-encoding: gzip"))) as peer:
            error = await refused_by(peer)
            assert isinstance(error, Rejected)
            assert error.reason is Reason.MALFORMED

    run(check)


# Peers that take their time


async def _never(_path: str, _body: bytes) -> bytes:
    await asyncio.Event().wait()
    raise AssertionError


async def _never_after_hello(path: str, body: bytes) -> bytes:
    return http(200, challenge()) if path == HELLO_PATH else await _never(path, body)


SLOW: dict[str, Respond] = {
    "to the hello": _never,
    "to the request": _never_after_hello,
    "in the middle": always(http(200, bytes(100))[:-50]),
}


@pytest.mark.parametrize("respond", SLOW.values(), ids=SLOW)
def test_a_peer_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch, respond: Respond) -> None:
    monkeypatch.setattr(fetch, "EXCHANGE_SECONDS", 0.2)

    async def check() -> None:
        async with peer_that(respond) as peer:
            error = await refused_by(peer)
            assert type(error) is Unavailable
            assert "no answer in time" in error.message

    run(check)


def test_a_peer_that_trickles_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "EXCHANGE_SECONDS", 0.3)

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError), contextlib.closing(writer):
            writer.write(b"HTTP/1.1 200 x\r\ncontent-length: 9999\r\n\r\n")
            while not reader.at_eof():
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.02)

    async def check() -> None:
        server = await asyncio.start_server(trickle, "127.0.0.1", 0)
        address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
        async with asyncio.timeout(WAIT), server:
            with pytest.raises(Unavailable, match="no answer in time"):
                await fetch_keyring(address, asking())

    run(check)


def test_a_port_that_nobody_has_is_named() -> None:
    async def check() -> None:
        with contextlib.closing(reserve()) as held:
            port = held.getsockname()[1]
            with pytest.raises(Unavailable, match=f"127.0.0.1:{port}: Connection refused"):
                await fetch_keyring(Address("127.0.0.1", port), asking())

    run(check)


# Who it says it is


OWN = Identity("simulated", "a1" * 16)
CLAIMED: dict[str, tuple[bytes, Identity | None]] = {
    "a challenge": (http(200, challenge()), Identity("simulated", "b2" * 16)),
    "no challenge": (http(200, b"junk"), None),
    "a challenge whose body is none": (http(200, encode(Challenge(body=b"junk", mac=bytes(32)))), None),
    "a refusal": (http(403), None),
    "no keyring": (http(503), None),
    "too much": (http(200, bytes(100_000)), None),
    "no HTTP": (b"junk\r\n\r\n", None),
}


@pytest.mark.parametrize(("answer", "claimed"), CLAIMED.values(), ids=CLAIMED)
def test_who_a_peer_says_that_it_is(answer: bytes, claimed: Identity | None) -> None:
    async def check() -> None:
        async with peer_that(always(answer)) as peer:
            assert await fetch_claimed(peer.address, OWN) == claimed
            (path, body), *more = peer.asked
            assert (path, more) == (HELLO_PATH, [])
            hello = decode(body, Hello)
            assert (hello.platform, hello.machine) == (OWN.platform, OWN.machine)

    run(check)


def test_nobody_says_who_he_is() -> None:
    async def check() -> None:
        with contextlib.closing(reserve()) as held:
            assert await fetch_claimed(Address("127.0.0.1", held.getsockname()[1]), OWN) is None

    run(check)
