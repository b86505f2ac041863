"""Talking to a running instance on this machine: its operations listener, or its local socket."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from rkeyserver.address import Address, parse_address
from rkeyserver.config import DEFAULT_OPS
from rkeyserver.errors import Corrupt, Misuse, Reason, Rejected, RkeyError, Unavailable
from rkeyserver.service.http_client import body_of, client
from rkeyserver.service.local_socket import reachable
from rkeyserver.why import why

SECONDS: Final = 5.0
CHANGE_SECONDS: Final = 30.0  # it verifies, writes to the disk and waits for it
MAX_ANSWER: Final = 1024 * 1024
_CHANGED: Final = "Whether it took effect, the instance tells: `rkeyserver policy show`, and its audit file."
_UNREACHED: Final = (
    "Is it running, with this --socket? Told of none, it has KEYSTORE.socket beside its keystore. "
    "Where its folder does not let this user in, only the user who runs it, and root, can reach it."
)


def get(ops: str, path: str, what: str) -> dict[str, Any]:
    """What the instance whose operations listener is `ops` answers to GET `path`; what: how a person calls that.

    Any user of this machine may be what answers.
    Raises: Misuse for no address; Unavailable if nothing answers there, or something else than an instance; what the
    instance answers.
    """
    address = parse_address(ops, DEFAULT_OPS.port)
    try:
        code, body = asyncio.run(_ask("GET", f"http://{address}{path}", b"", None, SECONDS))
    except (httpx.TransportError, TimeoutError) as error:
        raise Unavailable(
            f"No instance answers on {address}: {why(error)}.",
            advice="Is it running? Was it started with another --ops?",
        ) from error
    return _answer(code, body, str(address), what)


def post(
    ops: str, path: str, body: bytes, what: str, *, socket: str | None, unanswered: str = _CHANGED
) -> dict[str, Any]:
    """POST to an instance: to its local `socket`, or where that is None to its operations listener.

    Raises: as get().
    """
    where = socket or str(parse_address(ops, DEFAULT_OPS.port))
    try:
        if socket is None:
            code, answer = asyncio.run(_ask("POST", f"http://{where}{path}", body, None, CHANGE_SECONDS))
        else:
            with reachable(Path(socket)) as name:
                code, answer = asyncio.run(_ask("POST", f"http://localhost{path}", body, name, CHANGE_SECONDS))
    except (httpx.ConnectError, httpx.ConnectTimeout, OSError) as error:
        if isinstance(error, TimeoutError):
            raise _unanswered(where, error, unanswered) from error
        raise Unavailable(
            f"No instance answers on {where}: {why(error)}.",
            advice=_UNREACHED if socket else "",
        ) from error
    except httpx.TransportError as error:
        raise _unanswered(where, error, unanswered) from error
    return _answer(code, answer, where, what)


async def role(address: Address, seconds: float) -> Any:  # noqa: ANN401 - whatever it says
    """What an instance, by its operations listener, says that it is; None for what is none, or is silent."""
    try:
        code, body = await _ask("GET", f"http://{address}/status", b"", None, seconds)
        return _answer(code, body, str(address), "status").get("role")
    except (httpx.TransportError, TimeoutError, RkeyError):
        return None


def _unanswered(where: str, error: Exception, advice: str) -> Unavailable:
    return Unavailable(
        f"It was sent to {where}, and no answer came back: {why(error)}.",
        advice=advice,
    )


async def _ask(method: str, url: str, body: bytes, uds: str | None, seconds: float) -> tuple[int, bytes]:
    async with (
        asyncio.timeout(seconds),  # for all of it, however slowly it comes
        client(seconds, socket=uds) as asked,
        asked.stream(method, url, content=body or None) as response,
    ):
        answer = await body_of(response, MAX_ANSWER)
        if answer is None:
            raise httpx.ReadError(f"it answers with more than {MAX_ANSWER} bytes")
        return response.status_code, answer


def _answer(code: int, body: bytes, where: str, what: str) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(body)  # unlike json's, it refuses what is no Unicode
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        found = None
    if isinstance(found, dict) and code == httpx.codes.OK:
        return found
    if isinstance(found, dict) and isinstance(found.get("message"), str):
        raise _error(found)
    raise Unavailable(f"What is on {where} answers {code}, and no {what}.", advice="Is that an instance of rkeyserver?")


def _error(found: dict[str, Any]) -> RkeyError:
    """The instance's own error, as it raised it."""
    message, advice = found["message"], str(found.get("advice", ""))
    if found.get("error") == Rejected.code:
        with contextlib.suppress(ValueError):
            return Rejected(Reason(str(found.get("reason"))), message, advice=advice)
    kinds = {kind.code: kind for kind in (Misuse, Corrupt, Unavailable)}
    return kinds.get(str(found.get("error")), Unavailable)(message, advice=advice)
