"""What one caller with a token may take, and what comes through TLS and through the relay when things go wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from OpenSSL import SSL
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from tests.fakes.loop import run_timeless
from tests.fakes.signing import policy_text

from rkeyserver.address import Address
from rkeyserver.appraisal.policy import Policy, parse_policy
from rkeyserver.errors import Misuse, RkeyError, Unavailable
from rkeyserver.service import kept_open, relay, token_tls
from rkeyserver.service.at_once import Answer
from rkeyserver.service.audit_line import reason_of
from rkeyserver.service.callers_requests import MAX_BODY
from rkeyserver.service.limits import Guard
from rkeyserver.service.living import Health
from rkeyserver.service.rates import REFUSED_DELAY
from rkeyserver.service.token_listener import PER_SECOND, PER_TOKEN, ByToken, TokenListener, own_names
from rkeyserver.tokens import digest, token_of

TOKENS = [token_of(bytes([number]) * 32) for number in range(2)]


def policy() -> Policy:
    entries = [f'[[callers]]\ntoken_sha256 = "{digest(one)}"\nmay = ["derive"]\nlabels = ["a/*"]\n' for one in TOKENS]
    return parse_policy(policy_text("00" * 16) + "\n" + "\n".join(entries))


@dataclass
class Fake:
    """As much of an instance as the application asks for."""

    policy: Policy | None
    refused: Counter[str] = field(default_factory=Counter)
    told: list[str] = field(default_factory=list)

    def refuse(self, error: RkeyError, address: str) -> None:
        self.refused[reason_of(error)] += 1
        self.told.append(f"{address} {reason_of(error)}")


async def asked(app: ByToken, token: str = TOKENS[0], host: str = "localhost") -> tuple[int, dict[str, Any]]:
    sent: list[MutableMapping[str, Any]] = []
    headers = [(b"host", host.encode()), (b"authorization", f"Bearer {token}".encode())]
    scope = {"type": "http", "method": "GET", "path": "/", "headers": headers, "state": {}, "client": ("::1", 1)}

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    body = b"".join(one.get("body", b"") for one in sent)
    return int(sent[0]["status"]), json.loads(body or b"{}") | {"headers": dict(sent[0]["headers"])}


def app(instance: Fake, inside: Any = None) -> ByToken:
    async def well(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(status_code=204)(scope, receive, send)

    return ByToken(instance, {}, inside or well, "own")  # type: ignore[arg-type]  # Fake is what it needs


def test_each_token_has_so_many_requests_at_once() -> None:
    async def run() -> None:
        go = asyncio.Event()

        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            await go.wait()
            await Response(status_code=204)(scope, receive, send)

        made = app(Fake(policy()), slow)
        waiting = [asyncio.create_task(asked(made)) for _ in range(PER_TOKEN)]
        await asyncio.sleep(0)
        status, found = await asked(made)
        assert (status, found["error"]) == (503, "unavailable")
        assert found["headers"][b"retry-after"] == b"1"
        assert made.instance.refused == {"unavailable": 1}
        other = asyncio.create_task(asked(made, TOKENS[1]))
        await asyncio.sleep(0)
        go.set()
        assert (await other)[0] == 204
        assert {(await one)[0] for one in waiting} == {204}
        assert (await asked(made))[0] == 204

    asyncio.run(run())


def test_each_token_has_so_many_requests_in_a_second() -> None:
    async def run() -> None:
        instance = Fake(policy())
        made = app(instance)
        made._rates.now = lambda: 0.0
        answers = [(await asked(made))[0] for _ in range(int(PER_SECOND) + 5)]
        assert answers == [204] * int(PER_SECOND) + [503] * 5
        assert instance.refused == {"unavailable": 5}
        assert (await asked(made, TOKENS[1]))[0] == 204

    asyncio.run(run())


def action(token: str = TOKENS[0], host: str = "localhost", path: str = "/v1/derive", method: str = "POST") -> Any:
    headers = [(b"host", host.encode()), (b"authorization", f"Bearer {token}".encode())]
    return {"type": "http", "method": method, "path": path, "headers": headers, "state": {}, "client": ("::1", 1)}


def with_actions() -> ByToken:
    def does(caller: Any, body: bytes) -> Answer:
        return Answer((str(caller).encode(), body))

    return ByToken(Fake(policy()), {"/v1/derive": does}, app(Fake(None)).app, "own")  # type: ignore[arg-type]  # as above


def test_an_action_of_who_is_known_is_answered_at_once_as_his() -> None:
    async def run() -> None:
        made = with_actions()
        calls = [made.at_once(action(token)) for token in TOKENS]
        for call, token in zip(calls, TOKENS, strict=True):
            assert call is not None
            assert call.who == f"token {digest(token)[:16]}"
            assert call.answer(b"a body").parts == (call.who.encode(), b"a body")
        assert made.at_once(action(token_of(bytes([9]) * 32))) is None
        assert made.at_once(action(host="evil.example")) is None
        assert made.at_once(action(path="/v1/ping")) is None
        assert made.at_once(action(method="GET")) is None

    asyncio.run(run())


def test_actions_of_a_token_count_until_they_are_over() -> None:
    async def run() -> None:
        made = with_actions()
        calls = [made.at_once(action()) for _ in range(PER_TOKEN)]
        one_more = made.at_once(action())
        assert one_more is not None
        assert one_more.delay
        with pytest.raises(Unavailable, match="in the works"):
            one_more.answer(b"a body")
        other = made.at_once(action(TOKENS[1]))
        assert other is not None
        assert not other.delay
        for call in [*calls, one_more]:
            assert call is not None
            assert call.done is not None
            call.done()
        again = made.at_once(action())
        assert again is not None
        assert not again.delay

    asyncio.run(run())


def test_actions_of_a_token_in_a_second() -> None:
    async def run() -> None:
        made = with_actions()
        made._rates.now = lambda: 0.0
        delays = []
        for _ in range(int(PER_SECOND) + 3):
            call = made.at_once(action())
            assert call is not None
            assert call.done is not None
            delays.append(call.delay)
            call.done()
        assert delays == [0.0] * int(PER_SECOND) + [REFUSED_DELAY] * 3
        assert made.instance.refused == {"unavailable": 3}

    asyncio.run(run())


def test_wrong_tokens_wait_the_longer_the_more_of_them_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        waited.append(seconds)
        await sleep(0)

    monkeypatch.setattr("rkeyserver.service.token_listener.asyncio.sleep", noted)

    async def run() -> None:
        instance = Fake(policy())
        made = app(instance)
        answers = await asyncio.gather(*(asked(made, "rkt_wrong") for _ in range(30)))
        assert {status for status, _ in answers} == {401}
        assert {found["headers"][b"www-authenticate"] for _, found in answers} == {b"Bearer"}
        assert instance.told == ["::1 unknown-token"] * 30
        assert instance.refused == {"unknown-token": 30}
        assert made._waiting == {}

    asyncio.run(run())
    assert waited[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert max(waited) == 2.0


def test_without_a_keyring_nobody_is_known() -> None:
    instance = Fake(None)
    status, found = asyncio.run(asked(app(instance)))
    assert (status, found["error"]) == (503, "unavailable")
    assert instance.refused == {"unavailable": 1}


HOSTS = {"localhost": 204, "127.0.0.1:8890": 204, "[::1]": 204, "own": 204, "evil.example": 421, "": 421, "a b": 421}


@pytest.mark.parametrize("host", HOSTS)
def test_only_its_own_names_are_answered(host: str) -> None:
    assert asyncio.run(asked(app(Fake(policy())), host=host))[0] == HOSTS[host]


def test_what_the_certificate_is_for() -> None:
    assert own_names(Address("", 1)) == own_names(Address("127.0.0.1", 1)) == ["localhost", "127.0.0.1", "::1"]
    assert own_names(Address("rkey.example", 1)) == ["localhost", "127.0.0.1", "::1", "rkey.example"]


def test_a_listener_that_a_bug_closed_says_so_and_opens_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_open, "FIRST_RETRY", 0.01)
    tries: list[str] = []

    async def run() -> None:
        again = asyncio.Event()
        listener = TokenListener(Fake(None), Address("", 0), lambda _: [])  # type: ignore[arg-type]  # as above

        async def adjust() -> None:
            tries.append(listener.problem)
            if len(tries) == 1:
                raise AssertionError
            again.set()

        listener._kept.adjust = adjust
        async with listener.running():
            await again.wait()
        assert listener.problem == ""

    asyncio.run(run())
    assert tries == ["", "A bug; the log has it."]
    assert "This is a bug." in caplog.text


def test_a_change_while_it_ends_does_not_keep_it() -> None:
    """A cancellation that comes together with the event ends the task all the same."""

    async def run() -> None:
        async def adjust() -> float:
            return 60

        async def close() -> None:
            pass

        kept = kept_open.KeptOpen(adjust, close, "Nothing is done")
        async with asyncio.timeout(5), kept.running():
            await asyncio.sleep(0.01)
            kept.changed()

    asyncio.run(run())


def test_what_is_being_answered_when_it_closes_has_a_second() -> None:
    async def run() -> None:
        listener = TokenListener(Fake(None), Address("", 0), lambda _: [])  # type: ignore[arg-type]  # as above
        ended = asyncio.Event()

        async def answering() -> None:
            await ended.wait()

        task = asyncio.create_task(answering())
        listener._state.tasks.add(task)
        task.add_done_callback(listener._state.tasks.discard)
        asyncio.get_running_loop().call_later(0.01, ended.set)
        await listener._close()
        assert task.done()

    asyncio.run(run())


# --- TLS


class Transport:
    """A socket's, that notes what is done to it."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.closed = False

    def get_extra_info(self, name: str, default: object = None) -> object:
        return ("127.0.0.1", 1) if name == "peername" else default

    def write(self, data: bytes) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close


