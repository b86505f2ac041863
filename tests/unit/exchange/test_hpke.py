from __future__ import annotations

import hashlib
import hmac
import pickle

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from rkeyserver.errors import Reason, Rejected
from rkeyserver.exchange.hpke import ENCAPSULATED_SIZE, TAG_SIZE, OneTimeKey, seal
from rkeyserver.exchange.messages import KEM_PUBLIC_KEY_SIZE

INFO = hashlib.sha512(b"a transcript").digest()
SECRET = b"a keyring, which is opened nowhere but here"
MLKEM_CIPHERTEXT = 1088


def opened(key: OneTimeKey, ciphertext: bytes, info: bytes) -> bytes:
    with key.open(ciphertext, info) as secret:
        return bytes(secret.view)


def labeled_extract(suite: bytes, salt: bytes, label: bytes, material: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + material, "sha256")


def labeled_expand(suite: bytes, key: bytes, label: bytes, info: bytes, size: int) -> bytes:
    assert size <= 32  # one block of HKDF's is enough
    return hmac.digest(key, size.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info + b"\x01", "sha256")[:size]


def opened_by_hand(mlkem: MLKEM768PrivateKey, x25519: X25519PrivateKey, ciphertext: bytes, info: bytes) -> bytes:
    """RFC 9180, 5.1 and 6.1, base mode, from hashes, one block cipher and two key exchanges alone."""
    post_quantum, classical = ciphertext[:MLKEM_CIPHERTEXT], ciphertext[MLKEM_CIPHERTEXT:ENCAPSULATED_SIZE]
    shared = hashlib.sha3_256(
        mlkem.decapsulate(post_quantum)
        + x25519.exchange(X25519PublicKey.from_public_bytes(classical))
        + classical
        + x25519.public_key().public_bytes_raw()
        + bytes.fromhex("5c2e2f2f5e5c")
    ).digest()
    # KEM MLKEM768-X25519, KDF HKDF-SHA256, AEAD AES-256-GCM, by their numbers in the IANA registry.
    suite = b"HPKE" + bytes.fromhex("647a00010002")
    context = b"\0" + labeled_extract(suite, b"", b"psk_id_hash", b"") + labeled_extract(suite, b"", b"info_hash", info)
    secret = labeled_extract(suite, shared, b"secret", b"")
    key = labeled_expand(suite, secret, b"key", context, 32)
    nonce = labeled_expand(suite, secret, b"base_nonce", context, 12)
    return AESGCM(key).decrypt(nonce, ciphertext[ENCAPSULATED_SIZE:], b"")


@pytest.fixture(scope="module")
def key() -> OneTimeKey:
    return OneTimeKey()


def test_what_is_sealed_opens(key: OneTimeKey) -> None:
    assert opened(key, seal(memoryview(SECRET), key.public, INFO), INFO) == SECRET


def test_the_suite_is_the_one_of_the_specification_and_no_other() -> None:
    mlkem, x25519 = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
    public = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
    ciphertext = seal(memoryview(SECRET), public, INFO)
    assert opened_by_hand(mlkem, x25519, ciphertext, INFO) == SECRET
    with pytest.raises(InvalidTag):
        opened_by_hand(mlkem, x25519, ciphertext, INFO + b"\0")


OTHER_SUITES = {
    f"{kdf} and {aead}": Suite(KEM.MLKEM768_X25519, getattr(KDF, kdf), getattr(AEAD, aead))
    for kdf in ("HKDF_SHA256", "HKDF_SHA384", "HKDF_SHA512")
    for aead in ("AES_128_GCM", "AES_256_GCM", "CHACHA20_POLY1305")
    if (kdf, aead) != ("HKDF_SHA256", "AES_256_GCM")
}


@pytest.mark.parametrize("suite", OTHER_SUITES.values(), ids=OTHER_SUITES)
def test_another_suite_does_not_open_here(suite: Suite) -> None:
    mlkem, x25519 = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
    key = OneTimeKey()
    key._private = MLKEM768X25519PrivateKey(mlkem, x25519)
    public = MLKEM768X25519PublicKey(mlkem.public_key(), x25519.public_key())
    with pytest.raises(Rejected) as refused:
        key.open(suite.encrypt(SECRET, public, INFO), INFO)
    assert refused.value.reason is Reason.NOT_BOUND


INFOS = {
    "another transcript": hashlib.sha512(b"another transcript").digest(),
    "none": b"",
    "one bit changed": bytes([INFO[0] ^ 1]) + INFO[1:],
    "cut": INFO[:-1],
    "longer": INFO + b"\0",
}


