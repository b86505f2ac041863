"""Whether the policy of a keyring that was received is one to believe (docs/spec/policy.md, "Who believes a policy").

Whoever is asked to believe a policy walks its links (change.py) from admins whom it trusts already to the last one:
believe() is that walk, and the only thing that makes a policy believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rkeyserver.appraisal.change import Link, digest, last_sequence, parse_link, signers
from rkeyserver.appraisal.policy import AdminsTable, parse_policy
from rkeyserver.errors import Misuse, Reason, Rejected


@dataclass(frozen=True)
class Held:
    """The state of a domain that an instance holds, for the judgement of the next. Fields as in the keyring."""

    domain: str
    epoch: int
    sequence: int
    policy: str
    changes: Sequence[str]


def check_succession(found: Held, *, held: Held | None, root: AdminsTable | None) -> None:
    """Whether the policy of a keyring that was received is one to believe, by whatever this instance goes by.

    held: what it holds itself, None for nothing; root: the admins that it was started with, None for none. What is
    older than `held` is not judged by it: it cannot be adopted anyway. What has its epoch and sequence may be.

    Raises: Rejected(POLICY_NOT_BELIEVED).
    """
    links = _links(found.domain, found.policy, found.changes)
    if root is not None:
        believe(domain=found.domain, policy=found.policy, changes=found.changes, admins=root)
    if held is None or held.domain != found.domain or (found.epoch, found.sequence) < (held.epoch, held.sequence):
        return
    if (found.policy, list(found.changes)) == (held.policy, list(held.changes)):
        return
    admins = parse_policy(held.policy).admins
    if admins is not None:
        believe(domain=found.domain, policy=found.policy, changes=found.changes, admins=admins)
    before = last_sequence(held.changes)
    number = links[-1].sequence if links else 0
    if number <= before:
        raise Rejected(
            Reason.POLICY_NOT_BELIEVED,
            f"The policy of domain {found.domain} was made by change {number}; "
            f"this instance has another one, made by change {before}.",
            advice="Two primaries have each changed it. Nothing was changed here: one more change at the primary, "
            "signed as ever, brings both together.",
        )


def believe(*, domain: str, policy: str, changes: Sequence[str], admins: AdminsTable) -> int:
    """Whether a domain's policy is one that `admins`, or whom they put in their place, have signed.

    Returns the number of the change that made it. Raises: Rejected(POLICY_NOT_BELIEVED).
    """
    advice = "Have its admins sign the present policy: rkeyserver policy propose, sign, apply."
    links = _links(domain, policy, changes)
    if not links:
        raise Rejected(
            Reason.POLICY_NOT_BELIEVED, f"The policy of domain {domain} was never signed by admins.", advice=advice
        )
    trusted = admins
    believed: Link | None = None
    for link in links:
        if len(signers(link, trusted)) >= trusted.threshold:
            # Where they gave it up, nobody came in their place: then it takes them to vouch for what the owner made.
            believed, trusted = link, link.admins or admins
    if believed is not links[-1]:
        raise Rejected(
            Reason.POLICY_NOT_BELIEVED,
            f"The policy of domain {domain} (change {links[-1].sequence}) is not signed by {admins.threshold} of the "
            f"{len(admins.keys)} admins that this instance goes by.",
            advice=advice,
        )
    return believed.sequence


def _links(domain: str, policy: str, changes: Sequence[str]) -> list[Link]:
    """A keyring's links, which are in order and lead to its policy, whoever signed them."""
    try:
        links = [parse_link(one) for one in changes]
    except Misuse as error:
        raise Rejected(
            Reason.POLICY_NOT_BELIEVED, f"The policy of domain {domain} is not to be believed. {error}"
        ) from error
    before = 0
    for link in links:
        if link.domain != domain or link.sequence <= before:
            raise Rejected(
                Reason.POLICY_NOT_BELIEVED,
                f"The changes of domain {domain} are out of order: number {link.sequence} of domain {link.domain} "
                f"after number {before}.",
            )
        before = link.sequence
    if links and links[-1].policy != digest(policy):
        raise Rejected(
            Reason.POLICY_NOT_BELIEVED,
            f"The policy of domain {domain} is {digest(policy)}; its last change ({before}) made {links[-1].policy}.",
        )
    return links
