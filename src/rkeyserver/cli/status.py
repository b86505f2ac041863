"""`rkeyserver status`: what a running instance says of itself."""

from __future__ import annotations

import argparse
import json
from typing import Any

from rkeyserver.cli import talk
from rkeyserver.cli.choose import one_that_answers
from rkeyserver.cli.command import Parser, Said, add_ops, ops_of
from rkeyserver.errors import Unavailable, one_line
from rkeyserver.service.held import WARN_DAYS


def parser() -> argparse.ArgumentParser:
    """Of its arguments."""
    made = Parser(prog="rkeyserver status", description="Ask a running instance.")
    made.add_argument("--json", action="store_true", help="print all of it as JSON")
    add_ops(made)
    return made


def run(found: argparse.Namespace) -> Said:
    """Ask and print."""
    return Said(status(one_that_answers(ops_of(found)), as_json=found.json))


def status(ops: str, *, as_json: bool) -> str:
    """The status as text, for people or as JSON."""
    found = talk.get(ops, "/status", "status")
    if as_json:
        return json.dumps(found, indent=2) + "\n"
    try:
        return "\n".join(one_line(line) for line in _lines(found)) + "\n"
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise Unavailable(f"What is on {ops} answers with something else than a status.") from error


def _advice(found: dict[str, Any]) -> str:
    if not found["peers"]:
        return "Add a backup."
    return f"It was given to {len(found['peers'])}: see by their own status that they have stored it."


def _warning(found: dict[str, Any]) -> str:
    ways = found["ways_back"]
    if ways["record"]:
        lost = "If no other machine holds the key, it is lost with this one or its record."
        return f"WARNING: one way back is known here. {lost} {_advice(found)}"
    if ways["hosts"]:
        return "WARNING: one way back, the machine that gave the key: do not stop this instance before it has a record."
    return f"WARNING: no way back. When this instance ends, the key is lost here. {_advice(found)}"


def _slot(slot: dict[str, Any]) -> str:
    if slot["type"] == "recovery":
        return f"recovery, {slot['threshold']} of {len(slot['recipients'])}: {', '.join(slot['recipients'])}"
    versions = ", ".join(f"{name} {value}" for name, value in sorted(slot["versions"].items()))
    return f"{slot['platform']}, key {slot['policy']} at {versions}"


def _collateral(found: dict[str, Any]) -> list[str]:
    lines = []
    for one in found["held"]:
        days, own = one["days_left"], "this machine's" if one["own"] else "others'"
        lines.append(
            f"collateral   {own} (FMSPC {one['fmspc']}, {one['ca']} CA): issued {one['issued']}, "
            f"expires {one['expires']}, {days:.1f} days left, from {one['source']}"
        )
        if one["own"] and days < WARN_DAYS:
            what = "expires soon" if days >= 0 else "HAS EXPIRED: this machine can hand over no key"
            lines.append(f"WARNING: the collateral of this machine {what}.")
    if found["pccs"]:
        lines.append(f"PCCS         {found['pccs']}, last answered {found['last_success'] or 'never since the start'}")
    if found["last_error"]:
        lines.append(f"WARNING: the last fetch failed: {found['last_error']}")
    return lines


