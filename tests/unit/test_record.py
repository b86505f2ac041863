from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.keyrings import MEMBER, OWNER
from tests.fakes.sealer import FakeSealer

from rkeyserver.errors import Corrupt
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.sealed import open_keyring, seal_keyring, set_aside_name
from rkeyserver.sealing import record

HERE = FakeSealer()
_ONE = Keyring.mint(primary=MEMBER, now=1_000, policy="version = 1\n")
_SEALED = seal_keyring(_ONE, HERE, OWNER, now=2_000)


@pytest.fixture
def keyring() -> Iterator[Keyring]:
    made = Keyring.mint(primary=MEMBER, now=1_000, policy="version = 1\n")
    yield made
    made.close()


def test_a_record_opens_where_it_was_sealed(keyring: Keyring) -> None:
    sealed = seal_keyring(keyring, HERE, OWNER, now=2_000)
    opened = open_keyring(record.parse(sealed), HERE)
    assert opened.same_as(keyring)


def test_no_two_records_of_one_keyring_are_alike(keyring: Keyring) -> None:
    one, other = (record.parse(seal_keyring(keyring, HERE, OWNER, now=2_000)) for _ in range(2))
    assert one.ciphertext != other.ciphertext
    assert one.header.slot.wrapped != other.header.slot.wrapped


def test_the_header_reads_without_a_key_and_holds_none(keyring: Keyring) -> None:
    sealed = seal_keyring(keyring, HERE, OWNER, now=2_000)
    header = json.loads(sealed.split(b"\n")[1])
    assert header["domain"] == keyring.domain
    assert header["generations"] == list(keyring.generation_ids)
    assert (header["epoch"], header["sequence"], header["written"]) == (0, 1, 2_000)
    assert header["slots"][0]["machine"] == "machine-a"
    assert bytes(keyring.root_key(keyring.current.id)) not in sealed


def edited(sealed: bytes, change: Callable[[dict[str, object]], object]) -> bytes:
    magic, line, rest = sealed.split(b"\n", 2)
    header = json.loads(line)
    change(header)
    return b"\n".join([magic, json.dumps(header, separators=(",", ":")).encode(), rest])


def first_slot(header: dict[str, object]) -> dict[str, object]:
    slots = header["slots"]
    assert isinstance(slots, list)
    slot = slots[0]
    assert isinstance(slot, dict)
    return slot


UNREADABLE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _s: b"", "no record"),
    "something else": (lambda _s: b"\x7fELF" * 100, "no record"),
    "a later format": (lambda s: s.replace(b"/v1\n", b"/v2\n", 1), "format is rkeyserver-record/v2"),
    "header cut": (lambda s: s[:100], "no end"),
    "header too long": (lambda s: record.MAGIC + b" " * record.MAX_HEADER + s, "no end"),
    "header not JSON": (lambda s: s.replace(b"{", b"[", 1), "damaged"),
    "header not UTF-8": (lambda s: s.replace(b'"fake"', b'"\xff\xff\xff\xff"', 1), "damaged"),
    "unknown field": (lambda s: edited(s, lambda h: h.update(extra=1)), "damaged"),
    "two slots": (lambda s: edited(s, lambda h: h.update(slots=[first_slot(h)] * 2)), "damaged"),
    "no slot": (lambda s: edited(s, lambda h: h.update(slots=[])), "damaged"),
    "unknown slot": (lambda s: edited(s, lambda h: first_slot(h).update(type="any")), "damaged"),
    "spaces in the header": (lambda s: s.replace(b",", b", ", 1), "canonical"),
    "ciphertext missing": (lambda s: b"\n".join(s.split(b"\n", 2)[:2]) + b"\n", "truncated"),
}


@pytest.mark.parametrize(("damage", "says"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_no_record_is_named(damage: Callable[[bytes], bytes], says: str) -> None:
    with pytest.raises(Corrupt, match=says):
        record.parse(damage(_SEALED))


UNOPENABLE: dict[str, tuple[Callable[[bytes], bytes], FakeSealer, str]] = {
    "another machine": (bytes, replace(HERE, machine="machine-b"), "sealed by machine machine-a; this is machine"),
    "another platform": (bytes, replace(HERE, platform="other"), "sealed on platform fake; this is other"),
    "after a microcode update": (bytes, HERE.updated(), "cpu_svn was 1, is 2"),
    "another sealing policy": (bytes, replace(HERE, policy="mrenclave"), "was sealed to mrsigner"),
    "another sealing policy, and its own measurement": (
        bytes,
        replace(HERE, policy="mrenclave", versions={"cpu_svn": "2", "mrenclave": "e"}),
        "sealed, it was sealed to mrsigner, this instance seals to mrenclave; cpu_svn was 1, is 2\\.",
    ),
    "another signer": (bytes, replace(HERE, versions={"cpu_svn": "1", "mrsigner": "5"}), "mrsigner was absent, is 5"),
    "relabelled as this machine": (
        lambda s: edited(s, lambda h: first_slot(h).update(machine="machine-b")),
        replace(HERE, machine="machine-b"),
        "slot was damaged",
    ),
    "another sequence": (lambda s: edited(s, lambda h: h.update(sequence=9)), HERE, "slot was damaged"),
    "another domain": (lambda s: edited(s, lambda h: h.update(domain="00" * 16)), HERE, "slot was damaged"),
    "written later": (lambda s: edited(s, lambda h: h.update(written=9)), HERE, "was changed after"),
    "other generations": (lambda s: edited(s, lambda h: h.update(generations=["00" * 16])), HERE, "was changed"),
    "ciphertext cut": (lambda s: s[:-1], HERE, "was changed after"),
    "ciphertext longer": (lambda s: s + b"\0", HERE, "was changed after"),
}


@pytest.mark.parametrize(("change", "sealer", "says"), UNOPENABLE.values(), ids=UNOPENABLE)
def test_a_record_opens_nowhere_else_and_in_no_other_form(
    change: Callable[[bytes], bytes], sealer: FakeSealer, says: str
) -> None:
    with pytest.raises(Corrupt, match=says):
        open_keyring(record.parse(change(_SEALED)), sealer)


@given(st.integers(0, len(_SEALED) - 1), st.integers(1, 255))
def test_no_changed_byte_opens(position: int, difference: int) -> None:
    changed = bytearray(_SEALED)
    changed[position] ^= difference
    with pytest.raises(Corrupt):
        open_keyring(record.parse(bytes(changed)), HERE)


def test_a_header_that_its_own_owner_sealed_wrongly_is_found(keyring: Keyring) -> None:
    contents = record.Contents("00" * 16, keyring.generation_ids, 0, 1, 0, MEMBER, ())
    sealed = record.seal(contents, keyring.view, HERE)
    with pytest.raises(Corrupt, match="the keyring in it"):
        open_keyring(record.parse(sealed), HERE)


def test_the_name_that_an_old_record_is_kept_under() -> None:
    assert set_aside_name(_SEALED) == f"domain-{_ONE.domain}.epoch-0.sequence-1"
    assert set_aside_name(b"junk") == "unreadable"
