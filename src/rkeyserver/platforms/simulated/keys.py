"""The private keys of the simulated platform. They are public, in this file, and protect nothing.

Whoever reads this can make evidence for any simulated machine and sign any image. That is the point: nobody can take
the simulation for protection, and no verifier for real hardware trusts the root that these keys belong to.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256

# A quoting enclave needs a signer's name and a measurement, no key: its attestation key is made at each start.
QE_MRSIGNER: Final = hashlib.sha256(b"rkeyserver public development quoting enclave, signer").digest()
QE_MRENCLAVE: Final = hashlib.sha256(b"rkeyserver public development quoting enclave, code").digest()

_P: Final = int(
    "fdb29550df67492f6afbda1efcdf4376ec44ab23d820e6b80a762f5cf49630349cf2f43f44fda0711d08edf801ace569"
    "db0f128ec28d42ba2d24120ba0838ae2fb3d7e03e256d924f7805bc20f0dc661b70f2d0739a94431eca1f195ea7e0841"
    "325459488f43b5b932cca6a348497d1a03cff213308ea1e806ed7a309804b7c75ee3e18cfa99428a46a9bd1cfd0672ff"
    "060c101f5da89d2e934f9de29bdf342612209e9565f86022f59980253ae896dfdc24e9b8ed94b86204a8752bfba7d69f",
    16,
)
_Q: Final = int(
    "c983b1636f905002c3b1b8f1e702703c58d9ab8ad8940dd076c106a6ed99bb59f47a56805a9106b81041eb73babf36b9"
    "f50606581bed655abd8cef31edb8df4d18f6fa0009b9bb9396dfb828432ca83990504a0c96e226fe72ea07253427cda4"
    "56a405c63490e01f5d874bb9da38254681c2df8e197a2a0e494320257ce1cd0c61e51971384fbc189058bb969cde36f4"
    "1705695affd7769c52aaf0fd3b070f0c4dff18be99e60a55bace2a43612d53db8fdeeb917cb639221a24a2b12e565f95",
    16,
)


def ec_key(sentence: str) -> ec.EllipticCurvePrivateKey:
    """The P-256 key that `sentence` stands for: anyone who knows the sentence has it."""
    return ec_key_of(hashlib.sha256(sentence.encode()).digest())


def ec_key_of(secret: bytes) -> ec.EllipticCurvePrivateKey:
    """The P-256 key of 32 bytes."""
    return ec.derive_private_key(int.from_bytes(secret, "big") % (_ORDER - 1) + 1, ec.SECP256R1())


def sign_raw(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """ECDSA with SHA-256 as Intel writes it: r ‖ s, 32 bytes each, big-endian."""
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


@dataclass(frozen=True)
class PkiKeys:
    """The keys that certify simulated processors and sign what is said about their TCB."""

    root: ec.EllipticCurvePrivateKey
    pck_ca: ec.EllipticCurvePrivateKey
    tcb_signing: ec.EllipticCurvePrivateKey


@cache
def development_keys() -> PkiKeys:
    """The public development keys."""
    return PkiKeys(
        root=ec_key("rkeyserver public development key, protects nothing: root CA"),
        pck_ca=ec_key("rkeyserver public development key, protects nothing: PCK CA"),
        tcb_signing=ec_key("rkeyserver public development key, protects nothing: TCB signing"),
    )


@cache
def image_signing_key() -> rsa.RSAPrivateKey:
    """The public development key that signs images: RSA-3072 with exponent 3, as SGX wants it. Protects nothing."""
    modulus, exponent = _P * _Q, 3
    private = pow(exponent, -1, (_P - 1) * (_Q - 1))
    return rsa.RSAPrivateNumbers(
        p=_P,
        q=_Q,
        d=private,
        dmp1=private % (_P - 1),
        dmq1=private % (_Q - 1),
        iqmp=pow(_Q, -1, _P),
        public_numbers=rsa.RSAPublicNumbers(exponent, modulus),
        # The numbers are constants that a test checks; checking them at each start costs longer than the rest of it.
    ).private_key(unsafe_skip_rsa_key_validation=True)
