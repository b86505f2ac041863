from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificate
from hypothesis import given
from hypothesis import strategies as st
from tests.vectors import intel
from tests.vectors.intel import Submission, submission

from rkeyserver.appraisal.appraise import appraise
from rkeyserver.appraisal.policy import parse_policy
from rkeyserver.attestation.evidence import MAX_ENDORSEMENTS, MAX_EVIDENCE, Identity
from rkeyserver.attestation.sgx.anchors import TrustAnchor
from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.attestation.sgx.verify import SgxVerifier
from rkeyserver.errors import Corrupt, Reason, Rejected
from rkeyserver.platforms.simulated.anchor import SIMULATED_ROOT

if not intel.FOLDER.is_dir():
    pytest.skip("NOT TESTED: genuine Intel quotes; there is no ../shared/vectors", allow_module_level=True)

PHALA = "sgx-phala"
AUTOMATA = "sgx-automata-swh"
DEBUG = "sgx-debug-refused"
GENUINE = (PHALA, AUTOMATA)

CLAIMS = {
    PHALA: SgxClaims(
        platform="sgx",
        ppid="d04ec06d4e6d92dc90d0ad3cf5ee2ddf",
        fmspc="00a067110000",
        mrenclave="33d8736db756ed4997e04ba358d27833188f1932ff7b1d156904d3f560452fbb",
        mrsigner="815f42f11cf64430c30bab7816ba596a1da0130c3b028b673133a66cf9a3e0e6",
        isv_prod_id=0,
        isv_svn=0,
        debug=False,
        attributes="0500000000000000e700000000000000",
        cpu_svn="0b0b0202ff0100000000000000000000",
        pce_svn=13,
        sgx_type=0,
        dynamic_platform="Undefined",
        cached_keys="Undefined",
        smt_enabled="Undefined",
        tcb_status="ConfigurationAndSWHardeningNeeded",
        platform_status="ConfigurationAndSWHardeningNeeded",
        qe_status="UpToDate",
        advisory_ids=("INTEL-SA-00289", "INTEL-SA-00615"),
        tcb_eval_data_number=17,
        tcb_date=1_710_288_000,
        qe_tcb_date=1_710_288_000,
        issued=1_750_330_571,
        expires=1_752_919_278,
        report_data=b"Hello, world!".ljust(64, b"\0"),
    ),
    AUTOMATA: SgxClaims(
        platform="sgx",
        ppid="943edd1cfe46c1667f9ae606225a3e11",
        fmspc="00606a000000",
        mrenclave="536e6e0d2fb709229edefa8924bd4526b7f40241c34cc2248836d89f1558beae",
        mrsigner="60d7778210f93769ad6d1d26698df018f95d321fc64f750fdd286ed15882c58e",
        isv_prod_id=0,
        isv_svn=0,
        debug=False,
        attributes="0500000000000000e700000000000000",
        cpu_svn="0e0e0303ffff01000000000000000000",
        pce_svn=13,
        sgx_type=1,
        dynamic_platform="True",
        cached_keys="False",
        smt_enabled="False",
        tcb_status="SWHardeningNeeded",
        platform_status="SWHardeningNeeded",
        qe_status="UpToDate",
        advisory_ids=("INTEL-SA-00615",),
        tcb_eval_data_number=17,
        tcb_date=1_710_288_000,
        qe_tcb_date=1_710_288_000,
        issued=1_755_236_486,
        expires=1_757_824_606,
        report_data=bytes.fromhex(
            "0000000000000000000000009130a2b109a29de560cbab6d4f15cc9575f0e10ebba9e7f559b3f69e7a684223"
            "0d7049bd85941386089fce3c12f80f407d90768e"
        ),
    ),
}


@pytest.mark.parametrize("name", GENUINE)
def test_a_genuine_quote_proves_exactly_this(name: str) -> None:
    assert submission(name).verify() == CLAIMS[name]


