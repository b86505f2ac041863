"""`rkeyserver inspect`: what a record says of itself. It needs no key, so it is not proved."""

from __future__ import annotations

import argparse

from rkeyserver.cli.command import Parser, Said
from rkeyserver.clock import utc
from rkeyserver.config import DEFAULT_KEYSTORE
from rkeyserver.errors import Corrupt
from rkeyserver.keystore.place import Place, parse_place
from rkeyserver.keystore.store import Fetch
from rkeyserver.sealing.record import MAGIC, parse
from rkeyserver.sealing.recovery import fingerprint
from rkeyserver.service.reading import read


def parser() -> argparse.ArgumentParser:
    """Of its arguments."""
    made = Parser(prog="rkeyserver inspect", description="Print a record's readable header.")
    made.add_argument(
        "path",
        nargs="?",
        default=str(DEFAULT_KEYSTORE),
        help=f"a file, or a database's URL (default {DEFAULT_KEYSTORE})",
    )
    return made


def run(found: argparse.Namespace) -> Said:
    """Print it."""
    return Said(inspect(parse_place(found.path)))


def inspect(path: Place) -> str:
    """The header of the record at `path`, for people.

    Raises: Corrupt, Unavailable, Misuse if there is no record there that can be read.
    """
    found = read(path)
    data = found.record
    try:
        record = parse(data)
    except Corrupt as error:
        # A key, a policy or a bundle, perhaps: then there is nothing to put right at that place.
        meant = "" if data.startswith(MAGIC.partition(b"/")[0]) else "Is this the file that was meant?"
        ways = found.ways_out(Fetch.UNREADABLE)
        advice = " ".join(part for part in (meant, error.advice, ways) if part)
        raise Corrupt(error.message, advice=advice) from error
    header = record.header
    lines = [
        f"record       {path}",
        f"domain       {header.domain}",
        f"epoch        {header.epoch}",
        f"sequence     {header.sequence}",
        f"written      {utc(header.written)}",
        *(f"generation   {generation}" for generation in header.generations),
        f"sealed bytes {len(record.ciphertext)}",
    ]
    slot = header.slot
    lines += [
        f"slot 1       platform {slot.platform}, key {slot.policy}",
        f"  machine    {slot.machine}",
        *(f"  {name:<10} {value}" for name, value in sorted(slot.versions.items())),
    ]
    if header.recovery is not None:
        lines += [
            f"slot 2       recovery, {header.recovery.threshold} of {len(header.recovery.shares)} shares",
            f"  set        {header.recovery.set}",
            *(f"  recipient  {fingerprint(one.recipient)}" for one in header.recovery.shares),
        ]
    if slot.platform == "simulated":
        lines.append("SIMULATED: this record is protected by nothing.")
    lines.append("Read from the header alone; it is proved only where the record opens.")
    return "\n".join(lines) + "\n"
