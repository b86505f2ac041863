"""`rkeyserver identity`: the line by which a policy names this machine."""

from __future__ import annotations

import argparse
import sys

from rkeyserver.cli import log
from rkeyserver.cli.command import Parser, Said, add_machine, configuration
from rkeyserver.clock import Clock
from rkeyserver.config import Config
from rkeyserver.errors import one_line
from rkeyserver.service.compose import open_platform


def parser() -> argparse.ArgumentParser:
    """Of its arguments."""
    made = Parser(prog="rkeyserver identity", description="Print the line by which a policy names this machine.")
    add_machine(made)
    return made


def run(found: argparse.Namespace) -> Said:
    """PLATFORM MACHINE, as `rkeyserver policy admit` takes it.

    Raises: Misuse, Corrupt, Unavailable as the platform does.
    """
    return run_with(configuration(vars(found)))


def run_with(config: Config) -> Said:
    """The same, of that configuration.

    Raises: Misuse, Corrupt, Unavailable as the platform does.
    """
    log.set_up("warning")
    new = not config.machine.exists()
    own = open_platform(config, Clock()).attester_identity()
    if own.platform == "simulated" and new:
        sys.stderr.write(f"Made a new simulated machine in {one_line(str(config.machine))}.\n")
    return Said(f"{own.platform} {own.machine}\n")
