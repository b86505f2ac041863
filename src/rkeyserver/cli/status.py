"""`rkeyserver status`: what a running instance says of itself."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

import httpx

from rkeyserver.address import parse_address
from rkeyserver.config import DEFAULT_OPS
from rkeyserver.errors import Unavailable, one_line
from rkeyserver.service.why import why

SECONDS: Final = 5.0
MAX_STATUS: Final = 1024 * 1024


def ask(ops: str) -> dict[str, Any]:
    """The status of the instance whose operations listener is `ops`. Any user of this machine may be what answers.

    Raises: Misuse for no address; Unavailable if nothing answers there, or something else than an instance.
    """
    address = parse_address(ops, DEFAULT_OPS.port)
    try:
        code, body = asyncio.run(_get(f"http://{address}/status"))
    except (httpx.TransportError, TimeoutError) as error:
        raise Unavailable(
            f"No instance answers on {address}: {why(error)}.",
            advice="Is it running? Was it started with another --ops?",
        ) from error
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if code != httpx.codes.OK or not isinstance(found, dict):
        raise Unavailable(
            f"What is on {address} answers {code}, and no status.",
            advice="Is that the operations listener of an instance?",
        )
    return found


async def _get(url: str) -> tuple[int, bytes]:
    body = b""
    async with (
        asyncio.timeout(SECONDS),  # for all of it, however slowly it comes
        httpx.AsyncClient(trust_env=False, timeout=SECONDS, verify=False) as client,  # noqa: S501 - no TLS here
        client.stream("GET", url, headers={"accept-encoding": "identity"}) as response,
    ):
        async for part in response.aiter_raw():
            body += part
            if len(body) > MAX_STATUS:
                raise httpx.ReadError(f"it answers with more than {MAX_STATUS} bytes")
        return response.status_code, body


def status(ops: str, *, as_json: bool) -> str:
    """The status as text, for people or as JSON."""
    found = ask(ops)
    if as_json:
        return json.dumps(found, indent=2) + "\n"
    try:
        return "\n".join(one_line(line) for line in _lines(found)) + "\n"
    except (LookupError, TypeError, AttributeError) as error:
        raise Unavailable(f"What is on {ops} answers with something else than a status.") from error


def _advice(found: dict[str, Any]) -> str:
    if not found["peers"]:
        return "Add a backup."
    return f"It was given to {len(found['peers'])}: see by their own status that they have stored it."


def _slot(slot: dict[str, Any]) -> str:
    if slot["type"] == "recovery":
        return f"recovery, {slot['threshold']} of {len(slot['recipients'])}: {', '.join(slot['recipients'])}"
    return f"{slot['platform']}, key {slot['policy']}"


def _lines(found: dict[str, Any]) -> list[str]:
    ways = found["ways_back"]
    lines = [
        f"role         {found['role']}",
        *(
            ["domain       none yet: it is asking its hosts"]
            if found["domain"] is None
            else [
                f"domain       {found['domain']}",
                f"state        epoch {found['epoch']}, sequence {found['sequence']}",
            ]
        ),
        *(f"generation   {one['id']} {one['state']}, made {one['created']}" for one in found["generations"]),
        f"platform     {found['platform']}, machine {found['machine']}",
        f"protection   {found['protects']}",
        f"key memory   {found['key_memory']}",
        *(f"slot         {_slot(one)}" for one in found["slots"]),
        f"hand-overs   {found['hand_overs']} since {found['started']}",
        *(f"refused      {count} for {reason}" for reason, count in sorted(found["refused"].items())),
        *(f"peer         {machine}, last {at}" for machine, at in found["peers"].items()),
        f"ways back    {found['ways_back_total']}: " + ", ".join(f"{name} {count}" for name, count in ways.items()),
    ]
    if found["recovering"]:
        progress = found["recovering"]
        lines.append(f"RECOVERING: {progress['shares']} of {progress['threshold']} shares are here.")
    if found["domain"] is not None and not ways["recovery"]:
        lines.append("No recovery: nobody but its machines can bring the key back.")
    if found["record_problem"]:
        lines.append(f"WARNING: the record cannot be read: {found['record_problem']}")
    if found["domain"] is not None and found["ways_back_total"] <= 1:
        number = "one" if found["ways_back_total"] else "no"
        lines.append(
            f"WARNING: {number} way back. If this machine or its record is lost, so is the key. {_advice(found)}"
        )
    if found["simulated"]:
        lines.append("SIMULATED: nothing here is protected.")
    return lines
