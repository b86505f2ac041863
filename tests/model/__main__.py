"""The models within wider bounds than the tests have (`make model`): each a few minutes and up to 8 GB of memory."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.model.spin import check

WIDER = {
    "three promotions": ("reunion", "PROMOTIONS=3 LOSSES=1"),
    "three rotations": ("reunion", "ROTATIONS=3 LOSSES=1"),
    "two crashes": ("reunion", "RESTARTS=2 RETIREMENTS=1"),
    "a domain that begins": ("reunion", "FOUNDING LOSSES=1"),
    "a lease that ends twice": ("lease", "EXPIRIES=2 RESTARTS=0"),
}
SECONDS = 900


def main() -> int:
    """Check them all, and print the counterexample of one that does not hold."""
    for name, (model, defined) in WIDER.items():
        with tempfile.TemporaryDirectory() as folder:
            found = check(model, defined, Path(folder), seconds=SECONDS)
        if found.errors:
            print(f"{name} ({model}.pml, {defined}) does not hold:\n{found.said}\n{found.steps}")  # noqa: T201 - for who asked
            return 1
        print(f"{name} ({model}.pml, {defined}) holds: {found.states} states.", flush=True)  # noqa: T201 - the same
    return 0


if __name__ == "__main__":
    sys.exit(main())
