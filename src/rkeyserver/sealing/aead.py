"""AES-256-GCM over key memory that leaves no copy of key or plaintext behind.

docs/limitations.md says what was measured.
"""

from __future__ import annotations

import ctypes
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

TAG_SIZE: Final = 16

# Safe only because every key here seals exactly one message: record keys and slot keys are fresh for each seal().
_NONCE: Final = bytes(12)

_DUMMY_CIPHER: Final = AESGCM(bytes(32))
_DUMMY: Final = _DUMMY_CIPHER.encrypt(_NONCE, bytes(32), None)
_DUMMY_INTO: Final = bytearray(32)


def seal_once(key: memoryview, plaintext: memoryview, associated_data: bytes) -> bytes:
    """Ciphertext and tag of `plaintext` under a key that was made for this one call."""
    return AESGCM(key).encrypt(_NONCE, plaintext, associated_data)


def open_once(key: memoryview, ciphertext: bytes, associated_data: bytes, into: memoryview) -> bool:
    """Open what seal_once() made into `into` (TAG_SIZE bytes shorter); False, and zeros, if it does not open."""
    try:
        AESGCM(key).decrypt_into(_NONCE, ciphertext, associated_data, into)
    except InvalidTag:
        if len(into):
            ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(into)), 0, len(into))
        return False
    # The last block stays on the C stack until the same call runs again: let it be zeros that stay there.
    _DUMMY_CIPHER.decrypt_into(_NONCE, _DUMMY, None, _DUMMY_INTO)
    return True
