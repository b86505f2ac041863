"""`/readyz`: what an instance needs to do all of its work, each with what was found.

Only one of these stops callers who are there already: that no keyring is held. Whatever else fails, keys are derived
and secrets opened from memory; what stops is hand-overs, or the next start. So nothing may restart an instance because
it is not ready: `/healthz` is for that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from rkeyserver.errors import RkeyError
from rkeyserver.service.instance import Instance


@dataclass(frozen=True)
class Found:
    """What a check found: one sentence."""

    good: bool
    says: str


@dataclass(frozen=True)
class Check:
    """look: what is there now. stops: what no longer works where it fails, for people."""

    look: Callable[[Instance], Found]
    stops: str
    stops_callers: bool = False


def _keyring(instance: Instance) -> Found:
    keyring = instance.keyring
    if keyring is None:
        return Found(good=False, says="No keyring is held yet.")
    return Found(good=True, says=f"The keyring of domain {keyring.domain} is held.")


def _record(instance: Instance) -> Found:
    proof = None if instance.drill is None else instance.drill.proof()
    if proof is None:
        return Found(good=False, says="Nothing is held that the record could be compared with.")
    return Found(good=proof.failure is None, says=proof.found)


def _audit(instance: Instance) -> Found:
    problem = instance.audit.looked_at()
    return Found(good=not problem, says=problem or "The audit file can be written.")


def _collateral(instance: Instance) -> Found:
    own = [one for one in instance.collateral()["held"] if one["own"]]
    if not own:
        return Found(good=True, says="None is held for this machine: its platform has its own, or peers bring it.")
    one = own[0]
    left = one["days_left"]
    says = f"That of this machine expires at {one['expires']}, {left:.1f} days from now."
    return Found(good=left >= 0, says=says if left >= 0 else f"That of this machine expired at {one['expires']}.")


def _coordinator(instance: Instance) -> Found:
    if instance.coordination is None:
        return Found(good=True, says="There is none: an operator says who is primary.")
    found = instance.coordination()
    error = found["last_error"]
    holder = found["holder"] or "nobody"
    return Found(good=not error, says=error or f"By its word {holder} is primary.")


CHECKS: Final[Mapping[str, Check]] = {
    "keyring": Check(_keyring, "everything", stops_callers=True),
    "record": Check(_record, "the next start of this instance"),
    "audit": Check(_audit, "hand-overs and changes"),
    "collateral": Check(_collateral, "hand-overs by and to this machine"),
    "coordinator": Check(_coordinator, "changes"),
}


def looked(instance: Instance) -> dict[str, Found]:
    """All checks, by their names."""
    found = {}
    for name, check in CHECKS.items():
        try:
            found[name] = check.look(instance)
        except RkeyError as error:
            found[name] = Found(good=False, says=error.message)
    return found


def readiness(instance: Instance) -> dict[str, Any]:
    """What `/readyz` answers: ready where no check failed, serving where none failed that stops callers."""
    found = looked(instance)
    return {
        "ready": all(one.good for one in found.values()),
        "serving": all(one.good for name, one in found.items() if CHECKS[name].stops_callers),
        "checks": {
            name: {
                "good": one.good,
                "found": one.says,
                "stops": CHECKS[name].stops,
                "stops_callers": CHECKS[name].stops_callers,
            }
            for name, one in found.items()
        },
    }
