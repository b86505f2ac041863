"""Endorsements of a quote: Intel's collateral as one JSON object, in the form of the PCS v4 API's answers.

Every part is signed on its own, so the newer of two parts may stand in for the older one whoever sent it: what a peer
sends never takes the place of something newer that is here already.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Annotated

import msgspec

from rkeyserver.attestation.evidence import MAX_ENDORSEMENTS
from rkeyserver.errors import Reason, Rejected

_Pem = Annotated[str, msgspec.Meta(min_length=1, max_length=16 * 1024)]
_Document = Annotated[str, msgspec.Meta(min_length=2, max_length=64 * 1024)]
_Hex = Annotated[str, msgspec.Meta(min_length=2, max_length=64 * 1024, pattern=r"^(?:[0-9a-fA-F]{2})+\Z")]
_Signature = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-fA-F]{128}\Z")]


class Collateral(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The nine parts. CRLs are DER in hex, signatures r ‖ s in hex, chains PEM, the two documents JSON as signed."""

    pck_crl_issuer_chain: _Pem
    root_ca_crl: _Hex
    pck_crl: _Hex
    tcb_info_issuer_chain: _Pem
    tcb_info: _Document
    tcb_info_signature: _Signature
    qe_identity_issuer_chain: _Pem
    qe_identity: _Document
    qe_identity_signature: _Signature


class _Issued(msgspec.Struct, frozen=True):
    """The readable part of TCB info and QE identity that the choice goes by; only verification proves it."""

    issueDate: Annotated[datetime, msgspec.Meta(tz=True)]  # noqa: N815 - Intel's name
    tcbEvaluationDataNumber: int  # noqa: N815 - Intel's name
    fmspc: str = ""


def decode(endorsements: bytes) -> Collateral:
    """Take collateral apart: nine text fields, no others, each within its cap.

    Raises: Rejected (TOO_LARGE, MALFORMED).
    """
    if len(endorsements) > MAX_ENDORSEMENTS:
        raise Rejected(
            Reason.TOO_LARGE, f"The collateral has {len(endorsements)} bytes, at most {MAX_ENDORSEMENTS} are read."
        )
    if not endorsements:
        raise Rejected(
            Reason.MALFORMED,
            "There is no collateral for the quote: none was sent with it, none is here.",
            advice="Name a file of it with --collateral, or, for a server, a PCCS with --pccs.",
        )
    try:
        return msgspec.json.decode(endorsements, type=Collateral)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Rejected(Reason.MALFORMED, f"The collateral cannot be read: {error}.") from error


def fmspc(collateral: Collateral) -> str:
    """The processor model, lower-case hex, that the TCB info says it is for.

    Raises: Rejected (MALFORMED).
    """
    return _issued(collateral.tcb_info).fmspc.lower()


def newer(own: bytes | None, sent: bytes) -> bytes:
    """The collateral to verify a peer's quote with: of each part the newer one of `own` and `sent`.

    own: what this verifier holds, None if nothing; used only where it is for the processor model of `sent`, or where
    `sent` is empty. Newer is the higher evaluation number, then the later issue date; of one issuer's CRLs the later.

    Raises: Rejected (TOO_LARGE, MALFORMED) if either cannot be read.
    """
    if own is None or own == sent:
        return sent
    if not sent:
        return own
    mine, theirs = decode(own), decode(sent)
    if fmspc(mine) != fmspc(theirs):
        return sent
    chosen = theirs
    if _order(mine.tcb_info) >= _order(theirs.tcb_info):
        chosen = msgspec.structs.replace(
            chosen,
            tcb_info=mine.tcb_info,
            tcb_info_signature=mine.tcb_info_signature,
            tcb_info_issuer_chain=mine.tcb_info_issuer_chain,
        )
    if _order(mine.qe_identity) >= _order(theirs.qe_identity):
        chosen = msgspec.structs.replace(
            chosen,
            qe_identity=mine.qe_identity,
            qe_identity_signature=mine.qe_identity_signature,
            qe_identity_issuer_chain=mine.qe_identity_issuer_chain,
        )
    if _replaces(mine.pck_crl, theirs.pck_crl):
        chosen = msgspec.structs.replace(chosen, pck_crl=mine.pck_crl, pck_crl_issuer_chain=mine.pck_crl_issuer_chain)
    if _replaces(mine.root_ca_crl, theirs.root_ca_crl):
        chosen = msgspec.structs.replace(chosen, root_ca_crl=mine.root_ca_crl)
    if chosen == mine:
        return own
    return sent if chosen == theirs else msgspec.json.encode(chosen)


@lru_cache(maxsize=32)
def crl_issued(crl: str) -> int:
    """When a CRL (DER in hex) says it was issued, seconds since 1970.

    Raises: ValueError if it is no CRL.
    """
    return _crl(crl)[1]


def _crl(crl: str) -> tuple[bytes, int]:
    from cryptography import x509  # noqa: PLC0415 - 25 ms that a start without verification does not need

    try:
        parsed = x509.load_der_x509_crl(bytes.fromhex(crl))
    except x509.InvalidVersion as error:  # alone of what it raises no ValueError
        raise ValueError(str(error)) from error
    return parsed.issuer.public_bytes(), int(parsed.last_update_utc.timestamp())


def _replaces(mine: str, theirs: str) -> bool:
    try:
        my_issuer, my_date = _crl(mine)
        their_issuer, their_date = _crl(theirs)
    except ValueError as error:
        raise Rejected(Reason.MALFORMED, f"A CRL of the collateral cannot be read: {error}.") from error
    # One processor model may be certified by either of Intel's two PCK CAs: the other one's CRL is no help here.
    return my_issuer == their_issuer and my_date >= their_date


def _issued(document: str) -> _Issued:
    try:
        return msgspec.json.decode(document, type=_Issued)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Rejected(Reason.MALFORMED, f"TCB info or QE identity cannot be read: {error}.") from error


def _order(document: str) -> tuple[int, datetime]:
    issued = _issued(document)
    return issued.tcbEvaluationDataNumber, issued.issueDate
