"""How long answers took, as a histogram of Prometheus's, in plain numbers: a caller's call pays for no more."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Final

# Upper bounds in seconds. A derived key takes the first two; a quote of SGX hardware may take a quarter of a second.
BOUNDS: Final = (
    *(0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0),
)


@dataclass(slots=True)
class Latency:
    """counts: answers by the first of BOUNDS that is not below their time, the last for what took longer than all.

    total: seconds that all of them took together.
    """

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    total: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count one answer."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds
