"""Records in PostgreSQL, by psycopg over the system's libpq. One session; its advisory lock is the owner's.

A session that is lost is made anew, and takes the lock again: whoever gets it knows that no other session of this owner
can commit any more. docs/adr/0032-database-keystores.md.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final

from rkeyserver.clock import utc
from rkeyserver.errors import Corrupt, Misuse, RkeyError, Unavailable
from rkeyserver.keystore.backend import (
    ANSWER_SECONDS,
    READ_ONLY,
    SPACE,
    LostConnectionError,
    Transaction,
    UnknownCommitError,
)
from rkeyserver.keystore.table import CREATE, SCHEMA_OF, TABLE_SCHEMA, Owner, Value, check_schema

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[tuple[object, ...]]

EXTRA: Final = "rkeyserver[postgresql]"
_MAKING: Final = 0x726B65797365  # the lock of whoever makes the tables; any number does
_HAS_TABLE: Final = "SELECT to_regclass(%s) IS NOT NULL"
_TRY_LOCK: Final = "SELECT pg_try_advisory_lock(%s)"
# True where this session has it, or nobody: a session that lost its own has nobody's.
_HAVE_LOCK: Final = "SELECT pg_try_advisory_xact_lock(%s)"
_HOLDER: Final = (
    "SELECT a.pid, a.application_name, extract(epoch FROM a.backend_start)::bigint FROM pg_locks l"
    " JOIN pg_stat_activity a ON a.pid = l.pid WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1"
    " AND (l.classid::bigint << 32 | l.objid::bigint) = %s"
    " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) LIMIT 1"
)
_NAME: Final = re.compile(r"rkeyserver/([0-9]{1,10})/([A-Za-z0-9._-]{1,24})/([0-9a-f]{16})")
_MILLISECONDS: Final = int(ANSWER_SECONDS * 1000)
# Of this session. What it commits is on disk before it says so; what it asks ends; the server notices within 15 seconds
# that this machine is gone, and lets go of the lock.
_SETTINGS: Final = (
    f"SET statement_timeout = {_MILLISECONDS}",
    f"SET lock_timeout = {_MILLISECONDS // 2}",
    "SET idle_in_transaction_session_timeout = 10000",
    "SET tcp_keepalives_idle = 5",
    "SET tcp_keepalives_interval = 2",
    "SET tcp_keepalives_count = 5",
    "SET default_transaction_isolation = 'read committed'",
)
_LOCK_ATTEMPTS: Final = 10
_LOCK_PAUSE: Final = 0.1


def _driver() -> ModuleType:
    """The driver, psycopg.

    Raises: Misuse naming what to install.
    """
    try:
        return import_module("psycopg")  # only a keystore in PostgreSQL needs it
    except ImportError as error:
        raise Misuse(
            f"A keystore in PostgreSQL needs psycopg and libpq: {error}.",
            advice=f"Install {EXTRA} and the package libpq5: docs/operations/postgresql.md.",
        ) from error


class Postgresql:
    """Implements backend.Backend. conninfo: a URL as libpq takes it. reads: for a look only, without the lock."""

    def __init__(self, conninfo: str, owner: Owner, *, reads: bool = False) -> None:
        self._psycopg = _driver()
        self._conninfo = conninfo
        self._owner = owner
        self._reads = reads
        self._token = secrets.token_hex(8)
        self._connection: Connection | None = None
        self._wire: socket.socket | None = None
        self._locked = False

    def prepare(self) -> None:
        """As backend.Backend."""
        with self.transaction(write=False) as now:
            there = now.rows(_HAS_TABLE, (TABLE_SCHEMA,)) == [(True,)]
        if not there and self._reads:
            raise Misuse(f"The database {self._conninfo} has no table {TABLE_SCHEMA}: no instance has used it yet.")
        with self._transaction() as now:
            if not there:
                now.rows("SELECT pg_advisory_xact_lock(%s)", (_MAKING,))
                if now.rows(_HAS_TABLE, (TABLE_SCHEMA,)) != [(True,)]:
                    for statement in CREATE:
                        now.change(statement.format(bytes="BYTEA"))
            check_schema(now.rows(SCHEMA_OF), self._conninfo)
            if now.rows("SHOW fsync") != [("on",)]:
                raise Misuse(
                    f"The database {self._conninfo} runs with fsync off: a power failure would lose the record.",
                    advice="Nothing was changed. Set fsync = on in postgresql.conf.",
                )

    @contextlib.contextmanager
    def transaction(self, *, write: bool) -> Iterator[Transaction]:
        """As backend.Backend."""
        if write:
            self.lock()
        with self._transaction() as now:
            if write and now.rows(_HAVE_LOCK, (self._owner.number,)) != [(True,)]:
                self._locked = False
                raise self._in_use(now.rows(_HOLDER, (self._owner.number,)))
            yield now

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[_Now]:
        connection = self._connected()
        try:
            yield _Now(connection)
        except self._psycopg.Error as error:
            raise self._undone(connection, error) from error
        except BaseException:  # whatever it is, nothing half done stays
            self._undone(connection, None)
            raise
        try:
            connection.commit()
        except self._psycopg.Error as error:
            if connection.closed:
                self._drop()
                raise UnknownCommitError(_words(error)) from error
            raise self._undone(connection, error) from error  # it says so itself: nothing was committed

    def _undone(self, connection: Connection, error: Exception | None) -> RkeyError | LostConnectionError:
        """Undo the transaction; the error of ours for one of PostgreSQL's."""
        with contextlib.suppress(self._psycopg.Error):  # a connection that is lost has undone it: looked at below
            connection.rollback()
        if connection.closed:
            self._drop()
            return LostConnectionError("" if error is None else _words(error))
        return _told(error, self._conninfo)

    def _connected(self) -> Connection:
        if self._connection is not None and not self._connection.closed:
            return self._connection
        self._drop()
        try:
            connection: Connection = self._psycopg.connect(
                self._conninfo,
                connect_timeout=int(ANSWER_SECONDS),
                application_name=self._name(),
                client_encoding="utf8",
                keepalives=1,
                keepalives_idle=5,
                keepalives_interval=2,
                keepalives_count=3,
                tcp_user_timeout=5000,
                prepare_threshold=None,
            )
        except self._psycopg.Error as error:
            raise LostConnectionError(_words(error)) from error
        # A descriptor of its own, whatever libpq does with the other: cut() comes from another thread.
        self._connection, self._wire = connection, socket.socket(fileno=os.dup(connection.fileno()))
        try:
            with self._transaction() as now:
                for setting in _SETTINGS:
                    now.change(setting)
                if now.rows("SHOW synchronous_commit") == [("off",)]:
                    now.change("SET synchronous_commit = on")
        except BaseException:  # whatever it is, no session without its settings stays
            self._drop()
            raise
        return connection

    def _name(self) -> str:
        node = re.sub(r"[^A-Za-z0-9._-]", "-", os.uname().nodename)[:24] or "localhost"
        return f"rkeyserver/{os.getpid()}/{node}/{self._token}"

    def lock(self) -> None:
        """As backend.Backend. A session of this very process that the server has not missed yet is ended there."""
        self._connected()
        if self._locked:
            return
        for _ in range(_LOCK_ATTEMPTS):
            with self._transaction() as now:
                if now.rows(_TRY_LOCK, (self._owner.number,)) == [(True,)]:
                    self._locked = True
                    return
                holder = now.rows(_HOLDER, (self._owner.number,))
                own = [row[0] for row in holder if str(row[1]).endswith(self._token)]
                for pid in own:
                    now.rows("SELECT pg_terminate_backend(%s)", (int(str(pid)),))
            if holder and not own:
                raise self._in_use(holder)
            time.sleep(_LOCK_PAUSE)
        raise self._in_use([])

    def _in_use(self, holder: list[tuple[object, ...]]) -> Unavailable:
        who = "another session"
        if holder:
            pid, name, since = holder[0]
            note = _NAME.fullmatch(str(name))
            at = utc(since) if isinstance(since, int) else "a time that is not told"
            who = f"process {note[1]} on {note[2]} since {at}" if note else f"the session {pid}, {name!r}, since {at}"
        return Unavailable(
            f"The keystore is held by {who}: one process at a time may open it (advisory lock of {self._owner}).",
            advice="Stop that process, or give this one another name (?instance=NAME).",
        )

    def owns(self, path: Path) -> bool:
        """As backend.Backend: it has no files here."""
        del path
        return False

    def cut(self) -> None:
        """As backend.Backend."""
        wire = self._wire
        if wire is not None:
            with contextlib.suppress(OSError):  # it is cut already
                wire.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """As backend.Backend."""
        if self._locked and self._connection is not None and not self._connection.closed:
            # The server may take its time to notice an end; the next process must not wait for that. Where it cannot
            # be told, the end of the connection tells it.
            with contextlib.suppress(LostConnectionError, UnknownCommitError, RkeyError), self._transaction() as now:
                now.rows("SELECT pg_advisory_unlock(%s)", (self._owner.number,))
        self._drop()

    def _drop(self) -> None:
        self._locked = False
        connection, self._connection = self._connection, None
        wire, self._wire = self._wire, None
        if connection is not None:
            connection.close()
        if wire is not None:
            wire.close()


