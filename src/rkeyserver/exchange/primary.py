"""The primary's side of the hand-over: hello in, challenge out; request in, grant out (docs/spec/exchange.md).

    challenge()                     keeps nothing: the MAC brings hello and challenge back
    prove(request)     -> Proved    size, MAC, age, binding, claimed identity, signatures, first use
    appraise(Proved)   -> Accepted  the domain's policy
    seal(Accepted)     -> Sealed    only here is the keyring touched
    grant(Sealed)      -> bytes     vouched for

Each takes what the one before returned, so none can be skipped. Between appraise() and seal() the caller records.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from rkeyserver.appraisal.appraise import Verdict, appraise
from rkeyserver.appraisal.policy import Policy
from rkeyserver.attestation.evidence import Attester
from rkeyserver.attestation.report_data import transcript_hash
from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.clock import Clock
from rkeyserver.errors import Reason, Rejected
from rkeyserver.exchange import hpke
from rkeyserver.exchange.attested import Context, Verifier, appraise_self, prove, vouch
from rkeyserver.exchange.challenges import Challenges, Purpose
from rkeyserver.exchange.messages import (
    DIGEST_SIZE,
    Grant,
    GrantClaims,
    Members,
    Request,
    RequestClaims,
    decode,
    encode,
)
from rkeyserver.exchange.mint_statement import state_mint
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.sealed import Owner


@dataclass(frozen=True)
class Proved:
    """A request with genuine evidence, bound to this exchange; not yet accepted."""

    claims: SgxClaims
    request: RequestClaims
    transcript: bytes
    now: int


@dataclass(frozen=True)
class Accepted:
    """A request that the policy accepts; the one thing that seal() takes."""

    verdict: Verdict
    request: RequestClaims
    transcript: bytes


@dataclass(frozen=True)
class Sealed:
    """The keyring, sealed to an accepted peer; nobody has vouched for it yet."""

    accepted: Accepted
    ciphertext: bytes
    members: bytes


class Granter:
    """Answers hellos and requests for one instance.

    random: gives n fresh random bytes; instance: 16 random bytes; audit_head: gives the head of its log, 32 bytes.
    """

    def __init__(
        self,
        *,
        attester: Attester,
        verifiers: dict[str, Verifier],
        clock: Clock,
        random: Callable[[int], bytes],
        instance: bytes,
        audit_head: Callable[[], bytes],
    ) -> None:
        self._attester = attester
        self._audit_head = audit_head
        self._verifiers = verifiers
        self._clock = clock
        self._random = random
        self._challenges = Challenges(
            Purpose.HAND_OVER, attester=attester, clock=clock, random=random, instance=instance
        )

    def challenge(self, hello_bytes: bytes) -> bytes:
        """The challenge for a hello. Keeps no state.

        Raises: Rejected(TOO_LARGE | MALFORMED | WRONG_VERSION | TALKING_TO_ITSELF).
        """
        return self._challenges.challenge(hello_bytes)

    async def prove(self, request_bytes: bytes, policy: Policy) -> Proved:
        """Whether a request is a fresh answer to a challenge of ours, vouched for by genuine evidence.

        Raises: Rejected(TOO_LARGE | MALFORMED | BAD_MAC | CHALLENGE_EXPIRED | CHALLENGE_REUSED | ...), Unavailable.
        """
        request = decode(request_bytes, Request)
        now = self._clock.now()
        answered = self._challenges.check(request.hello, request.challenge, now)
        claims = decode(request.attested.claims, RequestClaims)
        if claims.credential_mac or claims.credential:
            raise Rejected(Reason.MALFORMED, "The request answers a credential; this platform gave none.")
        if len(claims.digest) not in {0, DIGEST_SIZE}:
            raise Rejected(Reason.MALFORMED, f"The request names a state by {len(claims.digest)} bytes, not by 32.")
        proved = await prove(
            request.attested,
            context=Context.HAND_OVER_REQUEST,
            transcript=answered.transcript,
            claimed=answered.claimed,
            policy=policy,
            verifiers=self._verifiers,
            now=now,
        )
        self._challenges.use(answered)
        return Proved(
            claims=proved,
            request=claims,
            transcript=transcript_hash(request.hello, request.challenge, request_bytes),
            now=now,
        )

    def appraise(self, proved: Proved, policy: Policy) -> Accepted:
        """Judge a proved request by the domain's policy.

        Raises: Rejected with the rule that failed.
        """
        verdict = appraise(proved.claims, policy, now=proved.now)
        return Accepted(verdict=verdict, request=proved.request, transcript=proved.transcript)

    def seal(self, accepted: Accepted, keyring: Keyring, owner: Owner) -> Sealed:
        """Seal the keyring to the accepted peer. owner: who this is, and whom it knows.

        Raises: Rejected(MALFORMED) if the peer's one-time key is none.
        """
        return Sealed(
            accepted,
            hpke.seal(keyring.view, accepted.request.kem_public_key, accepted.transcript),
            encode(Members(member=owner.member, members=list(owner.members))),
        )

    def grant(self, sealed: Sealed) -> bytes:
        """Vouch for what was sealed. Waits where the attester does.

        Raises: Unavailable if the platform gives no evidence.
        """
        accepted, ciphertext = sealed.accepted, sealed.ciphertext
        claims = GrantClaims(
            ciphertext_sha512=hashlib.sha512(ciphertext).digest(),
            members_sha512=hashlib.sha512(sealed.members).digest(),
            nonce=accepted.request.nonce,
            credential_answer=b"",
            audit_head=self._audit_head(),
        )
        attested = vouch(self._attester, Context.HAND_OVER_GRANT, accepted.transcript, encode(claims))
        return encode(Grant(attested=attested, ciphertext=ciphertext, members=sealed.members))

    def state_mint(self, keyring: Keyring) -> bytes:
        """As exchange.mint_statement."""
        return state_mint(keyring, self._attester, now=self._clock.now())

    async def accepts_self(self, policy: Policy) -> Verdict:
        """Judge this very instance by a policy, as a peer would.

        Raises: Rejected with the rule that failed, Unavailable.
        """
        return await appraise_self(
            self._attester, self._verifiers, policy, nonce=self._random(32), now=self._clock.now()
        )

    def close(self) -> None:
        """Erase the key of the challenges."""
        self._challenges.close()
