"""A relay in the middle: it sees, keeps and changes everything, and may have a genuine machine of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.attacks.parties import (
    Pair,
    Primary,
    Standby,
    WatchedKeyring,
    changed,
    claims_of,
    edited,
    granted,
    transcript_before,
    transcript_of,
    with_attested,
    with_claims,
)
from tests.fakes.flavours import other_than
from tests.fakes.machines import loaded, other_signer
from tests.fakes.members import MEMBERS, MEMBERS_SHA512

from rkeyserver.errors import Reason, Rejected
from rkeyserver.exchange import hpke
from rkeyserver.exchange.attested import Context, vouch
from rkeyserver.exchange.messages import (
    Challenge,
    ChallengeBody,
    Grant,
    GrantClaims,
    Hello,
    Request,
    decode,
    encode,
)
from rkeyserver.exchange.standby import Requesting
from rkeyserver.platforms.interface import Platform
from rkeyserver.platforms.simulated.image import EnclaveIdentity


def vouched_by(platform: Platform, request: bytes, **changes: object) -> bytes:
    """The request with other claims, and evidence for them by another machine."""
    claims = encode(msgspec.structs.replace(claims_of(request), **changes))
    return with_attested(request, vouch(platform, Context.HAND_OVER_REQUEST, transcript_before(request), claims))


def forged_grant(platform: Platform, request: bytes, keyring: WatchedKeyring) -> bytes:
    """What a relay answers to a standby's request by itself: another keyring, vouched for by its own machine."""
    claims = claims_of(request)
    transcript = transcript_of(request)
    ciphertext = hpke.seal(keyring.view, claims.kem_public_key, transcript)
    about = GrantClaims(
        members_sha512=MEMBERS_SHA512,
        ciphertext_sha512=hashlib.sha512(ciphertext).digest(),
        nonce=claims.nonce,
        credential_answer=b"",
        audit_head=bytes(32),
    )
    return encode(
        Grant(
            attested=vouch(platform, Context.HAND_OVER_GRANT, transcript, encode(about)),
            ciphertext=ciphertext,
            members=MEMBERS,
        )
    )


def test_one_that_forwards_everything_learns_nothing(pair: Pair) -> None:
    greeting = pair.standby.greet()
    challenge = pair.primary.challenge(greeting.message)
    requesting = greeting.challenged(challenge)
    grant = pair.primary.answer(requesting.message)
    seen = b"".join((greeting.message, challenge, requesting.message, grant))
    received = granted(requesting, grant)
    try:
        whole = bytes(received.keyring.view)
    finally:
        received.keyring.close()
    keys = len(whole) - 64
    assert all(whole[at : at + 8] not in seen for at in range(keys, len(whole) - 8))
    with pytest.raises(Rejected) as refused:
        hpke.OneTimeKey().open(decode(grant, Grant).ciphertext, transcript_of(requesting.message))
    assert refused.value.reason is Reason.NOT_BOUND


def test_one_that_puts_its_own_key_into_the_request(pair: Pair) -> None:
    request = with_claims(pair.standby.ask(pair.primary).message, kem_public_key=hpke.OneTimeKey().public)
    with pair.refuses(Reason.NOT_BOUND, asked=0):
        pair.primary.answer(request)


def test_one_that_puts_its_own_key_in_and_vouches_for_it_with_a_genuine_machine(pair: Pair) -> None:
    request = vouched_by(pair.third, pair.standby.ask(pair.primary).message, kem_public_key=hpke.OneTimeKey().public)
    with pair.refuses(Reason.IDENTITY_CHANGED, asked=1):
        pair.primary.answer(request)


def test_one_that_says_it_is_a_machine_that_is_named(pair: Pair) -> None:
    victim = pair.standby.platform.attester_identity().machine
    named = changed(pair.primary.policy, machines=[victim, pair.primary.platform.attester_identity().machine])
    with Primary.open(pair.primary.platform, policy=named) as primary:
        honest = Pair(primary, pair.standby, pair.third)
        greeting = Standby.of(pair.third).greet()
        hello = edited(greeting.message, Hello, machine=victim)
        with honest.refuses(Reason.IDENTITY_CHANGED, asked=1):
            primary.answer(type(greeting)(hello, greeting.asking).challenged(primary.challenge(hello)).message)


def test_one_that_rewrites_the_hello_on_both_sides(pair: Pair) -> None:
    greeting = pair.standby.greet()
    own = edited(greeting.message, Hello, machine=pair.third.attester_identity().machine)
    requesting = greeting.challenged(pair.primary.challenge(own))
    with pair.refuses(Reason.NOT_BOUND, asked=0):
        pair.primary.answer(edited(requesting.message, Request, hello=own))


def test_one_that_answers_as_itself_but_relays_the_challenge(pair: Pair) -> None:
    # The relay is a genuine machine with genuine code, so that only the identity in the challenge tells it apart.
    requesting = pair.standby.ask(pair.primary)
    with Primary.open(pair.third) as relay, pair.refuses(Reason.IDENTITY_CHANGED):
        granted(requesting, forged_grant(pair.third, requesting.message, relay.keyring))


REWRITTEN: dict[str, Callable[[ChallengeBody, Pair], ChallengeBody]] = {
    "its own machine": lambda body, pair: msgspec.structs.replace(body, machine=pair.third.attester_identity().machine),
    "another platform": lambda body, pair: msgspec.structs.replace(body, platform=other_than(pair.name)),
    "another nonce": lambda body, _pair: msgspec.structs.replace(body, nonce=bytes(32)),
    "a later time": lambda body, _pair: msgspec.structs.replace(body, time=body.time + 60),
    "another instance": lambda body, _pair: msgspec.structs.replace(body, instance=bytes(16)),
    "an identity": lambda body, _pair: msgspec.structs.replace(body, identity=b"x"),
}


