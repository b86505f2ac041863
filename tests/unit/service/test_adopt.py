from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.keyrings import OTHER_SECRET, OWNER, SECRET, id_of, keyring_of
from tests.fakes.sealer import FakeSealer
from tests.fakes.store import MemoryKeystore

from rkeyserver.errors import Corrupt, Misuse, Reason, Rejected, RkeyError, Unavailable
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.sealed import seal_keyring
from rkeyserver.service.adopt import (
    Nothing,
    Opened,
    Own,
    Unopenable,
    check_may_ask,
    check_may_mint,
    check_own_domain,
    keep_as,
    look,
)

HERE = FakeSealer()
DOMAIN, OTHER_DOMAIN = id_of(SECRET), id_of(OTHER_SECRET)
THIRD_DOMAIN = "0" * 32


def sealed(keyring: Keyring, sealer: FakeSealer = HERE) -> bytes:
    return seal_keyring(keyring, sealer, OWNER, now=2_000)


def looked(data: bytes | None, sealer: FakeSealer = HERE) -> Own:
    store = MemoryKeystore(data)
    own = look(store, sealer)
    assert (store.record, store.writes, store.kept) == (data, 0, {}), "looking changes nothing"
    return own


def opened(keyring: Keyring) -> Opened:
    own = looked(sealed(keyring))
    assert isinstance(own, Opened)
    return own


def unopenable(data: bytes, sealer: FakeSealer = HERE) -> Unopenable:
    own = looked(data, sealer)
    assert isinstance(own, Unopenable)
    return own


# What is there


def test_an_empty_keystore_holds_nothing() -> None:
    assert looked(None) == Nothing()


def test_an_own_record_opens() -> None:
    keyring = keyring_of(["a", "b"], epoch=2, sequence=7)
    data = sealed(keyring)
    own = looked(data)
    assert isinstance(own, Opened)
    assert own.keyring.same_as(keyring)
    assert own.record == data


HEADED: dict[str, tuple[Callable[[bytes], bytes], FakeSealer, str]] = {
    "of another machine": (bytes, replace(HERE, machine="machine-b"), "machine-b"),
    "of another platform": (bytes, replace(HERE, platform="other"), "platform fake"),
    "from before a microcode update": (bytes, HERE.updated(), "cpu_svn was 1, is 2"),
    "with its last byte changed": (lambda data: data[:-1] + bytes([data[-1] ^ 1]), HERE, "was changed"),
    "a byte short": (lambda data: data[:-1], HERE, "was changed"),
}


@pytest.mark.parametrize(("damage", "sealer", "says"), HEADED.values(), ids=HEADED)
def test_a_record_that_does_not_open_is_kept_with_what_its_header_says(
    damage: Callable[[bytes], bytes], sealer: FakeSealer, says: str
) -> None:
    data = damage(sealed(keyring_of(sequence=5)))
    own = unopenable(data, sealer)
    assert own.record == data
    assert own.header is not None
    assert (own.header.domain, own.header.sequence) == (DOMAIN, 5)
    assert says in own.error.message


@pytest.mark.parametrize("data", [b"", b"junk", b"rkeyserver-record/v2\n{}\n" + bytes(40)], ids=repr)
def test_a_record_whose_header_cannot_be_read_is_kept_without_one(data: bytes) -> None:
    own = unopenable(data)
    assert (own.record, own.header) == (data, None)


@pytest.mark.parametrize("kind", [Corrupt, Unavailable])
def test_a_keystore_that_cannot_be_read_is_not_an_empty_one(kind: type[RkeyError]) -> None:
    store = MemoryKeystore(None, fails=kind("the disk"))
    with pytest.raises(kind, match="the disk"):
        look(store, HERE)


# What may be opened, made, asked for


def test_an_own_record_is_of_the_domain_that_was_asked_for() -> None:
    keyring = keyring_of()
    check_own_domain(keyring, None)
    check_own_domain(keyring, DOMAIN)
    with pytest.raises(Rejected) as raised:
        check_own_domain(keyring, OTHER_DOMAIN)
    assert raised.value.reason is Reason.ANOTHER_DOMAIN
    assert DOMAIN in raised.value.message
    assert OTHER_DOMAIN in raised.value.message
    assert "Nothing was changed" in raised.value.advice


def test_a_root_key_is_made_only_where_no_domain_was_asked_for() -> None:
    check_may_mint(None)
    with pytest.raises(Misuse, match=OTHER_DOMAIN) as raised:
        check_may_mint(OTHER_DOMAIN)
    assert "-i" in raised.value.advice


