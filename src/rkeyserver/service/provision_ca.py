"""The CA by which applications know a server of their domain: derived from a root key (docs/spec/ra-tls.md, "The CA").

The same on every machine and after every start, byte for byte, so that an application can have its certificate among
its trusted files. Whoever holds that generation of the root key can be it. Imported when the listener opens.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import load_der_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rkeyserver.attestation.sgx.ra_tls import public_key_info
from rkeyserver.keyring.derivation import Purpose, derive_into
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.secret import SecretBytes

# ECPrivateKey (RFC 5915) on P-384 around its 48 bytes, the public key left out.
_HEAD: Final = bytes.fromhex("303e0201010430")
_TAIL: Final = bytes.fromhex("a00706052b81040022")
SCALAR_SIZE: Final = 48
# No clock is asked: that of an application is its host's. RFC 5280 section 4.1.2.5 has this end for "none".
NOT_BEFORE: Final = datetime(2001, 1, 1, tzinfo=UTC)
NOT_AFTER: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
_SERIAL_SIZE: Final = 16


@dataclass(frozen=True)
class Ca:
    """A CA with its key. generation: of the root key it is derived from."""

    generation: str
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def derive(cls, keyring: Keyring, generation: str) -> Self:
        """The CA of a generation of the root key.

        Raises: KeyError if the keyring has no such generation.
        """
        with SecretBytes(len(_HEAD) + SCALAR_SIZE + len(_TAIL)) as encoded:
            encoded.view[: len(_HEAD)] = _HEAD
            encoded.view[-len(_TAIL) :] = _TAIL
            scalar = encoded.view[len(_HEAD) : -len(_TAIL)]
            root_key = keyring.root_key(generation)
            derive_into(root_key, domain=keyring.domain, purpose=Purpose.RA_TLS_CA, label=b"", into=scalar)
            key = load_der_private_key(encoded.view, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)  # noqa: S101 - what _TAIL says
        return cls(generation, _root(key, keyring.domain, generation), key)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of its certificate, hex."""
        return self.certificate.fingerprint(SHA256()).hex()

    def issue(
        self, key: ec.EllipticCurvePublicKey, names: list[x509.GeneralName], evidence: x509.UnrecognizedExtension | None
    ) -> x509.Certificate:
        """A server's certificate: for `names`, with the quote that vouches for its key where it has one."""
        issuer = self.certificate.public_key()
        assert isinstance(issuer, ec.EllipticCurvePublicKey)  # noqa: S101 - as it was derived
        made = (
            _builder(_name("rkeyserver"), self.certificate.subject, key, x509.random_serial_number())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False)
        )
        if evidence is not None:
            made = made.add_extension(evidence, critical=False)
        return made.sign(self.key, SHA384())


def _root(key: ec.EllipticCurvePrivateKey, domain: str, generation: str) -> x509.Certificate:
    public = key.public_key()
    serial = int(hashlib.sha256(public_key_info(public)).hexdigest()[: 2 * _SERIAL_SIZE], 16) >> 1
    name = _name(f"rkeyserver CA {generation}", domain)
    return (
        _builder(name, name, public, serial)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, SHA384(), ecdsa_deterministic=True)  # RFC 6979
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, serial: int
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key,
        serial_number=serial,
        not_valid_before=NOT_BEFORE,
        not_valid_after=NOT_AFTER,
    )


def _name(common: str, domain: str = "") -> x509.Name:
    organization = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, domain)] if domain else []
    return x509.Name([*organization, x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
