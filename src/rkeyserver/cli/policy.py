"""`rkeyserver policy`: show it, and change it by documents that its admins sign."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec

from rkeyserver import files
from rkeyserver.appraisal.change import PolicyChange, check_authority, parse_change, propose, sign
from rkeyserver.appraisal.narrowing import narrows, takes_from_users
from rkeyserver.appraisal.policy import MAX_POLICY_FILE, Policy, parse_policy
from rkeyserver.appraisal.signatures import public_line
from rkeyserver.cli import talk
from rkeyserver.cli.admin_key import load_admin_key
from rkeyserver.cli.choose import one_that_answers, the_primary
from rkeyserver.cli.command import Parser, Said, add_ops, ops_of
from rkeyserver.cli.policy_domain import NOTHING_KNOWN, Known, add_known
from rkeyserver.cli.policy_edit import admitted, parse_line, removed, shown, signing
from rkeyserver.errors import Misuse, Rejected, Unavailable, one_line
from rkeyserver.hex_types import Hex16, Hex32
from rkeyserver.service.routes import POLICY_PATH


def parser() -> argparse.ArgumentParser:
    """Of `policy`, with its own commands."""
    whole = Parser(prog="rkeyserver policy", description="The policy of a running instance: who may join.")
    commands = whole.add_subparsers(dest="action", required=True, metavar="COMMAND", parser_class=Parser)

    def command(name: str, text: str, *, asks: bool = True, output: bool = False) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        if asks:
            add_ops(made, f"of several, {'one that answers' if name in {'show', 'propose'} else 'the primary'}")
        if output:
            made.add_argument("-o", "--output", metavar="FILE", help="write the change there")
        return made

    command("show", "print the policy")
    for name, text in (("admit", "accept a machine, by its line"), ("remove", "no longer accept a machine")):
        made = command(name, text, output=True)
        made.add_argument("line", metavar="LINE", help="PLATFORM MACHINE, as `rkeyserver identity` prints it")
        made.add_argument("--key", action="append", default=[], metavar="FILE", help="sign with this key (repeatable)")
        add_known(made)
    made = command("propose", "make a change to the policy in FILE, to be signed", output=True)
    made.add_argument("file", nargs="?", metavar="FILE", help="default: the present policy, for its admins to sign")
    made = command("sign", "sign a change", asks=False, output=True)
    made.add_argument("file", metavar="CHANGE", help="a change, or - for standard input")
    made.add_argument("--key", action="append", required=True, metavar="FILE", help="an admin's key (repeatable)")
    add_known(made)
    made = command("apply", "have the running instance apply a change")
    made.add_argument("file", metavar="CHANGE", help="a change, or - for standard input")
    return whole


def run(found: argparse.Namespace) -> Said:
    """Carry out one command of `policy`.

    Raises: RkeyError.
    """
    keys = [Path(key) for key in getattr(found, "key", ())]
    match found.action:
        case "show":
            return Said(show(one_that_answers(ops_of(found))))
        case "propose":
            file = None if found.file is None else Path(found.file)
            return _put(make_proposal(one_that_answers(ops_of(found)), file), found.output)
        case "sign":
            return _put(sign_file(Path(found.file), keys, Known.of(found)), found.output)
        case "apply":
            return Said(apply_file(the_primary(ops_of(found)), Path(found.file)))
        case action:
            output = None if found.output is None else Path(found.output)
            ops = the_primary(ops_of(found))
            return Said(edit(ops, found.line, keys, output, Known.of(found), admit=action == "admit"))


def _put(document: str, output: str | None) -> Said:
    if output is None:
        return Said(document)
    files.put(Path(output), document.encode())
    return Said(f"Written to {output}.\n")


_Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
_HEAD: Final = re.compile(r"# domain [0-9a-f]{32}\n# policy [0-9a-f]{64}, by change \d+\n# changed by: [^\n]*\n\n")


class _Policy(msgspec.Struct):
    """What GET /v1/policy answers. Any user of this machine may have answered."""

    domain: Hex16
    change: _Count
    policy: str


class _Applied(msgspec.Struct):
    """What a change has done, as the instance says."""

    domain: Hex16
    change: _Count
    policy: Hex32
    narrowed: list[str]
    generation: Hex16 | None


@dataclass(frozen=True)
class Present:
    """The policy of a running instance. change: the number of the change that made it, 0 for none."""

    domain: str
    change: int
    policy: Policy


def present(ops: str) -> Present:
    """Ask the instance whose operations listener is `ops`.

    Raises: Unavailable, Misuse.
    """
    answer = talk.get(ops, POLICY_PATH, "policy")
    try:
        found = msgspec.convert(answer, _Policy)
        return Present(found.domain, found.change, parse_policy(found.policy))
    except (msgspec.ValidationError, Misuse) as error:
        raise Unavailable(f"What is on {ops} answers with something else than a policy.") from error


def show(ops: str) -> str:
    """The policy document, below four lines of comment that say whose it is."""
    now = present(ops)
    admins = now.policy.admins
    by = "its owner" if admins is None else f"{admins.threshold} of {len(admins.keys)} admins"
    return (
        f"# domain {now.domain}\n# policy {now.policy.digest}, by change {now.change}\n# changed by: {by}\n\n"
        f"{shown(now.policy.text)}"
    )


def make_proposal(ops: str, file: Path | None) -> str:
    """A change to the policy in `file`, or to the present one (for its admins to sign), that nobody has signed."""
    now = present(ops)
    # What `policy show` put above it tells of the policy that this one replaces: it would be wrong from then on.
    given = None if file is None else files.read_text(file, MAX_POLICY_FILE, "policy", stdin=True)
    text = now.policy.text if given is None else _HEAD.sub("", given, count=1)
    change = _proposed(now, text)
    _tell(now.policy, change)
    return change.text() + "\n"


def sign_file(file: Path, keys: Sequence[Path], known: Known) -> str:
    """The change in `file` with signatures by `keys`; what is signed is told on stderr."""
    change = parse_change(files.read_text(file, MAX_POLICY_FILE, "change", stdin=True))
    parse_policy(change.policy)
    known.check(change)
    sys.stderr.write(signing(change))
    return _signed(change, keys).text() + "\n"


def apply_file(ops: str, file: Path) -> str:
    """Have the running instance apply the change in `file`."""
    change = parse_change(files.read_text(file, MAX_POLICY_FILE, "change", stdin=True))
    return apply(ops, change, present(ops))


def apply(ops: str, change: PolicyChange, now: Present) -> str:
    """Have the running instance apply a change: for admins who have signed it, or where there are none for the owner.

    Raises: what the instance says.
    """
    socket = _local_socket(ops) if now.policy.admins is None else None
    done = talk.post(ops, POLICY_PATH, change.text().encode(), "answer to a change", socket=socket)
    try:
        return _told(msgspec.convert(done, _Applied))
    except msgspec.ValidationError as error:
        raise Unavailable(f"What is on {ops} answers with something else than what it has done.") from error


def edit(ops: str, line: str, keys: Sequence[Path], output: Path | None, known: Known, *, admit: bool) -> str:
    """Admit a machine or remove it: the change is made, signed by `keys` and applied.

    Raises: Rejected(NOT_SIGNED) where more signatures are wanted; with `output` the change is written there first.
    """
    now, machine = present(ops), parse_line(line)
    change = _proposed(now, (admitted if admit else removed)(now.policy, machine))
    if keys or known != NOTHING_KNOWN:
        known.check(change)
    change = _signed(change, keys)
    try:
        check_authority(change, now.policy.admins, owner=now.policy.admins is None)
    except Rejected as error:
        if output is None:
            advice = f"{error.advice} With -o FILE the change is written, for them to sign."
            raise Rejected(error.reason, error.message, advice=advice) from error
        files.put(output, f"{change.text()}\n".encode())
        advice = f"{error.advice} It is in {output}: `rkeyserver policy sign` there, then `rkeyserver policy apply`."
        raise Rejected(error.reason, error.message, advice=advice) from error
    return apply(ops, change, now)


def _proposed(now: Present, text: str) -> PolicyChange:
    return propose(domain=now.domain, sequence=now.change + 1, replaces=now.policy.text, policy=text)


def _signed(change: PolicyChange, keys: Sequence[Path]) -> PolicyChange:
    admins = parse_policy(change.policy).admins
    named = set() if admins is None else {" ".join(line.split(" ")[:2]) for line in admins.keys}
    for key in keys:
        private = load_admin_key(key)
        change = sign(change, private)
        if public_line(private) not in named:
            sys.stderr.write(
                f"{one_line(str(key))} is the key of no admin of this policy: what it signs counts only if the policy "
                "that is replaced names it.\n"
            )
    return change


def _tell(before: Policy, change: PolicyChange) -> None:
    after = parse_policy(change.policy)
    narrowed, coming = narrows(before, after), after.admins
    lines = [f"Change {change.sequence} of domain {change.domain}."]
    lines += [f"Accepts less: {one}" for one in (*narrowed, *takes_from_users(before, after))]
    if narrowed:
        lines.append("So it will add a generation of the root key.")
    if before.admins is not None:
        lines.append(f"Signatures wanted: {before.admins.threshold} of {len(before.admins.keys)} admins.")
    if coming is not None and coming != before.admins:
        lines.append(f"Signatures wanted of the admins that it names: {coming.threshold} of {len(coming.keys)}.")
    sys.stderr.write("\n".join(lines) + "\n")


def _told(done: _Applied) -> str:
    lines = [f"Change {done.change} of domain {done.domain} is in force: policy {done.policy}."]
    lines += [f"Accepts less: {one_line(one)}" for one in done.narrowed]
    if done.generation is not None:
        lines.append(f"A generation was added: {done.generation}.")
    return "\n".join(lines) + "\n"


def _local_socket(ops: str) -> str:
    found = talk.get(ops, "/status", "status").get("socket")
    if not isinstance(found, str):
        raise Misuse(
            "This domain has no admins, and this instance takes no change from its owner: its platform does not "
            "trust the host.",
            advice="It keeps the policy that it has.",
        )
    return found
