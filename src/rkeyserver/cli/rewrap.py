"""`rkeyserver rewrap`: a wrapped secret in, the same secret under the current generation out."""

from __future__ import annotations

import argparse

from rkeyserver.cli.caller import Wrapped, ask, associated_data, check_output, label_of, put_found, read_wrapped
from rkeyserver.cli.caller import parser as caller_parser
from rkeyserver.cli.command import Said
from rkeyserver.service.routes import REWRAP_PATH


def parser() -> argparse.ArgumentParser:
    """Of its arguments."""
    return caller_parser(
        "rewrap",
        "Wrap anew, under the current generation, the wrapped secret that is on standard input.",
        base64_help="it is base64, and is printed so",
    )


def run(found: argparse.Namespace) -> Said:
    """Print what is wrapped now.

    Raises: RkeyError.
    """
    label, about = label_of(found), associated_data(found)
    check_output(found)
    question = {"label": label, "wrapped": read_wrapped(found), "associated_data": about}
    put_found(found, ask(found, REWRAP_PATH, question, Wrapped).wrapped)
    return Said("")
