"""What one root has signed is worth nothing under another: hardware, simulation, and somebody's own."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.attacks.parties import Machines, Pair, Primary, Standby, edited, granted
from tests.fakes.flavours import VERIFY, for_the_other, other_than
from tests.fakes.machines import (
    NOW,
    anchor_of,
    machine,
    private_authority,
    resigned,
    unknown_authority,
    with_tcb_info,
)
from tests.vectors import intel

from rkeyserver.appraisal.policy import parse_policy
from rkeyserver.attestation.sgx.anchors import INTEL_SGX_ROOT, TrustAnchor
from rkeyserver.attestation.sgx.collateral import Collateral
from rkeyserver.attestation.sgx.verify import SgxVerifier
from rkeyserver.errors import Corrupt, Misuse, Reason, Rejected
from rkeyserver.exchange.messages import Hello
from rkeyserver.platforms import registry
from rkeyserver.platforms.interface import Platform
from rkeyserver.platforms.simulated import anchor, certificates, keys
from rkeyserver.platforms.simulated.anchor import SIMULATED_ROOT
from rkeyserver.platforms.simulated.pki import Authority, development_authority
from rkeyserver.platforms.simulated.processor import Processor

DATA = bytes(range(64))
HARDWARE = SgxVerifier(platform="sgx", anchor=INTEL_SGX_ROOT)


def refused(verifier: SgxVerifier, quote: bytes, endorsements: bytes, data: bytes = DATA, now: int = NOW) -> Rejected:
    with pytest.raises(Rejected) as caught:
        verifier(quote, endorsements, data, now)
    return caught.value


@pytest.mark.simulated_only("it is about the anchor of the simulated platform")
def test_a_verifier_for_hardware_refuses_simulated_evidence(machines: Machines) -> None:
    quote, endorsements = machines.first.evidence(DATA), machines.first.endorsements()
    assert anchor.verify(quote, endorsements, DATA, NOW).identity == machines.first.attester_identity()
    error = refused(HARDWARE, quote, endorsements)
    assert error.reason is Reason.NOT_GENUINE
    assert "Intel SGX Root CA" in error.message


def test_a_verifier_for_hardware_refuses_evidence_of_a_private_root(tmp_path: Path) -> None:
    other = machine(tmp_path / "m", authority=private_authority)
    quote, endorsements = other.evidence(DATA), other.endorsements()
    believer = SgxVerifier(platform="simulated", anchor=anchor_of(private_authority()))
    assert believer(quote, endorsements, DATA, NOW).identity == other.attester_identity()
    assert refused(HARDWARE, quote, endorsements).reason is Reason.NOT_GENUINE
    assert refused(anchor.verify, quote, endorsements).reason is Reason.NOT_GENUINE


@pytest.mark.simulated_only("it is about the anchor of the simulated platform")
def test_who_believes_a_private_root_believes_no_other(machines: Machines) -> None:
    believer = SgxVerifier(platform="simulated", anchor=anchor_of(private_authority()))
    quote, endorsements = machines.first.evidence(DATA), machines.first.endorsements()
    assert refused(believer, quote, endorsements).reason is Reason.NOT_GENUINE


def with_parts_of(genuine: Platform, *parts: str) -> Callable[[dict[str, str]], dict[str, str]]:
    donor = json.loads(genuine.endorsements())
    return lambda collateral: collateral | {part: donor[part] for part in parts}


CRLS = ("root_ca_crl", "pck_crl", "pck_crl_issuer_chain")
TCB_INFO = ("tcb_info", "tcb_info_signature", "tcb_info_issuer_chain")
QE_IDENTITY = ("qe_identity", "qe_identity_signature", "qe_identity_issuer_chain")
MIXED: dict[str, tuple[str, ...]] = {
    "the CRLs": CRLS,
    "the CRLs and TCB info": CRLS + TCB_INFO,
    "the CRLs and QE identity": CRLS + QE_IDENTITY,
    "all collateral": CRLS + TCB_INFO + QE_IDENTITY,
}


@pytest.mark.simulated_only("it is about the anchor of the simulated platform")
@pytest.mark.parametrize("parts", MIXED.values(), ids=MIXED)
def test_genuine_collateral_does_not_carry_a_private_quote(
    parts: tuple[str, ...], machines: Machines, tmp_path: Path
) -> None:
    other = machine(tmp_path / "m", authority=private_authority)
    mixed = with_parts_of(machines.first, *parts)(json.loads(other.endorsements()))
    assert refused(anchor.verify, other.evidence(DATA), json.dumps(mixed).encode()).reason is Reason.NOT_GENUINE


PRIVATE: dict[str, tuple[str, ...]] = {
    "a private root's CRL": ("root_ca_crl",),
    "a private PCK CA's CRL": ("pck_crl", "pck_crl_issuer_chain"),
    "a private TCB info": TCB_INFO,
    "a private QE identity": QE_IDENTITY,
}


@pytest.mark.simulated_only("it is about the anchor of the simulated platform")
@pytest.mark.parametrize("parts", PRIVATE.values(), ids=PRIVATE)
def test_private_collateral_does_not_judge_a_genuine_quote(
    parts: tuple[str, ...], machines: Machines, tmp_path: Path
) -> None:
    other = machine(tmp_path / "m", authority=private_authority)
    mixed = with_parts_of(other, *parts)(json.loads(machines.first.endorsements()))
    error = refused(anchor.verify, machines.first.evidence(DATA), json.dumps(mixed).encode())
    assert error.reason is Reason.NOT_GENUINE


def test_a_private_root_of_the_same_name_is_another(tmp_path: Path) -> None:
    private = private_authority()
    named_alike = dataclasses.replace(
        private,
        root=certificates.root(private.keys.root, certificates.ROOT_NAME).public_bytes(Encoding.DER),
        root_name=certificates.ROOT_NAME,
    )
    other = machine(tmp_path / "m", authority=lambda: named_alike)
    assert refused(anchor.verify, other.evidence(DATA), other.endorsements()).reason is Reason.NOT_GENUINE


def test_the_keys_of_the_authority_below_the_root_do_not_stand_in_for_one_another(tmp_path: Path) -> None:
    genuine = development_authority()
    swapped = dataclasses.replace(
        genuine,
        keys=keys.PkiKeys(genuine.keys.root, genuine.keys.tcb_signing, keys.ec_key("anybody's")),
    )
    # A TCB signer that is no CA certifies a processor; the root's name and key are genuine.
    other = machine(tmp_path / "m", authority=lambda: swapped)
    honest = json.loads(machine(tmp_path / "n").endorsements())
    assert refused(anchor.verify, other.evidence(DATA), json.dumps(honest).encode()).reason is Reason.NOT_GENUINE


def test_tcb_info_signed_by_anybody(tmp_path: Path) -> None:
    honest = development_authority()
    anybody = dataclasses.replace(honest, keys=dataclasses.replace(honest.keys, tcb_signing=keys.ec_key("anybody's")))

    def better(document: dict[str, Any]) -> None:
        document["tcbLevels"][-1]["tcbStatus"] = "UpToDate"

    def make(_authority: Authority, _processor: Processor, issued: int) -> Collateral:
        return resigned(honest.collateral(issued), anybody, tcb_info=better)

    other = machine(tmp_path / "m", collateral=make, status="Revoked")
    assert refused(anchor.verify, other.evidence(DATA), other.endorsements()).reason is Reason.NOT_GENUINE


# --- the same through the exchange ---

SGX_POLICY = """
version = 1
[sgx]
machines = "any"
mrenclave = "any"
mrsigner = ["{mrsigner}"]
isv_prod_id = 1
min_isv_svn = 1
tcb_statuses = ["UpToDate"]
out_of_date_grace_days = 0
rejected_advisories = "none"
min_tcb_evaluation_data_number = 1
dynamic_platform = "accept"
cached_keys = "accept"
smt = "accept"
"""


@pytest.mark.simulated_only("on sgx it is one case of the next test")
def test_a_simulated_machine_that_says_it_is_hardware(pair: Pair) -> None:
    # The policy names its signer and any machine: nothing but the root is in its way.
    policy = parse_policy(SGX_POLICY.format(mrsigner=pair.primary.platform.mrsigner))
    with Primary.open(pair.third, policy=policy, verifiers={"sgx": HARDWARE}) as primary:
        greeting = pair.standby.greet()
        hello = edited(greeting.message, Hello, platform="sgx")
        requesting = type(greeting)(hello, greeting.asking).challenged(primary.challenge(hello))
        with pytest.raises(Rejected) as caught:
            primary.answer(requesting.message)
        assert caught.value.reason is Reason.NOT_GENUINE
        assert primary.keyring.released == 0


@pytest.mark.parametrize("root", [development_authority, private_authority, unknown_authority])
def test_a_machine_under_another_root(pair: Pair, root: Callable[[], Authority], tmp_path: Path) -> None:
    """All else is as it should be, the platform's name too: under the root that is trusted it would be let in."""
    other = pair.machine(tmp_path / "m", authority=root)
    if anchor_of(root()) == VERIFY[pair.name].anchor:
        Pair(pair.primary, Standby.of(other), pair.third).works()
        return
    with pair.refuses(Reason.NOT_GENUINE, asked=1):
        pair.primary.answer(Standby.of(other).ask(pair.primary).message)
    with Primary.open(other) as primary:
        requesting = pair.standby.ask(primary)
        grant = primary.answer(requesting.message)
    with pair.refuses(Reason.NOT_GENUINE):
        granted(requesting, grant)


