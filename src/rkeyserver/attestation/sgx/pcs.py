"""The answers of a PCCS (Intel's PCS API, version 4) as collateral.

docs/spec/collateral.md, "What is asked". Every answer is checked for being what was asked for and in force; whether it
is genuine, only its verification against a trust anchor says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final, TypeVar

import msgspec

from rkeyserver.attestation.sgx.collateral import Collateral
from rkeyserver.attestation.sgx.model import Model, ca_of
from rkeyserver.attestation.sgx.parts import Described, common_name, describe, malformed, read_chain, read_crl
from rkeyserver.clock import utc
from rkeyserver.errors import Reason, Rejected

MAX_BODY: Final = 128 * 1024
MAX_HEADER: Final = 32 * 1024
_DER_SEQUENCE: Final = 0x30


class Document(StrEnum):
    """What is asked for, one request each."""

    PCK_CRL = "PCK CRL"
    TCB_INFO = "TCB info"
    QE_IDENTITY = "QE identity"
    ROOT_CA_CRL = "root CA CRL"


ISSUER_CHAIN: Final[dict[Document, tuple[str, ...]]] = {
    Document.PCK_CRL: ("sgx-pck-crl-issuer-chain",),
    Document.TCB_INFO: ("tcb-info-issuer-chain", "sgx-tcb-info-issuer-chain"),
    Document.QE_IDENTITY: ("sgx-enclave-identity-issuer-chain",),
}
"""The header with the issuer's chain, lower case; the second of two is the name that older services use."""


@dataclass(frozen=True)
class Answer:
    """An answer with status 200. headers: by lower-case names."""

    body: bytes
    headers: Mapping[str, str]


def path(document: Document, model: Model) -> str:
    """What to ask for, below the service's base URL."""
    match document:
        case Document.PCK_CRL:
            return f"/pckcrl?ca={model.ca}&encoding=der"
        case Document.TCB_INFO:
            return f"/tcb?fmspc={model.fmspc.upper()}"
        case Document.QE_IDENTITY:
            return "/qe/identity"
        case Document.ROOT_CA_CRL:
            return "/rootcacrl"


_Signature = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-fA-F]{128}\Z")]


class _TcbInfo(msgspec.Struct, frozen=True):
    tcbInfo: msgspec.Raw  # noqa: N815 - Intel's name
    signature: _Signature


class _QeIdentity(msgspec.Struct, frozen=True):
    enclaveIdentity: msgspec.Raw  # noqa: N815 - Intel's name
    signature: _Signature


_Json = TypeVar("_Json", _TcbInfo, _QeIdentity)


def collateral_of(answers: Mapping[Document, Answer], model: Model, now: int) -> Collateral:
    """The four answers as collateral, each in force at `now` (seconds since 1970) and of the model asked for.

    Raises: Rejected (TOO_LARGE, MALFORMED, NOT_GENUINE for another model, CA, chain or a date in the future,
    COLLATERAL_EXPIRED).
    """
    for document in Document:
        if len(answers[document].body) > MAX_BODY:
            raise Rejected(Reason.TOO_LARGE, f"The {document} has over {MAX_BODY} bytes.")
    tcb = _json(Document.TCB_INFO, answers, _TcbInfo)
    qe = _json(Document.QE_IDENTITY, answers, _QeIdentity)
    parts = {
        "pck_crl_issuer_chain": _chain(Document.PCK_CRL, answers),
        "root_ca_crl": _crl(Document.ROOT_CA_CRL, answers),
        "pck_crl": _crl(Document.PCK_CRL, answers),
        "tcb_info_issuer_chain": _chain(Document.TCB_INFO, answers),
        "tcb_info": _text(Document.TCB_INFO, tcb.tcbInfo),
        "tcb_info_signature": tcb.signature,
        "qe_identity_issuer_chain": _chain(Document.QE_IDENTITY, answers),
        "qe_identity": _text(Document.QE_IDENTITY, qe.enclaveIdentity),
        "qe_identity_signature": qe.signature,
    }
    try:
        collateral = msgspec.convert(parts, Collateral)
    except msgspec.ValidationError as error:
        raise malformed("collateral", error) from error
    _check_issuer(collateral, model)
    described = describe(collateral)
    if described.model.fmspc != model.fmspc:
        raise Rejected(
            Reason.NOT_GENUINE, f"The TCB info is for FMSPC {described.model.fmspc}, {model.fmspc} was asked for."
        )
    _check_dates(described, now)
    return collateral


def _json(document: Document, answers: Mapping[Document, Answer], kind: type[_Json]) -> _Json:
    try:
        return msgspec.json.decode(answers[document].body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(document, error) from error


def _text(document: Document, raw: msgspec.Raw) -> str:
    # The very bytes that were sent: it is they that are signed.
    try:
        return bytes(raw).decode()
    except UnicodeDecodeError as error:
        raise malformed(document, error) from error


def _chain(document: Document, answers: Mapping[Document, Answer]) -> str:
    from urllib.parse import unquote  # noqa: PLC0415 - only a fetch needs it

    names = ISSUER_CHAIN[document]
    found = next((answers[document].headers[name] for name in names if name in answers[document].headers), None)
    if found is None:
        raise malformed(document, f"there is no {names[0]} header with it")
    if len(found) > MAX_HEADER:
        raise Rejected(Reason.TOO_LARGE, f"The {document}'s issuer chain has over {MAX_HEADER} characters.")
    return unquote(found)


def _crl(document: Document, answers: Mapping[Document, Answer]) -> str:
    """As hex. A PCCS answers DER as hex or as it is, whatever it was asked for."""
    body = answers[document].body.strip()
    if not body:
        raise malformed(document, "it is empty")
    if answers[document].body[0] == _DER_SEQUENCE and not _is_hex(body):
        return answers[document].body.hex()
    if not _is_hex(body):
        raise malformed(document, "it is neither DER nor DER in hex")
    return body.decode().lower()


def _is_hex(body: bytes) -> bool:
    try:
        return body.isalnum() and bool(bytes.fromhex(body.decode()))
    except ValueError:
        return False


def _check_issuer(collateral: Collateral, model: Model) -> None:
    issuer = read_crl("PCK CRL", bytes.fromhex(collateral.pck_crl)).issuer
    signer = read_chain("PCK CRL's issuer chain", collateral.pck_crl_issuer_chain)[0].subject
    if issuer != signer:
        raise Rejected(
            Reason.NOT_GENUINE,
            f"The PCK CRL is issued by {common_name(issuer)}, the chain sent with it is {common_name(signer)}'s.",
        )
    if ca_of(common_name(issuer)) != model.ca:
        raise Rejected(
            Reason.NOT_GENUINE,
            f"The PCK CRL is {common_name(issuer)}'s; that of the {model.ca} CA was asked for.",
        )


def _check_dates(described: Described, now: int) -> None:
    for part in described.parts:
        if part.issued > now:
            raise Rejected(
                Reason.NOT_GENUINE,
                f"The {part.name} was issued at {utc(part.issued)}, which is after this clock's {utc(now)}.",
                advice="Set the clock.",
            )
        if part.expires < now:
            raise Rejected(
                Reason.COLLATERAL_EXPIRED,
                f"The {part.name} expired at {utc(part.expires)}, it is now {utc(now)}.",
                advice="The service serves old answers: have it refresh its cache. Or set the clock.",
            )
