"""Every field of a version 3 quote, for people.

Offsets as in quote.py, and of the report body:

    0    CPUSVN (16)       64   MRENCLAVE (32)    256  ISVPRODID (2)    304  ISVFAMILYID (16)
    16   MISCSELECT (4)    128  MRSIGNER (32)     258  ISVSVN (2)       320  report data (64)
    32   ISVEXTPRODID (16) 192  CONFIGID (64)     260  CONFIGSVN (2)
    48   ATTRIBUTES: flags (8), XFRM (8)

from Intel's "SGX ECDSA QuoteGenReference" and the SDM's REPORT structure. Nothing here is proved.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final

from rkeyserver.attestation.evidence import REPORT_DATA_SIZE
from rkeyserver.attestation.sgx.quote import AUTHENTICATION, HEADER_SIZE, PCK_CHAIN_PEM, REPORT_SIZE, SIGNED_SIZE

ATTRIBUTE_FLAGS: Final = {
    0: "INIT", 1: "DEBUG", 2: "MODE64BIT", 4: "PROVISIONKEY", 5: "EINITTOKENKEY", 6: "CET", 7: "KSS", 10: "AEXNOTIFY",
}  # fmt: skip
XFRM_FLAGS: Final = {
    0: "x87", 1: "SSE", 2: "AVX", 3: "BNDREGS", 4: "BNDCSR", 5: "OPMASK", 6: "ZMM_HI256", 7: "HI16_ZMM", 9: "PKRU",
    17: "TILECFG", 18: "TILEDATA",
}  # fmt: skip
KEY_TYPES: Final = {2: "ECDSA P-256", 3: "ECDSA P-384"}
TEES: Final = {0: "SGX", 0x81: "TDX"}
INTEL_VENDOR_ID: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
SGX_TYPES: Final = {0: "standard", 1: "scalable", 2: "scalable with integrity"}
CERTIFICATION: Final = {
    1: "PPID in the clear, with CPUSVN, PCESVN and PCE-ID",
    2: "PPID encrypted with RSA-2048, with CPUSVN, PCESVN and PCE-ID",
    3: "PPID encrypted with RSA-3072, with CPUSVN, PCESVN and PCE-ID",
    4: "PCK certificate alone",
    PCK_CHAIN_PEM: "PCK certificate chain",
    6: "QE report certification data",
    7: "platform manifest",
}


@dataclass(frozen=True)
class Parts:
    """The parts of a quote whose shape view() has checked, as bytes."""

    header: bytes
    report: bytes
    signature: bytes
    attestation_key: bytes
    qe_report: bytes
    qe_signature: bytes
    authentication: bytes
    certification: bytes


def parts(evidence: bytes) -> Parts:
    """Take apart a quote that view() accepts."""
    rest, end = evidence[SIGNED_SIZE + 4 :], AUTHENTICATION - SIGNED_SIZE - 4
    (authentication,) = struct.unpack_from("<H", rest, end)
    after = end + 2 + authentication
    return Parts(
        header=evidence[:HEADER_SIZE],
        report=evidence[HEADER_SIZE:SIGNED_SIZE],
        signature=rest[:64],
        attestation_key=rest[64:128],
        qe_report=rest[128 : 128 + REPORT_SIZE],
        qe_signature=rest[128 + REPORT_SIZE : end],
        authentication=rest[end + 2 : after],
        certification=rest[after + 6 :],
    )


def flags(value: int, names: dict[int, str]) -> str:
    """The names of the bits that are set; of those without a name, the number."""
    bits = [bit for bit in range(64) if value >> bit & 1]
    return " ".join(names.get(bit, f"bit{bit}") for bit in bits) or "none"


def header(data: bytes) -> dict[str, Any]:
    """The quote's header, 48 bytes."""
    version, key_type, tee_type, qe_svn, pce_svn = struct.unpack_from("<HHIHH", data)
    return {
        "version": version,
        "attestation_key_type": key_type,
        "attestation_key": KEY_TYPES.get(key_type, "unknown"),
        "tee_type": tee_type,
        "tee": TEES.get(tee_type, "unknown"),
        "qe_svn": qe_svn,
        "pce_svn": pce_svn,
        "qe_vendor_id": data[12:28].hex(),
        "qe_vendor": "Intel" if data[12:28] == INTEL_VENDOR_ID else "unknown",
        "user_data": data[28:48].hex(),
    }


def report(data: bytes) -> dict[str, Any]:
    """A report body, 384 bytes: the enclave's, or the quoting enclave's."""
    (misc,) = struct.unpack_from("<I", data, 16)
    attributes, xfrm = struct.unpack_from("<QQ", data, 48)
    product, version, config_svn = struct.unpack_from("<HHH", data, 256)
    return {
        "cpu_svn": data[:16].hex(),
        "misc_select": f"{misc:08x}",
        "isv_ext_prod_id": data[32:48].hex(),
        "attributes": data[48:64].hex(),
        "attributes_flags": flags(attributes, ATTRIBUTE_FLAGS),
        "attributes_xfrm": flags(xfrm, XFRM_FLAGS),
        "debug": bool(attributes & 2),
        "mrenclave": data[64:96].hex(),
        "mrsigner": data[128:160].hex(),
        "config_id": data[192:256].hex(),
        "isv_prod_id": product,
        "isv_svn": version,
        "config_svn": config_svn,
        "isv_family_id": data[304:320].hex(),
        "report_data": data[320:384].hex(),
        "report_data_text": as_text(data[320:384]),
    }


def as_text(data: bytes) -> str:
    """Report data as text, if it is some with zeros after it; else empty."""
    text = data[:REPORT_DATA_SIZE].rstrip(b"\0")
    return text.decode("ascii") if text and all(0x20 <= byte < 0x7F for byte in text) else ""  # noqa: PLR2004 - ASCII
