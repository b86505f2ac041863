from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rkeyserver.attestation.evidence import MAX_ENDORSEMENTS, MAX_EVIDENCE, Identity
from rkeyserver.errors import Reason, Rejected
from rkeyserver.exchange.messages import (
    KEM_PUBLIC_KEY_SIZE,
    MAX_CIPHERTEXT,
    MAX_CONTRIBUTED,
    MAX_IDENTITY,
    MAX_MEMBERS_SIZE,
    MAX_MESSAGE,
    AttestedMessage,
    Challenge,
    ChallengeBody,
    Grant,
    GrantClaims,
    Hello,
    Members,
    Message,
    MintStatement,
    MintStatementClaims,
    RecoveryContribution,
    RecoveryRequest,
    RecoveryRequestClaims,
    Release,
    ReleaseClaims,
    ReleaseRequest,
    ReleaseRequestClaims,
    Request,
    RequestClaims,
    WantedKey,
    decode,
    encode,
    identity_of,
)
from rkeyserver.keyring.keyring import MAX_KEYRING
from rkeyserver.sealing.record import KnownMember

# Too slow: whole messages are drawn, and how long that takes is the machine's.
untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
names = st.text("0123456789abcdefghijklmnopqrstuvwxyz:._-", min_size=1, max_size=128)
nonces = st.binary(min_size=32, max_size=32)
instances = st.binary(min_size=16, max_size=16)
opaque = st.binary(max_size=300)
ids = st.from_regex("[0-9a-f]{32}", fullmatch=True)
labels = st.from_regex("[!-~](?:[ -~]{0,254}[!-~])?", fullmatch=True)
wanted = st.builds(
    WantedKey, label=labels, size=st.integers(16, 64), generation=st.one_of(st.sampled_from(["first", "current"]), ids)
)
attested = st.builds(AttestedMessage, claims=opaque, evidence=st.binary(min_size=1, max_size=300), endorsements=opaque)
known = st.builds(
    KnownMember,
    member=ids,
    machine=st.from_regex("[0-9a-f]{32}", fullmatch=True),
    address=st.sampled_from(["", "10.0.0.1:8888"]),
    epoch=st.integers(0, 2**62),
    sequence=st.integers(0, 2**62),
    digest=st.from_regex("[0-9a-f]{64}", fullmatch=True),
    seen=st.integers(0, 2**62),
)
messages: dict[type[Message], st.SearchStrategy[Message]] = {
    Hello: st.builds(
        Hello,
        version=st.integers(-(2**63), 2**64 - 1),
        instance=instances,
        platform=names,
        machine=names,
        identity=opaque,
    ),
    ChallengeBody: st.builds(
        ChallengeBody,
        nonce=nonces,
        time=st.integers(0, 2**62),
        instance=instances,
        platform=names,
        machine=names,
        identity=opaque,
        credential=opaque,
    ),
    Challenge: st.builds(Challenge, body=opaque, mac=nonces),
    Request: st.builds(Request, hello=opaque, challenge=opaque, attested=attested),
    RequestClaims: st.builds(
        RequestClaims,
        nonce=nonces,
        kem_public_key=st.binary(min_size=KEM_PUBLIC_KEY_SIZE, max_size=KEM_PUBLIC_KEY_SIZE),
        credential_mac=st.binary(max_size=32),
        credential=opaque,
        member=ids,
        address=st.sampled_from(["", ":8888", "[fd00::1]:1"]),
        epoch=st.integers(0, 2**62),
        sequence=st.integers(0, 2**62),
        digest=st.binary(max_size=32),
        audit_head=nonces,
    ),
    Grant: st.builds(
        Grant,
        attested=attested,
        ciphertext=st.binary(min_size=1, max_size=300),
        members=st.binary(min_size=1, max_size=300),
    ),
    Members: st.builds(Members, member=ids, members=st.lists(known, max_size=3)),
    GrantClaims: st.builds(
        GrantClaims,
        ciphertext_sha512=st.binary(min_size=64, max_size=64),
        members_sha512=st.binary(min_size=64, max_size=64),
        nonce=nonces,
        credential_answer=st.binary(max_size=32),
        audit_head=nonces,
    ),
    RecoveryRequest: st.builds(RecoveryRequest, attested=attested),
    RecoveryRequestClaims: st.builds(
        RecoveryRequestClaims,
        version=st.integers(-(2**63), 2**64 - 1),
        platform=names,
        machine=names,
        domain=st.from_regex("[0-9a-f]{32}", fullmatch=True),
        epoch=st.integers(0, 2**62),
        sequence=st.integers(0, 2**62),
        record_sha512=st.binary(min_size=64, max_size=64),
        slot=opaque,
        kem_public_key=st.binary(min_size=KEM_PUBLIC_KEY_SIZE, max_size=KEM_PUBLIC_KEY_SIZE),
        nonce=nonces,
        time=st.integers(0, 2**62),
    ),
    RecoveryContribution: st.builds(
        RecoveryContribution,
        request_sha512=st.binary(min_size=64, max_size=64),
        ciphertext=st.binary(min_size=1, max_size=300),
    ),
    ReleaseRequest: st.builds(ReleaseRequest, hello=opaque, challenge=opaque, attested=attested),
    ReleaseRequestClaims: st.builds(
        ReleaseRequestClaims,
        domain=ids,
        keys=st.lists(wanted, min_size=1, max_size=16),
        nonce=nonces,
        kem_public_key=st.binary(min_size=KEM_PUBLIC_KEY_SIZE, max_size=KEM_PUBLIC_KEY_SIZE),
    ),
    Release: st.builds(Release, attested=attested, ciphertext=st.binary(min_size=1, max_size=300)),
    ReleaseClaims: st.builds(
        ReleaseClaims,
        domain=ids,
        generations=st.lists(ids, min_size=1, max_size=16),
        ciphertext_sha512=st.binary(min_size=64, max_size=64),
        nonce=nonces,
    ),
    MintStatement: st.builds(MintStatement, attested=attested),
    MintStatementClaims: st.builds(
        MintStatementClaims,
        version=st.integers(-(2**63), 2**64 - 1),
        platform=names,
        machine=names,
        domain=st.from_regex("[0-9a-f]{32}", fullmatch=True),
        generation=st.from_regex("[0-9a-f]{32}", fullmatch=True),
        policy_sha256=nonces,
        time=st.integers(0, 2**62),
    ),
}


