"""What a keystore in a database is told of a record: whose it is and which state of which domain, by its header."""

from __future__ import annotations

from rkeyserver.errors import Corrupt
from rkeyserver.keystore.store import Binding
from rkeyserver.sealing.record import parse


def binding_of(record: bytes) -> Binding | None:
    """What the header of a record says; None where it cannot be read. It is proved only where the record opens."""
    try:
        header = parse(record).header
    except Corrupt:
        return None
    slot = header.slot
    return Binding(slot.platform, slot.machine, header.domain, header.epoch, header.sequence)
