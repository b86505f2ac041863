"""Is a quote genuine? One function, for Intel's root and for any other trust anchor alike.

The order of the checks, cheapest first:

1. sizes, 2. structure, 3. the report data is what this exchange wants, 4. every signature, certificate, CRL and date,
by dcap-qvl, 5. no CRL is dated in the future, which dcap-qvl does not look at.

What the library would accept or refuse by TCB status is left to the appraisal: the claims carry the status as it is,
all but Revoked, which the library refuses whatever it is told.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import msgspec

from rkeyserver.attestation.sgx import quote
from rkeyserver.attestation.sgx.anchors import INTEL_SGX_ROOT, TrustAnchor
from rkeyserver.attestation.sgx.claims import SgxClaims, from_library
from rkeyserver.attestation.sgx.collateral import Collateral, crl_issued, decode
from rkeyserver.clock import utc
from rkeyserver.errors import Reason, Rejected

_MAX_REASON: Final = 300
_RUST_TIME: Final = re.compile(r"UnixTime\((\d{1,18})\)")
_REVOKED: Final = "TCB status is invalid: Revoked"


@dataclass(frozen=True)
class SgxVerifier:
    """verify() with its platform's name and trust anchor settled: one value that a registry can name."""

    platform: str
    anchor: TrustAnchor

    def __call__(self, evidence: bytes, endorsements: bytes, expected_report_data: bytes, now: int) -> SgxClaims:
        """As verify()."""
        return verify(
            evidence,
            endorsements,
            platform=self.platform,
            anchor=self.anchor,
            expected_report_data=expected_report_data,
            now=now,
        )


INTEL_SGX: Final = SgxVerifier(platform="sgx", anchor=INTEL_SGX_ROOT)


def verify(
    evidence: bytes,
    endorsements: bytes,
    *,
    platform: str,
    anchor: TrustAnchor,
    expected_report_data: bytes,
    now: int,
) -> SgxClaims:
    """Prove a version 3 ECDSA quote genuine and bound to `expected_report_data`.

    evidence: the quote; endorsements: its collateral, JSON; platform: the name that claims under `anchor` get;
    expected_report_data: 64 bytes; now: seconds since 1970 UTC, against which every date is checked.

    Raises: Rejected with TOO_LARGE, MALFORMED, NOT_BOUND, DEBUG_ENCLAVE, TCB_STATUS or NOT_GENUINE;
    Corrupt if `anchor` is damaged.
    """
    unproved = quote.require_report_data(evidence, expected_report_data)
    collateral, for_library = _read(endorsements)
    root = anchor.checked()
    try:
        claims = from_library(platform, _verified(evidence, for_library, root, now))
        issued = {"root CA's": crl_issued(collateral.root_ca_crl), "PCK CA's": crl_issued(collateral.pck_crl)}
    except (ValueError, TypeError, OverflowError, msgspec.DecodeError) as error:
        text = _printable(error)
        raise Rejected(
            _reason(text, debug=unproved.debug),
            f"The quote is not genuine under {anchor.name} at {utc(now)}: {text}.",
        ) from error
    if claims.debug:
        raise Rejected(Reason.DEBUG_ENCLAVE, "The quote is of a debug enclave, whose memory anyone can read.")
    _refuse_future_crls(issued, now)
    return claims


def _reason(text: str, *, debug: bool) -> Reason:
    # The library refuses two things by itself that are not forgeries, and an operator has to tell them apart.
    if debug and "debug" in text.lower():
        return Reason.DEBUG_ENCLAVE
    return Reason.TCB_STATUS if text.endswith(_REVOKED) else Reason.NOT_GENUINE


@lru_cache(maxsize=16)  # machines of one model send the same; what is cached was read, not believed
def _read(endorsements: bytes) -> tuple[Collateral, object]:
    # 50 ms that a start without verification does not need. The package ships its stubs without a py.typed marker.
    import dcap_qvl  # type: ignore[import-untyped]  # noqa: PLC0415 - late: what a start does not need

    collateral = decode(endorsements)
    return collateral, dcap_qvl.QuoteCollateralV3(
        pck_crl_issuer_chain=collateral.pck_crl_issuer_chain,
        root_ca_crl=bytes.fromhex(collateral.root_ca_crl),
        pck_crl=bytes.fromhex(collateral.pck_crl),
        tcb_info_issuer_chain=collateral.tcb_info_issuer_chain,
        tcb_info=collateral.tcb_info,
        tcb_info_signature=bytes.fromhex(collateral.tcb_info_signature),
        qe_identity_issuer_chain=collateral.qe_identity_issuer_chain,
        qe_identity=collateral.qe_identity,
        qe_identity_signature=bytes.fromhex(collateral.qe_identity_signature),
    )


def _verified(evidence: bytes, collateral: object, root: bytes, now: int) -> str:
    import dcap_qvl  # noqa: PLC0415 - late: what a start does not need

    accept_any_status = dcap_qvl.QuotePolicy.claims_only(now)
    claims = dcap_qvl.QuoteVerifier(root).verify_with_policy(evidence, collateral, now, accept_any_status)
    return str(claims.to_json())


def _refuse_future_crls(crls: dict[str, int], now: int) -> None:
    for name, issued in crls.items():
        if issued > now:
            raise Rejected(
                Reason.NOT_GENUINE,
                f"The {name} CRL was issued at {utc(issued)}, which is after this clock's {utc(now)}.",
                advice="Set the clock.",
            )


def _printable(error: Exception) -> str:
    # The library writes times as numbers in its own notation; people compare dates.
    text = _RUST_TIME.sub(lambda found: utc(int(found[1])), " ".join(str(error).split()))
    return "".join(character for character in text if character.isprintable())[:_MAX_REASON]
