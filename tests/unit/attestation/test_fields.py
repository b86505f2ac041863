"""What a quote, and what is none, is said to be."""

from __future__ import annotations

import functools
import struct

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.machines import machine

from rkeyserver.attestation.sgx import fields, pck
from rkeyserver.attestation.sgx.foreign import foreign, shape_advice
from rkeyserver.attestation.sgx.material import key_of, name, seconds
from rkeyserver.platforms.simulated import certificates, tcb
from rkeyserver.platforms.simulated.keys import ec_key
from rkeyserver.platforms.simulated.platform import SimulatedPlatform

DATA = b"Hello, world!".ljust(64, b"\0")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPlatform:
    return machine(tmp_path_factory.mktemp("m"))


def test_every_field_is_where_it_was_put(platform: SimulatedPlatform) -> None:
    quote = platform.evidence(DATA)
    header, enclave = fields.header(quote[:48]), fields.report(quote[48:432])
    assert (header["version"], header["attestation_key_type"], header["tee_type"]) == (3, 2, 0)
    assert (header["qe_svn"], header["pce_svn"]) == (tcb.QE_ISV_SVN, platform.processor.pce_svn)
    assert enclave["mrenclave"] == platform.enclave.mrenclave.hex()
    assert enclave["mrsigner"] == platform.enclave.mrsigner.hex()
    assert (enclave["isv_prod_id"], enclave["isv_svn"]) == (platform.enclave.isv_prod_id, platform.enclave.isv_svn)
    assert (enclave["report_data"], enclave["report_data_text"]) == (DATA.hex(), "Hello, world!")
    assert enclave["attributes_flags"].split()[0] == "INIT"
    assert enclave["debug"] is False


def test_each_field_of_a_report_has_its_own_bytes() -> None:
    body = bytes(index % 251 for index in range(384))
    found = fields.report(body)
    assert found["cpu_svn"] == body[:16].hex()
    assert found["misc_select"] == body[16:20][::-1].hex()
    assert found["isv_ext_prod_id"] == body[32:48].hex()
    assert found["attributes"] == body[48:64].hex()
    assert (found["mrenclave"], found["mrsigner"]) == (body[64:96].hex(), body[128:160].hex())
    assert found["config_id"] == body[192:256].hex()
    assert (found["isv_prod_id"], found["isv_svn"], found["config_svn"]) == struct.unpack("<HHH", body[256:262])
    assert found["isv_family_id"] == body[304:320].hex()
    assert found["report_data"] == body[320:].hex()


def test_flags_are_named_and_unknown_ones_numbered() -> None:
    assert fields.flags(0, fields.ATTRIBUTE_FLAGS) == "none"
    assert fields.flags(0b10000111, fields.ATTRIBUTE_FLAGS) == "INIT DEBUG MODE64BIT KSS"
    assert fields.flags(1 << 63 | 1 << 3, fields.ATTRIBUTE_FLAGS) == "bit3 bit63"
    assert fields.flags(0xE7, fields.XFRM_FLAGS) == "x87 SSE AVX OPMASK ZMM_HI256 HI16_ZMM"


@pytest.mark.parametrize("data", [bytes(64), b"\1" * 64, b"a\0b".ljust(64, b"\0"), b"\x7f".ljust(64, b"\0")])
def test_report_data_that_is_no_text(data: bytes) -> None:
    assert fields.as_text(data) == ""


def header(version: int, key_type: int = 2, tee: int = 0, size: int = 2000) -> bytes:
    return struct.pack("<HHI", version, key_type, tee).ljust(size, b"\0")


SNP = struct.pack("<I", 2).ljust(0x34, b"\0") + struct.pack("<I", 1)
KINDS: dict[str, tuple[bytes, str, str]] = {
    "a quote": (header(3), "", ""),
    "a quote of the size of a report": (header(3, size=432), "", ""),
    "nothing": (b"", "nothing: it is empty", "written"),
    "a few bytes": (b"\x03\0\x02", "3 bytes, too few to tell", "cut off"),
    "TDX 4": (header(4, tee=0x81), "a TDX quote, version 4", "go-tdx-guest"),
    "TDX 5": (header(5, 3, tee=0x81), "a TDX quote, version 5", "go-tdx-guest"),
    "SGX 4": (header(4), "an SGX quote of a later form, version 4", "Version 3 is read"),
    "EPID": (header(2, 1), "an EPID quote, whose service Intel has ended, version 2", "DCAP"),
    "an SNP report": (SNP.ljust(1184, b"\0"), "an AMD SEV-SNP attestation report", "snpguest"),
    "an SNP report, cut": (
        b"\3" + SNP[1:].ljust(1182, b"\0"),
        "nothing that this knows",
        "Wanted is a version 3 SGX quote",
    ),
    "a TPM's message": (b"\xffTCG\x80\x18".ljust(100, b"\0"), "a TPM 2.0 attestation", "tpm2_checkquote"),
    "a TPM's, with its size": (b"\0\x64\xffTCG\x80\x18".ljust(102, b"\0"), "a TPM 2.0 attestation", "tpm2_checkquote"),
    "a report": (b"\x0b" * 432, "an SGX report by its size, which proves", "quoting enclave turn it into a quote"),
    "a report's body": (b"\x0b" * 384, "an SGX report by its size, which proves", "quoting enclave"),
    "PEM": (b"\n-----BEGIN CERTIFICATE-----", "PEM", "quote is wanted"),
    "JSON": (b' {"quote": "AwAC"}', "JSON", "--collateral"),
    "another key type": (header(3, 3), "nothing that this knows", "Wanted is"),
    "another TEE": (header(3, tee=1), "nothing that this knows", "Wanted is"),
    "zeros": (bytes(4600), "nothing that this knows", "Wanted is"),
}


