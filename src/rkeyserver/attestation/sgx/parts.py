"""What each part of collateral says of itself: who issued it, when, until when. And whether its signatures hold.

A part's dates are read, not proved; check_signed() proves who signed it, and verify.py all of it for one quote.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from rkeyserver.attestation.sgx.anchors import TrustAnchor
from rkeyserver.attestation.sgx.collateral import Collateral
from rkeyserver.attestation.sgx.model import Model, ca_of
from rkeyserver.errors import Reason, Rejected

if TYPE_CHECKING:
    from cryptography import x509

MAX_CHAIN: Final = 4
_DateTime = Annotated[datetime, msgspec.Meta(tz=True)]
_Number = Annotated[int, msgspec.Meta(ge=0, le=2**32)]


@dataclass(frozen=True)
class Part:
    """One part. issued, expires: seconds since 1970; number: the TCB evaluation data number, None for a CRL.

    entries: how many advisories (of a document) or revoked certificates (of a CRL) it lists.
    """

    name: str
    issuer: str
    issued: int
    expires: int
    number: int | None
    entries: int


@dataclass(frozen=True)
class Described:
    """The four parts of collateral: TCB info, QE identity, PCK CRL, root CA CRL.

    expires: when the first part or certificate of it does; issued: when the part that expires first was issued.
    number: the least evaluation number.
    """

    model: Model
    parts: tuple[Part, ...]
    issued: int
    expires: int
    number: int


class _Level(msgspec.Struct, frozen=True):
    advisoryIDs: list[str] = []  # noqa: N815 - Intel's name; msgspec copies it for each


class _Document(msgspec.Struct, frozen=True):
    id: str
    issueDate: _DateTime  # noqa: N815 - Intel's name
    nextUpdate: _DateTime  # noqa: N815 - Intel's name
    tcbEvaluationDataNumber: _Number  # noqa: N815 - Intel's name
    tcbLevels: list[_Level]  # noqa: N815 - Intel's name
    fmspc: str = ""


_DOCUMENTS: Final[msgspec.json.Decoder[Any]] = msgspec.json.Decoder(_Document)


def malformed(what: str, error: object) -> Rejected:
    """That a part cannot be read."""
    return Rejected(Reason.MALFORMED, f"The {what} cannot be read: {error}.")


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn what X.509 raises into a refusal. The library parses a field only when it is looked at.

    Raises: Rejected (MALFORMED).
    """
    from cryptography import x509  # noqa: PLC0415 - 25 ms that a start without collateral does not need
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - late: what a start does not need

    try:
        yield
    except (
        ValueError,
        TypeError,
        OverflowError,
        UnsupportedAlgorithm,
        x509.InvalidVersion,
        x509.DuplicateExtension,
        x509.ExtensionNotFound,
        UserWarning,  # what is odd is only warned of, unless the interpreter was told to make an error of it
    ) as error:
        raise malformed(what, error) from error


def read_chain(what: str, pem: str) -> list[x509.Certificate]:
    """The certificates of a PEM chain, each issued, by name, by the one after it.

    Raises: Rejected (MALFORMED, NOT_GENUINE).
    """
    from cryptography import x509  # noqa: PLC0415 - late: what a start does not need

    with reading(what):
        found = x509.load_pem_x509_certificates(pem.encode())
        if len(found) > MAX_CHAIN:
            raise malformed(what, f"it has {len(found)} certificates, at most {MAX_CHAIN} are read")
        for one, above in zip(found, [*found[1:], found[-1]], strict=True):
            if one.issuer != above.subject:
                raise Rejected(
                    Reason.NOT_GENUINE,
                    f"The {what} is none: {common_name(one.subject)} is issued by {common_name(one.issuer)}, "
                    f"after it comes {common_name(above.subject)}.",
                )
            _ = common_name(one.subject), one.not_valid_after_utc, one.serial_number
    return found


def read_crl(what: str, der: bytes) -> x509.CertificateRevocationList:
    """A CRL of which issuer and dates can be read.

    Raises: Rejected (MALFORMED).
    """
    from cryptography import x509  # noqa: PLC0415 - late: what a start does not need

    with reading(what):
        found = x509.load_der_x509_crl(der)
        _ = common_name(found.issuer), found.last_update_utc, len(found)
    _next_update(what, found)
    return found


def _next_update(what: str, crl: x509.CertificateRevocationList) -> datetime:
    with reading(what):
        found = crl.next_update_utc
    if found is None:
        raise malformed(what, "it does not say when the next one comes")
    return found


def common_name(name: x509.Name) -> str:
    """What people call an issuer or subject."""
    from cryptography.x509.oid import NameOID  # noqa: PLC0415 - late: what a start does not need

    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else name.rfc4514_string()


@lru_cache(maxsize=64)
def describe(collateral: Collateral) -> Described:
    """What the parts say of themselves, every one of them parsed.

    Raises: Rejected (MALFORMED, NOT_GENUINE for a chain that is none).
    """
    tcb_chain = read_chain("TCB info's issuer chain", collateral.tcb_info_issuer_chain)
    qe_chain = read_chain("QE identity's issuer chain", collateral.qe_identity_issuer_chain)
    pck_chain = read_chain("PCK CRL's issuer chain", collateral.pck_crl_issuer_chain)
    tcb_info, tcb = _document("TCB info", "SGX", collateral.tcb_info, tcb_chain)
    _, qe = _document("QE identity", "QE", collateral.qe_identity, qe_chain)
    pck_crl = _crl("PCK CRL", collateral.pck_crl)
    root_crl = _crl("root CA CRL", collateral.root_ca_crl)
    parts = (tcb, qe, pck_crl, root_crl)
    first = min(parts, key=lambda part: part.expires)
    certificates = [int(one.not_valid_after_utc.timestamp()) for one in (*tcb_chain, *qe_chain, *pck_chain)]
    try:
        model = msgspec.convert({"fmspc": tcb_info.fmspc.lower(), "ca": ca_of(pck_crl.issuer)}, Model)
    except msgspec.ValidationError as error:
        raise malformed("TCB info", error) from error
    return Described(
        model=model,
        parts=parts,
        issued=first.issued,
        expires=min(first.expires, *certificates),
        number=min(tcb.number or 0, qe.number or 0),
    )


