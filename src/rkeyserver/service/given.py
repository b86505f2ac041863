"""What the operator gave this instance to judge by: the policy and the admins of its own files, read once at start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from rkeyserver import files
from rkeyserver.appraisal.change import PolicyChange, parse_change
from rkeyserver.appraisal.policy import MAX_POLICY_FILE, AdminsTable, Policy, parse_admins, parse_policy, with_admins
from rkeyserver.config import Config
from rkeyserver.errors import Misuse

T = TypeVar("T")


@dataclass(frozen=True)
class Given:
    """policy: from --policy; admins: from --admins; change: from --change; None for what was not given."""

    policy: Policy | None
    admins: AdminsTable | None
    change: PolicyChange | None = None

    @classmethod
    def read(cls, config: Config) -> Self:
        """Read both files.

        Raises: Misuse, naming the file.
        """
        return cls(
            policy=_read("policy", config.policy, parse_policy),
            admins=_read("admins", config.admins, parse_admins),
            change=_read("change", config.change, parse_change),
        )

    def for_a_new_domain(self, default: Policy) -> Policy:
        """The policy of a domain that is made now.

        Raises: Misuse if policy and admins exclude each other.
        """
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
