"""Asking another instance for the keyring: the standby's side of the exchange over HTTP.

One exchange goes to one address, over one connection at a time. A name is resolved once; of its addresses the one that
answers first is asked first (living.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from typing import Final

import httpx

from rkeyserver.address import Address
from rkeyserver.attestation.evidence import Identity
from rkeyserver.errors import Reason, Rejected, Unavailable
from rkeyserver.exchange.messages import (
    MAX_MESSAGE,
    PROTOCOL_VERSION,
    Challenge,
    ChallengeBody,
    Grant,
    Hello,
    decode,
    encode,
    identity_of,
)
from rkeyserver.exchange.standby import Asking, Greeting, Received
from rkeyserver.service.hints import Hint, parse_hint
from rkeyserver.service.http_client import CONNECT_SECONDS, body_of, client
from rkeyserver.service.living import living
from rkeyserver.service.routes import CONTENT_TYPE, HAND_OVER_PATH, HELLO_PATH, HINT_PATH
from rkeyserver.service.vouching import in_its_time
from rkeyserver.why import why

EXCHANGE_SECONDS: Final = 20.0
HELLO_SECONDS: Final = 5.0  # of these, for the first answer: who is silent so long is passed by
MAX_ADDRESSES: Final = 8
MAX_HINT: Final = 64 * 1024


class _NoAnswer(Exception):
    """An address gave no answer that the exchange could go on with. What it says is not proved by anything."""


async def _resolve(address: Address) -> list[Address]:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:  # TimeoutError is one
        raise Unavailable(f"The name {address.host} does not resolve: {why(error)}.") from error
    return list(dict.fromkeys(Address(str(entry[4][0]), address.port) for entry in found))[:MAX_ADDRESSES]


async def fetch_keyring(host: Address, asking: Asking) -> Received:
    """The keyring from the instance at `host`, after both sides have proved themselves; the caller closes it.

    Raises: Unavailable if no address of it answers, or if this machine cannot prove or verify now; Rejected if one side
    refuses the other. An answer that refuses is not proved: the other addresses are asked all the same.
    """
    failures: list[str] = []
    refused = False
    async with contextlib.aclosing(living(await _resolve(host), answers)) as addresses:
        async for address in addresses:
            try:
                async with asyncio.timeout(EXCHANGE_SECONDS):
                    return await _exchange(address, asking)
            except (httpx.TransportError, TimeoutError, _NoAnswer) as error:
                failures.append(f"{address}: {why(error)}")
            except Rejected as error:
                if error.reason is not Reason.REFUSED_BY_PEER:
                    raise
                refused = True
                failures.append(f"{address} refused this machine")
    if refused:
        raise Rejected(
            Reason.REFUSED_BY_PEER,
            f"{failures[0]}." if len(failures) == 1 else f"{host} refused this machine ({'; '.join(failures)}).",
            advice="The log and the audit file there have the reason.",
        )
    raise Unavailable(f"No answer from {host} ({'; '.join(failures)}).")


async def _exchange(address: Address, asking: Asking) -> Received:
    greeting = Greeting.begin(asking)
    async with client(EXCHANGE_SECONDS, base_url=f"http://{address}") as asked:
        async with asyncio.timeout(HELLO_SECONDS):
            challenge = await _post(asked, HELLO_PATH, greeting.message, MAX_MESSAGE[Challenge])
        requesting = await in_its_time(asking.attester, greeting.challenged, challenge)
        grant = await _post(asked, HAND_OVER_PATH, requesting.message, MAX_MESSAGE[Grant])
    # Outside, so that nothing is waited for once the keyring is open: it would be lost to a deadline.
    return await requesting.granted(grant)


async def fetch_hint(host: Address) -> Hint | None:
    """What `host` says of its state, by anybody who answers there first; None if nobody does so in time."""
    url = f"http://{host}{HINT_PATH}"
    try:
        async with (
            asyncio.timeout(CONNECT_SECONDS),
            client(CONNECT_SECONDS) as asked,
            asked.stream("GET", url) as response,
        ):
            answer = await body_of(response, MAX_HINT)
        return parse_hint(answer or b"") if response.status_code == httpx.codes.OK else None
    except (httpx.TransportError, httpx.InvalidURL, TimeoutError, UnicodeError):
        return None


async def answers(host: Address) -> bool:
    """Whether whoever is at `host` says that it has a keyring. Nothing is proved by it."""
    return await fetch_hint(host) is not None


async def fetch_claimed(host: Address, own: Identity) -> Identity | None:
    """Which machine whoever answers at `host` first says that it is; None if nobody does so in time.

    own: who asks. Nothing is proved, and nothing stays of it at the other side.
    """
    hello = Hello(
        version=PROTOCOL_VERSION,
        instance=secrets.token_bytes(16),
        platform=own.platform,
        machine=own.machine,
        identity=b"",
    )
    try:
        async with (
            asyncio.timeout(CONNECT_SECONDS),
            client(CONNECT_SECONDS, base_url=f"http://{host}") as asked,
        ):
            answer = await _post(asked, HELLO_PATH, encode(hello), MAX_MESSAGE[Challenge])
        return identity_of(decode(decode(answer, Challenge).body, ChallengeBody))
    except (httpx.TransportError, httpx.InvalidURL, TimeoutError, UnicodeError, _NoAnswer, Rejected):
        return None


async def _post(asked: httpx.AsyncClient, path: str, body: bytes, most: int) -> bytes:
    async with asked.stream("POST", path, content=body, headers={"content-type": CONTENT_TYPE}) as response:
        answer = await body_of(response, most)
        if answer is None:
            raise Rejected(Reason.TOO_LARGE, f"{asked.base_url} answers with more than {most} bytes.")
        if response.status_code == httpx.codes.OK:
            return answer
        if response.status_code == httpx.codes.FORBIDDEN:
            raise Rejected(Reason.REFUSED_BY_PEER, f"{asked.base_url} refused this machine.")
        why_not = (
            " (it has no keyring yet, or too much to do)"
            if response.status_code == httpx.codes.SERVICE_UNAVAILABLE
            else ""
        )
        raise _NoAnswer(f"it answers {response.status_code} to {path}{why_not}")
