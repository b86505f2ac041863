"""docs/spec/orders.md."""

from __future__ import annotations

from typing import Final

from tests.vectors.spec_reference.change import add_signature, check_signatures, have_signed
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
    order = read_order(case["order"].encode())
    return canonical_json(add_signature(order, unhex(case["seed"]), signed_bytes(order))).decode()


def judge_order(case: Json) -> None:
    order = read_order(case["order"].encode())
    require(order["domain"] == case["domain"], "another-domain")
    if case["owner"]:
        return
    admins = case["admins"]
    require(admins is not None, "not-signed")
    found = have_signed(order["signatures"], signed_bytes(order), admins)
    require(len(found) >= admins["threshold"], "not-signed")
