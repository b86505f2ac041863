from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from tests.fakes.machines import other_signer

from rkeyserver.errors import Corrupt
from rkeyserver.platforms import sigstruct
from rkeyserver.platforms.simulated import keys

MRENCLAVE = bytes(range(32))
ATTRIBUTES = bytes.fromhex("04000000000000000300000000000000")


def made(key: rsa.RSAPrivateKey | None = None) -> bytes:
    return sigstruct.sign(
        key or keys.image_signing_key(),
        mrenclave=MRENCLAVE,
        attributes=sigstruct.attributes(debug=False),
        isv_prod_id=0x1234,
        isv_svn=0x5678,
    )


def modulus(key: rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_numbers().n.to_bytes(384, "little")


def test_every_field_lies_where_the_manual_puts_it() -> None:
    found = made()
    assert len(found) == 1808
    assert found[0:16] == bytes.fromhex("06000000E10000000000010000000000")
    assert found[16:20] == bytes(4)
    assert found[20:24] == bytes.fromhex("01012620")  # 2026-01-01, in BCD, little-endian
    assert found[24:40] == bytes.fromhex("01010000600000006000000001000000")
    assert found[40:128] == bytes(88)
    assert found[128:512] == modulus(keys.image_signing_key())
    assert found[512:516] == b"\3\0\0\0"
    assert found[900:928] == b"\0\0\0\0" + b"\xff\xff\xff\xff" + bytes(20)
    assert found[928:944] == ATTRIBUTES
    assert found[944:960] == b"\xff" * 16
    assert found[960:992] == MRENCLAVE
    assert found[992:1024] == bytes(32)
    assert found[1024:1028] == bytes.fromhex("34127856")
    assert found[1028:1040] == bytes(12)


def test_the_signature_and_the_quotients_are_what_the_manual_wants() -> None:
    found = made()
    n, s, q1, q2 = (int.from_bytes(found[at : at + 384], "little") for at in (128, 516, 1040, 1424))
    digest = hashlib.sha256(found[:128] + found[900:1028]).digest()
    algorithm = bytes.fromhex("3031300d060960864801650304020105000420")
    padded = b"\0\1" + b"\xff" * (384 - 3 - len(algorithm) - 32) + b"\0" + algorithm + digest
    assert pow(s, 3, n) == int.from_bytes(padded, "big")
    assert q1 == s**2 // n
    assert q2 == (s**3 - q1 * s * n) // n


def test_what_holds_says_who_vouches_for_what() -> None:
    found = sigstruct.verify(made())
    assert found == sigstruct.SigStruct(
        mrsigner=hashlib.sha256(modulus(keys.image_signing_key())).digest(),
        mrenclave=MRENCLAVE,
        attributes=ATTRIBUTES,
        isv_prod_id=0x1234,
        isv_svn=0x5678,
    )


def test_another_key_is_another_signer() -> None:
    found = sigstruct.verify(made(other_signer()))
    assert found.mrsigner == hashlib.sha256(modulus(other_signer())).digest()
    assert found.mrsigner != sigstruct.verify(made()).mrsigner


def test_the_same_is_signed_to_the_same_bytes() -> None:
    assert made() == made()


def test_no_byte_can_be_changed() -> None:
    genuine = made()
    accepted = []
    for offset in range(len(genuine)):
        changed = genuine[:offset] + bytes([genuine[offset] ^ 1 << offset % 8]) + genuine[offset + 1 :]
        try:
            sigstruct.verify(changed)
        except Corrupt:
            continue
        accepted.append(offset)
    assert accepted == []


def at(offset: int, value: bytes) -> Callable[[bytes], bytes]:
    return lambda given: given[:offset] + value + given[offset + len(value) :]


def resigned(hash_algorithm: SHA256 | SHA384 | None = None, *, pss: bool = False) -> Callable[[bytes], bytes]:
    """Signed by the genuine key, in another way, with quotients that fit."""

    def change(given: bytes) -> bytes:
        key = keys.image_signing_key()
        scheme = padding.PSS(padding.MGF1(SHA256()), 32) if pss else padding.PKCS1v15()
        signature = key.sign(given[:128] + given[900:1028], scheme, hash_algorithm or SHA256())
        s, n = int.from_bytes(signature, "big"), key.public_key().public_numbers().n
        parts = [number.to_bytes(384, "little") for number in (s, s**2 // n, (s**3 - s**2 // n * s * n) // n)]
        return given[:516] + parts[0] + given[900:1040] + parts[1] + parts[2]

    return change


def of_another_signature(given: bytes) -> bytes:
    other = made(other_signer())
    return given[:516] + other[516:900] + given[900:1040] + other[1040:]


def with_another_modulus(given: bytes) -> bytes:
    return given[:128] + modulus(other_signer()) + given[512:]


def in_a_representative_above_the_modulus(given: bytes) -> bytes:
    # The same residue in other bytes: a signature is a number below the modulus.
    n, s = (int.from_bytes(given[start : start + 384], "little") for start in (128, 516))
    return given[:516] + ((s + n) % 2**3072).to_bytes(384, "little") + given[900:]


WRONG: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "nothing": (lambda _: b"", "has 0 bytes, 1808 wanted"),
    "cut": (lambda given: given[:-1], "has 1807 bytes, 1808 wanted"),
    "longer": (lambda given: given + b"\0", "has 1809 bytes, 1808 wanted"),
    "zeros": (lambda _: bytes(1808), "no signed enclave image"),
    "the header of another version": (at(0, b"\7"), "no signed enclave image"),
    "another second header": (at(24, b"\2"), "no signed enclave image"),
    "a zip's beginning": (at(0, b"PK\3\4"), "begins with 504b0304"),
    "exponent 65537": (at(512, struct.pack("<I", 65537)), "exponent 65537; RSA-3072, 3 wanted"),
    "exponent 1": (at(512, struct.pack("<I", 1)), "exponent 1; RSA-3072, 3 wanted"),
    "exponent 0": (at(512, bytes(4)), "exponent 0; RSA-3072, 3 wanted"),
    "a modulus of zero": (at(128, bytes(384)), "RSA-0, exponent 3"),
    "a modulus of one": (at(128, b"\1" + bytes(383)), "RSA-1, exponent 3"),
    "a shorter modulus": (at(128 + 376, bytes(8)), "RSA-30.., exponent 3"),
    "an even modulus": (at(128, b"\0"), "does not hold"),
    "another signer's modulus": (with_another_modulus, "does not hold"),
    "another signer's signature": (of_another_signature, "does not hold"),
    "no signature": (at(516, bytes(384)), "does not hold"),
    "a signature of one": (at(516, b"\1" + bytes(383)), "does not hold"),
    "the modulus as signature": (lambda given: at(516, given[128:512])(given), "does not hold"),
    "a signature above the modulus": (in_a_representative_above_the_modulus, "does not hold"),
    "SHA-384": (resigned(SHA384()), "does not hold"),
    "PSS": (resigned(pss=True), "does not hold"),
    "another measurement": (at(960, bytes(32)), "does not hold"),
    "a debug enclave's attributes": (at(928, b"\6"), "does not hold"),
    "another product": (at(1024, b"\2\0"), "does not hold"),
    "a higher version": (at(1026, b"\xff\xff"), "does not hold"),
    "reserved bytes behind the version": (at(1028, b"\1"), "reserved"),
    "no first quotient": (at(1040, bytes(384)), "wrong quotients"),
    "no second quotient": (at(1424, bytes(384)), "wrong quotients"),
}


@pytest.mark.parametrize(("change", "says"), WRONG.values(), ids=WRONG)
def test_what_does_not_hold(change: Callable[[bytes], bytes], says: str) -> None:
    with pytest.raises(Corrupt, match=says):
        sigstruct.verify(change(made()))


def test_signed_again_by_the_same_key_in_the_right_way_it_holds() -> None:
    # So that the other ways above are refused for what they are.
    assert resigned()(made()) == made()


@pytest.mark.parametrize(("exponent", "bits"), [(65537, 3072), (3, 2048)])
def test_a_key_of_another_kind_signs_nothing(exponent: int, bits: int) -> None:
    key = rsa.generate_private_key(public_exponent=exponent, key_size=bits)
    with pytest.raises(ValueError, match=f"RSA-{bits} with exponent {exponent}; RSA-3072 with exponent 3 wanted"):
        made(key)


def test_the_public_development_key_is_a_sound_key() -> None:
    # It is loaded unchecked, since checking takes longer than all the rest of a start.
    numbers = keys.image_signing_key().private_numbers()
    checked = numbers.private_key()
    assert checked.key_size == 3072
    assert numbers.p * numbers.q == numbers.public_numbers.n
    assert numbers.public_numbers.e == 3