@pytest.mark.parametrize(("data", "what", "advice"), KINDS.values(), ids=KINDS)
def test_what_is_no_quote_is_named(data: bytes, what: str, advice: str) -> None:
    found = foreign(data)
    assert found[0].startswith(what)
    assert bool(found[0]) == bool(what)
    assert advice in found[1]


def test_what_is_wrong_with_a_shape(platform: SimulatedPlatform) -> None:
    quote = platform.evidence(DATA)
    assert shape_advice(quote) == ""
    assert shape_advice(quote[:600]) == "The quote was cut off."
    assert shape_advice(quote[:-7]).startswith("7 bytes are missing")
    assert shape_advice(quote + b"\0" * 16).startswith("16 bytes follow its end. Cut them off")
    for kind, says in ((1, "PPID in the clear"), (99, "of an unknown kind")):
        assert says in shape_advice(quote[:1046] + struct.pack("<H", kind) + quote[1048:])
    body = quote[436:1012] + b"\xff\xff"
    assert shape_advice(quote[:432] + struct.pack("<I", len(body)) + body) == ""


@given(st.binary(max_size=1200))
def test_anything_is_named(data: bytes) -> None:
    what, advice = foreign(data)
    assert bool(what) == bool(advice)
    assert isinstance(shape_advice(data), str)


# --- the SGX extension ---


def certificate(extension: bytes) -> x509.Certificate:
    key = ec_key("a PCK")
    value = x509.UnrecognizedExtension(certificates.SGX_EXTENSION, extension)
    return certificates._issue(key.public_key(), certificates.PCK_NAME, key, certificates._name("x"), extension=value)


GOOD = certificates.sgx_extension(b"\1" * 16, bytes(range(16)), 13)


def test_the_extension_is_read() -> None:
    found = pck.read_extension(certificate(GOOD))
    assert (found.ppid, found.cpu_svn, found.pce_svn) == ("01" * 16, bytes(range(16)).hex(), 13)
    assert (found.fmspc, found.pce_id, found.sgx_type) == (tcb.FMSPC.hex(), "0000", 0)
    assert found.components == tuple(range(16))
    assert (found.dynamic_platform, found.cached_keys, found.smt) == ("Undefined",) * 3
    assert found.platform_instance_id == ""


def with_more(*entries: bytes) -> bytes:
    inner = GOOD[4:] if GOOD[1] & 0x80 else GOOD[2:]
    return certificates._der(0x30, inner, *entries)


def flag(number: int, value: bytes) -> bytes:
    return certificates._field(0x01, value, 7, number)


def test_the_extension_of_a_platform_with_its_configuration() -> None:
    arcs = certificates._der(0x06, certificates._SGX_ARCS, bytes([7]))
    flags = certificates._der(0x30, flag(1, b"\xff"), flag(2, b"\0"), flag(3, b"\xff"))
    more = with_more(certificates._field(0x04, b"\2" * 16, 6), certificates._der(0x30, arcs, flags))
    found = pck.read_extension(certificate(more))
    assert (found.dynamic_platform, found.cached_keys, found.smt) == ("True", "False", "True")
    assert found.platform_instance_id == "02" * 16


def nested(content: bytes) -> bytes:
    """An entry that holds entries, as those of the TCB and of the configuration do."""
    identifier = certificates._der(0x06, certificates._SGX_ARCS, bytes([7]))
    return certificates._der(0x30, identifier, certificates._der(0x30, content))


WRONG: dict[str, bytes] = {
    "empty": b"",
    "cut": GOOD[:-1],
    "cut in a tag": b"\x30",
    "no sequence": b"\4\0",
    "no entries": b"\x30\0",
    "another identifier": b"\x30\x0a\x30\x08\x06\x02\x2a\x03\x04\x02\x00\x00",
    "a number for the PPID": GOOD.replace(b"\x04\x10" + b"\1" * 16, b"\x02\x10" + b"\1" * 16),
    "an entry of one": b"\x30\x04\x30\x02\x06\x00",
    "entries in an entry of an entry": with_more(nested(nested(b""))),
    "five hundred of them": with_more(functools.reduce(lambda one, _: nested(one), range(500), b"")),
}


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG)
def test_another_extension_is_not_read(data: bytes) -> None:
    with pytest.raises((ValueError, KeyError)):
        pck.read_extension(certificate(data))


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_a_changed_extension_is_read_or_refused(offset: int, byte: int) -> None:
    try:
        pck.read_extension(certificate(GOOD[:offset] + bytes([byte]) + GOOD[offset + 1 :]))
    except (ValueError, KeyError, TypeError):
        return


def test_no_extension_and_no_key_of_a_curve(platform: SimulatedPlatform) -> None:
    ca = x509.load_pem_x509_certificates(platform.evidence(DATA)[1052:])[1]
    with pytest.raises(x509.ExtensionNotFound):
        pck.read_extension(ca)
    assert isinstance(key_of(ca), ec.EllipticCurvePublicKey)
    assert name(ca) == certificates.PCK_CA_NAME
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    nameless = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "x")]))
        .issuer_name(x509.Name([]))
        .public_key(rsa_key.public_key())
        .serial_number(1)
        .not_valid_before(ca.not_valid_before_utc)
        .not_valid_after(ca.not_valid_after_utc)
        .sign(ec_key("x"), SHA256())
    )
    assert name(nameless) == "O=x"
    with pytest.raises(ValueError, match="another kind"):
        key_of(nameless)


def test_dates_with_and_without_an_offset() -> None:
    assert seconds("2026-05-28T20:26:40Z") == seconds("2026-05-28T20:26:40") == 1_780_000_000