@untimed
@given(st.one_of(*messages.values()))
def test_what_was_written_is_read(message: Message) -> None:
    assert decode(encode(message), type(message)) == message


@untimed
@given(st.one_of(*messages.values()), st.sampled_from(list(messages)))
def test_what_was_written_is_read_as_nothing_else(message: Message, kind: type[Message]) -> None:
    if kind is not type(message):
        with pytest.raises(Rejected) as refused:
            decode(encode(message), kind)
        assert refused.value.reason in {Reason.MALFORMED, Reason.TOO_LARGE}


def test_every_message_that_is_read_has_its_cap() -> None:
    assert set(MAX_MESSAGE) == set(messages)


BIG_NAME = "m" * 128
LARGEST: dict[str, Message] = {
    "hello": Hello(1, bytes(16), BIG_NAME, BIG_NAME, bytes(MAX_IDENTITY)),
    "challenge body": ChallengeBody(
        bytes(32), 2**62, bytes(16), BIG_NAME, BIG_NAME, bytes(MAX_IDENTITY), bytes(MAX_IDENTITY)
    ),
    "challenge": Challenge(bytes(3 * MAX_IDENTITY), bytes(32)),
    "request claims": RequestClaims(
        bytes(32),
        bytes(KEM_PUBLIC_KEY_SIZE),
        bytes(32),
        bytes(MAX_IDENTITY),
        "ab" * 16,
        "a" * 300,
        2**62,
        2**62,
        bytes(32),
        audit_head=bytes(32),
    ),
    "grant claims": GrantClaims(bytes(64), bytes(64), bytes(32), bytes(32), audit_head=bytes(32)),
    "recovery request": RecoveryRequest(
        AttestedMessage(bytes(3 * MAX_IDENTITY), bytes(MAX_EVIDENCE), bytes(MAX_ENDORSEMENTS))
    ),
    "recovery contribution": RecoveryContribution(bytes(64), bytes(MAX_CONTRIBUTED)),
    "grant": Grant(
        AttestedMessage(bytes(1024), bytes(MAX_EVIDENCE), bytes(MAX_ENDORSEMENTS)),
        bytes(MAX_CIPHERTEXT),
        bytes(MAX_MEMBERS_SIZE),
    ),
}


@pytest.mark.parametrize("message", LARGEST.values(), ids=LARGEST)
def test_no_cap_is_in_the_way_of_a_message_with_all_its_fields_full(message: Message) -> None:
    assert decode(encode(message), type(message)) == message


def test_a_request_of_the_largest_parts_that_one_is_made_of_is_read() -> None:
    claims = encode(LARGEST["request claims"])
    challenge = encode(Challenge(encode(LARGEST["challenge body"]), bytes(32)))
    request = Request(
        encode(LARGEST["hello"]), challenge, AttestedMessage(claims, bytes(MAX_EVIDENCE), bytes(MAX_ENDORSEMENTS))
    )
    assert decode(encode(request), Request) == request


def test_the_largest_keyring_fits_a_grant() -> None:
    assert MAX_KEYRING + 1120 + 16 <= MAX_CIPHERTEXT


@pytest.mark.parametrize("kind", MAX_MESSAGE)
def test_one_byte_above_the_cap_is_refused_unread(kind: type[Message]) -> None:
    with pytest.raises(Rejected, match=f"at most {MAX_MESSAGE[kind]} are read") as refused:
        decode(bytes(MAX_MESSAGE[kind] + 1), kind)
    assert refused.value.reason is Reason.TOO_LARGE
    with pytest.raises(Rejected) as refused:
        decode(bytes(MAX_MESSAGE[kind]), kind)
    assert refused.value.reason is Reason.MALFORMED


def test_a_message_cannot_be_changed() -> None:
    with pytest.raises((AttributeError, FrozenInstanceError)):
        LARGEST["hello"].version = 2  # type: ignore[attr-defined]  # that it cannot be is what is shown


def test_who_the_sender_says_it_is() -> None:
    hello = Hello(1, bytes(16), "simulated", "ab", b"")
    body = ChallengeBody(bytes(32), 0, bytes(16), "tpm", "cd", b"", b"")
    assert (identity_of(hello), identity_of(body)) == (Identity("simulated", "ab"), Identity("tpm", "cd"))


def test_a_refusal_does_not_repeat_what_it_refused() -> None:
    # Its text goes to a log: a peer must not write there.
    hello = encode(Hello(1, bytes(16), "simulated", "ab", b""))
    with pytest.raises(Rejected) as refused:
        decode(hello.replace(b"\xa2ab", b"\xa8\x1b[31mINF"), Hello)
    assert "\x1b" not in str(refused.value)
    assert "31m" not in str(refused.value)
