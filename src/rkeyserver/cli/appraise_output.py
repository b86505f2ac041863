"""How `rkeyserver appraise` says it: for people, or as JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Final

from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.attestation.sgx.explain import NOT_LOOKED_AT
from rkeyserver.cli.appraise_quote import Judged
from rkeyserver.clock import utc
from rkeyserver.errors import one_line
from rkeyserver.platforms.registry import SIMULATED

_MARKS: Final = {True: "ok", False: "FAILED", None: "not made"}
_AS_SIMULATED: Final = "SIMULATED: looked at under a root whose key is public. Whatever it says, it proves nothing."
_SAYS_SIMULATED: Final = "SIMULATED: the quote says that it is of the simulated platform, which proves nothing."
_NOT_ASKED: Final = "not asked (--report-data HEX): whom this quote speaks for is not proved. The server always asks"


def as_json(found: Judged) -> str:
    """Everything, as one JSON object."""
    refusal = found.refusal
    return (
        json.dumps(
            {
                "platform": found.platform,
                "simulated": found.simulated,
                "genuine": found.claims is not None,
                "accepted": found.accepted,
                "status": None if found.claims is None else found.claims.tcb_status,
                "advisories": [] if found.claims is None else list(found.claims.advisory_ids),
                "reason": None if refusal is None else str(refusal.reason),
                "message": None if refusal is None else refusal.message,
                "advice": None if refusal is None else refusal.advice,
                "report_data_checked": found.report_data_asked,
                "policy": found.policy,
                "judged_at": found.at,
                "clock": found.clock,
                "written_as": found.written,
                "bytes": found.size,
                "claims": None if found.claims is None else _claims(found.claims),
                "evidence": found.evidence,
                "checks": [dataclasses.asdict(one) for one in found.checks],
            },
            indent=2,
        )
        + "\n"
    )


def _claims(claims: SgxClaims) -> dict[str, Any]:
    return dataclasses.asdict(claims) | {"report_data": claims.report_data.hex()}


def as_text(found: Judged) -> str:
    """Everything, for people."""
    lines = []
    if found.simulated:
        lines.append(_AS_SIMULATED if found.platform == SIMULATED else _SAYS_SIMULATED)
    lines += [
        f"evidence   {found.size} bytes, read as {found.written}, looked at as {found.platform}",
        f"judged at  {utc(found.at)}; this machine's clock says {utc(found.clock)}",
    ]
    for title, values in found.evidence.items():
        lines += ["", f"{title.replace('_', ' ')}, as the quote says it"]
        lines += [f"  {key:<22} {_value(value)}".rstrip() for key, value in values.items()]
    lines += ["", "checks"]
    failed = False
    for one in found.checks:
        first = one.passed is False and not failed
        failed = failed or first
        lines.append(f"  {_MARKS[one.passed]:<8} {one.name}{'   <- the first that fails' if first else ''}")
        lines.append(f"             found   {one.found}")
        if one.passed is not None or not one.found.startswith(NOT_LOOKED_AT):
            lines.append(f"             wanted  {one.wanted}")
        if one.advice:
            lines.append(f"             do      {one.advice}")
    return "\n".join(one_line(line) for line in [*lines, "", "verdict", *_verdict(found)]) + "\n"


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _verdict(found: Judged) -> list[str]:
    mark = "SIMULATED, " if found.simulated else ""
    claims = found.claims
    lines = [f"  genuine    {mark}{'no' if claims is None else 'yes'}"]
    if claims is not None:
        advisories = ", ".join(claims.advisory_ids) or "no advisory"
        lines += [f"  status     {claims.tcb_status} ({advisories})", f"  machine    {found.platform} {claims.ppid}"]
    if found.accepted is None:
        lines.append("  accepted   not asked: no policy was given (--policy FILE)")
    else:
        lines.append(f"  accepted   {mark}{'yes' if found.accepted else 'no'}, by policy {found.policy}")
    if not found.report_data_asked:
        lines.append(f"  bound      {_NOT_ASKED}")
    elif claims is not None:
        lines.append("  bound      to the report data that was asked for")
    if found.refusal is not None:
        lines.append(f"  reason     {found.refusal.reason}: {found.refusal}")
    return lines
