"""Shares of recovery secrets, made and put together in this process, for a platform that starts none.

The libraries copy what they work on (the secret, its halves, each share, its words) into ordinary memory, where nothing
erases them: they are free at once, and overwritten when the memory is used again. So this is only for a platform whose
whole memory is hidden from everybody else, as an enclave's is: the root key that the secret leads to lies in the same
memory anyway. docs/limitations.md says so.
"""

from __future__ import annotations

from collections.abc import Sequence

from rkeyserver.sealing.recovery import RecoveryShare, ShareSet
from rkeyserver.secret import SecretBytes, erase, take_bytes


class InlineSharing:
    """Implements sealing.recovery.Sharing.

    What was handed in as bytes, and what came back as such, is overwritten; what went on from there is not to be found.
    A split takes 5 to 15 ms of the loop's time, for 1 to 16 recipients, at a seal of a domain that has some.
    """

    def split(self, secret: memoryview, share_set: ShareSet) -> list[RecoveryShare]:
        """As sealing.recovery.Sharing."""
        from rkeyserver.sealing.shares import split_secret  # noqa: PLC0415 - as below

        copy = bytes(secret)
        try:
            return split_secret(copy, share_set)
        finally:
            erase(copy)

    def combine(self, shares: Sequence[memoryview], share_set: ShareSet) -> SecretBytes:
        """As sealing.recovery.Sharing."""
        from rkeyserver.sealing.shares import combine_shares  # noqa: PLC0415 - only a domain with recipients needs it

        copies = [bytes(one) for one in shares]
        try:
            return take_bytes(combine_shares(copies, share_set))
        finally:
            for one in copies:
                erase(one)