@pytest.mark.parametrize("name", GENUINE)
def test_what_it_proves_is_what_the_manifest_says(name: str) -> None:
    about = intel.item(name)
    claims = submission(name).verify()
    quote, expected = about["quote"], about["expected"]
    assert (claims.mrenclave, claims.mrsigner) == (quote["mrenclave"], quote["mrsigner"])
    assert (claims.cpu_svn, claims.pce_svn) == (quote["pck_cpu_svn"], quote["pce_svn"])
    assert (claims.fmspc, claims.ppid) == (quote["fmspc"].lower(), quote["ppid"])
    assert (claims.tcb_status, list(claims.advisory_ids)) == (expected["status"], expected["advisory_ids"])
    assert claims.identity == Identity("sgx", expected["ppid"])


@pytest.mark.parametrize("name", GENUINE)
def test_it_is_genuine_from_the_first_to_the_last_second_of_its_window(name: str) -> None:
    window = intel.item(name)["collateral_window"]
    first, last = window["not_before"], window["not_after"]
    genuine = submission(name)
    assert intel.at(genuine, first).verify() == intel.at(genuine, last).verify() == CLAIMS[name]
    for outside in (first - 1, last + 1):
        with pytest.raises(Rejected) as refused:
            intel.at(genuine, outside).verify()
        assert refused.value.reason is Reason.NOT_GENUINE


def _now(seconds: int) -> Callable[[Submission], None]:
    def change(given: Submission) -> None:
        given.now = seconds

    return change


def _window(name: str, edge: str) -> int:
    return int(intel.item(name)["collateral_window"][edge])


TIMES: dict[str, tuple[str, int, str]] = {
    "one second after the window": (PHALA, _window(PHALA, "not_after") + 1, "expired"),
    "one year after the window": (PHALA, 1_784_455_278, "CrlExpired"),
    "a hundred years after": (PHALA, 4_900_000_000, "CrlExpired"),
    "before TCB info was issued": (PHALA, _window(PHALA, "not_before") - 1, "issue date is in the future"),
    "before the PCK CRL was issued": (AUTOMATA, _window(AUTOMATA, "not_before") - 1, "The PCK CA's CRL was issued at"),
    "in 1970": (PHALA, 0, "issue date is in the future"),
    "before 1970": (PHALA, -1, "1969-12-31T23:59:59Z: can't convert negative int"),
    "the last second that 64 bits count": (PHALA, 2**64 - 1, "CrlExpired"),
    "beyond 64 bits": (PHALA, 2**64, "second 18446744073709551616"),
}


@pytest.mark.parametrize(("name", "now", "says"), TIMES.values(), ids=TIMES)
def test_not_at_another_time(name: str, now: int, says: str) -> None:
    with pytest.raises(Rejected, match=says) as refused:
        intel.at(submission(name), now).verify()
    assert refused.value.reason is Reason.NOT_GENUINE


def flip(offset: int, bit: int = 0) -> Callable[[Submission], None]:
    return lambda given: given.flip(offset, bit)


def certificate(which: int, offset: int) -> Callable[[Submission], None]:
    return lambda given: given.flip_certificate(which, offset)


