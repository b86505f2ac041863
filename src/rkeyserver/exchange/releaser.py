"""The server's side of attested release: derived keys for an enclave elsewhere (docs/spec/release.md).

    challenge()                       as the hand-over's, for this purpose
    prove(request)       -> Proved    size, MAC, age, form, domain, binding, claimed identity, signatures, first use
    appraise(Proved)     -> Accepted  the [[enclaves]] of the domain's policy, for every label
    find(Accepted)       -> Found     the generations that the keys are from
    seal(Found)          -> Sealed    only here are keys derived
    release(Sealed)      -> bytes     vouched for

Each takes what the one before returned, so none can be skipped. Between find() and seal() the caller records. The root
key is nothing that any of them could send.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rkeyserver.appraisal.enclaves import EnclaveVerdict, appraise_enclave, check_enclave
from rkeyserver.appraisal.policy import Policy
from rkeyserver.attestation.evidence import Attester
from rkeyserver.attestation.report_data import transcript_hash
from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.clock import Clock
from rkeyserver.errors import Reason, Rejected
from rkeyserver.exchange import hpke
from rkeyserver.exchange.attested import Context, Verifier, prove_known, vouch
from rkeyserver.exchange.challenges import Challenges, Purpose
from rkeyserver.exchange.messages import (
    Release,
    ReleaseClaims,
    ReleaseRequest,
    ReleaseRequestClaims,
    WantedKey,
    decode,
    encode,
)
from rkeyserver.keyring.derived import derive
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.secret import SecretBytes, copy_secret


@dataclass(frozen=True)
class Proved:
    """A request with genuine evidence, bound to this exchange; not yet accepted."""

    claims: SgxClaims
    request: ReleaseRequestClaims
    transcript: bytes
    now: int


@dataclass(frozen=True)
class Accepted:
    """A request that the policy accepts, with every label in it."""

    verdict: EnclaveVerdict
    request: ReleaseRequestClaims
    transcript: bytes


@dataclass(frozen=True)
class Found:
    """An accepted request, and the id of the generation that each of its keys is from; the one thing seal() takes."""

    accepted: Accepted
    generations: tuple[str, ...]


@dataclass(frozen=True)
class Sealed:
    """The keys, sealed to an accepted enclave; nobody has vouched for them yet."""

    found: Found
    ciphertext: bytes


class Releaser:
    """Answers hellos and requests of enclaves for one instance; arguments as primary.Granter's."""

    def __init__(
        self,
        *,
        attester: Attester,
        verifiers: dict[str, Verifier],
        clock: Clock,
        random: Callable[[int], bytes],
        instance: bytes,
    ) -> None:
        self._attester = attester
        self._verifiers = verifiers
        self._clock = clock
        self._challenges = Challenges(Purpose.RELEASE, attester=attester, clock=clock, random=random, instance=instance)

    def challenge(self, hello_bytes: bytes) -> bytes:
        """The challenge for a hello. Keeps no state.

        Raises: Rejected(TOO_LARGE | MALFORMED | WRONG_VERSION | TALKING_TO_ITSELF).
        """
        return self._challenges.challenge(hello_bytes)

    async def prove(self, request_bytes: bytes, policy: Policy, *, domain: str) -> Proved:
        """Whether a request is a fresh answer to a challenge of ours, vouched for by genuine evidence.

        domain: the one that is held here.
        Raises: Rejected(TOO_LARGE | MALFORMED | BAD_MAC | CHALLENGE_EXPIRED | ANOTHER_DOMAIN | ...), Unavailable.
        """
        request = decode(request_bytes, ReleaseRequest)
        now = self._clock.now()
        answered = self._challenges.check(request.hello, request.challenge, now)
        claims = decode(request.attested.claims, ReleaseRequestClaims)
        check_keys(claims.keys)
        if claims.domain != domain:
            raise Rejected(
                Reason.ANOTHER_DOMAIN, f"The enclave wants keys of domain {claims.domain}; this is domain {domain}."
            )
        proved = await prove_known(
            request.attested,
            context=Context.RELEASE_REQUEST,
            transcript=answered.transcript,
            claimed=answered.claimed,
            check_known=lambda identity: check_enclave(identity, policy),
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
        """Judge a proved request by the domain's policy, whole.

        Raises: Rejected with the label and the rule that failed.
        """
        labels = [one.label for one in proved.request.keys]
        verdict = appraise_enclave(proved.claims, policy, labels, now=proved.now)
        return Accepted(verdict=verdict, request=proved.request, transcript=proved.transcript)

    def find(self, accepted: Accepted, keyring: Keyring) -> Found:
        """Which generations of `keyring` the keys are from.

        Raises: Rejected(NO_SUCH_GENERATION).
        """
        return Found(accepted, tuple(keyring.generation_named(one.generation) for one in accepted.request.keys))

    def seal(self, found: Found, keyring: Keyring) -> Sealed:
        """Derive the keys, and seal them to the accepted enclave.

        Raises: Rejected(MALFORMED) if its one-time key is none.
        """
        accepted = found.accepted
        wanted = accepted.request.keys
        with SecretBytes(sum(one.size for one in wanted)) as keys:
            at = 0
            for one, generation in zip(wanted, found.generations, strict=True):
                with derive(keyring, one.label.encode(), size=one.size, generation=generation).secret as key:
                    copy_secret(key.view, keys.view[at : at + one.size])
                at += one.size
            return Sealed(found, hpke.seal(keys.view, accepted.request.kem_public_key, accepted.transcript))

    def release(self, sealed: Sealed) -> bytes:
        """Vouch for what was sealed. Waits where the attester does.

        Raises: Unavailable if the platform gives no evidence.
        """
        accepted = sealed.found.accepted
        claims = ReleaseClaims(
            domain=accepted.request.domain,
            generations=list(sealed.found.generations),
            ciphertext_sha512=hashlib.sha512(sealed.ciphertext).digest(),
            nonce=accepted.request.nonce,
        )
        attested = vouch(self._attester, Context.RELEASE, accepted.transcript, encode(claims))
        return encode(Release(attested=attested, ciphertext=sealed.ciphertext))

    def close(self) -> None:
        """Erase the key of the challenges."""
        self._challenges.close()


def check_keys(keys: Sequence[WantedKey]) -> None:
    """Whether no key is asked for twice.

    Raises: Rejected(MALFORMED).
    """
    if len({(one.label, one.size, one.generation) for one in keys}) != len(keys):
        raise Rejected(Reason.MALFORMED, "The request names a key twice.")
