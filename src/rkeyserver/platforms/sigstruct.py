"""SIGSTRUCT, the 1808 bytes with which a signer vouches for an enclave.

Intel SDM volume 3D, "Enclave Signature Structure":

    0     HEADER 16      16   VENDOR 4         20   DATE 4 (BCD)      24   HEADER2 16       40  SWDEFINED 4
    128   MODULUS 384    512  EXPONENT 4       516  SIGNATURE 384
    900   MISCSELECT 4   904  MISCMASK 4       928  ATTRIBUTES 16     944  ATTRIBUTEMASK 16
    960   ENCLAVEHASH 32                       1024 ISVPRODID 2       1026 ISVSVN 2
    1040  Q1 384         1424 Q2 384           all else zero; numbers are little-endian

The signature is RSA-3072, exponent 3, PKCS #1 v1.5 with SHA-256, over bytes 0..128 and 900..1028. Q1 and Q2 are what
the processor needs to check it without division. MRSIGNER is the SHA-256 of MODULUS.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from rkeyserver.errors import Corrupt

SIZE: Final = 1808
KEY_SIZE: Final = 384
EXPONENT: Final = 3

HEADER: Final = bytes.fromhex("06000000e10000000000010000000000")
HEADER2: Final = bytes.fromhex("01010000600000006000000001000000")

FLAG_INIT: Final = 0x01
FLAG_DEBUG: Final = 0x02
FLAG_64BIT: Final = 0x04
XFRM_LEGACY: Final = 0x03

_DATE: Final = 0x20260101  # the same for every build: a signed image is reproducible too
_ALL: Final = b"\xff" * 16


@dataclass(frozen=True)
class SigStruct:
    """A SIGSTRUCT whose signature holds. attributes: 16 bytes, flags and XFRM."""

    mrsigner: bytes
    mrenclave: bytes
    attributes: bytes
    isv_prod_id: int
    isv_svn: int


def attributes(*, debug: bool) -> bytes:
    """The ATTRIBUTES of a 64-bit enclave."""
    return struct.pack("<QQ", FLAG_64BIT | (FLAG_DEBUG if debug else 0), XFRM_LEGACY)


def sign(key: rsa.RSAPrivateKey, *, mrenclave: bytes, attributes: bytes, isv_prod_id: int, isv_svn: int) -> bytes:
    """A SIGSTRUCT for `mrenclave` (32 bytes) by `key` (RSA-3072, exponent 3).

    Raises: ValueError if the key is of another kind.
    """
    public = key.public_key().public_numbers()
    if public.n.bit_length() != KEY_SIZE * 8 or public.e != EXPONENT:
        raise ValueError(f"RSA-{public.n.bit_length()} with exponent {public.e}; RSA-3072 with exponent 3 wanted")
    head = struct.pack("<16sII16sI84x", HEADER, 0, _DATE, HEADER2, 0)
    body = struct.pack("<II4x16x16s16s32s16x16xHH", 0, 0xFFFFFFFF, attributes, _ALL, mrenclave, isv_prod_id, isv_svn)
    signature = int.from_bytes(key.sign(head + body, padding.PKCS1v15(), SHA256()), "big")
    q1, q2 = _quotients(signature, public.n)
    return b"".join(
        (head, _le(public.n), struct.pack("<I", EXPONENT), _le(signature), body, bytes(12), _le(q1), _le(q2))
    )


def verify(sigstruct: bytes) -> SigStruct:
    """Check a SIGSTRUCT as EINIT does, short of the enclave itself.

    Raises: Corrupt with what is wrong.
    """
    if len(sigstruct) != SIZE:
        raise Corrupt(f"The enclave's signature structure has {len(sigstruct)} bytes, {SIZE} wanted.")
    if sigstruct[:16] != HEADER or sigstruct[24:40] != HEADER2:
        raise Corrupt(
            f"This is no signed enclave image: its signature structure begins with {sigstruct[:16].hex()}.",
            advice="Start the signed image (make builds it), not the plain archive.",
        )
    modulus, signature = _number(sigstruct, 128), _number(sigstruct, 516)
    (exponent,) = struct.unpack_from("<I", sigstruct, 512)
    if exponent != EXPONENT or modulus.bit_length() != KEY_SIZE * 8:
        raise Corrupt(f"The enclave's signer has RSA-{modulus.bit_length()}, exponent {exponent}; RSA-3072, 3 wanted.")
    try:
        rsa.RSAPublicNumbers(EXPONENT, modulus).public_key().verify(
            signature.to_bytes(KEY_SIZE, "big"), sigstruct[:128] + sigstruct[900:1028], padding.PKCS1v15(), SHA256()
        )
    except (InvalidSignature, ValueError) as error:
        raise Corrupt("The enclave's signature does not hold: the image or its signature was changed.") from error
    if any(sigstruct[1028:1040]):
        # The other reserved bytes are signed; these would let one signature have many forms.
        raise Corrupt("The enclave's signature structure has reserved bytes that are not zero.")
    if (_number(sigstruct, 1040), _number(sigstruct, 1424)) != _quotients(signature, modulus):
        raise Corrupt("The enclave's signature structure has wrong quotients Q1 and Q2.")
    prod_id, svn = struct.unpack_from("<HH", sigstruct, 1024)
    return SigStruct(
        mrsigner=hashlib.sha256(sigstruct[128:512]).digest(),
        mrenclave=sigstruct[960:992],
        attributes=sigstruct[928:944],
        isv_prod_id=prod_id,
        isv_svn=svn,
    )


def _quotients(signature: int, modulus: int) -> tuple[int, int]:
    q1, rest = divmod(signature * signature, modulus)
    return q1, signature * rest // modulus


def _le(number: int) -> bytes:
    return number.to_bytes(KEY_SIZE, "little")


def _number(sigstruct: bytes, offset: int) -> int:
    return int.from_bytes(sigstruct[offset : offset + KEY_SIZE], "little")
