"""Secrets of callers, wrapped under a generation of the root key (docs/spec/keyring.md, "Wrapping").

    wrapped = 01 ‖ generation id (16) ‖ salt (32) ‖ AES-256-GCM ciphertext ‖ tag (16)

    wrapping key    = derived key of purpose "wrap" for framed( label, salt ), 32 bytes
    associated data = framed( "rkeyserver/v1 wrapped", domain id, the first 49 bytes, label, the caller's )

Each wrap has a key of its own, from 32 random bytes: so the nonce is zero, and no number of wraps wears the root key
out. The root key itself encrypts nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from rkeyserver.errors import Misuse, Reason, Rejected
from rkeyserver.framing import framed
from rkeyserver.keyring.derivation import ID_SIZE, Purpose, derive_into
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.sealing.aead import TAG_SIZE, open_once, seal_once
from rkeyserver.secret import SecretBytes

VERSION: Final = 1
SALT_SIZE: Final = 32
MAX_PLAINTEXT: Final = 64 * 1024
MAX_ASSOCIATED_DATA: Final = 64 * 1024
OVERHEAD: Final = 1 + ID_SIZE + SALT_SIZE + TAG_SIZE
_HEAD: Final = 1 + ID_SIZE + SALT_SIZE


@dataclass(frozen=True)
class Unwrapped:
    """An opened secret and the id of the generation that it was wrapped under. Close the secret when done."""

    secret: SecretBytes
    generation: str


def wrap(keyring: Keyring, label: bytes, plaintext: memoryview, associated_data: bytes) -> bytes:
    """`plaintext` (at most MAX_PLAINTEXT bytes) wrapped under the current generation; OVERHEAD bytes longer.

    label: whose it is; associated_data: the caller's, at most MAX_ASSOCIATED_DATA bytes. It opens with both alone.
    Raises: Misuse for what is too long.
    """
    _check_size("secret", len(plaintext), MAX_PLAINTEXT)
    _check_size("associated data", len(associated_data), MAX_ASSOCIATED_DATA)
    generation = keyring.current.id
    head = bytes((VERSION,)) + bytes.fromhex(generation) + os.urandom(SALT_SIZE)
    with _key(keyring, generation, label, head) as key:
        return head + seal_once(key.view, plaintext, _bound(keyring, label, head, associated_data))


def unwrap(keyring: Keyring, label: bytes, wrapped: bytes, associated_data: bytes) -> Unwrapped:
    """Undo wrap(), by whichever generation of this domain it was made.

    Raises: Rejected(MALFORMED | NO_SUCH_GENERATION | DOES_NOT_OPEN).
    """
    if not OVERHEAD <= len(wrapped) <= OVERHEAD + MAX_PLAINTEXT or wrapped[0] != VERSION:
        raise Rejected(
            Reason.MALFORMED,
            f"This is no wrapped secret: {len(wrapped)} bytes"
            + (f", of version {wrapped[0]}" if wrapped else "")
            + f"; wanted are {OVERHEAD} to {OVERHEAD + MAX_PLAINTEXT}, of version {VERSION}.",
        )
    head, generation = wrapped[:_HEAD], wrapped[1 : 1 + ID_SIZE].hex()
    keyring.generation_named(generation)
    secret = SecretBytes(len(wrapped) - OVERHEAD, brief=True)
    with _key(keyring, generation, label, head) as key:
        bound = _bound(keyring, label, head, associated_data)
        if open_once(key.view, wrapped[_HEAD:], bound, secret.view):
            return Unwrapped(secret, generation)
    secret.close()
    raise Rejected(
        Reason.DOES_NOT_OPEN,
        "The secret does not open: it was wrapped for another label or with other associated data, or was changed.",
    )


def rewrap(keyring: Keyring, label: bytes, wrapped: bytes, associated_data: bytes) -> bytes:
    """The same secret under the current generation; `wrapped` itself, once proved to open, if it is under that already.

    Raises: as unwrap().
    """
    found = unwrap(keyring, label, wrapped, associated_data)
    with found.secret as secret:
        if found.generation == keyring.current.id:
            return wrapped
        return wrap(keyring, label, secret.view, associated_data)


def _check_size(what: str, size: int, most: int) -> None:
    if size > most:
        raise Misuse(f"The {what} has {size} bytes; at most {most} are taken.", advice="Wrap a key, and use that.")


def _key(keyring: Keyring, generation: str, label: bytes, head: bytes) -> SecretBytes:
    key = SecretBytes(32, brief=True)
    salt = head[1 + ID_SIZE :]
    derive_into(
        keyring.root_key(generation),
        domain=keyring.domain,
        purpose=Purpose.WRAP,
        label=framed(label, salt),
        into=key.view,
    )
    return key


def _bound(keyring: Keyring, label: bytes, head: bytes, associated_data: bytes) -> bytes:
    return framed(b"rkeyserver/v1 wrapped", keyring.domain.encode(), head, label, associated_data)
