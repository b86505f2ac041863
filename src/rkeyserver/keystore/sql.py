"""A keystore in a database: one owner's rows in a table that many machines share (docs/spec/keystore-table.md).

A write says which version it replaces, so that of two writers one loses, and nothing is lost. What may hang is done in
a thread of its own (patience.py); another looks every few seconds, and what it found last is what glance() gives.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, TypeVar

from rkeyserver.errors import Corrupt, Misuse, RkeyError, Unavailable
from rkeyserver.keystore import table
from rkeyserver.keystore.backend import (
    ANSWER_SECONDS,
    Backend,
    LostConnectionError,
    Transaction,
    UnknownCommitError,
)
from rkeyserver.keystore.file_read import KEEP_AS
from rkeyserver.keystore.patience import Job, Patience
from rkeyserver.keystore.store import MAX_RECORD, Binding, Bound, Fetch
from rkeyserver.keystore.table import Owner, State, judge

T = TypeVar("T")
OPEN_SECONDS: Final = 10.0
READ_BACK_SECONDS: Final = 3.0  # for a commit of which it is not known whether it was done
LOOK_SECONDS: Final = 2.0  # between two looks at what lies there
_PAUSE: Final = 0.1
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Write:
    """What replace() was asked for."""

    record: bytes
    binding: Binding
    keep_as: str | None

    @property
    def digest(self) -> bytes:
        return State(0, self.record, ()).digest


class SqlKeystore:
    """The record of one owner: see store.Keystore. Made by open(), ended by close()."""

    def __init__(self, backend: Backend, owner: Owner, bound: Bound, where: str) -> None:
        self._backend = backend
        self._owner = owner
        self._bound = bound
        self._where = where
        self._patience = Patience(f"The database of the keystore, {where},", backend.cut)
        self._base: int | None = None  # the version that was loaded or stored last: what a write replaces
        self._known: set[bytes] = set()  # digests of what may lie there without a word
        self._glanced: State | RkeyError | None = None
        self._kept: tuple[table.Kept, ...] = ()
        self._ending = threading.Event()
        self._looker = threading.Thread(target=self._look_on, name="keystore-look", daemon=True)

    @classmethod
    def open(cls, backend: Backend, owner: Owner, bound: Bound, where: str) -> Self:
        """Lock the rows of `owner`; there need be none yet. where: the database, in words.

        Raises: Unavailable if another process holds them, named, or if the database does not answer; Misuse, Corrupt
        if it is none for records.
        """
        store = cls(backend, owner, bound, where)

        def begin(job: Job) -> None:
            store._again(job, backend.prepare)
            store._again(job, backend.lock)

        try:
            store._call(begin, OPEN_SECONDS)
        except BaseException:  # whatever it is, nothing half done stays
            store._patience.close(backend.close)
            raise
        store._looker.start()
        return store

    @property
    def waits(self) -> bool:
        """As store.Keystore."""
        return True

    def _call(self, work: Callable[[Job], T], seconds: float = ANSWER_SECONDS) -> T:
        return self._patience.call(work, seconds)

    def _again(self, job: Job, work: Callable[[], T]) -> T:
        """Do what changes nothing, or undoes it; once more on a fresh connection, for the server may have restarted.

        Raises: Unavailable.
        """
        try:
            return work()
        except LostConnectionError as error:
            if job.late:
                raise self._lost(error) from error
        try:
            return work()
        except (LostConnectionError, UnknownCommitError) as error:
            raise self._lost(error) from error

    def _lost(self, error: Exception) -> Unavailable:
        return Unavailable(
            f"The database of the keystore, {self._where}, cannot be used now: {error}. Nothing was changed.",
            advice="What is held in memory is served on. See what keeps the database from it, then try again.",
        )

    def check_reachable(self) -> None:
        """As store.Keystore; the lock is held when it returns."""
        self._call(lambda job: self._again(job, self._ping))

    def _ping(self) -> None:
        with self._backend.transaction(write=False) as now:
            now.rows("SELECT 1")
        self._backend.lock()

    def owns(self, path: Path) -> bool:
        """As store.Keystore."""
        return self._backend.owns(path)

    def _state(self) -> State:
        with self._backend.transaction(write=False) as now:
            return judge(now.rows(table.ROWS, self._owner.rows), self._owner, self._bound)

    def load(self) -> bytes | None:
        """As store.Keystore. What it gives is what the next replace() replaces, and nothing else."""

        def look(job: Job) -> State:
            found = self._again(job, self._state)
            self._base, self._known, self._kept = found.version, {found.digest}, found.kept
            self._glanced = found
            return found

        return self._call(look).record

    def check_new(self) -> None:
        """As store.Keystore: a database has no links that lead elsewhere, and load() has looked at its rows."""

    def glance(self) -> bytes | None:
        """As store.Keystore."""
        found = self._glanced
        if isinstance(found, RkeyError):
            raise found
        if found is None:
            raise Unavailable(f"The database of the keystore, {self._where}, was not looked at yet.")
        return found.record

    def _look_on(self) -> None:
        while not self._ending.wait(LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        """Look at what lies there, for glance()."""

        def look(job: Job) -> None:
            found = self._again(job, self._state)
            self._again(job, self._backend.lock)
            if self._known and found.digest not in self._known:
                raise Corrupt(
                    f"The record of {self._owner} in {self._where} is another than this server stored or loaded last "
                    f"(version {found.version}).",
                    advice="The one in memory is served on. If nobody put it there on purpose, restart with -i.",
                )
            self._glanced = found

        before = self._glanced
        try:
            self._call(look)
        except RkeyError as error:
            if not isinstance(before, RkeyError) and not self._ending.is_set():
                _log.warning("Serving on from memory. %s", error)
            self._glanced = error
        else:
            if isinstance(before, RkeyError):
                _log.info("The database of the keystore, %s, answers again.", self._where)

    def kept_names(self) -> list[str]:
        """As store.Keystore, as of the last look."""
        return [str(one) for one in self._kept]

    def ways_out(self, fetch: Fetch) -> str:
        """As store.Keystore."""
        return table.ways_out(self._kept, fetch)

    def replace(self, record: bytes, keep_as: str | None) -> bool:
        """As store.Keystore.

        Raises: Unavailable if it could not be stored, or if that cannot be told: the text says which; Misuse if it can
        never be; Corrupt if what lies there was never written by this program.
        """
        if not 0 < len(record) <= MAX_RECORD:
            raise Misuse(f"A record of {len(record)} bytes; 1 to {MAX_RECORD} are wanted. Nothing was changed.")
        if keep_as is not None and not KEEP_AS.fullmatch(keep_as):
            raise Misuse(f"{keep_as!r} names no kept row; 1 to 128 letters, digits, '.' and '-' do.")
        binding = self._bound(record)
        if binding is None or (binding.platform, binding.machine) != self._owner.key[:2]:
            raise Misuse(f"That is no record of {self._owner}. Nothing was changed.")
        wanted = _Write(record, binding, keep_as)
        left = "The old record or the new one is there, whole; which, is seen when it answers."
        return self._patience.call(lambda job: self._replace(job, wanted), ANSWER_SECONDS, READ_BACK_SECONDS, left)

    def _replace(self, job: Job, wanted: _Write) -> bool:
        if self._base is None:
            self._base = self._again(job, self._state).version
        base = self._base
        for attempt in (1, 2):
            try:
                kept = self._written(wanted, base)
            except LostConnectionError as error:
                if job.late or attempt > 1:
                    raise self._lost(error) from error
            except UnknownCommitError as error:
                kept = self._read_back(job, wanted, base, error)
                break
            else:
                break
        self._base, self._known, self._kept = base + 1, {wanted.digest}, kept
        self._glanced = State(base + 1, wanted.record, kept)
        return base > 0

    def _written(self, wanted: _Write, base: int) -> tuple[table.Kept, ...]:
        """One transaction: what lies there is kept or dropped, the new one takes its place, the oldest kept go."""
        key, says = self._owner.key, wanted.binding
        with self._backend.transaction(write=True) as now:
            found = judge(now.rows(table.ROWS, self._owner.rows), self._owner, self._bound)
            if found.version != base:
                raise self._raced(found.version, base)
            kept = list(found.kept)
            if base and wanted.keep_as is not None:
                if now.change(table.DROP_SAME, (*key, wanted.keep_as, *key)):
                    kept = list(judge(now.rows(table.ROWS, self._owner.rows), self._owner, self._bound).kept)
                self._one(now.change(table.KEEP, (wanted.keep_as, *key, base)), base)
                kept.insert(0, table.Kept(base, wanted.keep_as))
                for one in table.to_drop(kept):
                    now.change(table.DROP_KEPT, (*key, one.version))
                    kept.remove(one)
            elif base:
                self._one(now.change(table.DROP, (*key, base)), base)
            values = (*key, base + 1, says.domain, says.epoch, says.sequence, wanted.record)
            self._one(now.change(table.ADD, values), base)
        return tuple(kept)

    def _one(self, changed: int, base: int) -> None:
        if changed != 1:
            raise self._raced(-1, base)

    def _raced(self, found: int, base: int) -> Unavailable:
        now = f"has version {found} by now" if found >= 0 else "was changed meanwhile"
        return Unavailable(
            f"The record of {self._owner} {now}, and version {base} was to be replaced: another process has written.",
            advice="Nothing was changed. See that one process only uses this name (?instance=NAME); then try again.",
        )

    def _read_back(self, job: Job, wanted: _Write, base: int, error: Exception) -> tuple[table.Kept, ...]:
        """Whether a commit was done of which that is not known: the kept rows if it was.

        With the lock held again, the session that sent the commit is over, and what is found is final.
        """
        end = time.monotonic() + READ_BACK_SECONDS
        while time.monotonic() < end and not job.over:
            try:
                self._backend.lock()
                found = self._state()
            except (LostConnectionError, UnknownCommitError, Unavailable):
                time.sleep(_PAUSE)
                continue
            if found.version == base + 1 and found.digest == wanted.digest:
                _log.info("The connection was lost during a commit, which was done, as the row shows.")
                return found.kept
            if found.version == base:
                raise self._lost(error) from error
            raise self._raced(found.version, base) from error
        self._known.add(wanted.digest)
        raise Unavailable(
            f"The database of the keystore, {self._where}, was lost while the new record was committed: {error}. It "
            "holds the old record or the new one, whole; which, it does not say now.",
            advice="What was held in memory before is served on. Try again when the database is back.",
        ) from error

    def close(self) -> None:
        """Let another process open it. A second call does nothing."""
        self._ending.set()
        self._patience.close(self._backend.close)


def one_state(backend: Backend, owner: Owner, bound: Bound) -> State:
    """What lies there, looked at once and without a lock, for a command that only reads."""
    return _once(backend, lambda now: judge(now.rows(table.ROWS, owner.rows), owner, bound))


def owners(backend: Backend, instance: str) -> list[Owner]:
    """Whose records of that name lie there."""
    return _once(
        backend, lambda now: [Owner(*map(str, row)) for row in now.rows(table.OWNERS, (instance, table.MOST_ROWS))]
    )


def _once(backend: Backend, work: Callable[[Transaction], T]) -> T:
    def look(_job: Job) -> T:
        try:
            backend.prepare()
            with backend.transaction(write=False) as now:
                return work(now)
        except (LostConnectionError, UnknownCommitError) as error:
            raise Unavailable(f"The database is not reached: {error}.") from error

    patience = Patience("The database", backend.cut)
    try:
        return patience.call(look, OPEN_SECONDS)
    finally:
        patience.close(backend.close)
