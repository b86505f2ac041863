"""`rkeyserver derive`: the key of a label, for this user, if the policy lets him have it."""

from __future__ import annotations

import argparse
import sys
from typing import Annotated

import msgspec

from rkeyserver.appraisal.policy import GenerationName
from rkeyserver.cli.caller import ask, check_output, label_of, put_found
from rkeyserver.cli.caller import parser as caller_parser
from rkeyserver.cli.command import Said
from rkeyserver.errors import Misuse, Unavailable
from rkeyserver.hex_types import Hex16
from rkeyserver.keyring.derived import DEFAULT_SIZE, MAX_SIZE, MIN_SIZE
from rkeyserver.service.callers_requests import WANTED
from rkeyserver.service.routes import DERIVE_PATH


class _Key(msgspec.Struct):
    """What POST /v1/derive answers."""

    key: Annotated[bytes, msgspec.Meta(min_length=MIN_SIZE, max_length=MAX_SIZE)]
    generation: Hex16


def parser() -> argparse.ArgumentParser:
    """Of its arguments."""
    made = caller_parser(
        "derive",
        "Print the key of a label: the same on every machine of the domain.",
        base64_help="print the key as base64",
        associated=False,
    )
    made.add_argument(
        "--size", type=int, default=DEFAULT_SIZE, help=f"in bytes, {MIN_SIZE} to {MAX_SIZE} (default {DEFAULT_SIZE})"
    )
    made.add_argument("--generation", metavar="ID", help="of the root key: an id, first or current (default current)")
    return made


def run(found: argparse.Namespace) -> Said:
    """Print it; which generation it is of, is told on stderr unless it was named.

    Raises: RkeyError.
    """
    label = label_of(found)
    if not MIN_SIZE <= found.size <= MAX_SIZE:
        raise Misuse(f"--size is {found.size}; wanted is {WANTED['size']}.")
    try:
        msgspec.convert(found.generation, GenerationName | None)
    except msgspec.ValidationError as error:
        raise Misuse(f"--generation is {found.generation!r}; wanted is {WANTED['generation']}.") from error
    check_output(found)
    question = {"label": label, "size": found.size, "generation": found.generation}
    answer = ask(found, DERIVE_PATH, question, _Key)
    if len(answer.key) != found.size or found.generation not in (None, "first", "current", answer.generation):
        raise Unavailable("The instance answers with another key than was asked for.")
    put_found(found, answer.key)
    if found.generation is None:
        sys.stderr.write(f"After a rotation this same key is had with --generation {answer.generation}.\n")
    return Said("")
