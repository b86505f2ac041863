"""A platform whose evidence proves nothing: for tests of what lies above evidence."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from rkeyserver.attestation.evidence import Identity
from rkeyserver.errors import RkeyError
from rkeyserver.sealing.sealer import SealingIdentity
from tests.fakes.sealer import FakeSealer

MRSIGNER: Final = "5a" * 32
ISV_PROD_ID: Final = 9


@dataclass(frozen=True)
class FakePlatform:
    """Implements platforms.interface.Platform. fails: what seal() raises."""

    sealer: FakeSealer = field(default_factory=lambda: FakeSealer(platform="simulated", machine="a1" * 16))
    fails: RkeyError | None = None

    name = "simulated"
    simulated = True
    trusts_host = True
    hides_memory = False
    starts_processes = True
    waits = False
    protects = "Nothing: it is a fake."
    mrsigner = MRSIGNER
    isv_prod_id = ISV_PROD_ID

    def attester_identity(self) -> Identity:
        return Identity(self.name, self.sealer.machine)

    def evidence(self, report_data: bytes) -> bytes:
        return b"evidence over " + report_data

    def endorsements(self) -> bytes:
        return b"endorsements"

    def identity(self) -> SealingIdentity:
        return self.sealer.identity()

    def seal(self, secret: memoryview, associated_data: bytes) -> bytes:
        if self.fails is not None:
            raise self.fails
        return self.sealer.seal(secret, associated_data)

    def unseal(self, blob: bytes, associated_data: bytes, into: memoryview) -> None:
        self.sealer.unseal(blob, associated_data, into)
