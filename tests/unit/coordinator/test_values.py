"""The two values: one form each, of one domain, made by whoever has its secret."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.coordinated import DOMAIN, OTHER_SECRET, authenticator, digest_of, member_id
from tests.fakes.processes import ROOT

from rkeyserver.coordinator.values import MAX_VALUE, primary_key, state_key
from rkeyserver.errors import Reason, Rejected
from rkeyserver.framing import framed
from rkeyserver.keyring.derivation import Purpose
from rkeyserver.keyring.place import Place

VALUES = authenticator()
PLACE = Place(2, 7, member_id(1), digest_of("header"))
PRIMARY, STATE = VALUES.primary(member_id(1)), VALUES.state(PLACE)

COUNTS = st.integers(0, 2**62)
HEX = "0123456789abcdef"
PLACES = st.builds(
    Place, COUNTS, COUNTS, st.text(HEX, min_size=32, max_size=32), st.text(HEX, min_size=64, max_size=64)
)


def test_bytes_of_the_specification() -> None:
    assert primary_key(DOMAIN) == f"/rkeyserver/{DOMAIN}/primary".encode()
    assert state_key(DOMAIN) == f"/rkeyserver/{DOMAIN}/state".encode()
    body, _, mac = PRIMARY.partition(b"\n")
    assert body == f'{{"version":1,"domain":"{DOMAIN}","member":"{member_id(1)}"}}'.encode()
    assert len(mac) == 64
    assert STATE.partition(b"\n")[0] == (
        f'{{"version":1,"domain":"{DOMAIN}","epoch":2,"sequence":7,"primary":"{member_id(1)}",'
        f'"digest":"{PLACE.digest}"}}'.encode()
    )


def test_the_values_of_the_page() -> None:
    page = (ROOT / "docs" / "spec" / "coordinator.md").read_text()
    member = "00112233445566778899aabbccddeeff"
    for value in (VALUES.primary(member), VALUES.state(Place(2, 7, member, "ab" * 32))):
        assert "    " + value.decode().replace("\n", "\n    ") + "\n" in page


def test_the_mac_as_another_would_make_it() -> None:
    """By the standard library alone: HKDF's expand step of one block, and HMAC."""
    import hmac  # noqa: PLC0415 - it is about these

    info = framed(b"rkeyserver/v1", DOMAIN.encode(), Purpose.COORDINATOR.encode(), b"")
    key = hmac.digest(bytes(range(32)), info + b"\x01", "sha256")
    body, _, mac = STATE.partition(b"\n")
    text = framed(b"rkeyserver/v1", b"coordinator", b"state", body)
    assert hmac.digest(key, text, "sha256").hex().encode() == mac


@given(PLACES)
def test_what_was_made_is_read(place: Place) -> None:
    value = VALUES.state(place)
    assert VALUES.read_state(value) == place
    assert len(value) <= MAX_VALUE


@given(PLACES, PLACES)
def test_the_order_is_that_of_the_fields(one: Place, other: Place) -> None:
    assert (one < other) == (tuple(one) < tuple(other))
    assert (VALUES.state(one) == VALUES.state(other)) == (one == other)


@given(st.integers(0, len(STATE) - 1), st.integers(1, 255))
def test_one_byte_that_is_changed(at: int, by: int) -> None:
    changed = bytearray(STATE)
    changed[at] ^= by
    with pytest.raises(Rejected):
        VALUES.read_state(bytes(changed))


@given(st.binary(max_size=400))
def test_other_bytes(data: bytes) -> None:
    for read in (VALUES.read_state, VALUES.read_primary):
        with pytest.raises(Rejected):
            read(data)


def resigned(body: bytes, kind: bytes = b"state") -> bytes:
    """A body that a machine of the domain never makes, with the right MAC."""
    return body + b"\n" + VALUES._mac(kind, body)


BODY = STATE.partition(b"\n")[0]
OF_ANOTHER = authenticator(OTHER_SECRET)

REFUSED: dict[str, tuple[bytes, Reason]] = {
    "nothing": (b"", Reason.MALFORMED),
    "too much": (STATE + b" " * MAX_VALUE, Reason.TOO_LARGE),
    "a primary for a state": (PRIMARY, Reason.MALFORMED),
    "another domain's": (OF_ANOTHER.state(PLACE), Reason.ANOTHER_DOMAIN),
    "of another domain's key": (STATE[:-64] + OF_ANOTHER._mac(b"state", BODY), Reason.BAD_MAC),
    "with the MAC of the other kind": (BODY + b"\n" + VALUES._mac(b"primary", BODY), Reason.BAD_MAC),
    "with the MAC of another state": (STATE[:-64] + VALUES.state(PLACE._replace(epoch=3))[-64:], Reason.BAD_MAC),
    "with a MAC in capitals": (STATE[:-64] + STATE[-64:].upper(), Reason.BAD_MAC),
    "cut": (STATE[:-1], Reason.MALFORMED),
    "a line more": (STATE + b"\n", Reason.MALFORMED),
    "without a line's end": (BODY + STATE[-64:], Reason.MALFORMED),
    "of a later version": (resigned(BODY.replace(b'"version":1', b'"version":2')), Reason.MALFORMED),
    "with a field more": (resigned(BODY[:-1] + b',"x":1}'), Reason.MALFORMED),
    "with space": (resigned(BODY.replace(b":", b": ")), Reason.MALFORMED),
    "with a field twice": (resigned(BODY.replace(b'"epoch":2', b'"epoch":1,"epoch":2')), Reason.MALFORMED),
    "an epoch before the first": (resigned(BODY.replace(b'"epoch":2', b'"epoch":-1')), Reason.MALFORMED),
    "an epoch that is text": (resigned(BODY.replace(b'"epoch":2', b'"epoch":"2"')), Reason.MALFORMED),
    "an epoch beyond all": (resigned(BODY.replace(b'"epoch":2', b'"epoch":4611686018427387905')), Reason.MALFORMED),
    "no UTF-8": (resigned(b"\xff"), Reason.MALFORMED),
    "deep": (resigned(b"[" * 900), Reason.MALFORMED),
}  # fmt: skip


@pytest.mark.parametrize(("value", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_state(value: bytes, reason: Reason) -> None:
    with pytest.raises(Rejected) as raised:
        VALUES.read_state(value)
    assert raised.value.reason is reason


def test_a_state_for_a_primary() -> None:
    assert VALUES.read_primary(PRIMARY) == member_id(1)
    with pytest.raises(Rejected):
        VALUES.read_primary(STATE)


@pytest.mark.parametrize("use", [lambda one: one.state(PLACE), lambda one: one.read_state(STATE)])
def test_the_key_is_erased(use: Callable[..., object]) -> None:
    with closing(authenticator()) as values:
        assert use(values)
    with pytest.raises(ValueError, match="released"):
        use(values)
