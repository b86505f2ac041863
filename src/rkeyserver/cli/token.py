"""`rkeyserver token`: makes what a caller shows, and the entry that a policy names it by."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from rkeyserver import files
from rkeyserver.appraisal.callers import Action
from rkeyserver.appraisal.policy import PolicyDocument
from rkeyserver.cli.command import Parser, Said
from rkeyserver.errors import Misuse, Unavailable
from rkeyserver.tokens import SIZE, digest, token_of


def parser() -> argparse.ArgumentParser:
    """Of `token`."""
    made = Parser(prog="rkeyserver token", description="For callers that no kernel and no enclave vouches for.")
    actions = made.add_subparsers(parser_class=Parser, dest="action", required=True, metavar="COMMAND")
    new = actions.add_parser("new", help="make a token, and the policy's entry for it")
    add = new.add_argument
    add(
        "--label",
        action="append",
        required=True,
        metavar="LABEL",
        help='what it is for; "db/*" for all below (repeatable)',
    )
    add("--may", action="append", choices=list(Action), help="what it may do (repeatable; default derive)")
    add("-o", "--output", metavar="FILE", help="write the token to this new file, mode 0600; else it is printed")
    return made


def run(found: argparse.Namespace) -> Said:
    """Make one.

    Raises: Misuse, Unavailable.
    """
    entry = _checked(found.may or [Action.DERIVE], found.label)
    token = token_of(os.urandom(SIZE))
    text = f'[[callers]]\ntoken_sha256 = "{digest(token)}"\n{entry}'
    if found.output is None:
        return Said(f"token        {token}\nIt is shown this once. The policy names it by this entry:\n\n{text}")
    path = Path(found.output)
    try:
        made = files.create(path, token.encode() + b"\n")
    except OSError as error:
        raise Unavailable(f"{path} cannot be written: {error.strerror}.") from error
    if not made:
        raise Misuse(f"There is a file {path} already.", advice="It was left as it is: name another.")
    return Said(text)


def _checked(may: list[str], labels: list[str]) -> str:
    """What an entry says behind the token, as a policy takes it."""
    import msgspec  # noqa: PLC0415 - late: what a mistake in the arguments does not need

    entry = {"may": [str(one) for one in may], "labels": labels, "token_sha256": "0" * 64}
    try:
        msgspec.convert({"version": 1, "callers": [entry]}, PolicyDocument)
    except msgspec.ValidationError as error:
        raise Misuse(
            "A label has 1 to 256 printable ASCII characters, without a space at its ends.",
            advice='One that ends with "*" stands for all that begin with what is before it.',
        ) from error
    for label in labels:
        if "*" in label[:-1]:
            raise Misuse(f'{label!r} has a "*" before its end, where it stands for nothing.')
    for name in ("may", "labels"):
        if len(set(entry[name])) != len(entry[name]):
            raise Misuse(f"The entry would have the same in {name} twice.")
    return "".join(f"{name} = {json.dumps(entry[name])}\n" for name in ("may", "labels"))  # TOML has it so too
