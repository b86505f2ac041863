"""A Unix socket that leads to a listener for callers with a token: an ordinary process of the host.

It adds its token to each request, so whoever can connect to its socket has that token's rights, and nothing tells one
from another: the mode of the socket says who can. It passes on the callers' routes and nothing else, bodies as they
are, and keeps no more of them than the request under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from rkeyserver.address import Address
from rkeyserver.errors import HTTP_STATUS, Misuse, RkeyError, Unavailable
from rkeyserver.service.app import read_body
from rkeyserver.service.callers_requests import MAX_BODY
from rkeyserver.service.http_client import body_of
from rkeyserver.service.limits import Guard, guarded
from rkeyserver.service.living import Health
from rkeyserver.service.local_socket import local_socket
from rkeyserver.service.notify import notify
from rkeyserver.service.policy_app import told
from rkeyserver.service.routes import DERIVE_PATH, PING_PATH, REWRAP_PATH, UNWRAP_PATH, WRAP_PATH
from rkeyserver.service.serve import STOPPED_BY, http_config
from rkeyserver.why import why

SECONDS: Final = 10.0  # for one request there and back
CONNECT_SECONDS: Final = 3.0
SILENT_SECONDS: Final = 1.0  # for all of it, while there is another to ask; a caller's library waits for two
REMEMBER_SECONDS: Final = 10.0
KEPT_SECONDS: Final = 3.0  # for which an unused connection is kept; the listener itself drops it after 5
MAX_AHEAD: Final = 32  # connections to the listener: as many as one token may have requests
MAX_CONNECTIONS: Final = 256
PER_USER: Final = 128
TRIES: Final = 2  # a connection that was kept may be closed just then; every action is safe to repeat
_PASSED_BACK: Final = ("content-type", "cache-control", "retry-after")
log = logging.getLogger(__name__)


def pinned(ca: Path) -> ssl.SSLContext:
    """TLS that believes this CA and no other.

    Raises: Misuse if the file has none.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # create_default_context() obeys SSLKEYLOGFILE
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        made.load_verify_locations(ca)
    except (OSError, ssl.SSLError) as error:
        reason = "there is none in it" if isinstance(error, ssl.SSLError) else error.strerror
        raise Misuse(
            f"The CA {ca} cannot be used: {reason}.",
            advice="Fetch it on the machine of the instance, from /provision-ca of its operations listener.",
        ) from error
    return made


@dataclass
class Ahead:
    """One listener that requests are passed on to."""

    to: Address
    tls: ssl.SSLContext
    token: str = field(repr=False)
    _client: httpx.AsyncClient = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._client = httpx.AsyncClient(
            base_url=f"https://{self.to}",
            timeout=httpx.Timeout(SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=MAX_AHEAD, keepalive_expiry=KEPT_SECONDS),
            trust_env=False,
            follow_redirects=False,
            headers={"accept-encoding": "identity", "authorization": f"Bearer {self.token}"},
            verify=self.tls,
        )

    async def close(self) -> None:
        """End its connections."""
        await self._client.aclose()

    async def pass_on(self, method: str, path: str, body: bytes) -> Response:
        """What the listener answers.

        Raises: Unavailable if it answers nothing, or more than any answer has.
        """
        left = TRIES
        while True:
            left -= 1
            try:
                async with asyncio.timeout(SECONDS):
                    return await self._once(method, path, body)
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
                if not left:
                    raise self._silent(error) from error
            except (httpx.TransportError, TimeoutError) as error:
                raise self._silent(error) from error

    async def _once(self, method: str, path: str, body: bytes) -> Response:
        headers = {"content-type": "application/json"} if body else {}
        async with self._client.stream(method, path, content=body, headers=headers) as answer:
            found = await body_of(answer, MAX_BODY)
            if found is None:
                raise Unavailable(f"What is on {self.to} answers with more than {MAX_BODY} bytes.")
            back = {name: answer.headers[name] for name in _PASSED_BACK if name in answer.headers}
            return Response(found, answer.status_code, back)

    def _silent(self, error: Exception) -> Unavailable:
        return Unavailable(
            f"The relay gets no answer from {self.to}: {why(error)}.",
            advice="Does the instance run, does its policy name tokens, and is the CA the one of its domain?",
        )


@dataclass(frozen=True)
class Choice:
    """The listeners, in the order in which they are asked; one that did not help is asked last for a while."""

    all: tuple[Ahead, ...]
    health: Health[Address] = field(default_factory=lambda: Health(seconds=REMEMBER_SECONDS))

    async def pass_on(self, method: str, path: str, body: bytes) -> Response:
        """What the first one answers that helps: the next is asked at once after a refusal, or when one is silent.

        Raises: Unavailable if none answers.
        """
        by_address = {one.to: one for one in self.all}
        *others, last = self.health.order(list(by_address))
        for address in others:
            try:
                async with asyncio.timeout(SILENT_SECONDS):
                    found = await by_address[address].pass_on(method, path, body)
            except (Unavailable, TimeoutError) as error:
                self.health.failed(address)
                log.debug("Passing by %s: %s", address, error)
                continue
            if found.status_code != HTTP_STATUS[Unavailable]:
                self.health.answered(address)
                return found
            self.health.failed(address)
        return await by_address[last].pass_on(method, path, body)

    async def close(self) -> None:
        """End all connections."""
        for one in self.all:
            await one.close()

    def __str__(self) -> str:
        return ", ".join(str(one.to) for one in self.all)


def make_relay_app(ahead: Ahead | Choice) -> Router:
    """The application of the relay's socket."""

    async def passed(request: Request) -> Response:
        try:
            body = await read_body(request, MAX_BODY)
            return await ahead.pass_on(request.method, request.url.path, body)
        except RkeyError as error:
            return told(error)

    posts = (DERIVE_PATH, WRAP_PATH, UNWRAP_PATH, REWRAP_PATH)
    return Router(
        redirect_slashes=False,
        routes=[
            Route(PING_PATH, passed, methods=["GET"]),
            *(Route(path, passed, methods=["POST"]) for path in posts),
        ],
    )


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(ahead: Choice, listener: socket.socket, path: Path) -> None:
    server = _Server(http_config(make_relay_app(ahead), guarded(Guard(total=MAX_CONNECTIONS, per_address=PER_USER))))
    loop = asyncio.get_running_loop()

    def stop() -> None:
        server.should_exit = True

    for number in STOPPED_BY:
        # nohup(1) starts what is to outlive its terminal with SIGHUP ignored, and so it stays.
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, stop)
    log.info("Passing on what comes to %s to %s; whoever can connect has the rights of the token.", path, ahead)
    notify("READY=1")  # connections wait in the socket's queue until they are taken
    try:
        await server.serve([listener])
    finally:
        notify("STOPPING=1")
        await ahead.close()


def run(to: Sequence[Address], ca: Path, token: str, path: Path, mode: int) -> None:
    """Pass on until it is told to stop. The socket is there from its start to its end, whoever answers ahead.

    Raises: Misuse, Unavailable if it cannot start.
    """
    tls = pinned(ca)
    with local_socket(path, mode) as listener:

        async def live() -> None:
            await _serve(Choice(tuple(Ahead(one, tls, token) for one in to)), listener, path)

        asyncio.run(live())
