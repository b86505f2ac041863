"""The exchange as it goes when nobody interferes, and when a part of it is not there."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import Callable

import msgspec
import pytest
from tests.attacks.parties import AUDIT_HEAD, Pair, Primary, Standby, changed, exchange, granted
from tests.fakes.keyrings import OWNER
from tests.fakes.machines import NOW

from rkeyserver.attestation.evidence import Identity
from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.errors import Reason, Rejected, Unavailable
from rkeyserver.exchange.messages import Challenge, Grant, Request, decode
from rkeyserver.exchange.primary import Accepted, Proved
from rkeyserver.exchange.standby import Greeting
from rkeyserver.platforms.simulated import anchor


def framed(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def sha512(data: bytes) -> bytes:
    return hashlib.sha512(data).digest()


def fields(message: bytes) -> dict[str, object]:
    found: dict[str, object] = msgspec.msgpack.decode(message)
    return found


def test_both_know_afterwards_whom_they_dealt_with_and_by_which_policy(pair: Pair) -> None:
    requesting = pair.standby.ask(pair.primary)
    proved = asyncio.run(pair.primary.granter.prove(requesting.message, pair.primary.policy))
    assert proved.claims.identity == pair.standby.platform.attester_identity()
    accepted = pair.primary.granter.appraise(proved, pair.primary.policy)
    assert (accepted.verdict.claims, accepted.verdict.policy) == (proved.claims, pair.primary.policy.digest)
    assert accepted.verdict.at == NOW
    received = granted(
        requesting, pair.primary.granter.grant(pair.primary.granter.seal(accepted, pair.primary.keyring, OWNER))
    )
    assert received.verdict.claims.identity == pair.primary.platform.attester_identity()
    assert received.verdict.policy == pair.standby.policy.digest
    assert received.keyring.same_as(pair.primary.keyring)
    received.keyring.close()


def test_the_keyring_is_not_touched_before_the_verdict(pair: Pair) -> None:
    requesting = pair.standby.ask(pair.primary)
    proved = asyncio.run(pair.primary.granter.prove(requesting.message, pair.primary.policy))
    accepted = pair.primary.granter.appraise(proved, pair.primary.policy)
    assert pair.primary.keyring.released == 0
    pair.primary.granter.grant(pair.primary.granter.seal(accepted, pair.primary.keyring, OWNER))
    assert pair.primary.keyring.released == 1


def test_what_is_said_and_what_it_is_bound_to(pair: Pair) -> None:
    # Written out by hand, so that a change of any of it is seen.
    greeting = pair.standby.greet()
    challenge = pair.primary.challenge(greeting.message)
    requesting = greeting.challenged(challenge)
    grant = pair.primary.answer(requesting.message)
    mine, theirs = (one.platform.attester_identity() for one in (pair.standby, pair.primary))

    assert fields(greeting.message) == {
        "type": "hello",
        "version": 1,
        "instance": pair.standby.instance,
        "platform": "simulated",
        "machine": mine.machine,
        "identity": b"",
    }
    body = fields(decode(challenge, Challenge).body)
    nonce = body.pop("nonce")
    assert isinstance(nonce, bytes)
    assert len(nonce) == 32
    assert body == {
        "type": "challenge-body",
        "time": NOW,
        "instance": pair.primary.instance,
        "platform": "simulated",
        "machine": theirs.machine,
        "identity": b"",
        "credential": b"",
    }
    request = decode(requesting.message, Request)
    assert (request.hello, request.challenge) == (greeting.message, challenge)
    assert request.attested.evidence[368:432] == sha512(
        framed(
            b"rkeyserver/v1",
            b"hand-over request, standby to primary",
            sha512(framed(greeting.message, challenge)),
            sha512(request.attested.claims),
        )
    )
    transcript = sha512(framed(greeting.message, challenge, requesting.message))
    found = decode(grant, Grant)
    assert found.attested.evidence[368:432] == sha512(
        framed(b"rkeyserver/v1", b"hand-over grant, primary to standby", transcript, sha512(found.attested.claims))
    )
    assert fields(found.attested.claims) == {
        "type": "grant-claims",
        "ciphertext_sha512": sha512(found.ciphertext),
        "members_sha512": sha512(found.members),
        "nonce": requesting.nonce,
        "credential_answer": b"",
        "audit_head": AUDIT_HEAD,
    }
    with requesting._key.open(found.ciphertext, transcript) as secret:
        assert bytes(secret.view) == bytes(pair.primary.keyring.view)


def test_the_primary_keeps_nothing_for_a_challenge(pair: Pair) -> None:
    hello = pair.standby.greet().message
    before = dict(vars(pair.primary.granter))
    for _ in range(1000):
        pair.primary.challenge(hello)
    assert vars(pair.primary.granter) == before
    assert not pair.primary.granter._challenges._used._until


def test_a_state_cannot_be_changed(pair: Pair) -> None:
    greeting = pair.standby.greet()
    requesting = pair.standby.ask(pair.primary)
    proved = asyncio.run(pair.primary.granter.prove(requesting.message, pair.primary.policy))
    accepted = pair.primary.granter.appraise(proved, pair.primary.policy)
    for state in (greeting, requesting, proved, accepted, accepted.verdict, proved.claims):
        for field in dataclasses.fields(state):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(state, field.name, None)
    assert isinstance(proved, Proved)
    assert isinstance(accepted, Accepted)


def test_no_state_shows_a_key(pair: Pair) -> None:
    requesting = pair.standby.ask(pair.primary)
    received = granted(requesting, pair.primary.answer(requesting.message))
    keys = bytes(received.keyring.view)[-64:]
    text = repr((requesting, received, pair.primary.granter, pair.primary.keyring))
    received.keyring.close()
    assert "<OneTimeKey>" in text
    assert not [at for at in range(57) if keys[at : at + 8].hex() in text or repr(keys[at : at + 8])[2:-1] in text]


class NoEvidence:
    """A platform that gives no evidence now."""

    waits = False

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def attester_identity(self) -> Identity:
        return self._identity

    def evidence(self, report_data: bytes) -> bytes:
        raise Unavailable(f"no evidence over {len(report_data)} bytes")

    def endorsements(self) -> bytes:
        return b""


def test_a_standby_whose_platform_gives_no_evidence(pair: Pair) -> None:
    greeting = pair.standby.greet()
    silent = dataclasses.replace(greeting.asking, attester=NoEvidence(greeting.asking.attester.attester_identity()))
    with pytest.raises(Unavailable, match="no evidence over 64 bytes"):
        Greeting.begin(silent).challenged(pair.primary.challenge(greeting.message))
    pair.works()


def test_a_primary_whose_platform_gives_no_evidence(pair: Pair) -> None:
    request = pair.standby.ask(pair.primary).message
    attester, pair.primary.granter._attester = (
        pair.primary.granter._attester,
        NoEvidence(pair.primary.platform.attester_identity()),
    )
    with pytest.raises(Unavailable, match="no evidence over 64 bytes"):
        pair.primary.answer(request)
    pair.primary.granter._attester = attester
    pair.works()


def unavailable(_evidence: bytes, _endorsements: bytes, _report_data: bytes, _now: int) -> SgxClaims:
    raise Unavailable("too many wait")


def test_where_nothing_verifies_now_nothing_is_decided(pair: Pair) -> None:
    requesting = pair.standby.ask(pair.primary)
    function, pair.primary.verifier.function = pair.primary.verifier.function, unavailable
    with pytest.raises(Unavailable, match="too many wait"):
        pair.primary.answer(requesting.message)
    assert pair.primary.keyring.released == 0
    # The challenge was not used up: the same request may come again.
    pair.primary.verifier.function = function
    grant = pair.primary.answer(requesting.message)
    pair.standby.verifier.function = unavailable
    with pytest.raises(Unavailable, match="too many wait"):
        granted(requesting, grant)
    pair.standby.verifier.function = function
    pair.works()


def lying(**changes: object) -> Callable[[bytes, bytes, bytes, int], SgxClaims]:
    """A verifying process that was taken over and says of genuine evidence what it likes."""

    def verify(evidence: bytes, endorsements: bytes, data: bytes, now: int) -> SgxClaims:
        return dataclasses.replace(anchor.verify(evidence, endorsements, data, now), **changes)  # type: ignore[arg-type]  # a table has no narrower type

    return verify


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ppid": "00" * 16}, Reason.IDENTITY_CHANGED),
        ({"platform": "sgx"}, Reason.IDENTITY_CHANGED),
        ({"debug": True}, Reason.DEBUG_ENCLAVE),
        ({"expires": NOW - 1}, Reason.TCB_TOO_OLD),
        ({"tcb_status": "Revoked"}, Reason.TCB_STATUS),
        ({"tcb_status": ""}, Reason.TCB_STATUS),
        ({"mrsigner": ""}, Reason.WRONG_SIGNER),
    ],
    ids=lambda value: next(iter(value.items()))[0] if isinstance(value, dict) else "",
)
def test_whatever_claims_come_back_are_judged(changes: dict[str, object], reason: Reason, pair: Pair) -> None:
    pair.primary.verifier.function, honest = lying(**changes), pair.primary.verifier.function
    with pytest.raises(Rejected) as refused:
        pair.primary.answer(pair.standby.ask(pair.primary).message)
    assert refused.value.reason is reason
    assert pair.primary.keyring.released == 0
    pair.primary.verifier.function = honest
    requesting = pair.standby.ask(pair.primary)
    grant = pair.primary.answer(requesting.message)
    pair.standby.verifier.function = lying(**changes)
    with pytest.raises(Rejected) as refused:
        granted(requesting, grant)
    assert refused.value.reason is reason
    pair.standby.verifier.function = honest
    pair.works()


def test_collateral_in_its_last_second_is_accepted(pair: Pair) -> None:
    pair.primary.verifier.function = lying(expires=NOW)
    pair.works()


def test_what_a_verifier_says_of_dates_moves_no_clock(pair: Pair) -> None:
    pair.primary.verifier.function = lying(issued=2**61)
    pair.works()
    later = decode(pair.primary.challenge(pair.standby.greet().message), Challenge)
    assert fields(later.body)["time"] == NOW


def test_a_standby_that_was_a_primary_hands_on_the_very_same(pair: Pair) -> None:
    received = exchange(pair.standby, pair.primary)
    with Primary.open(pair.standby.platform) as second:
        second.keyring.close()
        second.keyring = type(second.keyring)(
            received.keyring._secret, received.keyring.header, received.keyring._keys_at
        )
        third = exchange(Standby.of(pair.third), second)
        assert third.keyring.same_as(pair.primary.keyring)
        third.keyring.close()


def test_the_policy_of_the_domain_has_to_accept_who_sends_it(pair: Pair) -> None:
    narrow = changed(pair.primary.policy, machines=[pair.standby.platform.attester_identity().machine])
    with Primary.open(pair.primary.platform, policy=narrow) as primary:
        requesting = pair.standby.ask(primary)
        grant = primary.answer(requesting.message)
    with pair.refuses(Reason.POLICY_NOT_BELIEVED, says="is not among the 1 that the policy names"):
        granted(requesting, grant)