def _provision(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    lines = []
    if found["listening"]:
        lines.append(f"applications {found['given']} keys given; on {', '.join(found['listening'])}")
        lines.append(f"CA           of generation {found['ca_generation']}, SHA-256 {found['ca_sha256']}")
    if found["problem"]:
        lines.append(f"WARNING: applications get no keys: {found['problem']}")
    return lines


def _callers(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    lines = []
    if found["listening"]:
        lines.append(f"tokens       callers with one are answered on {', '.join(found['listening'])}")
        lines.append(f"CA           of generation {found['ca_generation']}, SHA-256 {found['ca_sha256']}")
    if found["problem"]:
        lines.append(f"WARNING: callers with a token are not answered: {found['problem']}")
    return lines


def _drill(found: dict[str, Any] | None) -> list[str]:
    if found is None or found["at"] is None:
        return ["drill        none yet: `rkeyserver drill` runs one"]
    if found["passed"]:
        return [f"drill        passed at {found['at']}: {found['found']}"]
    last = found["last_success"] or "never since the start"
    return [
        f"WARNING: the takeover drill at {found['at']} failed ({found['reason']}); one passed last: {last}.",
        f"WARNING: {found['found']} {found['advice']}",
    ]


def _audit(found: dict[str, Any]) -> list[str]:
    lines = [f"audit        {found['lines']} lines, head {found['head']}"] if found["chain"] else []
    if found["key"]:
        lines.append(f"audit key    {found['key']}")
    if found["problem"]:
        lines.append(f"WARNING: no key is given to anyone who is recorded: {found['problem']}")
    return lines


def _role_of(found: dict[str, Any]) -> list[str]:
    if found["domain"] is None:
        return []
    lines = [f"member       {found['member']}"]
    if found["primary"] != found["member"]:
        lines.append(f"primary      {found['primary']}")
    behind = sum(not one["acknowledged"] for one in found["members"])
    if found["members"]:
        lines.append(f"members      {len(found['members'])} others, {behind} of them behind or not heard from")
    if (elected := found["coordinator"]) is not None:
        lines.append(f"coordinator  {elected['state']}; primary by its word: {elected['holder'] or 'none known'}")
        lines += [f"WARNING: the coordinator: {elected['last_error']}"] if elected["last_error"] else []
    return lines


def _waits_for(found: dict[str, Any]) -> str:
    return "waits for recovery shares" if found["recovering"] else "is asking its hosts"


def _lines(found: dict[str, Any]) -> list[str]:
    ways = found["ways_back"]
    lines = [
        f"role         {found['role']}",
        *(
            [f"domain       none yet: it {_waits_for(found)}"]
            if found["domain"] is None
            else [
                f"domain       {found['domain']}",
                f"state        epoch {found['epoch']}, sequence {found['sequence']}",
            ]
        ),
        *_role_of(found),
        *(f"generation   {one['id']} {one['state']}, made {one['created']}" for one in found["generations"]),
        f"platform     {found['platform']}, machine {found['machine']}",
        f"protection   {found['protects']}",
        f"key memory   {found['key_memory']}",
        *(f"slot         {_slot(one)}" for one in found["slots"]),
        f"hand-overs   {found['hand_overs']} since {found['started']}",
        *([f"releases     {found['released']} to enclaves elsewhere"] if found["released"] else []),
        *(f"refused      {count} for {reason}" for reason, count in sorted(found["refused"].items())),
        *(f"peer         {machine}, last {at}" for machine, at in found["peers"].items()),
        f"ways back    {found['ways_back_total']}: " + ", ".join(f"{name} {count}" for name, count in ways.items()),
    ]
    if found["recovering"]:
        progress = found["recovering"]
        lines.append(f"RECOVERING: {progress['shares']} of {progress['threshold']} shares are here.")
    if found["domain"] is not None and not ways["recovery"]:
        lines.append("No recovery: nobody but its machines can bring the key back.")
    if found["domain"] is not None:
        lines += _drill(found["drill"])
    lines += _audit(found["audit"])
    lines += _collateral(found["collateral"])
    lines += _provision(found["provision"])
    lines += _callers(found["callers"])
    if found["record_problem"]:
        lines.append(f"WARNING: the record cannot be read: {found['record_problem']}")
    if found["domain"] is not None and found["ways_back_total"] <= 1:
        lines.append(_warning(found))
    elif found["domain"] is not None and not ways["hosts"]:
        # Both are in one file.
        lines.append("Recovery opens a copy of the record: keep one elsewhere.")
    if found["simulated"]:
        lines.append("SIMULATED: nothing here is protected.")
    return lines
