"""RA-TLS certificates: what is read of them and what is refused, byte by byte."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.application import (
    OLDER,
    TAGGED_EVIDENCE,
    certificate,
    claims_for,
    hash_entry,
    padded,
    spki,
    tagged,
)

from rkeyserver.attestation.sgx import ra_tls
from rkeyserver.errors import Reason, Rejected

KEY = ec.generate_private_key(ec.SECP384R1())
OTHER = ec.generate_private_key(ec.SECP384R1())
QUOTE = b"q" * 4700
DIGEST = hashlib.sha256(spki(KEY)).digest()
CLAIMS = claims_for(KEY)


def shown(evidence: bytes, others: dict[str, bytes] | None = None) -> bytes:
    """A certificate with that evidence, and other extensions."""
    return certificate(KEY, {TAGGED_EVIDENCE: evidence} | (others or {})).public_bytes(Encoding.DER)


def with_claims(claims: bytes) -> bytes:
    return shown(tagged(QUOTE, claims))


def claiming(**claims: object) -> bytes:
    return with_claims(cbor2.dumps(claims, canonical=True))


def with_entry(entry: bytes) -> bytes:
    """With a pubkey-hash that holds these bytes."""
    return with_claims(cbor2.dumps({"pubkey-hash": entry}, canonical=True))


GOOD: dict[str, Callable[[], bytes]] = {
    "as Gramine 1.9 writes it, the older extension beside it": lambda: certificate(
        KEY, {OLDER: QUOTE, TAGGED_EVIDENCE: tagged(QUOTE, CLAIMS)}
    ).public_bytes(Encoding.DER),
    "without the older one": lambda: shown(tagged(QUOTE, CLAIMS)),
    "signed by somebody else, which says nothing": lambda: certificate(
        KEY, {TAGGED_EVIDENCE: tagged(QUOTE, CLAIMS)}, issuer=OTHER
    ).public_bytes(Encoding.DER),
    "as this server makes its own": lambda: shown(
        ra_tls.extension_of(QUOTE, ra_tls.claims_of(ra_tls.public_key_info(KEY.public_key()))).value
    ),
}


@pytest.mark.parametrize("made", GOOD.values(), ids=GOOD)
def test_a_good_one(made: Callable[[], bytes]) -> None:
    found = ra_tls.parse(made())
    assert found.quote == QUOTE
    assert found.report_data == padded(CLAIMS)
    assert len(found.report_data) == 64


def of_another_kind(key: object) -> bytes:
    return certificate(key, {TAGGED_EVIDENCE: tagged(QUOTE, CLAIMS)}).public_bytes(Encoding.DER)  # type: ignore[arg-type]  # what no program makes


def twice() -> bytes:
    """With a second extension of the same OID, which no library writes: the older one's OID is made the other's."""
    evidence = tagged(QUOTE, CLAIMS)
    one, other = bytes.fromhex("0606678105050409"), bytes.fromhex("0606678105050408")
    whole = shown(evidence, {"2.23.133.5.4.8": evidence})
    assert whole.count(other) == 1
    return whole.replace(other, one)


# What is shown, the reason, and what is said.
REFUSED: dict[str, tuple[Callable[[], bytes], Reason, str]] = {
    "nothing": (lambda: b"", Reason.MALFORMED, "The certificate cannot be read"),
    "no DER": (lambda: b"x" * 100, Reason.MALFORMED, "The certificate cannot be read"),
    "a byte behind it": (lambda: GOOD["without the older one"]() + b"x", Reason.MALFORMED, "cannot be read"),
    "too long": (
        lambda: shown(tagged(b"q" * 20_000, CLAIMS), {OLDER: b"q" * 20_000}),
        Reason.TOO_LARGE,
        f"at most {ra_tls.MAX_CERTIFICATE} are read",
    ),
    "an extension twice": (twice, Reason.MALFORMED, "The certificate cannot be read"),
    "no evidence": (
        lambda: certificate(KEY, {}).public_bytes(Encoding.DER), Reason.MALFORMED, "no extension with evidence",
    ),
    "the older extension alone": (
        lambda: certificate(KEY, {OLDER: QUOTE}).public_bytes(Encoding.DER), Reason.MALFORMED,
        "It has the older one, 1.2.840.113741.1337.6, alone.",
    ),
    "an RSA key": (
        lambda: of_another_kind(rsa.generate_private_key(public_exponent=65537, key_size=2048)), Reason.MALFORMED,
        "key is none on P-384",
    ),
    "a key on another curve": (
        lambda: of_another_kind(ec.generate_private_key(ec.SECP256R1())), Reason.MALFORMED, "key is none on P-384",
    ),
    "an empty extension": (lambda: shown(b""), Reason.MALFORMED, "evidence cannot be read as CBOR"),
    "evidence that is cut off": (lambda: shown(tagged(QUOTE, CLAIMS)[:-1]), Reason.MALFORMED, "cannot be read as CBOR"),
    "a byte behind the evidence": (lambda: shown(tagged(QUOTE, CLAIMS) + b"\0"), Reason.MALFORMED, "something follows"),
    "another evidence behind it": (lambda: shown(2 * tagged(QUOTE, CLAIMS)), Reason.MALFORMED, "something follows"),
    "no tag": (lambda: shown(tagged(QUOTE, CLAIMS)[3:]), Reason.MALFORMED, "no CBOR of tag 60000"),
    "another tag": (
        lambda: shown(b"\xd9\xea\x61" + tagged(QUOTE, CLAIMS)[3:]), Reason.MALFORMED, "cannot be read as CBOR",
    ),
    "a regular expression": (lambda: shown(b"\xd8\x23\x61a"), Reason.MALFORMED, "cannot be read as CBOR"),
    "a number without end": (lambda: shown(b"\xc4\x82\x1b" + b"\xff" * 8 + b"\x01"), Reason.MALFORMED, "CBOR"),
    "several quotes": (
        lambda: shown(cbor2.dumps(cbor2.CBORTag(60000, [QUOTE, QUOTE, CLAIMS]))), Reason.MALFORMED, "no array of two",
    ),
    "no claims": (lambda: shown(cbor2.dumps(cbor2.CBORTag(60000, [QUOTE]))), Reason.MALFORMED, "no array of two"),
    "a quote that is text": (
        lambda: shown(cbor2.dumps(cbor2.CBORTag(60000, ["q", CLAIMS]))), Reason.MALFORMED, "no array of two",
    ),
    "no array": (lambda: shown(cbor2.dumps(cbor2.CBORTag(60000, QUOTE))), Reason.MALFORMED, "no array of two"),
    "an array of open length": (
        lambda: shown(b"\xd9\xea\x60\x9f" + tagged(QUOTE, CLAIMS)[4:] + b"\xff"), Reason.MALFORMED, "cannot be read",
    ),
    "a length in more bytes than it takes": (
        lambda: shown(tagged(QUOTE, CLAIMS).replace(b"\x58" + bytes([len(CLAIMS)]), b"\x59\0" + bytes([len(CLAIMS)]))),
        Reason.MALFORMED, "not in the one form",
    ),
    "deep nesting": (lambda: shown(b"\xd9\xea\x60" + b"\x81" * 10_000 + b"\0"), Reason.MALFORMED, "cannot be read"),
    "claims too long": (
        lambda: shown(cbor2.dumps(cbor2.CBORTag(60000, [QUOTE, bytes(ra_tls.MAX_CLAIMS + 1)]))), Reason.MALFORMED,
        f"at most {ra_tls.MAX_CLAIMS} are read",
    ),
    "claims that are no CBOR": (lambda: with_claims(b"\xff"), Reason.MALFORMED, "claims cannot be read as CBOR"),
    "claims that are no map": (lambda: with_claims(b"\x80"), Reason.MALFORMED, "claims are no CBOR map"),
    "claims that are empty": (lambda: with_claims(b""), Reason.MALFORMED, "claims cannot be read as CBOR"),
    "a byte behind the claims": (lambda: with_claims(CLAIMS + b"\0"), Reason.MALFORMED, "something follows"),
    "pubkey-hash left out": (claiming, Reason.NOT_BOUND, "no pubkey-hash"),
    "another claim in its place": (lambda: claiming(nonce=b"1"), Reason.NOT_BOUND, "no pubkey-hash"),
    "another claim beside it": (
        lambda: with_claims(cbor2.dumps({"nonce": b"1", "pubkey-hash": hash_entry(DIGEST)}, canonical=True)),
        Reason.MALFORMED, "2 claims",
    ),
    "pubkey-hash twice": (
        lambda: with_claims(b"\xa2" + 2 * CLAIMS[1:]), Reason.MALFORMED, "claims cannot be read as CBOR",
    ),
    "pubkey-hash as bytes": (lambda: with_claims(b"\xa1\x4b" + CLAIMS[2:]), Reason.NOT_BOUND, "no pubkey-hash"),
    "a claim whose name is a number": (lambda: with_claims(b"\xa1\x01\x40"), Reason.MALFORMED, "cannot be read"),
    "pubkey-hash not wrapped": (
        lambda: with_claims(b"\xa1\x6bpubkey-hash" + hash_entry(DIGEST)), Reason.MALFORMED, "no byte string",
    ),
    "pubkey-hash that is no array": (lambda: with_entry(b"\x40"), Reason.MALFORMED, "no byte string with an array"),
    "pubkey-hash that is empty": (lambda: with_entry(b""), Reason.MALFORMED, "pubkey-hash cannot be read"),
    "a hash id alone": (lambda: with_entry(b"\x81\x01"), Reason.MALFORMED, "no byte string with an array"),
    "a hash id that is true": (lambda: with_entry(b"\x82\xf5\x40"), Reason.MALFORMED, "no byte string with an array"),
    "a byte behind pubkey-hash": (
        lambda: with_entry(hash_entry(DIGEST) + b"\0"), Reason.MALFORMED, "something follows",
    ),
    "SHA-384": (
        lambda: with_entry(hash_entry(hashlib.sha384(spki(KEY)).digest(), 7)), Reason.MALFORMED, "by hash 7; wanted",
    ),
    "no hash": (lambda: with_entry(hash_entry(DIGEST, 0)), Reason.MALFORMED, "by hash 0"),
    "the hash of another key": (
        lambda: with_claims(claims_for(OTHER)), Reason.NOT_BOUND, "of another key than the certificate's",
    ),
    "a hash that is cut off": (lambda: with_entry(hash_entry(DIGEST[:-1])), Reason.NOT_BOUND, "of another key"),
    "an empty hash": (lambda: with_entry(b"\x82\x01\x40"), Reason.NOT_BOUND, "of another key"),
}  # fmt: skip


@pytest.mark.parametrize(("made", "reason", "says"), REFUSED.values(), ids=REFUSED)
def test_refused(made: Callable[[], bytes], reason: Reason, says: str) -> None:
    with pytest.raises(Rejected, match=says) as refused:
        ra_tls.parse(made())
    assert refused.value.reason is reason


def test_every_tag_but_one_has_a_decoder_that_refuses() -> None:
    assert (list(ra_tls._NO_TAGS), len(ra_tls._NO_TAGS)) == ([], 1)  # which tags, nobody could list
    with pytest.raises(ValueError, match="no such tag"):
        ra_tls._NO_TAGS[0](None, False)  # noqa: FBT003 - as the library calls it
    with pytest.raises(KeyError):
        ra_tls._NO_TAGS[ra_tls.TEE_QUOTE_TAG]


def test_what_is_made_is_what_is_specified_byte_for_byte() -> None:
    claims = ra_tls.claims_of(spki(KEY))
    assert claims == CLAIMS
    assert ra_tls.extension_of(QUOTE, claims).value == tagged(QUOTE, CLAIMS)
    assert ra_tls.report_data(claims) == padded(CLAIMS)


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, len(tagged(QUOTE[:128], CLAIMS)) - 1), bit=st.integers(0, 7))
def test_no_changed_bit_of_the_evidence_is_taken_for_the_same(at: int, bit: int) -> None:
    evidence = bytearray(b"\xd9\xea\x60\x82\x59\x00\x80" + b"q" * 128 + b"\x58" + bytes([len(CLAIMS)]) + CLAIMS)
    in_the_quote = 7 <= at < 7 + 128
    evidence[at] ^= 1 << bit
    try:
        found = ra_tls.parse(shown(bytes(evidence)))
    except Rejected:
        return
    assert in_the_quote  # which the verification of the quote is for
    assert found.report_data == padded(CLAIMS)
