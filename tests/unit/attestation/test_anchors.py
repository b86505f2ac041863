from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable

import pytest
from cryptography import x509

from rkeyserver.attestation.sgx.anchors import INTEL_SGX_ROOT, TrustAnchor
from rkeyserver.errors import Corrupt
from rkeyserver.platforms.simulated.anchor import SIMULATED_ROOT

ANCHORS = {"Intel's": INTEL_SGX_ROOT, "the simulated platform's": SIMULATED_ROOT}


def changed(der: bytes, offset: int) -> bytes:
    damaged = bytearray(der)
    damaged[offset] ^= 1
    return bytes(damaged)


@pytest.mark.parametrize("anchor", ANCHORS.values(), ids=ANCHORS)
def test_an_anchor_is_a_root_that_signed_itself(anchor: TrustAnchor) -> None:
    certificate = x509.load_der_x509_certificate(anchor.checked())
    certificate.verify_directly_issued_by(certificate)
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert anchor.sha256 == hashlib.sha256(anchor.der).hexdigest()


def test_the_two_anchors_have_neither_key_nor_name_in_common() -> None:
    intel, simulated = (x509.load_der_x509_certificate(anchor.der) for anchor in ANCHORS.values())
    assert intel.public_key() != simulated.public_key()
    assert intel.subject.rfc4514_string().startswith("C=US,ST=CA,L=Santa Clara,O=Intel Corporation,CN=Intel SGX Root")
    assert "protects nothing" in simulated.subject.rfc4514_string()


@pytest.mark.parametrize("anchor", ANCHORS.values(), ids=ANCHORS)
def test_no_byte_of_an_anchor_can_be_changed(anchor: TrustAnchor) -> None:
    for offset in range(len(anchor.der)):
        with pytest.raises(Corrupt, match="is damaged"):
            TrustAnchor(name=anchor.name, der=changed(anchor.der, offset), sha256=anchor.sha256)


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _der: b"",
    "cut": lambda der: der[:-1],
    "longer": lambda der: der + b"\0",
    "another anchor": lambda _der: SIMULATED_ROOT.der,
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_anchor_is_named_with_both_digests(damage: Callable[[bytes], bytes]) -> None:
    der = damage(INTEL_SGX_ROOT.der)
    with pytest.raises(Corrupt) as refused:
        TrustAnchor(name="Intel SGX Root CA", der=der, sha256=INTEL_SGX_ROOT.sha256)
    assert "Intel SGX Root CA" in str(refused.value)
    assert hashlib.sha256(der).hexdigest() in str(refused.value)
    assert INTEL_SGX_ROOT.sha256 in str(refused.value)


@pytest.mark.parametrize("digest", ["", INTEL_SGX_ROOT.sha256.upper(), INTEL_SGX_ROOT.sha256[:-1]])
def test_a_digest_in_another_form_is_no_digest(digest: str) -> None:
    with pytest.raises(Corrupt):
        TrustAnchor(name="any", der=INTEL_SGX_ROOT.der, sha256=digest)


def test_an_anchor_that_was_damaged_on_the_way_to_another_process() -> None:
    arrived = pickle.loads(pickle.dumps(INTEL_SGX_ROOT).replace(b"Santa Clara", b"Santa Klara"))  # noqa: S301 - of bytes that were made here
    assert arrived.der != INTEL_SGX_ROOT.der
    with pytest.raises(Corrupt, match="is damaged"):
        arrived.checked()


def test_an_anchor_is_not_printed_with_its_bytes() -> None:
    assert "der=" not in repr(INTEL_SGX_ROOT)
