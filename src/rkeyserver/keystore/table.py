"""The table of a keystore in a database: its statements, and what its rows may say (docs/spec/keystore-table.md).

One row is one record. Among the rows of one owner the one whose `kept_as` is NULL is the record, the others are what it
replaced; a record's version is higher than that of each one before it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from rkeyserver.errors import Corrupt
from rkeyserver.framing import framed
from rkeyserver.keystore.store import KEPT, MAX_RECORD, Binding, Bound, Fetch

SCHEMA: Final = 1
MOST_ROWS: Final = 1024  # that are looked at, of one owner
Value = str | int | bytes | None

TABLE_SCHEMA: Final = "rkeyserver_schema"
# Types that both systems know; %s stands for a value.
_ROW: Final = (
    "platform TEXT NOT NULL, machine TEXT NOT NULL, instance TEXT NOT NULL, version BIGINT NOT NULL, kept_as TEXT,"
    " domain TEXT NOT NULL, epoch BIGINT NOT NULL, sequence BIGINT NOT NULL, record {bytes} NOT NULL,"
    " PRIMARY KEY (platform, machine, instance, version)"
)
CREATE: Final = (
    "CREATE TABLE rkeyserver_schema (version BIGINT NOT NULL PRIMARY KEY)",
    f"CREATE TABLE rkeyserver_records ({_ROW})",
    "CREATE UNIQUE INDEX rkeyserver_current ON rkeyserver_records (platform, machine, instance) WHERE kept_as IS NULL",
    "INSERT INTO rkeyserver_schema (version) VALUES (1)",
)
SCHEMA_OF: Final = "SELECT version FROM rkeyserver_schema"
# One statement sees one state of the table. Its first and its last %s: the most bytes of a record, the most rows.
ROWS: Final = (
    "SELECT version, kept_as, domain, epoch, sequence, LENGTH(record),"
    " CASE WHEN kept_as IS NULL AND LENGTH(record) <= %s THEN record END FROM rkeyserver_records"
    " WHERE platform = %s AND machine = %s AND instance = %s ORDER BY version DESC LIMIT %s"
)
OWNERS: Final = (
    "SELECT DISTINCT platform, machine, instance FROM rkeyserver_records WHERE instance = %s"
    " ORDER BY platform, machine LIMIT %s"
)
KEEP: Final = (
    "UPDATE rkeyserver_records SET kept_as = %s"
    " WHERE platform = %s AND machine = %s AND instance = %s AND version = %s AND kept_as IS NULL"
)
DROP: Final = (
    "DELETE FROM rkeyserver_records"
    " WHERE platform = %s AND machine = %s AND instance = %s AND version = %s AND kept_as IS NULL"
)
DROP_KEPT: Final = (
    "DELETE FROM rkeyserver_records"
    " WHERE platform = %s AND machine = %s AND instance = %s AND version = %s AND kept_as IS NOT NULL"
)
# The same bytes are kept once: the older row of them goes.
DROP_SAME: Final = (
    "DELETE FROM rkeyserver_records WHERE platform = %s AND machine = %s AND instance = %s AND kept_as = %s"
    " AND record = (SELECT now.record FROM rkeyserver_records AS now"
    " WHERE now.platform = %s AND now.machine = %s AND now.instance = %s AND now.kept_as IS NULL)"
)
ADD: Final = (
    "INSERT INTO rkeyserver_records (platform, machine, instance, version, kept_as, domain, epoch, sequence, record)"
    " VALUES (%s, %s, %s, %s, NULL, %s, %s, %s, %s)"
)


@dataclass(frozen=True)
class Owner:
    """Whose record: one instance on one machine."""

    platform: str
    machine: str
    instance: str

    @property
    def key(self) -> tuple[str, str, str]:
        """As the statements want it."""
        return self.platform, self.machine, self.instance

    @property
    def rows(self) -> tuple[Value, ...]:
        """The values of ROWS."""
        return (MAX_RECORD, *self.key, MOST_ROWS)

    @property
    def number(self) -> int:
        """A number for locks, that no other owner has: 64 bits, signed."""
        digest = hashlib.sha256(framed(b"rkeyserver/v1 keystore lock", *(part.encode() for part in self.key))).digest()
        return int.from_bytes(digest[:8], "big", signed=True)

    def __str__(self) -> str:
        return f"{self.platform} {self.machine}, instance {self.instance}"


@dataclass(frozen=True)
class Kept:
    """A row of what was replaced."""

    version: int
    kept_as: str

    def __str__(self) -> str:
        return f"{self.kept_as} (version {self.version})"

    @property
    def kind(self) -> str:
        """What its name has before the first dot, if it has one: the last of a kind (a domain) always stays."""
        kind, dot, _ = self.kept_as.partition(".")
        return kind if dot else ""


@dataclass(frozen=True)
class State:
    """What the rows of one owner hold. version: of the record; 0 where there is none, nor ever was."""

    version: int
    record: bytes | None
    kept: tuple[Kept, ...]

    @property
    def digest(self) -> bytes:
        """By which a record is known again; empty for none."""
        return b"" if self.record is None else hashlib.sha256(self.record).digest()


def ways_out(kept: Sequence[Kept], fetch: Fetch) -> str:
    """Advice for a row that is there and cannot be used."""
    copies = (
        f"a row kept beside it (newest first: {', '.join(map(str, kept))}) or a backup"
        if kept
        else "a backup (no row is kept beside it)"
    )
    how = "start with -i HOST and --domain ID, under another name (?instance=NAME)"
    if fetch is not Fetch.IN_THE_WAY:
        how = str(fetch)
    return (
        f"Nothing was changed. Either put {copies} in its place (docs/operations/postgresql.md). Or fetch the keyring "
        f"from a running instance: {how}. Only to give its key up for a new domain: take another name and move the "
        "audit file elsewhere."
    )


def judge(rows: Iterable[Sequence[object]], owner: Owner, bound: Bound) -> State:
    """What rows that ROWS gave hold.

    Raises: Corrupt where they cannot be what this program wrote: they were edited, exchanged or put back.
    """
    current: list[tuple[int, Binding, int, bytes | None]] = []
    kept: list[Kept] = []
    for row in rows:
        match row:
            case [int(version), None, str(domain), int(epoch), int(sequence), int(size), record] if (
                record is None or isinstance(record, bytes)
            ):
                says = Binding(owner.platform, owner.machine, domain, epoch, sequence)
                current.append((version, says, size, record))
            case [int(version), str(kept_as), *_]:
                kept.append(Kept(version, kept_as))
            case _:
                raise Corrupt(f"A row of {owner} has values of other kinds than this program writes.", advice=_ADVICE)
    if not current:
        if kept:
            raise Corrupt(
                f"The record of {owner} is missing, but was there once: kept beside it: {', '.join(map(str, kept))}.",
                advice=_ADVICE,
            )
        return State(0, None, ())
    if len(current) > 1:
        raise Corrupt(f"There are {len(current)} records of {owner}; one is wanted.", advice=_ADVICE)
    version, says, size, record = current[0]
    if kept and kept[0].version >= version:
        raise Corrupt(
            f"The record of {owner} has version {version}, and beside it is kept {kept[0]}: it was put back.",
            advice=_ADVICE,
        )
    if record is None or not 0 < size <= MAX_RECORD:
        raise Corrupt(
            f"The record of {owner} has {size} bytes; 1 to {MAX_RECORD} are wanted.",
            advice=ways_out(kept, Fetch.IN_THE_WAY),
        )
    found = bound(record)
    if found not in (None, says):
        raise Corrupt(
            f"The row of {owner} says {_words(says)}; the record in it says {_words(found)}. It was exchanged or put "
            "back.",
            advice=ways_out(kept, Fetch.IN_THE_WAY),
        )
    return State(version, record, tuple(kept))


_ADVICE: Final = (
    "Nothing was changed. Put back what was there, from a row kept beside it or a backup "
    "(docs/operations/postgresql.md); or take another name (?instance=NAME) and fetch the keyring from a running "
    "instance with -i HOST and --domain ID. Only for a new domain: take another name and move the audit file elsewhere."
)


def _words(binding: Binding | None) -> str:
    if binding is None:
        return "nothing"
    return (
        f"{binding.platform} {binding.machine}, domain {binding.domain}, epoch {binding.epoch}, "
        f"sequence {binding.sequence}"
    )


def check_schema(rows: Iterable[Sequence[object]], where: str) -> None:
    """Whether this version knows the tables. rows: what SCHEMA_OF gave.

    Raises: Corrupt.
    """
    found = [list(row) for row in rows]
    if found != [[SCHEMA]]:
        versions = ", ".join(str(row[0]) for row in found) or "none"
        raise Corrupt(
            f"The tables of {where} are of version {versions}; this program reads version {SCHEMA}.",
            advice="Nothing was changed. Start the version of this program that made them, or name another database.",
        )


def to_drop(kept: Sequence[Kept]) -> list[Kept]:
    """Which of the kept rows go: all but the newest KEPT, and the newest of each kind. kept: newest first."""
    going, kinds = [], set()
    for number, one in enumerate(kept):
        if number >= KEPT and one.kind in kinds:
            going.append(one)
        kinds.add(one.kind)
    return going
