"""What comes out of a key: derived keys and public ids, one way (docs/spec/keyring.md, "Derivation").

A root key is 32 uniformly random bytes, so it serves as HKDF's pseudorandom key (RFC 5869, section 3.3): only the
expand step runs, and no second key-equivalent value exists that would have to be erased.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from rkeyserver.framing import framed

KEY_SIZE: Final = 32
ID_SIZE: Final = 16
_LABEL: Final = b"rkeyserver/v1"
_SHA256: Final = SHA256()
_NO_KEY: Final = memoryview(bytes(KEY_SIZE))


class Purpose(StrEnum):
    """What keys are derived for."""

    RA_TLS_SECRET = "ra-tls secret"  # noqa: S105 - a name
    RA_TLS_CA = "ra-tls ca"
    DERIVED_KEY = "derived key"
    WRAP = "wrap"
    COORDINATOR = "coordinator"  # of the domain secret
    AUDIT_CHECKPOINT = "audit checkpoint"


def _expand(key: memoryview, info: bytes, into: memoryview | bytearray) -> None:
    HKDFExpand(algorithm=_SHA256, length=len(into), info=info).derive_into(key, into)


def derive_into(root_key: memoryview, *, domain: str, purpose: str, label: bytes, into: memoryview) -> None:
    """Derive a key for `label` into `into` (key memory, at most 8,160 bytes).

    purpose: what the derived key is for, one of a closed set of names, so that no use can ask for another's key.
    """
    info = framed(_LABEL, domain.encode(), purpose.encode(), label)
    _expand(root_key, info, into)
    # A hash leaves half of what it found on the C stack until it runs again: let that be of no key.
    _expand(_NO_KEY, info, bytearray(len(into)))


def domain_id(domain_secret: memoryview) -> str:
    """The public id (32 hex digits) of the domain whose secret this is."""
    found = bytearray(ID_SIZE)
    _expand(domain_secret, framed(_LABEL, b"domain id"), found)
    return found.hex()


def generation_id(root_key: memoryview, domain: str) -> str:
    """The public id (32 hex digits) of a generation of the root key."""
    found = bytearray(ID_SIZE)
    _expand(root_key, framed(_LABEL, b"generation id", domain.encode()), found)
    return found.hex()
