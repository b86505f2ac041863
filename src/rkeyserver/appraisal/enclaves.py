"""Claims, labels and a policy in, whether that enclave may have their keys out: the [[enclaves]] of the policy.

That verdict opens derived keys of these labels, never the keyring (docs/spec/policy.md, "Enclaves").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rkeyserver.appraisal.ambiguity import is_that
from rkeyserver.appraisal.labels import names
from rkeyserver.appraisal.policy import EnclaveEntry, Policy
from rkeyserver.appraisal.rules import MACHINE, PLATFORM, RULES
from rkeyserver.attestation.evidence import Identity
from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.errors import Reason, Rejected

_NAME_IT = "To give it keys, name it under [[enclaves]]."


@dataclass(frozen=True)
class EnclaveVerdict:
    """Claims that entries of the policy accepted for these labels. Made by appraise_enclave() alone.

    policy: digest of the policy that accepted them; at: when, seconds since 1970.
    """

    claims: SgxClaims
    labels: tuple[str, ...]
    policy: str
    at: int


def check_enclave(identity: Identity, policy: Policy) -> None:
    """Whether the policy names any enclave on that machine; tried on a claimed identity before a signature costs time.

    Raises: Rejected(PLATFORM_NOT_NAMED | MACHINE_NOT_NAMED).
    """
    if not PLATFORM.holds(identity, policy, 0):
        raise PLATFORM.refusal(identity, policy, 0)
    if not any(MACHINE.holds(identity, one, 0) for one in policy.enclaves):
        raise Rejected(
            Reason.MACHINE_NOT_NAMED,
            f"None of the policy's {len(policy.enclaves)} enclave(s) is on {identity.platform} machine "
            f"{identity.machine}.",
            advice=_NAME_IT,
        )


def appraise_enclave(claims: SgxClaims, policy: Policy, labels: Sequence[str], *, now: int) -> EnclaveVerdict:
    """Judge proved claims for the keys of all `labels`: each needs an entry that names it and accepts the claims.

    now: seconds since 1970. Raises: Rejected(PLATFORM_NOT_NAMED | MACHINE_NOT_NAMED | ENCLAVE_NOT_NAMED); NOT_PERMITTED
    with the first label that no entry of this enclave names, or the first rule that fails of those that do.
    """
    check_enclave(claims.identity, policy)
    entries = [one for one in policy.enclaves if is_that(claims, one)]
    if not entries:
        raise Rejected(
            Reason.ENCLAVE_NOT_NAMED,
            f"The enclave with MRENCLAVE {claims.mrenclave}, MRSIGNER {claims.mrsigner} and product id "
            f"{claims.isv_prod_id} on {claims.platform} machine {claims.ppid} is none of the policy's "
            f"{len(policy.enclaves)} enclave(s).",
            advice=_NAME_IT,
        )
    for label in labels:
        _check_label(claims, [one for one in entries if "derive" in one.may and names(one.labels, label)], label, now)
    return EnclaveVerdict(claims=claims, labels=tuple(labels), policy=policy.digest, at=now)


def _check_label(claims: SgxClaims, entries: list[EnclaveEntry], label: str, now: int) -> None:
    failed = [_first_that_fails(claims, one, now) for one in entries]
    if not failed:
        raise Rejected(
            Reason.NOT_PERMITTED,
            f"The policy does not let the enclave with MRENCLAVE {claims.mrenclave} on machine {claims.ppid} derive "
            f"for label {label!r}.",
            advice="To permit it, name the label in its entry under [[enclaves]].",
        )
    refusals = [one for one in failed if one is not None]
    if len(refusals) == len(failed):
        error = refusals[0]
        raise Rejected(error.reason, f"For label {label!r}: {error.message}", advice=error.advice)


def _first_that_fails(claims: SgxClaims, entry: EnclaveEntry, now: int) -> Rejected | None:
    return next((rule.refusal(claims, entry, now) for rule in RULES if not rule.holds(claims, entry, now)), None)
