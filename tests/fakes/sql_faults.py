"""A database that fails as random numbers have it: statements, the connection, and commits of which nobody knows."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rkeyserver.errors import Unavailable
from rkeyserver.keystore.backend import Backend, LostConnectionError, Transaction, UnknownCommitError
from rkeyserver.keystore.sql import SqlKeystore
from rkeyserver.keystore.store import Bound, Keystore
from rkeyserver.keystore.table import Owner, Value


class Gone(Exception):
    """Has the real transaction undone."""


@dataclass
class _Failing:
    """Implements backend.Transaction."""

    now: Transaction
    chance: random.Random

    def _may_fail(self) -> None:
        if self.chance.random() < 0.04:
            raise self.chance.choice([Unavailable("the disk is full"), LostConnectionError("injected")])

    def rows(self, statement: str, values: Sequence[Value] = ()) -> list[tuple[object, ...]]:
        self._may_fail()
        return self.now.rows(statement, values)

    def change(self, statement: str, values: Sequence[Value] = ()) -> int:
        self._may_fail()
        return self.now.change(statement, values)


@dataclass
class Behind:
    """Implements backend.Backend by a real one; who derives from it changes something."""

    real: Backend

    def prepare(self) -> None:
        self.real.prepare()

    def transaction(self, *, write: bool) -> contextlib.AbstractContextManager[Transaction]:
        return self.real.transaction(write=write)

    def lock(self) -> None:
        self.real.lock()

    def owns(self, path: Path) -> bool:
        return self.real.owns(path)

    def cut(self) -> None:
        self.real.cut()

    def close(self) -> None:
        self.real.close()


@dataclass
class FaultyBackend(Behind):
    """One that fails now and then."""

    chance: random.Random

    @contextlib.contextmanager
    def transaction(self, *, write: bool) -> Iterator[Transaction]:
        undone = write and self.chance.random() < 0.15
        with contextlib.suppress(Gone), self.real.transaction(write=write) as now:
            yield _Failing(now, self.chance)
            if undone:
                raise Gone
        if undone or (write and self.chance.random() < 0.15):  # the second: it was committed, and nobody heard of it
            raise UnknownCommitError("injected")

    def lock(self) -> None:
        if self.chance.random() < 0.03:
            raise Unavailable("the lock cannot be had now")
        super().lock()


@contextlib.contextmanager
def faulty(chance: random.Random, real: Backend, owner: Owner, bound: Bound) -> Iterator[Callable[[], Keystore]]:
    """What opens a keystore over a database that fails."""
    yield lambda: SqlKeystore.open(FaultyBackend(real, chance), owner, bound, "a database that fails")
