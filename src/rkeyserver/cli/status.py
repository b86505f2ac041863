"""`rkeyserver status`: what a running instance says of itself."""

from __future__ import annotations

import json
from typing import Any

from rkeyserver.cli import talk
from rkeyserver.errors import Unavailable, one_line


def status(ops: str, *, as_json: bool) -> str:
    """The status as text, for people or as JSON."""
    found = talk.get(ops, "/status", "status")
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
        *(f"slot         {one['platform']}, key {one['policy']}" for one in found["slots"]),
        f"hand-overs   {found['hand_overs']} since {found['started']}",
        *(f"refused      {count} for {reason}" for reason, count in sorted(found["refused"].items())),
        *(f"peer         {machine}, last {at}" for machine, at in found["peers"].items()),
        f"ways back    {found['ways_back_total']}: " + ", ".join(f"{name} {count}" for name, count in ways.items()),
    ]
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
