"""Who on this machine may do what with which labels: the [[callers]] of the policy (docs/spec/policy.md, "Callers").

Nobody but the user that the server runs as, unless an entry says so. There is no order and no refusal among entries:
what any one of them permits is permitted.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum

from rkeyserver.appraisal.labels import names
from rkeyserver.appraisal.policy import CallerEntry, Policy
from rkeyserver.errors import Reason, Rejected


class Action(StrEnum):
    """What a caller can ask for."""

    DERIVE = "derive"
    WRAP = "wrap"
    UNWRAP = "unwrap"
    REWRAP = "rewrap"


@dataclass(frozen=True)
class LocalCaller:
    """A process on this machine, as the kernel says who it is. gids: all its groups. own: the server's very user."""

    pid: int
    uid: int
    gids: AbstractSet[int]
    own: bool

    def __str__(self) -> str:
        return f"uid {self.uid}"

    def is_that(self, entry: CallerEntry) -> bool:
        """Whether an entry is about it."""
        return entry.uid == self.uid if entry.uid is not None else entry.gid in self.gids


@dataclass(frozen=True)
class TokenCaller:
    """Whoever has a token. digest: the SHA-256 of it, hex."""

    digest: str
    own: bool = False

    def __str__(self) -> str:
        return f"token {self.digest[:16]}"

    def is_that(self, entry: CallerEntry) -> bool:
        """Whether an entry is about it."""
        return entry.token_sha256 == self.digest


Caller = LocalCaller | TokenCaller


def check_permitted(caller: Caller, action: Action, label: str, policy: Policy) -> None:
    """Whether `caller` may do that with `label`.

    Raises: Rejected(NOT_PERMITTED).
    """
    if caller.own:
        return
    entries = [one for one in policy.callers if caller.is_that(one)]
    if any(action in one.may and names(one.labels, label) for one in entries):
        return
    raise Rejected(
        Reason.NOT_PERMITTED,
        f"The policy does not let {caller} {action} for label {label!r}.",
        advice="An entry under [[callers]] would: `rkeyserver policy show` has the present ones.",
    )