REGIONS: dict[str, tuple[Callable[[Submission], None], Reason, str]] = {
    "version": (flip(0), Reason.MALFORMED, "version is 2"),
    "version, made 4": (lambda s: setattr(s, "quote", b"\4" + s.quote[1:]), Reason.MALFORMED, "version is 4"),
    "version, made 5": (lambda s: setattr(s, "quote", b"\5" + s.quote[1:]), Reason.MALFORMED, "version is 5"),
    "attestation key type": (flip(2), Reason.MALFORMED, "attestation key type is 3"),
    "TEE type, made TDX": (flip(4, 7), Reason.MALFORMED, "TEE type is 128"),
    "QE's version": (flip(8), Reason.NOT_GENUINE, "report signature"),
    "QE vendor": (flip(12), Reason.NOT_GENUINE, "QE vendor ID"),
    "user data": (flip(28), Reason.NOT_GENUINE, "report signature"),
    "CPUSVN": (flip(48), Reason.NOT_GENUINE, "report signature"),
    "attributes": (flip(96, 7), Reason.NOT_GENUINE, "report signature"),
    "DEBUG attribute": (flip(96, 1), Reason.NOT_GENUINE, "report signature"),
    "MRENCLAVE": (flip(112), Reason.NOT_GENUINE, "report signature"),
    "MRSIGNER": (flip(176), Reason.NOT_GENUINE, "report signature"),
    "ISVPRODID": (flip(304), Reason.NOT_GENUINE, "report signature"),
    "ISVSVN": (flip(306), Reason.NOT_GENUINE, "report signature"),
    "report data": (flip(368), Reason.NOT_GENUINE, "report signature"),
    "length": (flip(432), Reason.MALFORMED, "length is"),
    "report's signature, r": (flip(436), Reason.NOT_GENUINE, "report signature"),
    "report's signature, s": (flip(468), Reason.NOT_GENUINE, "report signature"),
    "attestation key, x": (flip(500), Reason.NOT_GENUINE, "QE report hash"),
    "attestation key, y": (flip(532), Reason.NOT_GENUINE, "QE report hash"),
    "QE's MRENCLAVE": (flip(564 + 64), Reason.NOT_GENUINE, "invalid for qe_report"),
    "QE's MRSIGNER": (flip(564 + 128), Reason.NOT_GENUINE, "invalid for qe_report"),
    "QE's report data": (flip(564 + 320), Reason.NOT_GENUINE, "invalid for qe_report"),
    "QE report's signature, r": (flip(948), Reason.NOT_GENUINE, "invalid for qe_report"),
    "QE report's signature, s": (flip(980), Reason.NOT_GENUINE, "invalid for qe_report"),
    "authentication data, length": (flip(1012), Reason.MALFORMED, "certification data"),
    "authentication data": (flip(1014), Reason.NOT_GENUINE, "QE report hash"),
    "certification data, type": (flip(intel.CERTIFICATION_TYPE), Reason.MALFORMED, "certification data type is 4"),
    "certification data, length": (flip(intel.CERTIFICATION_TYPE + 2), Reason.MALFORMED, "by its certification data"),
    "PCK certificate, serial": (certificate(0, 20), Reason.NOT_GENUINE, "certificate chain"),
    "PCK certificate, key": (certificate(0, 300), Reason.NOT_GENUINE, "certificate chain"),
    "PCK certificate, signature": (certificate(0, -1), Reason.NOT_GENUINE, "certificate chain"),
    "PCK CA, serial": (certificate(1, 20), Reason.NOT_GENUINE, "certificate chain"),
    "PCK CA, signature": (certificate(1, -1), Reason.NOT_GENUINE, "certificate chain"),
}


@pytest.mark.parametrize("name", GENUINE)
@pytest.mark.parametrize(("change", "reason", "says"), REGIONS.values(), ids=REGIONS)
def test_no_region_of_a_quote_can_be_changed(
    name: str, change: Callable[[Submission], None], reason: Reason, says: str
) -> None:
    changed = submission(name)
    change(changed)
    with pytest.raises(Rejected, match=says) as refused:
        changed.verify()
    assert refused.value.reason is reason


def refusal(given: Submission) -> Reason | None:
    try:
        given.verify()
    except Rejected as error:
        return error.reason
    return None


def test_no_byte_before_the_certificates_can_be_changed() -> None:
    accepted = []
    for offset in range(intel.CHAIN):
        changed = submission(PHALA)
        changed.flip(offset, offset % 8)
        if refusal(changed) is None:
            accepted.append(offset)
    assert accepted == []


@given(st.integers(intel.CHAIN, 4599), st.integers(1, 255))
def test_a_byte_changed_in_the_certificates_changes_no_claim(offset: int, difference: int) -> None:
    changed = submission(PHALA)
    changed.quote = changed.quote[:offset] + bytes([changed.quote[offset] ^ difference]) + changed.quote[offset + 1 :]
    try:
        claims = changed.verify()
    except Rejected:
        return
    assert claims == CLAIMS[PHALA]


