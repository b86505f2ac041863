"""Wrapped secrets and derived keys: what comes back, and what does not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.keyrings import MEMBER, generation, keyring_of

from rkeyserver.errors import Misuse, Reason, Rejected
from rkeyserver.keyring.derived import MAX_SIZE, MIN_SIZE, derive
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.wrapping import MAX_ASSOCIATED_DATA, MAX_PLAINTEXT, OVERHEAD, rewrap, unwrap, wrap

SECRET, LABEL, ABOUT = b"a secret of a caller's", b"db/main", b"row 7"


@pytest.fixture
def keyring() -> Iterator[Keyring]:
    with contextlib.closing(keyring_of(["a", "b"])) as made:
        yield made


def wrapped(keyring: Keyring, secret: bytes = SECRET, label: bytes = LABEL, about: bytes = ABOUT) -> bytes:
    return wrap(keyring, label, memoryview(secret), about)


def opened(keyring: Keyring, blob: bytes, label: bytes = LABEL, about: bytes = ABOUT) -> bytes:
    with unwrap(keyring, label, blob, about).secret as secret:
        return secret.view.tobytes()


def refused(keyring: Keyring, blob: bytes, label: bytes = LABEL, about: bytes = ABOUT) -> Reason:
    with pytest.raises(Rejected) as raised:
        unwrap(keyring, label, blob, about)
    return raised.value.reason


@settings(deadline=None, max_examples=60)
@given(secret=st.binary(max_size=300), label=st.binary(max_size=40), about=st.binary(max_size=40), before=st.data())
def test_whatever_is_wrapped_opens_after_any_rotations(
    secret: bytes, label: bytes, about: bytes, before: st.DataObject
) -> None:
    names = before.draw(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8, unique=True))
    blobs: list[bytes] = []
    for count in range(1, len(names) + 1):
        with contextlib.closing(keyring_of(names[:count])) as keyring:
            blobs.append(wrap(keyring, label, memoryview(secret), about))
            assert [opened(keyring, blob, label, about) for blob in blobs] == [secret] * count
            assert blobs[-1][1:17].hex() == keyring.current.id
            newest = rewrap(keyring, label, blobs[0], about)
            assert newest[1:17].hex() == keyring.current.id
            assert opened(keyring, newest, label, about) == secret


@settings(deadline=None, max_examples=100)
@given(at=st.integers(min_value=0, max_value=8 * (OVERHEAD + len(SECRET)) - 1))
def test_any_flipped_bit_is_refused(at: int) -> None:
    with contextlib.closing(keyring_of(["a", "b"])) as keyring:
        blob = bytearray(wrapped(keyring))
        blob[at // 8] ^= 1 << at % 8
        assert refused(keyring, bytes(blob)) in {Reason.MALFORMED, Reason.NO_SUCH_GENERATION, Reason.DOES_NOT_OPEN}


def test_it_is_as_much_longer_as_it_says(keyring: Keyring) -> None:
    for size in (0, 1, 32, MAX_PLAINTEXT):
        blob = wrapped(keyring, bytes(size))
        assert len(blob) == size + OVERHEAD
        assert opened(keyring, blob) == bytes(size)


def test_two_of_the_same_have_nothing_in_common_but_version_and_generation(keyring: Keyring) -> None:
    one, other = wrapped(keyring), wrapped(keyring)
    assert one[:17] == other[:17]
    assert one[17:49] != other[17:49]
    assert one[49:] != other[49:]


WRONG: dict[str, tuple[bytes, bytes, Reason]] = {
    "another label": (b"db/other", ABOUT, Reason.DOES_NOT_OPEN),
    "no label": (b"", ABOUT, Reason.DOES_NOT_OPEN),
    "other associated data": (LABEL, b"row 8", Reason.DOES_NOT_OPEN),
    "no associated data": (LABEL, b"", Reason.DOES_NOT_OPEN),
    "label and data moved into each other": (LABEL + ABOUT[:1], ABOUT[1:], Reason.DOES_NOT_OPEN),
}


@pytest.mark.parametrize(("label", "about", "reason"), WRONG.values(), ids=WRONG)
def test_it_opens_for_its_own_alone(keyring: Keyring, label: bytes, about: bytes, reason: Reason) -> None:
    assert refused(keyring, wrapped(keyring), label, about) is reason


@pytest.mark.parametrize("size", [0, 1, 17, OVERHEAD - 1, OVERHEAD + MAX_PLAINTEXT + 1])
def test_what_cannot_be_one_is_none(keyring: Keyring, size: int) -> None:
    assert refused(keyring, b"\x01" * size) is Reason.MALFORMED


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_none(keyring: Keyring, version: int) -> None:
    blob = wrapped(keyring)
    assert refused(keyring, bytes([version]) + blob[1:]) is Reason.MALFORMED


def test_a_generation_that_is_not_here(keyring: Keyring) -> None:
    with contextlib.closing(keyring_of(["c"])) as other:
        blob = wrapped(other)
    with pytest.raises(Rejected, match=f"no generation {generation('c')} here") as raised:
        unwrap(keyring, LABEL, blob, ABOUT)
    assert raised.value.reason is Reason.NO_SUCH_GENERATION


def test_another_domain_s_does_not_open_though_it_says_that_it_is_of_this_generation(keyring: Keyring) -> None:
    with contextlib.closing(Keyring.mint(primary=MEMBER, now=1, policy="p")) as other:
        blob = wrapped(other)
    assert refused(keyring, blob) is Reason.NO_SUCH_GENERATION
    claimed = blob[:1] + bytes.fromhex(keyring.current.id) + blob[17:]
    assert refused(keyring, claimed) is Reason.DOES_NOT_OPEN


@pytest.mark.parametrize(("secret", "about"), [(MAX_PLAINTEXT + 1, 0), (0, MAX_ASSOCIATED_DATA + 1)])
def test_too_much_is_not_taken(keyring: Keyring, secret: int, about: int) -> None:
    with pytest.raises(Misuse, match="at most 65536 are taken"):
        wrapped(keyring, bytes(secret), LABEL, bytes(about))


def test_rewrapped_under_the_generation_that_it_is_under_it_stays_as_it_is(keyring: Keyring) -> None:
    blob = wrapped(keyring)
    assert rewrap(keyring, LABEL, blob, ABOUT) == blob


@pytest.mark.parametrize("change", ["label", "bit"])
def test_what_does_not_open_is_not_rewrapped(keyring: Keyring, change: str) -> None:
    blob = wrapped(keyring)
    label = b"other" if change == "label" else LABEL
    with pytest.raises(Rejected):
        rewrap(keyring, label, blob if change == "label" else blob[:-1] + bytes([blob[-1] ^ 1]), ABOUT)


# --- derived keys ---


def derived(keyring: Keyring, label: bytes = LABEL, size: int = 32, generation: str = "current") -> bytes:
    with derive(keyring, label, size=size, generation=generation).secret as secret:
        return secret.view.tobytes()


def test_a_key_follows_from_generation_label_and_size_and_from_nothing_else(keyring: Keyring) -> None:
    ids = keyring.generation_ids
    assert derived(keyring) == derived(keyring) == derived(keyring, generation=ids[-1])
    assert derived(keyring, generation="first") == derived(keyring, generation=ids[0])
    all_of_them = [
        derived(keyring, label, size, one)[:MIN_SIZE]
        for label in (b"", b"a", b"aa")
        for size in (16, 17, 32, 64)
        for one in ids
    ]
    assert len(set(all_of_them)) == len(all_of_them)


def test_it_is_the_same_on_every_machine_and_after_every_rotation(keyring: Keyring) -> None:
    with contextlib.closing(keyring_of(["a", "b", "c"])) as later:
        assert derived(keyring) == derived(later, generation=keyring.current.id)
        assert derived(keyring) != derived(later)


@pytest.mark.parametrize("size", [-1, 0, MIN_SIZE - 1, MAX_SIZE + 1, 8161])
def test_no_key_of_another_size(keyring: Keyring, size: int) -> None:
    with pytest.raises(Misuse, match=f"{size} bytes; wanted are 16 to 64"):
        derived(keyring, size=size)


@pytest.mark.parametrize("name", ["", "last", "0" * 32, "First"])
def test_no_key_of_a_generation_that_is_not_there(keyring: Keyring, name: str) -> None:
    with pytest.raises(Rejected) as raised:
        derived(keyring, generation=name)
    assert raised.value.reason is Reason.NO_SUCH_GENERATION
