"""What a quote says, whether it is genuine, whether a policy accepts it, and why.

The verdict is the server's own: quote.view(), verify(), appraise(). What is printed beside it explains it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from rkeyserver import files
from rkeyserver.appraisal.appraise import appraise as judge
from rkeyserver.appraisal.appraise import explain as explain_appraisal
from rkeyserver.appraisal.policy import MAX_POLICY_FILE, Policy, parse_policy
from rkeyserver.attestation.check import Check
from rkeyserver.attestation.sgx import fields, quote
from rkeyserver.attestation.sgx.bundle import MAX_BUNDLE
from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.attestation.sgx.explain import NOT_LOOKED_AT
from rkeyserver.attestation.sgx.explain import explain as explain_evidence
from rkeyserver.attestation.sgx.foreign import foreign
from rkeyserver.attestation.sgx.material import Material, name
from rkeyserver.attestation.sgx.parts import reading
from rkeyserver.attestation.sgx.verify import SgxVerifier
from rkeyserver.cli.appraise_input import collateral_for, decoded, hex64, moment
from rkeyserver.clock import Clock, utc
from rkeyserver.errors import Misuse, Reason, Rejected
from rkeyserver.platforms.registry import SIMULATED, load_anchor

SGX: Final = "sgx"

_SIMULATED_NAMES: Final = "protects nothing"  # how every certificate of that platform's names ends
_TO_SIMULATED: Final = "This is SIMULATED evidence, which proves nothing; --platform simulated looks at it as that."


@dataclass(frozen=True)
class Asked:
    """What is to be judged, and by what; every option as it was typed."""

    quote: str
    collateral: str | None
    policy: str | None
    report_data: str | None
    at: str | None
    platform: str


@dataclass(frozen=True)
class Judged:
    """All that was found. refusal: why it is not genuine, or not accepted; None where nothing was refused.

    simulated: looked at as that, or says that it is. written: how the evidence was written. clock: this machine's.
    accepted: None where no policy was given.
    """

    platform: str
    simulated: bool
    written: str
    size: int
    at: int
    clock: int
    evidence: dict[str, dict[str, Any]]
    claims: SgxClaims | None
    accepted: bool | None
    policy: str | None
    checks: list[Check]
    report_data_asked: bool
    refusal: Rejected | None


def appraise(given: Asked) -> Judged:
    """Carry out the command, all but printing.

    Raises: Misuse for what cannot be read as it was said; Corrupt for a damaged trust anchor.
    """
    clock = Clock().now()
    at = clock if given.at is None else moment(given.at)
    asked = None if given.report_data is None else hex64(given.report_data)
    if [given.quote, given.collateral, given.policy].count(files.STDIN) > 1:
        raise Misuse("Only one of quote, collateral and policy can come on stdin.")
    evidence, written = decoded(_read(given.quote, "quote"))
    endorsements = b"" if given.collateral is None else collateral_for(evidence, _read(given.collateral, "collateral"))
    policy = None if given.policy is None else _policy(given.policy)
    verifier = SgxVerifier(platform=given.platform, anchor=load_anchor(given.platform))
    simulated = given.platform == SIMULATED
    what, advice = foreign(evidence)
    if what:
        found = _foreign(what, advice)
        shown: dict[str, dict[str, Any]] = {}
        verified: SgxClaims | Rejected = found
        checks = [
            Check("structure", what, "a version 3 SGX quote", passed=False, reason=str(found.reason), advice=advice)
        ]
    else:
        material = Material(evidence, endorsements, verifier.anchor, at)
        verified = _verified(verifier, evidence, endorsements, asked, at)
        simulated = simulated or _says_simulated(material)
        if simulated and given.platform == SGX and isinstance(verified, Rejected):
            verified = Rejected(verified.reason, verified.message, advice=_TO_SIMULATED)
        checks = explain_evidence(material, asked, verified)
        if isinstance(verified, Rejected) and not verified.advice:
            verified = Rejected(verified.reason, verified.message, advice=checks[-1].advice)
        shown = _evidence(material)
    accepted, refusal = None, verified if isinstance(verified, Rejected) else None
    if policy is not None:
        accepted, refusal, more = _appraised(verified, policy, at)
        checks += more
    return Judged(
        platform=given.platform,
        simulated=simulated,
        written=written,
        size=len(evidence),
        at=at,
        clock=clock,
        evidence=shown,
        claims=verified if isinstance(verified, SgxClaims) else None,
        accepted=accepted,
        policy=None if policy is None else policy.digest,
        checks=checks,
        report_data_asked=asked is not None,
        refusal=refusal,
    )


def _read(path: str, what: str) -> bytes:
    return files.read(Path(path), MAX_BUNDLE, what, stdin=True)


def _policy(path: str) -> Policy:
    return parse_policy(files.read_text(Path(path), MAX_POLICY_FILE, "policy", stdin=True))


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    with warnings.catch_warnings(action="ignore"), reading("quote's certificate chain"):  # as where it is explained
        yield


def _says_simulated(material: Material) -> bool:
    try:
        with _reading():
            return any(name(one).endswith(_SIMULATED_NAMES) for one in material.chain)
    except (Rejected, struct.error):  # what cannot be read does not say so
        return False


def _utc(date: datetime) -> str:
    return utc(int(date.timestamp()))


def _foreign(what: str, advice: str) -> Rejected:
    return Rejected(Reason.MALFORMED, f"This is no version 3 SGX quote. It is {what}.", advice=advice)


def _verified(
    verifier: SgxVerifier, evidence: bytes, endorsements: bytes, asked: bytes | None, at: int
) -> SgxClaims | Rejected:
    try:
        # Where nobody asked for report data, the quote's own is taken: the check is then shown as not made.
        expected = quote.view(evidence).report_data if asked is None else asked
        return verifier(evidence, endorsements, expected, at)
    except Rejected as refused:
        return refused


def _appraised(verified: SgxClaims | Rejected, policy: Policy, at: int) -> tuple[bool, Rejected | None, list[Check]]:
    if isinstance(verified, Rejected):
        return (
            False,
            verified,
            [Check("policy", f"{NOT_LOOKED_AT}genuine evidence", policy.digest, None, "", "")],
        )
    refusal = None
    try:
        judge(verified, policy, now=at)
    except Rejected as refused:
        refusal = refused
    checks = explain_appraisal(verified, policy, now=at)
    named = [dataclasses.replace(one, name=f"policy: {one.name}") for one in checks]
    return refusal is None, refusal, named


def _evidence(material: Material) -> dict[str, dict[str, Any]]:
    """What the quote says of itself, as far as it can be read."""
    if len(material.evidence) < quote.SIGNED_SIZE:
        return {"header": fields.header(material.evidence)}
    signed = material.evidence[: quote.SIGNED_SIZE]
    shown = {"header": fields.header(signed), "enclave": fields.report(signed[quote.HEADER_SIZE :])}
    try:
        quote.view(material.evidence)
    except Rejected:
        return shown
    shown["quoting_enclave"] = fields.report(material.parts.qe_report)
    shown["quoting_enclave"]["authentication_data"] = material.parts.authentication.hex()
    # What of it cannot be read, the check of the same name says. KeyError: the extension lacks a value.
    with contextlib.suppress(Rejected, KeyError), _reading():
        shown["certificates"] = {
            f"{number}_{key}": value
            for number, one in enumerate(material.chain, start=1)
            for key, value in (
                ("subject", name(one)),
                ("serial", f"{one.serial_number:x}"),
                ("valid", " to ".join(map(_utc, (one.not_valid_before_utc, one.not_valid_after_utc)))),
            )
        }
        kind = fields.SGX_TYPES.get(material.pck.sgx_type, "unknown")
        shown["processor"] = dataclasses.asdict(material.pck) | {"sgx_type_name": kind}
    return shown
