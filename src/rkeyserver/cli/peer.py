"""`rkeyserver peer`: the members of the domain that an instance knows."""

from __future__ import annotations

import argparse

from rkeyserver.appraisal.orders import Forget
from rkeyserver.cli.choose import one_that_answers
from rkeyserver.cli.command import Parser, Said, add_ops, ops_of
from rkeyserver.cli.ordering import Now, add_order, give, now_at
from rkeyserver.errors import Misuse, one_line


def parser() -> argparse.ArgumentParser:
    """Of `peer`, with its own commands."""
    whole = Parser(prog="rkeyserver peer", description="The members of the domain that an instance knows.")
    commands = whole.add_subparsers(dest="action", required=True, metavar="COMMAND", parser_class=Parser)
    text = "list them, and who has acknowledged what is held"
    add_ops(commands.add_parser("list", help=text, description=f"{text[0].upper()}{text[1:]}."))
    text = "wait no longer for one that is gone for good"
    made = commands.add_parser("forget", help=text, description=f"{text[0].upper()}{text[1:]}.")
    made.add_argument("member", metavar="ID", help="as `rkeyserver peer list` shows it")
    add_order(made)
    return whole


def run(found: argparse.Namespace) -> Said:
    """Carry out one command of `peer`.

    Raises: RkeyError.
    """
    if found.action == "list":
        return Said(listed(now_at(one_that_answers(ops_of(found)))))
    return give(found, lambda now: _forget(now, found.member))


def _forget(now: Now, member: str) -> Forget:
    if member not in {one.member for one in now.members}:
        raise Misuse(
            f"No member {one_line(member)} is known there.", advice="`rkeyserver peer list` says who is, by their ids."
        )
    return Forget(domain=now.domain, member=member, epoch=now.epoch, sequence=now.sequence)


def listed(now: Now) -> str:
    """One line for each member: its id, where it answers, its machine, and what it has acknowledged."""
    lines = [f"{now.member}  this instance  {one_line(now.role)}  epoch {now.epoch}, sequence {now.sequence}"]
    for one in now.members:
        role = "primary" if one.member == now.primary else "standby"
        has = f"epoch {one.epoch}, sequence {one.sequence}" if one.sequence else "nothing yet"
        state = "acknowledged this state" if one.acknowledged else f"acknowledged {has}"
        where = one_line(one.address) or "-"
        lines.append(f"{one.member}  {where}  {role}  {state}  {one_line(one.machine)}  seen {one_line(one.seen)}")
    return "\n".join(lines) + "\n"
