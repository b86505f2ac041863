"""`rkeyserver drill`: have a running instance open its record now, as its next start would."""

from __future__ import annotations

import argparse
import json

import msgspec

from rkeyserver.cli import talk
from rkeyserver.cli.choose import one_that_answers
from rkeyserver.cli.command import Parser, Said, add_ops, ops_of
from rkeyserver.errors import EXIT_OK, EXIT_STATUS, Corrupt, Unavailable, one_line
from rkeyserver.service.routes import DRILL_PATH

_ASK_AGAIN = "Ask again: nothing is changed by it."


class Proof(msgspec.Struct):
    """What POST /v1/drill answers. Any user of this machine may have answered."""

    at: str
    passed: bool
    reason: str
    found: str
    advice: str


def parser() -> argparse.ArgumentParser:
    """Of its arguments."""
    made = Parser(
        prog="rkeyserver drill",
        description="Have a running instance open its record as it lies in the store, compare it with what it serves, "
        "and erase it again. Nothing is changed.",
    )
    made.add_argument("--json", action="store_true", help="print the outcome as JSON")
    add_ops(made)
    return made


def run(found: argparse.Namespace) -> Said:
    """Ask, and print the outcome; a drill that failed ends with the exit status of stored data that cannot be used."""
    ops = one_that_answers(ops_of(found))
    answer = talk.post(ops, DRILL_PATH, b"", "answer to a drill", socket=None, unanswered=_ASK_AGAIN)
    try:
        proof = msgspec.convert(answer, Proof)
    except msgspec.ValidationError as error:
        raise Unavailable(f"What is on {ops} answers with something else than the outcome of a drill.") from error
    status = EXIT_OK if proof.passed else EXIT_STATUS[Corrupt]
    if found.json:
        return Said(json.dumps(msgspec.to_builtins(proof), indent=2) + "\n", status)
    if proof.passed:
        return Said(one_line(f"Passed at {proof.at}: {proof.found}") + "\n", status)
    return Said(one_line(f"FAILED at {proof.at} ({proof.reason}): {proof.found} {proof.advice}") + "\n", status)
