"""The time that checks are made against.

A host may set its clock back, so the time is the larger of the host's clock and the newest issue date of
anything whose signature was verified. It never goes back within one run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime


@dataclass
class Clock:
    """Seconds since 1970 UTC, never before the newest verified issue date seen.

    host: where the host's time comes from; tests give their own.
    """

    host: Callable[[], float] = time.time
    _floor: float = field(default=0.0, init=False)

    def now(self) -> int:
        """Whole seconds since 1970 UTC."""
        self._floor = max(self._floor, self.host())
        return int(self._floor)

    def observe(self, issued: int) -> None:
        """Remember the issue date (seconds since 1970) of something verified: it cannot be earlier than that now."""
        self._floor = max(self._floor, float(issued))


def utc(seconds: int) -> str:
    """`seconds` since 1970 as people and logs read it, in UTC to the second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
