"""What tells admins that a domain is one that an enclave made, and not the host (docs/spec/mint-statement.md).

On a platform that does not trust its host, everything that an operator reads comes through that host: a domain's id
too. Were admins to sign the policy of an id that the host has made up, whose root key the host then knows, every
enclave that goes by them would believe it. So the enclave that makes a domain says so once, in an attested message.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from rkeyserver.appraisal.appraise import Verdict, appraise
from rkeyserver.appraisal.policy import Policy
from rkeyserver.attestation.evidence import Attester
from rkeyserver.attestation.report_data import transcript_hash
from rkeyserver.errors import Reason, Rejected
from rkeyserver.exchange.attested import Context, Verifier, prove, vouch
from rkeyserver.exchange.messages import (
    PROTOCOL_VERSION,
    MintStatement,
    MintStatementClaims,
    decode,
    encode,
    identity_of,
)
from rkeyserver.keyring.keyring import Keyring


@dataclass(frozen=True)
class Minted:
    """A statement that was proved and accepted. Made by check_mint_statement() alone."""

    verdict: Verdict
    claims: MintStatementClaims


def state_mint(keyring: Keyring, attester: Attester, *, now: int) -> bytes:
    """The statement of the instance that has just minted `keyring`; nobody else may make one.

    Raises: Unavailable if the platform gives no evidence now.
    """
    own = attester.attester_identity()
    claims = MintStatementClaims(
        version=PROTOCOL_VERSION,
        platform=own.platform,
        machine=own.machine,
        domain=keyring.domain,
        generation=keyring.current.id,
        policy_sha256=hashlib.sha256(keyring.header.policy.encode()).digest(),
        time=now,
    )
    return encode(MintStatement(attested=vouch(attester, Context.MINT_STATEMENT, transcript_hash(), encode(claims))))


async def check_mint_statement(
    data: bytes, *, domain: str, policy: Policy, verifiers: dict[str, Verifier], now: int
) -> Minted:
    """Whether an instance that `policy` accepts says that it has made `domain`.

    policy: the one that is to be signed; its machines, signer and product are what counts.
    Raises: Rejected(MALFORMED | WRONG_VERSION | ANOTHER_DOMAIN | ...), Unavailable.
    """
    attested = decode(data, MintStatement).attested
    claims = decode(attested.claims, MintStatementClaims)
    if claims.version != PROTOCOL_VERSION:
        raise Rejected(
            Reason.WRONG_VERSION, f"The statement is of version {claims.version}; this is version {PROTOCOL_VERSION}."
        )
    if claims.domain != domain:
        raise Rejected(
            Reason.ANOTHER_DOMAIN,
            f"The statement is about domain {claims.domain}, the change is for domain {domain}.",
            advice="Sign nothing. Whoever made the change names a domain that this enclave has not made.",
        )
    proved = await prove(
        attested,
        context=Context.MINT_STATEMENT,
        transcript=transcript_hash(),
        claimed=identity_of(claims),
        policy=policy,
        verifiers=verifiers,
        now=now,
    )
    return Minted(appraise(proved, policy, now=now), claims)