def test_the_copy_of_the_root_in_the_quote_counts_for_nothing() -> None:
    changed = submission(PHALA)
    changed.flip_certificate(2, -1)
    assert changed.verify() == CLAIMS[PHALA]
    changed.set_certification(b"".join(map(intel.pem, intel.chain(changed.quote[intel.CHAIN :])[:2])))
    assert changed.verify() == CLAIMS[PHALA]


def test_a_quote_in_other_bytes_proves_the_same() -> None:
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    same = submission(PHALA)
    other_s = order - int.from_bytes(same.quote[468:500], "big")
    same.quote = same.quote[:468] + other_s.to_bytes(32, "big") + same.quote[500:]
    assert same.verify() == CLAIMS[PHALA]


def in_part(part: str, found: str, wanted: str) -> Callable[[Submission], None]:
    return lambda given: given.edit_part(part, found, wanted)


def flip_in(part: str, offset: int) -> Callable[[Submission], None]:
    return lambda given: given.flip_part(part, offset)


def put(**parts: str) -> Callable[[Submission], None]:
    return lambda given: given.collateral.update(parts)


def copy(target: str, source: str, name: str | None = None) -> Callable[[Submission], None]:
    def change(given: Submission) -> None:
        given.collateral[target] = (given if name is None else submission(name)).collateral[source]

    return change


def swap_documents(given: Submission) -> None:
    mine = given.collateral
    mine["tcb_info"], mine["qe_identity"] = mine["qe_identity"], mine["tcb_info"]
    mine["tcb_info_signature"], mine["qe_identity_signature"] = (
        mine["qe_identity_signature"],
        mine["tcb_info_signature"],
    )


def drop(part: str) -> Callable[[Submission], None]:
    return lambda given: given.collateral.__delitem__(part)


def longer(part: str) -> Callable[[Submission], None]:
    return lambda given: given.collateral.update({part: given.collateral[part] + "00"})


