"""A keystore in memory, that can be told to fail."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rkeyserver.errors import RkeyError
from rkeyserver.keystore.store import Fetch, ways_out


@dataclass
class MemoryKeystore:
    """Implements keystore.store.Keystore. fails: what load() and replace() raise; before: called by replace() first.

    waits, unreachable: as of a database, and what check_reachable() raises; asked_in: the threads that called it.
    """

    record: bytes | None = None
    kept: dict[str, bytes] = field(default_factory=dict)
    fails: RkeyError | None = None
    before: Callable[[], None] = lambda: None
    writes: int = 0
    closed: bool = False
    waits: bool = False
    unreachable: RkeyError | None = None
    asked_in: list[threading.Thread] = field(default_factory=list)

    def load(self) -> bytes | None:
        if self.fails is not None:
            raise self.fails
        return self.record

    def check_reachable(self) -> None:
        self.asked_in.append(threading.current_thread())
        if self.unreachable is not None:
            raise self.unreachable

    def owns(self, path: Path) -> bool:
        del path
        return False

    def glance(self) -> bytes | None:
        return self.load()

    def ways_out(self, fetch: Fetch) -> str:
        return ways_out(self.kept_names(), fetch)

    def check_new(self) -> None:
        if self.fails is not None:
            raise self.fails

    def kept_names(self) -> list[str]:
        return [f"kept.{name}" for name in reversed(self.kept)]

    def replace(self, record: bytes, keep_as: str | None) -> bool:
        if self.fails is not None:
            raise self.fails
        self.before()
        before, self.record = self.record, record
        if before is not None and keep_as is not None:
            self.kept[keep_as] = before
        self.writes += 1
        return before is not None

    def close(self) -> None:
        self.closed = True
