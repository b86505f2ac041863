"""Every form that a keyring's bytes may take, and none besides: limits, ids, times, states."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.keyrings import (
    MEMBER,
    OTHER_SECRET,
    POLICY,
    SECRET,
    generation,
    id_of,
    key,
    keyring_bytes,
    keyring_of,
    secret_of,
)
from tests.fakes.scene import is_closed

from rkeyserver.errors import Corrupt, Misuse
from rkeyserver.keyring.derivation import derive_into
from rkeyserver.keyring.generations import GenerationState
from rkeyserver.keyring.keyring import MAX_KEYRING, Keyring

MOST_GENERATIONS = 1024
MOST_POLICY = 128 * 1024
HIGHEST = 2**62


def refused(data: bytes) -> Corrupt:
    secret = secret_of(data)
    with pytest.raises(Corrupt) as raised:
        Keyring.parse(secret)
    with pytest.raises(ValueError, match="released"):
        _ = secret.view
    return raised.value


def test_a_keyring_is_taken_apart_as_it_was_put_together() -> None:
    keyring = keyring_of(["a", "b", "c"], epoch=2, sequence=7, policy="x")
    assert keyring.domain == id_of(SECRET)
    assert keyring.generation_ids == tuple(generation(name) for name in "abc")
    assert keyring.current.id == generation("c")
    assert [one.state for one in keyring.header.generations] == ["readable", "readable", "current"]
    assert (keyring.header.epoch, keyring.header.sequence, keyring.header.policy) == (2, 7, "x")
    for name in "abc":
        assert bytes(keyring.root_key(generation(name))) == key(name)
    keyring.close()


def test_the_current_generation_may_stand_anywhere() -> None:
    generations = [
        {"id": generation("a"), "created": 0, "state": "current"},
        {"id": generation("b"), "created": 0, "state": "readable"},
    ]
    keyring = keyring_of(["a", "b"], generations=generations)
    assert keyring.current.id == generation("a")
    keyring.close()


LIMITS: dict[str, dict[str, Any]] = {
    "the first state": {"epoch": 0, "sequence": 0},
    "the last state": {"epoch": HIGHEST, "sequence": HIGHEST},
    "the shortest policy": {"policy": "x"},
    "the longest policy": {"policy": "x" * MOST_POLICY},
    "a policy of anything": {"policy": 'Ä\n"\u2028\x00\U0001f511'},
}


@pytest.mark.parametrize("said", LIMITS.values(), ids=LIMITS)
def test_a_keyring_at_its_limits_is_read(said: dict[str, Any]) -> None:
    keyring = keyring_of(**said)
    assert all(getattr(keyring.header, name) == value for name, value in said.items())
    keyring.close()


def times(*created: int) -> list[dict[str, Any]]:
    return [{"id": generation("first"), "created": one, "state": "current"} for one in created]


@pytest.mark.parametrize("created", [0, 1, HIGHEST])
def test_a_generation_may_be_of_any_time(created: int) -> None:
    keyring = keyring_of(generations=times(created))
    assert keyring.current.created == created
    keyring.close()


def test_so_many_generations_are_read_and_no_more() -> None:
    names = [f"g{number}" for number in range(MOST_GENERATIONS)]
    keyring = keyring_of(names)
    assert len(keyring.generation_ids) == MOST_GENERATIONS
    assert bytes(keyring.root_key(generation("g1023"))) == key("g1023")
    keyring.close()
    assert "does not decode" in refused(keyring_bytes([*names, "one more"])).message


def generations(*said: dict[str, Any]) -> dict[str, Any]:
    """Generations that differ from one honest one as said."""
    honest = {"id": generation("first"), "created": 1_000, "state": "current"}
    return {"generations": [honest | one for one in said]}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a negative epoch": ({"epoch": -1}, "decode"),
    "a negative sequence": ({"sequence": -1}, "decode"),
    "an epoch too high": ({"epoch": HIGHEST + 1}, "decode"),
    "a sequence too high": ({"sequence": 2**64}, "decode"),
    "a sequence that is text": ({"sequence": "1"}, "decode"),
    "a sequence that is true": ({"sequence": True}, "decode"),
    "a sequence that is none": ({"sequence": None}, "decode"),
    "version 0": ({"version": 0}, "decode"),
    "version 2": ({"version": 2}, "decode"),
    "an empty policy": ({"policy": ""}, "decode"),
    "a policy too long": ({"policy": "x" * (MOST_POLICY + 1)}, "decode"),
    "a policy that escapes to too much": ({"policy": "\n" * MOST_POLICY}, "no keyring"),
    "a policy that is an object": ({"policy": {}}, "decode"),
    "an unknown field": ({"extra": 1}, "decode"),
    "another domain": ({"domain": id_of(OTHER_SECRET)}, "says it is of domain"),
    "a domain in upper case": ({"domain": id_of(SECRET).upper()}, "decode"),
    "a domain too short": ({"domain": id_of(SECRET)[:-2]}, "decode"),
    "a domain with a line end": ({"domain": id_of(SECRET) + "\n"}, "decode"),
    "no generation": (generations(), "decode"),
    "no current generation": (generations({"state": "readable"}), "0 current generations"),
    "an unknown state": (generations({"state": "lost"}), "decode"),
    "no state": (generations({"state": None}), "decode"),
    "another generation's id": (generations({"id": generation("other")}), "its key is that of"),
    "the id it has in another domain": (generations({"id": generation("first", OTHER_SECRET)}), "says generation"),
    "an id that is none": (generations({"id": "any"}), "decode"),
    "a negative time": (generations({"created": -1}), "decode"),
    "a time too high": (generations({"created": HIGHEST + 1}), "decode"),
    "a time with a fraction": (generations({"created": 0.5}), "decode"),
    "an unknown field of a generation": (generations({"extra": 1}), "decode"),
    "a generation more than keys": (generations({}, {"state": "readable"}), "its header asks for"),
}  # fmt: skip


@pytest.mark.parametrize(("said", "says"), REFUSED.values(), ids=REFUSED)
def test_what_a_header_may_not_say(said: dict[str, Any], says: str) -> None:
    assert says in refused(keyring_bytes(**said)).message


TWICE: dict[str, tuple[list[str], str]] = {
    "both current": (["current", "current"], "names a generation twice"),
    "one current": (["readable", "current"], "names a generation twice"),
}


@pytest.mark.parametrize(("states", "says"), TWICE.values(), ids=TWICE)
def test_a_generation_is_there_once(states: list[str], says: str) -> None:
    twice = [{"id": generation("first"), "created": 1, "state": state} for state in states]
    assert says in refused(keyring_bytes(["first", "first"], generations=twice)).message


def test_one_generation_is_current() -> None:
    both = [{"id": generation(name), "created": 1, "state": "current"} for name in "ab"]
    assert "2 current generations" in refused(keyring_bytes(["a", "b"], generations=both)).message


def test_keys_in_another_order_are_other_keys() -> None:
    data = keyring_bytes(["a", "b"])
    assert "says generation" in refused(data[:-64] + data[-32:] + data[-64:-32]).message


@pytest.mark.parametrize("missing", ["version", "domain", "epoch", "sequence", "generations", "policy"])
def test_every_field_is_wanted(missing: str) -> None:
    data = keyring_bytes()
    header = json.loads(data[4 : 4 + int.from_bytes(data[:4], "big")])
    del header[missing]
    assert "does not decode" in refused(keyring_bytes(header=header)).message


def rewritten(change: Callable[[bytes], bytes]) -> bytes:
    """A keyring whose header's bytes were changed, its length with them."""
    data = keyring_bytes()
    end = 4 + int.from_bytes(data[:4], "big")
    header = change(data[4:end])
    return len(header).to_bytes(4, "big") + header + data[end:]


