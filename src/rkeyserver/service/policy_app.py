"""The policy over HTTP: read by anyone on this machine, changed by whoever may."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rkeyserver.appraisal.change import MAX_CHANGE, last_sequence
from rkeyserver.errors import HTTP_STATUS, Rejected, RkeyError, Unavailable
from rkeyserver.service.app import NO_KEYRING, read_body
from rkeyserver.service.authority import Authority
from rkeyserver.service.routes import POLICY_PATH


def told(error: RkeyError) -> Response:
    """An error for somebody on this machine: all of it, unlike what a peer may know."""
    found = {"error": error.code, "message": error.message, "advice": error.advice}
    if isinstance(error, Rejected):
        found["reason"] = str(error.reason)
    # A client that reads no JSON has to know this too.
    headers = {"retry-after": str(max(1, round(error.retry_after)))} if isinstance(error, Unavailable) else {}
    return JSONResponse(found, status_code=HTTP_STATUS[type(error)], headers=headers)


def policy_routes(authority: Authority, is_owners: Callable[[Request], bool]) -> list[Route]:
    """GET the policy, POST a change of it. is_owners: whether a request is from the owner of this machine."""

    async def show(_request: Request) -> Response:
        keyring, policy = authority.instance.keyring, authority.instance.policy
        if keyring is None or policy is None:
            return told(Unavailable(NO_KEYRING))
        header = keyring.header
        return JSONResponse(
            {
                "domain": header.domain,
                "change": last_sequence(header.changes),
                "digest": policy.digest,
                "policy": header.policy,
            }
        )

    async def change(request: Request) -> Response:
        try:
            applied = await authority.apply(await read_body(request, MAX_CHANGE), owner=is_owners(request))
        except RkeyError as error:
            return told(error)
        return JSONResponse(dataclasses.asdict(applied))

    return [Route(POLICY_PATH, show, methods=["GET"]), Route(POLICY_PATH, change, methods=["POST"])]
