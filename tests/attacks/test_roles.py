"""What was said in one role or for one purpose, used for another; and an instance that meets itself."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import combinations

import pytest
from tests.attacks.parties import (
    Pair,
    Primary,
    Standby,
    claims_of,
    edited,
    exchange,
    granted,
    transcript_before,
    transcript_of,
    with_attested,
)
from tests.fakes.members import MEMBERS, MEMBERS_SHA512

from rkeyserver.attestation.report_data import report_data, transcript_hash
from rkeyserver.errors import Reason
from rkeyserver.exchange import hpke
from rkeyserver.exchange.attested import Context, vouch
from rkeyserver.exchange.messages import Grant, GrantClaims, Hello, Request, RequestClaims, decode, encode


def test_a_request_that_was_vouched_for_as_a_grant(pair: Pair) -> None:
    request = pair.standby.ask(pair.primary).message
    attested = vouch(
        pair.standby.platform,
        Context.HAND_OVER_GRANT,
        transcript_before(request),
        decode(request, Request).attested.claims,
    )
    with pair.refuses(Reason.NOT_BOUND, asked=0):
        pair.primary.answer(with_attested(request, attested))


def grant_in(context: Context, transcript: bytes, pair: Pair, request: bytes) -> bytes:
    """What an honest primary would send, but for what it says it is and follows on."""
    claims = claims_of(request)
    ciphertext = hpke.seal(pair.primary.keyring.view, claims.kem_public_key, transcript_of(request))
    about = GrantClaims(
        members_sha512=MEMBERS_SHA512,
        ciphertext_sha512=hashlib.sha512(ciphertext).digest(),
        nonce=claims.nonce,
        credential_answer=b"",
        audit_head=bytes(32),
    )
    return encode(
        Grant(
            attested=vouch(pair.primary.platform, context, transcript, encode(about)),
            ciphertext=ciphertext,
            members=MEMBERS,
        )
    )


def test_a_grant_that_was_vouched_for_as_a_request(pair: Pair) -> None:
    requesting = pair.standby.ask(pair.primary)
    grant = grant_in(Context.HAND_OVER_REQUEST, requesting.transcript, pair, requesting.message)
    with pair.refuses(Reason.NOT_BOUND):
        granted(requesting, grant)


def test_a_grant_that_was_made_before_the_request(pair: Pair) -> None:
    requesting = pair.standby.ask(pair.primary)
    grant = grant_in(Context.HAND_OVER_GRANT, transcript_before(requesting.message), pair, requesting.message)
    with pair.refuses(Reason.NOT_BOUND):
        granted(requesting, grant)


def test_a_grant_made_by_hand_as_a_primary_makes_it_is_taken(pair: Pair) -> None:
    # So that the two above fail for what their names say.
    requesting = pair.standby.ask(pair.primary)
    received = granted(requesting, grant_in(Context.HAND_OVER_GRANT, requesting.transcript, pair, requesting.message))
    received.keyring.close()


def test_a_request_sent_back_as_its_own_grant(pair: Pair) -> None:
    requesting = pair.standby.ask(pair.primary)
    attested = decode(requesting.message, Request).attested
    with pair.refuses(Reason.TOO_LARGE, says="A grant-claims of"):
        granted(requesting, encode(Grant(attested=attested, ciphertext=b"x", members=MEMBERS)))


def test_the_standbys_own_evidence_sent_back_to_it(pair: Pair) -> None:
    requesting = pair.standby.ask(pair.primary)
    attested = decode(requesting.message, Request).attested
    claims = GrantClaims(
        members_sha512=MEMBERS_SHA512,
        ciphertext_sha512=hashlib.sha512(b"x").digest(),
        nonce=requesting.nonce,
        credential_answer=b"",
        audit_head=bytes(32),
    )
    forged = type(attested)(encode(claims), attested.evidence, attested.endorsements)
    with pair.refuses(Reason.NOT_BOUND):
        granted(requesting, encode(Grant(attested=forged, ciphertext=b"x", members=MEMBERS)))


def test_a_grant_sent_back_as_a_request(pair: Pair) -> None:
    requesting = pair.standby.ask(pair.primary)
    grant = decode(pair.primary.answer(requesting.message), Grant)
    with pair.refuses(Reason.MALFORMED, asked=0):
        pair.primary.answer(with_attested(pair.standby.ask(pair.primary).message, grant.attested))


def test_the_primarys_own_evidence_sent_back_to_it(pair: Pair) -> None:
    requesting = pair.standby.ask(pair.primary)
    grant = decode(pair.primary.answer(requesting.message), Grant).attested
    fresh = pair.standby.ask(pair.primary).message
    forged = type(grant)(decode(fresh, Request).attested.claims, grant.evidence, grant.endorsements)
    with pair.refuses(Reason.NOT_BOUND, asked=0):
        pair.primary.answer(with_attested(fresh, forged))


def test_claims_of_another_kind_that_were_vouched_for(pair: Pair) -> None:
    request = pair.standby.ask(pair.primary).message
    claims = GrantClaims(
        members_sha512=MEMBERS_SHA512,
        ciphertext_sha512=bytes(64),
        nonce=bytes(32),
        credential_answer=b"",
        audit_head=bytes(32),
    )
    attested = vouch(pair.standby.platform, Context.HAND_OVER_REQUEST, transcript_before(request), encode(claims))
    with pair.refuses(Reason.MALFORMED, asked=0):
        pair.primary.answer(with_attested(request, attested))


def test_claims_in_another_form_that_were_vouched_for(pair: Pair) -> None:
    request = pair.standby.ask(pair.primary).message
    claims = decode(request, Request).attested.claims
    assert claims.startswith(b"\x8b")
    wide = b"\xde\x00\x0b" + claims[1:]
    attested = vouch(pair.standby.platform, Context.HAND_OVER_REQUEST, transcript_before(request), wide)
    with pair.refuses(Reason.MALFORMED, asked=0, says="not in its canonical form"):
        pair.primary.answer(with_attested(request, attested))


def test_a_one_time_key_that_is_none(pair: Pair) -> None:
    request = pair.standby.ask(pair.primary).message
    claims = edited(decode(request, Request).attested.claims, RequestClaims, kem_public_key=bytes(1216))
    attested = vouch(pair.standby.platform, Context.HAND_OVER_REQUEST, transcript_before(request), claims)
    before = pair.primary.keyring.released
    with pytest.raises(Exception, match="one-time public key is not valid") as refused:
        pair.primary.answer(with_attested(request, attested))
    assert getattr(refused.value, "reason", None) is Reason.MALFORMED
    assert pair.primary.keyring.released == before + 1  # it was to be sealed, and nothing left
    pair.works()


def test_what_evidence_covers_differs_with_everything_that_it_is_for() -> None:
    covered = {
        report_data(context, transcript_hash(*messages), claims)
        for context in Context
        for messages in ([], [b""], [b"a"], [b"a", b"b"], [b"ab"], [b"b", b"a"], [b"a", b"b", b""])
        for claims in (b"", b"a", b"ab")
    }
    assert len(covered) == len(Context) * 7 * 3
    assert {len(one) for one in covered} == {64}


def test_the_contexts_are_all_different() -> None:
    for one, other in combinations(Context, 2):
        assert not one.startswith(other)
        assert not other.startswith(one)


def test_an_instance_that_says_hello_to_itself(pair: Pair) -> None:
    itself = replace(pair.standby, instance=pair.primary.instance)
    hello = itself.greet().message
    with pair.refuses(Reason.TALKING_TO_ITSELF, asked=0):
        pair.primary.challenge(hello)


def test_an_instance_that_is_relayed_to_itself(pair: Pair) -> None:
    itself = replace(pair.standby, instance=pair.primary.instance)
    greeting = itself.greet()
    challenge = pair.primary.challenge(edited(greeting.message, Hello, instance=bytes(16)))
    with pair.refuses(Reason.TALKING_TO_ITSELF, asked=0):
        greeting.challenged(challenge)


def test_two_instances_on_one_machine_are_not_one(pair: Pair) -> None:
    Pair(pair.primary, Standby.of(pair.primary.platform), pair.third).works()


def test_two_instances_that_ask_each_other(pair: Pair) -> None:
    with Primary.open(pair.standby.platform) as other:
        mine = exchange(pair.standby, pair.primary)
        theirs = exchange(Standby.of(pair.primary.platform), other)
        try:
            assert mine.keyring.domain == pair.primary.keyring.domain
            assert theirs.keyring.domain == other.keyring.domain
        finally:
            mine.keyring.close()
            theirs.keyring.close()


def test_a_grant_opened_by_another_state_with_the_same_nonce(pair: Pair) -> None:
    constant = replace(pair.standby, random=bytes)
    one, other = constant.ask(pair.primary), constant.ask(pair.primary)
    assert one.nonce == other.nonce
    grant = pair.primary.answer(one.message)
    with pair.refuses(Reason.NOT_BOUND):
        granted(other, grant)
