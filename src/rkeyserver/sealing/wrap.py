"""Wrapping a record key under a platform's sealing key, which no other key of the platform's may follow from.

    salt, 32 random bytes ‖ AES-256-GCM under the wrapping key, nonce zero, of the secret

    wrapping key = HKDFExpand-SHA256(platform key, "rkeyserver/v1 platform wrap", salt)     lengths prefixed, 32 bytes

A platform (SGX gives 16 bytes) always derives the same sealing key, so the salt makes the wrapping key fresh for each
wrap: a nonce of zero is then never used twice under one key. The platform key is uniformly random, as an HKDF PRK is.
"""

from __future__ import annotations

import os
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from rkeyserver.errors import Corrupt
from rkeyserver.framing import framed
from rkeyserver.sealing.aead import TAG_SIZE, open_once, seal_once
from rkeyserver.secret import SecretBytes

SALT_SIZE: Final = 32

_LABEL: Final = b"rkeyserver/v1 platform wrap"


def wrap(platform_key: memoryview, secret: memoryview, associated_data: bytes) -> bytes:
    """`secret` wrapped under `platform_key` (both in key memory), bound to `associated_data`; 48 bytes longer."""
    salt = os.urandom(SALT_SIZE)
    with _wrapping_key(platform_key, salt) as key:
        return salt + seal_once(key.view, secret, associated_data)


def unwrap(platform_key: memoryview, blob: bytes, associated_data: bytes, into: memoryview) -> None:
    """Undo wrap() into `into` (key memory, 48 bytes shorter than `blob`).

    Raises: Corrupt if it does not open; `into` is then all zero.
    """
    wanted = SALT_SIZE + len(into) + TAG_SIZE
    if len(blob) != wanted:
        into[:] = bytes(len(into))
        raise Corrupt(f"The wrapped key has {len(blob)} bytes, {wanted} wanted.")
    with _wrapping_key(platform_key, blob[:SALT_SIZE]) as key:
        if not open_once(key.view, blob[SALT_SIZE:], associated_data, into):
            raise Corrupt(
                "The wrapped key does not open: it was wrapped under another key, for another record, or damaged."
            )


def _wrapping_key(platform_key: memoryview, salt: bytes) -> SecretBytes:
    key = SecretBytes(32)
    HKDFExpand(SHA256(), len(key), framed(_LABEL, salt)).derive_into(platform_key, key.view)
    return key