COLLATERAL: dict[str, tuple[Callable[[Submission], None], Reason, str]] = {
    "TCB info, a status made better": (
        in_part("tcb_info", '"OutOfDate"', '"UpToDate"'),
        Reason.NOT_GENUINE,
        "Signature is invalid for tcb_info",
    ),
    "TCB info, a later expiry": (
        in_part("tcb_info", '"nextUpdate":"2025', '"nextUpdate":"2035'),
        Reason.NOT_GENUINE,
        "tcb",
    ),
    "TCB info, a space": (in_part("tcb_info", ":", ": "), Reason.NOT_GENUINE, "tcb_info"),
    "TCB info, no JSON": (put(tcb_info="no"), Reason.NOT_GENUINE, "TcbInfo"),
    "TCB info, nested deeply": (put(tcb_info="[" * 20_000), Reason.NOT_GENUINE, "TcbInfo"),
    "TCB info's signature, r": (flip_in("tcb_info_signature", 0), Reason.NOT_GENUINE, "tcb_info"),
    "TCB info's signature, s": (flip_in("tcb_info_signature", 63), Reason.NOT_GENUINE, "tcb_info"),
    "TCB info's signature, zeros": (put(tcb_info_signature="00" * 64), Reason.NOT_GENUINE, "tcb_info"),
    "TCB info's signature, QE identity's": (
        copy("tcb_info_signature", "qe_identity_signature"),
        Reason.NOT_GENUINE,
        "tcb_info",
    ),
    "TCB info's issuer, the PCK CA": (
        copy("tcb_info_issuer_chain", "pck_crl_issuer_chain"),
        Reason.NOT_GENUINE,
        "certificate chain",
    ),
    "TCB info's issuer, none": (put(tcb_info_issuer_chain=" "), Reason.NOT_GENUINE, "too short for TCB Info"),
    "QE identity, another signer": (
        in_part("qe_identity", '"mrsigner":"8', '"mrsigner":"9'),
        Reason.NOT_GENUINE,
        "qe_id",
    ),
    "QE identity, a status made better": (
        in_part("qe_identity", '"OutOfDate"', '"UpToDate"'),
        Reason.NOT_GENUINE,
        "Signature is invalid for qe_identity",
    ),
    "QE identity's signature": (flip_in("qe_identity_signature", 63), Reason.NOT_GENUINE, "qe_identity"),
    "QE identity's issuer, none": (put(qe_identity_issuer_chain=" "), Reason.NOT_GENUINE, "too short for QE Id"),
    "TCB info and QE identity changed places": (swap_documents, Reason.NOT_GENUINE, "TcbInfo"),
    "PCK CRL, its date": (flip_in("pck_crl", 150), Reason.NOT_GENUINE, "certificate chain"),
    "PCK CRL, its signature": (flip_in("pck_crl", -1), Reason.NOT_GENUINE, "certificate chain"),
    "PCK CRL, the root's in its place": (copy("pck_crl", "root_ca_crl"), Reason.NOT_GENUINE, "certificate chain"),
    "PCK CRL, no CRL": (put(pck_crl="3000"), Reason.NOT_GENUINE, "PCK CRL"),
    "PCK CRL, longer": (longer("pck_crl"), Reason.NOT_GENUINE, "PCK CRL"),
    "PCK CRL, expired": (copy("pck_crl", "pck_crl", DEBUG), Reason.NOT_GENUINE, "certificate chain"),
    "root CRL, its signature": (flip_in("root_ca_crl", -1), Reason.NOT_GENUINE, "root CA CRL"),
    "root CRL, the PCK CA's in its place": (copy("root_ca_crl", "pck_crl"), Reason.NOT_GENUINE, "root CA CRL"),
    "root CRL, expired": (copy("root_ca_crl", "root_ca_crl", DEBUG), Reason.NOT_GENUINE, "CrlExpired"),
    "root CRL, longer": (longer("root_ca_crl"), Reason.NOT_GENUINE, "root CA CRL"),
    "root CRL, no CRL": (put(root_ca_crl="00"), Reason.NOT_GENUINE, "root CA CRL"),
    "a part missing": (drop("pck_crl"), Reason.MALFORMED, "missing required field `pck_crl`"),
    "a part too many": (put(more="x"), Reason.MALFORMED, "unknown field `more`"),
    "a signature cut": (put(tcb_info_signature="00" * 63), Reason.MALFORMED, "tcb_info_signature"),
    "a CRL that is no hex": (put(pck_crl="zz"), Reason.MALFORMED, "pck_crl"),
}


@pytest.mark.parametrize("name", GENUINE)
@pytest.mark.parametrize(("change", "reason", "says"), COLLATERAL.values(), ids=COLLATERAL)
def test_no_part_of_the_collateral_can_be_changed(
    name: str, change: Callable[[Submission], None], reason: Reason, says: str
) -> None:
    changed = submission(name)
    change(changed)
    with pytest.raises(Rejected, match=says) as refused:
        changed.verify()
    assert refused.value.reason is reason


