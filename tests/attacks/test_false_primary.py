"""A primary that passes appraisal and still is not the right one, or does not send what it should."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable

import msgspec
import pytest
from tests.attacks.parties import (
    Pair,
    Primary,
    Standby,
    changed,
    claims_of,
    exchange,
    granted,
    judging,
)
from tests.fakes.flavours import for_the_other, policy_of
from tests.fakes.keyrings import OWNER
from tests.fakes.members import MEMBERS, MEMBERS_SHA512

from rkeyserver.errors import Reason, Rejected
from rkeyserver.exchange import hpke
from rkeyserver.exchange.attested import Context, vouch
from rkeyserver.exchange.messages import Grant, GrantClaims, encode
from rkeyserver.exchange.standby import Requesting
from rkeyserver.keyring.generations import Generation, GenerationState
from rkeyserver.keyring.keyring import KeyringHeader
from rkeyserver.keyring.sealed import seal_keyring
from rkeyserver.service.adopt import Nothing, Opened, keep_as

KEY = 32


def grant_of(pair: Pair, requesting: Requesting, plaintext: bytes, **changes: object) -> bytes:
    """A grant by the honest primary's machine and code with any plaintext in it."""
    claims = claims_of(requesting.message)
    ciphertext = hpke.seal(memoryview(plaintext), claims.kem_public_key, requesting.transcript)
    about = GrantClaims(
        members_sha512=MEMBERS_SHA512,
        ciphertext_sha512=hashlib.sha512(ciphertext).digest(),
        nonce=claims.nonce,
        credential_answer=b"",
        audit_head=bytes(32),
    )
    attested = vouch(
        pair.primary.platform,
        Context.HAND_OVER_GRANT,
        requesting.transcript,
        encode(msgspec.structs.replace(about, **changes)),
    )
    return encode(Grant(attested=attested, ciphertext=ciphertext, members=MEMBERS))


def plaintext(pair: Pair) -> bytes:
    """The honest keyring's bytes, which are a secret everywhere but in a test."""
    keyring = pair.primary.keyring
    whole = bytes(keyring.view)
    keyring.released -= 1
    return whole


def with_header(change: Callable[[KeyringHeader], KeyringHeader]) -> Callable[[bytes], bytes]:
    def changed_header(whole: bytes) -> bytes:
        end = 4 + int.from_bytes(whole[:4], "big")
        header = msgspec.json.encode(change(msgspec.json.decode(whole[4:end], type=KeyringHeader)))
        return len(header).to_bytes(4, "big") + header + whole[end:]

    return changed_header


def in_header(**changes: object) -> Callable[[bytes], bytes]:
    return with_header(lambda header: msgspec.structs.replace(header, **changes))


def twice(header: KeyringHeader) -> KeyringHeader:
    (first,) = header.generations
    older = Generation(id=first.id, created=first.created, state=GenerationState.READABLE)
    return msgspec.structs.replace(header, generations=[older, first])


def spaced(whole: bytes) -> bytes:
    end = 4 + int.from_bytes(whole[:4], "big")
    return (end - 3).to_bytes(4, "big") + whole[4:end] + b" " + whole[end:]


