from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest

from rkeyserver.secret import MemoryKind, SecretBytes, copy_secret, erase, fill_random

LEAKS: dict[str, Callable[[SecretBytes], object]] = {
    "bytes": bytes,
    "pickle": pickle.dumps,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "hash": hash,
}


@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS)
def test_a_secret_refuses_to_leave(leak: Callable[[SecretBytes], object]) -> None:
    with SecretBytes.random(32) as secret, pytest.raises(TypeError):
        leak(secret)


def test_repr_shows_the_size_and_nothing_else() -> None:
    with SecretBytes.random(32) as secret:
        assert repr(secret) == str(secret) == f"{secret}" == "<SecretBytes of 32 bytes>"


def test_starts_as_zeros_and_random_fills_it() -> None:
    with SecretBytes(48) as secret:
        assert len(secret) == 48
        assert not any(secret.view)
        fill_random(secret.view)
        assert any(secret.view)


def test_equality_is_by_content() -> None:
    with SecretBytes.random(32) as one, SecretBytes(32) as other:
        assert one != other
        copy_secret(one.view, other.view)
        assert one == other
        assert one != "text"


def test_copy_of_another_length_is_refused() -> None:
    with SecretBytes(32) as one, SecretBytes(31) as other, pytest.raises(ValueError, match="do not fit"):
        copy_secret(one.view, other.view)


def test_closed_memory_gives_no_view_and_closes_twice() -> None:
    secret = SecretBytes(32)
    secret.close()
    secret.close()
    with pytest.raises(ValueError, match="released"):
        _ = secret.view


def test_larger_than_a_page() -> None:
    with SecretBytes.random(10_000) as secret:
        assert len(secret.view) == 10_000


def test_falls_back_where_the_kernel_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rkeyserver.secret._map_hidden", lambda _length: None)
    with SecretBytes.random(32) as secret:
        assert secret.kind is MemoryKind.LOCKED
        assert any(secret.view)


def test_erase_overwrites_what_a_library_returned() -> None:
    returned = bytes(bytearray(range(40)))
    erase(returned)
    assert returned == bytes(40)
