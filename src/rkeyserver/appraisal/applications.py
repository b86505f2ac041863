"""Claims and a policy in, which application it is out. That verdict opens one derived key, never the keyring."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from rkeyserver.appraisal.ambiguity import is_that
from rkeyserver.appraisal.policy import Application, Policy
from rkeyserver.appraisal.rules import PLATFORM, RULES
from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.errors import Misuse, Reason, Rejected


@dataclass(frozen=True)
class ApplicationVerdict:
    """Claims that an entry of the policy accepted. Made by appraise_application() alone.

    policy: digest of the policy that accepted them; at: when, seconds since 1970.
    """

    claims: SgxClaims
    application: Application
    policy: str
    at: int


def check_generations(policy: Policy, ids: Collection[str]) -> None:
    """Whether every generation that it names by its id is among `ids`, those of the keyring.

    Raises: Misuse naming one that is not.
    """
    for one in sorted(policy.generations_named() - set(ids)):
        known = f"it has {', '.join(ids)}" if ids else "a new domain has none yet"
        raise Misuse(
            f"The policy names generation {one}, which is none of the keyring's: {known}.",
            advice='Name one that `rkeyserver status` shows, or "first" or "current".',
        )


def derived_from(policy: Policy, generation: str, *, first: str) -> str:
    """What the policy has derived from that generation, in words; empty for nothing. first: id of the oldest one."""
    names = {generation, "first"} if generation == first else {generation}
    if policy.ca in names:
        return "the CA by which callers with a token and applications know this domain"
    return next((f"the key of application {one.label!r}" for one in policy.applications if one.generation in names), "")


def appraise_application(claims: SgxClaims, policy: Policy, *, now: int) -> ApplicationVerdict:
    """Judge proved claims by the one entry of [[applications]] that they can be (docs/spec/policy.md, "Applications").

    now: seconds since 1970.
    Raises: Rejected(PLATFORM_NOT_NAMED | APPLICATION_NOT_NAMED), or with the first rule of that entry that fails.
    """
    if not PLATFORM.holds(claims.identity, policy, now):
        raise PLATFORM.refusal(claims.identity, policy, now)
    application = next((one for one in policy.applications if is_that(claims, one)), None)
    if application is None:
        raise Rejected(
            Reason.APPLICATION_NOT_NAMED,
            f"The enclave with MRENCLAVE {claims.mrenclave}, MRSIGNER {claims.mrsigner} and product id "
            f"{claims.isv_prod_id} on {claims.platform} machine {claims.ppid} is none of the policy's "
            f"{len(policy.applications)} application(s).",
            advice="To give it a key, name it under [[applications]].",
        )
    for rule in RULES:
        if not rule.holds(claims, application, now):
            raise rule.refusal(claims, application, now)
    return ApplicationVerdict(claims=claims, application=application, policy=policy.digest, at=now)
