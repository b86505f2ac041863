from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rkeyserver.errors import Corrupt
from rkeyserver.sealing.aead import TAG_SIZE, open_once, seal_once
from rkeyserver.sealing.wrap import SALT_SIZE, unwrap, wrap

KEY = bytes(range(16))
SECRET = bytes(range(100, 132))
DATA = b"what it is bound to"


def buffer(data: bytes) -> memoryview:
    return memoryview(bytearray(data))


def wrapped(key: bytes = KEY, secret: bytes = SECRET, data: bytes = DATA) -> bytes:
    return wrap(buffer(key), buffer(secret), data)


def unwrapped(blob: bytes, key: bytes = KEY, data: bytes = DATA, size: int = 32) -> bytes:
    into = buffer(b"\xaa" * size)
    unwrap(buffer(key), blob, data, into)
    return bytes(into)


def refused(blob: bytes, key: bytes = KEY, data: bytes = DATA, size: int = 32) -> Corrupt:
    into = buffer(b"\xaa" * size)
    with pytest.raises(Corrupt) as raised:
        unwrap(buffer(key), blob, data, into)
    assert bytes(into) == bytes(size), "nothing of it stays"
    return raised.value


@pytest.mark.parametrize("size", [16, 32, 64])
def test_a_wrapped_secret_comes_back(size: int) -> None:
    key = os.urandom(size)
    blob = wrapped(key)
    assert len(blob) == SALT_SIZE + len(SECRET) + TAG_SIZE
    assert unwrapped(blob, key) == SECRET
    assert SECRET not in blob
    assert key not in blob


def test_no_two_wrappings_are_alike() -> None:
    blobs = [wrapped() for _ in range(8)]
    assert len({blob[:SALT_SIZE] for blob in blobs}) == len({blob[SALT_SIZE:] for blob in blobs}) == 8


def test_every_bit_counts() -> None:
    blob = wrapped()
    for position in range(len(blob)):
        for bit in range(8):
            changed = bytearray(blob)
            changed[position] ^= 1 << bit
            assert "does not open" in refused(bytes(changed)).message


def test_every_length_counts() -> None:
    blob = wrapped()
    for length in [*range(len(blob)), len(blob) + 1, 2 * len(blob)]:
        assert f"has {length} bytes, 80 wanted" in refused((blob * 2)[:length]).message


def test_it_is_bound_to_key_and_data() -> None:
    blob = wrapped()
    refused(blob, key=KEY[:-1] + b"\0")
    refused(blob, key=KEY + b"\1")
    refused(blob, data=DATA + b"\0")
    refused(blob, data=b"")


def test_the_salt_of_one_does_not_open_another() -> None:
    one, other = wrapped(), wrapped()
    refused(one[:SALT_SIZE] + other[SALT_SIZE:])


def test_a_secret_of_another_size_is_refused() -> None:
    refused(wrapped(), size=31)
    refused(wrapped(), size=33)
    assert unwrapped(wrapped(secret=b"x"), size=1) == b"x"


@given(st.binary(max_size=200))
def test_any_bytes_are_no_wrapped_key(blob: bytes) -> None:
    refused(blob)


# The cipher below


def test_what_does_not_open_leaves_zeros() -> None:
    key, plaintext = os.urandom(32), bytes(range(64))
    ciphertext = seal_once(buffer(key), buffer(plaintext), DATA)
    into = buffer(b"\xaa" * 64)
    assert open_once(buffer(key), ciphertext, DATA, into)
    assert bytes(into) == plaintext
    for bad in (ciphertext[:-1] + bytes([ciphertext[-1] ^ 1]), bytes([ciphertext[0] ^ 1]) + ciphertext[1:]):
        into = buffer(b"\xaa" * 64)
        assert not open_once(buffer(key), bad, DATA, into)
        assert bytes(into) == bytes(64)


@pytest.mark.parametrize("size", [63, 65])
def test_a_place_of_another_size_is_a_mistake_of_the_caller(size: int) -> None:
    key = os.urandom(32)
    ciphertext = seal_once(buffer(key), buffer(bytes(64)), DATA)
    with pytest.raises(ValueError, match="buffer"):
        open_once(buffer(key), ciphertext, DATA, buffer(bytes(size)))