NO_KEYRINGS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "nothing": (lambda _: b"", "This is no keyring"),
    "one byte": (lambda _: b"\0", "This is no keyring"),
    "zeros": (lambda whole: bytes(len(whole)), "This is no keyring"),
    "cut by a byte": (lambda whole: whole[:-1], "its header asks for"),
    "cut by a key": (lambda whole: whole[:-KEY], "its header asks for"),
    "longer by a byte": (lambda whole: whole + b"\0", "its header asks for"),
    "longer by a key": (lambda whole: whole + bytes(KEY), "its header asks for"),
    "a header of more than there is": (lambda whole: b"\xff\xff\xff\xff" + whole[4:], "This is no keyring"),
    "a header that is no JSON": (lambda whole: whole[:4] + b"x" + whole[5:], "does not decode"),
    "a header in another form": (spaced, "canonical"),
    "a root key of zeros": (lambda whole: whole[:-KEY] + bytes(KEY), "its key is that of"),
    "a root key with one bit changed": (lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]), "its key is that of"),
    "a domain secret of zeros": (lambda whole: whole[: -2 * KEY] + bytes(KEY) + whole[-KEY:], "its secret is that of"),
    "secret and key in each other's place": (
        lambda whole: whole[: -2 * KEY] + whole[-KEY:] + whole[-2 * KEY : -KEY],
        "its secret is that of",
    ),
    "another domain's id": (in_header(domain="00" * 16), "its secret is that of"),
    "another generation's id": (
        with_header(
            lambda header: msgspec.structs.replace(
                header, generations=[msgspec.structs.replace(header.generations[0], id="00" * 16)]
            )
        ),
        "its key is that of",
    ),
    "a generation twice": (lambda whole: with_header(twice)(whole) + whole[-KEY:], "twice"),
    "no current generation": (
        with_header(
            lambda header: msgspec.structs.replace(
                header,
                generations=[msgspec.structs.replace(header.generations[0], state=GenerationState.READABLE)],
            )
        ),
        "has 0 current generations",
    ),
    "no generation": (lambda whole: in_header(generations=[])(whole)[:-KEY], "does not decode"),
    "another version": (in_header(version=2), "does not decode"),
    "no policy": (in_header(policy=""), "does not decode"),
    "larger than any": (in_header(policy="#" * (128 * 1024 + 1)), "does not decode"),
}


@pytest.mark.parametrize(("change", "says"), NO_KEYRINGS.values(), ids=NO_KEYRINGS)
def test_a_keyring_that_is_none(change: Callable[[bytes], bytes], says: str, pair: Pair) -> None:
    requesting = pair.standby.ask(pair.primary)
    grant = grant_of(pair, requesting, change(plaintext(pair)))
    with pair.refuses(Reason.KEY_ID_MISMATCH, says=says):
        granted(requesting, grant)


def test_the_very_keyring_by_hand_is_taken(pair: Pair) -> None:
    # So that those above are refused for what their names say.
    requesting = pair.standby.ask(pair.primary)
    received = granted(requesting, grant_of(pair, requesting, plaintext(pair)))
    assert received.keyring.same_as(pair.primary.keyring)
    received.keyring.close()


CLAIMS: dict[str, tuple[dict[str, object], Reason]] = {
    "another nonce": ({"nonce": bytes(32)}, Reason.NOT_BOUND),
    "another ciphertext": ({"ciphertext_sha512": bytes(64)}, Reason.NOT_BOUND),
    "an answer to a credential": ({"credential_answer": b"x"}, Reason.MALFORMED),
    "a short nonce": ({"nonce": bytes(31)}, Reason.MALFORMED),
    "a short hash": ({"ciphertext_sha512": bytes(63)}, Reason.MALFORMED),
}


@pytest.mark.parametrize(("changes", "reason"), CLAIMS.values(), ids=CLAIMS)
def test_claims_that_are_vouched_for_and_wrong(changes: dict[str, object], reason: Reason, pair: Pair) -> None:
    requesting = pair.standby.ask(pair.primary)
    grant = grant_of(pair, requesting, plaintext(pair), **changes)
    with pair.refuses(reason):
        granted(requesting, grant)


POLICIES: dict[str, tuple[Callable[[Pair], str], str]] = {
    "no TOML": (lambda _: "machines", "cannot be read"),
    "that names no platform": (lambda _: "version = 1", "names no platform"),
    "for another platform": (lambda pair: for_the_other(pair.primary.policy), "is not accepted"),
    "for two of which one is simulated": (
        lambda pair: pair.primary.policy.text + for_the_other(pair.primary.policy).replace("version = 1", ""),
        "mixes",
    ),
    "of any code": (
        lambda pair: pair.primary.policy.text.replace(f'["{pair.primary.platform.mrsigner}"]', '"any"'),
        "accepts any code",
    ),
    "that does not name the sender": (
        lambda pair: changed(pair.primary.policy, machines=["00" * 16]).text,
        "is not among the 1",
    ),
    "that wants another signer": (lambda pair: changed(pair.primary.policy, mrsigner=["00" * 32]).text, "MRSIGNER is"),
    "that wants a later version": (lambda pair: changed(pair.primary.policy, min_isv_svn=2).text, "ISVSVN"),
    "of another version": (
        lambda pair: pair.primary.policy.text.replace("version = 1", "version = 2"),
        "cannot be read",
    ),
    "with more in it": (lambda pair: pair.primary.policy.text + "\nmore = 1\n", "cannot be read"),
}


