"""How an enclave asks a server over HTTP: one connection, no proxy, no redirect, no endless answer.

There is no TLS: the exchange proves and encrypts by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import httpx

from rkeyserver.address import Address
from rkeyserver.errors import Reason, Rejected

CONNECT_SECONDS: Final = 3.0
MAX_ADDRESSES: Final = 8
_CONTENT_TYPE: Final = "application/msgpack"

Post = Callable[[str, bytes, int], Awaitable[bytes]]
"""(path, body, most bytes of the answer) -> the answer's body."""


class NoAnswer(Exception):
    """A server gave no answer that the exchange could go on with. Nothing proves what it says."""


async def resolved(host: Address) -> list[Address]:
    """Its addresses, in order: one exchange goes to one of them.

    Raises: NoAnswer.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            found = await loop.getaddrinfo(host.host, host.port, type=socket.SOCK_STREAM)
    except OSError as error:  # TimeoutError is one
        raise NoAnswer("its name does not resolve") from error
    return list(dict.fromkeys(Address(str(entry[4][0]), host.port) for entry in found))[:MAX_ADDRESSES]


@contextlib.asynccontextmanager
async def asking(address: Address, seconds: float) -> AsyncIterator[Post]:
    """A context that gives what posts to one address; all of it may take `seconds`.

    Raises: NoAnswer; from what is posted also Rejected(REFUSED_BY_PEER | TOO_LARGE).
    """
    try:
        async with (
            asyncio.timeout(seconds),
            httpx.AsyncClient(
                base_url=f"http://{address}",
                timeout=httpx.Timeout(seconds, connect=CONNECT_SECONDS),
                limits=httpx.Limits(max_connections=1),
                trust_env=False,
                follow_redirects=False,
                headers={"accept-encoding": "identity", "content-type": _CONTENT_TYPE},
                verify=False,  # noqa: S501 - there is no TLS, and the store of roots takes its time to read
            ) as client,
        ):
            yield lambda path, body, most: _post(client, path, body, most)
    except TimeoutError as error:
        raise NoAnswer(f"it took over {seconds:.0f} seconds") from error
    except httpx.TransportError as error:
        raise NoAnswer(f"{type(error).__name__} {error}".strip()) from error


async def _post(client: httpx.AsyncClient, path: str, body: bytes, most: int) -> bytes:
    answer = bytearray()
    async with client.stream("POST", path, content=body) as response:
        if response.status_code == httpx.codes.FORBIDDEN:
            raise Rejected(
                Reason.REFUSED_BY_PEER,
                "It refused this enclave.",
                advice="The log and the audit file there have the reason.",
            )
        if response.status_code != httpx.codes.OK:
            raise NoAnswer(f"it answers {response.status_code} to {path}")
        async for part in response.aiter_raw():
            answer += part
            if len(answer) > most:
                raise Rejected(Reason.TOO_LARGE, f"It answers with more than {most} bytes.")
    return bytes(answer)
