"""Callers that are answered where their request is read: over a real socket, in the event loop of a server."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvloop
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from rkeyserver.errors import Reason, Rejected, Unavailable
from rkeyserver.service.at_once import Answer, Call, CallersProtocol, callers_protocol, refusal
from rkeyserver.service.callers_app import _AskAgain
from rkeyserver.service.limits import MAX_CONNECTION_BYTES, Guard
from rkeyserver.service.serve import _Server, http_config
from rkeyserver.service.turns import Turns

MOST = 1000
BIG = b"y" * 900_000  # more than a socket takes at once
WAIT = 20.0


@dataclass
class App:
    """Says what it was asked. began, over: how many calls; refused_in: the turns of the loop in which it was too often.

    turn: the number of this one, where a test counts them.
    """

    began: int = 0
    over: int = 0
    said: list[str] = field(default_factory=list)
    turn: int = 0
    refused_in: list[int] = field(default_factory=list)

    def at_once(self, scope: Scope) -> Call | None:
        path = scope["path"]
        if path == "/asgi":
            return None
        self.began += 1
        answers: dict[str, Callable[[bytes], Answer]] = {
            "/bug": lambda _body: self.fail(),
            "/big": lambda _body: Answer((b'"', BIG, b'"')),
            "/never": lambda _body: Answer((b"{}",)),
            "/no": refusal(Rejected(Reason.NOT_PERMITTED, "No.")),
            "/often": self.too_often,
        }
        delay = {"/often": 0.001, "/never": 3600.0}.get(path, 0.0)
        return Call(path[1:2], MOST, answers.get(path, self.echo), self.done, delay)

    def fail(self) -> Answer:
        raise ValueError("a bug")

    def too_often(self, body: bytes) -> Answer:
        self.refused_in.append(self.turn)
        return refusal(Unavailable("Too often."))(body)

    def echo(self, body: bytes) -> Answer:
        self.said.append(body.decode())
        secret = bytes(bytearray(body))
        return Answer((b'{"a":"', secret, b'"}'), secret)

    def done(self) -> None:
        self.over += 1

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("as ever")(scope, receive, send)


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(WAIT):
            head = await self.reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode().strip().lower().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines)
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
            return int(first.split()[1]), headers, body

    async def ended(self) -> bytes:
        async with asyncio.timeout(WAIT):
            return await self.reader.read()


@dataclass
class Scene:
    app: App
    guard: Guard
    path: Path

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_unix_connection(str(self.path), limit=2**22)
        try:
            yield Client(reader, writer)
        finally:
            writer.close()

    async def until(self, *, began: int = 0, over: int = 0) -> None:
        async with asyncio.timeout(WAIT):
            while self.app.began < began or self.app.over < over:  # noqa: ASYNC110 - the application has no event
                await asyncio.sleep(0.001)


def post(path: str, body: bytes = b"a secret", *more: bytes, length: int | None = None) -> bytes:
    size = b"content-length: %d\r\n" % (len(body) if length is None else length)
    return b"POST %s HTTP/1.1\r\nhost: x\r\n%s%s\r\n%s" % (path.encode(), size, b"".join(more), body)


def chunked(path: str, *chunks: bytes) -> bytes:
    parts = b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in (*chunks, b""))
    return b"POST %s HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n%s" % (path.encode(), parts)


Test = Callable[[Scene], Awaitable[None]]
BUFFERS = {"with a buffer of its own": True, "without": False}


@pytest.fixture(params=list(BUFFERS.values()), ids=list(BUFFERS))
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Test], App]:
    """Runs a test against a server of its own."""
    own_buffer = request.param

    def run(test: Test, guard: Guard | None = None) -> App:
        async def inside() -> App:
            scene = Scene(App(), guard or Guard(total=10), tmp_path / "s")
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(scene.path))
                listener.listen()
                listener.setblocking(False)  # noqa: FBT003 - the socket module's signature
                config = http_config(scene.app, callers_protocol(scene.guard, own_buffer=own_buffer))
                server = _Server(config)
                task = asyncio.create_task(server.serve([listener]))
                try:
                    await test(scene)
                finally:
                    server.should_exit = True
                    await task
            assert scene.app.began == scene.app.over, "each call is over, once"
            return scene.app

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(inside())

    return run


def refused(found: tuple[int, dict[str, str], bytes], status: int, word: bytes) -> None:
    assert found[0] == status
    assert word in found[2]


OK: dict[str, bytes] = {
    "a body": post("/a"),
    "none": post("/a", b""),
    "one byte": post("/a", b"x"),
    "as long as may be": post("/a", b"x" * MOST),
    "without a word of its length": b"POST /a HTTP/1.1\r\nhost: x\r\n\r\n",
    "in chunks": chunked("/a", b"a secret", b" of two"),
}
ASKED = {"none": "", "one byte": "x", "as long as may be": "x" * MOST, "without a word of its length": ""}


@pytest.mark.parametrize("name", OK)
def test_it_is_answered_and_the_connection_stays(run: Callable[[Test], App], name: str) -> None:
    asked = ASKED.get(name, "a secret of two" if name == "in chunks" else "a secret")

    async def test(scene: Scene) -> None:
        async with scene.client() as client:
            for _ in range(2):
                await client.send(OK[name])
                status, headers, body = await client.answer()
                assert (status, body) == (200, b'{"a":"%s"}' % asked.encode())
                assert headers["cache-control"] == "no-store"
                assert "connection" not in headers
            await client.send(post("/asgi"))
            assert (await client.answer())[2] == b"as ever"

    assert run(test).said == [asked] * 2


def test_it_may_come_in_pieces(run: Callable[[Test], App]) -> None:
    async def test(scene: Scene) -> None:
        async with scene.client() as client:
            for byte in post("/a", b"in pieces"):
                await client.send(bytes([byte]))
                await asyncio.sleep(0)
            assert (await client.answer())[0] == 200

    assert run(test).said == ["in pieces"]


@pytest.mark.parametrize("end", [b"connection: close\r\n", b""], ids=["asked to", "HTTP/1.0"])
@pytest.mark.parametrize("path", ["/a", "/no", "/bug"])
def test_the_connection_ends_where_it_has_to(run: Callable[[Test], App], path: str, end: bytes) -> None:
    async def test(scene: Scene) -> None:
        async with scene.client() as client:
            asked = post(path, b"x", end)
            await client.send(asked if end else asked.replace(b"HTTP/1.1", b"HTTP/1.0"))
            assert (await client.answer())[1]["connection"] == "close"
            assert await client.ended() == b""

    run(test)


TOO_LARGE: dict[str, tuple[bytes, int]] = {
    "declared, before it is sent": (post("/a", b"x", length=MOST + 1), 403),
    "declared and sent": (post("/a", b"x" * (MOST + 1)), 403),
    "declared beyond all measure": (post("/a", b"x", length=10**15), 403),
    "in chunks": (chunked("/a", *[b"x" * 600] * 2), 403),
}


@pytest.mark.parametrize(("asked", "status"), TOO_LARGE.values(), ids=TOO_LARGE)
def test_what_is_too_large_is_told_so(run: Callable[[Test], App], asked: bytes, status: int) -> None:
    async def test(scene: Scene) -> None:
        async with scene.client() as client:
            await client.send(asked)
            refused(await client.answer(), status, b'"reason":"too-large"')

    assert run(test).said == []


def test_who_asks_whether_he_may_send_may(run: Callable[[Test], App]) -> None:
    async def test(scene: Scene) -> None:
        async with scene.client() as client:
            await client.send(post("/a", b"", b"expect: 100-continue\r\n", length=4))
            assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
            await client.send(b"well")
            assert (await client.answer())[0] == 200

    assert run(test).said == ["well"]


def test_what_is_refused_says_why(run: Callable[[Test], App]) -> None:
    async def test(scene: Scene) -> None:
        async with scene.client() as client:
            await client.send(post("/no"))
            refused(await client.answer(), 403, b'"reason":"not-permitted"')
            await client.send(post("/often"))
            found = await client.answer()
            refused(found, 503, b'"error":"unavailable"')
            assert found[1]["retry-after"] == "1"
            await client.send(post("/a"))
            assert (await client.answer())[0] == 200

    run(test)


def test_a_bug_ends_the_connection_and_is_logged(run: Callable[[Test], App], caplog: pytest.LogCaptureFixture) -> None:
    async def test(scene: Scene) -> None:
        async with scene.client() as client:
            await client.send(post("/bug", b"a-secret-of-the-caller"))
            status, headers, body = await client.answer()
            assert (status, headers["connection"], body) == (500, "close", b"Internal Server Error")

    with caplog.at_level(logging.ERROR):
        run(test)
    assert "A request of b was not answered, which is a bug." in caplog.text
    assert "ValueError: a bug" in caplog.text
    assert "a-secret-of-the-caller" not in caplog.text


def test_what_came_with_a_request_is_not_answered(run: Callable[[Test], App]) -> None:
    async def test(scene: Scene) -> None:
        async with scene.client() as client:
            await client.send(post("/a", b"first") + post("/a", b"second") * 100)
            assert (await client.answer())[2] == b'{"a":"first"}'
            assert (await client.answer())[0] == 400
            assert await client.ended() == b""

    assert run(test).said == ["first"]


def test_a_caller_who_reads_late_gets_all_of_it(run: Callable[[Test], App]) -> None:
    async def test(scene: Scene) -> None:
        async with scene.client() as client:
            for _ in range(2):
                await client.send(post("/big"))
                await asyncio.sleep(0.05)
                assert (await client.answer())[2] == b'"' + BIG + b'"'

    run(test)


def test_a_caller_who_left_is_not_answered(run: Callable[[Test], App]) -> None:
    async def test(scene: Scene) -> None:
        async with scene.client() as client:
            await client.send(post("/never", b"x"))
            await scene.until(began=1)
        await scene.until(over=1)
        async with scene.client() as client:
            await client.send(post("/a", b"half", length=100))
            await scene.until(began=2)
        await scene.until(over=2)

    assert run(test).said == []


def test_one_that_is_dropped_is_over(run: Callable[[Test], App]) -> None:
    async def test(scene: Scene) -> None:
        async with scene.client() as client:
            await client.send(post("/a", b"half", length=100))
            await scene.until(began=1)
            scene.guard.close()
            await scene.until(over=1)
            with contextlib.suppress(ConnectionResetError):
                assert await client.ended() == b""

    run(test)


def test_more_than_a_connection_may_send_ends_it(run: Callable[[Test], App]) -> None:
    async def test(scene: Scene) -> None:
        async with scene.client() as client:
            with contextlib.suppress(ConnectionError):
                await client.send(post("/asgi", b"x" * (MAX_CONNECTION_BYTES + 1)))
                await client.ended()

    run(test)


def test_answers_go_in_turns_by_who_asks(run: Any) -> None:
    async def test(scene: Scene) -> None:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(scene.client()) for _ in range(4)]
            for client, path in zip(clients, ("/n", "/n", "/n", "/q"), strict=True):
                await client.send(post(path, path.encode()))
            for client in clients:
                assert (await client.answer())[0] == 200

    said = run(test, Guard(total=10, answers=Turns())).said
    assert sorted(said) == ["/n", "/n", "/n", "/q"]


@pytest.mark.parametrize("answers", [None, Turns()], ids=["known by the connection", "known by the request"])
def test_those_that_are_refused_together_are_told_so_one_in_a_turn(run: Any, answers: Turns | None) -> None:
    """Their delays end together, and what is then done in one turn everybody waits for."""
    number = 24

    async def test(scene: Scene) -> None:
        def count() -> None:
            scene.app.turn += 1
            counting[0] = asyncio.get_running_loop().call_soon(count)

        counting = [asyncio.get_running_loop().call_soon(count)]
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(scene.client()) for _ in range(number)]
            for client in clients:
                client.writer.write(post("/often"))
            for client in clients:
                assert (await client.answer())[0] == 503
        counting[0].cancel()

    found = run(test, Guard(total=number, answers=answers)).refused_in
    assert len(found) == len(set(found)) == number


@pytest.mark.parametrize("path", ["/a", "/no", "/often", "/asgi"])
def test_a_request_leaves_nothing_to_the_collector_of_cycles(run: Callable[[Test], App], path: str) -> None:
    """It stops everybody for as long as it looks."""
    number = 50

    async def test(scene: Scene) -> None:
        async with scene.client() as client:
            for _ in range(2):
                gc.collect()
                for _ in range(number):
                    await client.send(post(path))
                    await client.answer()
            assert gc.collect() < number

    run(test)


def test_an_action_that_was_not_answered_at_once_can_be_asked_again() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    asyncio.run(_AskAgain()({"type": "http", "method": "POST", "path": "/v1/wrap", "headers": []}, receive, send))
    assert sent[0]["status"] == 503


def test_the_protocol_is_the_same_with_and_without_a_buffer() -> None:
    made = callers_protocol(Guard(total=1), own_buffer=False)
    assert isinstance(made, type)
    assert issubclass(made, CallersProtocol)