def test_a_platform_that_the_policy_names_and_nothing_here_verifies(pair: Pair) -> None:
    policy = parse_policy(for_the_other(pair.primary.policy))
    with Primary.open(pair.third, policy=policy) as primary:
        greeting = pair.standby.greet()
        hello = edited(greeting.message, Hello, platform=other_than(pair.name))
        requesting = type(greeting)(hello, greeting.asking).challenged(primary.challenge(hello))
        with pytest.raises(Rejected, match=f"verifies {pair.name}, not {other_than(pair.name)}") as caught:
            primary.answer(requesting.message)
        assert caught.value.reason is Reason.PLATFORM_NOT_NAMED
        assert primary.keyring.released == 0


# --- the anchors themselves ---


def test_the_development_root_says_what_it_is() -> None:
    root = x509.load_der_x509_certificate(SIMULATED_ROOT.der)
    assert root.subject.rfc4514_string() == f"CN={certificates.ROOT_NAME}"
    assert "protects nothing" in SIMULATED_ROOT.name
    assert root.issuer == root.subject


def test_the_development_root_is_that_of_the_public_key() -> None:
    def public(key: object) -> bytes:
        return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined, no-any-return]  # the key is of any kind here

    root = x509.load_der_x509_certificate(SIMULATED_ROOT.der)
    root.verify_directly_issued_by(root)
    assert public(root.public_key()) == public(keys.development_keys().root.public_key())


