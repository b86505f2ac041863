"""docs/spec/orders.md."""

from __future__ import annotations

import base64
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from tests.vectors.spec_reference.change import check_signatures
from tests.vectors.spec_reference.notation import (
    HEX16,
    Json,
    Refused,
    canonical_json,
    framed,
    is_int,
    is_object,
    is_text,
    read_canonical_json,
    require,
    unhex,
)

FIELDS: Final = {
    "rkeyserver-rotate/v1": ["domain", "current"],
    "rkeyserver-retire/v1": ["domain", "generation"],
    "rkeyserver-promote/v1": ["domain", "member", "epoch"],
    "rkeyserver-forget/v1": ["domain", "member", "epoch", "sequence"],
}
NUMBERS: Final = {"epoch", "sequence"}


def read_order(data: bytes) -> Json:
    data = data.removesuffix(b"\n")
    require(len(data) <= 32768, "Misuse")
    try:
        found = read_canonical_json(data)
    except Refused:
        raise Refused("Misuse") from None
    require(isinstance(found, dict) and found.get("order") in FIELDS, "Misuse")
    assert isinstance(found, dict)
    names = FIELDS[found["order"]]
    require(is_object(found, ["order", *names, "signatures"]), "Misuse")
    for name in names:
        good = is_int(found[name], 0, 2**62) if name in NUMBERS else is_text(found[name], HEX16)
        require(good, "Misuse")
    check_signatures(found["signatures"])
    return found


def signed_bytes(order: Json) -> bytes:
    fields = [order["order"], *(str(order[name]) for name in FIELDS[order["order"]])]
    return framed(b"rkeyserver/v1 order", *(one.encode() for one in fields))


def sign_order(case: Json) -> str:
    order, key = read_order(case["order"].encode()), Ed25519PrivateKey.from_private_bytes(unhex(case["seed"]))
    public = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + key.public_key().public_bytes_raw()
    line = "ssh-ed25519 " + base64.b64encode(public).decode()
    others = [one for one in order["signatures"] if one["key"] != line]
    made = {"key": line, "signature": key.sign(signed_bytes(order)).hex()}
    return canonical_json(order | {"signatures": [*others, made]}).decode()


def judge_order(case: Json) -> None:
    order = read_order(case["order"].encode())
    require(order["domain"] == case["domain"], "another-domain")
    if case["owner"]:
        return
    require(case["admins"] is not None, "not-signed")
    signatures = {one["key"]: one["signature"] for one in order["signatures"]}
    valid = 0
    for line in case["admins"]["keys"]:
        bare = " ".join(line.split(" ")[:2])
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(bare.split(" ")[1])[-32:])
        try:
            key.verify(unhex(signatures.get(bare, "")), signed_bytes(order))
        except InvalidSignature:
            continue
        valid += 1
    require(valid >= case["admins"]["threshold"], "not-signed")
