"""The operations of orders.json, carried out by rkeyserver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.vectors.spec_cases import Json

from rkeyserver.appraisal import orders
from rkeyserver.appraisal.policy import AdminsTable


def read(case: Json) -> str:
    return orders.signed_bytes(orders.parse_order(bytes.fromhex(case["bytes"]))).hex()


def sign(case: Json) -> str:
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(case["seed"]))
    return orders.text_of(orders.sign_order(orders.parse_order(case["order"].encode()), key))


def judge(case: Json) -> None:
    admins = None if case["admins"] is None else AdminsTable(**case["admins"])
    order = orders.parse_order(case["order"].encode())
    orders.check_order(order, domain=case["domain"], admins=admins, owner=case["owner"])


OPERATIONS: Final[dict[str, Callable[[Json], Any]]] = {
    "signed bytes of an order": read,
    "sign order": sign,
    "judge order": judge,
}
