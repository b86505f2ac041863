"""What was given, where it is no version 3 SGX quote: said by name, with what reads it. Nothing of it is checked."""

from __future__ import annotations

import struct
from typing import Final

from rkeyserver.attestation.sgx.fields import CERTIFICATION
from rkeyserver.attestation.sgx.quote import (
    AUTHENTICATION,
    ECDSA_P256,
    HEADER_SIZE,
    PCK_CHAIN_PEM,
    REPORT_SIZE,
    SIGNED_SIZE,
    TEE_SGX,
    VERSION,
)

TEE_TDX: Final = 0x81
SNP_REPORT_SIZE: Final = 1184
_SNP_VERSIONS: Final = range(1, 16)
_SNP_ECDSA_P384: Final = 1
_SGX_REPORT_SIZE: Final = 432
_TPM_MAGIC: Final = b"\xffTCG"


# By header: versions, attestation key types, TEE type; what it is, what to do.
_ECDSA: Final = (ECDSA_P256, 3)
_QUOTES: Final = (
    ((VERSION,), (ECDSA_P256,), TEE_SGX, "", ""),
    (
        (4, 5),
        _ECDSA,
        TEE_TDX,
        "a TDX quote",
        "This judges SGX enclaves; go-tdx-guest's check and dcap-qvl read TDX quotes.",
    ),
    (
        (4, 5),
        _ECDSA,
        TEE_SGX,
        "an SGX quote of a later form",
        "Version 3 is read: ask the quoting library for that one.",
    ),
    ((1, 2), (0, 1), None, "an EPID quote, whose service Intel has ended", "Use DCAP's ECDSA quotes."),
)


def foreign(data: bytes) -> tuple[str, str]:
    """What `data` is, and what to do with it; two empty texts for what may be a version 3 SGX quote."""
    text = data.lstrip()
    for found, what, advice in (
        (not data, "nothing: it is empty", "Was the quote written to it?"),
        (_TPM_MAGIC in (data[:4], data[2:6]), "a TPM 2.0 attestation", "tpm2_checkquote reads it."),
        (text.startswith(b"-----BEGIN"), "PEM", "The quote is wanted; its certificates are in it."),
        (text.startswith((b"{", b"[")), "JSON", "The quote alone is wanted; collateral goes to --collateral."),
        (_is_snp(data), "an AMD SEV-SNP attestation report", "snpguest and go-sev-guest's check read it."),
        (len(data) < HEADER_SIZE, f"{len(data)} bytes, too few to tell", "Was the quote cut off?"),
    ):
        if found:
            return what, advice
    version, key_type, tee = struct.unpack_from("<HHI", data)
    for versions, key_types, wanted_tee, what, advice in _QUOTES:
        if version in versions and key_type in key_types and wanted_tee in (tee, None):
            return f"{what}, version {version}" if what else "", advice
    if len(data) in (REPORT_SIZE, _SGX_REPORT_SIZE):
        return (
            "an SGX report by its size, which proves something only on the machine that made it",
            "Let that machine's quoting enclave turn it into a quote.",
        )
    return "nothing that this knows", "Wanted is a version 3 SGX quote, raw, in hex or in base64."


def _is_snp(data: bytes) -> bool:
    if len(data) != SNP_REPORT_SIZE:
        return False
    version, algorithm = struct.unpack_from("<I", data)[0], struct.unpack_from("<I", data, 0x34)[0]
    return version in _SNP_VERSIONS and algorithm == _SNP_ECDSA_P384


def shape_advice(data: bytes) -> str:
    """What to do about a version 3 SGX quote whose shape is wrong; empty where nothing more can be told."""
    if len(data) < AUTHENTICATION + 2:
        return "The quote was cut off."
    declared = SIGNED_SIZE + 4 + struct.unpack_from("<I", data, SIGNED_SIZE)[0]
    if len(data) > declared:
        return (
            f"{len(data) - declared} bytes follow its end. Cut them off: what is not signed has no place in evidence."
        )
    if len(data) < declared:
        return f"{declared - len(data)} bytes are missing at its end: it was cut off."
    (authentication,) = struct.unpack_from("<H", data, AUTHENTICATION)
    at = AUTHENTICATION + 2 + authentication
    if len(data) < at + 6:
        return ""
    kind = struct.unpack_from("<H", data, at)[0]
    if kind == PCK_CHAIN_PEM:
        return ""
    return (
        f"Its certification data is: {CERTIFICATION.get(kind, 'of an unknown kind')}. Wanted is the PCK certificate "
        "chain: set up the quote provider library of that machine with a PCCS, so that its quotes carry it."
    )
