"""What a change of microcode or image would do to a record that opens now, by its slot and the domain's policy.

The sealing key of a slot is what EGETKEY makes of the processor's present CPUSVN, the image's present ISVSVN, and its
signer or itself (docs/spec/record.md, "Slots"). Judgement only: nothing is looked at here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from rkeyserver.appraisal.policy import SgxPolicy
from rkeyserver.sealing.record import PlatformSlot


class Kind(StrEnum):
    """What may change under a record."""

    MICROCODE = "microcode update"
    LATER = "later version"
    EARLIER = "earlier version"
    IMAGE = "other image of this version"
    SIGNER = "image of another signer"


@dataclass(frozen=True)
class Change:
    """What one of them comes to.

    opens: whether the record opens after it. accepted: whether the domain's policy accepts the image then; why not.
    ways_back: what brings the domain back where the record does not open.
    """

    kind: Kind
    opens: bool
    accepted: bool
    why_not: str
    ways_back: list[str]


def changes(slot: PlatformSlot, mrsigner: str, table: SgxPolicy, always: list[str], beside: list[str]) -> list[Change]:
    """What each change comes to for a record with this slot, of an image signed by `mrsigner`.

    table: what the domain's policy accepts of this platform. always: the ways back that outlast anything on this
    machine; beside: those that are on it, and so outlast no change of its processor.
    """
    found = []
    for kind in Kind:
        why_not = _refused(kind, slot, mrsigner, table)
        ways = [] if why_not else always if kind is Kind.MICROCODE else [*beside, *always]
        opens = kind is Kind.IMAGE and slot.policy == "mrsigner"
        found.append(Change(kind, opens, accepted=not why_not, why_not=why_not, ways_back=ways))
    return found


def _refused(kind: Kind, slot: PlatformSlot, mrsigner: str, table: SgxPolicy) -> str:
    """Why the domain's policy accepts no image after that change; "" if it accepts one."""
    if kind is Kind.MICROCODE:
        return ""  # the image is the same
    if table.mrenclave != "any" and len(table.mrenclave) == 1:
        return "it names no other MRENCLAVE"
    if kind is Kind.SIGNER and table.mrsigner != "any" and not set(table.mrsigner) - {mrsigner}:
        return "it names no other MRSIGNER"
    version = int(slot.versions.get("isv_svn", "0"))
    if kind is Kind.EARLIER and version <= table.min_isv_svn:
        return f"min_isv_svn is {table.min_isv_svn}"
    return ""