def in_force(held: Collateral, other: Collateral, now: int) -> Collateral:
    """`held` with every part that has expired by `now` (seconds since 1970) taken from `other`, of the same model.

    What is still in force goes on standing in the way of what is older, whatever else has expired beside it.
    Raises: Rejected (MALFORMED, NOT_GENUINE for a chain that is none).
    """
    tcb, qe, pck_crl, root_crl = describe(held).parts
    fields: list[str] = []
    for part, chain, names in (
        (tcb, held.tcb_info_issuer_chain, ("tcb_info", "tcb_info_signature", "tcb_info_issuer_chain")),
        (qe, held.qe_identity_issuer_chain, ("qe_identity", "qe_identity_signature", "qe_identity_issuer_chain")),
        (pck_crl, held.pck_crl_issuer_chain, ("pck_crl", "pck_crl_issuer_chain")),
        (root_crl, "", ("root_ca_crl",)),
    ):
        certificates = read_chain(f"{part.name}'s issuer chain", chain) if chain else []
        until = [part.expires, *(int(one.not_valid_after_utc.timestamp()) for one in certificates)]
        fields += names if min(until) < now else ()
    return msgspec.structs.replace(held, **{name: getattr(other, name) for name in fields})


def _document(what: str, kind: str, text: str, chain: list[x509.Certificate]) -> tuple[_Document, Part]:
    try:
        found: _Document = _DOCUMENTS.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise malformed(what, error) from error
    if found.id != kind:
        raise malformed(what, f"its id is {found.id}, wanted {kind}")
    return found, Part(
        name=what,
        issuer=common_name(chain[0].subject),
        issued=int(found.issueDate.timestamp()),
        expires=int(found.nextUpdate.timestamp()),
        number=found.tcbEvaluationDataNumber,
        entries=len({advisory for level in found.tcbLevels for advisory in level.advisoryIDs}),
    )


def _crl(what: str, text: str) -> Part:
    found = read_crl(what, bytes.fromhex(text))
    return Part(
        name=what,
        issuer=common_name(found.issuer),
        issued=int(found.last_update_utc.timestamp()),
        expires=int(_next_update(what, found).timestamp()),
        number=None,
        entries=len(found),
    )


def check_signed(collateral: Collateral, anchor: TrustAnchor) -> None:
    """Whether every part is signed under `anchor`, by a certificate that its root's CRL does not revoke.

    For people who have no quote at hand. Dates are not looked at, nor what the parts say: a quote is verified by
    verify.verify(), which looks at all of it.

    Raises: Rejected (NOT_GENUINE, MALFORMED); Corrupt if `anchor` is damaged.
    """
    from cryptography import x509  # noqa: PLC0415 - late: what a start does not need
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm  # noqa: PLC0415 - late: what a start does not need
    from cryptography.hazmat.primitives.asymmetric import ec, utils  # noqa: PLC0415 - late: what a start does not need
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415 - late: what a start does not need

    root = x509.load_der_x509_certificate(anchor.checked())
    root_crl = read_crl("root CA CRL", bytes.fromhex(collateral.root_ca_crl))
    pck_crl = read_crl("PCK CRL", bytes.fromhex(collateral.pck_crl))

    def key_of(what: str, pem: str) -> ec.EllipticCurvePublicKey:
        chain = read_chain(what, pem)
        if len(chain) != 2 or chain[1] != root:  # noqa: PLR2004 - a signer, and the root over it
            raise _not_signed(what, anchor)
        chain[0].verify_directly_issued_by(root)
        key = chain[0].public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise _not_signed(what, anchor)
        if root_crl.get_revoked_certificate_by_serial_number(chain[0].serial_number) is not None:
            raise Rejected(Reason.NOT_GENUINE, f"{common_name(chain[0].subject)} is revoked by the root CA's CRL.")
        return key

    def check_document(what: str, chain: str, text: str, signature: str) -> None:
        half = len(signature) // 2
        encoded = utils.encode_dss_signature(int(signature[:half], 16), int(signature[half:], 16))
        key_of(f"{what}'s issuer chain", chain).verify(encoded, text.encode(), ec.ECDSA(SHA256()))

    what = "root CA CRL"
    try:
        if not root_crl.is_signature_valid(root.public_key()):  # type: ignore[arg-type]  # a root of ours has an EC key
            raise _not_signed(what, anchor)
        what = "PCK CRL"
        if not pck_crl.is_signature_valid(key_of("PCK CRL's issuer chain", collateral.pck_crl_issuer_chain)):
            raise _not_signed(what, anchor)
        what = "TCB info"
        check_document(what, collateral.tcb_info_issuer_chain, collateral.tcb_info, collateral.tcb_info_signature)
        what = "QE identity"
        check_document(
            what, collateral.qe_identity_issuer_chain, collateral.qe_identity, collateral.qe_identity_signature
        )
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError) as error:
        raise _not_signed(what, anchor) from error


def _not_signed(what: str, anchor: TrustAnchor) -> Rejected:
    return Rejected(Reason.NOT_GENUINE, f"The {what} is not signed under {anchor.name}.")