RECORD = sealed(keyring_of())
FOREIGN: dict[str, FakeSealer] = {
    "of another machine": replace(HERE, machine="machine-b"),
    "of another platform": replace(HERE, platform="other"),
}
MAY_ASK: dict[str, Callable[[], tuple[Own, FakeSealer]]] = {
    "nothing": lambda: (Nothing(), HERE),
    "an own record": lambda: (opened(keyring_of()), HERE),
    "junk": lambda: (unopenable(b"junk"), HERE),
    "after a microcode update": lambda: (unopenable(RECORD, HERE.updated()), HERE.updated()),
    "of another sealing policy": lambda: (unopenable(RECORD, replace(HERE, policy="mrenclave")), HERE),
    "damaged": lambda: (unopenable(RECORD[:-1]), HERE),
}


@pytest.mark.parametrize("case", MAY_ASK.values(), ids=MAY_ASK)
def test_a_host_may_be_asked(case: Callable[[], tuple[Own, FakeSealer]]) -> None:
    own, here = case()
    check_may_ask(own, here.identity())


@pytest.mark.parametrize("here", FOREIGN.values(), ids=FOREIGN)
def test_no_host_is_asked_over_the_only_copy_that_another_machine_may_have(here: FakeSealer) -> None:
    own = unopenable(RECORD, here)
    with pytest.raises(Corrupt) as raised:
        check_may_ask(own, here.identity())
    assert raised.value is own.error


# What may replace what

Of = Callable[[], Keyring]


def of(names: Sequence[str] = ("a",), secret: bytes = SECRET, **said: object) -> Of:
    return lambda: keyring_of(names, secret=secret, **said)


def aside(domain: str = DOMAIN, epoch: int = 0, sequence: int = 1) -> str:
    return f"domain-{domain}.epoch-{epoch}.sequence-{sequence}"


ADOPTED: dict[str, tuple[Callable[[], Own], Of, str | None, str | None]] = {
    "into an empty keystore": (Nothing, of(), None, None),
    "into an empty keystore, the domain asked for": (Nothing, of(), DOMAIN, None),
    "the very same": (lambda: opened(of()()), of(), None, None),
    "the very same, asked for": (lambda: opened(of()()), of(), DOMAIN, None),
    "a later sequence": (lambda: opened(of()()), of(sequence=2), None, aside()),
    "a later sequence, asked for": (lambda: opened(of()()), of(sequence=2), DOMAIN, aside()),
    "a later epoch with an earlier sequence": (
        lambda: opened(of(sequence=9)()), of(epoch=1, sequence=0), None, aside(sequence=9)),
    "one generation more": (lambda: opened(of(["a"])()), of(["a", "b"], sequence=2), None, aside()),
    "generations in another order": (lambda: opened(of(["a", "b"])()), of(["b", "a"], sequence=2), None, aside()),
    "another domain that was asked for": (
        lambda: opened(of(sequence=4)()), of(secret=OTHER_SECRET), OTHER_DOMAIN, aside(sequence=4)),
    "an earlier state of another domain that was asked for": (
        lambda: opened(of(["a", "b"], epoch=3)()), of(secret=OTHER_SECRET), OTHER_DOMAIN, aside(epoch=3)),
    "for one that does not open": (lambda: unopenable(RECORD, HERE.updated()), of(), None, aside()),
    "an earlier state for one that does not open": (
        lambda: unopenable(sealed(of(sequence=9)()), HERE.updated()), of(sequence=2), None, aside(sequence=9)),
    "another domain, asked for, for one that does not open": (
        lambda: unopenable(RECORD, HERE.updated()), of(secret=OTHER_SECRET), OTHER_DOMAIN, aside()),
    "asked for, for one that cannot be read": (lambda: unopenable(b"junk"), of(), DOMAIN, "unreadable"),
}  # fmt: skip


@pytest.mark.parametrize(("own", "received", "domain", "kept"), ADOPTED.values(), ids=ADOPTED)
def test_what_may_be_adopted_and_what_is_kept(
    own: Callable[[], Own], received: Of, domain: str | None, kept: str | None
) -> None:
    assert keep_as(own(), received(), domain) == kept


