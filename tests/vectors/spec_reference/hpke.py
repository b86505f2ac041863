"""docs/spec/exchange.md: HPKE (RFC 9180), the receiving side."""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tests.vectors.spec_reference.notation import Json, Refused, expand, require, unhex

SUITE: Final = b"HPKE" + struct.pack(">HHH", 0x647A, 0x0001, 0x0002)


def hpke_open(case: Json, sealed: bytes, info: bytes) -> bytes:
    mlkem = MLKEM768PrivateKey.from_seed_bytes(unhex(case["mlkem_seed"]))
    x25519 = X25519PrivateKey.from_private_bytes(unhex(case["x25519_private"]))
    enc, ciphertext = sealed[:1120], sealed[1120:]
    require(len(enc) == 1120, "not-bound")
    ephemeral = enc[1088:]
    try:
        mlkem_secret = mlkem.decapsulate(enc[:1088])
        x25519_secret = x25519.exchange(X25519PublicKey.from_public_bytes(ephemeral))
    except ValueError:
        raise Refused("not-bound") from None
    own = x25519.public_key().public_bytes_raw()
    shared = hashlib.sha3_256(mlkem_secret + x25519_secret + ephemeral + own + unhex("5c2e2f2f5e5c")).digest()

    def labeled_extract(salt: bytes, label: bytes, ikm: bytes) -> bytes:
        return hmac.digest(salt or bytes(32), b"HPKE-v1" + SUITE + label + ikm, "sha256")

    def labeled_expand(secret: bytes, label: bytes, context: bytes, length: int) -> bytes:
        return expand(secret, struct.pack(">H", length) + b"HPKE-v1" + SUITE + label + context, length)

    context = b"\0" + labeled_extract(b"", b"psk_id_hash", b"") + labeled_extract(b"", b"info_hash", info)
    secret = labeled_extract(shared, b"secret", b"")
    key, nonce = labeled_expand(secret, b"key", context, 32), labeled_expand(secret, b"base_nonce", context, 12)
    try:
        return AESGCM(key).decrypt(nonce, ciphertext, b"")
    except InvalidTag:
        raise Refused("not-bound") from None


def check_public_key(public: bytes) -> None:
    try:
        MLKEM768PublicKey.from_public_bytes(public[:1184])
        X25519PrivateKey.from_private_bytes(bytes(31) + b"\x40").exchange(
            X25519PublicKey.from_public_bytes(public[1184:])
        )
    except ValueError:
        raise Refused("malformed") from None


def public_key(case: Json) -> bytes:
    mlkem = MLKEM768PrivateKey.from_seed_bytes(unhex(case["mlkem_seed"])).public_key().public_bytes_raw()
    return mlkem + X25519PrivateKey.from_private_bytes(unhex(case["x25519_private"])).public_key().public_bytes_raw()
