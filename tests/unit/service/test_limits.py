"""The limits on connections, over real sockets: the server as it is configured, under a small application."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from uvicorn.server import ServerState

from rkeyserver.address import Address
from rkeyserver.errors import RkeyError, Unavailable
from rkeyserver.service.app import coarse, read_body
from rkeyserver.service.limits import MAX_BYTES, MAX_CONNECTION_BYTES, MAX_HEAD, Connection, Guard
from rkeyserver.service.serve import _server, open_sockets

WAIT = 20.0
MOST = 1000
NEVER = 3600.0


@dataclass
class WatchedGuard(Guard):
    """A guard that says when a connection came or went."""

    changed: asyncio.Condition = field(default_factory=asyncio.Condition, init=False)
    _tellers: set[asyncio.Task[None]] = field(default_factory=set, init=False)

    def enter(self, protocol: Connection, address: str) -> None:
        super().enter(protocol, address)
        self._tell()

    def took(self, size: int) -> None:
        super().took(size)
        self._tell()

    def leave(self, protocol: Connection, address: str) -> None:
        super().leave(protocol, address)
        self._tell()

    def _tell(self) -> None:
        teller = asyncio.get_running_loop().create_task(self._notify())
        self._tellers.add(teller)
        teller.add_done_callback(self._tellers.discard)

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until(self, connections: int) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: self._count == connections)


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def get(self, path: str) -> None:
        await self.send(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of the next answer."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        lines = head.decode().lower().split("\r\n")
        length = next(int(line.partition(":")[2]) for line in lines if line.startswith("content-length:"))
        return int(lines[0].split()[1]), await self.reader.readexactly(length)

    async def dropped(self) -> bytes:
        """Wait until the server has dropped the connection; what it had sent before."""
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""


@dataclass
class Site:
    """A server, its guard, and what its application was asked."""

    guard: WatchedGuard
    port: int
    go: asyncio.Event = field(default_factory=asyncio.Event)
    began: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    errors: asyncio.Queue[RkeyError] = field(default_factory=asyncio.Queue)
    clients: list[Client] = field(default_factory=list)

    async def connect(self, source: str = "127.0.0.1", *, send: bytes = b"") -> Client:
        """A connection that the server has accepted."""
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port, local_addr=(source, 0)))
        self.clients.append(client)
        if send:
            await client.send(send)
        return client

    async def idle(self, source: str = "127.0.0.1", *, send: bytes = b"") -> Client:
        """A connection that is counted, and waits for its client."""
        before = self.guard._count
        client = await self.connect(source, send=send)
        await self.guard.until(before + 1)
        return client

    async def has_sent(self, client: Client, data: bytes) -> None:
        """Have the client send, and wait until the server has it."""
        before = self.guard._bytes
        await client.send(data)
        async with self.guard.changed:
            await self.guard.changed.wait_for(lambda: self.guard._bytes >= before + len(data) or self.guard.evicted > 0)

    async def busy(self, source: str = "127.0.0.1") -> Client:
        """A connection with a request that is being answered."""
        client = await self.connect(source)
        await client.get("/wait")
        await self.began.acquire()
        return client

    async def leave(self) -> None:
        for client in self.clients:
            client.writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await client.writer.wait_closed()

    async def serves(self, source: str = "127.0.0.1") -> Client:
        """A new connection that gets its answer."""
        client = await self.connect(source)
        await client.get("/")
        assert await client.answer() == (200, b"here")
        return client


def _application(site: Site) -> Router:
    async def here(_request: Request) -> Response:
        return Response("here")

    async def wait(_request: Request) -> Response:
        site.began.release()
        await site.go.wait()
        return Response("done")

    async def size(request: Request) -> Response:
        try:
            return Response(str(len(await read_body(request, MOST))))
        except RkeyError as error:
            site.errors.put_nowait(error)
            return coarse(error)

    async def every_byte(request: Request) -> Response:
        return Response(str(len(await read_body(request, 2 * MAX_CONNECTION_BYTES))))

    async def large(_request: Request) -> Response:
        return Response(bytes(16 * MAX_CONNECTION_BYTES))

    return Router(
        routes=[
            Route("/", here),
            Route("/wait", wait),
            Route("/large", large),
            Route("/size", size, methods=["POST"]),
            Route("/every-byte", every_byte, methods=["POST"]),
        ]
    )


@contextlib.asynccontextmanager
async def serving(
    *, total: int = 1000, per_address: int = 1000, seconds: float = NEVER, most_bytes: int = MAX_BYTES
) -> AsyncIterator[Site]:
    guard = WatchedGuard(total=total, per_address=per_address, seconds=seconds, most_bytes=most_bytes)
    (listener,) = open_sockets(Address("127.0.0.1", 0))
    site = Site(guard, int(listener.getsockname()[1]))
    # What uvicorn's server does with its configuration; its own life cycle takes a quarter of a second to end.
    config, state = _server(_application(site), guard).config, ServerState()
    config.load()
    protocol = config.http_protocol_class
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: protocol(config, state, {}), sock=listener)  # type: ignore[call-arg]  # uvicorn's
    try:
        async with asyncio.timeout(WAIT):
            yield site
            await site.leave()
            await guard.until(0)
        assert not guard._by_address
    finally:
        site.go.set()
        await site.leave()
        server.close()
        await asyncio.gather(*state.tasks)


def run(check: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(2 * WAIT):
            await check()

    asyncio.run(bounded())


POST = b"POST /size HTTP/1.1\r\nhost: x\r\n"

STALLED: dict[str, bytes] = {
    "idle": b"",
    "half a request line": b"GET / HT",
    "half the headers": b"GET / HTTP/1.1\r\nhost: x\r\n",
    "no body": POST + b"content-length: 9\r\n\r\n",
    "half a body": POST + b"content-length: 9\r\n\r\n1234",
    "half a chunk": POST + b"transfer-encoding: chunked\r\n\r\n9\r\n1234",
    "no last chunk": POST + b"transfer-encoding: chunked\r\n\r\n4\r\n1234\r\n",
    "waits to be told to continue": POST + b"content-length: 9\r\nexpect: 100-continue\r\n\r\n",
    "an answer that does not come": b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n",
}


@pytest.mark.parametrize("sent", STALLED.values(), ids=STALLED)
def test_the_deadline_ends_whatever_stalls(sent: bytes) -> None:
    async def check() -> None:
        async with serving(seconds=0.1) as site:
            client = await site.connect(send=sent)
            assert await client.dropped() in (b"", b"HTTP/1.1 100 Continue\r\n\r\n")
            assert site.guard.evicted == 0

    run(check)


async def _forever(client: Client, data: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        while not client.reader.at_eof():
            await client.send(data)
            await asyncio.sleep(0.01)


LIVELY: dict[str, tuple[bytes, bytes]] = {
    "header by header": (b"GET / HTTP/1.1\r\n", b"a: b\r\n"),
    "a body byte by byte": (POST + b"content-length: 900\r\n\r\n", b"x"),
    "chunk by chunk": (POST + b"transfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "request after request": (b"", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"),
}


@pytest.mark.parametrize(("first", "then"), LIVELY.values(), ids=LIVELY)
def test_the_deadline_is_from_accept_however_lively_the_client(first: bytes, then: bytes) -> None:
    async def check() -> None:
        async with serving(seconds=0.3) as site:
            client = await site.connect(send=first)
            sending = asyncio.get_running_loop().create_task(_forever(client, then))
            await client.dropped()
            await sending
            await site.guard.until(0)

    run(check)


def test_the_deadline_ends_a_client_that_does_not_read_its_answer() -> None:
    async def check() -> None:
        async with serving(seconds=0.3) as site:
            client = await site.idle()
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a stream's transport reads too
            await client.get("/large")
            await site.guard.until(0)

    run(check)


def test_an_answer_within_the_deadline_is_whole_and_the_connection_is_used_again() -> None:
    async def check() -> None:
        async with serving() as site:
            client = await site.connect()
            for _ in range(3):
                await client.get("/")
                assert await client.answer() == (200, b"here")

    run(check)


async def ends_with_its_answer(client: Client) -> bool:
    """Whether the next answer says that it is the connection's last, which then it is."""
    head = (await client.reader.readuntil(b"\r\n\r\n")).lower()
    assert await client.reader.readexactly(4) == b"here"
    if b"connection: close" not in head:
        return False
    assert await client.dropped() == b""
    return True


