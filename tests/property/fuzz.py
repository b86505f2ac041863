"""The long run by hand: `make fuzz`, FUZZ_SECONDS=600 in all, shared by the targets; FUZZ_SEED to do one again.

For each target it prints how many inputs were given and taken, and of each kind of trouble the shortest input.
"""

from __future__ import annotations

import logging
import os
import random
import re
import sys
import time

from tests.property.check import Found, check
from tests.property.everything import TARGETS, Target
from tests.property.mutate import apply, random_steps


def run(target: Target, dice: random.Random, seconds: float) -> dict[str, bytes]:
    """Give mutations of its seeds to one target; the troubles, each with its shortest input."""
    seeds = target.seeds()
    troubles: dict[str, bytes] = {}
    given = taken = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        data = apply(dice.choice(seeds), random_steps(dice), seeds)
        given += 1
        try:
            taken += check(target, data)
        except Found as found:
            kind = re.sub(r"[0-9]+", "N", str(found))[:120]
            if kind not in troubles or len(data) < len(troubles[kind]):
                troubles[kind] = data
    sys.stdout.write(f"{target.name:<36} {given:>9} inputs, {taken:>8} taken, {len(troubles):>3} troubles\n")
    for kind, data in troubles.items():
        sys.stdout.write(f"    {kind}\n    {len(data)} bytes: {data[:2000]!r}\n")
    sys.stdout.flush()
    return troubles


def main() -> int:
    """All targets, or those whose names contain an argument; the exit status says whether there was any trouble."""
    seconds = float(os.environ.get("FUZZ_SECONDS", "600"))
    number = int(os.environ.get("FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
    chosen = [one for one in TARGETS.values() if not sys.argv[1:] or any(word in one.name for word in sys.argv[1:])]
    logging.disable()
    sys.stdout.write(f"FUZZ_SEED={number}, {len(chosen)} targets, {seconds:.0f} seconds\n")
    troubles = [run(one, random.Random(f"{number} {one.name}"), seconds / len(chosen)) for one in chosen]  # noqa: S311 - what is fuzzed can be run again by its seed
    return int(any(troubles))


if __name__ == "__main__":
    sys.exit(main())
