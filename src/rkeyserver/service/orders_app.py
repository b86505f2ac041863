"""Orders over HTTP, for whoever may give them (docs/spec/orders.md)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rkeyserver.appraisal.orders import MAX_ORDER, parse_order
from rkeyserver.errors import RkeyError
from rkeyserver.service.app import read_body
from rkeyserver.service.policy_app import told
from rkeyserver.service.routes import ORDERS_PATH
from rkeyserver.service.steward import Steward


def order_routes(steward: Steward, is_owners: Callable[[Request], bool]) -> list[Route]:
    """POST an order. is_owners: whether a request is from the owner of this machine."""

    async def order(request: Request) -> Response:
        try:
            done = await steward.obey(parse_order(await read_body(request, MAX_ORDER)), owner=is_owners(request))
        except RkeyError as error:
            return told(error)
        return JSONResponse(dataclasses.asdict(done))

    return [Route(ORDERS_PATH, order, methods=["POST"])]
