"""The peers' listener: a few routes, each with a cap on its body. Nothing else is answered."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from rkeyserver.appraisal.policy import Policy
from rkeyserver.errors import HTTP_STATUS, Reason, Rejected, RkeyError, Unavailable
from rkeyserver.exchange import messages
from rkeyserver.exchange.armour import armoured_size
from rkeyserver.exchange.primary import Proved
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.service.audit_line import Line, Peer, reason_of
from rkeyserver.service.hints import hint_of
from rkeyserver.service.instance import Instance, Role
from rkeyserver.service.limits import Shares
from rkeyserver.service.parts import Recovering, Releases
from rkeyserver.service.routes import (
    CONTENT_TYPE,
    HAND_OVER_PATH,
    HELLO_PATH,
    HINT_PATH,
    RECOVERY_PATH,
    RELEASE_HELLO_PATH,
    RELEASE_PATH,
)
from rkeyserver.service.steward import Steward
from rkeyserver.service.verification import MAX_WAITING
from rkeyserver.service.vouching import in_its_time

HTTP_TOO_LARGE: Final = 413
_LONGEST_LENGTH: Final = 20  # digits; Python refuses to read endless ones
MAX_CONTRIBUTION_BODY: Final = armoured_size(messages.MAX_MESSAGE[messages.RecoveryContribution])
MAX_SHARE: Final = MAX_WAITING // 8  # of all that may wait for their verification, for one address
MAX_RELEASES: Final = MAX_SHARE // 2  # of attested release, beside that: enclaves take no machine's place
NO_KEYRING: Final = "This instance has no keyring yet."
Answer = Callable[[Request], Awaitable[Response]]
log = logging.getLogger(__name__)


async def read_body(request: Request, most: int) -> bytes:
    """The request's body, never more than `most` bytes of it.

    Raises: Rejected(TOO_LARGE), Unavailable if the client left.
    """
    # As ASGI has it, and not by Starlette's stream: of a small call that would be a tenth.
    declared = next((value for name, value in request.scope["headers"] if name == b"content-length"), b"0")
    if not declared.isdigit() or len(declared) > _LONGEST_LENGTH or int(declared) > most:
        raise Rejected(Reason.TOO_LARGE, f"A body of {declared[:20].decode('latin-1')} bytes; at most {most} are read.")
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise Unavailable("The client left before its request was whole.")
        part, more = message["body"], message["more_body"]
        size += len(part)
        if size > most:
            raise Rejected(Reason.TOO_LARGE, f"A body of over {most} bytes; at most {most} are read.")
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def coarse(error: RkeyError) -> Response:
    """What a peer may know of an error: its kind, never its text."""
    status = HTTP_STATUS[type(error)]
    if isinstance(error, Rejected) and error.reason is Reason.TOO_LARGE:
        status = HTTP_TOO_LARGE
    headers = {"retry-after": "1"} if isinstance(error, Unavailable) else {}
    return JSONResponse({"error": error.code}, status_code=status, headers=headers | {"connection": "close"})


def _address(request: Request) -> str:
    return "" if request.client is None else request.client.host


@dataclass(frozen=True)
class _Endpoint:
    """One route's ASGI application: the answer, or what a peer may know of the error."""

    instance: Instance
    answer: Answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self.answer(request)
        except RkeyError as error:
            self.instance.refuse(error, _address(request))
            response = coarse(error)
        await response(scope, receive, send)


def make_app(steward: Steward) -> Router:
    """The application of the peers' listener."""
    instance = steward.instance
    shares = Shares(MAX_SHARE)

    async def hello(request: Request) -> Response:
        body = await read_body(request, messages.MAX_MESSAGE[messages.Hello])
        challenge = instance.granter.challenge(body)
        if instance.keyring is None:
            raise Unavailable(NO_KEYRING)
        return Response(challenge, media_type=CONTENT_TYPE)

    async def hand_over(request: Request) -> Response:
        began = perf_counter()
        verdict = "accepted", ""
        try:
            body = await read_body(request, messages.MAX_MESSAGE[messages.Request])
            with shares.of(_address(request)):
                return Response(await grant(steward, body, _address(request)), media_type=CONTENT_TYPE)
        except RkeyError as error:
            verdict = "refused", reason_of(error)
            raise
        finally:
            instance.decided[verdict] += 1
            instance.latency[HAND_OVER_PATH].observe(perf_counter() - began)

    async def hint(_request: Request) -> Response:
        keyring = instance.keyring
        if keyring is None:
            raise Unavailable(NO_KEYRING)
        found = hint_of(keyring, member=instance.members.own, primary=instance.role is Role.PRIMARY)
        return Response(msgspec.json.encode(found), media_type="application/json")

    async def recovery(_request: Request) -> Response:
        return Response(_recovering(instance).request, media_type=CONTENT_TYPE)

    async def contribution(request: Request) -> Response:
        body = await read_body(request, MAX_CONTRIBUTION_BODY)
        return JSONResponse(_recovering(instance).take(body))

    return Router(
        redirect_slashes=False,
        routes=[
            Route(HELLO_PATH, _Endpoint(instance, hello), methods=["POST"]),
            Route(HAND_OVER_PATH, _Endpoint(instance, hand_over), methods=["POST"]),
            Route(HINT_PATH, _Endpoint(instance, hint), methods=["GET"]),
            Route(RECOVERY_PATH, _Endpoint(instance, recovery), methods=["GET"]),
            Route(RECOVERY_PATH, _Endpoint(instance, contribution), methods=["POST"]),
            *_release_routes(instance),
        ],
    )


