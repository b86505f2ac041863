"""What the simulated hardware signs, read by others than the code that wrote it."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dcap_qvl  # type: ignore[import-untyped]
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.fakes.machines import NOW, loaded, machine, serials

from rkeyserver.platforms.simulated import certificates, tcb
from rkeyserver.platforms.simulated.pki import development_authority
from rkeyserver.platforms.simulated.platform import SimulatedPlatform
from rkeyserver.platforms.simulated.quoting import QE_VENDOR_ID, QuotingEnclave

DATA = bytes(range(64))
INTEL_QE_VENDOR = "939a7233f79c4ca9940a0db3957f0607"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPlatform:
    return machine(tmp_path_factory.mktemp("machine"))


@pytest.fixture(scope="module")
def chain(platform: SimulatedPlatform) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(platform.evidence(DATA)[1052:])


def number(data: bytes, offset: int, size: int) -> int:
    return int.from_bytes(data[offset : offset + size], "little")


def signed_by(key: ec.EllipticCurvePublicKey, raw: bytes, message: bytes) -> None:
    """Raises: InvalidSignature."""
    r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
    key.verify(encode_dss_signature(r, s), message, ec.ECDSA(SHA256()))


def p256(key: object) -> ec.EllipticCurvePublicKey:
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    return key


def test_a_quote_is_of_version_3_and_every_field_is_in_its_place(platform: SimulatedPlatform) -> None:
    quote = platform.evidence(DATA)
    enclave, chip = platform.enclave, platform.processor
    assert (number(quote, 0, 2), number(quote, 2, 2), number(quote, 4, 4)) == (3, 2, 0)
    assert (number(quote, 8, 2), number(quote, 10, 2)) == (tcb.QE_ISV_SVN, chip.pce_svn)
    assert quote[12:28] == QE_VENDOR_ID == bytes.fromhex(INTEL_QE_VENDOR)
    report = quote[48:432]
    assert report[0:16] == chip.cpu_svn
    assert report[48:64] == enclave.attributes
    assert report[64:96] == enclave.mrenclave
    assert report[128:160] == enclave.mrsigner
    assert (number(report, 256, 2), number(report, 258, 2)) == (enclave.isv_prod_id, enclave.isv_svn)
    assert number(report, 260, 2) == 0  # CONFIGSVN
    assert report[320:384] == DATA
    reserved = ((16, 48), (96, 128), (160, 256), (262, 320))
    assert not any(any(report[start:end]) for start, end in reserved)
    assert number(quote, 432, 4) == len(quote) - 436
    assert number(quote, 1012, 2) == 32
    assert (number(quote, 1046, 2), number(quote, 1048, 4)) == (5, len(quote) - 1052)


def test_every_signature_of_a_quote_is_what_it_says(platform: SimulatedPlatform, chain: list[x509.Certificate]) -> None:
    quote = platform.evidence(DATA)
    attestation = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\4" + quote[500:564])
    signed_by(attestation, quote[436:500], quote[:432])
    signed_by(p256(chain[0].public_key()), quote[948:1012], quote[564:948])
    binding = hashlib.sha256(quote[500:564] + quote[1014:1046]).digest()
    assert quote[564:948][320:384] == binding + bytes(32)


def test_the_library_that_verifies_intels_reads_it_alike(platform: SimulatedPlatform) -> None:
    parsed = dcap_qvl.parse_quote(platform.evidence(DATA))
    assert (parsed.header.version, parsed.quote_type()) == (3, "SGX")
    assert bytes(parsed.report.mr_enclave) == platform.enclave.mrenclave
    assert bytes(parsed.report.report_data) == DATA


def test_each_start_has_an_attestation_key_of_its_own(platform: SimulatedPlatform, tmp_path: Path) -> None:
    chain = development_authority().pck_chain(platform.processor)
    made = {QuotingEnclave(platform.processor, chain).quote(platform.enclave, DATA)[500:564] for _ in range(3)}
    assert len(made) == 3
    assert len({platform.evidence(DATA)[500:564] for _ in range(3)}) == 1
    assert machine(tmp_path).evidence(DATA)[500:564] not in made


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_report_data_of_another_size_is_not_quoted(platform: SimulatedPlatform, size: int) -> None:
    with pytest.raises(ValueError, match=f"report data of {size} bytes, 64 wanted"):
        platform.evidence(bytes(size))


def test_a_debug_enclave_is_quoted_as_one(platform: SimulatedPlatform) -> None:
    quoting = QuotingEnclave(platform.processor, development_authority().pck_chain(platform.processor))
    assert quoting.quote(loaded(debug=True), DATA)[96] & 2
    assert not quoting.quote(loaded(), DATA)[96] & 2


# --- certificates ---


def test_the_chain_is_leaf_then_ca_then_root(chain: list[x509.Certificate]) -> None:
    leaf, ca, root = chain
    leaf.verify_directly_issued_by(ca)
    ca.verify_directly_issued_by(root)
    root.verify_directly_issued_by(root)
    assert [one.extensions.get_extension_for_class(x509.BasicConstraints).value for one in chain] == [
        x509.BasicConstraints(ca=False, path_length=None),
        x509.BasicConstraints(ca=True, path_length=0),
        x509.BasicConstraints(ca=True, path_length=1),
    ]
    for one in chain:
        p256(one.public_key())
        assert "development" in one.subject.rfc4514_string().lower()
        assert one.subject.rfc4514_string().endswith("protects nothing")
        assert one.not_valid_before_utc < datetime.fromtimestamp(NOW, UTC) < one.not_valid_after_utc


def der(data: bytes, at: int = 0) -> tuple[int, bytes, int]:
    """Tag, contents and end of the DER element at `at`."""
    tag, size, start = data[at], data[at + 1], at + 2
    if size >= 0x80:
        count = size & 0x7F
        size, start = int.from_bytes(data[start : start + count], "big"), start + count
    return tag, data[start : start + size], start + size


def elements(data: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at < len(data):
        tag, content, at = der(data, at)
        found.append((tag, content))
    return found


def dotted(content: bytes) -> str:
    arcs, value = [content[0] // 40, content[0] % 40], 0
    for byte in content[1:]:
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            arcs.append(value)
            value = 0
    return ".".join(map(str, arcs))


def fields(sequence: bytes) -> dict[str, tuple[int, bytes]]:
    """A sequence of (OID, value) pairs, by OID."""
    found = {}
    for tag, content in elements(sequence):
        assert tag == 0x30
        (oid_tag, oid), value = elements(content)
        assert oid_tag == 0x06
        found[dotted(oid)] = value
    return found


def test_a_certificate_carries_the_real_sgx_extension(
    platform: SimulatedPlatform, chain: list[x509.Certificate]
) -> None:
    extension = chain[0].extensions.get_extension_for_oid(x509.ObjectIdentifier("1.2.840.113741.1.13.1"))
    assert isinstance(extension.value, x509.UnrecognizedExtension)
    tag, content, end = der(extension.value.value)
    assert (tag, end) == (0x30, len(extension.value.value))
    arc, chip = "1.2.840.113741.1.13.1", platform.processor
    found = fields(content)
    assert list(found) == [f"{arc}.{number}" for number in (1, 2, 3, 4, 5)]
    assert found[f"{arc}.1"] == (0x04, chip.ppid)
    assert found[f"{arc}.3"] == (0x04, bytes(2))
    assert found[f"{arc}.4"] == (0x04, tcb.FMSPC)
    assert found[f"{arc}.5"] == (0x0A, b"\0")
    levels = fields(found[f"{arc}.2"][1])
    assert list(levels) == [f"{arc}.2.{number}" for number in range(1, 19)]
    for part, svn in enumerate(chip.cpu_svn, start=1):
        assert levels[f"{arc}.2.{part}"] == (0x02, bytes([svn]))
    assert levels[f"{arc}.2.17"] == (0x02, bytes([chip.pce_svn]))
    assert levels[f"{arc}.2.18"] == (0x04, chip.cpu_svn)


@pytest.mark.parametrize(
    ("cpu_svn", "pce_svn"),
    [(bytes(16), 0), (b"\x7f" * 16, 127), (b"\x80" * 16, 128), (b"\xff" * 16, 0xFFFF)],
    ids=["zeros", "127", "128", "the largest"],
)
def test_the_extension_is_sound_der_for_any_version(cpu_svn: bytes, pce_svn: int) -> None:
    content = der(certificates.sgx_extension(bytes(16), cpu_svn, pce_svn))[1]
    levels = fields(fields(content)["1.2.840.113741.1.13.1.2"][1])
    numbers = [int.from_bytes(content, "big", signed=True) for tag, content in levels.values() if tag == 0x02]
    assert numbers == [*cpu_svn, pce_svn]


def test_the_library_reads_the_extension_alike(platform: SimulatedPlatform) -> None:
    pem = development_authority().pck_chain(platform.processor)
    found = dcap_qvl.parse_pck_extension_from_pem(pem.encode())
    assert bytes(found.ppid) == platform.processor.ppid
    assert bytes(found.cpu_svn) == platform.processor.cpu_svn
    assert (found.pce_svn, bytes(found.fmspc), bytes(found.pce_id)) == (13, tcb.FMSPC, bytes(2))


def test_two_machines_have_different_certificates_under_one_authority(
    platform: SimulatedPlatform, tmp_path: Path
) -> None:
    other = machine(tmp_path)
    authority = development_authority()
    one, two = (authority.pck_chain(each.processor) for each in (platform, other))
    assert serials(one)[0] != serials(two)[0]
    assert serials(one)[1:] == serials(two)[1:]
    assert platform.processor.ppid != other.processor.ppid


def test_a_certificate_issued_again_has_the_same_serial_number(platform: SimulatedPlatform) -> None:
    authority = development_authority()
    assert serials(authority.pck_chain(platform.processor)) == serials(authority.pck_chain(platform.processor))


def test_crls_are_of_their_issuers_and_list_what_was_revoked() -> None:
    collateral = development_authority().collateral(NOW, revoked_processors=[7, 5], revoked_cas=[9])
    issuers = x509.load_pem_x509_certificates(collateral.pck_crl_issuer_chain.encode())
    for text, issuer, revoked in (
        (collateral.pck_crl, issuers[0], [5, 7]),
        (collateral.root_ca_crl, issuers[1], [9]),
    ):
        crl = x509.load_der_x509_crl(bytes.fromhex(text))
        assert crl.is_signature_valid(p256(issuer.public_key()))
        assert crl.issuer == issuer.subject
        assert sorted(one.serial_number for one in crl) == revoked
        assert crl.last_update_utc == datetime.fromtimestamp(NOW, UTC)
        assert crl.next_update_utc == datetime.fromtimestamp(NOW + tcb.VALID_FOR, UTC)


@pytest.mark.parametrize(("part", "about"), [("tcb_info", ("SGX", 3)), ("qe_identity", ("QE", 2))])
def test_documents_are_signed_as_they_are(part: str, about: tuple[str, int]) -> None:
    collateral = development_authority().collateral(NOW)
    text: str = getattr(collateral, part)
    document: dict[str, Any] = json.loads(text)
    assert (document["id"], document["version"]) == about
    assert document["issueDate"] == "2026-05-28T20:26:40Z"
    issuers = x509.load_pem_x509_certificates(getattr(collateral, f"{part}_issuer_chain").encode())
    signed_by(p256(issuers[0].public_key()), bytes.fromhex(getattr(collateral, f"{part}_signature")), text.encode())
    issuers[0].verify_directly_issued_by(issuers[1])


def test_every_status_that_intel_knows_has_a_microcode() -> None:
    levels = json.loads(tcb.tcb_info(NOW))["tcbLevels"]
    assert [level["tcbStatus"] for level in levels] == [
        "UpToDate",
        "SWHardeningNeeded",
        "ConfigurationNeeded",
        "ConfigurationAndSWHardeningNeeded",
        "OutOfDate",
        "OutOfDateConfigurationNeeded",
        "Revoked",
    ]
    firsts = [level["tcb"]["sgxtcbcomponents"][0]["svn"] for level in levels]
    assert firsts == sorted(set(firsts), reverse=True)
    assert [tcb.cpu_svn(level["tcbStatus"])[0] for level in levels] == firsts
    assert tcb.cpu_svn("UpToDate") == tcb.CURRENT_CPU_SVN


def test_the_authority_uses_one_key_for_one_purpose() -> None:
    keys = development_authority().keys
    points = {
        key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
        for key in (keys.root, keys.pck_ca, keys.tcb_signing)
    }
    assert len(points) == 3
