"""The operations listener (loopback): whether it is alive and ready, what it is, its numbers, and a drill."""

from __future__ import annotations

import functools
import ipaddress
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from rkeyserver.address import parse_address
from rkeyserver.errors import Misuse, RkeyError, Unavailable
from rkeyserver.service.authority import Authority
from rkeyserver.service.health_app import health_routes
from rkeyserver.service.instance import Instance
from rkeyserver.service.orders_app import order_routes
from rkeyserver.service.policy_app import policy_routes, told
from rkeyserver.service.routes import AUDIT_CHECKPOINT_PATH

HTTP_MISDIRECTED: Final = 421  # RFC 9110 section 15.5.20


def is_own(host: str, name: str) -> bool:
    """Whether a Host header asks for this listener, whose --ops is `name`: by an IP address, `localhost` or `name`.

    Whoever owns any other name can have it lead here, and a browser on this machine then lets his pages read what is
    answered (DNS rebinding). No name leads to where an address was asked for.
    """
    try:
        asked = parse_address(host, 0).host
    except Misuse:
        return False
    if asked.lower() in {"localhost", name.lower()}:
        return True
    try:
        ipaddress.ip_address(asked)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class _Addressed:
    """Answers only what asks for this listener by a name that is nobody else's."""

    app: ASGIApp
    name: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hosts = Request(scope).headers.getlist("host")
        if len(hosts) == 1 and is_own(hosts[0], self.name):
            await self.app(scope, receive, send)
            return
        body = {
            "error": Misuse.code,
            "message": "The operations listener was asked for by a name that is not its own.",
            "advice": "Ask by its IP address, by localhost, or by the name that its --ops gives.",
        }
        await JSONResponse(body, HTTP_MISDIRECTED)(scope, receive, send)


async def _checkpoint(instance: Instance, _request: Request) -> Response:
    """The head of its audit file, signed: no secret, and of use only elsewhere."""
    try:
        return Response(instance.audit.checkpoint().text(), media_type="application/json")
    except RkeyError as error:
        return told(error)


def make_ops_app(authority: Authority, name: str) -> ASGIApp:
    """The application of the operations listener. name: the host that --ops names."""
    instance = authority.instance

    async def provision_ca(request: Request) -> Response:
        try:
            if instance.provision is None:
                raise Unavailable("This instance gives no keys to applications.")
            found = instance.provision.ca_certificate(request.query_params.get("generation", ""))
        except RkeyError as error:
            return told(error)
        return Response(found, media_type="application/x-pem-file")

    routes = [
        *health_routes(instance),
        Route("/provision-ca", provision_ca),
        Route(AUDIT_CHECKPOINT_PATH, functools.partial(_checkpoint, instance)),
        *policy_routes(authority, lambda _request: False),
        *order_routes(authority.steward, lambda _request: False),
    ]
    return _Addressed(Router(redirect_slashes=False, routes=routes), name)