@pytest.mark.parametrize(("policy", "says"), POLICIES.values(), ids=POLICIES)
def test_a_policy_that_is_not_believed(policy: Callable[[Pair], str], says: str, pair: Pair) -> None:
    requesting = pair.standby.ask(pair.primary)
    grant = grant_of(pair, requesting, in_header(policy=policy(pair))(plaintext(pair)))
    with pair.refuses(Reason.POLICY_NOT_BELIEVED, says=says):
        granted(requesting, grant)


def test_a_keyring_of_another_domain_is_refused_with_both_ids_named(pair: Pair) -> None:
    mine = exchange(pair.standby, pair.primary).keyring
    with Primary.open(pair.third) as false:
        theirs = exchange(pair.standby, false).keyring
    record = seal_keyring(mine, pair.standby.platform, OWNER, now=0)
    try:
        with pytest.raises(Rejected) as refused:
            keep_as(Opened(mine, record), theirs, None)
        assert refused.value.reason is Reason.ANOTHER_DOMAIN
        assert mine.domain in refused.value.message
        assert theirs.domain in refused.value.message
        for own in (Nothing(), Opened(mine, record)):
            with pytest.raises(Rejected) as refused:
                keep_as(own, theirs, mine.domain)
            assert refused.value.reason is Reason.ANOTHER_DOMAIN
        # Asked for by its name it is taken, and the other is kept.
        assert keep_as(Opened(mine, record), theirs, theirs.domain) == f"domain-{mine.domain}.epoch-0.sequence-1"
        assert keep_as(Nothing(), theirs, theirs.domain) is None
    finally:
        mine.close()
        theirs.close()


def test_an_earlier_state_of_the_domain_is_refused(pair: Pair) -> None:
    requesting = pair.standby.ask(pair.primary)
    later = granted(requesting, grant_of(pair, requesting, in_header(sequence=2)(plaintext(pair)))).keyring
    earlier = exchange(pair.standby, pair.primary).keyring
    try:
        with pytest.raises(Rejected, match="sequence 1, this at epoch 0, sequence 2") as refused:
            keep_as(Opened(later, b""), earlier, None)
        assert refused.value.reason is Reason.NOT_AN_EXTENSION
    finally:
        later.close()
        earlier.close()


def test_a_standby_that_knows_its_machines_takes_nothing_from_a_stranger_of_its_own_product(pair: Pair) -> None:
    named = changed(policy_of(pair.standby.platform), machines=[pair.primary.platform.attester_identity().machine])
    standby = Standby(pair.standby.platform, named)
    Pair(pair.primary, standby, pair.third).works()
    with Primary.open(pair.third) as false:
        requesting = standby.ask(false)
        grant = false.answer(requesting.message)
        with pair.refuses(Reason.MACHINE_NOT_NAMED):
            granted(requesting, grant)
        assert standby.verifier.asked == 1


def test_a_policy_changed_between_proof_and_appraisal_counts(pair: Pair) -> None:
    request = pair.standby.ask(pair.primary).message
    proved = asyncio.run(pair.primary.granter.prove(request, pair.primary.policy))
    closed = changed(pair.primary.policy, machines=["00" * 16])
    with pair.refuses(Reason.MACHINE_NOT_NAMED), judging(pair.primary, closed):
        pair.primary.granter.appraise(proved, pair.primary.policy)