REFUSED: dict[str, tuple[Callable[[], Own], Of, str | None, Reason, tuple[str, ...]]] = {
    "not the domain asked for": (Nothing, of(), OTHER_DOMAIN, Reason.ANOTHER_DOMAIN, (DOMAIN, OTHER_DOMAIN)),
    "not the domain asked for, though the one here": (
        lambda: opened(of()()), of(), OTHER_DOMAIN, Reason.ANOTHER_DOMAIN, (DOMAIN, OTHER_DOMAIN)),
    "another domain": (
        lambda: opened(of()()), of(secret=OTHER_SECRET), None, Reason.ANOTHER_DOMAIN, (DOMAIN, OTHER_DOMAIN)),
    "another domain, the one here asked for": (
        lambda: opened(of()()), of(secret=OTHER_SECRET), DOMAIN, Reason.ANOTHER_DOMAIN, (DOMAIN, OTHER_DOMAIN)),
    "another domain, a third one asked for": (
        lambda: opened(of()()), of(secret=OTHER_SECRET), THIRD_DOMAIN, Reason.ANOTHER_DOMAIN,
        (THIRD_DOMAIN, OTHER_DOMAIN)),
    "another domain, later and larger": (
        lambda: opened(of(["a"])()), of(["a", "b"], secret=OTHER_SECRET, epoch=9), None, Reason.ANOTHER_DOMAIN,
        (DOMAIN, OTHER_DOMAIN)),
    "another domain for one that does not open": (
        lambda: unopenable(RECORD, HERE.updated()), of(secret=OTHER_SECRET), None, Reason.ANOTHER_DOMAIN,
        (DOMAIN, OTHER_DOMAIN, "does not open")),
    "another domain for one that does not open, its own asked for": (
        lambda: unopenable(RECORD, HERE.updated()), of(secret=OTHER_SECRET), DOMAIN, Reason.ANOTHER_DOMAIN,
        (DOMAIN, OTHER_DOMAIN)),
    "not the domain asked for, for one that cannot be read": (
        lambda: unopenable(b"junk"), of(), OTHER_DOMAIN, Reason.ANOTHER_DOMAIN, (DOMAIN, OTHER_DOMAIN)),
    "an earlier sequence": (
        lambda: opened(of(sequence=3)()), of(sequence=2), None, Reason.NOT_AN_EXTENSION,
        ("epoch 0, sequence 2", "epoch 0, sequence 3")),
    "an earlier epoch with a later sequence": (
        lambda: opened(of(epoch=1)()), of(sequence=99), None, Reason.NOT_AN_EXTENSION,
        ("epoch 0, sequence 99", "epoch 1, sequence 1")),
    "a generation lost": (
        lambda: opened(of(["a", "b"])()), of(["a"], sequence=9), None, Reason.NOT_AN_EXTENSION, (DOMAIN,)),
    "a fork: each has a generation of its own": (
        lambda: opened(of(["a", "b"], sequence=2)()), of(["a", "c"], sequence=2), None, Reason.NOT_AN_EXTENSION,
        (DOMAIN,)),
    "a fork that went on": (
        lambda: opened(of(["a", "b"], sequence=2)()), of(["a", "c", "d"], epoch=5), DOMAIN, Reason.NOT_AN_EXTENSION,
        (DOMAIN,)),
}  # fmt: skip


@pytest.mark.parametrize(("own", "received", "domain", "reason", "says"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_adopted(
    own: Callable[[], Own], received: Of, domain: str | None, reason: Reason, says: tuple[str, ...]
) -> None:
    with pytest.raises(Rejected) as raised:
        keep_as(own(), received(), domain)
    assert raised.value.reason is reason
    assert [text for text in says if text not in raised.value.message] == []
    assert "was kept" in raised.value.advice or "Nothing was changed" in raised.value.advice


def test_what_cannot_be_told_is_not_replaced_unless_the_domain_is_named() -> None:
    own = unopenable(b"junk")
    with pytest.raises(Corrupt) as raised:
        keep_as(own, of()(), None)
    assert raised.value.__cause__ is own.error
    assert DOMAIN in raised.value.message
    assert f"--domain {DOMAIN}" in raised.value.advice


NAMES = st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True)
STATES = st.tuples(st.integers(0, 2), st.integers(0, 2))


@given(NAMES, NAMES, STATES, STATES)
def test_nothing_is_ever_lost_by_adopting(
    own: list[str], received: list[str], state: tuple[int, int], other_state: tuple[int, int]
) -> None:
    mine = keyring_of(own, epoch=state[0], sequence=state[1])
    theirs = keyring_of(received, epoch=other_state[0], sequence=other_state[1])
    try:
        kept = keep_as(Opened(mine, sealed(mine)), theirs, None)
    except Rejected:
        assert not (set(own) <= set(received) and theirs.place > mine.place)
        assert not mine.same_as(theirs)
    else:
        assert set(own) <= set(received)
        assert (kept is None) == mine.same_as(theirs)
        assert theirs.place > mine.place or kept is None
    finally:
        mine.close()
        theirs.close()
