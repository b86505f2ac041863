"""Claims and a policy in, a verdict out. A verdict is the only thing that opens a hand-over.

The rules (rules.py) are tried in their order; the first that fails is the reason. All of them always apply.
"""

from __future__ import annotations

from dataclasses import dataclass

from rkeyserver.appraisal.policy import Policy, SgxPolicy
from rkeyserver.appraisal.rules import MACHINE, PLATFORM, RULES
from rkeyserver.attestation.check import Check
from rkeyserver.attestation.evidence import Identity
from rkeyserver.attestation.sgx.claims import SgxClaims


@dataclass(frozen=True)
class Verdict:
    """Claims that a policy accepted. Made by appraise() alone.

    policy: digest of the policy that accepted them; at: when, seconds since 1970.
    """

    claims: SgxClaims
    policy: str
    at: int


def check_identity(identity: Identity, policy: Policy) -> SgxPolicy:
    """Whether the policy names that machine; tried on a claimed identity before any signature costs time.

    Raises: Rejected(PLATFORM_NOT_NAMED | MACHINE_NOT_NAMED); the latter with the line that would admit it.
    """
    if not PLATFORM.holds(identity, policy, 0):
        raise PLATFORM.refusal(identity, policy, 0)
    table = policy.tables[identity.platform]
    if not MACHINE.holds(identity, table, 0):
        raise MACHINE.refusal(identity, table, 0)
    return table


def appraise(claims: SgxClaims, policy: Policy, *, now: int) -> Verdict:
    """Judge proved claims by a policy.

    now: seconds since 1970.
    Raises: Rejected with the first rule that fails, what was found and what was wanted.
    """
    table = check_identity(claims.identity, policy)
    for rule in RULES:
        if not rule.holds(claims, table, now):
            raise rule.refusal(claims, table, now)
    return Verdict(claims=claims, policy=policy.digest, at=now)


def explain(claims: SgxClaims, policy: Policy, *, now: int) -> list[Check]:
    """Every rule with what was found and wanted, for people; arguments as appraise(). It decides nothing.

    Where the platform has no table in the policy, there is nothing to make the other checks by: they are not passed.
    """
    identity = claims.identity
    first = PLATFORM.check(identity, policy, now)
    table = policy.tables.get(identity.platform)
    if table is None:
        missing = "no table for this platform"
        return [first, MACHINE.not_made(missing), *(rule.not_made(missing) for rule in RULES)]
    return [first, MACHINE.check(identity, table, now), *(rule.check(claims, table, now) for rule in RULES)]
