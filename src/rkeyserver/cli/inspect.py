"""`rkeyserver inspect`: what a record says of itself. It needs no key, so it is not proved."""

from __future__ import annotations

from pathlib import Path

from rkeyserver.clock import utc
from rkeyserver.errors import Corrupt
from rkeyserver.keystore.file_read import kept_names, read_record
from rkeyserver.keystore.store import Fetch, ways_out
from rkeyserver.sealing.record import parse


def inspect(path: Path) -> str:
    """The header of the record at `path`, for people.

    Raises: Corrupt, Unavailable, Misuse if there is no record there that can be read.
    """
    data = read_record(path)
    try:
        record = parse(data)
    except Corrupt as error:
        advice = f"{error.advice} {ways_out(kept_names(path), Fetch.UNREADABLE)}".lstrip()
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
    for number, slot in enumerate(header.slots, start=1):
        lines += [
            f"slot {number}       platform {slot.platform}, key {slot.policy}",
            f"  machine    {slot.machine}",
            *(f"  {name:<10} {value}" for name, value in sorted(slot.versions.items())),
        ]
    if any(slot.platform == "simulated" for slot in header.slots):
        lines.append("SIMULATED: this record is protected by nothing.")
    lines.append("Read from the header alone; it is proved only where the record opens.")
    return "\n".join(lines) + "\n"
