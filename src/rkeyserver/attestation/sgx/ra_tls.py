"""RA-TLS certificates, as Gramine 1.9 makes them: a quote that vouches for the certificate's key (docs/spec/ra-tls.md).

The extension "tagged evidence" of TCG's DICE attestation architecture (2.23.133.5.4.9) holds CBOR:

    60000([ quote, claims ])           a tag, an array, two byte strings
    claims = { "pubkey-hash": bstr }   the byte string is CBOR again: [1, SHA-256(SubjectPublicKeyInfo, DER)]

and the quote is over SHA-256(claims) and 32 zero bytes. Of everything there is one form, and every byte is accounted
for. Nothing else in the certificate says anything: who signed it, its names, its dates. That whoever shows it has its
key, the handshake proves; that the key is an enclave's, the quote, which is verified like any other.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import cbor2
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from rkeyserver.attestation.evidence import MAX_EVIDENCE, REPORT_DATA_SIZE
from rkeyserver.errors import Reason, Rejected

TAGGED_EVIDENCE: Final = x509.ObjectIdentifier("2.23.133.5.4.9")
# What Gramine before 1.8 wrote alone, and 1.9 writes beside the other. Its bytes are OID's head and body inside a body.
OLDER: Final = x509.ObjectIdentifier("0.6.9.42.840.113741.1337.6")
TEE_QUOTE_TAG: Final = 60000  # IANA, CBOR tags
SHA_256: Final = 1  # IANA, Named Information Hash Algorithm Registry
PUBKEY_HASH: Final = "pubkey-hash"
MAX_CERTIFICATE: Final = 2 * MAX_EVIDENCE + 4096  # with the older extension beside it, which is a quote as well
MAX_CLAIMS: Final = 256
_DEPTH: Final = 3


@dataclass(frozen=True)
class RaTlsCertificate:
    """What a certificate says.

    quote: unproved. report_data: the 64 bytes that it has to be over, to vouch for the certificate's key.
    """

    quote: bytes
    report_data: bytes


def parse(certificate: bytes) -> RaTlsCertificate:
    """Take a certificate (DER) apart that has a P-384 key and a quote for it.

    Raises: Rejected with TOO_LARGE; MALFORMED for what is no such certificate; NOT_BOUND where the claims are of no key
    or of another key.
    """
    if len(certificate) > MAX_CERTIFICATE:
        raise Rejected(
            Reason.TOO_LARGE, f"The certificate has {len(certificate)} bytes, at most {MAX_CERTIFICATE} are read."
        )
    try:
        found = x509.load_der_x509_certificate(certificate)
        extensions = list(found.extensions)
        key = found.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension) as error:
        raise _malformed(f"The certificate cannot be read: {error}.") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _malformed("The certificate's key is none on P-384.")
    evidence = [one.value.public_bytes() for one in extensions if one.oid == TAGGED_EVIDENCE]
    if not evidence:
        older = (
            " It has the older one, 1.2.840.113741.1337.6, alone." if OLDER in {one.oid for one in extensions} else ""
        )
        raise Rejected(
            Reason.MALFORMED,
            f"The certificate has no extension with evidence (2.23.133.5.4.9).{older}",
            advice="Gramine writes it from 1.8 on.",
        )
    quote, claims = _tagged(evidence[0])
    _check_claims(claims, public_key_info(key))
    return RaTlsCertificate(quote=quote, report_data=report_data(claims))


class _NoTags(Mapping[int, Callable[[Any, bool], Any]]):
    """For every tag but the one that is wanted a decoder that refuses: the library knows regular expressions, too."""

    def __getitem__(self, tag: int) -> Callable[[Any, bool], Any]:
        if tag == TEE_QUOTE_TAG:
            raise KeyError(tag)
        return _refused

    def __iter__(self) -> Iterator[int]:
        return iter(())

    def __len__(self) -> int:
        return 1


def _refused(*_: object) -> NoReturn:
    raise ValueError("no such tag is read")


_NO_TAGS: Final = _NoTags()


def _tagged(data: bytes) -> tuple[bytes, bytes]:
    found = _decoded(data, "evidence")
    if not isinstance(found, cbor2.CBORTag) or found.tag != TEE_QUOTE_TAG:
        raise _malformed(f"The evidence is no CBOR of tag {TEE_QUOTE_TAG}.")
    parts = found.value
    if not isinstance(parts, tuple | list) or [type(one) for one in parts] != [bytes, bytes]:
        raise _malformed("The evidence is no array of two byte strings, the quote and its claims.")
    quote, claims = parts
    if len(claims) > MAX_CLAIMS:
        raise _malformed(f"The claims have {len(claims)} bytes, at most {MAX_CLAIMS} are read.")
    return quote, claims


def _check_claims(claims: bytes, spki: bytes) -> None:
    found = _decoded(claims, "claims")
    if not isinstance(found, dict):
        raise _malformed("The claims are no CBOR map.")
    if PUBKEY_HASH not in found:
        raise Rejected(Reason.NOT_BOUND, f"The claims have no {PUBKEY_HASH}: the quote vouches for no key.")
    if len(found) > 1:
        raise _malformed(f"There are {len(found)} claims; {PUBKEY_HASH} alone is wanted.")
    entry = found[PUBKEY_HASH]
    hashed = _decoded(entry, PUBKEY_HASH) if isinstance(entry, bytes) else None
    if not isinstance(hashed, tuple | list) or [type(one) for one in hashed] != [int, bytes]:
        raise _malformed(f"The {PUBKEY_HASH} is no byte string with an array of hash id and hash.")
    if hashed[0] != SHA_256:
        raise _malformed(f"The {PUBKEY_HASH} is by hash {hashed[0]}; wanted is {SHA_256}, SHA-256.")
    if not hmac.compare_digest(hashed[1], hashlib.sha256(spki).digest()):
        raise Rejected(Reason.NOT_BOUND, f"The {PUBKEY_HASH} is of another key than the certificate's.")


def _decoded(data: bytes, what: str) -> object:
    try:
        found = cbor2.loads(
            data,
            semantic_decoders=_NO_TAGS,
            max_depth=_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        )
        canonical = cbor2.dumps(found, canonical=True)
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise _malformed(f"The {what} cannot be read as CBOR: {error}.") from error
    if canonical != data:
        raise _malformed(f"The {what} is not in the one form of its CBOR, or something follows it.")
    return found


def _malformed(says: str) -> Rejected:
    return Rejected(Reason.MALFORMED, says)


def public_key_info(key: ec.EllipticCurvePublicKey) -> bytes:
    """SubjectPublicKeyInfo, DER: what a pubkey-hash is over."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def claims_of(spki: bytes) -> bytes:
    """The claims for a key: what its quote has to be over."""
    entry = cbor2.dumps([SHA_256, hashlib.sha256(spki).digest()], canonical=True)
    return cbor2.dumps({PUBKEY_HASH: entry}, canonical=True)


def report_data(claims: bytes) -> bytes:
    """The 64 bytes of report data for claims."""
    return hashlib.sha256(claims).digest().ljust(REPORT_DATA_SIZE, b"\0")


def extension_of(quote: bytes, claims: bytes) -> x509.UnrecognizedExtension:
    """The extension that carries a quote with the claims it is over."""
    evidence = cbor2.dumps(cbor2.CBORTag(TEE_QUOTE_TAG, [quote, claims]), canonical=True)
    return x509.UnrecognizedExtension(TAGGED_EVIDENCE, evidence)