@pytest.fixture
def encrypted() -> Iterator[tuple[token_tls.Encrypted, Transport, Guard, asyncio.AbstractEventLoop]]:
    async def made() -> tuple[token_tls.Encrypted, Transport, Guard]:
        guard, transport = Guard(total=4), Transport()
        outer = token_tls.Encrypted(SSL.Context(SSL.TLS_SERVER_METHOD), guard, asyncio.Protocol)
        outer.connection_made(transport)  # type: ignore[arg-type]  # as much of one as is used
        return outer, transport, guard

    with contextlib.closing(asyncio.new_event_loop()) as loop:
        yield *loop.run_until_complete(made()), loop


def test_a_handshake_counts_and_ends(encrypted: Any) -> None:
    outer, transport, guard, loop = encrypted
    assert guard._count == 1
    outer.pause_writing()  # nobody inside who would want to know
    outer.resume_writing()

    async def trickle() -> None:
        # The head of a hello that never ends.
        outer.data_received(b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03")
        for _ in range(20):
            outer.data_received(b"\x00" * 1000)

    loop.run_until_complete(trickle())
    assert transport.closed
    outer.data_received(b"more")  # it is not looked at
    outer.connection_lost(None)
    assert guard._count == 0


def test_a_client_that_does_not_read_stops_what_is_inside(encrypted: Any) -> None:
    outer, _, _, _ = encrypted
    said: list[str] = []
    outer._inside = SimpleNamespace(
        pause_writing=lambda: said.append("pause"),
        resume_writing=lambda: said.append("resume"),
        connection_lost=lambda _: said.append("lost"),
    )
    outer.pause_writing()
    outer.resume_writing()
    outer.connection_lost(None)
    assert said == ["pause", "resume", "lost"]


# --- The relay


@pytest.mark.parametrize("error", [httpx.ReadError("x"), httpx.RemoteProtocolError("x"), httpx.WriteError("x")])
@pytest.mark.parametrize("times", [1, 2])
def test_a_connection_that_was_kept_too_long_costs_the_relay_one_more_try(
    error: httpx.TransportError, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [error] * times

    async def once(*_: object) -> Response:
        if left:
            raise left.pop()
        return Response(b"well")

    async def run() -> bytes:
        ahead = relay.Ahead(Address("localhost", 1), ssl.create_default_context(), TOKENS[0])
        assert TOKENS[0] not in repr(ahead)
        monkeypatch.setattr(ahead, "_once", once)
        try:
            return bytes((await ahead.pass_on("POST", "/", b"")).body)
        finally:
            await ahead.close()

    if times == 1:
        assert asyncio.run(run()) == b"well"
    else:
        with pytest.raises(Unavailable, match="The relay gets no answer from localhost:1"):
            asyncio.run(run())


def test_an_answer_without_an_end_is_not_passed_back() -> None:
    async def endless(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=httpx.ByteStream(b"x" * (MAX_BODY + 1)))

    async def run() -> None:
        ahead = relay.Ahead(Address("localhost", 1), ssl.create_default_context(), TOKENS[0])
        await ahead.close()
        ahead._client = httpx.AsyncClient(base_url="https://localhost", transport=httpx.MockTransport(endless))
        try:
            with pytest.raises(Unavailable, match="answers with more than"):
                await ahead.pass_on("POST", "/v1/derive", b"{}")
        finally:
            await ahead.close()

    asyncio.run(run())


HELPS, REFUSES, SILENT, NOT_NOW = "helps", "refuses", "silent", "not now"
# what each of several listeners does: who is asked in three calls, and what comes of them
CHOICES: dict[str, tuple[list[str], list[list[int]]]] = {
    "the first helps": ([HELPS, HELPS], [[0], [0], [0]]),
    "the first refuses": ([REFUSES, HELPS], [[0, 1], [1], [1]]),
    "the first is silent": ([SILENT, HELPS], [[0, 1], [1], [1]]),
    "the first has no keyring": ([NOT_NOW, HELPS], [[0, 1], [1], [1]]),
    "a mixture": ([REFUSES, SILENT, NOT_NOW, HELPS], [[0, 1, 2, 3], [3], [3]]),
    "none helps": ([REFUSES, NOT_NOW], [[0, 1], [1, 0], [0, 1]]),
    "one alone": ([REFUSES], [[0], [0], [0]]),
}


@pytest.mark.parametrize(("does", "asked"), CHOICES.values(), ids=CHOICES)
def test_a_relay_passes_on_to_the_one_that_helps(
    does: list[str], asked: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[int] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        tls = ssl.create_default_context()
        all_of_them = tuple(relay.Ahead(Address("localhost", 1 + at), tls, TOKENS[0]) for at in range(len(does)))

        def answering(at: int) -> Callable[..., Awaitable[Response]]:
            async def once(*_: object) -> Response:
                log.append(at)
                if does[at] == REFUSES:
                    raise httpx.ConnectError("refused")
                if does[at] == SILENT:
                    await asyncio.sleep(60)
                return Response(b"well", 503 if does[at] == NOT_NOW else 200)

            return once

        for at, ahead in enumerate(all_of_them):
            monkeypatch.setattr(ahead, "_once", answering(at))
        choice = relay.Choice(all_of_them, Health(loop.time, relay.REMEMBER_SECONDS))
        found = []
        for _ in range(3):
            log.clear()
            began = loop.time()
            with contextlib.nullcontext() if HELPS in does else contextlib.suppress(Unavailable):
                answer = await choice.pass_on("POST", "/", b"")
                assert (answer.status_code == 200) == (HELPS in does)
            assert loop.time() - began <= relay.SILENT_SECONDS + 0.1
            found.append(list(log))
        assert found == asked
        await choice.close()
        assert str(choice) == ", ".join(f"localhost:{1 + at}" for at in range(len(does)))

    run_timeless(run)


def test_a_relay_believes_only_what_is_a_ca(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match=r"Is a directory|there is none in it"):
        relay.pinned(tmp_path)