@pytest.mark.parametrize("info", INFOS.values(), ids=INFOS)
def test_it_is_bound_to_its_info(key: OneTimeKey, info: bytes) -> None:
    ciphertext = seal(memoryview(SECRET), key.public, INFO)
    with pytest.raises(Rejected) as refused:
        key.open(ciphertext, info)
    assert refused.value.reason is Reason.NOT_BOUND


def test_another_key_does_not_open_it(key: OneTimeKey) -> None:
    with pytest.raises(Rejected) as refused:
        OneTimeKey().open(seal(memoryview(SECRET), key.public, INFO), INFO)
    assert refused.value.reason is Reason.NOT_BOUND


@pytest.mark.parametrize("half", ["post-quantum", "classical"])
def test_half_of_a_key_is_not_enough(half: str) -> None:
    mlkem, x25519 = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
    public = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
    thief = OneTimeKey()
    thief._private = (
        MLKEM768X25519PrivateKey(mlkem, X25519PrivateKey.generate())
        if half == "post-quantum"
        else MLKEM768X25519PrivateKey(MLKEM768PrivateKey.generate(), x25519)
    )
    with pytest.raises(Rejected) as refused:
        thief.open(seal(memoryview(SECRET), public, INFO), INFO)
    assert refused.value.reason is Reason.NOT_BOUND


def test_no_byte_of_a_ciphertext_can_be_changed(key: OneTimeKey) -> None:
    ciphertext = seal(memoryview(SECRET), key.public, INFO)
    for offset in range(len(ciphertext)):
        changed = ciphertext[:offset] + bytes([ciphertext[offset] ^ 1 << offset % 8]) + ciphertext[offset + 1 :]
        with pytest.raises(Rejected) as refused:
            key.open(changed, INFO)
        assert refused.value.reason is Reason.NOT_BOUND


@pytest.mark.parametrize("size", [0, 1, TAG_SIZE, MLKEM_CIPHERTEXT, ENCAPSULATED_SIZE, ENCAPSULATED_SIZE + TAG_SIZE])
def test_a_ciphertext_that_is_cut(key: OneTimeKey, size: int) -> None:
    with pytest.raises(Rejected) as refused:
        key.open(seal(memoryview(SECRET), key.public, INFO)[:size], INFO)
    assert refused.value.reason is Reason.NOT_BOUND


@pytest.mark.parametrize("size", [0, 1, 2, 255, 4096, 256 * 1024])
def test_any_size_is_as_large_as_it_says(key: OneTimeKey, size: int) -> None:
    plaintext = bytes(range(1, 256)) * (size // 255 + 1)
    ciphertext = seal(memoryview(plaintext[:size]), key.public, INFO)
    assert len(ciphertext) == ENCAPSULATED_SIZE + size + TAG_SIZE
    assert opened(key, ciphertext, INFO) == plaintext[:size]
    # What the library returned is erased, and that is never a byte that the interpreter shares.
    assert [bytes([value])[0] for value in range(256)] == list(range(256))


def test_the_same_is_never_sealed_to_the_same_bytes(key: OneTimeKey) -> None:
    assert len({seal(memoryview(SECRET), key.public, INFO) for _ in range(20)}) == 20


def test_a_key_is_for_one_reply() -> None:
    assert len({OneTimeKey().public for _ in range(20)}) == 20
    assert len(OneTimeKey().public) == KEM_PUBLIC_KEY_SIZE


NO_KEYS = {
    "none": b"",
    "zeros": bytes(KEM_PUBLIC_KEY_SIZE),
    "ones": b"\xff" * KEM_PUBLIC_KEY_SIZE,
    "short": OneTimeKey().public[:-1],
    "long": OneTimeKey().public + b"\0",
    "an X25519 half of zeros": OneTimeKey().public[:-32] + bytes(32),
    "an X25519 half of small order": OneTimeKey().public[:-32] + b"\1" + bytes(31),
    "an ML-KEM half that is not reduced": b"\xff" * 1184 + OneTimeKey().public[-32:],
}


@pytest.mark.parametrize("public", NO_KEYS.values(), ids=NO_KEYS)
def test_what_is_no_public_key(public: bytes) -> None:
    with pytest.raises(Rejected, match="one-time public key is not valid") as refused:
        seal(memoryview(SECRET), public, INFO)
    assert refused.value.reason is Reason.MALFORMED


def test_a_key_shows_nothing_of_itself(key: OneTimeKey) -> None:
    assert repr(key) == "<OneTimeKey>"
    with pytest.raises(TypeError):
        pickle.dumps(key)
