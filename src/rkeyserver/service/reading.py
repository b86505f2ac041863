"""The record at a place, read by a command without a key or a lock: of a file, or of a row in a database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rkeyserver.keystore import file_read
from rkeyserver.keystore.place import Place
from rkeyserver.keystore.store import Fetch, ways_out
from rkeyserver.service.bound import binding_of


@dataclass(frozen=True)
class Found:
    """A record's bytes, and what else there is where it cannot be used."""

    record: bytes
    ways_out: Callable[[Fetch], str]


def read(place: Place) -> Found:
    """The record at `place`.

    Raises: Misuse if none is there, or a database has more than one that may be meant; Corrupt if what is there cannot
    be read whole; Unavailable.
    """
    if isinstance(place, Path):
        record = file_read.read_record(place)
        return Found(record, lambda fetch: ways_out(file_read.kept_names(place), fetch))
    from rkeyserver.keystore.databases import read_record  # noqa: PLC0415 - no file needs one

    found = read_record(place, binding_of)
    return Found(found.record, found.ways_out)
