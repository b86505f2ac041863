"""docs/spec/record.md, "Recovery slot", and docs/spec/recovery.md, "The recovery secret"."""

from __future__ import annotations

import base64
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tests.vectors.spec_reference.notation import (
    HEX16,
    HEX32,
    Json,
    Refused,
    expand,
    framed,
    is_int,
    is_object,
    is_text,
    require,
)

PUBLIC_KEY: Final = "age1[0-9a-z]+|ssh-(ed25519|rsa) [A-Za-z0-9+/]+={0,2}"


def unbase64(value: object) -> bytes:
    require(isinstance(value, str), "Corrupt")
    try:
        found = base64.b64decode(str(value), validate=True)
    except ValueError:
        raise Refused("Corrupt") from None
    require(base64.b64encode(found).decode() == value, "Corrupt")
    return found


def check_recovery_slot(slot: object) -> None:
    require(is_object(slot, ["type", "set", "threshold", "shares", "wrapped"]), "Corrupt")
    assert isinstance(slot, dict)
    require(slot["type"] == "recovery" and is_text(slot["set"], HEX16), "Corrupt")
    shares = slot["shares"]
    require(isinstance(shares, list) and 1 <= len(shares) <= 16, "Corrupt")
    require(is_int(slot["threshold"], 1, len(shares)), "Corrupt")
    for share in shares:
        require(is_object(share, ["recipient", "digest", "sealed"]), "Corrupt")
        require(is_text(share["recipient"], PUBLIC_KEY) and len(share["recipient"]) <= 2048, "Corrupt")
        require(is_text(share["digest"], HEX32), "Corrupt")
        require(1 <= len(unbase64(share["sealed"])) <= 4096, "Corrupt")
    require(len({share["recipient"] for share in shares}) == len(shares), "Corrupt")
    require(len(unbase64(slot["wrapped"])) == 48, "Corrupt")


def slot_key(secret: bytes, slot: Json) -> AESGCM:
    return AESGCM(expand(secret, framed(b"rkeyserver/v1 recovery slot key", slot["set"].encode()), 32))


def slot_data(header: Json, slot: Json) -> bytes:
    parts = (header["domain"], header["epoch"], header["sequence"], slot["set"], slot["threshold"])
    return framed(b"rkeyserver/v1 recovery slot", *(str(part).encode() for part in parts))


def wrap_for_recovery(secret: bytes, record_key: bytes, header: Json, slot: Json) -> str:
    wrapped = slot_key(secret, slot).encrypt(bytes(12), record_key, slot_data(header, slot))
    return base64.b64encode(wrapped).decode()


def unwrap_for_recovery(secret: bytes, header: Json, slot: Json) -> bytes:
    try:
        return slot_key(secret, slot).decrypt(bytes(12), unbase64(slot["wrapped"]), slot_data(header, slot))
    except InvalidTag:
        raise Refused("Corrupt") from None
