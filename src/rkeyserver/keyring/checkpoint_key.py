"""The key that signs heads of audit files (docs/spec/audit.md, "Checkpoints"): Ed25519, from the domain secret.

The same on every machine of a domain, for as long as there is one: the domain secret is never rotated. Its seed lies in
key memory of its own, so that a thread may sign while another keyring takes the place of this one.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Final, Self

from rkeyserver.keyring.derivation import Purpose, derive_into
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.secret import SecretBytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SEED_SIZE: Final = 32


class CheckpointKey:
    """That key of one domain. Close it when done.

    OpenSSL has a copy of the seed while it signs, and erases it when it gives the key's memory back.
    """

    def __init__(self, seed: SecretBytes, domain: str) -> None:
        self.domain = domain
        self._seed = seed

    @classmethod
    def derive(cls, keyring: Keyring) -> Self:
        """The key of a keyring's domain.

        Raises: Unavailable if there is no key memory.
        """
        seed = SecretBytes(SEED_SIZE)
        derive_into(
            keyring.domain_secret, domain=keyring.domain, purpose=Purpose.AUDIT_CHECKPOINT, label=b"", into=seed.view
        )
        return cls(seed, keyring.domain)

    def _private(self) -> Ed25519PrivateKey:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415 - not before one is signed
            Ed25519PrivateKey,
        )

        return Ed25519PrivateKey.from_private_bytes(self._seed.view)

    @cached_property
    def public(self) -> str:
        """The public key, 64 hex digits."""
        return self._private().public_key().public_bytes_raw().hex()

    def sign(self, data: bytes) -> str:
        """The signature over `data`, 128 hex digits."""
        return self._private().sign(data).hex()

    def close(self) -> None:
        """Erase it."""
        self._seed.close()

    def __repr__(self) -> str:
        return f"<CheckpointKey of domain {self.domain}>"
