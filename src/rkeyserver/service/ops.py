"""The operations listener (loopback): whether it is alive, and what it is."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router

from rkeyserver.errors import HTTP_STATUS, RkeyError, Unavailable
from rkeyserver.service.authority import Authority
from rkeyserver.service.policy_app import policy_routes


def make_owner_app(authority: Authority) -> Router:
    """The application of the owner's socket."""
    return Router(redirect_slashes=False, routes=policy_routes(authority, owner=True))


def make_ops_app(authority: Authority) -> Router:
    """The application of the operations listener."""
    instance = authority.instance

    async def status(_request: Request) -> Response:
        try:
            return JSONResponse(instance.status())
        except RkeyError as error:
            return JSONResponse({"error": error.code, "found": str(error)}, status_code=HTTP_STATUS[type(error)])

    async def healthz(_request: Request) -> Response:
        serving = instance.keyring is not None
        return JSONResponse({"serving": serving}, status_code=200 if serving else HTTP_STATUS[Unavailable])

    return Router(
        redirect_slashes=False,
        routes=[Route("/status", status), Route("/healthz", healthz), *policy_routes(authority, owner=False)],
    )
