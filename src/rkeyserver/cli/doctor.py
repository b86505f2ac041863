"""`rkeyserver doctor`: whether the record opens here now, what would open it after a change, what is missing."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json

from rkeyserver.address import Address
from rkeyserver.attestation.evidence import Identity
from rkeyserver.cli import log, talk
from rkeyserver.cli.command import Parser, Said, add_machine, configuration
from rkeyserver.clock import Clock
from rkeyserver.config import DEFAULT_KEYSTORE, DEFAULT_OPS, Config
from rkeyserver.errors import one_line
from rkeyserver.secret import harden_process
from rkeyserver.service.compose import look_at_machine
from rkeyserver.service.doctor import Examined, examine
from rkeyserver.service.doctor_ways import Heard
from rkeyserver.service.fetch import fetch_claimed, fetch_hint
from rkeyserver.service.finding import State

_MARKS = {State.GOOD: "ok     ", State.WARNING: "WARNING", State.BAD: "FAILED ", State.UNKNOWN: "-      "}


def parser() -> argparse.ArgumentParser:
    """Of its arguments; those that `rkeyserver` has too mean the same."""
    made = Parser(
        prog="rkeyserver doctor",
        description="Look at this machine's record and at what would open it after an update. Nothing is changed.",
        argument_default=argparse.SUPPRESS,
    )
    made.add_argument("-i", "--host", action="append", metavar="HOST[:PORT]", help="another machine of the domain")
    made.add_argument("-p", "--port", type=int, help="the hosts' port (default 8888)")
    made.add_argument("--keystore", metavar="PLACE", help=f"the sealed record (default {DEFAULT_KEYSTORE})")
    made.add_argument("--domain", metavar="ID", help="the domain that is wanted here")
    made.add_argument("--audit", metavar="PATH", help="the audit file (default: beside the keystore)")
    made.add_argument("--socket", metavar="PATH", help="the local socket (default: beside the keystore)")
    made.add_argument("--collateral", metavar="FILE", help="the collateral that is held (default: beside the keystore)")
    made.add_argument("--ops", metavar="HOST:PORT", help=f"the operations listener (default {DEFAULT_OPS})")
    add_machine(made)
    made.add_argument("--json", action="store_true", help="print all of it as JSON")
    return made


def run(found: argparse.Namespace) -> Said:
    """Examine and print; the exit status says whether the record opens and a way back is there.

    Raises: Misuse for what cannot be asked; Unavailable without key memory.
    """
    given = vars(found)
    as_json = given.pop("json", False)
    return run_with(configuration(given), as_json=as_json)


def run_with(config: Config, *, as_json: bool) -> Said:
    """The same, of that configuration.

    Raises: Unavailable without key memory.
    """
    log.set_up("error")  # what is warned of here is a finding
    harden_process()
    examined = examine(
        config,
        Clock(),
        look_at_machine,
        ask=lambda host, own: asyncio.run(_heard(host, own)),
        status=lambda: talk.get(str(config.ops), "/status", "status"),
    )
    return Said(_as_json(examined) if as_json else _as_text(examined), examined.status)


async def _heard(host: Address, own: Identity | None) -> Heard | None:
    hint = await fetch_hint(host)
    if hint is None:
        return None
    return Heard(hint, None if own is None else await fetch_claimed(host, own))


def _as_json(examined: Examined) -> str:
    return json.dumps(dataclasses.asdict(examined), indent=2) + "\n"


def _as_text(examined: Examined) -> str:
    lines = []
    for one in examined.findings:
        lines.append(one_line(f"{_MARKS[one.state]} {one.topic}: {one.found}"))
        if one.advice:
            lines.append(one_line(f"        {one.advice}"))
    return "\n".join(lines) + "\n"