def test_hardware_and_simulation_share_no_anchor() -> None:
    assert SIMULATED_ROOT.sha256 != INTEL_SGX_ROOT.sha256
    assert (anchor.verify.platform, anchor.verify.anchor) == ("simulated", SIMULATED_ROOT)
    assert registry.load_verifier("simulated") is anchor.verify
    hardware = registry.load_verifier("sgx")
    assert isinstance(hardware, SgxVerifier)
    assert (hardware.platform, hardware.anchor) == ("sgx", INTEL_SGX_ROOT)
    with pytest.raises(Misuse):
        registry.load_verifier("tpm")


def test_an_anchor_that_is_not_what_it_says() -> None:
    with pytest.raises(Corrupt):
        TrustAnchor(name="Intel SGX Root CA", der=SIMULATED_ROOT.der, sha256=INTEL_SGX_ROOT.sha256)


# --- genuine quotes of Intel's, under the simulation's root ---

genuine = pytest.mark.skipif(
    not intel.FOLDER.is_dir(), reason="NOT TESTED: genuine Intel quotes; there is no ../shared/vectors"
)


@genuine
@pytest.mark.parametrize("name", ["sgx-phala", "sgx-automata-swh"])
def test_the_simulated_verifier_refuses_hardware(name: str) -> None:
    given = intel.submission(name)
    assert given.verify().platform == "sgx"
    given.verifier = anchor.verify
    with pytest.raises(Rejected, match=SIMULATED_ROOT.name) as caught:
        given.verify()
    assert caught.value.reason is Reason.NOT_GENUINE


@pytest.mark.simulated_only("it is about the anchor of the simulated platform")
@genuine
def test_simulated_collateral_does_not_carry_a_quote_of_hardware(machines: Machines) -> None:
    given = intel.submission("sgx-phala")
    error = refused(anchor.verify, given.quote, machines.first.endorsements(), given.report_data)
    assert error.reason is Reason.NOT_GENUINE
    assert refused(HARDWARE, given.quote, machines.first.endorsements(), given.report_data).reason is Reason.NOT_GENUINE


@pytest.mark.simulated_only("it is about the anchor of the simulated platform")
@genuine
def test_collateral_of_hardware_does_not_carry_a_simulated_quote(machines: Machines) -> None:
    given = intel.submission("sgx-phala")
    endorsements = json.dumps(given.collateral).encode()
    for verifier in (HARDWARE, anchor.verify):
        error = refused(verifier, machines.first.evidence(DATA), endorsements, now=given.now)
        assert error.reason is Reason.NOT_GENUINE


@genuine
def test_tcb_info_for_the_processor_of_hardware_makes_no_simulated_one(tmp_path: Path) -> None:
    given = intel.submission("sgx-phala")
    fmspc = json.loads(given.collateral["tcb_info"])["fmspc"]
    other = machine(tmp_path / "m", collateral=with_tcb_info(lambda document: document.update(fmspc=fmspc)))
    for verifier in (HARDWARE, anchor.verify):
        assert refused(verifier, other.evidence(DATA), other.endorsements()).reason is Reason.NOT_GENUINE
