"""What callers ask for, over HTTP: derive, wrap, unwrap, rewrap (docs/spec/callers.md). JSON in, JSON out.

Whoever asks is known before: by the kernel on a Unix socket, by a token elsewhere. What he may do is the policy's.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from rkeyserver.appraisal.callers import Action, Caller, check_permitted
from rkeyserver.errors import RkeyError, Unavailable
from rkeyserver.keyring.derived import derive
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.wrapping import rewrap, unwrap, wrap
from rkeyserver.secret import erase
from rkeyserver.service.app import NO_KEYRING, read_body
from rkeyserver.service.callers_requests import MAX_BODY, DeriveRequest, T, UnwrapRequest, WrapRequest, read_request
from rkeyserver.service.instance import Instance
from rkeyserver.service.policy_app import told
from rkeyserver.service.routes import DERIVE_PATH, PING_PATH, REWRAP_PATH, UNWRAP_PATH, WRAP_PATH

_JSON: Final = b"application/json"
_JSON_HEADER: Final = (b"content-type", _JSON)
WhoAsks = Callable[[Request], Caller]


@dataclass(frozen=True)
class _Found:
    """What was asked for, as JSON. One of Starlette's responses takes as long to make as the key in it."""

    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = (_JSON_HEADER,)

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        length = (b"content-length", b"%d" % len(self.body))
        await send({"type": "http.response.start", "status": 200, "headers": [*self.headers, length]})
        await send({"type": "http.response.body", "body": self.body})


@dataclass(frozen=True)
class _Endpoint:
    """One route's ASGI application: what was asked for, or all of the error."""

    answer: Callable[[Request], Awaitable[_Found]]
    instance: Instance
    path: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = perf_counter()
        try:
            found: ASGIApp = await self.answer(Request(scope, receive))
        except RkeyError as error:
            found = told(error)
        await found(scope, receive, send)
        self.instance.latency[self.path].observe(perf_counter() - began)


def caller_routes(instance: Instance, who: WhoAsks) -> list[Route]:
    """The routes, for callers that `who` tells."""

    async def derived(request: Request) -> _Found:
        asked = await _asked(request, DeriveRequest)
        keyring = _permitted(instance, who(request), Action.DERIVE, asked.label)
        found = derive(keyring, asked.label.encode(), size=asked.size, generation=asked.generation)
        with found.secret as secret:
            return _secret("key", secret.view, found.generation)

    async def wrapped(request: Request) -> _Found:
        asked = await _asked(request, WrapRequest)
        keyring = _permitted(instance, who(request), Action.WRAP, asked.label)
        blob = wrap(keyring, asked.label.encode(), memoryview(asked.plaintext), asked.associated_data)
        return _wrapped(blob, keyring.current.id)

    async def unwrapped(request: Request) -> _Found:
        asked = await _asked(request, UnwrapRequest)
        keyring = _permitted(instance, who(request), Action.UNWRAP, asked.label)
        found = unwrap(keyring, asked.label.encode(), asked.wrapped, asked.associated_data)
        with found.secret as secret:
            return _secret("plaintext", secret.view, found.generation)

    async def rewrapped(request: Request) -> _Found:
        asked = await _asked(request, UnwrapRequest)
        keyring = _permitted(instance, who(request), Action.REWRAP, asked.label)
        blob = rewrap(keyring, asked.label.encode(), asked.wrapped, asked.associated_data)
        return _wrapped(blob, keyring.current.id)

    async def ping(_request: Request) -> Response:
        return Response(status_code=204)

    posts = {DERIVE_PATH: derived, WRAP_PATH: wrapped, UNWRAP_PATH: unwrapped, REWRAP_PATH: rewrapped}
    return [
        *(Route(path, _Endpoint(answer, instance, path), methods=["POST"]) for path, answer in posts.items()),
        Route(PING_PATH, ping, methods=["GET"]),
    ]


async def _asked(request: Request, kind: type[T]) -> T:
    return read_request(await read_body(request, MAX_BODY), kind)


def _permitted(instance: Instance, caller: Caller, action: Action, label: str) -> Keyring:
    keyring, policy = instance.keyring, instance.policy
    if keyring is None or policy is None:
        raise Unavailable(NO_KEYRING)
    check_permitted(caller, action, label, policy)
    return keyring


def _wrapped(blob: bytes, generation: str) -> _Found:
    return _Found(msgspec.json.encode({"wrapped": blob, "generation": generation}))


def _secret(name: str, secret: memoryview, generation: str) -> _Found:
    encoded = base64.b64encode(secret)
    body = b'{"%s":"%s","generation":"%s"}' % (name.encode(), encoded, generation.encode())
    erase(encoded)
    return _Found(body, (_JSON_HEADER, (b"cache-control", b"no-store")))
