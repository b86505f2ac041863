"""`rkeyserver promote`: this instance is the primary from now on."""

from __future__ import annotations

import argparse

from rkeyserver.appraisal.orders import Promote
from rkeyserver.cli.choose import the_only
from rkeyserver.cli.command import Parser, Said
from rkeyserver.cli.ordering import add_order, give


def parser() -> argparse.ArgumentParser:
    """Of `promote`."""
    made = Parser(prog="rkeyserver promote", description="Make this standby the primary, in a new epoch.")
    add_order(made, "the standby that is meant, one alone")
    return made


def run(found: argparse.Namespace) -> Said:
    """Have it promoted.

    Raises: RkeyError.
    """
    return give(found, lambda now: Promote(domain=now.domain, member=now.member, epoch=now.epoch), at=the_only)
