"""`rkeyserver rotate`: a new generation of the root key."""

from __future__ import annotations

import argparse

from rkeyserver.appraisal.orders import Rotate
from rkeyserver.cli.command import Parser, Said
from rkeyserver.cli.ordering import add_order, give


def parser() -> argparse.ArgumentParser:
    """Of `rotate`."""
    made = Parser(prog="rkeyserver rotate", description="Add a generation of the root key, at the primary.")
    add_order(made)
    return made


def run(found: argparse.Namespace) -> Said:
    """Have a generation added.

    Raises: RkeyError.
    """
    return give(found, lambda now: Rotate(domain=now.domain, current=now.current))