@pytest.mark.parametrize("part", ["root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature"])
def test_no_byte_of_a_crl_or_signature_can_be_changed(part: str) -> None:
    accepted = []
    for offset in range(len(submission(PHALA).collateral[part]) // 2):
        changed = submission(PHALA)
        changed.flip_part(part, offset)
        if refusal(changed) is None:
            accepted.append(offset)
    assert accepted == []


def test_the_pck_crls_issuer_chain_counts_for_nothing() -> None:
    changed = submission(PHALA)
    changed.collateral["pck_crl_issuer_chain"] = "anything"
    assert changed.verify() == CLAIMS[PHALA]


def test_collateral_of_another_model_with_the_right_crl() -> None:
    # At this time PHALA's TCB info is current; of AUTOMATA's CRL dcap-qvl looks at the expiry alone.
    changed = submission(AUTOMATA)
    other = submission(PHALA)
    changed.collateral = {**other.collateral, "pck_crl": changed.collateral["pck_crl"]}
    changed.now = other.now
    with pytest.raises(Rejected, match=r"(?i)fmspc") as refused:
        changed.verify()
    assert refused.value.reason is Reason.NOT_GENUINE


@pytest.mark.parametrize(("name", "other"), [(PHALA, AUTOMATA), (AUTOMATA, PHALA), (AUTOMATA, DEBUG)])
def test_collateral_of_another_model(name: str, other: str) -> None:
    changed = submission(name)
    changed.collateral, changed.now = submission(other).collateral, submission(other).now
    with pytest.raises(Rejected, match="certificate chain") as refused:
        changed.verify()
    assert refused.value.reason is Reason.NOT_GENUINE


def test_collateral_of_last_year_is_good_for_last_year_alone() -> None:
    older = submission(PHALA)
    older.collateral = submission(DEBUG).collateral
    with pytest.raises(Rejected, match=r"(?i)expired"):
        older.verify()
    # This is what a host that turns its clock back can do; the least evaluation number of a policy bounds it.
    back = intel.at(older, submission(DEBUG).now).verify()
    assert (back.tcb_eval_data_number, back.expires) == (16, _window(DEBUG, "not_after"))


def spliced(start: int, end: int) -> Callable[[Submission], None]:
    def change(given: Submission) -> None:
        other = submission(AUTOMATA).quote
        given.quote = given.quote[:start] + other[start:end] + given.quote[end:]

    return change


def all_but_report(given: Submission) -> None:
    given.quote = given.quote[:432] + submission(AUTOMATA).quote[432:]


def chain_of_another(given: Submission) -> None:
    given.set_certification(submission(AUTOMATA).quote[intel.CHAIN :])


def leaf_alone(given: Submission) -> None:
    given.set_certification(intel.pem(intel.chain(given.quote[intel.CHAIN :])[0]))


def chain_backwards(given: Submission) -> None:
    given.set_certification(b"".join(map(intel.pem, reversed(intel.chain(given.quote[intel.CHAIN :])))))


SPLICED: dict[str, Callable[[Submission], None]] = {
    "report's signature of another quote": spliced(436, 500),
    "attestation key of another quote": spliced(500, 564),
    "QE report and signature of another quote": spliced(564, 1012),
    "signature, key and QE of another quote": spliced(436, intel.CERTIFICATION_TYPE),
    "everything but the report of another quote": all_but_report,
    "PCK chain of another machine": chain_of_another,
    "PCK certificate alone": leaf_alone,
    "chain in the wrong order": chain_backwards,
    "no chain": lambda given: given.set_certification(b""),
    "chain of zeros": lambda given: given.set_certification(b"\0" * 3548),
}


@pytest.mark.parametrize("change", SPLICED.values(), ids=SPLICED)
def test_parts_of_two_quotes_make_no_third(change: Callable[[Submission], None]) -> None:
    changed = submission(PHALA)
    change(changed)
    with pytest.raises(Rejected) as refused:
        changed.verify()
    assert refused.value.reason is Reason.NOT_GENUINE


def test_cut_anywhere() -> None:
    whole = submission(PHALA)
    reasons = {refusal(replace(whole, quote=whole.quote[:length])) for length in range(len(whole.quote))}
    assert reasons == {Reason.MALFORMED}


CUTS = {"before the first certificate": 0, "in the first": 1_000, "after the first": 1_700, "in the second": 2_000}


@pytest.mark.parametrize("kept", CUTS.values(), ids=CUTS)
def test_cut_in_the_certificates_with_lengths_that_fit(kept: int) -> None:
    cut = submission(PHALA)
    cut.set_certification(cut.quote[intel.CHAIN : intel.CHAIN + kept])
    with pytest.raises(Rejected) as refused:
        cut.verify()
    assert refused.value.reason is Reason.NOT_GENUINE


SIZES: dict[str, tuple[Callable[[Submission], None], Reason]] = {
    "one byte more": (lambda s: setattr(s, "quote", s.quote + b"\0"), Reason.MALFORMED),
    "sixteen bytes more": (lambda s: setattr(s, "quote", s.quote + b"\0" * 16), Reason.MALFORMED),
    "the quote twice": (lambda s: setattr(s, "quote", s.quote * 2), Reason.MALFORMED),
    "as long as is read": (lambda s: setattr(s, "quote", s.quote.ljust(MAX_EVIDENCE, b"\0")), Reason.MALFORMED),
    "one byte longer than is read": (
        lambda s: setattr(s, "quote", s.quote.ljust(MAX_EVIDENCE + 1, b"\0")),
        Reason.TOO_LARGE,
    ),
    "a quote of the size that is too large, its lengths in order": (
        lambda s: s.set_certification(s.quote[intel.CHAIN :].ljust(MAX_EVIDENCE, b"\n")),
        Reason.TOO_LARGE,
    ),
    "collateral larger than is read": (
        lambda s: s.collateral.update(more="x" * MAX_ENDORSEMENTS),
        Reason.TOO_LARGE,
    ),
}


@pytest.mark.parametrize(("change", "reason"), SIZES.values(), ids=SIZES)
def test_other_sizes(change: Callable[[Submission], None], reason: Reason) -> None:
    changed = submission(PHALA)
    change(changed)
    with pytest.raises(Rejected) as refused:
        changed.verify()
    assert refused.value.reason is reason


WRONG_REPORT_DATA: dict[str, Callable[[bytes], bytes]] = {
    "zeros": lambda right: bytes(len(right)),
    "one bit": lambda right: intel.flipped(right, 63),
    "the first half": lambda right: right[:32],
    "longer": lambda right: right + b"\0",
    "empty": lambda _right: b"",
}


@pytest.mark.parametrize("name", GENUINE)
@pytest.mark.parametrize("change", WRONG_REPORT_DATA.values(), ids=WRONG_REPORT_DATA)
def test_bound_to_something_else(name: str, change: Callable[[bytes], bytes]) -> None:
    other = submission(name)
    other.report_data = change(other.report_data)
    with pytest.raises(Rejected) as refused:
        other.verify()
    assert refused.value.reason is Reason.NOT_BOUND


def _own_root_of_the_sample() -> TrustAnchor:
    der = load_pem_x509_certificate(intel.read("intel-qvl-sgx/trustedRootCaCert.pem")).public_bytes(Encoding.DER)
    return TrustAnchor(name="another root of Intel's", der=der, sha256=hashlib.sha256(der).hexdigest())


def _certificate_of_the_quote(which: int) -> TrustAnchor:
    der = intel.chain(submission(PHALA).quote[intel.CHAIN :])[which]
    return TrustAnchor(name="a certificate of the quote", der=der, sha256=hashlib.sha256(der).hexdigest())


WRONG_ROOTS: dict[str, Callable[[], TrustAnchor]] = {
    "the simulated platform's": lambda: SIMULATED_ROOT,
    "another of Intel's": _own_root_of_the_sample,
    "the PCK CA": lambda: _certificate_of_the_quote(1),
    "the PCK certificate": lambda: _certificate_of_the_quote(0),
}


@pytest.mark.parametrize("name", GENUINE)
@pytest.mark.parametrize("root", WRONG_ROOTS.values(), ids=WRONG_ROOTS)
def test_under_another_root(name: str, root: Callable[[], TrustAnchor]) -> None:
    other = submission(name)
    other.verifier = SgxVerifier(platform="sgx", anchor=root())
    with pytest.raises(Rejected, match=other.verifier.anchor.name) as refused:
        other.verify()
    assert refused.value.reason is Reason.NOT_GENUINE


def test_under_a_damaged_root_the_process_goes_on() -> None:
    damaged = submission(PHALA)
    damaged.verifier = pickle.loads(pickle.dumps(intel.INTEL).replace(b"Intel SGX Root", b"Intel sgx Root"))  # noqa: S301 - of bytes that were made here
    with pytest.raises(Corrupt, match="trust anchor"):
        damaged.verify()


def test_a_debug_enclave() -> None:
    with pytest.raises(Rejected) as refused:
        submission(DEBUG).verify()
    assert refused.value.reason is Reason.DEBUG_ENCLAVE


def test_a_debug_enclave_that_says_it_is_none() -> None:
    changed = submission(DEBUG)
    changed.flip(96, 1)
    with pytest.raises(Rejected, match="report signature") as refused:
        changed.verify()
    assert refused.value.reason is Reason.NOT_GENUINE


def test_a_tdx_quote() -> None:
    with pytest.raises(Rejected, match="version is 5, wanted 3") as refused:
        submission("tdx-phala-outdated").verify()
    assert refused.value.reason is Reason.MALFORMED


def test_a_quote_that_names_its_certificate_and_brings_none() -> None:
    quote = intel.read("intel-qvl-sgx/quote.dat")
    collateral = intel.read("intel-qvl-sgx/collateral.converted.json")
    with pytest.raises(Rejected, match="certification data type is 1, wanted 5") as refused:
        intel.INTEL(quote, collateral, bytes(64), 1_725_011_201)
    assert refused.value.reason is Reason.MALFORMED


NO_COLLATERAL: dict[str, tuple[bytes, str]] = {
    "none": (b"", "no collateral"),
    "no JSON": (b"junk", "malformed"),
    "a list": (b"[]", "array"),
    "not UTF-8": (b'{"pck_crl_issuer_chain":"\xff"}', "utf-8"),
}


@pytest.mark.parametrize(("endorsements", "says"), NO_COLLATERAL.values(), ids=NO_COLLATERAL)
def test_without_collateral(endorsements: bytes, says: str) -> None:
    genuine = submission(PHALA)
    with pytest.raises(Rejected, match=f"(?i){says}") as refused:
        intel.INTEL(genuine.quote, endorsements, genuine.report_data, genuine.now)
    assert refused.value.reason is Reason.MALFORMED


POLICY = """
version = 1
[sgx]
machines = ["{ppid}"]
mrenclave = ["{mrenclave}"]
mrsigner = ["{mrsigner}"]
isv_prod_id = 0
min_isv_svn = 0
tcb_statuses = ["{tcb_status}"]
out_of_date_grace_days = 0
rejected_advisories = "none"
min_tcb_evaluation_data_number = 17
dynamic_platform = "{configuration}"
cached_keys = "{configuration}"
smt = "{configuration}"
"""


def policy_text(claims: SgxClaims, configuration: str) -> str:
    return POLICY.format(
        ppid=claims.ppid,
        mrenclave=claims.mrenclave,
        mrsigner=claims.mrsigner,
        tcb_status=claims.tcb_status,
        configuration=configuration,
    )


@pytest.mark.parametrize("name", GENUINE)
def test_what_was_proved_is_accepted_by_a_policy_that_names_it(name: str) -> None:
    given = submission(name)
    policy = parse_policy(policy_text(CLAIMS[name], "accept"))
    verdict = appraise(given.verify(), policy, now=given.now)
    assert (verdict.claims, verdict.policy, verdict.at) == (CLAIMS[name], policy.digest, given.now)


@pytest.mark.parametrize("name", GENUINE)
def test_what_was_proved_of_a_platforms_configuration_can_be_refused(name: str) -> None:
    given = submission(name)
    with pytest.raises(Rejected) as refused:
        appraise(given.verify(), parse_policy(policy_text(CLAIMS[name], "refuse")), now=given.now)
    assert refused.value.reason is Reason.PLATFORM_CONFIGURATION


def test_the_manifest_is_read_as_it_was_written() -> None:
    kinds = {one["name"]: one["kind"] for one in intel.manifest()["items"]}
    assert [name for name, kind in kinds.items() if kind == "sgx-dcap-v3"] == [PHALA, AUTOMATA, DEBUG, "intel-qvl-sgx"]
    assert json.loads(intel.read(f"{PHALA}/collateral.json")).keys() == submission(PHALA).collateral.keys()
