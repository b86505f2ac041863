"""A sealer whose key is a plain number of bytes: for tests of what lies above the platforms."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

from rkeyserver.errors import Corrupt
from rkeyserver.sealing.aead import open_once, seal_once
from rkeyserver.sealing.sealer import SealingIdentity


@dataclass(frozen=True)
class FakeSealer:
    machine: str = "machine-a"
    platform: str = "fake"
    policy: str = "mrsigner"
    versions: dict[str, str] = field(default_factory=lambda: {"cpu_svn": "1"})

    def identity(self) -> SealingIdentity:
        return SealingIdentity(self.platform, self.machine, self.policy, self.versions)

    def _key(self, associated_data: bytes) -> memoryview:
        # Fresh for each message, as seal_once() wants: the associated data of these tests never repeats.
        text = f"{self.platform} {self.machine} {self.policy} {sorted(self.versions.items())}".encode()
        return memoryview(hashlib.sha256(text + associated_data).digest())

    def seal(self, secret: memoryview, associated_data: bytes) -> bytes:
        return seal_once(self._key(associated_data), secret, associated_data)

    def unseal(self, blob: bytes, associated_data: bytes, into: memoryview) -> None:
        if len(blob) != len(into) + 16 or not open_once(self._key(associated_data), blob, associated_data, into):
            raise Corrupt("the fake key does not open it")

    def updated(self) -> FakeSealer:
        """The same machine after a microcode update."""
        return replace(self, versions={"cpu_svn": "2"})
