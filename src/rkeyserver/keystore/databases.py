"""Which module stands for which database: a closed list, each loaded only where it is named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rkeyserver.errors import Corrupt, Misuse
from rkeyserver.keystore.backend import Backend
from rkeyserver.keystore.place import SQLITE, Database
from rkeyserver.keystore.sql import SqlKeystore, one_state, owners
from rkeyserver.keystore.store import Bound, Fetch
from rkeyserver.keystore.table import Kept, Owner, ways_out


def _backend(place: Database, owner: Owner, *, reads: bool) -> Backend:
    if place.scheme == SQLITE:
        from rkeyserver.keystore.sqlite import Sqlite  # noqa: PLC0415 - no other driver is loaded

        return Sqlite(Path(place.target), owner, reads=reads)
    from rkeyserver.keystore.postgresql import Postgresql  # noqa: PLC0415 - as above

    return Postgresql(place.target, owner, reads=reads)


def _owner(place: Database, platform: str, machine: str) -> Owner:
    if place.machine not in (None, machine):
        raise Misuse(
            f"The keystore's URL says machine={place.machine}; this is machine {machine}.",
            advice="Leave it out: an instance has records of its own machine only.",
        )
    return Owner(platform, machine, place.instance)


def open_database(place: Database, platform: str, machine: str, bound: Bound) -> SqlKeystore:
    """The keystore of this machine in a database, locked.

    Raises: as SqlKeystore.open(); Misuse if its driver is not installed.
    """
    owner = _owner(place, platform, machine)
    return SqlKeystore.open(_backend(place, owner, reads=False), owner, bound, str(place))


@dataclass(frozen=True)
class Lying:
    """A record that a look found. kept: what it replaced, newest first."""

    record: bytes
    kept: tuple[Kept, ...]

    def ways_out(self, fetch: Fetch) -> str:
        """As store.Keystore."""
        return ways_out(self.kept, fetch)


def look_at(place: Database, platform: str, machine: str, bound: Bound) -> Lying | None:
    """The record of that machine, without a lock, for an instance may run meanwhile; None where there never was one.

    Raises: Corrupt as SqlKeystore.load(); Unavailable, Misuse.
    """
    owner = _owner(place, platform, machine)
    state = one_state(_backend(place, owner, reads=True), owner, bound)
    return None if state.record is None else Lying(state.record, state.kept)


def read_record(place: Database, bound: Bound) -> Lying:
    """The one record that the URL means, for a command that is run on any machine.

    Raises: Misuse if there is none, or more than one; Corrupt, Unavailable.
    """
    nobody = Owner("", "", place.instance)
    found = owners(_backend(place, nobody, reads=True), place.instance)
    meant = [one for one in found if place.machine in (None, one.machine)]
    if len(meant) != 1:
        there = ", ".join(f"machine={one.machine}" for one in found) or "none"
        raise Misuse(
            f"{len(meant)} records are at {place}; one is wanted.",
            advice=f"Of instance {place.instance} there are: {there}. Name one by machine=ID in the URL, and another "
            "instance by instance=NAME.",
        )
    state = one_state(_backend(place, meant[0], reads=True), meant[0], bound)
    if state.record is None:
        raise Corrupt(f"The record of {meant[0]} went away while it was looked at.", advice="Try again.")
    return Lying(state.record, state.kept)