FORMS: dict[str, Callable[[bytes], bytes]] = {
    "a space": lambda header: header.replace(b":", b": ", 1),
    "a space behind it": lambda header: header + b" ",
    "a line end behind it": lambda header: header + b"\n",
    "a field twice": lambda header: header[:-1] + b',"epoch":0}',
    "a field twice, the first another": lambda header: b'{"epoch":7,' + header[1:],
    "fields in another order": lambda header: b'{"epoch":0,' + header[1:].replace(b',"epoch":0', b""),
    "a letter escaped": lambda header: header.replace(b'"policy"', b'"\\u0070olicy"'),
    "a number as a fraction": lambda header: header.replace(b'"epoch":0', b'"epoch":0.0'),
    "a number with an exponent": lambda header: header.replace(b'"created":1000', b'"created":1e3'),
    "minus zero": lambda header: header.replace(b'"epoch":0', b'"epoch":-0'),
    "a leading zero": lambda header: header.replace(b'"epoch":0', b'"epoch":00'),
    "a byte order mark": lambda header: b"\xef\xbb\xbf" + header,
    "no UTF-8": lambda header: header.replace(b"version = 1", b"version\xff= 1"),
    "two headers": lambda header: header + header,
    "a list": lambda header: b"[" + header + b"]",
    "deep": lambda _header: b"[" * 10_000,
    "nothing": lambda _header: b"",
    "null": lambda _header: b"null",
}


