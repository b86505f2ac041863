"""Claims and a policy in, a verdict out. A verdict is the only thing that opens a hand-over.

The rules are tried in the order of `RULES`; the first that fails is the reason. All of them always apply.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from rkeyserver.appraisal.policy import Policy, SgxPolicy
from rkeyserver.attestation.evidence import Identity
from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.clock import utc
from rkeyserver.errors import Reason, Rejected


@dataclass(frozen=True)
class Verdict:
    """Claims that a policy accepted. Made by appraise() alone.

    policy: digest of the policy that accepted them; at: when, seconds since 1970.
    """

    claims: SgxClaims
    policy: str
    at: int


def check_identity(identity: Identity, policy: Policy) -> SgxPolicy:
    """Whether the policy names that machine; tried on a claimed identity before any signature costs time.

    Raises: Rejected(PLATFORM_NOT_NAMED | MACHINE_NOT_NAMED); the latter with the line that would admit it.
    """
    table = policy.tables.get(identity.platform)
    if table is None:
        named = ", ".join(sorted(policy.tables))
        raise Rejected(
            Reason.PLATFORM_NOT_NAMED,
            f"Platform {identity.platform} is not accepted; the policy names: {named}.",
            advice="A platform without a table in the policy stays outside.",
        )
    if table.machines != "any" and identity.machine not in table.machines:
        raise Rejected(
            Reason.MACHINE_NOT_NAMED,
            f"Machine {identity.machine} is not among the {len(table.machines)} that the policy names.",
            advice=f"The line that would admit it: {identity.platform} {identity.machine}",
        )
    return table


def appraise(claims: SgxClaims, policy: Policy, *, now: int) -> Verdict:
    """Judge proved claims by a policy.

    now: seconds since 1970.
    Raises: Rejected with the first rule that fails, what was found and what was wanted.
    """
    table = check_identity(claims.identity, policy)
    for rule in RULES:
        rule(claims, table)
    if claims.expires < now:
        raise Rejected(
            Reason.TCB_TOO_OLD,
            f"The collateral expired at {utc(claims.expires)}; it is now {utc(now)} here.",
            advice="Fetch newer collateral, or set the clock.",
        )
    return Verdict(claims=claims, policy=policy.digest, at=now)


def _not_debug(claims: SgxClaims, _table: SgxPolicy) -> None:
    if claims.debug:
        raise Rejected(
            Reason.DEBUG_ENCLAVE,
            "The enclave is a debug one, whose memory its host reads; wanted is a production one.",
            advice="Load an image that was not signed for debugging.",
        )


def _measurement(claims: SgxClaims, table: SgxPolicy) -> None:
    if table.mrenclave != "any" and claims.mrenclave not in table.mrenclave:
        raise Rejected(
            Reason.WRONG_MEASUREMENT,
            f"MRENCLAVE is {claims.mrenclave}; wanted is one of {', '.join(table.mrenclave)}.",
            advice="Load an accepted image there, or name this one in the policy.",
        )


def _signer(claims: SgxClaims, table: SgxPolicy) -> None:
    if table.mrsigner != "any" and claims.mrsigner not in table.mrsigner:
        raise Rejected(
            Reason.WRONG_SIGNER,
            f"MRSIGNER is {claims.mrsigner}; wanted is one of {', '.join(table.mrsigner)}.",
            advice="Load an image of an accepted signer there, or name this signer in the policy.",
        )


def _product(claims: SgxClaims, table: SgxPolicy) -> None:
    if claims.isv_prod_id != table.isv_prod_id:
        raise Rejected(
            Reason.WRONG_PRODUCT,
            f"The product id is {claims.isv_prod_id}; wanted is {table.isv_prod_id}.",
            advice="Another product of the same signer runs there: load this one.",
        )


def _version(claims: SgxClaims, table: SgxPolicy) -> None:
    if claims.isv_svn < table.min_isv_svn:
        raise Rejected(
            Reason.VERSION_TOO_LOW,
            f"The version (ISVSVN) is {claims.isv_svn}; wanted is at least {table.min_isv_svn}.",
            advice="Load a newer image there.",
        )


def _tcb_status(claims: SgxClaims, table: SgxPolicy) -> None:
    if claims.tcb_status not in table.tcb_statuses:
        raise Rejected(
            Reason.TCB_STATUS,
            f"The TCB status is {claims.tcb_status} ({', '.join(claims.advisory_ids) or 'no advisory'}); "
            f"accepted: {', '.join(table.tcb_statuses)}.",
            advice="Update the machine's BIOS and microcode, or name the status in the policy.",
        )


def _evaluation(claims: SgxClaims, table: SgxPolicy) -> None:
    if claims.tcb_eval_data_number < table.min_tcb_evaluation_data_number:
        raise Rejected(
            Reason.TCB_TOO_OLD,
            f"The TCB evaluation number is {claims.tcb_eval_data_number}; "
            f"wanted is at least {table.min_tcb_evaluation_data_number}.",
            advice="Fetch newer collateral.",
        )


def _advisories(claims: SgxClaims, table: SgxPolicy) -> None:
    if table.rejected_advisories != "none":
        found = sorted(set(claims.advisory_ids) & set(table.rejected_advisories))
        if found:
            raise Rejected(
                Reason.ADVISORY,
                f"The platform is open to {', '.join(found)}; the policy refuses that.",
                advice="Update the machine's BIOS and microcode.",
            )


def _configuration(claims: SgxClaims, table: SgxPolicy) -> None:
    for name, found, rule in (
        ("dynamic_platform", claims.dynamic_platform, table.dynamic_platform),
        ("cached_keys", claims.cached_keys, table.cached_keys),
        ("smt", claims.smt_enabled, table.smt),
    ):
        # A certificate that does not say is not one that says no.
        if rule == "refuse" and found != "False":
            raise Rejected(
                Reason.PLATFORM_CONFIGURATION,
                f"The platform's certificate says {name} is {found}; wanted is False.",
                advice="Change the machine's BIOS settings, or accept it in the policy.",
            )


RULES: Final[tuple[Callable[[SgxClaims, SgxPolicy], None], ...]] = (
    _not_debug,
    _measurement,
    _signer,
    _product,
    _version,
    _tcb_status,
    _evaluation,
    _advisories,
    _configuration,
)
