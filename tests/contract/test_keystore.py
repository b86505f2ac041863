"""What every keystore does. A new one registers in STORES and runs all of it."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.fakes.gramine_files import is_seen_so, see_files_as_gramine

import rkeyserver.keystore
from rkeyserver.errors import Misuse, RkeyError, Unavailable
from rkeyserver.keystore.file import FileKeystore
from rkeyserver.keystore.store import KEPT, MAX_RECORD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rkeyserver.keystore.store import Keystore


@dataclass(frozen=True)
class Place:
    """One place for a record: how to open it, and how to see, behind the store's back, what it keeps."""

    open: Callable[[], Keystore]
    kept: Callable[[], list[bytes]]


def _file(folder: Path) -> Place:
    path = folder / "rkey.bin"
    return Place(
        open=lambda: FileKeystore.open(path),
        kept=lambda: [copy.read_bytes() for copy in folder.glob("rkey.bin.kept.*")],
    )


STORES: dict[type, Callable[[Path], Place]] = {FileKeystore: _file}


@pytest.fixture(params=["Linux", "Gramine"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whose files these are."""
    name: str = request.param
    if name == "Gramine":
        see_files_as_gramine(monkeypatch)
    return name


@pytest.fixture(params=STORES.values(), ids=[store.__name__ for store in STORES])
def place(request: pytest.FixtureRequest, tmp_path: Path, system: str) -> Place:
    assert is_seen_so(tmp_path) == (system == "Gramine")
    made: Place = request.param(tmp_path)
    return made


@pytest.fixture
def store(place: Place) -> Iterator[Keystore]:
    opened = place.open()
    yield opened
    opened.close()


def test_every_keystore_is_registered() -> None:
    found = set()
    for module in pkgutil.iter_modules(rkeyserver.keystore.__path__, "rkeyserver.keystore."):
        for _, thing in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            is_store = all(hasattr(thing, method) for method in ("load", "replace", "close"))
            if is_store and thing.__module__ == module.name and not getattr(thing, "_is_protocol", False):
                found.add(thing)
    assert found == set(STORES)


def test_empty(store: Keystore) -> None:
    assert store.load() is None


def test_the_first_record_replaces_nothing(store: Keystore) -> None:
    assert store.replace(b"one", "a-name") is False
    assert store.load() == b"one"


def test_the_second_replaces_the_first(store: Keystore, place: Place) -> None:
    store.replace(b"one", None)
    assert store.replace(b"two", None) is True
    assert store.load() == b"two"
    assert place.kept() == []


def test_what_is_replaced_is_kept(store: Keystore, place: Place) -> None:
    store.replace(b"one", None)
    store.replace(b"two", "domain.1-seq-1")
    assert (store.load(), place.kept()) == (b"two", [b"one"])


def test_what_is_kept_is_named_newest_first(store: Keystore) -> None:
    assert store.kept_names() == []
    for number in range(4):
        store.replace(b"%d" % number, f"domain.1-seq-{number}")
    for name, number in zip(store.kept_names(), (3, 2, 1), strict=True):
        assert f"domain.1-seq-{number}" in name


def test_two_of_one_name_are_both_kept(store: Keystore, place: Place) -> None:
    for record in (b"one", b"two", b"three"):
        store.replace(record, "name")
    assert sorted(place.kept()) == [b"one", b"two"]


def test_the_same_twice_is_kept_once(store: Keystore, place: Place) -> None:
    for record in (b"one", b"two"):
        store.replace(record, "name")
    store.replace(b"one", None)
    store.replace(b"three", "name")
    assert place.kept() == [b"one"]


def test_the_oldest_go_first(store: Keystore, place: Place) -> None:
    for number in range(KEPT + 4):
        store.replace(b"record %d" % number, f"seq-{number}")
    newest = [b"record %d" % number for number in range(3, KEPT + 3)]
    assert sorted(place.kept()) == newest


def test_every_byte_value_and_the_greatest_size(store: Keystore) -> None:
    record = bytes(range(256)) * (MAX_RECORD // 256)
    store.replace(record, None)
    assert store.load() == record


def test_a_second_opener_is_refused_while_the_first_has_it(store: Keystore, place: Place) -> None:
    store.replace(b"one", None)
    for _ in range(2):  # a refusal must not let the next one in
        with pytest.raises(Unavailable, match="held by"):
            place.open()
    store.replace(b"two", None)
    assert store.load() == b"two"


def test_closed_it_can_be_opened_again(store: Keystore, place: Place) -> None:
    store.replace(b"one", None)
    store.close()
    again = place.open()
    try:
        assert again.load() == b"one"
    finally:
        again.close()


def test_closing_twice_takes_nothing_from_the_next_holder(store: Keystore, place: Place) -> None:
    store.close()
    again = place.open()
    store.close()
    with pytest.raises(Unavailable):
        place.open()
    again.close()


def test_closed_it_stores_nothing(store: Keystore, place: Place) -> None:
    store.replace(b"one", None)
    store.close()
    with pytest.raises(RkeyError):
        store.replace(b"two", "name")
    again = place.open()
    assert (again.load(), place.kept()) == (b"one", [])
    again.close()


REFUSED = {
    "no bytes": (b"", "name"),
    "one byte too many": (bytes(MAX_RECORD + 1), "name"),
    "kept under no name": (b"new", ""),
    "kept in another folder": (b"new", "../name"),
    "kept under a name with a NUL": (b"new", "a\0b"),
    "kept under a name with a newline": (b"new", "name\n"),
    "kept under a name beyond ASCII": (b"new", "näme"),
    "kept under a name that is too long": (b"new", "n" * 129),
}


@pytest.mark.parametrize(("record", "keep_as"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_as_misuse(store: Keystore, place: Place, record: bytes, keep_as: str) -> None:
    store.replace(b"old", None)
    with pytest.raises(Misuse):
        store.replace(record, keep_as)
    assert (store.load(), place.kept()) == (b"old", [])