@pytest.mark.parametrize("change", FORMS.values(), ids=FORMS)
def test_a_header_has_one_form(change: Callable[[bytes], bytes]) -> None:
    error = refused(rewritten(change))
    assert error.__cause__ is None
    assert "version = 1" not in str(error)


def test_the_unchanged_header_is_read_by_the_same_way() -> None:
    keyring = Keyring.parse(secret_of(rewritten(bytes)))
    assert keyring.header.policy == POLICY
    keyring.close()


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, MAX_KEYRING, MAX_KEYRING + 1])
def test_zeros_are_no_keyring(size: int) -> None:
    assert "no keyring" in refused(bytes(size)).message


@given(st.binary(max_size=300))
def test_any_bytes_are_no_keyring(data: bytes) -> None:
    refused(data)


WHOLE = keyring_bytes(["a", "b"])


def test_every_bit_counts() -> None:
    for position in range(len(WHOLE)):
        for bit in range(8):
            changed = bytearray(WHOLE)
            changed[position] ^= 1 << bit
            try:
                keyring = Keyring.parse(secret_of(bytes(changed)))
            except Corrupt:
                continue
            # What is left are the header's free values: another valid epoch, time or policy. Keys and ids are none.
            assert 4 < position < len(WHOLE) - 96
            assert keyring.generation_ids == (generation("a"), generation("b"))
            assert keyring.domain == id_of(SECRET)
            keyring.close()


def test_every_length_counts() -> None:
    for length in range(len(WHOLE)):
        refused(WHOLE[:length])
    for more in (b"\0", b"\0" * 32, WHOLE):
        refused(WHOLE + more)


# Minting


def test_a_minted_keyring_is_the_first_state_of_one_generation() -> None:
    keyring = Keyring.mint(primary=MEMBER, now=5, policy="x")
    header = keyring.header
    assert (header.version, header.epoch, header.sequence, header.policy) == (1, 0, 1, "x")
    (only,) = header.generations
    assert (only.created, only.state) == (5, GenerationState.CURRENT)
    keyring.close()


@pytest.mark.parametrize("policy", ["", "x" * (MOST_POLICY + 1), "\n" * MOST_POLICY], ids=["none", "long", "escaped"])
def test_no_keyring_is_minted_that_could_not_be_read_again(policy: str) -> None:
    with pytest.raises(Misuse, match="does not fit a keyring"):
        Keyring.mint(primary=MEMBER, now=0, policy=policy)


@pytest.mark.parametrize("policy", ["x", "x" * MOST_POLICY], ids=["short", "long"])
def test_a_minted_keyring_at_its_limits_is_read_again(policy: str) -> None:
    minted = Keyring.mint(primary=MEMBER, now=0, policy=policy)
    read = Keyring.parse(secret_of(bytes(minted.view)))
    assert read.same_as(minted)
    minted.close()
    read.close()


