"""`rkeyserver order`: orders that admins sign, where no owner's word counts."""

from __future__ import annotations

import argparse
from pathlib import Path

from rkeyserver import files
from rkeyserver.appraisal.orders import Promote, text_of
from rkeyserver.cli.choose import the_only, the_primary
from rkeyserver.cli.command import Parser, Said, add_ops, ops_of
from rkeyserver.cli.ordering import now_at, read, said, send, signed


def parser() -> argparse.ArgumentParser:
    """Of `order`, with its own commands."""
    whole = Parser(prog="rkeyserver order", description="Orders that a domain's admins sign.")
    commands = whole.add_subparsers(dest="action", required=True, metavar="COMMAND", parser_class=Parser)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        made.add_argument("file", metavar="ORDER", help="an order, or - for standard input")
        return made

    command("show", "say what an order asks for")
    made = command("sign", "sign an order, on an admin's own machine")
    made.add_argument("--key", action="append", required=True, metavar="FILE", help="an admin's key (repeatable)")
    made.add_argument("-o", "--output", metavar="FILE", help="write the order there")
    add_ops(command("apply", "have a running instance carry out an order"), "of several, the primary")
    return whole


def run(found: argparse.Namespace) -> Said:
    """Carry out one command of `order`.

    Raises: RkeyError.
    """
    order = read(Path(found.file))
    match found.action:
        case "show":
            return Said(said(order))
        case "sign":
            text = f"{text_of(signed(order, [Path(key) for key in found.key]))}\n"
            if found.output is None:
                return Said(text)
            files.put(Path(found.output), text.encode())
            return Said(f"Written to {found.output}.\n")
        case _:
            ops = (the_only if isinstance(order, Promote) else the_primary)(ops_of(found))
            return Said(send(ops, order, now_at(ops)))
