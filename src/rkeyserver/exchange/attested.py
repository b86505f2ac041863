"""The attested message: bytes that evidence vouches for, the one primitive under every exchange.

docs/spec/exchange.md, "The attested message".
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

from rkeyserver.appraisal.appraise import Verdict, appraise, check_identity
from rkeyserver.appraisal.policy import Policy
from rkeyserver.attestation.evidence import Attester, Identity
from rkeyserver.attestation.report_data import report_data, transcript_hash
from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.attestation.sgx.quote import require_report_data
from rkeyserver.errors import Reason, Rejected
from rkeyserver.exchange.messages import AttestedMessage


class Context(StrEnum):
    """What an attested message is: every type and direction its own, so that none passes for another."""

    HAND_OVER_REQUEST = "hand-over request, standby to primary"
    HAND_OVER_GRANT = "hand-over grant, primary to standby"
    SELF_APPRAISAL = "self-appraisal"
    RECOVERY_REQUEST = "recovery request, instance to recipients"
    RELEASE_REQUEST = "release request, enclave to server"
    RELEASE = "release, server to enclave"
    MINT_STATEMENT = "mint statement, instance to admins"


class Verifier(Protocol):
    """Proves evidence genuine, perhaps in another process. One per platform; it holds that platform's trust anchor."""

    async def verify(self, evidence: bytes, endorsements: bytes, expected_report_data: bytes, now: int) -> SgxClaims:
        """Claims from genuine evidence over `expected_report_data` (64 bytes) at `now` (seconds since 1970).

        Raises: Rejected, Unavailable.
        """


def vouch(attester: Attester, context: Context, transcript: bytes, claims: bytes) -> AttestedMessage:
    """Have the platform vouch for `claims` after `transcript` (transcript_hash() of what came before).

    Raises: Unavailable if the platform gives no evidence now.
    """
    return AttestedMessage(
        claims=claims,
        evidence=attester.evidence(report_data(context, transcript, claims)),
        endorsements=attester.endorsements(),
    )


async def prove(
    message: AttestedMessage,
    *,
    context: Context,
    transcript: bytes,
    claimed: Identity,
    policy: Policy,
    verifiers: dict[str, Verifier],
    now: int,
) -> SgxClaims:
    """Whether a message is vouched for by genuine evidence of the machine that it claims to be from.

    Cheap checks first: binding, then whether the policy knows the claimed machine at all, then signatures. The claims
    are proved, not yet acceptable.

    Raises: Rejected(NOT_BOUND | PLATFORM_NOT_NAMED | MACHINE_NOT_NAMED | NOT_GENUINE | IDENTITY_CHANGED | ...).
    """
    return await prove_known(
        message,
        context=context,
        transcript=transcript,
        claimed=claimed,
        check_known=lambda identity: check_identity(identity, policy),
        verifiers=verifiers,
        now=now,
    )


async def prove_known(
    message: AttestedMessage,
    *,
    context: Context,
    transcript: bytes,
    claimed: Identity,
    check_known: Callable[[Identity], object],
    verifiers: dict[str, Verifier],
    now: int,
) -> SgxClaims:
    """As prove(), for a sender that is no machine of the domain. check_known: raises Rejected for one nobody named."""
    expected = report_data(context, transcript, message.claims)
    require_report_data(message.evidence, expected)
    check_known(claimed)
    verifier = verifiers.get(claimed.platform)
    if verifier is None:
        raise Rejected(
            Reason.PLATFORM_NOT_NAMED, f"This instance verifies {', '.join(sorted(verifiers))}, not {claimed.platform}."
        )
    claims = await verifier.verify(message.evidence, message.endorsements, expected, now)
    if claims.identity != claimed:
        raise Rejected(
            Reason.IDENTITY_CHANGED, f"The evidence is of {claims.identity}, the exchange began with {claimed}."
        )
    return claims


async def appraise_self(
    attester: Attester, verifiers: dict[str, Verifier], policy: Policy, *, nonce: bytes, now: int
) -> Verdict:
    """Whether a policy accepts this very machine, by evidence of its own over `nonce` (fresh random bytes).

    Raises: Rejected as prove() and appraise() do, Unavailable.
    """
    transcript = transcript_hash()
    claims = await prove(
        vouch(attester, Context.SELF_APPRAISAL, transcript, nonce),
        context=Context.SELF_APPRAISAL,
        transcript=transcript,
        claimed=attester.attester_identity(),
        policy=policy,
        verifiers=verifiers,
        now=now,
    )
    return appraise(claims, policy, now=now)
