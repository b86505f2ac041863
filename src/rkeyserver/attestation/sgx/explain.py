"""The checks of a quote one by one, for people.

The verification library answers yes or no, with one reason. This looks at the same material once more, part by part, by
own reading: what is shown as passed was really looked at. The answer stays the verifier's (verify.py), and is the last
check of the list. Where the two differ, the verifier counts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509

from rkeyserver.attestation.check import Check
from rkeyserver.attestation.sgx import quote
from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.attestation.sgx.fields import report
from rkeyserver.attestation.sgx.foreign import shape_advice
from rkeyserver.attestation.sgx.material import Material, binds, issued, key_of, name, raw_key, seconds, signed
from rkeyserver.clock import utc
from rkeyserver.errors import Reason, Rejected, one_line

NOT_LOOKED_AT: Final = "not looked at, for it needs: "
_SHOWN: Final = 800
Found = tuple[str, bool]


@dataclass(frozen=True)
class _Step:
    """needs: the steps without which this one cannot be made. wanted may name {now} and {anchor}."""

    name: str
    wanted: str
    look: Callable[[Material], Found]
    advice: str
    needs: tuple[str, ...] = ("structure",)
    reason: Reason = Reason.NOT_GENUINE


def explain(material: Material, expected_report_data: bytes | None, verified: SgxClaims | Rejected) -> list[Check]:
    """Every check in order; the last is what verify() said of the same material at the same time: `verified`.

    expected_report_data: 64 bytes, or None where nobody asked: then its check is shown as not made.
    """
    found: list[Check] = []
    for step in STEPS:
        wanted = step.wanted.format(now=utc(material.now), anchor=material.anchor.name)
        lacking = next((one.name for one in found if one.name in step.needs and not one.passed), None)
        if lacking is not None:
            found.append(Check(step.name, f"{NOT_LOOKED_AT}{lacking}", wanted, None, str(step.reason)))
            continue
        try:
            with warnings.catch_warnings(action="ignore"):  # of what a certificate should not have, to whoever asked
                shown, passed = step.look(material)
        except KeyError as error:
            shown, passed = f"it has no {error}", False
        except Exception as error:  # noqa: BLE001 - whatever a hostile document makes a parser raise is the finding
            shown, passed = f"cannot be read: {error}", False
        advice = "" if passed else step.advice
        if step.name == "structure" and not passed:
            advice = shape_advice(material.evidence) or advice
        found.append(Check(step.name, _short(shown), wanted, passed, str(step.reason), advice))
        if step.name == "structure":
            found.append(_report_data(material, expected_report_data, structure=passed))
    found.append(_verdict(verified, found))
    return found


def _short(text: str) -> str:
    text = one_line(text)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _report_data(material: Material, expected: bytes | None, *, structure: bool) -> Check:
    label, reason = "report data", str(Reason.NOT_BOUND)
    if not structure:
        wanted = "the report data asked for" if expected is None else expected.hex()
        return Check(label, f"{NOT_LOOKED_AT}structure", wanted, None, reason)
    found = material.parts.report[320:384]
    if expected is None:
        return Check(
            label,
            found.hex(),
            "not asked for, so not proved: whose message this quote vouches for is open",
            None,
            reason,
        )
    passed = found == expected
    advice = "" if passed else "The quote was made for another message, or for another exchange."
    return Check(label, found.hex(), expected.hex(), passed, reason, advice)


def _verdict(verified: SgxClaims | Rejected, found: list[Check]) -> Check:
    wanted = "the verifier that the server uses finds all of this genuine"
    if isinstance(verified, Rejected):
        advice = verified.advice or next((one.advice for one in found if one.passed is False and one.advice), "")
        return Check(
            "verifier", _short(verified.message), wanted, passed=False, reason=str(verified.reason), advice=advice
        )
    return Check("verifier", "genuine", wanted, passed=True, reason=str(Reason.NOT_GENUINE))


def _structure(material: Material) -> Found:
    try:
        quote.view(material.evidence)
    except Rejected as refused:
        return refused.message, False
    return (
        f"version 3, SGX, ECDSA P-256, PCK certificate chain, {len(material.evidence)} bytes, all accounted for",
        True,
    )


def _collateral(material: Material) -> Found:
    try:
        material.read_collateral()
    except Rejected as refused:
        return refused.message, False
    numbers = material.tcb_info["tcbEvaluationDataNumber"], material.qe_identity["tcbEvaluationDataNumber"]
    return f"nine parts, TCB evaluation numbers {numbers[0]} and {numbers[1]}", True


def _certificates(material: Material) -> Found:
    return " <- ".join(name(one) for one in material.chain), True


def _processor(material: Material) -> Found:
    return f"PPID {material.pck.ppid}, FMSPC {material.pck.fmspc}, PCESVN {material.pck.pce_svn}", True


def _chain(material: Material) -> Found:
    leaf, ca = material.chain[:2]
    if not issued(leaf, ca):
        return f"{name(leaf)} is not signed by {name(ca)}", False
    if not issued(ca, material.root):
        return f"{name(ca)} is not signed by {name(material.root)}", False
    return f"{name(leaf)}, signed by {name(ca)}, signed by {name(material.root)}", True


def _is(found: bool) -> Found:  # noqa: FBT001 - what was found
    return ("valid", True) if found else ("invalid", False)


def _qe_report(material: Material) -> Found:
    return _is(signed(key_of(material.chain[0]), material.parts.qe_signature, material.parts.qe_report))


def _attestation_key(material: Material) -> Found:
    return ("it is", True) if binds(material) else ("it is another one", False)


def _quote(material: Material) -> Found:
    key = raw_key(material.parts.attestation_key)
    return _is(signed(key, material.parts.signature, material.parts.header + material.parts.report))


def _document(what: str, certificate: x509.Certificate, material: Material, document: str, signature: str) -> Found:
    if not issued(certificate, material.root):
        return f"{name(certificate)} is not signed by {name(material.root)}", False
    if not signed(key_of(certificate), bytes.fromhex(signature), document.encode()):
        return f"the signature over the {what} is invalid", False
    return f"valid, by {name(certificate)}", True


def _tcb_info(material: Material) -> Found:
    given = material.collateral
    return _document("TCB info", material.tcb_signing, material, given.tcb_info, given.tcb_info_signature)


def _qe_identity(material: Material) -> Found:
    given = material.collateral
    return _document("QE identity", material.qe_signing, material, given.qe_identity, given.qe_identity_signature)


def _crl_signed(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> Found:
    if crl.issuer != issuer.subject:
        return f"a CRL of {crl.issuer.rfc4514_string()}, not of {name(issuer)}", False
    return (f"valid, by {name(issuer)}", True) if crl.is_signature_valid(key_of(issuer)) else ("invalid", False)


def _revoked(crl: x509.CertificateRevocationList, *certificates: x509.Certificate) -> Found:
    for one in certificates:
        entry = crl.get_revoked_certificate_by_serial_number(one.serial_number)
        if entry is not None:
            return f"{name(one)} was revoked at {utc(_at(entry.revocation_date_utc))}", False
    return f"not among the {len(crl)} that are revoked", True


def _at(date: datetime) -> int:
    return int(date.timestamp())


def _within(first: int, last: int, now: int) -> Found:
    return f"{utc(first)} to {utc(last)}", first <= now <= last


def _certificate_dates(which: Callable[[Material], x509.Certificate]) -> Callable[[Material], Found]:
    def look(material: Material) -> Found:
        found = which(material)
        return _within(_at(found.not_valid_before_utc), _at(found.not_valid_after_utc), material.now)

    return look


def _crl_dates(which: Callable[[Material], x509.CertificateRevocationList]) -> Callable[[Material], Found]:
    def look(material: Material) -> Found:
        found = which(material)
        until = found.next_update_utc
        if until is None:
            return "it does not say until when", False
        return _within(_at(found.last_update_utc), _at(until), material.now)

    return look


def _tcb_info_dates(material: Material) -> Found:
    found = material.tcb_info
    return _within(seconds(found["issueDate"]), seconds(found["nextUpdate"]), material.now)


def _qe_identity_dates(material: Material) -> Found:
    found = material.qe_identity
    return _within(seconds(found["issueDate"]), seconds(found["nextUpdate"]), material.now)


def _model(material: Material) -> Found:
    info, pck = material.tcb_info, material.pck
    found = str(info["id"]), str(info["fmspc"]).lower(), str(info["pceId"]).lower()
    shown = f"TCB info for {found[0]}, FMSPC {found[1]}, PCE-ID {found[2]}"
    return f"{shown}; certificate for FMSPC {pck.fmspc}, PCE-ID {pck.pce_id}", found == ("SGX", pck.fmspc, pck.pce_id)


def _quoting_enclave(material: Material) -> Found:
    found, wanted = report(material.parts.qe_report), material.qe_identity
    differing = [
        what
        for what, own, named, mask in (
            ("MRSIGNER", found["mrsigner"], wanted["mrsigner"], "ff" * 32),
            ("ATTRIBUTES", found["attributes"], wanted["attributes"], wanted["attributesMask"]),
            ("MISCSELECT", found["misc_select"], wanted["miscselect"], wanted["miscselectMask"]),
        )
        if int(own, 16) & int(mask, 16) != int(named, 16) & int(mask, 16)
    ]
    if found["isv_prod_id"] != wanted["isvprodid"]:
        differing.append("ISVPRODID")
    if wanted["id"] != "QE":
        differing.append(f"id ({wanted['id']})")
    shown = f"{found['mrsigner']}, product {found['isv_prod_id']}, ISVSVN {found['isv_svn']}"
    return (f"{shown}: differs in {', '.join(differing)}", False) if differing else (shown, True)


def _level(material: Material) -> Found:
    platform, enclave = material.platform_level(), material.qe_level()
    if platform is None or enclave is None:
        return "no level matches " + ("the processor" if platform is None else "the quoting enclave"), False
    advisories = ", ".join(platform.get("advisoryIDs", ())) or "no advisory"
    shown = (
        f"processor {platform['tcbStatus']} ({platform['tcbDate']}, {advisories}), "
        f"quoting enclave {enclave['tcbStatus']} ({enclave['tcbDate']})"
    )
    if short := material.shortfall():
        shown += f"; below the highest level in {', '.join(short)}"
    return shown, "Revoked" not in (platform["tcbStatus"], enclave["tcbStatus"])


def _production(material: Material) -> Found:
    debug = report(material.parts.report)["debug"]
    return ("a debug enclave, whose memory its host reads", False) if debug else ("a production enclave", True)


_FORGED: Final = "The quote was changed, or made by what is no genuine machine. Ask for a new one."
_GIVE: Final = "Give it with --collateral FILE; `rkeyserver collateral fetch --quote FILE` gets it from a PCCS."
_ANOTHER: Final = "Fetch the collateral for this very quote: `rkeyserver collateral fetch --quote FILE`."
_NEWER: Final = "Fetch newer collateral, or judge at the time the quote was made (--at), or set the clock."
_CLOCK: Final = "Set the clock, or judge at the time the quote was made (--at)."
_COLLATERAL: Final = ("collateral",)
_CHAIN: Final = ("structure", "PCK certificates")
_BOTH: Final = (*_CHAIN, "collateral")
_DATES: Final = "to contain {now}"

STEPS: Final = (
    _Step("structure", "a version 3 SGX quote with its PCK certificate chain, every byte accounted for", _structure,
          "Wanted is the quote alone, as the quoting library gave it.", (), Reason.MALFORMED),
    _Step("collateral", "Intel's collateral for this quote, in nine parts", _collateral,
          _GIVE, (), Reason.MALFORMED),
    _Step("PCK certificates", "the PCK certificate and its CA", _certificates, _FORGED),
    _Step("processor", "a PCK certificate that says which processor it is for", _processor, _FORGED, _CHAIN),
    _Step("PCK chain", "each signed by the next, the last by {anchor}", _chain,
          "Is the quote from that maker's platform? A copy of a root in the quote counts for nothing.", _CHAIN),
    _Step("QE report signature", "valid, by the PCK certificate's key", _qe_report, _FORGED, _CHAIN),
    _Step("attestation key", "the key that the QE report vouches for", _attestation_key, _FORGED),
    _Step("quote signature", "valid, by the attestation key over header and report", _quote, _FORGED),
    _Step("TCB info signature", "valid, by a certificate under {anchor}", _tcb_info, _ANOTHER, _COLLATERAL),
    _Step("QE identity signature", "valid, by a certificate under {anchor}", _qe_identity, _ANOTHER, _COLLATERAL),
    _Step("PCK CRL signature", "valid, by the CA of this PCK certificate",
          lambda m: _crl_signed(m.pck_crl, m.chain[1]), _ANOTHER, _BOTH),
    _Step("root CRL signature", "valid, by {anchor}", lambda m: _crl_signed(m.root_crl, m.root), _ANOTHER, _COLLATERAL),
    _Step("PCK revocation", "not revoked", lambda m: _revoked(m.pck_crl, m.chain[0]),
          "Intel revoked this processor's certificate: the machine is not to be trusted.", _BOTH),
    _Step("CA revocation", "PCK CA and signers of the collateral not revoked",
          lambda m: _revoked(m.root_crl, m.chain[1], m.tcb_signing, m.qe_signing),
          "A certificate between the root and this quote was revoked: fetch collateral and quote anew.", _BOTH),
    _Step("dates of the PCK certificate", _DATES, _certificate_dates(lambda m: m.chain[0]), _CLOCK, _CHAIN),
    _Step("dates of the PCK CA", _DATES, _certificate_dates(lambda m: m.chain[1]), _CLOCK, _CHAIN),
    _Step("dates of the TCB info's signer", _DATES, _certificate_dates(lambda m: m.tcb_signing), _NEWER, _COLLATERAL),
    _Step("dates of the QE identity's signer", _DATES, _certificate_dates(lambda m: m.qe_signing), _NEWER, _COLLATERAL),
    _Step("dates of the PCK CRL", _DATES, _crl_dates(lambda m: m.pck_crl), _NEWER, _COLLATERAL),
    _Step("dates of the root CRL", _DATES, _crl_dates(lambda m: m.root_crl), _NEWER, _COLLATERAL),
    _Step("dates of the TCB info", _DATES, _tcb_info_dates, _NEWER, _COLLATERAL),
    _Step("dates of the QE identity", _DATES, _qe_identity_dates, _NEWER, _COLLATERAL),
    _Step("processor model", "TCB info for SGX and for the certificate's FMSPC and PCE-ID", _model, _ANOTHER,
          (*_BOTH, "processor")),
    _Step("quoting enclave", "the one that the QE identity describes", _quoting_enclave, _ANOTHER,
          ("structure", "collateral")),
    _Step("TCB level", "a level that is not revoked; which statuses are acceptable is the policy's to say", _level,
          "Update the machine's BIOS and microcode; what is revoked no update brings back.", (*_BOTH, "processor"),
          Reason.TCB_STATUS),
    _Step("production enclave", "no debug enclave", _production, "Load an image that was not signed for debugging.",
          reason=Reason.DEBUG_ENCLAVE),
)  # fmt: skip
