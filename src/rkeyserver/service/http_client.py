"""How this program asks over HTTP: one connection, no proxy of the environment, no redirect, and no endless answer."""

from __future__ import annotations

import ssl
from typing import Final

import httpx

CONNECT_SECONDS: Final = 3.0


def client(seconds: float, *, base_url: str = "", socket: str | None = None) -> httpx.AsyncClient:
    """A client of an instance, whose every step may take `seconds`. socket: of its owner, instead of TCP.

    An instance has no TLS: what is asked of it is proved by the exchange, or not at all.
    """
    transport = None if socket is None else httpx.AsyncHTTPTransport(uds=socket, verify=False)
    return _client(seconds, verify=False, base_url=base_url, transport=transport)


def tls_client(seconds: float, tls: ssl.SSLContext) -> httpx.AsyncClient:
    """A client of a service over TLS. tls: what its certificate is verified by."""
    return _client(seconds, verify=tls)


def _client(
    seconds: float,
    *,
    verify: ssl.SSLContext | bool,
    base_url: str = "",
    transport: httpx.AsyncBaseTransport | None = None,
) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=base_url,
        timeout=httpx.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS)),
        limits=httpx.Limits(max_connections=1),
        trust_env=False,
        follow_redirects=False,
        headers={"accept-encoding": "identity"},
        verify=verify,
        transport=transport,
    )


async def body_of(response: httpx.Response, most: int) -> bytes | None:
    """An answer's body as it was sent; None for one of more than `most` bytes, of which no more is read."""
    body = bytearray()
    async for part in response.aiter_raw():
        body += part
        if len(body) > most:
            return None
    return bytes(body)
