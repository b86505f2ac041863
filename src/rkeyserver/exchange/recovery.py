"""Recovery: an instance asks the recipients for their shares, each seals his own to it (docs/spec/recovery.md).

    The instance                                  A recipient
    RecoveryAsking.begin(record) -> .message      check_request(message)   -> Checked   evidence, policy, age, domain
    .opened(contribution) -> index and share      contribute(Checked, share) -> contribution

Only a Checked lets a share out, and it is made by check_request() alone.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

from rkeyserver.appraisal.appraise import Verdict, appraise
from rkeyserver.appraisal.policy import Policy
from rkeyserver.attestation.evidence import Attester
from rkeyserver.attestation.report_data import transcript_hash
from rkeyserver.clock import utc
from rkeyserver.errors import Corrupt, Reason, Rejected
from rkeyserver.exchange import hpke
from rkeyserver.exchange.attested import Context, Verifier, prove, vouch
from rkeyserver.exchange.hpke import OneTimeKey
from rkeyserver.exchange.messages import (
    PROTOCOL_VERSION,
    RecoveryContribution,
    RecoveryRequest,
    RecoveryRequestClaims,
    decode,
    encode,
    identity_of,
)
from rkeyserver.sealing.record import Record
from rkeyserver.sealing.recovery import RecoverySlot, encode_slot, parse_slot
from rkeyserver.secret import SecretBytes

REQUEST_LIFE: Final = 24 * 3600  # seconds
MAX_AHEAD: Final = 300  # seconds that the instance's clock may be ahead of the recipient's


@dataclass(frozen=True)
class RecoveryAsking:
    """The instance's side: a request is out, contributions are awaited. Holds the one-time private key."""

    message: bytes
    slot: RecoverySlot
    _key: OneTimeKey

    @classmethod
    def begin(
        cls, record_bytes: bytes, record: Record, *, attester: Attester, random: Callable[[int], bytes], now: int
    ) -> Self:
        """Make the request for one record.

        Raises: Corrupt if it has no recovery slot; Unavailable if the platform gives no evidence now.
        """
        header = record.header
        if header.recovery is None:
            raise Corrupt(
                "The record has no recovery slot: its domain was without recovery recipients when it was sealed.",
                advice="Only the machine that sealed it opens it, or a living machine of the domain gives the keyring.",
            )
        key, own = OneTimeKey(), attester.attester_identity()
        claims = RecoveryRequestClaims(
            version=PROTOCOL_VERSION,
            platform=own.platform,
            machine=own.machine,
            domain=header.domain,
            epoch=header.epoch,
            sequence=header.sequence,
            record_sha512=hashlib.sha512(record_bytes).digest(),
            slot=encode_slot(header.recovery),
            kem_public_key=key.public,
            nonce=random(32),
            time=now,
        )
        attested = vouch(attester, Context.RECOVERY_REQUEST, transcript_hash(), encode(claims))
        return cls(message=encode(RecoveryRequest(attested=attested)), slot=header.recovery, _key=key)

    def opened(self, contribution_bytes: bytes) -> tuple[int, SecretBytes]:
        """A recipient's share and its index in the slot; the caller closes it.

        Raises: Rejected(TOO_LARGE | MALFORMED | NOT_BOUND | NOT_A_SHARE).
        """
        contribution = decode(contribution_bytes, RecoveryContribution)
        if not hmac.compare_digest(contribution.request_sha512, hashlib.sha512(self.message).digest()):
            raise Rejected(
                Reason.NOT_BOUND,
                "The contribution answers another request than the one of this start.",
                advice="Contribute again, to the request that this instance shows now.",
            )
        share = self._key.open(contribution.ciphertext, transcript_hash(self.message))
        index = self.slot.find(share.view)
        if index is None:
            share.close()
            raise Rejected(
                Reason.NOT_A_SHARE,
                f"What was contributed is no share of set {self.slot.set}, which this record needs.",
                advice="A share of another record or domain does not help: contribute from this very request.",
            )
        return index, share


@dataclass(frozen=True)
class Checked:
    """A request that the recipient's own policy accepts. Made by check_request() alone.

    age: seconds since the instance made it, by both clocks. message: as it came.
    """

    message: bytes
    claims: RecoveryRequestClaims
    slot: RecoverySlot
    verdict: Verdict
    age: int


async def check_request(
    message: bytes, *, domain: str, policy: Policy, verifiers: dict[str, Verifier], now: int
) -> Checked:
    """Whether to believe a request: of the domain that is expected, fresh, genuine, and of a machine that is accepted.

    Raises: Rejected(TOO_LARGE | MALFORMED | WRONG_VERSION | ANOTHER_DOMAIN | REQUEST_EXPIRED | ...), Unavailable.
    """
    request = decode(message, RecoveryRequest)
    claims = decode(request.attested.claims, RecoveryRequestClaims)
    if claims.version != PROTOCOL_VERSION:
        raise Rejected(
            Reason.WRONG_VERSION, f"The request is of version {claims.version}; this is version {PROTOCOL_VERSION}."
        )
    if claims.domain != domain:
        raise Rejected(
            Reason.ANOTHER_DOMAIN,
            f"The request is for domain {claims.domain}; --domain names {domain}.",
            advice="Ask who sent it what is to be recovered. Nothing was given away.",
        )
    age = now - claims.time
    if not -MAX_AHEAD <= age <= REQUEST_LIFE:
        raise Rejected(
            Reason.REQUEST_EXPIRED,
            f"The request was made at {utc(claims.time)}, it is now {utc(now)} here; it is good for "
            f"{REQUEST_LIFE // 3600} hours.",
            advice="Have the instance started again with --recover, which makes a new one; or set the clock.",
        )
    try:
        slot = parse_slot(claims.slot)
    except Corrupt as error:
        raise Rejected(Reason.MALFORMED, f"The request's slot cannot be used. {error}") from error
    proved = await prove(
        request.attested,
        context=Context.RECOVERY_REQUEST,
        transcript=transcript_hash(),
        claimed=identity_of(claims),
        policy=policy,
        verifiers=verifiers,
        now=now,
    )
    verdict = appraise(proved, policy, now=now)
    return Checked(message=message, claims=claims, slot=slot, verdict=verdict, age=age)


def contribute(checked: Checked, share: memoryview) -> bytes:
    """Seal a share to the instance that a checked request is from: a RecoveryContribution's bytes.

    Raises: Rejected(NOT_A_SHARE) if it is none of the request's; Rejected(MALFORMED) if the one-time key is none.
    """
    if checked.slot.find(share) is None:
        raise Rejected(Reason.NOT_A_SHARE, f"This is no share of set {checked.slot.set}, which the request is for.")
    ciphertext = hpke.seal(share, checked.claims.kem_public_key, transcript_hash(checked.message))
    return encode(RecoveryContribution(request_sha512=hashlib.sha512(checked.message).digest(), ciphertext=ciphertext))
