"""Shares made on the spot: for tests of what does not depend on where they are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rkeyserver.errors import RkeyError
from rkeyserver.sealing.recovery import RecoveryShare, ShareSet
from rkeyserver.sealing.shares import combine_shares, split_secret
from rkeyserver.secret import SecretBytes, take_bytes


@dataclass
class InlineSharing:
    """Implements sealing.recovery.Sharing. fails: what it raises; secrets: all that it has split."""

    fails: RkeyError | None = None
    secrets: list[bytes] = field(default_factory=list)

    def split(self, secret: memoryview, share_set: ShareSet) -> list[RecoveryShare]:
        if self.fails is not None:
            raise self.fails
        self.secrets.append(bytes(secret))
        return split_secret(bytes(secret), share_set)

    def combine(self, shares: Sequence[memoryview], share_set: ShareSet) -> SecretBytes:
        if self.fails is not None:
            raise self.fails
        return take_bytes(combine_shares([bytes(one) for one in shares], share_set))
