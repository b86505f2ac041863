"""HPKE (RFC 9180), base mode, one message per key: MLKEM768-X25519, HKDF-SHA256, AES-256-GCM. Nothing is negotiated.

The KEM is a hybrid of a post-quantum and a classical one: what is recorded on the wire today stays closed as
long as either holds.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from rkeyserver.errors import Reason, Rejected
from rkeyserver.secret import SecretBytes, erase, take_bytes

_MLKEM_PUBLIC_SIZE: Final = 1184
ENCAPSULATED_SIZE: Final = 1120
TAG_SIZE: Final = 16
_SUITE: Final = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class OneTimeKey:
    """A key pair for one reply, or for what is contributed to one recovery.

    public: ML-KEM-768 then X25519 public key, 1216 bytes.
    """

    __slots__ = ("_private", "public")

    def __init__(self) -> None:
        mlkem, x25519 = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
        self._private = MLKEM768X25519PrivateKey(mlkem, x25519)
        self.public = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return "<OneTimeKey>"

    def open(self, ciphertext: bytes, info: bytes) -> SecretBytes:
        """What was sealed to `public` with the same `info`; the caller closes it.

        Raises: Rejected(NOT_BOUND).
        """
        try:
            plaintext = _SUITE.decrypt(ciphertext, self._private, info)
        except (InvalidTag, ValueError) as error:
            raise Rejected(
                Reason.NOT_BOUND, "What was sealed does not open: it was made for another key or transcript."
            ) from error
        # The library returns bytes: move them to key memory, erase them, and let the same call run once more over
        # zeros, which overwrites what it left on the C stack.
        secret = take_bytes(plaintext)
        size = len(plaintext)
        del plaintext
        dummy = OneTimeKey()
        erase(_SUITE.decrypt(seal(memoryview(bytes(size)), dummy.public, b""), dummy._private, b""))
        return secret


def seal(plaintext: memoryview, public: bytes, info: bytes) -> bytes:
    """Seal `plaintext` (key memory) to the holder of `public`, bound to `info`: encapsulated key, then ciphertext.

    Raises: Rejected(MALFORMED) if `public` is no such key.
    """
    try:
        key = MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(public[:_MLKEM_PUBLIC_SIZE]),
            X25519PublicKey.from_public_bytes(public[_MLKEM_PUBLIC_SIZE:]),
        )
        ciphertext = _SUITE.encrypt(plaintext, key, info)
        # The shared secret stays in memory that the library has freed; with the ciphertext it opens the keyring. The
        # same calls once more, over zeros, overwrite it with secrets of nothing.
        _SUITE.encrypt(bytes(len(plaintext)), key, info)
    except ValueError as error:
        raise Rejected(Reason.MALFORMED, f"The one-time public key is not valid: {error}.") from error
    return ciphertext
