"""The recovery recipients of a policy, as shares are made for them."""

from __future__ import annotations

from rkeyserver.appraisal.ed25519_keys import bare
from rkeyserver.appraisal.policy import Policy, RecoveryTable


def recipients_of(table: RecoveryTable) -> tuple[str, ...]:
    """The public keys of a policy's recovery recipients; the name that may stand behind an SSH key is no part of it."""
    return tuple(bare(one) for one in table.recipients)


def check_recoverable(policy: Policy) -> None:
    """Whether shares can be made for the recovery recipients of a policy: before it takes effect.

    Raises: Misuse naming the one that is no public key.
    """
    if policy.recovery is not None:
        from rkeyserver.sealing.shares import check_recipients  # noqa: PLC0415 - only where there are any

        check_recipients(recipients_of(policy.recovery))
