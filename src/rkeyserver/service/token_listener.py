"""Answers callers that show a token, over TLS on the loopback: for where no Unix socket leads to the server.

The listener is open while a keyring is held whose policy names tokens, and at no other time. It has the routes of the
local socket but for those that change the policy. Whoever has a token is the caller that it stands for: inside an
enclave that includes the host, which sees every token that its programs use (docs/operations/tokens-and-relay.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import logging
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from rkeyserver.address import Address
from rkeyserver.appraisal.callers import TokenCaller
from rkeyserver.appraisal.token_callers import caller_of
from rkeyserver.errors import Misuse, Rejected, RkeyError, Unavailable
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.service.app import NO_KEYRING
from rkeyserver.service.at_once import Call, callers_protocol, refusal
from rkeyserver.service.audit_line import reason_of
from rkeyserver.service.callers_app import MAX_ASKED, Callers, Does, caller_routes
from rkeyserver.service.instance import Instance
from rkeyserver.service.kept_open import KeptOpen
from rkeyserver.service.limits import Guard, Shares, client_of
from rkeyserver.service.ops import HTTP_MISDIRECTED, is_own
from rkeyserver.service.policy_app import told
from rkeyserver.service.provision import generation_of
from rkeyserver.service.rates import REFUSED_DELAY, Rates
from rkeyserver.service.serve import http_config
from rkeyserver.service.turns import Turns

MAX_CONNECTIONS: Final = 256
PER_ADDRESS: Final = 128  # most callers come from one, 127.0.0.1
PER_TOKEN: Final = 32  # requests of one token at once
PER_SECOND: Final = 2000.0  # requests of one token
FIRST_DELAY: Final = 0.1  # seconds that a wrong token waits for its answer, and for each that waits already
MOST_DELAY: Final = 2.0
MOST_DELAYED: Final = 20  # of one address; what waits for its answer keeps its place among the connections
STOP_SECONDS: Final = 1.0
HTTP_UNAUTHORIZED: Final = 401  # RFC 6750 section 3
Inside = Callable[[], asyncio.Protocol]
log = logging.getLogger(__name__)


def own_names(address: Address) -> list[str]:
    """What the listener's certificate is for: the loopback, and the host of --callers."""
    names = ["localhost", "127.0.0.1", "::1", *([address.host] if address.host else [])]
    return list(dict.fromkeys(names))


