"""Putting a machine into a policy document or taking it out, with everything else left as it was written."""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec
import tomlkit
from tomlkit.items import Array

from rkeyserver.appraisal.change import PolicyChange
from rkeyserver.appraisal.policy import Policy, parse_policy
from rkeyserver.errors import Misuse, one_line


@dataclass(frozen=True)
class MachineLine:
    """A machine as logs and `rkeyserver identity` print it: PLATFORM MACHINE, and a name that people call it by."""

    platform: str
    machine: str
    name: str = ""


def parse_line(text: str) -> MachineLine:
    """Read such a line.

    Raises: Misuse.
    """
    words = text.split(maxsplit=2)
    # The name becomes a comment: in a second line it would be a part of the policy that nobody asked for.
    if len(words) < 2 or not text.strip().isprintable():  # noqa: PLR2004 - platform and machine
        raise Misuse(
            f"{text!r} names no machine.",
            advice="Wanted is the line that `rkeyserver identity` prints there: PLATFORM MACHINE.",
        )
    return MachineLine(*words)


def admitted(policy: Policy, line: MachineLine) -> str:
    """The text of `policy` with that machine accepted.

    Raises: Misuse if it is accepted already, if any machine is, or if the policy has no such platform.
    """
    document, machines = _machines(policy, line)
    if line.machine in machines:
        raise Misuse(f"The policy accepts machine {line.machine} already.")
    if "\n" in machines.as_string():
        machines.add_line(line.machine, comment=line.name or None)
        return _checked(document, policy, line, [*machines])
    rows = tomlkit.array()  # the list was on one line: now each machine has its own, and room for its name
    for machine in machines:
        rows.add_line(str(machine))
    rows.add_line(line.machine, comment=line.name or None)
    rows.add_line(indent="")
    document[line.platform]["machines"] = rows
    return _checked(document, policy, line, [*rows])


def removed(policy: Policy, line: MachineLine) -> str:
    """The text of `policy` with that machine taken out.

    Raises: Misuse if it is not in it, or is the last one.
    """
    document, machines = _machines(policy, line)
    if line.machine not in machines:
        raise Misuse(
            f"The policy does not name machine {line.machine}.", advice="`rkeyserver policy show` lists those it does."
        )
    if len(machines) == 1:
        raise Misuse(
            f"Machine {line.machine} is the only one of [{line.platform}]; without it nothing would be accepted.",
            advice="Admit another one first, or propose a policy without that table.",
        )
    machines.remove(line.machine)
    return _checked(document, policy, line, [*machines])


def _machines(policy: Policy, line: MachineLine) -> tuple[tomlkit.TOMLDocument, Array]:
    table = policy.tables.get(line.platform)
    if table is None:
        raise Misuse(
            f"The policy accepts no machine of platform {line.platform}; it has: {', '.join(sorted(policy.tables))}.",
            advice="Propose a policy with such a table.",
        )
    if table.machines == "any":
        raise Misuse(
            f"The policy accepts any machine of platform {line.platform}: there is no list to change.",
            advice="Propose a policy that names machines: `rkeyserver policy propose FILE`.",
        )
    document = tomlkit.parse(policy.text)
    machines = document[line.platform]["machines"]
    if not isinstance(machines, Array):
        raise Misuse("The policy's list of machines is in a form that cannot be edited.", advice="Propose a new text.")
    return document, machines


def _checked(document: tomlkit.TOMLDocument, before: Policy, line: MachineLine, machines: list[str]) -> str:
    """The document's text, once it is known to say what it said and these machines, and nothing else."""
    text = tomlkit.dumps(document)
    table = msgspec.structs.replace(before.tables[line.platform], machines=[str(machine) for machine in machines])
    try:
        after = parse_policy(text)
    except Misuse as error:
        raise Misuse(f"With machine {line.machine} {error.message[0].lower()}{error.message[1:]}") from error
    # Whatever else a policy can say has to be as it was, what it will one day be able to say too.
    if after != replace(before, text=text, digest=after.digest, tables=before.tables | {line.platform: table}):
        raise Misuse("The policy is in a form that cannot be edited.", advice="Propose a new text.")
    return text


def shown(text: str) -> str:
    """A policy document as a terminal may be shown it: somebody else may have written it, and terminals obey."""
    # Only what ends a line in TOML ends one here: what looked like a key could else be within a comment.
    lines = (line.removesuffix("\r").replace("\t", "    ") for line in text.rstrip().split("\n"))
    return "".join(one_line(line) + "\n" for line in lines)


def signing(change: PolicyChange) -> str:
    """What a person is told who signs."""
    return f"Signing change {change.sequence} of domain {change.domain}, to this policy:\n\n{shown(change.policy)}\n"
