from __future__ import annotations

import copy
import mmap
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fakes.full_disk import room_for
from tests.fakes.key_scan import HIDDEN, KEY_MEMORY, mappings

from rkeyserver.errors import Unavailable
from rkeyserver.secret import _MOST_SPARE, MemoryKind, SecretBytes, copy_secret, erase, fill_random, take_bytes

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


@pytest.fixture(params=["as this kernel has it", "without memfd_secret"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> MemoryKind:
    """What a SecretBytes of this test will be."""
    if request.param == "without memfd_secret":
        monkeypatch.setattr("rkeyserver.secret._map_hidden", lambda _length: None)
        return MemoryKind.LOCKED
    with SecretBytes(1) as probe:
        return probe.kind


def key_memory() -> int:
    """Bytes of this process's key memory."""
    return sum(one.end - one.start for one in mappings("self") if one.holds_keys)


@pytest.mark.parametrize(
    ("size", "pages"), [(0, 1), (1, 1), (mmap.PAGESIZE, 1), (mmap.PAGESIZE + 1, 2), (3 * mmap.PAGESIZE, 3)]
)
def test_has_pages_of_its_own_and_gives_them_back(kind: MemoryKind, size: int, pages: int) -> None:
    before = key_memory()
    with SecretBytes(size) as secret:
        assert secret.kind is kind
        assert key_memory() == before + pages * mmap.PAGESIZE
    assert key_memory() == before


def test_who_can_read_it(kind: MemoryKind) -> None:
    """Root, through the kernel: what is only locked, never what memfd_secret hides. No dump or child has either."""
    with SecretBytes.random(32) as secret, Path("/proc/self/mem").open("rb", buffering=0) as memory:
        address = secret._address
        (mapping,) = [one for one in mappings("self") if one.start <= address < one.end]
        assert mapping.flags >= KEY_MEMORY
        assert (mapping.name == HIDDEN) is (kind is MemoryKind.MEMFD_SECRET)
        memory.seek(address)
        if kind is MemoryKind.LOCKED:
            assert memory.read(32) == secret.view
        else:
            with pytest.raises(OSError, match="Input/output error"):
                memory.read(32)


def test_falls_back_where_files_may_not_be_so_large() -> None:
    with room_for(mmap.PAGESIZE - 1), SecretBytes.random(32) as secret:
        assert secret.kind is MemoryKind.LOCKED


def test_no_memory_at_all_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_map_hidden", "_map_locked"):
        monkeypatch.setattr(f"rkeyserver.secret.{name}", lambda _length: None)
    with pytest.raises(Unavailable, match=r"^No locked memory for a key: 32 bytes wanted, RLIMIT_MEMLOCK is -?\d+\."):
        SecretBytes(32)


@pytest.mark.parametrize("shared", [b"", b"\x07"], ids=["no byte", "one byte"])
def test_erase_leaves_what_the_interpreter_has_only_once(shared: bytes) -> None:
    before = bytearray(shared)
    erase(shared)
    assert shared == before
    take_bytes(shared).close()
    assert shared == before


def test_erase_overwrites_what_a_library_returned() -> None:
    returned = bytes(bytearray(range(40)))
    erase(returned)
    assert returned == bytes(40)


def test_a_brief_one_is_key_memory_and_its_page_comes_back_empty() -> None:
    with SecretBytes(32, brief=True) as one:
        address = one._address
        (mapping,) = [found for found in mappings("self") if found.start <= address < found.end]
        assert mapping.flags >= KEY_MEMORY
        assert (mapping.name == HIDDEN) is (one.kind is MemoryKind.MEMFD_SECRET)
        fill_random(one.view)
    with SecretBytes(mmap.PAGESIZE, brief=True) as other:
        assert other._address == address
        assert not any(other.view)


def test_two_brief_ones_never_share_a_page() -> None:
    before = key_memory()
    held = [SecretBytes(32, brief=True) for _ in range(40)]
    assert len({one._address for one in held}) == 40
    for one in held:
        one.close()
    assert key_memory() <= before + _MOST_SPARE * mmap.PAGESIZE


def test_a_brief_one_larger_than_a_page_gives_its_pages_back() -> None:
    before = key_memory()
    with SecretBytes(mmap.PAGESIZE + 1, brief=True) as secret:
        assert key_memory() == before + 2 * mmap.PAGESIZE
        fill_random(secret.view)
    assert key_memory() == before


def test_a_child_does_not_take_the_pages_that_it_has_not() -> None:
    SecretBytes(32, brief=True).close()
    child = os.fork()
    if child == 0:
        try:
            with SecretBytes(32, brief=True) as secret:
                fill_random(secret.view)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
