"""The peers' listener: three routes, each with a cap on its body. Nothing else is answered."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rkeyserver.errors import HTTP_STATUS, Reason, Rejected, RkeyError, Unavailable
from rkeyserver.exchange import messages
from rkeyserver.service.audit import Line, Peer
from rkeyserver.service.instance import Instance
from rkeyserver.service.routes import CONTENT_TYPE, HAND_OVER_PATH, HELLO_PATH, HINT_PATH

HTTP_TOO_LARGE: Final = 413
log = logging.getLogger(__name__)


async def read_body(request: Request, most: int) -> bytes:
    """The request's body, never more than `most` bytes of it.

    Raises: Rejected(TOO_LARGE), Unavailable if the client left.
    """
    declared = request.headers.get("content-length", "0")
    if not declared.isdigit() or int(declared) > most:
        raise Rejected(Reason.TOO_LARGE, f"A body of {declared[:20]} bytes; at most {most} are read.")
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > most:
                raise Rejected(Reason.TOO_LARGE, f"A body of over {most} bytes; at most {most} are read.")
    except ClientDisconnect as error:
        raise Unavailable("The client left before its request was whole.") from error
    return bytes(body)


def coarse(error: RkeyError) -> Response:
    """What a peer may know of an error: its kind, never its text."""
    status = HTTP_STATUS[type(error)]
    if isinstance(error, Rejected) and error.reason is Reason.TOO_LARGE:
        status = HTTP_TOO_LARGE
    headers = {"retry-after": "1"} if isinstance(error, Unavailable) else {}
    return JSONResponse({"error": error.code}, status_code=status, headers=headers | {"connection": "close"})


def _address(request: Request) -> str:
    return "" if request.client is None else request.client.host


def make_app(instance: Instance) -> Starlette:
    """The application of the peers' listener."""

    async def hello(request: Request) -> Response:
        body = await read_body(request, messages.MAX_MESSAGE[messages.Hello])
        return Response(instance.granter.challenge(body), media_type=CONTENT_TYPE)

    async def hand_over(request: Request) -> Response:
        body = await read_body(request, messages.MAX_MESSAGE[messages.Request])
        return Response(await grant(instance, body, _address(request)), media_type=CONTENT_TYPE)

    async def hint(_request: Request) -> Response:
        keyring = instance.keyring
        if keyring is None:
            raise Unavailable("This instance has no keyring yet.")
        header = keyring.header
        return JSONResponse({"domain": header.domain, "epoch": header.epoch, "sequence": header.sequence})

    def answered(endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                return await endpoint(request)
            except RkeyError as error:
                instance.count_refusal(error)
                log.info("%s of %s refused. %s", request.url.path, _address(request), error)
                return coarse(error)

        return answer

    return Starlette(
        routes=[
            Route(HELLO_PATH, answered(hello), methods=["POST"]),
            Route(HAND_OVER_PATH, answered(hand_over), methods=["POST"]),
            Route(HINT_PATH, answered(hint), methods=["GET"]),
        ]
    )


async def grant(instance: Instance, request: bytes, address: str) -> bytes:
    """One hand-over: prove, appraise, record, and only then seal the keyring to the peer.

    Raises: Rejected, Unavailable. Requests without genuine evidence are counted, not recorded one by one.
    """
    granter, keyring, policy = instance.granter, instance.keyring, instance.policy
    if keyring is None or policy is None:
        raise Unavailable("This instance has no keyring yet.")
    proved = await granter.prove(request, policy)
    line = Line(
        event="hand-over",
        verdict="accepted",
        domain=keyring.domain,
        sequence=keyring.header.sequence,
        peer=Peer.of(proved.claims, address),
        policy=policy.digest,
        transcript=proved.transcript.hex(),
    )
    try:
        accepted = granter.appraise(proved, policy)
    except Rejected as error:
        refusal = {"verdict": "refused", "reason": str(error.reason), "found": error.message}
        await instance.audit.write(_changed(line, refusal))
        raise
    await instance.audit.write(line)
    if instance.keyring is not keyring:
        raise Unavailable("The keyring was replaced while this hand-over was recorded.")
    answer = granter.grant(accepted, keyring)
    instance.granted += 1
    instance.know(proved.claims.ppid)
    log.info("Handed the keyring of domain %s to machine %s at %s.", keyring.domain, proved.claims.ppid, address)
    return answer


def _changed(line: Line, changes: dict[str, str]) -> Line:
    return Line(**{name: getattr(line, name) for name in Line.__struct_fields__} | changes)
