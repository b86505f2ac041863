"""Orders: one form, for one purpose, by enough admins or by the owner."""

from __future__ import annotations

import msgspec
import pytest
from tests.fakes.admins import admins, key

from rkeyserver.appraisal.orders import (
    MAX_ORDER,
    Forget,
    Order,
    Promote,
    Retire,
    Rotate,
    check_order,
    name_of,
    parse_order,
    sign_order,
    signed_bytes,
    text_of,
)
from rkeyserver.errors import Misuse, Reason, Rejected

DOMAIN, ONE, OTHER = "0d" * 16, "01" * 16, "02" * 16
ORDERS: dict[str, Order] = {
    "rotate": Rotate(domain=DOMAIN, current=ONE),
    "retire": Retire(domain=DOMAIN, generation=ONE),
    "promote": Promote(domain=DOMAIN, member=ONE, epoch=3),
    "forget": Forget(domain=DOMAIN, member=ONE, epoch=3, sequence=4),
}


@pytest.mark.parametrize(("name", "order"), ORDERS.items(), ids=ORDERS)
def test_an_order_is_read_as_it_was_written(name: str, order: Order) -> None:
    assert parse_order(text_of(order).encode()) == order
    assert parse_order(f"{text_of(order)}\n".encode()) == order
    assert name_of(order) == name


def test_no_two_orders_are_signed_alike() -> None:
    differing: list[Order] = [
        *ORDERS.values(),
        Rotate(domain=OTHER, current=ONE),
        Rotate(domain=DOMAIN, current=OTHER),
        Promote(domain=DOMAIN, member=ONE, epoch=4),
        Promote(domain=DOMAIN, member=OTHER, epoch=3),
        Forget(domain=DOMAIN, member=ONE, epoch=34, sequence=4),
        Forget(domain=DOMAIN, member=ONE, epoch=3, sequence=44),
    ]
    assert len({signed_bytes(one) for one in differing}) == len(differing)


TEXT = text_of(ORDERS["forget"])
WRONG: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"rotate",
    "no Unicode": b"\xff",
    "deep": b"[" * 10_000,
    "another order": TEXT.replace("forget", "erase").encode(),
    "another version": TEXT.replace("/v1", "/v2").encode(),
    "a field unknown": TEXT.replace('"epoch"', '"extra":0,"epoch"').encode(),
    "a field missing": TEXT.replace('"epoch":3,', "").encode(),
    "a space": TEXT.replace(":3", ": 3").encode(),
    "two line feeds": f"{TEXT}\n\n".encode(),
    "an id in upper case": TEXT.replace(DOMAIN, DOMAIN.upper()).encode(),
    "an epoch below zero": TEXT.replace(":3", ":-3").encode(),
    "too long": TEXT.encode() + b" " * MAX_ORDER,
}


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG)
def test_what_is_no_order(data: bytes) -> None:
    with pytest.raises(Misuse):
        parse_order(data)


def test_two_signatures_of_one_key_are_none() -> None:
    signed = sign_order(ORDERS["rotate"], key("alice"))
    twice = msgspec.structs.replace(signed, signatures=signed.signatures * 2)
    with pytest.raises(Misuse, match="two signatures"):
        parse_order(text_of(twice).encode())


def test_a_key_signs_once() -> None:
    once = sign_order(ORDERS["rotate"], key("alice"))
    assert sign_order(once, key("alice")) == once


def signed_by(order: Order, *names: str) -> Order:
    for name in names:
        order = sign_order(order, key(name))
    return order


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_enough_admins_may(order: Order) -> None:
    by = check_order(
        signed_by(order, "alice", "bob"), domain=DOMAIN, admins=admins(2, ["alice", "bob", "carol"]), owner=False
    )
    assert by.count("ssh-ed25519") == 2


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_the_owner_may_with_and_without_admins(order: Order) -> None:
    for who in (None, admins(1, ["alice"])):
        assert check_order(order, domain=DOMAIN, admins=who, owner=True) == "the owner"


def refused(order: Order, *, names: tuple[str, ...] = ("alice", "bob", "carol"), domain: str = DOMAIN) -> Rejected:
    with pytest.raises(Rejected) as raised:
        check_order(order, domain=domain, admins=admins(2, names) if names else None, owner=False)
    return raised.value


def test_who_may_not() -> None:
    rotate = ORDERS["rotate"]
    assert refused(rotate).reason is Reason.NOT_SIGNED
    one = refused(signed_by(rotate, "alice"))
    assert (one.reason, "1 valid signature(s)" in one.message) == (Reason.NOT_SIGNED, True)
    assert refused(signed_by(rotate, "mallory", "alice")).reason is Reason.NOT_SIGNED
    assert refused(rotate, names=()).reason is Reason.NOT_SIGNED
    assert refused(signed_by(rotate, "alice", "bob"), domain=OTHER).reason is Reason.ANOTHER_DOMAIN


def test_a_signature_is_for_no_other_order() -> None:
    signed = signed_by(ORDERS["promote"], "alice", "bob")
    assert isinstance(signed, Promote)
    moved = msgspec.structs.replace(signed, member=OTHER)
    assert refused(moved).reason is Reason.NOT_SIGNED
    as_another = Rotate(domain=DOMAIN, current=ONE, signatures=signed.signatures)
    assert refused(as_another).reason is Reason.NOT_SIGNED