def policy_for(size: int) -> str:
    """A policy, of characters that take two bytes each, with which a keyring of one generation has `size` bytes."""
    room = size - len(keyring_bytes(policy="x", sequence=1))
    return "x" + "x" * (room % 2) + "\n" * (room // 2)


def test_a_keyring_has_so_many_bytes_and_no_more() -> None:
    largest = policy_for(MAX_KEYRING)
    assert len(largest) < MOST_POLICY
    for keyring in (keyring_of(policy=largest), Keyring.mint(primary=MEMBER, now=1_000, policy=largest)):
        assert len(keyring.view) == MAX_KEYRING
        keyring.close()
    assert "no keyring" in refused(keyring_bytes(policy=largest + "x")).message
    with pytest.raises(Misuse, match="does not fit a keyring"):
        Keyring.mint(primary=MEMBER, now=1_000, policy=largest + "x")


# Which replaces which


def of(names: str, epoch: int = 0, sequence: int = 1, secret: bytes = SECRET) -> Keyring:
    return keyring_of(list(names), secret=secret, epoch=epoch, sequence=sequence)


def later(one: str, other: str) -> bool:
    """Of two states of one place, the one with the higher digest."""
    return of(one).place.digest > of(other).place.digest


EXTENDS: dict[str, tuple[Keyring, Keyring, bool]] = {
    "itself": (of("a"), of("a"), True),
    "a later sequence": (of("a", 0, 2), of("a", 0, 1), True),
    "an earlier sequence": (of("a", 0, 1), of("a", 0, 2), False),
    "a later epoch": (of("a", 1, 0), of("a", 0, 9), True),
    "an earlier epoch": (of("a", 0, 9), of("a", 1, 0), False),
    "a generation more": (of("ab", 0, 2), of("a", 0, 1), True),
    "a generation more in the same state": (of("ab", 0, 1), of("a", 0, 1), later("ab", "a")),
    "a generation less": (of("a", 9, 9), of("ab", 0, 1), False),
    "another generation": (of("ac", 9, 9), of("ab", 0, 1), False),
    "another order": (of("ba"), of("ab"), later("ba", "ab")),
    "another order, later": (of("ba", 0, 2), of("ab"), True),
    "another domain": (of("a", 9, 9, OTHER_SECRET), of("a", 0, 1), False),
}


@pytest.mark.parametrize(("newer", "older", "does"), EXTENDS.values(), ids=EXTENDS)
def test_what_extends_what(newer: Keyring, older: Keyring, does: bool) -> None:  # noqa: FBT001 - of the table
    assert newer.extends(older) is does


def test_a_closed_keyring_gives_nothing_away() -> None:
    keyring = keyring_of()
    keyring.close()
    keyring.close()
    assert is_closed(keyring)
    with pytest.raises(ValueError, match="released"):
        keyring.root_key(keyring.current.id)
    assert keyring.domain in repr(keyring)


# Derivation


def derived(length: int, **said: Any) -> bytes:
    wanted: dict[str, Any] = {"domain": "d" * 32, "purpose": "test", "label": b"label"} | said
    into = bytearray(length)
    derive_into(memoryview(key("a")), into=memoryview(into), **wanted)
    return bytes(into)


@pytest.mark.parametrize("length", [1, 16, 32, 33, 8160])
def test_a_derived_key_may_have_so_many_bytes(length: int) -> None:
    assert derived(length) == derived(8160)[:length]


def test_a_derived_key_has_no_more() -> None:
    with pytest.raises(ValueError, match="8160"):
        derived(8161)


APART: dict[str, dict[str, Any]] = {
    "as it was": {},
    "another domain": {"domain": "e" * 32},
    "another purpose": {"purpose": "tes"},
    "another label": {"label": b"tlabel"},
    "a part moved over": {"purpose": "testl", "label": b"abel"},
    "an empty label": {"label": b""},
    "an empty purpose": {"purpose": "", "label": b"testlabel"},
}


def test_no_two_uses_share_a_key() -> None:
    assert len({derived(32, **said) for said in APART.values()}) == len(APART)
