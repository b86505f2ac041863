"""What every keystore does. A new one registers in STORES and runs all of it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import inspect
import os
import pkgutil
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.gramine_files import is_seen_so, see_files_as_gramine
from tests.fakes.sql_faults import faulty

import rkeyserver.keystore
from rkeyserver.errors import Misuse, RkeyError, Unavailable
from rkeyserver.keystore.file import FileKeystore
from rkeyserver.keystore.postgresql import Postgresql
from rkeyserver.keystore.sql import SqlKeystore
from rkeyserver.keystore.sqlite import Sqlite
from rkeyserver.keystore.store import KEPT, MAX_RECORD, Binding, Keystore
from rkeyserver.keystore.table import Owner

MACHINE = "machine-a"
SEED = 20_261_126


@dataclass(frozen=True)
class Place:
    """One place for a record: how to open it, and how to see, behind the store's back, what it keeps.

    failing: opens it so that, as the random numbers have it, what it stands on fails.
    """

    open: Callable[[], Keystore]
    kept: Callable[[], list[bytes]]
    failing: Callable[[random.Random], AbstractContextManager[Callable[[], Keystore]]]


def _file(folder: Path, _request: pytest.FixtureRequest) -> Place:
    path = folder / "rkey.bin"
    return Place(
        open=lambda: FileKeystore.open(path),
        kept=lambda: [copy.read_bytes() for copy in folder.glob("rkey.bin.kept.*")],
        failing=lambda chance: _failing_calls(chance, lambda: FileKeystore.open(path)),
    )


@contextlib.contextmanager
def _failing_calls(chance: random.Random, opened: Callable[[], Keystore]) -> Iterator[Callable[[], Keystore]]:
    """Each of the calls that a write is made of may fail."""

    def may_fail(call: Callable[..., Any]) -> Callable[..., Any]:
        def failing(*arguments: Any, **named: Any) -> Any:
            if chance.random() < 0.15:
                raise OSError(chance.choice([errno.EIO, errno.ENOSPC, errno.EDQUOT]), "injected")
            return call(*arguments, **named)

        return failing

    with pytest.MonkeyPatch.context() as patch:
        for name in ("write", "fsync", "fchmod"):
            patch.setattr(os, name, may_fail(getattr(os, name)))
        for name in ("rename", "hardlink_to", "unlink"):
            patch.setattr(Path, name, may_fail(getattr(Path, name)))
        yield opened


def _bound(record: bytes) -> Binding:
    return Binding("fake", MACHINE, hashlib.sha256(record).hexdigest()[:32], 0, len(record))


def _sqlite(folder: Path, _request: pytest.FixtureRequest) -> Place:
    owner, path = Owner("fake", MACHINE, "default"), folder / "rkey.db"

    def kept() -> list[bytes]:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            return [row[0] for row in connection.execute(KEPT_ROWS.replace("%s", "?"), owner.key)]

    def opened() -> Keystore:
        return SqlKeystore.open(Sqlite(path, owner), owner, _bound, str(path))

    return Place(opened, kept, lambda chance: faulty(chance, Sqlite(path, owner), owner, _bound))


KEPT_ROWS = (
    "SELECT record FROM rkeyserver_records WHERE platform=%s AND machine=%s AND instance=%s AND kept_as IS NOT NULL"
)


def _postgresql(folder: Path, request: pytest.FixtureRequest) -> Place:
    cluster = request.getfixturevalue("postgres")
    owner = Owner("fake", MACHINE, folder.name[:60])

    def opened() -> Keystore:
        return SqlKeystore.open(Postgresql(cluster.url(), owner), owner, _bound, cluster.url())

    def kept() -> list[bytes]:
        return [row[0] for row in cluster.sql(KEPT_ROWS, owner.key)]

    return Place(opened, kept, lambda chance: faulty(chance, Postgresql(cluster.url(), owner), owner, _bound))


STORES: dict[str, tuple[type, Callable[[Path, pytest.FixtureRequest], Place], str]] = {
    "FileKeystore-Linux": (FileKeystore, _file, "Linux"),
    "FileKeystore-Gramine": (FileKeystore, _file, "Gramine"),
    "SQLite": (SqlKeystore, _sqlite, "Linux"),
    "PostgreSQL": (SqlKeystore, _postgresql, "Linux"),
}


@pytest.fixture(params=list(STORES.values()), ids=list(STORES))
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    _, make, system = request.param
    if system == "Gramine":
        see_files_as_gramine(monkeypatch)
    assert is_seen_so(tmp_path) == (system == "Gramine")
    made: Place = make(tmp_path, request)
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
    assert found == {store for store, _, _ in STORES.values()}


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


STEPS = 30


def test_whatever_fails_the_old_record_is_there_or_the_new_one(place: Place) -> None:
    """A store on something that fails at random, by a fixed seed, beside what has to be true of it all the time."""
    chance = random.Random(SEED)  # noqa: S311 - the same each time
    with contextlib.closing(place.open()) as first:
        first.replace(b"record 0", None)
    there, raised, stored = {b"record 0"}, 0, 0
    for step in range(1, STEPS + 1):
        new = b"record %d" % step
        with place.failing(chance) as opened:
            try:
                with contextlib.closing(opened()) as store:
                    store.load()
                    store.replace(new, f"seq.{step}")
                there, stored = {new}, stored + 1
            except Unavailable:
                there, raised = there | {new}, raised + 1
        with contextlib.closing(place.open()) as store:
            found = store.load()
            assert found in there, f"seed {SEED}, step {step}"
            there = {found}
            kept = place.kept()
            assert len(kept) <= KEPT + raised
            assert all(one.startswith(b"record ") for one in kept), "a torn copy"
    assert raised > STEPS / 6, "hardly anything failed"
    assert stored > STEPS / 6, "hardly anything was stored"