@pytest.mark.parametrize("rewrite", REWRITTEN.values(), ids=REWRITTEN)
def test_one_that_rewrites_the_challenge(rewrite: Callable[[ChallengeBody, Pair], ChallengeBody], pair: Pair) -> None:
    greeting = pair.standby.greet()
    challenge = decode(pair.primary.challenge(greeting.message), Challenge)
    body = encode(rewrite(decode(challenge.body, ChallengeBody), pair))
    requesting = greeting.challenged(encode(Challenge(body=body, mac=challenge.mac)))
    with pair.refuses(Reason.BAD_MAC, asked=0):
        pair.primary.answer(requesting.message)


def test_one_that_rewrites_the_challenge_and_puts_the_true_one_back(pair: Pair) -> None:
    greeting = pair.standby.greet()
    true = pair.primary.challenge(greeting.message)
    challenge = decode(true, Challenge)
    body = msgspec.structs.replace(decode(challenge.body, ChallengeBody), nonce=bytes(32))
    requesting = greeting.challenged(encode(Challenge(body=encode(body), mac=challenge.mac)))
    with pair.refuses(Reason.NOT_BOUND, asked=0):
        pair.primary.answer(edited(requesting.message, Request, challenge=true))


def reencrypted(requesting: Requesting, grant: bytes, keyring: WatchedKeyring) -> Grant:
    ciphertext = hpke.seal(
        keyring.view, claims_of(requesting.message).kem_public_key, transcript_of(requesting.message)
    )
    return Grant(attested=decode(grant, Grant).attested, ciphertext=ciphertext, members=MEMBERS)


def test_one_that_puts_another_keyring_into_the_grant(pair: Pair) -> None:
    requesting = pair.standby.ask(pair.primary)
    grant = pair.primary.answer(requesting.message)
    with Primary.open(pair.third) as relay, pair.refuses(Reason.NOT_BOUND, says="did not vouch for this ciphertext"):
        granted(requesting, encode(reencrypted(requesting, grant, relay.keyring)))


def test_one_that_puts_another_keyring_and_its_hash_into_the_grant(pair: Pair) -> None:
    requesting = pair.standby.ask(pair.primary)
    grant = pair.primary.answer(requesting.message)
    with Primary.open(pair.third) as relay:
        forged = reencrypted(requesting, grant, relay.keyring)
        claims = edited(
            forged.attested.claims, GrantClaims, ciphertext_sha512=hashlib.sha512(forged.ciphertext).digest()
        )
        attested = msgspec.structs.replace(forged.attested, claims=claims)
        with pair.refuses(Reason.NOT_BOUND, says="is over report data"):
            granted(requesting, encode(Grant(attested=attested, ciphertext=forged.ciphertext, members=MEMBERS)))


def test_one_that_gets_the_same_keyring_sealed_to_the_standby_in_another_exchange(pair: Pair) -> None:
    # The standby asks twice with its own key: what answers one request opens for no other.
    one, other = pair.standby.ask(pair.primary), pair.standby.ask(pair.primary)
    sealed = decode(pair.primary.answer(one.message), Grant)
    with pair.refuses(Reason.NOT_BOUND):
        one._key.open(sealed.ciphertext, other.transcript)
    received = granted(one, encode(sealed))
    received.keyring.close()


RELAYS: dict[str, tuple[Callable[[], EnclaveIdentity], Reason]] = {
    "other code on a genuine machine": (lambda: loaded(key=other_signer()), Reason.WRONG_SIGNER),
    "older code on a genuine machine": (lambda: loaded(isv_svn=0), Reason.VERSION_TOO_LOW),
}


@pytest.mark.parametrize(("enclave", "reason"), RELAYS.values(), ids=RELAYS)
def test_one_that_is_standby_to_one_side_and_primary_to_the_other(
    enclave: Callable[[], EnclaveIdentity], reason: Reason, pair: Pair, tmp_path: Path
) -> None:
    relay = pair.machine(tmp_path / "relay", enclave=enclave)
    asking = Standby.of(relay).ask(pair.primary)
    with pair.refuses(reason, asked=1):
        pair.primary.answer(asking.message)
    with Primary.open(relay, policy=pair.primary.policy) as answering:
        requesting = pair.standby.ask(answering)
        grant = answering.answer(requesting.message)
    with pair.refuses(reason):
        granted(requesting, grant)


def test_one_on_a_genuine_machine_with_genuine_code_that_is_not_named(pair: Pair) -> None:
    machines = [one.attester_identity().machine for one in (pair.primary.platform, pair.standby.platform)]
    named = changed(pair.primary.policy, machines=machines)
    with Primary.open(pair.primary.platform, policy=named) as primary:
        honest = Pair(primary, Standby(pair.standby.platform, named), pair.third)
        with honest.refuses(Reason.MACHINE_NOT_NAMED, asked=0):
            primary.answer(Standby.of(pair.third).ask(primary).message)
        with Primary.open(pair.third, policy=named) as relay:
            requesting = honest.standby.ask(relay)
            with honest.refuses(Reason.MACHINE_NOT_NAMED):
                granted(requesting, forged_grant(pair.third, requesting.message, relay.keyring))
