"""`rkeyserver retire`: no more use of a generation of the root key."""

from __future__ import annotations

import argparse

from rkeyserver.appraisal.orders import Retire
from rkeyserver.cli.command import Parser, Said
from rkeyserver.cli.ordering import Now, add_order, give
from rkeyserver.errors import Misuse, one_line


def parser() -> argparse.ArgumentParser:
    """Of `retire`."""
    made = Parser(prog="rkeyserver retire", description="Stop every use of a generation, at the primary.")
    made.add_argument("generation", metavar="ID", help="a readable generation, as `rkeyserver status` shows it")
    add_order(made)
    return made


def run(found: argparse.Namespace) -> Said:
    """Have it retired.

    Raises: RkeyError.
    """

    def order(now: Now) -> Retire:
        ids = [one.id for one in now.generations]
        if found.generation not in ids:
            raise Misuse(
                f"Domain {now.domain} has no generation {one_line(found.generation)}.",
                advice=f"It has: {', '.join(ids)}.",
            )
        return Retire(domain=now.domain, generation=found.generation)

    return give(found, order)
