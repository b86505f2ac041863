"""Keys for callers, derived from a generation of the root key (docs/spec/keyring.md, "Derivation").

    derived key = derived key of purpose "derived key" for framed( label, size in 2 bytes, big-endian )

A longer key does not begin with a shorter one of the same label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rkeyserver.errors import Misuse
from rkeyserver.framing import framed
from rkeyserver.keyring.derivation import Purpose, derive_into
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.secret import SecretBytes

MIN_SIZE: Final = 16
MAX_SIZE: Final = 64
DEFAULT_SIZE: Final = 32


@dataclass(frozen=True)
class Derived:
    """A derived key and the id of the generation that it is from. Close the secret when done."""

    secret: SecretBytes
    generation: str


def derive(keyring: Keyring, label: bytes, *, size: int, generation: str) -> Derived:
    """The key of `label` under a generation: "first", "current", or one by its id. size: MIN_SIZE to MAX_SIZE bytes.

    Raises: Misuse for another size; Rejected(NO_SUCH_GENERATION).
    """
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise Misuse(f"A derived key of {size} bytes; wanted are {MIN_SIZE} to {MAX_SIZE}.")
    found = keyring.generation_named(generation)
    secret = SecretBytes(size, brief=True)
    derive_into(
        keyring.root_key(found),
        domain=keyring.domain,
        purpose=Purpose.DERIVED_KEY,
        label=framed(label, size.to_bytes(2, "big")),
        into=secret.view,
    )
    return Derived(secret, found)
