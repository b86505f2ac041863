"""What every command of the program is made of: a parser of its own arguments, and what it says."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from rkeyserver.config import DEFAULT_OPS
from rkeyserver.errors import EXIT_OK, Misuse, Unavailable, one_line


class Parser(argparse.ArgumentParser):
    """argparse's, with errors of ours and no abbreviations."""

    def __init__(self, *args: object, **said: object) -> None:
        super().__init__(*args, **(said | {"allow_abbrev": False}))  # type: ignore[arg-type]  # as the caller has them

    def error(self, message: str) -> NoReturn:
        """Raises: Misuse."""
        raise Misuse(f"{message[0].upper()}{message[1:]}.", advice=f"{self.prog} -h lists what there is.")


@dataclass(frozen=True)
class Said:
    """What a command prints, and the exit status that it ends with."""

    text: str
    status: int = EXIT_OK


def add_ops(parser: argparse.ArgumentParser) -> None:
    """--ops: the running instance that is asked."""
    parser.add_argument("--ops", default=str(DEFAULT_OPS), metavar="HOST:PORT", help=f"default {DEFAULT_OPS}")


def put(text: str) -> None:
    """Print it; on a terminal with everything escaped that it could obey.

    A change of the policy is printed to the byte, for it is signed, and what is in it others have written.
    Raises: Unavailable if nobody reads it.
    """
    if sys.stdout.isatty():
        text = "\n".join(map(one_line, text.split("\n")))
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # What could not be written is still in the buffer, and would fail once more when the interpreter ends.
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        raise Unavailable(f"Could not print: {error.strerror}.") from error
