"""A server process on a machine that was never issued collateral and reaches nobody who would.

    python -m tests.fakes.no_way_out PYTHON -m rkeyserver WORDS...

Everything else is the real program's. Given as what a real command runs under.
"""

from __future__ import annotations

import sys

from rkeyserver.cli.main import main
from rkeyserver.platforms.simulated.platform import SimulatedPlatform


def nothing(_platform: SimulatedPlatform) -> bytes:
    return b""


def run() -> int:
    SimulatedPlatform.endorsements = nothing  # type: ignore[method-assign, assignment]  # the one thing that this program changes
    return main(sys.argv[4:])


if __name__ == "__main__":
    sys.exit(run())
