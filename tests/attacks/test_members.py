"""What peers say of themselves and of others, and the record that it is written into: that one always opens again.

A list of members is no secret and believed for nothing but whom to wait for. Who has broken an accepted machine open
can say anything in it, and lists go from member to member: it must not cost anybody a record, which may be the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tests.fakes.claims import NOW
from tests.fakes.keyrings import MEMBER, keyring_of
from tests.fakes.platform import FakePlatform

from rkeyserver.errors import Unavailable
from rkeyserver.exchange.messages import Members as Message
from rkeyserver.exchange.messages import RequestClaims, decode, encode
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.sealed import Owner, open_keyring, seal_keyring
from rkeyserver.sealing.record import MAX_MEMBERS, KnownMember, parse
from rkeyserver.service.members import Members

LONG = "h" * 294 + ":65535"
PLATFORM = FakePlatform()


@pytest.fixture
def keyring() -> Iterator[Keyring]:
    made = keyring_of(("a",))
    yield made
    made.close()


def claims(number: int, address: str) -> RequestClaims:
    """What one asker says of itself."""
    return RequestClaims(
        nonce=bytes(32),
        kem_public_key=bytes(1216),
        credential_mac=b"",
        credential=b"",
        member=f"{number:032x}",
        address=address,
        epoch=2**62,
        sequence=2**62,
        digest=bytes(32),
        audit_head=bytes(32),
    )


def member(number: int, address: str) -> KnownMember:
    return KnownMember(
        member=f"{number:032x}",
        machine="ab" * 16,
        address=address,
        epoch=2**62,
        sequence=2**62,
        digest="cd" * 32,
        seen=2**62,
    )


def ask(members: Members, number: int, address: str, host: str = "10.0.0.1") -> None:
    members.asked(claims(number, address), machine="ab" * 16, host=host, now=NOW)


def ask_often(members: Members) -> None:
    for number in range(MAX_MEMBERS + 10):
        ask(members, number, f"{number:04}{LONG[4:]}")


def tell_often(members: Members) -> None:
    members.told(member(number, f"{number:04}{LONG[4:]}") for number in range(MAX_MEMBERS + 10))


SAID: dict[str, Callable[[Members], None]] = {
    "as many members as there can be, of the longest addresses": ask_often,
    "the same, by another": tell_often,
    "a port behind a host of another form": lambda members: ask(members, 1, ":8888", "fe80::1%e+th0"),
    "so long a port that it is too long behind its host": lambda members: ask(members, 1, ":" + "8" * 299),
}


@pytest.mark.parametrize("said", SAID.values(), ids=SAID)
def test_whatever_peers_say_a_record_opens_and_is_handed_on(keyring: Keyring, said: Callable[[Members], None]) -> None:
    members = Members(MEMBER)
    said(members)
    assert members.known
    opened = open_keyring(parse(seal_keyring(keyring, PLATFORM, members.owner(), now=NOW)), PLATFORM)
    assert opened.same_as(keyring)
    opened.close()
    message = Message(member=MEMBER, members=list(members.known.values()))
    assert decode(encode(message), Message) == message


def test_the_last_heard_of_are_known() -> None:
    members = Members(MEMBER)
    ask_often(members)
    assert next(reversed(members.known)) == f"{MAX_MEMBERS + 9:032x}"
    assert len(members.known) > MAX_MEMBERS / 2


def test_a_record_that_would_not_open_is_not_made(keyring: Keyring) -> None:
    """Whatever the reason: what lies there is kept, and memory is served on."""
    owner = Owner(MEMBER, tuple(member(number, LONG) for number in range(MAX_MEMBERS)))
    with pytest.raises(Unavailable, match="opens again"):
        seal_keyring(keyring, PLATFORM, owner, now=NOW)
