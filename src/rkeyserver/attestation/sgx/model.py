"""Which collateral a quote needs: its processor's model, and which of the two PCK CAs certified it.

Read from the PCK certificate in the quote (certification data type 5), in the profile of Intel's "PCK Certificate and
CRL Specification". Nothing here is proved: it says what to ask for, and what is got is verified.
"""

from __future__ import annotations

import struct
from typing import Annotated, Final, Literal

import msgspec

from rkeyserver.attestation.sgx import quote
from rkeyserver.errors import Reason, Rejected

PckCa = Literal["processor", "platform"]

SGX_EXTENSION: Final = "1.2.840.113741.1.13.1"
# OID 1.2.840.113741.1.13.1.4 and the head of an OCTET STRING of six bytes. DER has one form, so this finds the FMSPC.
_FMSPC: Final = bytes.fromhex("060a2a864886f84d010d01040406")
_FMSPC_SIZE: Final = 6
_CHAIN: Final = quote.AUTHENTICATION + 2


class Model(msgspec.Struct, frozen=True, order=True, forbid_unknown_fields=True):
    """A processor model by its FMSPC (12 hex digits, lower case), and the CA of its PCK certificates."""

    fmspc: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{12}\Z")]
    ca: PckCa

    def __str__(self) -> str:
        return f"FMSPC {self.fmspc}, {self.ca} CA"


def ca_of(common_name: str) -> PckCa:
    """Which PCK CA an issuer of that common name is.

    Intel's are "Intel SGX PCK Platform CA" and "Intel SGX PCK Processor CA". A development authority has one only,
    which counts as the second.
    """
    return "platform" if "Platform CA" in common_name else "processor"


def model_of(evidence: bytes) -> Model:
    """The model of the machine that a quote says it is from.

    Raises: Rejected (TOO_LARGE, MALFORMED).
    """
    from cryptography import x509  # noqa: PLC0415 - 25 ms that a start without collateral does not need
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - late: what a start does not need

    quote.view(evidence)
    (authentication,) = struct.unpack_from("<H", evidence, quote.AUTHENTICATION)
    try:
        leaf = x509.load_pem_x509_certificates(evidence[_CHAIN + authentication + 6 :])[0]
        extension = leaf.extensions.get_extension_for_oid(x509.ObjectIdentifier(SGX_EXTENSION)).value
        value = extension.public_bytes()
        names = leaf.issuer.get_attributes_for_oid(x509.oid.NameOID.COMMON_NAME)
    except (
        ValueError,
        TypeError,
        UnsupportedAlgorithm,
        x509.InvalidVersion,
        x509.ExtensionNotFound,
        x509.DuplicateExtension,
    ) as error:
        raise Rejected(Reason.MALFORMED, f"The quote's PCK certificate cannot be read: {error}.") from error
    start = value.find(_FMSPC) + len(_FMSPC)
    fmspc = value[start : start + _FMSPC_SIZE]
    if start < len(_FMSPC) or len(fmspc) != _FMSPC_SIZE:
        raise Rejected(Reason.MALFORMED, "The quote's PCK certificate names no FMSPC.")
    return Model(fmspc.hex(), ca_of(" ".join(str(name.value) for name in names)))
