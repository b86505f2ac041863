"""What callers ask for, over HTTP: derive, wrap, unwrap, rewrap (docs/spec/callers.md). JSON in, JSON out.

Whoever asks is known before: by the kernel on a Unix socket, by a token elsewhere. What he may do is the policy's.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

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

_JSON: Final = "application/json"
WhoAsks = Callable[[Request], Caller]


def caller_routes(instance: Instance, who: WhoAsks) -> list[Route]:
    """The routes, for callers that `who` tells."""

    async def derived(request: Request) -> Response:
        asked = await _asked(request, DeriveRequest)
        keyring = _permitted(instance, who(request), Action.DERIVE, asked.label)
        found = derive(keyring, asked.label.encode(), size=asked.size, generation=asked.generation)
        with found.secret as secret:
            return _secret("key", secret.view, found.generation)

    async def wrapped(request: Request) -> Response:
        asked = await _asked(request, WrapRequest)
        keyring = _permitted(instance, who(request), Action.WRAP, asked.label)
        blob = wrap(keyring, asked.label.encode(), memoryview(asked.plaintext), asked.associated_data)
        return _wrapped(blob, keyring.current.id)

    async def unwrapped(request: Request) -> Response:
        asked = await _asked(request, UnwrapRequest)
        keyring = _permitted(instance, who(request), Action.UNWRAP, asked.label)
        found = unwrap(keyring, asked.label.encode(), asked.wrapped, asked.associated_data)
        with found.secret as secret:
            return _secret("plaintext", secret.view, found.generation)

    async def rewrapped(request: Request) -> Response:
        asked = await _asked(request, UnwrapRequest)
        keyring = _permitted(instance, who(request), Action.REWRAP, asked.label)
        blob = rewrap(keyring, asked.label.encode(), asked.wrapped, asked.associated_data)
        return _wrapped(blob, keyring.current.id)

    async def ping(_request: Request) -> Response:
        return Response(status_code=204)

    def answered(answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def told_too(request: Request) -> Response:
            try:
                return await answer(request)
            except RkeyError as error:
                return told(error)

        return told_too

    posts = {DERIVE_PATH: derived, WRAP_PATH: wrapped, UNWRAP_PATH: unwrapped, REWRAP_PATH: rewrapped}
    return [
        Route(PING_PATH, ping, methods=["GET"]),
        *(Route(path, answered(answer), methods=["POST"]) for path, answer in posts.items()),
    ]


async def _asked(request: Request, kind: type[T]) -> T:
    return read_request(await read_body(request, MAX_BODY), kind)


def _permitted(instance: Instance, caller: Caller, action: Action, label: str) -> Keyring:
    keyring, policy = instance.keyring, instance.policy
    if keyring is None or policy is None:
        raise Unavailable(NO_KEYRING)
    check_permitted(caller, action, label, policy)
    return keyring


def _wrapped(blob: bytes, generation: str) -> Response:
    return Response(msgspec.json.encode({"wrapped": blob, "generation": generation}), media_type=_JSON)


def _secret(name: str, secret: memoryview, generation: str) -> Response:
    encoded = base64.b64encode(secret)
    body = b'{"%s":"%s","generation":"%s"}' % (name.encode(), encoded, generation.encode())
    erase(encoded)
    return Response(body, media_type=_JSON, headers={"cache-control": "no-store"})