def test_a_connection_ends_with_an_answer_before_it_is_cut_off_in_a_request() -> None:
    async def check() -> None:
        async with serving(seconds=2.0) as site:
            client = await site.connect()
            await client.get("/")
            assert not await ends_with_its_answer(client)
            await asyncio.sleep(1.1)  # over half of its time
            await client.get("/")
            assert await ends_with_its_answer(client)
        async with serving() as site:
            client = await site.connect(send=of_size(MAX_CONNECTION_BYTES // 2))
            await client.answer()
            await client.get("/")
            assert await ends_with_its_answer(client)

    run(check)


def test_stalled_clients_cost_the_others_nothing() -> None:
    async def check() -> None:
        async with serving(per_address=len(STALLED) * 3 + 1) as site:
            for sent in list(STALLED.values()) * 3:
                await site.idle(send=sent)
            await site.serves()
            assert site.guard.evicted == 0

    run(check)


def of_size(total: int) -> bytes:
    """A request of `total` bytes, head and body."""
    head = b"POST /every-byte HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
    body = total - len(head % total)
    request = head % body + b"x" * body
    assert len(request) == total
    return request


def test_a_connection_may_send_so_many_bytes_and_no_more() -> None:
    async def check() -> None:
        async with serving() as site:
            request = of_size(MAX_CONNECTION_BYTES)
            client = await site.connect(send=request)
            status, counted = await client.answer()
            assert (status, int(counted)) == (200, len(request.split(b"\r\n\r\n", 1)[1]))
            with contextlib.suppress(ConnectionError):
                await client.get("/")
            assert await client.dropped() == b""

    run(check)


def of_head(total: int, *, path: str = "/") -> bytes:
    """A request whose head, with the empty line that ends it, has `total` bytes."""
    head = f"GET {path} HTTP/1.1\r\nhost: x\r\na: \r\n\r\n".encode()
    head = head.replace(b"a: ", b"a: " + b"x" * (total - len(head)))
    assert len(head) == total
    return head


@pytest.mark.parametrize("first", [b"", of_size(3 * MAX_HEAD)], ids=["first", "after a body"])
def test_a_head_has_so_many_bytes_and_no_more(first: bytes) -> None:
    async def check() -> None:
        async with serving() as site:
            for total, answered in ((MAX_HEAD, True), (MAX_HEAD + 1, False)):
                client = await site.connect()
                if first:
                    await client.send(first)
                    assert (await client.answer())[0] == 200
                await client.send(of_head(total))
                if answered:
                    assert await client.answer() == (200, b"here")
                else:
                    assert await client.dropped() == b""
            assert site.guard.evicted == 0

    run(check)


ENDLESS_HEADS: dict[str, bytes] = {
    "a line that does not end": b"G" * MAX_HEAD,
    "a path that does not end": b"GET /" + b"x" * MAX_HEAD,
    "headers that do not end": b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (MAX_HEAD // 6),
    "one long header": b"GET / HTTP/1.1\r\na: " + b"x" * MAX_HEAD,
    "one long name": b"GET / HTTP/1.1\r\n" + b"x" * MAX_HEAD,
    "empty lines": b"\r\n" * (MAX_HEAD // 2),
}


@pytest.mark.parametrize("size", [1000, MAX_HEAD], ids="in pieces of {}".format)
@pytest.mark.parametrize("sent", ENDLESS_HEADS.values(), ids=ENDLESS_HEADS)
def test_a_head_that_does_not_end_is_dropped(sent: bytes, size: int) -> None:
    async def check() -> None:
        async with serving() as site:
            client = await site.idle()
            with contextlib.suppress(ConnectionError):
                for at in range(0, len(sent), size):
                    await client.send(sent[at : at + size])
            assert (await client.dropped()).partition(b"\r")[0] in (b"", b"HTTP/1.1 400 Bad Request")
            await site.guard.until(0)
            await site.serves()

    run(check)


TOO_MUCH: dict[str, bytes] = {
    "one request": of_size(MAX_CONNECTION_BYTES + 1),
    "many requests": b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * (MAX_CONNECTION_BYTES // 27 + 1),
    "chunks": POST + b"transfer-encoding: chunked\r\n\r\n" + b"1;a=b\r\nx\r\n" * (MAX_CONNECTION_BYTES // 10),
}


@pytest.mark.parametrize("sent", TOO_MUCH.values(), ids=TOO_MUCH)
def test_whoever_sends_more_is_dropped_at_once(sent: bytes) -> None:
    assert len(sent) > MAX_CONNECTION_BYTES

    async def check() -> None:
        async with serving() as site:
            client = await site.idle()
            reading = asyncio.get_running_loop().create_task(client.dropped())
            with contextlib.suppress(ConnectionError):
                await client.send(sent)
            await reading
            await site.guard.until(0)
            await site.serves()

    run(check)


def test_the_oldest_idle_connection_of_an_address_makes_room() -> None:
    async def check() -> None:
        async with serving(per_address=3) as site:
            first, second, third = [await site.idle() for _ in range(3)]
            await site.serves()
            assert await first.dropped() == b""
            await site.serves()
            assert await second.dropped() == b""
            await third.get("/")
            assert await third.answer() == (200, b"here")
            assert site.guard.evicted == 2

    run(check)


GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"

NOT_BUSY: dict[str, tuple[bytes, bytes]] = {
    name: (sent, b"") for name, sent in STALLED.items() if b"/wait" not in sent
} | {
    "answered": (GET, b""),
    "answered, then half of the next": (GET, b"GET / HTTP"),
}


@pytest.mark.parametrize(("sent", "then"), NOT_BUSY.values(), ids=NOT_BUSY)
def test_whoever_waits_for_its_client_makes_room_for_the_newcomer(sent: bytes, then: bytes) -> None:
    async def check() -> None:
        async with serving(per_address=2) as site:
            busy = await site.busy()
            stalled = await site.idle(send=sent)
            if sent == GET:
                assert await stalled.answer() == (200, b"here")
                await site.has_sent(stalled, then)
            await site.serves()
            await stalled.dropped()
            site.go.set()
            assert await busy.answer() == (200, b"done")
            assert site.guard.evicted == 1

    run(check)


AHEAD: dict[str, bytes] = {
    "a whole request": GET,
    "one byte of a request": b"G",
    "half a request": STALLED["half a body"],
    "many requests": GET * 100,
}


@pytest.mark.parametrize("at_once", [True, False], ids=["in one piece", "while it is answered"])
@pytest.mark.parametrize("ahead", AHEAD.values(), ids=AHEAD)
def test_whoever_sends_ahead_of_its_turn_is_dropped_with_no_other_answer(ahead: bytes, at_once: bool) -> None:  # noqa: FBT001 - a case
    waiting = b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n"

    async def check() -> None:
        async with serving() as site:
            other = await site.busy()
            client = await site.connect(send=waiting + (ahead if at_once else b""))
            if not at_once:
                await site.began.acquire()
                await client.send(ahead)
            status, body = await client.answer()
            assert (status, body) == (400, b"Invalid HTTP request received.")
            assert await client.dropped() == b"", "what was running answers nobody"
            await site.guard.until(1)
            await site.serves()
            site.go.set()
            assert await other.answer() == (200, b"done")
            assert site.guard.evicted == 0

    run(check)


def test_where_all_are_busy_the_oldest_makes_room() -> None:
    async def check() -> None:
        async with serving(per_address=2) as site:
            first, second = await site.busy(), await site.busy()
            third = await site.busy()
            assert await first.dropped() == b""
            site.go.set()
            assert await second.answer() == await third.answer() == (200, b"done")

    run(check)


def test_an_address_pays_for_itself_alone() -> None:
    async def check() -> None:
        async with serving(per_address=2) as site:
            quiet = await site.idle("127.0.0.2")
            mine = [await site.connect() for _ in range(10)]
            for one in mine[:-2]:
                assert await one.dropped() == b""
            await quiet.get("/")
            assert await quiet.answer() == (200, b"here")
            assert site.guard.evicted == 8

    run(check)


def test_where_all_places_are_taken_the_address_with_the_most_makes_room() -> None:
    async def check() -> None:
        async with serving(total=4) as site:
            quiet = await site.idle("127.0.0.2")
            first, *others = [await site.idle("127.0.0.3") for _ in range(3)]
            await site.serves("127.0.0.4")
            assert await first.dropped() == b""
            for one in [quiet, *others]:
                await one.get("/")
                assert await one.answer() == (200, b"here")
            assert site.guard.evicted == 1

    run(check)


LARGE_HEAD = POST.replace(b"/size", b"/every-byte") + b"content-length: 90000\r\n\r\n"


def half_sent(size: int) -> bytes:
    """A request of which `size` bytes are there, and more are to come."""
    return LARGE_HEAD + b"x" * (size - len(LARGE_HEAD))


def test_where_memory_is_full_the_largest_of_the_heaviest_address_makes_room() -> None:
    async def check() -> None:
        async with serving(most_bytes=100_000) as site:
            quiet = await site.idle("127.0.0.2")
            single = await site.idle("127.0.0.3")
            small, large = await site.idle("127.0.0.4"), await site.idle("127.0.0.4")
            await site.has_sent(single, half_sent(40_000))
            await site.has_sent(small, half_sent(15_000))
            await site.has_sent(large, half_sent(30_000))
            assert site.guard.evicted == 0
            await site.has_sent(quiet, half_sent(16_000))
            assert await large.dropped() == b""
            assert site.guard.evicted == 1
            await single.send(b"x" * (90_000 + len(LARGE_HEAD) - 40_000))
            assert site.guard._bytes <= 100_000 + 90_000

    run(check)


def test_whoever_fills_memory_alone_is_dropped_and_its_bytes_are_given_back() -> None:
    async def check() -> None:
        async with serving(most_bytes=50_000) as site:
            for _ in range(5):
                client = await site.connect(send=half_sent(50_001))
                assert await client.dropped() == b""
            await site.guard.until(0)
            assert site.guard._bytes == 0
            await site.serves()
            assert site.guard.evicted == 5

    run(check)


def test_a_request_that_is_being_answered_makes_no_room() -> None:
    async def check() -> None:
        async with serving(most_bytes=1_000) as site:
            busy = await site.busy()
            for size in (1_001, 1_000, 990):
                half = await site.connect(send=half_sent(size))
                assert await half.dropped() == b""
            site.go.set()
            assert await busy.answer() == (200, b"done")
            assert site.guard.evicted == 3

    run(check)


CROWDED: dict[str, tuple[int, int, list[str]]] = {
    "one place for all, one address": (1, 10, ["127.0.0.1"]),
    "one place for all, two addresses": (1, 10, ["127.0.0.1", "127.0.0.2"]),
    "one place for each address": (10, 1, ["127.0.0.1", "127.0.0.2"]),
    "as many addresses as places": (3, 10, ["127.0.0.1", "127.0.0.2", "127.0.0.3"]),
    "more addresses than places": (3, 10, [f"127.0.0.{last}" for last in range(1, 8)]),
}


@pytest.mark.parametrize(("total", "per_address", "sources"), CROWDED.values(), ids=CROWDED)
def test_every_newcomer_is_served_and_none_is_counted_twice(total: int, per_address: int, sources: list[str]) -> None:
    async def check() -> None:
        async with serving(total=total, per_address=per_address) as site:
            for _ in range(4):
                for source in sources:
                    await site.serves(source)
            assert site.guard._count == sum(map(len, site.guard._by_address.values()))
            assert site.guard._count <= total

    run(check)


def chunked(*sizes: int) -> bytes:
    chunks = b"".join(b"%x\r\n%s\r\n" % (size, b"x" * size) for size in sizes)
    return POST + b"transfer-encoding: chunked\r\n\r\n" + chunks


def of_length(length: str, body: int) -> bytes:
    return POST + f"content-length: {length}\r\n\r\n".encode() + b"x" * body


BODIES: dict[str, tuple[bytes, int, bytes]] = {
    "none": (POST + b"\r\n", 200, b"0"),
    "empty": (of_length("0", 0), 200, b"0"),
    "at the cap": (of_length("1000", 1000), 200, b"1000"),
    "over the cap, not sent": (of_length("1001", 0), 413, b"rejected"),
    "over the cap, sent": (of_length("1001", 1001), 413, b"rejected"),
    "far over the cap": (of_length("9" * 18, 0), 413, b"rejected"),
    "no number can be so large": (of_length("9" * 30, 0), 400, b"Invalid"),
    "a length with leading zeros": (of_length("0005", 5), 200, b"5"),
    "a negative length": (of_length("-1", 0), 400, b"Invalid"),
    "a signed length": (of_length("+5", 5), 400, b"Invalid"),
    "a length that is none": (of_length("five", 5), 400, b"Invalid"),
    "two lengths": (POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\n123456", 400, b"Invalid"),
    "less than was sent": (of_length("5", 50), 400, b"Invalid"),
    "chunks at the cap": (chunked(999, 1, 0), 200, b"1000"),
    "chunks over the cap": (chunked(999, 2), 413, b"rejected"),
    "one chunk over the cap": (chunked(1001), 413, b"rejected"),
    "a chunk that says it is giant": (POST + b"transfer-encoding: chunked\r\n\r\nffffffffff\r\nxx" + b"x" * 999,
                                      413, b"rejected"),
    "a chunk of no length": (POST + b"transfer-encoding: chunked\r\n\r\nxyz\r\n", 400, b""),
    "a length and chunks": (POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400, b""),
    "told not to continue": (POST + b"content-length: 1001\r\nexpect: 100-continue\r\n\r\n", 413, b"rejected"),
}  # fmt: skip


@pytest.mark.parametrize(("sent", "status", "says"), BODIES.values(), ids=BODIES)
def test_a_body_is_read_to_its_cap_whatever_its_head_says(sent: bytes, status: int, says: bytes) -> None:
    async def check() -> None:
        async with serving() as site:
            client = await site.connect(send=sent)
            found, body = await client.answer()
            assert found == status
            assert says in body
            if status == 413:
                assert b"1001" not in body, "a peer sees the code alone"
                assert await client.dropped() == b""

    run(check)


LEFT: dict[str, bytes] = {name: sent for name, sent in STALLED.items() if sent.startswith(POST)}


@pytest.mark.parametrize("leave", [asyncio.StreamWriter.close, asyncio.StreamWriter.write_eof], ids=["closes", "half"])
@pytest.mark.parametrize("sent", LEFT.values(), ids=LEFT)
def test_a_client_that_leaves_in_mid_request_is_forgotten(
    sent: bytes, leave: Callable[[asyncio.StreamWriter], None]
) -> None:
    async def check() -> None:
        async with serving() as site:
            client = await site.connect(send=sent)
            leave(client.writer)
            error = await site.errors.get()
            assert error.code == "unavailable"
            await site.guard.until(0)

    run(check)


# where it cannot listen


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.EADDRINUSE, "Address already in use"), "Another instance may run here, .* one with --ops"),
        (PermissionError(errno.EACCES, "Permission denied"), "Ports below 1024 are root's: name another with --ops"),
    ],
    ids=["taken", "not allowed"],
)
def test_where_it_cannot_listen_it_says_why_and_by_which_option(
    monkeypatch: pytest.MonkeyPatch, error: OSError, says: str
) -> None:
    def bind(_self: socket.socket, _address: object) -> None:
        raise error

    monkeypatch.setattr(socket.socket, "bind", bind)
    with pytest.raises(Unavailable, match=says):
        open_sockets(Address("127.0.0.1", 80), "--ops")
