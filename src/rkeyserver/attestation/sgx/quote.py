"""What is read of a quote before any signature is checked: its shape, and the 64 bytes that bind it.

Offsets from Intel's "SGX ECDSA QuoteGenReference", quote version 3, little-endian:

    0     header        version (2), attestation key type (2), TEE type (4), ..., 48 bytes in all
    48    report body   384 bytes; attributes at 96, report data at 368
    432   length (4) of everything after this field
    436   signature (64), attestation key (64), QE report (384), its signature (64)
    1012  authentication data: length (2), bytes; then certification data: type (2), length (4), bytes

Nothing here is proved. A quote stays malleable in its signatures: it is never identified by its bytes.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass
from typing import Final

from rkeyserver.attestation.evidence import MAX_EVIDENCE
from rkeyserver.errors import Reason, Rejected

VERSION: Final = 3
ECDSA_P256: Final = 2
TEE_SGX: Final = 0
PCK_CHAIN_PEM: Final = 5

HEADER_SIZE: Final = 48
REPORT_SIZE: Final = 384
SIGNED_SIZE: Final = HEADER_SIZE + REPORT_SIZE
ATTRIBUTES: Final = HEADER_SIZE + 48
REPORT_DATA: Final = HEADER_SIZE + 320
DEBUG_FLAG: Final = 0x02

_SIGNATURE_DATA: Final = SIGNED_SIZE + 4
AUTHENTICATION: Final = _SIGNATURE_DATA + 64 + 64 + REPORT_SIZE + 64


@dataclass(frozen=True)
class UnprovedQuote:
    """What a quote says of itself. report_data: 64 bytes; debug: the enclave's DEBUG attribute."""

    report_data: bytes
    debug: bool


def view(evidence: bytes) -> UnprovedQuote:
    """Check size and shape of a version 3 SGX quote, every byte accounted for.

    Raises: Rejected (TOO_LARGE, MALFORMED) with what was found and what was wanted.
    """
    if len(evidence) > MAX_EVIDENCE:
        raise Rejected(Reason.TOO_LARGE, f"The quote has {len(evidence)} bytes, at most {MAX_EVIDENCE} are read.")
    if len(evidence) < AUTHENTICATION + 2:
        raise Rejected(Reason.MALFORMED, f"The quote has {len(evidence)} bytes, at least {AUTHENTICATION + 2} wanted.")
    version, key_type, tee_type = struct.unpack_from("<HHI", evidence)
    _want("version", version, VERSION)
    _want("attestation key type", key_type, ECDSA_P256)
    _want("TEE type", tee_type, TEE_SGX)
    (declared,) = struct.unpack_from("<I", evidence, SIGNED_SIZE)
    _want("length", len(evidence), _SIGNATURE_DATA + declared)
    _check_certification(evidence)
    return UnprovedQuote(
        report_data=evidence[REPORT_DATA : REPORT_DATA + 64], debug=bool(evidence[ATTRIBUTES] & DEBUG_FLAG)
    )


def require_report_data(evidence: bytes, expected: bytes) -> UnprovedQuote:
    """Check that a quote is over `expected` (64 bytes); still nothing in it is proved.

    Raises: Rejected(NOT_BOUND), and what view() raises.
    """
    unproved = view(evidence)
    if not hmac.compare_digest(unproved.report_data, expected):
        raise Rejected(
            Reason.NOT_BOUND,
            f"The quote is over report data {unproved.report_data.hex()}, "
            f"this message and exchange want {expected.hex()}.",
        )
    return unproved


def _check_certification(evidence: bytes) -> None:
    (authentication,) = struct.unpack_from("<H", evidence, AUTHENTICATION)
    start = AUTHENTICATION + 2 + authentication
    if len(evidence) < start + 6:
        raise Rejected(Reason.MALFORMED, f"The quote ends after {len(evidence)} bytes, in its authentication data.")
    kind, size = struct.unpack_from("<HI", evidence, start)
    _want("certification data type", kind, PCK_CHAIN_PEM)
    _want("length by its certification data", len(evidence), start + 6 + size)


def _want(what: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise Rejected(Reason.MALFORMED, f"The quote's {what} is {found}, wanted {wanted}.")