def _release_routes(instance: Instance) -> list[Route]:
    """Those of attested release."""
    shares = Shares(MAX_RELEASES)

    async def release_hello(request: Request) -> Response:
        body = await read_body(request, messages.MAX_MESSAGE[messages.Hello])
        return Response(_releases(instance).challenge(body), media_type=CONTENT_TYPE)

    async def release(request: Request) -> Response:
        body = await read_body(request, messages.MAX_MESSAGE[messages.ReleaseRequest])
        with shares.of(_address(request)):
            return Response(await _releases(instance).release(body, _address(request)), media_type=CONTENT_TYPE)

    return [
        Route(RELEASE_HELLO_PATH, _Endpoint(instance, release_hello), methods=["POST"]),
        Route(RELEASE_PATH, _Endpoint(instance, release), methods=["POST"]),
    ]


def _recovering(instance: Instance) -> Recovering:
    if instance.recovering is None:
        raise Unavailable("This instance asks for no recovery.")
    return instance.recovering


def _releases(instance: Instance) -> Releases:
    if instance.releases is None:
        raise Unavailable("This instance releases no keys.")
    return instance.releases


async def grant(steward: Steward, request: bytes, address: str) -> bytes:
    """One hand-over: prove, appraise, record, and only then seal the keyring to the peer.

    Raises: Rejected, Unavailable. Requests without genuine evidence are counted, not recorded one by one.
    """
    instance = steward.instance
    keyring, policy = instance.keyring, instance.policy
    if keyring is None or policy is None:
        raise Unavailable(NO_KEYRING)
    proved = await instance.granter.prove(request, policy)
    machine = proved.claims.ppid
    try:
        answer = await _decide(instance, keyring, policy, proved, address)
    except RkeyError as error:
        log.warning("Refused machine %s at %s: %s. %s", machine, address, reason_of(error), error)
        raise
    instance.granted += 1
    instance.know(machine)
    new = instance.members.asked(proved.request, machine=machine, host=address, now=instance.clock.now())
    log.info("Handed the keyring of domain %s to machine %s at %s.", keyring.domain, machine, address)
    try:
        if new or keyring.pending is not None:
            await instance.reach_store()
            instance.save_members()  # after a crash too it has to be known that somebody else has the key
        await steward.acknowledged()
    except RkeyError as error:
        # What was asked for is answered all the same.
        log.error("What is known of the members could not be stored, or waits. %s", error)  # noqa: TRY400 - no traceback
    return answer


async def _decide(instance: Instance, keyring: Keyring, policy: Policy, proved: Proved, address: str) -> bytes:
    line = Line(
        event="hand-over",
        verdict="accepted",
        domain=keyring.domain,
        sequence=keyring.header.sequence,
        peer=Peer.of(proved.claims, address),
        policy=policy.digest,
        transcript=proved.transcript.hex(),
        peer_head=proved.request.audit_head.hex(),
    )
    try:
        accepted = instance.granter.appraise(proved, policy)
    except Rejected as error:
        await instance.audit.write(line.refused(error))
        raise
    await instance.audit.write(line)
    try:
        # Many are recorded at once; each is then sealed, and vouched for, in a turn of its own.
        await instance.joins.turn(address)
        _check_held(instance, keyring)
        sealed = instance.granter.seal(accepted, keyring, instance.members.owner())
        await instance.joins.turn(address)
        answer = await in_its_time(instance.platform, instance.granter.grant, sealed)
        _check_held(instance, keyring)
    except RkeyError as error:
        # A second line: the first says that it may be given, this one that it was not.
        await instance.audit.write(line.refused(error))
        raise
    return answer


def _check_held(instance: Instance, keyring: Keyring) -> None:
    if instance.keyring is not keyring:
        raise Unavailable("The keyring was replaced while this hand-over was decided.")
