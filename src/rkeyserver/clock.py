"""The time that checks are made against: the host's, but never going back within one run.

Else a host that sets its clock back could let a challenge live again that was answered or had expired. A clock that
jumped ahead has to be set right and the program started again. What was verified cannot move it: verification refuses
every date after this time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

DAY: Final = 86_400  # seconds


@dataclass
class Clock:
    """Seconds since 1970 UTC. host: where the host's time comes from; tests give their own."""

    host: Callable[[], float] = time.time
    _latest: float = field(default=0.0, init=False)

    def now(self) -> int:
        """Whole seconds since 1970 UTC."""
        self._latest = max(self._latest, self.host())
        return int(self._latest)


def utc(seconds: int) -> str:
    """`seconds` since 1970 as people and logs read it, in UTC to the second."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):  # a clock or a document that is beyond the calendar
        return f"second {seconds}"
