"""The interface through which a platform seals. A platform implements it; nothing here knows which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class SealingIdentity:
    """What a record sealed here can be opened by. Public, written into the record's header.

    platform: the platform's registered name.
    machine: the name of this machine on that platform (for SGX the PPID, hex).
    policy: which identity the sealing key belongs to ("mrsigner" or "mrenclave" on SGX).
    versions: what else the key depends on, by Intel's names, hex or decimal text: security versions, and on SGX the
    product id and the measurement that `policy` names.
    """

    platform: str
    machine: str
    policy: str
    versions: dict[str, str]


class PlatformSealer(Protocol):
    """Wraps a 32-byte record key so that only this machine, as it is now, unwraps it."""

    def identity(self) -> SealingIdentity:
        """What the next seal() will be bound to."""

    def seal(self, secret: memoryview, associated_data: bytes) -> bytes:
        """Wrap `secret` (32 bytes, in secret memory), bound to `associated_data`.

        Raises: Unavailable if the platform gives no key now.
        """

    def unseal(self, blob: bytes, associated_data: bytes, into: memoryview) -> None:
        """Unwrap into `into` (32 bytes, in secret memory).

        Raises: Corrupt if this machine, as it is now, cannot open it; `into` is then all zero.
        """
