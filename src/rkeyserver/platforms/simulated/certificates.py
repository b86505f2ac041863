"""Certificates and CRLs of the simulated platform, in the profile of Intel's "PCK Certificate and CRL Specification".

Imported only when something is issued: X.509 costs a start 25 ms that a warm one does without.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from rkeyserver.platforms.simulated.tcb import FMSPC, PCE_ID, SGX_TYPE_STANDARD, VALID_FOR

ROOT_NAME: Final = "rkeyserver PUBLIC DEVELOPMENT ROOT - protects nothing"
PCK_CA_NAME: Final = "rkeyserver public development PCK CA - protects nothing"
TCB_SIGNING_NAME: Final = "rkeyserver public development TCB Signing - protects nothing"
PCK_NAME: Final = "rkeyserver public development PCK Certificate - protects nothing"

SGX_EXTENSION: Final = x509.ObjectIdentifier("1.2.840.113741.1.13.1")

_SGX_ARCS: Final = bytes.fromhex("2a864886f84d010d01")  # the contents of that OID's encoding
_SEQUENCE: Final = 0x30
_OID: Final = 0x06
_INTEGER: Final = 0x02
_OCTETS: Final = 0x04
_ENUMERATED: Final = 0x0A

_NOT_BEFORE: Final = datetime(2020, 1, 1, tzinfo=UTC)
_NOT_AFTER: Final = datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)

_CA: Final = {"key_cert_sign": True, "crl_sign": True, "digital_signature": False, "content_commitment": False}
_END: Final = {"key_cert_sign": False, "crl_sign": False, "digital_signature": True, "content_commitment": True}
_NEVER: Final = {
    "key_encipherment": False,
    "data_encipherment": False,
    "key_agreement": False,
    "encipher_only": False,
    "decipher_only": False,
}


def root(key: ec.EllipticCurvePrivateKey, name: str) -> x509.Certificate:
    """A self-signed root CA."""
    return _issue(key.public_key(), name, key, _name(name), path_length=1)


def pck_ca(key: ec.EllipticCurvePublicKey, root_name: str, root_key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """The CA that certifies processors."""
    return _issue(key, PCK_CA_NAME, root_key, _name(root_name), path_length=0)


def tcb_signing(
    key: ec.EllipticCurvePublicKey, root_name: str, root_key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    """The certificate of the key that signs TCB info and QE identity."""
    return _issue(key, TCB_SIGNING_NAME, root_key, _name(root_name))


def pck(
    key: ec.EllipticCurvePublicKey, ca_key: ec.EllipticCurvePrivateKey, *, ppid: bytes, cpu_svn: bytes, pce_svn: int
) -> x509.Certificate:
    """A processor's certificate, with the SGX extension that says which processor it is and at which versions."""
    extension = x509.UnrecognizedExtension(SGX_EXTENSION, sgx_extension(ppid, cpu_svn, pce_svn))
    return _issue(key, PCK_NAME, ca_key, _name(PCK_CA_NAME), extension=extension)


def crl(issuer: str, key: ec.EllipticCurvePrivateKey, revoked: Collection[int], issued: int) -> bytes:
    """A CRL (DER) that lists the serial numbers in `revoked`; `issued` in seconds since 1970."""
    date = datetime.fromtimestamp(issued, UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(_name(issuer))
        .last_update(date)
        .next_update(date + timedelta(seconds=VALID_FOR))
        .add_extension(x509.CRLNumber(issued), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    for serial in sorted(revoked):
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(date).build()
        )
    return builder.sign(key, SHA256()).public_bytes(Encoding.DER)


def sgx_extension(ppid: bytes, cpu_svn: bytes, pce_svn: int) -> bytes:
    """The DER of the SGX extension: PPID, TCB (sixteen components, PCESVN, CPUSVN), PCEID, FMSPC, SGX type."""
    components = [_field(_INTEGER, _unsigned(svn), 2, number) for number, svn in enumerate(cpu_svn, start=1)]
    tcb = [*components, _field(_INTEGER, _unsigned(pce_svn), 2, 17), _field(_OCTETS, cpu_svn, 2, 18)]
    return _der(
        _SEQUENCE,
        _field(_OCTETS, ppid, 1),
        _der(_SEQUENCE, _der(_OID, _SGX_ARCS, bytes([2])), _der(_SEQUENCE, *tcb)),
        _field(_OCTETS, PCE_ID, 3),
        _field(_OCTETS, FMSPC, 4),
        _field(_ENUMERATED, bytes([SGX_TYPE_STANDARD]), 5),
    )


def _field(tag: int, value: bytes, *arcs: int) -> bytes:
    return _der(_SEQUENCE, _der(_OID, _SGX_ARCS, bytes(arcs)), _der(tag, value))


def _unsigned(number: int) -> bytes:
    return number.to_bytes(number.bit_length() // 8 + 1, "big")


def _der(tag: int, *contents: bytes) -> bytes:
    content = b"".join(contents)
    size = len(content)
    if size < 0x80:  # noqa: PLR2004 - DER's short form
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _issue(
    key: ec.EllipticCurvePublicKey,
    name: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    *,
    path_length: int | None = None,
    extension: x509.UnrecognizedExtension | None = None,
) -> x509.Certificate:
    # The serial number is a function of who is certified, so that a certificate issued anew can still be revoked.
    serial = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) + name.encode()).digest()
    is_ca = path_length is not None
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(int.from_bytes(serial[:16], "big") | 1)
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.KeyUsage(**(_CA if is_ca else _END), **_NEVER), critical=True)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=path_length), critical=True)
    )
    if extension is not None:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(issuer_key, SHA256())