@dataclass(frozen=True)
class _Now:
    """Implements backend.Transaction."""

    connection: Connection

    def rows(self, statement: str, values: Sequence[Value] = ()) -> list[tuple[object, ...]]:
        return self.connection.execute(statement.encode(), values).fetchall()

    def change(self, statement: str, values: Sequence[Value] = ()) -> int:
        return self.connection.execute(statement.encode(), values or None).rowcount


def _words(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".?")


def _told(error: Exception | None, where: str) -> RkeyError:
    """The error of ours for one that the server has sent, by its SQLSTATE (PostgreSQL, Appendix A)."""
    state = getattr(error, "sqlstate", None) or ""
    text = f"The database {where} refused: {error and _words(error)} (SQLSTATE {state})."
    if state == "25006":
        return Unavailable(f"{text} Nothing was changed.", advice=READ_ONLY)
    if state == "42501":
        return Misuse(text, advice="Grant this user the rights that docs/operations/postgresql.md lists.")
    if state == "53100":
        return Unavailable(f"{text} Nothing was changed.", advice=SPACE)
    if state[:2] in {"40", "53", "55", "57", "58", "08", "23"}:
        return Unavailable(f"{text} Nothing was changed.", advice="Try again; look into the server's log.")
    return Corrupt(text, advice="Nothing was changed. Are the tables as this program made them?")
