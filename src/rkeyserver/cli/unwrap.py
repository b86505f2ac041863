"""`rkeyserver unwrap`: a wrapped secret in, the secret out."""

from __future__ import annotations

import argparse
import sys
from typing import Annotated

import msgspec

from rkeyserver.cli.caller import ask, associated_data, label_of, read_wrapped
from rkeyserver.cli.caller import parser as caller_parser
from rkeyserver.cli.command import Said, put_bytes
from rkeyserver.errors import Misuse
from rkeyserver.keyring.wrapping import MAX_PLAINTEXT
from rkeyserver.service.routes import UNWRAP_PATH


class _Secret(msgspec.Struct):
    """What POST /v1/unwrap answers."""

    plaintext: Annotated[bytes, msgspec.Meta(max_length=MAX_PLAINTEXT)]


def parser() -> argparse.ArgumentParser:
    """Of its arguments."""
    return caller_parser(
        "unwrap",
        "Open the wrapped secret that is on standard input, and print the secret as it is.",
        base64_help="what is wrapped is base64",
    )


def run(found: argparse.Namespace) -> Said:
    """Print the secret.

    Raises: RkeyError.
    """
    label, about = label_of(found), associated_data(found)
    if sys.stdout.isatty():
        # A secret may be anything; what it would do to a terminal, and who reads its history, nobody knows.
        raise Misuse(
            "Standard output is a terminal, which would show the secret, and keep it.",
            advice="Send it to a file or a pipe; to see it all the same, to `cat`.",
        )
    question = {"label": label, "wrapped": read_wrapped(found), "associated_data": about}
    put_bytes(ask(found, UNWRAP_PATH, question, _Secret).plaintext)
    return Said("")
