"""The next state of a keyring: with another policy, and with or without a new generation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from tests.fakes.keyrings import generation, key, keyring_of, secret_of

from rkeyserver.errors import Misuse
from rkeyserver.keyring.generations import GenerationState
from rkeyserver.keyring.keyring import MAX_GENERATIONS, MAX_KEYRING, Keyring

OTHER = "version = 1 # another\n"


@pytest.fixture
def keyring() -> Iterator[Keyring]:
    with contextlib.closing(keyring_of(["a", "b"], epoch=3, sequence=7)) as made:
        yield made


def read_again(keyring: Keyring) -> Keyring:
    return Keyring.parse(secret_of(bytes(keyring.view)))


@pytest.mark.parametrize("rotate", [False, True])
def test_it_reads_again_as_a_later_state_of_the_same_domain(keyring: Keyring, *, rotate: bool) -> None:
    with contextlib.closing(
        keyring.changed(policy=OTHER, changes=["one"], add=GenerationState.CURRENT if rotate else None, now=50)
    ) as new:
        with contextlib.closing(read_again(new)) as again:
            assert again.same_as(new)
        assert new.extends(keyring)
        assert not keyring.extends(new)
        assert (new.domain, new.header.epoch, new.header.sequence) == (keyring.domain, 3, 8)
        assert (new.header.policy, new.header.changes) == (OTHER, ["one"])
        assert new.generation_ids[:2] == keyring.generation_ids
        assert len(new.generation_ids) == 2 + rotate


def test_rotation_makes_a_new_current_generation_and_keeps_the_keys(keyring: Keyring) -> None:
    with contextlib.closing(keyring.changed(policy=OTHER, changes=[], add=GenerationState.CURRENT, now=50)) as new:
        assert [(str(one.state), one.created) for one in new.header.generations] == [
            ("readable", 1000),
            ("readable", 1001),
            ("current", 50),
        ]
        for name in ("a", "b"):
            assert bytes(new.root_key(generation(name))) == key(name)
        fresh = bytes(new.root_key(new.current.id))
        assert fresh not in {key("a"), key("b"), bytes(32)}
        with contextlib.closing(
            keyring.changed(policy=OTHER, changes=[], add=GenerationState.CURRENT, now=50)
        ) as another:
            assert bytes(another.root_key(another.current.id)) != fresh


def test_what_it_was_made_of_stays_as_it_is(keyring: Keyring) -> None:
    header, data = keyring.header, bytes(keyring.view)
    keyring.changed(policy=OTHER, changes=["one"], add=GenerationState.CURRENT, now=50).close()
    assert (keyring.header, bytes(keyring.view)) == (header, data)


TOO_MUCH: dict[str, dict[str, object]] = {
    "no policy": {"policy": ""},
    "a policy that is too long": {"policy": "x" * (128 * 1024 + 1)},
    "more changes than may be": {"changes": ["x"] * 257},
    "changes that are too long": {"changes": ["x" * MAX_KEYRING]},
}


@pytest.mark.parametrize("said", TOO_MUCH.values(), ids=TOO_MUCH)
def test_what_could_not_be_read_again_is_not_made(keyring: Keyring, said: dict[str, object]) -> None:
    whole = {"policy": OTHER, "changes": [], "add": None, "now": 1} | said
    with pytest.raises(Misuse, match="does not fit a keyring"):
        keyring.changed(**whole)  # type: ignore[arg-type]  # a test says it


def test_there_is_a_last_generation() -> None:
    names = [f"{number}" for number in range(MAX_GENERATIONS)]
    with contextlib.closing(keyring_of(names)) as full:
        with pytest.raises(Misuse, match="does not fit a keyring"):
            full.changed(policy=OTHER, changes=[], add=GenerationState.CURRENT, now=1)
        with contextlib.closing(full.changed(policy=OTHER, changes=[], add=None, now=1)) as new:
            assert len(new.generation_ids) == MAX_GENERATIONS
