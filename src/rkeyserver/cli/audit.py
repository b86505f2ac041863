"""`rkeyserver audit`: whether logs of who got the key are whole, and signed heads of them to keep elsewhere."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rkeyserver import files
from rkeyserver.cli import talk
from rkeyserver.cli.choose import one_that_answers
from rkeyserver.cli.command import Parser, Said, add_ops, ops_of
from rkeyserver.errors import Rejected, Unavailable, one_line
from rkeyserver.service.audit_chain import (
    MAX_CHECKPOINT,
    Checkpoint,
    check_key,
    parse_checkpoint,
)
from rkeyserver.service.audit_match import Matched, match
from rkeyserver.service.audit_verify import Log, check_contains, verify
from rkeyserver.service.routes import AUDIT_CHECKPOINT_PATH


def parser() -> argparse.ArgumentParser:
    """Of `audit`, with its own commands."""
    whole = Parser(prog="rkeyserver audit", description="The record of who got the key.")
    commands = whole.add_subparsers(dest="action", required=True, metavar="COMMAND", parser_class=Parser)
    text = "check audit files, and compare the logs of several instances"
    made = commands.add_parser("verify", help=text, description=f"{text[0].upper()}{text[1:]}.")
    made.add_argument("file", nargs="+", metavar="FILE", help="the audit file; of a rotated one all, the oldest first")
    made.add_argument(
        "--peer", action="append", default=[], metavar="FILE", help="another instance's audit file (repeatable)"
    )
    made.add_argument(
        "--checkpoint", action="append", default=[], metavar="FILE", help="what the log has to contain (repeatable)"
    )
    made.add_argument("--key", default="", metavar="KEY", help="the domain's key of checkpoints, as `status` shows it")
    text = "have the running instance sign the head of its log"
    made = commands.add_parser("checkpoint", help=text, description=f"{text[0].upper()}{text[1:]}.")
    made.add_argument("--key", default="", metavar="KEY", help="refuse one that is signed with another key")
    made.add_argument("-o", "--output", metavar="FILE", help="write it there")
    add_ops(made)
    return whole


def run(found: argparse.Namespace) -> Said:
    """Carry out one command of `audit`.

    Raises: RkeyError.
    """
    key = check_key(found.key) if found.key else ""
    if found.action == "verify":
        paths = [Path(one) for one in found.file]
        return Said(verified(paths, [Path(one) for one in found.peer], [Path(one) for one in found.checkpoint], key))
    document = checkpoint(one_that_answers(ops_of(found)), key).text()
    if found.output is None:
        return Said(document)
    files.put(Path(found.output), document.encode())
    return Said(f"Written to {found.output}.\n")


def checkpoint(ops: str, key: str) -> Checkpoint:
    """A checkpoint of the running instance. key: the one that must have signed it, empty for any.

    Raises: Rejected(NOT_SIGNED), Unavailable, Misuse.
    """
    answer = talk.get(ops, AUDIT_CHECKPOINT_PATH, "checkpoint")
    try:
        found = parse_checkpoint(json.dumps(answer).encode())
    except (ValueError, Rejected) as error:
        raise Unavailable(f"What is on {ops} answers with something else than a checkpoint.") from error
    try:
        found.check(key)
    except Rejected as error:
        raise Rejected(error.reason, f"The checkpoint does not count: {error.message}.") from error
    return found


def verified(paths: list[Path], peers: list[Path], checkpoints: list[Path], key: str) -> str:
    """What was found in the log in `paths`, for people.

    Raises: Rejected naming the first line that does not hold; Misuse.
    """
    signed = [parse_checkpoint(files.read(path, MAX_CHECKPOINT, "checkpoint")) for path in checkpoints]
    log = verify(paths, key=key)
    for one in signed:
        check_contains(log, one, key or log.key)
    others = [verify([path], key=key or log.key) for path in peers]
    text = [line for one in (log, *others) for line in _lines(one, pinned=bool(key))]
    text += [f"checkpoint   of {one.at}: line number {one.lines - 1} is as it was signed" for one in signed]
    if others:
        text += _matched(match([log, *others]))
    return "\n".join(map(one_line, text)) + "\n"


def _lines(log: Log, *, pinned: bool) -> list[str]:
    assert log.head is not None  # noqa: S101 - verify() has refused it
    head = log.head
    by = f"with key {log.key}, {'as given' if pinned else 'which was not compared with any (--key)'}"
    lines = [
        f"log          {log.name}",
        f"machine      {log.machine or 'not said'}",
        f"chain        {head.chain}",
        f"lines        {head.lines - log.begins}, number {log.begins} to {head.lines - 1}, the last at {log.last_at}",
        f"head         {head.digest.hex()}",
    ]
    if log.signed is None:
        lines.append("signed       nothing: whoever writes to the file could have made all of it anew")
    else:
        left = head.lines - log.signed.lines
        after = f"; {left} after it can be cut off or made anew" if left else ""
        lines.append(f"signed       up to number {log.signed.lines - 1}, {by}{after}")
    if log.begins:
        lines.append(f"older lines  number 0 to {log.begins - 1} are elsewhere")
    if log.before:
        lines.append(f"before       {log.before} bytes that are older than the chain: as they were when it began")
    lines += [f"torn         {at}: {size} bytes of a line that did not come to its end" for at, size in log.torn]
    if log.rest:
        lines.append(
            f"torn         at the end, {log.rest} bytes: a crash, a full disk, or somebody who cut a line there"
        )
    return lines


def _matched(found: Matched) -> list[str]:
    lines = [f"hand-overs   {found.pairs} that both ends have"]
    return lines + [
        f"no join      {one}: its answer was lost or refused, or that log was cut or begun anew"
        for one in found.without
    ]
