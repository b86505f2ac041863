"""What this instance was given to judge by, read once at start.

Where the platform trusts its host, that is the policy and the admins of the operator's files; else what is measured
into the image, and the host has no say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from rkeyserver import files
from rkeyserver.appraisal.change import PolicyChange, parse_change
from rkeyserver.appraisal.measured import Measured, first_policy
from rkeyserver.appraisal.policy import MAX_POLICY_FILE, AdminsTable, Policy, parse_admins, parse_policy, with_admins
from rkeyserver.config import Config
from rkeyserver.errors import Misuse

T = TypeVar("T")


@dataclass(frozen=True)
class Given:
    """policy: from --policy; admins: from --admins; change: from --change; None for what was not given.

    measured: what is measured into the image, None where the host's files count. Then admins are the measured ones.
    """

    policy: Policy | None
    admins: AdminsTable | None
    change: PolicyChange | None = None
    measured: Measured | None = None

    @classmethod
    def read(cls, config: Config, measured: Measured | None) -> Self:
        """Read what the configuration names. measured: as the field.

        Raises: Misuse, naming the file, or the option that does not count here.
        """
        change = _read("change", config.change, parse_change)
        if measured is not None:
            for option, said in (("--policy", config.policy), ("--admins", config.admins), ("--socket", config.socket)):
                if said is not None:
                    raise Misuse(
                        f"{option} is a host's word on what to accept; this platform does not take that from its host.",
                        advice="Leave it out; what its admins have signed is applied with `rkeyserver policy apply`.",
                    )
            return cls(policy=None, admins=measured.admins, change=change, measured=measured)
        return cls(
            policy=_read("policy", config.policy, parse_policy),
            admins=_read("admins", config.admins, parse_admins),
            change=change,
        )

    def for_a_new_domain(self, default: Policy) -> Policy:
        """The policy of a domain that is made now.

        Raises: Misuse if policy and admins exclude each other.
        """
        if self.measured is not None:
            return first_policy(default, self.measured)
        policy = self.policy or default
        return policy if self.admins is None else with_admins(policy, self.admins)


def _read(what: str, path: Path | None, parse: Callable[[str], T]) -> T | None:
    if path is None:
        return None
    text = files.read_text(path, MAX_POLICY_FILE, f"{what} file")
    try:
        return parse(text)
    except Misuse as error:
        raise Misuse(f"{path}: {error.message}", advice=error.advice) from error
