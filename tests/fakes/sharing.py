"""Shares made on the spot by the real code, watched: for tests of what does not depend on where they are made."""

from __future__ import annotations

from collections.abc import Sequence

from rkeyserver.errors import RkeyError
from rkeyserver.sealing.recovery import RecoveryShare, ShareSet
from rkeyserver.secret import SecretBytes
from rkeyserver.service.sharing_inline import InlineSharing


class WatchedSharing(InlineSharing):
    """Implements sealing.recovery.Sharing. fails: what it raises; secrets: all that it has split."""

    def __init__(self, fails: RkeyError | None = None) -> None:
        self.fails = fails
        self.secrets: list[bytes] = []

    def split(self, secret: memoryview, share_set: ShareSet) -> list[RecoveryShare]:
        if self.fails is not None:
            raise self.fails
        self.secrets.append(bytes(secret))
        return super().split(secret, share_set)

    def combine(self, shares: Sequence[memoryview], share_set: ShareSet) -> SecretBytes:
        if self.fails is not None:
            raise self.fails
        return super().combine(shares, share_set)
