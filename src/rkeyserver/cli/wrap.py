"""`rkeyserver wrap`: a secret in, the wrapped secret out."""

from __future__ import annotations

import argparse

from rkeyserver.cli.caller import Wrapped, ask, associated_data, check_output, label_of, put_found, read_secret
from rkeyserver.cli.caller import parser as caller_parser
from rkeyserver.cli.command import Said
from rkeyserver.keyring.wrapping import MAX_PLAINTEXT
from rkeyserver.service.routes import WRAP_PATH


def parser() -> argparse.ArgumentParser:
    """Of its arguments."""
    return caller_parser(
        "wrap",
        f"Wrap the secret on standard input, at most {MAX_PLAINTEXT} bytes, for a label.",
        base64_help="print it as base64",
    )


def run(found: argparse.Namespace) -> Said:
    """Print what is wrapped.

    Raises: RkeyError.
    """
    label, about = label_of(found), associated_data(found)
    check_output(found)
    question = {"label": label, "plaintext": read_secret(), "associated_data": about}
    put_found(found, ask(found, WRAP_PATH, question, Wrapped).wrapped)
    return Said("")
