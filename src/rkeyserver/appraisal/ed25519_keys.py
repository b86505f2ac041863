"""OpenSSH Ed25519 public keys as a policy names them: one spelling for each key, and none that anybody can sign for.

Two lines that are the same key would let one person count twice (docs/spec/policy.md, "Keys of admins").
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

# What the base64 of a key begins with is its type and length; 43 characters are 258 bits, of which the first two are
# the end of that length. All 68 characters are full: no padding, and no bit that is not part of the key.
BARE_KEY: Final = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI[A-P][A-Za-z0-9+/]{42}"
_HEAD_SIZE: Final = 19

_PRIME: Final = 2**255 - 19
_ORDER_8: Final = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
# The y of all points whose order divides 8 (RFC 8032, section 5.1.7, leaves them to the verifier).
SMALL_ORDER: Final = frozenset({0, 1, _PRIME - 1, _ORDER_8, _PRIME - _ORDER_8})


def bare(line: str) -> str:
    """A key line without its name."""
    return " ".join(line.split()[:2])


def raw_key(line: str) -> bytes:
    """The 32 bytes of a key line."""
    return base64.b64decode(line.split()[1])[_HEAD_SIZE:]


def anybody_signs(line: str) -> bool:
    """Whether signatures of this key need no private key: its point has a small order, or is not in its one form."""
    y = int.from_bytes(raw_key(line), "little") & (2**255 - 1)
    return y >= _PRIME or y in SMALL_ORDER


def public_key(line: str) -> Ed25519PublicKey:
    """The key of a key line."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415 - only to verify

    return Ed25519PublicKey.from_public_bytes(raw_key(line))
