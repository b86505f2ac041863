"""Does a new policy accept less than the one it replaces? What then has to follow is not for this module to say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rkeyserver.appraisal.ed25519_keys import bare
from rkeyserver.appraisal.labels import covers
from rkeyserver.appraisal.policy import Application, CallerEntry, EnclaveEntry, Policy, RecoveryTable, SgxPolicy

_LISTS: Final = {
    "machines": "machine",
    "mrenclave": "MRENCLAVE",
    "mrsigner": "MRSIGNER",
    "tcb_statuses": "TCB status",
}
_FLOORS: Final = ("min_isv_svn", "min_tcb_evaluation_data_number")
_SWITCHES: Final = ("dynamic_platform", "cached_keys", "smt")


def narrows(old: Policy, new: Policy) -> list[str]:
    """Every way in which `new` accepts less than `old`, one sentence each; empty if in none.

    By the rules, not by what they come to together: what only another rule had refused already counts too.
    """
    said: list[str] = []
    for name, before in old.tables.items():
        after = new.tables.get(name)
        if after is None:
            said.append(f"[{name}]: the platform is no longer accepted.")
        else:
            said += [f"[{name}] {sentence}" for sentence in _narrower(before, after)]
    said += _fewer_applications(old.applications, new.applications)
    said += _permits_less(_with_tokens(old), _with_tokens(new))
    said += _fewer_enclaves(old.enclaves, new.enclaves)
    if old.recovery is not None:
        said += [f"[recovery] {sentence}" for sentence in _fewer_recipients(old.recovery, new.recovery)]
    return said


def takes_from_users(old: Policy, new: Policy) -> list[str]:
    """What users and groups of a machine may do no longer, one sentence each; it adds no generation.

    They are callers only where the host is trusted: who can put an older policy back there could as well read the keys.
    """
    users, left = ([one for one in policy.callers if one.token_sha256 is None] for policy in (old, new))
    return _permits_less(users, left)


def _with_tokens(policy: Policy) -> list[CallerEntry]:
    return [one for one in policy.callers if one.token_sha256 is not None]


def _permits_less(old: Iterable[CallerEntry], new: Iterable[CallerEntry]) -> list[str]:
    permitted: dict[tuple[str, str], list[str]] = {}
    for entry in new:
        for action in entry.may:
            permitted.setdefault((_who(entry), action), []).extend(entry.labels)
    lost = dict.fromkeys(
        f"[callers {_who(entry)}]: may no longer {action} for label {label!r}."
        for entry in old
        for action in entry.may
        for label in entry.labels
        if not covers(permitted.get((_who(entry), action), ()), label)
    )
    return list(lost)


def _who(entry: CallerEntry) -> str:
    if entry.token_sha256 is not None:
        return f"token {entry.token_sha256}"
    return f"gid {entry.gid}" if entry.uid is None else f"uid {entry.uid}"


def _fewer_recipients(old: RecoveryTable, new: RecoveryTable | None) -> list[str]:
    # Whoever was one can still open an older record.
    if new is None:
        return ["recipients: there are none any more."]
    left = {bare(one) for one in new.recipients}
    said = [f"recipients: {one} is none any more." for one in old.recipients if bare(one) not in left]
    if old.threshold < new.threshold:
        said.append(f"threshold: {old.threshold} of them were enough, now it takes {new.threshold}.")
    return said


def _fewer_applications(old: tuple[Application, ...], new: tuple[Application, ...]) -> list[str]:
    # What it has derived for it, it keeps; from a generation that comes now it gets nothing.
    after = {one.label: one for one in new}
    said = []
    for one in old:
        if one.label in after:
            said += [f"[applications {one.label!r}] {sentence}" for sentence in _narrower(one, after[one.label])]
        else:
            said.append(f"[applications {one.label!r}]: gets no key any more.")
    return said


def _fewer_enclaves(old: tuple[EnclaveEntry, ...], new: tuple[EnclaveEntry, ...]) -> list[str]:
    # As an application: it keeps what it got. They have no names, so an entry stays where another accepts as much.
    said = []
    for number, one in enumerate(old, 1):
        if not any(_accepts_as_much(other, one) for other in new):
            labels = ", ".join(one.labels)
            said.append(f"[enclaves] no entry accepts all that the entry {number} of before did, for {labels}.")
    return said


def _accepts_as_much(new: EnclaveEntry, old: EnclaveEntry) -> bool:
    return (
        not _narrower(old, new) and set(old.may) <= set(new.may) and all(covers(new.labels, one) for one in old.labels)
    )


def _narrower(old: SgxPolicy, new: SgxPolicy) -> list[str]:
    said = []
    for key, what in _LISTS.items():
        before, after = getattr(old, key), getattr(new, key)
        if after == "any":
            continue
        if before == "any":
            said.append(f"{key}: any {what} was accepted, now only {len(after)} named.")
        else:
            said += [f"{key}: {what} {one} is no longer accepted." for one in before if one not in after]
    if old.isv_prod_id != new.isv_prod_id:
        said.append(f"isv_prod_id: product {old.isv_prod_id} is no longer accepted, now {new.isv_prod_id}.")
    said += [
        f"{key}: the floor was {getattr(old, key)}, now {getattr(new, key)}."
        for key in _FLOORS
        if getattr(old, key) < getattr(new, key)
    ]
    if old.out_of_date_grace_days > new.out_of_date_grace_days:
        said.append(
            f"out_of_date_grace_days: the grace was {old.out_of_date_grace_days} days, "
            f"now {new.out_of_date_grace_days}."
        )
    if new.rejected_advisories != "none":
        before = [] if old.rejected_advisories == "none" else old.rejected_advisories
        said += [f"rejected_advisories: {one} is refused now." for one in new.rejected_advisories if one not in before]
    said += [
        f"{key}: was accepted, is refused now."
        for key in _SWITCHES
        if (getattr(old, key), getattr(new, key)) == ("accept", "refuse")
    ]
    return said
