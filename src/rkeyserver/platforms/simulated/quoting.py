"""The quoting enclave: DCAP version 3 ECDSA quotes, as a processor's own would make them.

Layout: Intel, "SGX ECDSA QuoteGenReference", as attestation/sgx/quote.py has it; reports: Intel SDM volume 3D.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from rkeyserver.attestation.sgx import quote
from rkeyserver.platforms.simulated import tcb
from rkeyserver.platforms.simulated.image import EnclaveIdentity
from rkeyserver.platforms.simulated.keys import QE_MRENCLAVE, QE_MRSIGNER, sign_raw
from rkeyserver.platforms.simulated.processor import CONFIG_SVN, Processor

# Verifiers know one vendor of quoting enclaves, Intel; the name gives no trust, the certificates do.
QE_VENDOR_ID: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_AUTHENTICATION_DATA: Final = bytes(range(32))  # what Intel's own puts there

QUOTING_ENCLAVE: Final = EnclaveIdentity(
    mrenclave=QE_MRENCLAVE,
    mrsigner=QE_MRSIGNER,
    isv_prod_id=tcb.QE_ISV_PROD_ID,
    isv_svn=tcb.QE_ISV_SVN,
    attributes=tcb.QE_ATTRIBUTES,
)


def report_body(processor: Processor, enclave: EnclaveIdentity, report_data: bytes) -> bytes:
    """The 384 bytes that a processor says of an enclave running on it."""
    return struct.pack(
        "<16s4x12x16x16s32s32x32s32x64xHHH42x16x64s",
        processor.cpu_svn,
        enclave.attributes,
        enclave.mrenclave,
        enclave.mrsigner,
        enclave.isv_prod_id,
        enclave.isv_svn,
        CONFIG_SVN,
        report_data,
    )


@dataclass(frozen=True)
class QuotingEnclave:
    """Signs quotes with an attestation key of its own, which the processor's PCK certifies. pck_chain: PEM."""

    processor: Processor
    pck_chain: str
    _certified: bytes = field(init=False, repr=False)
    _key: ec.EllipticCurvePrivateKey = field(init=False, repr=False)

    def __post_init__(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
        binding = hashlib.sha256(public + _AUTHENTICATION_DATA).digest().ljust(64, b"\0")
        report = report_body(self.processor, QUOTING_ENCLAVE, binding)
        chain = self.pck_chain.encode()
        certified = b"".join(
            (
                public,
                report,
                sign_raw(self.processor.pck_key(), report),
                struct.pack("<H", len(_AUTHENTICATION_DATA)),
                _AUTHENTICATION_DATA,
                struct.pack("<HI", quote.PCK_CHAIN_PEM, len(chain)),
                chain,
            )
        )
        object.__setattr__(self, "_key", key)
        object.__setattr__(self, "_certified", certified)

    def quote(self, enclave: EnclaveIdentity, report_data: bytes) -> bytes:
        """A quote over 64 bytes of `report_data` by `enclave`.

        Raises: ValueError if it is not 64 bytes.
        """
        if len(report_data) != 64:  # noqa: PLR2004 - the size of a report's field
            raise ValueError(f"report data of {len(report_data)} bytes, 64 wanted")
        header = struct.pack(
            "<HHIHH16s20x",
            quote.VERSION,
            quote.ECDSA_P256,
            quote.TEE_SGX,
            tcb.QE_ISV_SVN,
            self.processor.pce_svn,
            QE_VENDOR_ID,
        )
        signed = header + report_body(self.processor, enclave, report_data)
        signature = sign_raw(self._key, signed) + self._certified
        return signed + struct.pack("<I", len(signature)) + signature
