"""What an explanation looks at: quote and collateral, each part read when it is first asked for.

Whatever reading raises is the finding of the check that asked. Nothing here is proved by being read.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from rkeyserver.attestation.sgx import collateral as endorsed
from rkeyserver.attestation.sgx import fields, pck
from rkeyserver.attestation.sgx.anchors import TrustAnchor
from rkeyserver.attestation.sgx.collateral import Collateral
from rkeyserver.attestation.sgx.parts import common_name

_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)


@dataclass
class Material:
    """Quote and collateral as given, the anchor they are looked at under, and the time, in seconds since 1970."""

    evidence: bytes
    endorsements: bytes
    anchor: TrustAnchor
    now: int

    @cached_property
    def parts(self) -> fields.Parts:
        """The quote's parts; its shape has to be right."""
        return fields.parts(self.evidence)

    @cached_property
    def root(self) -> x509.Certificate:
        """The trust anchor."""
        return x509.load_der_x509_certificate(self.anchor.checked())

    @cached_property
    def chain(self) -> list[x509.Certificate]:
        """The certificates in the quote that count: PCK and PCK CA. The root's copy after them only has to be PEM."""
        blocks = _PEM.findall(self.parts.certification)
        found = [base64.b64decode(b"".join(one.split()), validate=True) for one in blocks]
        if len(found) < 2:  # noqa: PLR2004 - PCK and its CA
            raise ValueError(f"{len(found)} certificates, at least PCK and PCK CA wanted")
        return [x509.load_der_x509_certificate(one) for one in found[:2]]

    @cached_property
    def pck(self) -> pck.PckFields:
        """What the PCK certificate says of the processor."""
        return pck.read_extension(self.chain[0])

    @cached_property
    def collateral(self) -> Collateral:
        """The nine parts."""
        return endorsed.decode(self.endorsements)

    @cached_property
    def tcb_info(self) -> dict[str, Any]:
        """TCB info, read."""
        return cast("dict[str, Any]", json.loads(self.collateral.tcb_info))

    @cached_property
    def qe_identity(self) -> dict[str, Any]:
        """QE identity, read."""
        return cast("dict[str, Any]", json.loads(self.collateral.qe_identity))

    @cached_property
    def tcb_signing(self) -> x509.Certificate:
        """What signed TCB info."""
        return x509.load_pem_x509_certificate(self.collateral.tcb_info_issuer_chain.encode())

    @cached_property
    def qe_signing(self) -> x509.Certificate:
        """What signed QE identity."""
        return x509.load_pem_x509_certificate(self.collateral.qe_identity_issuer_chain.encode())

    @cached_property
    def pck_crl(self) -> x509.CertificateRevocationList:
        """The PCK CA's CRL."""
        return x509.load_der_x509_crl(bytes.fromhex(self.collateral.pck_crl))

    @cached_property
    def root_crl(self) -> x509.CertificateRevocationList:
        """The root's CRL."""
        return x509.load_der_x509_crl(bytes.fromhex(self.collateral.root_ca_crl))

    def read_collateral(self) -> None:
        """Read all of it, so that what cannot be read is found at once."""
        _ = (self.tcb_info["tcbLevels"], self.qe_identity["tcbLevels"], self.tcb_signing, self.qe_signing)
        _ = (self.pck_crl, self.root_crl)

    def platform_levels(self) -> list[dict[str, Any]]:
        """The TCB levels of TCB info, the highest first."""
        return sorted(self.tcb_info["tcbLevels"], key=_order, reverse=True)

    def platform_level(self) -> dict[str, Any] | None:
        """The first TCB level, from the highest, that the processor reaches in every component."""
        for level in self.platform_levels():
            components, pce_svn = _order(level)
            reached = all(own >= one for own, one in zip(self.pck.components, components, strict=True))
            if reached and self.pck.pce_svn >= pce_svn:
                return level
        return None

    def shortfall(self) -> list[str]:
        """Where the processor is below the highest level: what that is, what it has, and what the level has."""
        highest = self.platform_levels()[0]["tcb"]
        found = []
        for number, (own, component) in enumerate(
            zip(self.pck.components, highest["sgxtcbcomponents"], strict=True), start=1
        ):
            if own < int(component["svn"]):
                about = ", ".join(str(component[key]) for key in ("category", "type") if component.get(key))
                what = f"component {number} ({about})" if about else f"component {number}"
                found.append(f"{what}: {own} of {component['svn']}")
        if self.pck.pce_svn < int(highest["pcesvn"]):
            found.append(f"PCESVN: {self.pck.pce_svn} of {highest['pcesvn']}")
        return found

    def qe_level(self) -> dict[str, Any] | None:
        """The first level, from the highest, that the quoting enclave reaches."""
        version = int(fields.report(self.parts.qe_report)["isv_svn"])
        levels = sorted(self.qe_identity["tcbLevels"], key=lambda level: int(level["tcb"]["isvsvn"]), reverse=True)
        return next((cast("dict[str, Any]", one) for one in levels if version >= int(one["tcb"]["isvsvn"])), None)


def _order(level: dict[str, Any]) -> tuple[list[int], int]:
    return [int(one["svn"]) for one in level["tcb"]["sgxtcbcomponents"]], int(level["tcb"]["pcesvn"])


def issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether `issuer` signed `certificate`, names included."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def signed(key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes) -> bool:
    """Whether `signature` (r ‖ s, 64 bytes) is an ECDSA one of SHA-256 over `data`."""
    numbers = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        key.verify(encode_dss_signature(*numbers), data, ec.ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


def key_of(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    """Its key, if that is one of an elliptic curve.

    Raises: ValueError.
    """
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("a key of another kind")  # noqa: TRY004 - of what was read
    return key


def raw_key(data: bytes) -> ec.EllipticCurvePublicKey:
    """A P-256 key from x ‖ y.

    Raises: ValueError if that is no point of the curve.
    """
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\4" + data)


def binds(material: Material) -> bool:
    """Whether the QE report is over the attestation key."""
    key = material.parts.attestation_key + material.parts.authentication
    wanted = hashlib.sha256(key).digest() + bytes(32)
    return material.parts.qe_report[320:384] == wanted


def seconds(text: str) -> int:
    """A date of TCB info or QE identity, in seconds since 1970.

    Raises: ValueError.
    """
    found = datetime.fromisoformat(text)
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())


def name(certificate: x509.Certificate) -> str:
    """Its subject's common name, or all of its subject."""
    return common_name(certificate.subject)
