"""The enclave's side of attested release (docs/spec/release.md).

    Greeting.begin(Wanting)        -> Greeting    send .message
    Greeting.challenged(challenge) -> Requesting  send .message
    Requesting.released(release)   -> Released    the server's verdict and the keys

Each step is one use of the state before it. Which domain a key is of, the server says, and its evidence covers that: it
is believed because the policy accepts the code that says it, and that code names the domain that its keyring has.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from rkeyserver.appraisal.appraise import Verdict, appraise
from rkeyserver.appraisal.policy import Policy
from rkeyserver.attestation.evidence import Attester, Identity
from rkeyserver.attestation.report_data import transcript_hash
from rkeyserver.clock import Clock
from rkeyserver.errors import Reason, Rejected
from rkeyserver.exchange.attested import Context, Verifier, prove, vouch
from rkeyserver.exchange.challenges import hello_of, read_challenge
from rkeyserver.exchange.hpke import OneTimeKey
from rkeyserver.exchange.messages import (
    Release,
    ReleaseClaims,
    ReleaseRequest,
    ReleaseRequestClaims,
    WantedKey,
    decode,
    encode,
    identity_of,
)
from rkeyserver.secret import SecretBytes, copy_secret


@dataclass(frozen=True)
class Wanting:
    """What an enclave asks with, and for which keys of which domain.

    policy: what the server has to be. instance: 16 random bytes. keys: 1 to 16, none twice.
    """

    attester: Attester
    verifiers: dict[str, Verifier]
    policy: Policy
    clock: Clock
    random: Callable[[int], bytes]
    instance: bytes
    domain: str
    keys: tuple[WantedKey, ...]


@dataclass(frozen=True)
class ReleasedKey:
    """A derived key and the id of the generation that it is from. Close the secret when done."""

    label: str
    generation: str
    secret: SecretBytes


@dataclass(frozen=True)
class Released:
    """The keys, in the order that they were asked for, from a server that this enclave's policy accepts."""

    verdict: Verdict
    keys: tuple[ReleasedKey, ...]

    def close(self) -> None:
        """Erase them."""
        for one in self.keys:
            one.secret.close()


@dataclass(frozen=True)
class Greeting:
    """The hello was made; a challenge is awaited."""

    message: bytes
    wanting: Wanting

    @classmethod
    def begin(cls, wanting: Wanting) -> Self:
        """Begin one exchange."""
        return cls(message=hello_of(wanting.attester.attester_identity(), wanting.instance), wanting=wanting)

    def challenged(self, challenge_bytes: bytes) -> Requesting:
        """Answer a challenge. Waits where the attester does.

        Raises: Rejected(TOO_LARGE | MALFORMED | TALKING_TO_ITSELF), Unavailable if the platform gives no evidence.
        """
        wanting = self.wanting
        body = read_challenge(challenge_bytes, wanting.instance)
        key = OneTimeKey()
        claims = ReleaseRequestClaims(
            domain=wanting.domain, keys=list(wanting.keys), nonce=wanting.random(32), kem_public_key=key.public
        )
        before = transcript_hash(self.message, challenge_bytes)
        attested = vouch(wanting.attester, Context.RELEASE_REQUEST, before, encode(claims))
        message = encode(ReleaseRequest(hello=self.message, challenge=challenge_bytes, attested=attested))
        return Requesting(
            message=message,
            wanting=wanting,
            peer=identity_of(body),
            nonce=claims.nonce,
            transcript=transcript_hash(self.message, challenge_bytes, message),
            _key=key,
        )


@dataclass(frozen=True)
class Requesting:
    """The request was made; a release is awaited. Holds the one-time private key: it lives for one reply."""

    message: bytes
    wanting: Wanting
    peer: Identity
    nonce: bytes
    transcript: bytes
    _key: OneTimeKey

    async def released(self, release_bytes: bytes) -> Released:
        """Verify and appraise the server, then open what it sent; the caller closes it.

        Raises: Rejected with the reason; nothing is opened before the server is accepted and the domain is the one.
        """
        wanting = self.wanting
        release = decode(release_bytes, Release)
        claims = decode(release.attested.claims, ReleaseClaims)
        now = wanting.clock.now()
        proved = await prove(
            release.attested,
            context=Context.RELEASE,
            transcript=self.transcript,
            claimed=self.peer,
            policy=wanting.policy,
            verifiers=wanting.verifiers,
            now=now,
        )
        verdict = appraise(proved, wanting.policy, now=now)
        if not hmac.compare_digest(claims.nonce, self.nonce):
            raise Rejected(Reason.NOT_BOUND, "The release answers another request.")
        if not hmac.compare_digest(claims.ciphertext_sha512, hashlib.sha512(release.ciphertext).digest()):
            raise Rejected(Reason.NOT_BOUND, "The server did not vouch for this ciphertext.")
        if claims.domain != wanting.domain:
            raise Rejected(
                Reason.ANOTHER_DOMAIN, f"The server is of domain {claims.domain}; wanted is domain {wanting.domain}."
            )
        _check_generations(wanting.keys, claims.generations)
        with self._key.open(release.ciphertext, self.transcript) as found:
            if len(found) != sum(one.size for one in wanting.keys):
                raise Rejected(
                    Reason.MALFORMED, f"The server sent {len(found)} bytes of keys, not as many as were asked for."
                )
            return Released(verdict, _split(found, wanting.keys, claims.generations))


def _check_generations(keys: Sequence[WantedKey], generations: Sequence[str]) -> None:
    if len(generations) != len(keys):
        raise Rejected(Reason.MALFORMED, f"The server sent {len(generations)} keys; asked for were {len(keys)}.")
    for one, found in zip(keys, generations, strict=True):
        if one.generation not in ("first", "current", found):
            raise Rejected(
                Reason.NOT_BOUND, f"The server sent a key of generation {found}; wanted is generation {one.generation}."
            )


def _split(found: SecretBytes, keys: Sequence[WantedKey], generations: Sequence[str]) -> tuple[ReleasedKey, ...]:
    made: list[ReleasedKey] = []
    at = 0
    try:
        for one, generation in zip(keys, generations, strict=True):
            made.append(ReleasedKey(one.label, generation, SecretBytes(one.size)))
            copy_secret(found.view[at : at + one.size], made[-1].secret.view)
            at += one.size
    except BaseException:  # whatever it is, no key stays open
        for key in made:
            key.secret.close()
        raise
    return tuple(made)