@dataclass(frozen=True)
class ByToken:
    """The application of the listener: whoever shows no token that the policy names learns nothing and waits for it."""

    instance: Instance
    actions: dict[str, Does]
    app: ASGIApp
    name: str
    _shares: Shares = field(default_factory=lambda: Shares(PER_TOKEN))
    _rates: Rates = field(
        default_factory=lambda: Rates(PER_SECOND, PER_SECOND, lambda: asyncio.get_running_loop().time())
    )
    _waiting: Counter[str] = field(default_factory=Counter)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI has it: what is no action, and whoever is not known."""
        request = Request(scope, receive)
        try:
            who = str(self._caller(request))
            with self._shares.of(who):
                self._rates.take(who)
                await self.app(scope, receive, send)
                return
        except Rejected as error:
            answer = await self._refused(error, "" if request.client is None else request.client.host)
        except Misuse as error:
            answer = JSONResponse(
                {"error": error.code, "message": error.message, "advice": error.advice}, HTTP_MISDIRECTED
            )
        except Unavailable as error:
            self.instance.refused[reason_of(error)] += 1
            await asyncio.sleep(REFUSED_DELAY)
            answer = told(error)
        await answer(scope, receive, send)

    def at_once(self, scope: Scope) -> Call | None:
        """As at_once.AtOnce: an action, for a caller that is known and asks no more than he may."""
        does = self.actions.get(scope["path"])
        if does is None or scope["method"] != "POST":
            return None
        try:
            caller = self._caller(Request(scope))
        except RkeyError:
            return None  # he is told why, and waits for it, as ASGI has it
        who = str(caller)
        share = contextlib.ExitStack()
        try:
            share.enter_context(self._shares.of(who))
            self._rates.take(who)
        except Unavailable as error:
            self.instance.refused[reason_of(error)] += 1
            return Call(who, MAX_ASKED, refusal(error), share.close, REFUSED_DELAY)
        return Call(who, MAX_ASKED, partial(does, caller), share.close)

    def _caller(self, request: Request) -> TokenCaller:
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or not is_own(hosts[0], self.name):
            raise Misuse(
                "This listener was asked for by a name that is not its own.",
                advice="Ask by its IP address, by localhost, or by the name that its --callers gives.",
            )
        policy = self.instance.policy
        if policy is None:
            raise Unavailable(NO_KEYRING)
        return caller_of(request.headers.getlist("authorization"), policy)

    async def _refused(self, error: Rejected, host: str) -> Response:
        self.instance.refuse(error, host)
        answer = told(error)
        answer.status_code = HTTP_UNAUTHORIZED
        answer.headers["www-authenticate"] = "Bearer"
        client = client_of(host)
        if self._waiting[client] < MOST_DELAYED:
            await self._delay(client)
        else:
            answer.headers["connection"] = "close"
        return answer

    async def _delay(self, client: str) -> None:
        self._waiting[client] += 1
        try:
            # A server that stops ends what still waits: it is answered then, where uvicorn would log it as a bug.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(min(MOST_DELAY, FIRST_DELAY * self._waiting[client]))
        finally:
            self._waiting[client] -= 1
            if not self._waiting[client]:
                del self._waiting[client]


def make_token_app(instance: Instance, name: str) -> ByToken:
    """The application. name: the host that --callers names."""
    routes = Router(redirect_slashes=False, routes=caller_routes())
    return ByToken(instance, Callers(instance).actions(), routes, name)


@dataclass
class TokenListener:
    """The listener and what it is doing. open_sockets: as serve.open_sockets()."""

    instance: Instance
    address: Address
    open_sockets: Callable[[Address], list[socket.socket]]
    _kept: KeptOpen = field(init=False)
    _servers: list[asyncio.Server] = field(default_factory=list, init=False)
    _guard: Guard = field(
        default_factory=lambda: Guard(total=MAX_CONNECTIONS, per_address=PER_ADDRESS, answers=Turns()), init=False
    )
    _state: ServerState = field(default_factory=ServerState, init=False)
    _encrypted: Callable[[Inside], asyncio.Protocol] | None = field(default=None, init=False, repr=False)
    _generation: str | None = field(default=None, init=False)
    _fingerprint: str | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._kept = KeptOpen(self._adjust, self._close, "Callers with a token are not answered")

    @property
    def problem(self) -> str:
        """Why it is not as the policy wants it; empty if it is."""
        return self._kept.problem

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """A context in which the listener is open whenever the policy opens it."""
        self.instance.tokens = self
        async with self._kept.running():
            yield

    def changed(self) -> None:
        """Another keyring is held: look at its policy."""
        self._kept.changed()

    def status(self) -> dict[str, Any]:
        """What `rkeyserver status` shows of it."""
        sockets = [one.getsockname() for server in self._servers for one in server.sockets]
        return {
            "listening": [str(Address(*name[:2])) for name in sockets],
            "problem": self.problem,
            "ca_generation": self._generation,
            "ca_sha256": self._fingerprint,
        }

    async def _adjust(self) -> float | None:
        """Open or close, or take a certificate of another CA, as the policy wants it now.

        Raises: Unavailable if nothing can listen there, or the policy names a generation that is not here or retired.
        """
        keyring, policy = self.instance.keyring, self.instance.policy
        if keyring is None or policy is None or policy.ca is None or not policy.tokens:
            await self._close()
            return None
        generation = generation_of(keyring, policy.ca)
        if self._generation != generation:
            self._certify(keyring, generation)
        if not self._servers:
            await self._open()
            names = self.status()["listening"]
            log.info("Answering callers with %d token(s) on %s.", len(policy.tokens), names)
            _warn_of_network(self._servers)
        return None

    def _certify(self, keyring: Keyring, generation: str) -> None:
        from rkeyserver.service.provision_ca import Ca  # noqa: PLC0415 - only who names tokens needs it
        from rkeyserver.service.token_tls import Encrypted, server_context  # noqa: PLC0415 - the same

        ca = Ca.derive(keyring, generation)
        self._encrypted = functools.partial(Encrypted, server_context(ca, own_names(self.address)), self._guard)
        self._generation, self._fingerprint = generation, ca.fingerprint

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        config = http_config(
            make_token_app(self.instance, self.address.host), callers_protocol(self._guard, own_buffer=False)
        )
        config.load()
        self._state = ServerState()

        def inside() -> asyncio.Protocol:
            made: asyncio.Protocol = config.http_protocol_class(config, self._state, {}, loop)  # type: ignore[call-arg]  # uvicorn's own, of which mypy knows the base alone
            return made

        def accepted() -> asyncio.Protocol:
            assert self._encrypted is not None  # noqa: S101 - _certify() comes first
            return self._encrypted(inside)

        sockets = self.open_sockets(self.address)
        self._servers = [await loop.create_server(accepted, sock=one) for one in sockets]

    async def _close(self) -> None:
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        for one in list(self._state.connections):
            one.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                while self._state.tasks:
                    await asyncio.wait(self._state.tasks)
        self._guard.close()
        if servers:
            log.info("Callers with a token are not answered any more.")
        self._encrypted = self._generation = self._fingerprint = None


def _warn_of_network(servers: list[asyncio.Server]) -> None:
    for server in servers:
        for one in server.sockets:
            host, port = one.getsockname()[:2]
            if not ipaddress.ip_address(host).is_loopback:
                log.warning(
                    "Callers on %s (--callers) are asked from the network: whoever has a token can use it from there.",
                    Address(host, port),
                )
