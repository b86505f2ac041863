"""A recovery recipient's side over HTTP: fetch the request of an instance, post a contribution to it."""

from __future__ import annotations

import asyncio
from typing import Final

import httpx
import msgspec

from rkeyserver.address import Address
from rkeyserver.errors import Reason, Rejected, Unavailable
from rkeyserver.exchange.messages import MAX_MESSAGE, RecoveryRequest
from rkeyserver.service.fetch import EXCHANGE_SECONDS
from rkeyserver.service.http_client import body_of, client
from rkeyserver.service.routes import CONTENT_TYPE, RECOVERY_PATH
from rkeyserver.why import why

MAX_PROGRESS: Final = 1024


class Progress(msgspec.Struct, frozen=True):
    """How far the recovery is, as the instance says: nothing of it is proved."""

    shares: int
    threshold: int


async def fetch_request(host: Address) -> bytes:
    """The RecoveryRequest of the instance at `host`, as it came.

    Raises: Unavailable, Rejected(TOO_LARGE).
    """
    return await _ask(host, "GET", b"", MAX_MESSAGE[RecoveryRequest])


async def post_contribution(host: Address, contribution: bytes) -> Progress:
    """Send a RecoveryContribution.

    Raises: Rejected(REFUSED_BY_PEER) if the instance cannot use it; Unavailable.
    """
    return parse_progress(await _ask(host, "POST", contribution, MAX_PROGRESS), host)


def parse_progress(answer: bytes, host: Address) -> Progress:
    """What the instance at `host` answered.

    Raises: Unavailable.
    """
    try:
        return msgspec.json.decode(answer, type=Progress)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unavailable(f"{host} answers with something else than how far the recovery is.") from error


async def _ask(host: Address, method: str, body: bytes, most: int) -> bytes:
    try:
        async with (
            asyncio.timeout(EXCHANGE_SECONDS),
            client(EXCHANGE_SECONDS) as asked,
            asked.stream(
                method, f"http://{host}{RECOVERY_PATH}", content=body, headers={"content-type": CONTENT_TYPE}
            ) as response,
        ):
            answer = await body_of(response, most)
    except (httpx.TransportError, TimeoutError) as error:
        raise Unavailable(f"No answer from {host}: {why(error)}.") from error
    if answer is None:
        raise Rejected(Reason.TOO_LARGE, f"{host} answers with more than {most} bytes.")
    if response.status_code == httpx.codes.OK:
        return answer
    if response.status_code == httpx.codes.FORBIDDEN:
        raise Rejected(
            Reason.REFUSED_BY_PEER,
            f"{host} cannot use what was contributed.",
            advice="Its log says why: a share that it has already, or one for another request.",
        )
    raise Unavailable(
        f"{host} asks for no recovery ({response.status_code}).",
        advice="Is it running with --recover? It stops asking as soon as it has shares enough.",
    )
