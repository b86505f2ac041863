"""How often one caller may ask: so many at once, and then so many in a second."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from rkeyserver.errors import Unavailable

REFUSED_DELAY: Final = 0.1  # seconds until one too many is told so: he who asks again at once costs little by it
MAX_KNOWN: Final = 4096  # callers; whoever was forgotten has asked for nothing lately


@dataclass
class Rates:
    """A bucket for each caller. burst: what it holds; per_second: what it gains. now: seconds that only grow."""

    per_second: float
    burst: float
    now: Callable[[], float]
    _left: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict, init=False)

    def take(self, who: str) -> None:
        """Count one request.

        Raises: Unavailable, with when to come again, if it is one too many.
        """
        now = self.now()
        left, since = self._left.pop(who, (self.burst, now))
        left = min(self.burst, left + (now - since) * self.per_second)
        allowed = left >= 1
        self._left[who] = (left - 1 if allowed else left, now)
        while len(self._left) > MAX_KNOWN:
            self._left.popitem(last=False)
        if not allowed:
            raise Unavailable(
                f"More requests than {self.per_second:.0f} in a second.",
                advice="Ask less often: keep a derived key in memory instead of asking for it each time.",
                retry_after=1,
            )
