"""What `rotate`, `retire`, `promote`, `peer` and `order` have in common: an order is made, signed, and sent."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec

from rkeyserver import files
from rkeyserver.appraisal.orders import MAX_ORDER, Order, name_of, parse_order, sign_order, text_of
from rkeyserver.cli import talk
from rkeyserver.cli.admin_key import load_admin_key
from rkeyserver.cli.choose import the_primary
from rkeyserver.cli.command import Said, add_ops, ops_of
from rkeyserver.errors import Unavailable, one_line
from rkeyserver.hex_types import Hex16
from rkeyserver.service.routes import ORDERS_PATH

SETTLES_SECONDS: Final = 10.0  # a standby hears of a new generation within seconds
_UNANSWERED: Final = "Whether it was carried out, the instance tells: `rkeyserver status`, and its audit file."

Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class GenerationNow(msgspec.Struct):
    """As status shows it."""

    id: Hex16
    state: str


class MemberNow(msgspec.Struct):
    """As status shows it."""

    member: Hex16
    machine: str
    address: str
    epoch: Count
    sequence: Count
    acknowledged: bool
    seen: str


class Now(msgspec.Struct):
    """What an order is made from. Any user of this machine may have answered."""

    domain: Hex16
    epoch: Count
    sequence: Count
    member: Hex16
    primary: Hex16
    role: str
    generations: list[GenerationNow]
    members: list[MemberNow]
    socket: str | None

    @property
    def current(self) -> str:
        """The id of the generation that wraps."""
        return next((one.id for one in self.generations if one.state == "current"), "")


class _Done(msgspec.Struct):
    order: str
    domain: Hex16
    epoch: Count
    sequence: Count
    primary: Hex16
    generation: str
    state: str
    waiting: list[Hex16]


def add_order(parser: argparse.ArgumentParser, which: str = "of several, the primary") -> None:
    """--ops, and how the order is signed and where it goes. which: as add_ops() has it."""
    add_ops(parser, which)
    parser.add_argument("--key", action="append", default=[], metavar="FILE", help="sign with this key (repeatable)")
    parser.add_argument("-o", "--output", metavar="FILE", help="write the order there, to be signed; nothing is done")


def now_at(ops: str) -> Now:
    """Ask the instance whose operations listener is `ops`.

    Raises: Unavailable, Misuse.
    """
    answer = talk.get(ops, "/status", "status")
    try:
        return msgspec.convert(answer, Now)
    except msgspec.ValidationError as error:
        if answer.get("domain", "") is None:
            raise Unavailable(f"The instance on {ops} has no keyring yet.") from error
        raise Unavailable(f"What is on {ops} answers with something else than an instance's state.") from error


def give(
    found: argparse.Namespace, make: Callable[[Now], Order], *, at: Callable[[Sequence[str]], str] = the_primary
) -> Said:
    """Make the order from what the instance holds, sign it, and write it or have it carried out. at: which of --ops.

    Raises: what the instance says.
    """
    ops = at(ops_of(found))
    now = now_at(ops)
    order = signed(make(now), [Path(key) for key in found.key])
    if found.output is not None:
        files.put(Path(found.output), f"{text_of(order)}\n".encode())
        return Said(
            f"Written to {one_line(found.output)}. Nothing is done before it is applied: rkeyserver order apply.\n"
        )
    return Said(send(ops, order, now))


def signed(order: Order, keys: Sequence[Path]) -> Order:
    """The order with signatures by the keys in those files; what is signed is told on stderr.

    What it was made from, any user of this machine may have answered. Raises: Misuse.
    """
    if keys:
        sys.stderr.write(f"Signing:\n{said(order)}")
    for key in keys:
        order = sign_order(order, load_admin_key(key))
    return order


def said(order: Order) -> str:
    """What an order asks for, one line for each of its fields, and who has signed it."""
    fields = {name: getattr(order, name) for name in order.__struct_fields__ if name != "signatures"}
    lines = [f"order      {name_of(order)}", *(f"{name:<10} {value}" for name, value in fields.items())]
    lines += [f"signed by  {one.key}" for one in order.signatures]
    return "\n".join(lines) + "\n"


def read(file: Path) -> Order:
    """The order in a file; - for standard input.

    Raises: Misuse.
    """
    return parse_order(files.read_text(file, MAX_ORDER, "order", stdin=True).encode())


def send(ops: str, order: Order, now: Now) -> str:
    """Have the running instance carry it out: by its owner's word where it has a local socket and nobody has signed.

    Raises: what the instance says.
    """
    socket = None if order.signatures else now.socket
    answer = talk.post(
        ops, ORDERS_PATH, text_of(order).encode(), "answer to an order", socket=socket, unanswered=_UNANSWERED
    )
    try:
        return _told(msgspec.convert(answer, _Done), ops)
    except msgspec.ValidationError as error:
        raise Unavailable(f"What is on {ops} answers with something else than what it has done.") from error


def _told(done: _Done, ops: str) -> str:
    lines = [f"Domain {done.domain} is at epoch {done.epoch}, sequence {done.sequence}; primary {done.primary}."]
    if done.generation and done.state == "pending":
        lines.append(_settled(done, ops))
    elif done.generation:
        lines.append(f"Generation {done.generation} is {one_line(done.state)}.")
    return "\n".join(lines) + "\n"


def _settled(done: _Done, ops: str) -> str:
    """Wait a little for the acknowledgement that a pending generation waits for."""
    end = time.time() + SETTLES_SECONDS
    while time.time() < end:
        time.sleep(0.5)
        now = now_at(ops)
        state = next((one.state for one in now.generations if one.id == done.generation), "")
        if state != "pending":
            return f"Generation {done.generation} is {one_line(state)}."
    return (
        f"Generation {done.generation} is pending: it wraps nothing until a standby has acknowledged it "
        f"({', '.join(done.waiting) or 'none is known'})."
    )
