"""The recovery recipients of a policy, as shares are made for them, and of a record, as its slots show them."""

from __future__ import annotations

from typing import Any

from rkeyserver.appraisal.ed25519_keys import bare
from rkeyserver.appraisal.policy import Policy, RecoveryTable
from rkeyserver.sealing.record import Header, PlatformSlot
from rkeyserver.sealing.recovery import fingerprint


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


def slots_of(header: Header) -> list[dict[str, Any]]:
    """The slots of a record, for Instance.status()."""
    return [
        {"type": "platform", "platform": one.platform, "policy": one.policy, "versions": one.versions}
        if isinstance(one, PlatformSlot)
        else {
            "type": "recovery",
            "threshold": one.threshold,
            "recipients": [fingerprint(share.recipient) for share in one.shares],
        }
        for one in header.slots
    ]
