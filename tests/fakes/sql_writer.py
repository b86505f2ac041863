"""A process that uses a keystore in a database, so that tests can kill it, starve it or take its disk away.

    sql_writer.py URL COUNT

Stores record after record, COUNT of them (0: without end), and says each time what is stored. An error of ours ends it
with that error's exit status.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from itertools import count

from rkeyserver.errors import RkeyError, exit_status
from rkeyserver.keystore.databases import open_database
from rkeyserver.keystore.place import Database, parse_place
from rkeyserver.keystore.sql import SqlKeystore
from rkeyserver.keystore.store import Binding

MACHINE = "machine-w"
SIZE = 20_000


def record(number: int) -> bytes:
    """A record that cannot be mistaken for another, nor for a part of itself."""
    return b"<" + f"{number:08d}".encode() * (SIZE // 8) + b">"


def number_of(found: bytes) -> int:
    """Which record it is; -1 for what is none, whole."""
    number = int(found[1:9])
    return number if found == record(number) else -1


def bound(found: bytes) -> Binding | None:
    return Binding("fake", MACHINE, hashlib.sha256(b"domain").hexdigest()[:32], 0, int(found[1:9]))


def opened(url: str) -> SqlKeystore:
    place = parse_place(url)
    assert isinstance(place, Database)
    return open_database(place, "fake", MACHINE, bound)


def _run(url: str, most: int) -> None:
    store = opened(url)
    there = store.load()
    first = 0 if there is None else number_of(there) + 1
    for number in count(first) if not most else range(first, first + most):
        store.replace(record(number), f"seq.{number}")
        os.write(1, f"{number}\n".encode())
    store.close()


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s %(message)s")
    try:
        _run(sys.argv[1], int(sys.argv[2]))
    except RkeyError as error:
        os.write(2, f"{type(error).__name__} {error}\n".encode())
        sys.exit(exit_status(error))
