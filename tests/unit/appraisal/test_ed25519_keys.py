from __future__ import annotations

import base64

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from tests.fakes.admins import bare_line, key, line
from tests.fakes.claims import document, table

from rkeyserver.appraisal.ed25519_keys import SMALL_ORDER, anybody_signs, bare, public_key, raw_key
from rkeyserver.appraisal.policy import parse_policy
from rkeyserver.errors import Misuse

PRIME = 2**255 - 19
D = -121665 * pow(121666, -1, PRIME) % PRIME
Point = tuple[int, int]
IDENTITY: Point = (0, 1)


def added(one: Point, other: Point) -> Point:
    """The sum on edwards25519 (RFC 8032, section 5.1.4), in the plainest form."""
    (x1, y1), (x2, y2) = one, other
    both = D * x1 * x2 * y1 * y2 % PRIME
    x = (x1 * y2 + x2 * y1) * pow(1 + both, -1, PRIME)
    return x % PRIME, (y1 * y2 + x1 * x2) * pow(1 - both, -1, PRIME) % PRIME


def times(number: int, point: Point) -> Point:
    found = IDENTITY
    while number:
        if number & 1:
            found = added(found, point)
        point, number = added(point, point), number >> 1
    return found


def on_curve(y: int) -> Point | None:
    square = (y * y - 1) * pow(D * y * y + 1, -1, PRIME) % PRIME
    x = pow(square, (PRIME + 3) // 8, PRIME)
    if (x * x - square) % PRIME:
        x = x * pow(2, (PRIME - 1) // 4, PRIME) % PRIME
    return (x, y) if (x * x - square) % PRIME == 0 else None


def spelled(y: int) -> str:
    """A key line of any 256 bits."""
    return "ssh-ed25519 " + base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0 " + y.to_bytes(32, "little")).decode()


def test_the_points_of_small_order_are_all_there_are() -> None:
    order = 2**252 + 27742317777372353535851937790883648493
    small = {times(order, point) for y in range(2, 40) if (point := on_curve(y)) is not None}
    assert len(small) == 8  # the whole torsion group, from points that differ in nothing else
    assert all(times(8, point) == IDENTITY for point in small)
    assert {y for _, y in small} == SMALL_ORDER


def test_a_signature_of_a_small_key_needs_no_private_key() -> None:
    """Why they are refused: the library believes it."""
    forged = spelled(1)
    public_key(forged).verify((1).to_bytes(32, "little") + bytes(32), b"whatever")
    assert anybody_signs(forged)


@pytest.mark.parametrize("sign_of_x", [0, 2**255])
@pytest.mark.parametrize("y", [*sorted(SMALL_ORDER), PRIME, PRIME + 1, 2**255 - 1], ids=hex)
def test_a_key_that_anybody_signs_for_is_in_no_policy(y: int, sign_of_x: int) -> None:
    said = spelled(y + sign_of_x)
    assert anybody_signs(said)
    text = document(table()) + f'[admins]\nthreshold = 1\nkeys = ["{line("ann")}", "{said} mallory"]\n'
    with pytest.raises(Misuse, match="anybody can sign for") as raised:
        parse_policy(text)
    assert said in raised.value.message


@pytest.mark.parametrize("name", ["ann", "bob", "cy"])
def test_a_key_is_the_one_that_openssh_reads(name: str) -> None:
    public = key(name).public_key()
    assert raw_key(line(name)) == public.public_bytes_raw()
    assert public_key(line(name)) == load_ssh_public_key(line(name).encode()) == public
    assert bare(line(name)) == bare(bare_line(name)) == bare_line(name)
    assert not anybody_signs(line(name))


def test_a_key_that_is_on_no_curve_signs_nothing() -> None:
    y = next(y for y in range(2, 40) if on_curve(y) is None)
    with pytest.raises(InvalidSignature):
        public_key(spelled(y)).verify(bytes(64), b"")


SPELLINGS: dict[str, str] = {
    "one pad": "{}=",
    "two pads": "{}==",
    "another type inside": "{}".replace("{}", bare_line("ann").replace("ZDI1NTE5", "ZDI1NTE4")),
}


@pytest.mark.parametrize("form", SPELLINGS.values(), ids=SPELLINGS)
def test_a_key_under_another_spelling_is_no_second_admin(form: str) -> None:
    keys = f'["{line("ann")}", "{form.format(bare_line("ann"))}"]'
    with pytest.raises(Misuse, match="admins"):
        parse_policy(document(table()) + f"[admins]\nthreshold = 2\nkeys = {keys}\n")


def test_a_recipient_under_another_spelling_is_no_second_recipient() -> None:
    keys = f'["{line("ann")}", "{bare_line("ann")}="]'
    with pytest.raises(Misuse, match="recovery"):
        parse_policy(document(table()) + f"[recovery]\nthreshold = 2\nrecipients = {keys}\n")
