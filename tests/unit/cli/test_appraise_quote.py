"""What `appraise` shows of a quote whose certificates cannot be read: all else, and no more than they say."""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Callable

import pytest
from cryptography import x509
from tests.fakes.machines import machine

from rkeyserver.attestation.sgx import fields
from rkeyserver.attestation.sgx.material import Material
from rkeyserver.cli.appraise_quote import _evidence, _says_simulated
from rkeyserver.platforms.simulated.anchor import SIMULATED_ROOT

PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)
BEFORE = 432  # where the length of the signature's data is told
Ders = list[bytes]


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return machine(tmp_path_factory.mktemp("m")).evidence(bytes(64))


def ders(quote: bytes) -> Ders:
    return [base64.b64decode(one) for one in PEM.findall(fields.parts(quote).certification)]


def carrying(quote: bytes, certification: bytes) -> bytes:
    """The quote with something else in the place of its certificates, every length as it should be."""
    start = len(quote) - len(fields.parts(quote).certification) - 6
    rest = quote[BEFORE + 4 : start] + struct.pack("<HI", 5, len(certification)) + certification
    return quote[:BEFORE] + struct.pack("<I", len(rest)) + rest


def pem(found: Ders) -> bytes:
    parts = (b"-----BEGIN CERTIFICATE-----\n%s-----END CERTIFICATE-----\n" % base64.encodebytes(one) for one in found)
    return b"".join(parts)


def look(quote: bytes) -> tuple[bool, set[str]]:
    material = Material(quote, b"", SIMULATED_ROOT, 0)
    return _says_simulated(material), set(_evidence(material))


def without(value: str) -> Callable[[Ders], Ders]:
    """The PCK certificate with a value of its SGX extension under another number."""
    oid = bytes.fromhex("060a2a864886f84d010d01") + bytes.fromhex(value)
    return lambda found: [found[0].replace(oid, oid[:-1] + b"\x7e"), *found[1:]]


def with_a_negative_serial_number(found: Ders) -> Ders:
    """Which the library only warns of, and the operator is not to read in its words."""
    number = x509.load_der_x509_certificate(found[0]).serial_number
    data = number.to_bytes(number.bit_length() // 8 + 1, "big")  # as DER has it: the first bit is the sign
    return [found[0].replace(data, bytes([data[0] | 0xC0]) + data[1:]), *found[1:]]


ALL = {"header", "enclave", "quoting_enclave", "certificates", "processor"}
CHAINS: dict[str, tuple[Callable[[Ders], Ders], bool, set[str]]] = {
    "as it is": (lambda found: found, True, set()),
    "one certificate": (lambda found: found[:1], False, {"certificates", "processor"}),
    "none": (lambda _: [], False, {"certificates", "processor"}),
    "no X.509": (lambda found: [b"x" * 100, *found[1:]], False, {"certificates", "processor"}),
    "a CA's in the place of the PCK's": (lambda found: [found[1], found[1]], True, {"processor"}),
    "a negative serial number": (with_a_negative_serial_number, True, set()),
    "without its FMSPC": (without("04"), True, {"processor"}),
}


@pytest.mark.parametrize(("change", "simulated", "missing"), CHAINS.values(), ids=CHAINS)
def test_certificates(genuine: bytes, change: Callable[[Ders], Ders], missing: set[str], *, simulated: bool) -> None:
    assert look(carrying(genuine, pem(change(ders(genuine))))) == (simulated, ALL - missing)


def test_what_is_no_pem(genuine: bytes) -> None:
    data = b"-----BEGIN CERTIFICATE-----\n!-----END CERTIFICATE-----\n" * 2
    assert look(carrying(genuine, data)) == (False, ALL - {"certificates", "processor"})


@pytest.mark.parametrize(("size", "shown"), [(100, {"header"}), (600, {"header", "enclave"})])
def test_what_is_cut(genuine: bytes, size: int, shown: set[str]) -> None:
    assert look(genuine[:size]) == (False, shown)
