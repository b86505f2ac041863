"""What every command of the program is made of: a parser of its own arguments, and what it says."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from rkeyserver.config import DEFAULT_OPS, Config, Options, check_options, make_config, read_file
from rkeyserver.errors import EXIT_OK, Misuse, Unavailable, one_line
from rkeyserver.platforms.registry import PLATFORMS


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


def add_machine(parser: argparse.ArgumentParser) -> None:
    """--platform, --machine and --config: which machine it is about."""
    parser.add_argument("--platform", choices=PLATFORMS, help="default: the hardware that is found")
    parser.add_argument("--machine", metavar="DIR", help="the simulated processor's state")
    parser.add_argument("--config", metavar="FILE", help="the instance's configuration; the command line wins")


def configuration(given: Mapping[str, object]) -> Config:
    """That of an instance, by its options as they were given and by the file that --config names.

    Raises: Misuse.
    """
    said = {name.replace("_", "-"): value for name, value in given.items() if value is not None}
    file = said.pop("config", None)
    return make_config(Options() if file is None else read_file(Path(str(file))), check_options(said))


def add_ops(parser: argparse.ArgumentParser, which: str = "of several, one that answers") -> None:
    """--ops: the running instance that is asked. which: which one where several are named (choose.py)."""
    parser.add_argument("--ops", action="append", metavar="HOST:PORT", help=f"default {DEFAULT_OPS}; {which}")


def ops_of(found: argparse.Namespace) -> list[str]:
    """What --ops names."""
    return found.ops or [str(DEFAULT_OPS)]


def put(text: str) -> None:
    """Print it; on a terminal with everything escaped that it could obey.

    A change of the policy is printed to the byte, for it is signed, and what is in it others have written.
    Raises: Unavailable if nobody reads it.
    """
    if sys.stdout.isatty():
        text = "\n".join(map(one_line, text.split("\n")))
    with _printing():
        sys.stdout.write(text)


def put_bytes(data: bytes) -> None:
    """Print it as it is.

    Raises: Unavailable if nobody reads it.
    """
    with _printing():
        sys.stdout.buffer.write(data)


@contextlib.contextmanager
def _printing() -> Iterator[None]:
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        # What could not be written is still in the buffer, and would fail once more when the interpreter ends.
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        raise Unavailable(f"Could not print: {error.strerror}.") from error
