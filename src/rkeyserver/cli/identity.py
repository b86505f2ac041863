"""`rkeyserver identity`: the line by which a policy names this machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rkeyserver.cli import log
from rkeyserver.cli.command import Parser, Said
from rkeyserver.clock import Clock
from rkeyserver.config import Options, check_options, make_config, read_file
from rkeyserver.errors import one_line
from rkeyserver.service.compose import open_platform


def parser() -> argparse.ArgumentParser:
    """Of its arguments."""
    made = Parser(prog="rkeyserver identity", description="Print the line by which a policy names this machine.")
    made.add_argument("--platform", choices=("sgx", "tpm", "simulated"), help="default: the hardware that is found")
    made.add_argument("--machine", metavar="DIR", help="the simulated processor's state")
    made.add_argument("--config", metavar="FILE", help="the instance's, which says both; the command line wins")
    return made


def run(found: argparse.Namespace) -> Said:
    """PLATFORM MACHINE, as `rkeyserver policy admit` takes it.

    Raises: Misuse, Corrupt, Unavailable as the platform does.
    """
    log.set_up("warning")
    given = {name: value for name, value in vars(found).items() if value is not None}
    file = given.pop("config", None)
    config = make_config(Options() if file is None else read_file(Path(file)), check_options(given))
    new = not config.machine.exists()
    own = open_platform(config, Clock()).attester_identity()
    if own.platform == "simulated" and new:
        sys.stderr.write(f"Made a new simulated machine in {one_line(str(config.machine))}.\n")
    return Said(f"{own.platform} {own.machine}\n")
