"""The standby's side of the hand-over (docs/spec/exchange.md).

    Greeting.begin()               -> Greeting    send .message
    Greeting.challenged(challenge) -> Requesting  send .message
    Requesting.granted(grant)      -> Received    the primary's verdict and the keyring

Each step is one use of the state before it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from rkeyserver.appraisal.appraise import Verdict, appraise
from rkeyserver.appraisal.policy import AdminsTable, Policy, parse_policy
from rkeyserver.appraisal.succession import Held, check_succession
from rkeyserver.attestation.evidence import Attester, Identity
from rkeyserver.attestation.report_data import transcript_hash
from rkeyserver.clock import Clock
from rkeyserver.errors import Corrupt, Misuse, Reason, Rejected
from rkeyserver.exchange.attested import Context, Verifier, prove, vouch
from rkeyserver.exchange.challenges import hello_of, read_challenge
from rkeyserver.exchange.hpke import OneTimeKey
from rkeyserver.exchange.messages import (
    Grant,
    GrantClaims,
    Members,
    Request,
    RequestClaims,
    decode,
    encode,
    identity_of,
)
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.place import Place


@dataclass(frozen=True)
class Asking:
    """What an instance asks with: its own attester, verifiers, policy, clock and source of randomness.

    held: the keyring's state that it has already; admins: those it was started with; None for none. member: its id in
    the domain; address: where it answers, as RequestClaims has it; holds: the place of the keyring that it holds.
    audit_head: gives the head of its log, 32 bytes.
    """

    attester: Attester
    verifiers: dict[str, Verifier]
    policy: Policy
    clock: Clock
    random: Callable[[int], bytes]
    instance: bytes
    held: Held | None
    admins: AdminsTable | None
    member: str
    address: str
    holds: Place | None
    audit_head: Callable[[], bytes]


def held_of(keyring: Keyring) -> Held:
    """What the next keyring of that domain is judged by."""
    header = keyring.header
    return Held(header.domain, header.epoch, header.sequence, header.policy, header.changes)


@dataclass(frozen=True)
class Received:
    """A keyring from a peer that this instance's policy accepts; the receiver closes it.

    members: who it came from, and whom that instance knows.
    transcript: of hello, challenge and request, as the primary has recorded it; peer_head: of the primary's log.
    """

    verdict: Verdict
    keyring: Keyring
    members: Members
    transcript: bytes
    peer_head: bytes


@dataclass(frozen=True)
class Greeting:
    """The hello was made; a challenge is awaited."""

    message: bytes
    asking: Asking

    @classmethod
    def begin(cls, asking: Asking) -> Self:
        """Begin one exchange."""
        return cls(message=hello_of(asking.attester.attester_identity(), asking.instance), asking=asking)

    def challenged(self, challenge_bytes: bytes) -> Requesting:
        """Answer a challenge.

        Raises: Rejected(TOO_LARGE | MALFORMED | TALKING_TO_ITSELF), Unavailable if the platform gives no evidence.
        """
        asking = self.asking
        body = read_challenge(challenge_bytes, asking.instance)
        key = OneTimeKey()
        claims = RequestClaims(
            nonce=asking.random(32),
            kem_public_key=key.public,
            credential_mac=b"",
            credential=b"",
            member=asking.member,
            address=asking.address,
            epoch=0 if asking.holds is None else asking.holds.epoch,
            sequence=0 if asking.holds is None else asking.holds.sequence,
            digest=b"" if asking.holds is None else bytes.fromhex(asking.holds.digest),
            audit_head=asking.audit_head(),
        )
        attested = vouch(
            asking.attester,
            Context.HAND_OVER_REQUEST,
            transcript_hash(self.message, challenge_bytes),
            encode(claims),
        )
        message = encode(Request(hello=self.message, challenge=challenge_bytes, attested=attested))
        return Requesting(
            message=message,
            asking=asking,
            peer=identity_of(body),
            nonce=claims.nonce,
            transcript=transcript_hash(self.message, challenge_bytes, message),
            _key=key,
        )


@dataclass(frozen=True)
class Requesting:
    """The request was made; a grant is awaited. Holds the one-time private key: it lives for one reply."""

    message: bytes
    asking: Asking
    peer: Identity
    nonce: bytes
    transcript: bytes
    _key: OneTimeKey

    async def granted(self, grant_bytes: bytes) -> Received:
        """Verify and appraise the primary, then open what it sent.

        Raises: Rejected with the reason; nothing is opened before the primary is accepted.
        """
        asking = self.asking
        grant = decode(grant_bytes, Grant)
        claims = decode(grant.attested.claims, GrantClaims)
        now = asking.clock.now()
        proved = await prove(
            grant.attested,
            context=Context.HAND_OVER_GRANT,
            transcript=self.transcript,
            claimed=self.peer,
            policy=asking.policy,
            verifiers=asking.verifiers,
            now=now,
        )
        verdict = appraise(proved, asking.policy, now=now)
        if not hmac.compare_digest(claims.nonce, self.nonce):
            raise Rejected(Reason.NOT_BOUND, "The grant answers another request.")
        if not hmac.compare_digest(claims.ciphertext_sha512, hashlib.sha512(grant.ciphertext).digest()):
            raise Rejected(Reason.NOT_BOUND, "The primary did not vouch for this ciphertext.")
        if not hmac.compare_digest(claims.members_sha512, hashlib.sha512(grant.members).digest()):
            raise Rejected(Reason.NOT_BOUND, "The primary did not vouch for these members.")
        members = decode(grant.members, Members)
        if claims.credential_answer:
            raise Rejected(Reason.MALFORMED, "The grant answers a credential; none was given.")
        secret = self._key.open(grant.ciphertext, self.transcript)
        try:
            keyring = Keyring.parse(secret)
        except Corrupt as error:
            raise Rejected(
                Reason.KEY_ID_MISMATCH, f"An accepted primary sent a keyring that is none. {error}"
            ) from error
        try:
            _check_policy(keyring, verdict, asking, now)
        except Rejected:
            keyring.close()
            raise
        return Received(
            verdict=verdict,
            keyring=keyring,
            members=members,
            transcript=self.transcript,
            peer_head=claims.audit_head,
        )


def _check_policy(keyring: Keyring, verdict: Verdict, asking: Asking, now: int) -> None:
    """Whether the domain's policy is one to believe.

    It can be read, it accepts the very primary that sent it, and whoever this instance goes by stands behind it.
    """
    try:
        policy = parse_policy(keyring.header.policy)
        appraise(verdict.claims, policy, now=now)
        check_succession(held_of(keyring), held=asking.held, root=asking.admins)
    except (Misuse, Rejected) as error:
        raise Rejected(
            Reason.POLICY_NOT_BELIEVED,
            f"Domain {keyring.domain} sent a policy that this instance does not believe. {error}",
        ) from error
