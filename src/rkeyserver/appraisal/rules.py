"""Every rule of the appraisal, once: what it looks at, what it wants, and what to say where it fails.

appraise() asks each rule only whether it holds; texts are made for the one that fails, and for people who want to see
all of them (explain()). docs/spec/policy.md, "Appraisal".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from rkeyserver.appraisal.policy import Policy, SgxPolicy, Switch
from rkeyserver.attestation.check import Check
from rkeyserver.attestation.evidence import Identity
from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.clock import DAY, utc
from rkeyserver.errors import Reason, Rejected

Found = TypeVar("Found")
Wanted = TypeVar("Wanted")


@dataclass(frozen=True)
class Rule(Generic[Found, Wanted]):
    """One rule. Its functions take what was found, what the policy says, and the time in seconds since 1970.

    name: the policy's key, or what the rule is about. sentence: what to say where it fails, of {found} and {wanted}.
    advice: what to do then; {line} in it is what line() says of what was found.
    """

    name: str
    reason: Reason
    holds: Callable[[Found, Wanted, int], bool]
    found: Callable[[Found, Wanted], str]
    wanted: Callable[[Wanted, int], str]
    sentence: str
    advice: str
    line: Callable[[Found], str] = str

    def refusal(self, found: Found, wanted: Wanted, now: int) -> Rejected:
        """The error for where it does not hold."""
        message = self.sentence.format(found=self.found(found, wanted), wanted=self.wanted(wanted, now))
        return Rejected(self.reason, message, advice=self.advice.format(line=self.line(found)))

    def check(self, found: Found, wanted: Wanted, now: int) -> Check:
        """The same for people: nothing is raised."""
        passed = self.holds(found, wanted, now)
        advice = "" if passed else self.advice.format(line=self.line(found))
        return Check(self.name, self.found(found, wanted), self.wanted(wanted, now), passed, str(self.reason), advice)

    def not_made(self, wanted: str) -> Check:
        """The check where it cannot be made."""
        return Check(self.name, "", wanted, None, str(self.reason))


_SgxRule = Rule[SgxClaims, SgxPolicy]

PLATFORM: Final = Rule[Identity, Policy](
    name="platform",
    reason=Reason.PLATFORM_NOT_NAMED,
    holds=lambda identity, policy, _: identity.platform in policy.tables,
    found=lambda identity, _: identity.platform,
    wanted=lambda policy, _: ", ".join(sorted(policy.tables)),
    sentence="Platform {found} is not accepted; the policy names: {wanted}.",
    advice="A platform without a table in the policy stays outside.",
)

MACHINE: Final = Rule[Identity, SgxPolicy](
    name="machines",
    reason=Reason.MACHINE_NOT_NAMED,
    holds=lambda identity, table, _: table.machines == "any" or identity.machine in table.machines,
    found=lambda identity, _: identity.machine,
    line=lambda identity: f"{identity.platform} {identity.machine}",
    wanted=lambda table, _: (
        "any" if table.machines == "any" else f"among the {len(table.machines)} that the policy names"
    ),
    sentence="Machine {found} is not {wanted}.",
    advice="The line that would admit it: {line}",
)


def _one_of(named: str | list[str]) -> str:
    return named if isinstance(named, str) else f"one of {', '.join(named)}"


def _refused(claims: SgxClaims, table: SgxPolicy) -> list[str]:
    return sorted(set(claims.advisory_ids) & set(table.rejected_advisories))


def _out_of_date_since(claims: SgxClaims) -> int | None:
    """The older one of the dates of the levels that are out of date; None if none is."""
    if not claims.tcb_status.startswith("OutOfDate"):
        return None
    levels = ((claims.platform_status, claims.tcb_date), (claims.qe_status, claims.qe_tcb_date))
    dates = [date for status, date in levels if status.startswith("OutOfDate")]
    return min(dates, default=min(claims.tcb_date, claims.qe_tcb_date))


def _within_grace(claims: SgxClaims, table: SgxPolicy, now: int) -> bool:
    # As the grace periods of Intel's quote appraisal (SGX DCAP, platform_grace_period): counted from the TCB date.
    since = _out_of_date_since(claims)
    return since is None or since + table.out_of_date_grace_days * DAY >= now


def _grace_found(claims: SgxClaims, _table: SgxPolicy) -> str:
    since = _out_of_date_since(claims)
    return "not out of date" if since is None else f"{claims.tcb_status} with a TCB of {utc(since)}"


def _grace_wanted(table: SgxPolicy, now: int) -> str:
    days = table.out_of_date_grace_days
    if not days:
        return "not out of date"
    return f"not out of date, or a TCB of {utc(now - days * DAY)} or later ({days} days before now, {utc(now)})"


def _configuration(name: str, found: Callable[[SgxClaims], str], switch: Callable[[SgxPolicy], Switch]) -> _SgxRule:
    return _SgxRule(
        name=name,
        reason=Reason.PLATFORM_CONFIGURATION,
        # A certificate that does not say is not one that says no.
        holds=lambda claims, table, _: switch(table) == "accept" or found(claims) == "False",
        found=lambda claims, _: found(claims),
        wanted=lambda table, _: "any" if switch(table) == "accept" else "False",
        sentence=f"The platform's certificate says {name} is {{found}}; wanted is {{wanted}}.",
        advice="Change the machine's BIOS settings, or accept it in the policy.",
    )


RULES: Final[tuple[_SgxRule, ...]] = (
    _SgxRule(
        name="debug",
        reason=Reason.DEBUG_ENCLAVE,
        holds=lambda claims, _table, _: not claims.debug,
        found=lambda claims, _: "debug" if claims.debug else "production",
        wanted=lambda _table, _: "production",
        sentence="The enclave is a {found} one, whose memory its host reads; wanted is a {wanted} one.",
        advice="Load an image that was not signed for debugging.",
    ),
    _SgxRule(
        name="mrenclave",
        reason=Reason.WRONG_MEASUREMENT,
        holds=lambda claims, table, _: table.mrenclave == "any" or claims.mrenclave in table.mrenclave,
        found=lambda claims, _: claims.mrenclave,
        wanted=lambda table, _: _one_of(table.mrenclave),
        sentence="MRENCLAVE is {found}; wanted is {wanted}.",
        advice="Load an accepted image there, or name this one in the policy.",
    ),
    _SgxRule(
        name="mrsigner",
        reason=Reason.WRONG_SIGNER,
        holds=lambda claims, table, _: table.mrsigner == "any" or claims.mrsigner in table.mrsigner,
        found=lambda claims, _: claims.mrsigner,
        wanted=lambda table, _: _one_of(table.mrsigner),
        sentence="MRSIGNER is {found}; wanted is {wanted}.",
        advice="Load an image of an accepted signer there, or name this signer in the policy.",
    ),
    _SgxRule(
        name="isv_prod_id",
        reason=Reason.WRONG_PRODUCT,
        holds=lambda claims, table, _: claims.isv_prod_id == table.isv_prod_id,
        found=lambda claims, _: str(claims.isv_prod_id),
        wanted=lambda table, _: str(table.isv_prod_id),
        sentence="The product id is {found}; wanted is {wanted}.",
        advice="Another product of the same signer runs there: load this one.",
    ),
    _SgxRule(
        name="min_isv_svn",
        reason=Reason.VERSION_TOO_LOW,
        holds=lambda claims, table, _: claims.isv_svn >= table.min_isv_svn,
        found=lambda claims, _: str(claims.isv_svn),
        wanted=lambda table, _: f"at least {table.min_isv_svn}",
        sentence="The version (ISVSVN) is {found}; wanted is {wanted}.",
        advice="Load a newer image there.",
    ),
    _SgxRule(
        name="tcb_statuses",
        reason=Reason.TCB_STATUS,
        holds=lambda claims, table, _: claims.tcb_status in table.tcb_statuses,
        found=lambda claims, _: f"{claims.tcb_status} ({', '.join(claims.advisory_ids) or 'no advisory'})",
        wanted=lambda table, _: ", ".join(table.tcb_statuses),
        sentence="The TCB status is {found}; accepted: {wanted}.",
        advice="Update the machine's BIOS and microcode, or name the status in the policy.",
    ),
    _SgxRule(
        name="out_of_date_grace_days",
        reason=Reason.TCB_TOO_OLD,
        holds=_within_grace,
        found=_grace_found,
        wanted=_grace_wanted,
        sentence="The TCB status is {found}; wanted is {wanted}.",
        advice="Update the machine's BIOS and microcode, or lengthen the grace in the policy.",
    ),
    _SgxRule(
        name="min_tcb_evaluation_data_number",
        reason=Reason.TCB_TOO_OLD,
        holds=lambda claims, table, _: claims.tcb_eval_data_number >= table.min_tcb_evaluation_data_number,
        found=lambda claims, _: str(claims.tcb_eval_data_number),
        wanted=lambda table, _: f"at least {table.min_tcb_evaluation_data_number}",
        sentence="The TCB evaluation number is {found}; wanted is {wanted}.",
        advice="Fetch newer collateral.",
    ),
    _SgxRule(
        name="rejected_advisories",
        reason=Reason.ADVISORY,
        holds=lambda claims, table, _: table.rejected_advisories == "none" or not _refused(claims, table),
        found=lambda claims, table: ", ".join(_refused(claims, table) or claims.advisory_ids) or "no advisory",
        wanted=lambda table, _: (
            "any" if table.rejected_advisories == "none" else f"none of {', '.join(table.rejected_advisories)}"
        ),
        sentence="The platform is open to {found}; the policy refuses that.",
        advice="Update the machine's BIOS and microcode.",
    ),
    _configuration("dynamic_platform", lambda claims: claims.dynamic_platform, lambda table: table.dynamic_platform),
    _configuration("cached_keys", lambda claims: claims.cached_keys, lambda table: table.cached_keys),
    _configuration("smt", lambda claims: claims.smt_enabled, lambda table: table.smt),
    _SgxRule(
        name="collateral expiry",
        reason=Reason.TCB_TOO_OLD,
        holds=lambda claims, _table, now: claims.expires >= now,
        found=lambda claims, _: utc(claims.expires),
        wanted=lambda _table, now: f"at or after now {utc(now)}",
        sentence="The collateral expired at {found}; it has to expire {wanted}.",
        advice="Fetch newer collateral, or set the clock.",
    ),
)
