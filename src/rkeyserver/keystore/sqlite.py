"""Records in a file of SQLite. Each transaction opens the file anew, so that it is always the one of that name.

A rollback journal and synchronous=EXTRA: what is committed survives a power failure, and so does its journal's end. The
lock is a file's beside it, as a file keystore's is.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rkeyserver.errors import Corrupt, Misuse, RkeyError, Unavailable
from rkeyserver.keystore.backend import ANSWER_SECONDS, SPACE, Transaction, UnknownCommitError
from rkeyserver.keystore.file_lock import FileLock
from rkeyserver.keystore.file_read import refuse_mount_point, resolve
from rkeyserver.keystore.file_steps import step
from rkeyserver.keystore.table import CREATE, SCHEMA_OF, TABLE_SCHEMA, Owner, Value, check_schema

_NEW: Final = ".new~"
_SIDE: Final = ("-journal", "-wal", "-shm", _NEW)
_HAS_TABLE: Final = "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = %s"
_BACKUP: Final = "Nothing was changed. Restore the database from a backup, or name another."


class Sqlite:
    """Implements backend.Backend. path: of the database's file. reads: for a look only: nothing is made or locked."""

    def __init__(self, path: Path, owner: Owner, *, reads: bool = False) -> None:
        self._path = resolve(path)
        self._owner = owner
        self._reads = reads
        self._lock: FileLock | None = None

    def prepare(self) -> None:
        """As backend.Backend. A file of no bytes is Corrupt: something emptied it."""
        refuse_mount_point(self._path)
        try:
            size = self._path.stat().st_size
        except FileNotFoundError:
            if self._reads:
                raise Misuse(f"There is no database {self._path}.", advice="Give the path of a database.") from None
            self._make()
        except OSError as error:
            raise Unavailable(f"The database {self._path} cannot be looked at: {error.strerror}.") from error
        else:
            if size == 0:
                raise Corrupt(f"{self._path} is empty; a database is wanted.", advice=_BACKUP)
        with self.transaction(write=False) as now:
            if now.rows(_HAS_TABLE, (TABLE_SCHEMA,)) != [(1,)]:
                raise Corrupt(f"{self._path} is a database of something else: it has no table {TABLE_SCHEMA}.")
            check_schema(now.rows(SCHEMA_OF), str(self._path))

    def _make(self) -> None:
        """Make a database, whole before it has its name."""
        new = self._path.with_name(f"{self._path.name}{_NEW}{os.urandom(8).hex()}")
        with step(f"make the database {self._path}", "Nothing was changed.", self._path.parent):
            os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            try:
                with _transaction(new, "rw", write=True) as now:
                    for statement in CREATE:
                        now.change(statement.format(bytes="BLOB"))
                with contextlib.suppress(FileExistsError):  # another process was first
                    self._path.hardlink_to(new)
            except sqlite3.Error as error:
                raise _told(error, self._path) from error
            except UnknownCommitError as error:
                raise Unavailable(f"Could not make the database {self._path}: {error}.", advice=SPACE) from error
            finally:
                new.unlink(missing_ok=True)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    @contextlib.contextmanager
    def transaction(self, *, write: bool) -> Iterator[Transaction]:
        """As backend.Backend."""
        if write:
            self.lock()
        try:
            with _transaction(self._path, "ro" if self._reads else "rw", write=write) as now:
                yield now
        except sqlite3.Error as error:
            raise _told(error, self._path) from error

    def lock(self) -> None:
        """As backend.Backend."""
        if self._lock is None:
            owner = self._owner
            name = f"{self._path.name}.{owner.platform}.{owner.machine[:64]}.{owner.instance}.lock"
            self._lock = FileLock.acquire(self._path.with_name(name), time.time)
        self._lock.check()

    def owns(self, path: Path) -> bool:
        """As backend.Backend: the database, what SQLite keeps beside it, and locks."""
        try:
            found = path.resolve()
        except (OSError, RuntimeError):  # links in a circle, a folder that nobody may enter: no file of ours
            return False
        if found.parent != self._path.parent:
            return False
        name = self._path.name
        lock = re.compile(re.escape(name) + r"\.[a-z]+\.[^/]+\.lock")
        return (
            found.name == name
            or found.name.startswith(tuple(name + side for side in _SIDE))
            or bool(lock.fullmatch(found.name))
        )

    def cut(self) -> None:
        """As backend.Backend: there is no way to end a hanging disk."""

    def close(self) -> None:
        """As backend.Backend."""
        if self._lock is not None:
            self._lock.release()


@dataclass(frozen=True)
class _Now:
    """Implements backend.Transaction."""

    connection: sqlite3.Connection

    def rows(self, statement: str, values: Sequence[Value] = ()) -> list[tuple[object, ...]]:
        return self.connection.execute(statement.replace("%s", "?"), values).fetchall()

    def change(self, statement: str, values: Sequence[Value] = ()) -> int:
        return self.connection.execute(statement.replace("%s", "?"), values).rowcount


@contextlib.contextmanager
def _transaction(path: Path, mode: str, *, write: bool) -> Iterator[_Now]:
    """A transaction on the file at `path`. mode: rw to undo what a killed writer left undone, ro to touch nothing."""
    # In neither a file that is gone is made anew, and empty, by looking for it.
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode={mode}", uri=True, timeout=ANSWER_SECONDS / 2, isolation_level=None
    )
    try:
        for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "synchronous = EXTRA"):
            connection.execute(f"PRAGMA {pragma}")
        if write:
            connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
        try:
            yield _Now(connection)
        except BaseException:  # whatever it is, nothing half done stays
            with contextlib.suppress(sqlite3.Error):  # closing it, below, does the same
                connection.execute("ROLLBACK")
            raise
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise UnknownCommitError(_words(error)) from error
    finally:
        connection.close()


def _words(error: sqlite3.Error) -> str:
    return str(error.args[0]) if error.args else type(error).__name__


def _told(error: sqlite3.Error, path: Path) -> RkeyError:
    """The error of ours for one of SQLite's, by its primary result code (sqlite.org/rescode.html)."""
    code = getattr(error, "sqlite_errorcode", -1) & 0xFF
    text = f"The database {path} failed: {_words(error)}."
    match code:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return Unavailable(text, advice="Another process writes to it. Try again.")
        case sqlite3.SQLITE_FULL:
            return Unavailable(f"{text} Nothing was changed.", advice=SPACE)
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return Unavailable(
                f"{text} Nothing was changed.",
                advice=f"Let this process's user write to {path} and its folder, and mount it writable.",
            )
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_IOERR | sqlite3.SQLITE_NOMEM | sqlite3.SQLITE_PROTOCOL:
            return Unavailable(text, advice=f"Is {path} there, and readable for this user? Look for disk errors.")
        case _:
            return Corrupt(text, advice=_BACKUP)
