"""What whoever watches an instance asks it: what it is, whether it lives, whether it is ready, its numbers, a drill."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rkeyserver.errors import HTTP_STATUS, RkeyError, Unavailable
from rkeyserver.service.instance import Instance
from rkeyserver.service.policy_app import told
from rkeyserver.service.routes import DRILL_PATH


def health_routes(instance: Instance) -> list[Route]:
    """They change nothing, and nothing in the answers is secret."""

    async def status(_request: Request) -> Response:
        try:
            return JSONResponse(instance.status())
        except RkeyError as error:
            return told(error)

    async def metrics(_request: Request) -> Response:
        from rkeyserver.service.metrics import CONTENT_TYPE, exposition  # noqa: PLC0415 - not before it is asked for

        try:
            return Response(exposition(instance), headers={"content-type": CONTENT_TYPE})
        except RkeyError as error:
            return told(error)

    async def readyz(_request: Request) -> Response:
        from rkeyserver.service.ready import readiness  # noqa: PLC0415 - not before it is asked for

        found = readiness(instance)
        return JSONResponse(found, status_code=200 if found["ready"] else HTTP_STATUS[Unavailable])

    async def drill(_request: Request) -> Response:
        # Anyone who may read the status may have it: it changes nothing and costs what a status does.
        try:
            if instance.drill is None:
                raise Unavailable("This instance runs no drills.")
            return JSONResponse(instance.drill.now().shown())
        except RkeyError as error:
            return told(error)

    async def healthz(_request: Request) -> Response:
        serving = instance.keyring is not None
        return JSONResponse({"serving": serving}, status_code=200 if serving else HTTP_STATUS[Unavailable])

    return [
        Route("/status", status),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", metrics),
        Route(DRILL_PATH, drill, methods=["POST"]),
    ]
