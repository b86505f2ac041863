"""Rows of a database behind its keystore's back: exchanged, put back, cut, deleted; races; broken databases."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.postgres import USER, Cluster
from tests.fakes.processes import ROOT
from tests.fakes.sql_faults import Behind

from rkeyserver.errors import Corrupt, Misuse, RkeyError, Unavailable
from rkeyserver.keystore import databases, postgresql, sql, sqlite
from rkeyserver.keystore.backend import Backend, LostConnectionError, Transaction, UnknownCommitError
from rkeyserver.keystore.place import Database, parse_place
from rkeyserver.keystore.sql import SqlKeystore
from rkeyserver.keystore.store import MAX_RECORD, Binding, Fetch
from rkeyserver.keystore.table import Kept, Owner, judge, to_drop

A, B, DOMAIN = "machine-a", "machine-b", "ab" * 16


def record(machine: str, sequence: int) -> bytes:
    """A record as far as a keystore looks into it."""
    return f"{machine} {DOMAIN} {sequence} {'x' * 500}".encode()


def bound(found: bytes) -> Binding | None:
    machine, _, rest = found.decode(errors="replace").partition(" ")
    domain, _, rest = rest.partition(" ")
    number = rest.partition(" ")[0]
    return Binding("fake", machine, domain, 0, int(number)) if number.isdigit() and len(found) > 500 else None


@dataclass
class Place:
    """One database."""

    url: str
    run: Callable[[str, Sequence[object]], list[Any]]

    def open(self, machine: str = A) -> SqlKeystore:
        place = parse_place(self.url)
        assert isinstance(place, Database)
        return databases.open_database(place, "fake", machine, bound)

    def backend(self, owner: Owner) -> Backend:
        place = parse_place(self.url)
        assert isinstance(place, Database)
        return databases._backend(place, owner, reads=False)


def _sqlite(folder: Path) -> Place:
    path = folder / "rk.db"

    def run(statement: str, values: Sequence[Any] = ()) -> list[Any]:
        with contextlib.closing(sqlite3.connect(path)) as file, file:
            return file.execute(statement.replace("%s", "?"), values).fetchall()

    return Place(f"sqlite://{path}", run)


def nothing(_statement: str, _values: Sequence[object] = ()) -> list[Any]:
    """For a place behind whose back nothing is done."""
    return []


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "SQLite":
        yield _sqlite(tmp_path)
        return
    cluster: Cluster = request.getfixturevalue("postgres")

    def run(statement: str, values: Sequence[object] = ()) -> list[Any]:
        return cluster.sql(statement, values or None, user=USER)

    def drop() -> None:
        run("DROP TABLE IF EXISTS rkeyserver_records")
        run("DROP TABLE IF EXISTS rkeyserver_schema")

    drop()
    yield Place(cluster.url(), run)
    drop()


@pytest.fixture
def store(place: Place) -> Iterator[SqlKeystore]:
    with contextlib.closing(place.open()) as opened:
        yield opened


NOW = " WHERE platform = 'fake' AND machine = 'machine-a' AND instance = 'default' AND kept_as IS NULL"
SET = "UPDATE rkeyserver_records SET "
# What is done to the rows; what load() then says.
CHANGES: dict[str, tuple[list[str], str]] = {
    "swapped with another machine's record": (
        [SET + "record = (SELECT o.record FROM rkeyserver_records o WHERE o.machine = 'machine-b')" + NOW],  # noqa: S608 - constants
        "the record in it says fake machine-b",
    ),
    "an old record put back": (
        [SET + "record = (SELECT o.record FROM rkeyserver_records o WHERE o.version = 2)" + NOW],  # noqa: S608 - constants
        "epoch 0, sequence 3; the record in it says fake machine-a, domain " + DOMAIN + ", epoch 0, sequence 2",
    ),
    "an old row put back": (
        ["DELETE FROM rkeyserver_records" + NOW, SET + "kept_as = NULL WHERE machine = 'machine-a' AND version = 1"],  # noqa: S608 - constants
        "has version 1, and beside it is kept dom.2 (version 2): it was put back",
    ),
    "a row that says another domain": ([SET + "domain = 'cd'" + NOW], "It was exchanged or put back"),
    "a row that says another sequence": ([SET + "sequence = 9" + NOW], "sequence 9; the record in it"),
    "the record deleted": (
        ["DELETE FROM rkeyserver_records" + NOW],  # noqa: S608 - constants
        "is missing, but was there once: kept beside it: dom.2 (version 2), dom.1 (version 1)",
    ),
    "emptied": ([SET + "record = %s"], "has 0 bytes; 1 to"),
    "two records": (
        ["DROP INDEX rkeyserver_current", SET + "kept_as = NULL WHERE machine = 'machine-a'"],
        "There are 3 records of fake machine-a, instance default; one is wanted",
    ),
    "other tables": (["DROP TABLE rkeyserver_records"], "rkeyserver_records"),
    "a column less": (["ALTER TABLE rkeyserver_records DROP COLUMN epoch"], "epoch"),
}


def filled(place: Place, store: SqlKeystore) -> None:
    """Three records of A, of which two are kept, and one of B."""
    for number in (1, 2, 3):
        store.replace(record(A, number), f"dom.{number - 1}")
    with contextlib.closing(place.open(B)) as other:
        other.replace(record(B, 3), None)


@pytest.mark.parametrize(("statements", "says"), CHANGES.values(), ids=CHANGES)
def test_a_changed_row_is_found_out(place: Place, store: SqlKeystore, statements: list[str], says: str) -> None:
    filled(place, store)
    assert store.load() == record(A, 3)
    for statement in statements:
        place.run(statement, [b""] * statement.count("%s"))
    for look in (store.load, lambda: store.replace(record(A, 4), "dom.3")):
        with pytest.raises(Corrupt) as raised:
            look()
        assert says in raised.value.message
        assert "Nothing was changed" in raised.value.advice
    store.look()
    with pytest.raises(Corrupt):
        store.glance()
    store.close()
    with contextlib.closing(place.open()) as again, pytest.raises(Corrupt):
        again.load()


def test_a_record_that_was_cut_is_given_as_it_is(place: Place, store: SqlKeystore) -> None:
    """Whoever opens it finds that out, and may keep it aside and take the keyring from a peer."""
    filled(place, store)
    cut = record(A, 3)[:100]
    place.run(SET + "record = %s" + NOW, (cut,))
    store.look()
    with pytest.raises(Corrupt, match="another than this server stored or loaded last"):
        store.glance()
    assert store.load() == cut
    store.look()
    assert store.glance() == cut
    assert store.replace(record(A, 4), "unreadable") is True
    assert store.kept_names()[0] == "unreadable (version 3)"
    assert "unreadable (version 3), dom.2 (version 2)" in store.ways_out(Fetch.OWN)
    assert "under another name" in store.ways_out(Fetch.IN_THE_WAY)


def test_a_record_that_is_too_large(place: Place, store: SqlKeystore) -> None:
    filled(place, store)
    large = bytes(MAX_RECORD + 1)
    place.run(SET + "record = %s" + NOW, (large,))
    with pytest.raises(Corrupt, match=f"has {MAX_RECORD + 1} bytes"):
        store.load()


@pytest.mark.parametrize("row", [[1], ["1", None, "d", 0, 1, 3, b"abc"], [1, None, "d", 0, 1, 3, "abc"], [1, 2, "d"]])
def test_values_of_other_kinds(row: list[object]) -> None:
    with pytest.raises(Corrupt, match="values of other kinds"):
        judge([row], Owner("fake", A, "default"), bound)


def test_what_of_the_kept_goes() -> None:
    names = ["a.1", "a.2", "a.3", "a.4", "a.5", "a.6", "b.1", "c"]
    kept = [Kept(9 - number, name) for number, name in enumerate(names)]
    assert to_drop(kept) == [kept[5]]


def test_what_is_no_record_of_this_machine_is_not_stored(store: SqlKeystore) -> None:
    for other in (record(B, 1), b"no record"):
        with pytest.raises(Misuse, match="no record of fake machine-a"):
            store.replace(other, None)
    assert store.load() is None


def test_files_of_the_database_are_its_own(tmp_path: Path) -> None:
    with contextlib.closing(_sqlite(tmp_path).open()) as store:
        for name in ("rk.db", "rk.db-journal", "rk.db.fake.machine-a.default.lock", "rk.db.new~1"):
            assert store.owns(tmp_path / name), name
        for other in (tmp_path / "rk.db.default.audit.jsonl", tmp_path / "rk.db.default.socket", Path("/rk.db")):
            assert not store.owns(other)
        assert not store.owns(tmp_path / "rk.db" / ("x" * 300))


# Two that write


class Lockless(Behind):
    """A backend whose lock keeps nobody out, as after a failover to a server that does not know of it."""

    def lock(self) -> None:
        pass

    def transaction(self, *, write: bool) -> contextlib.AbstractContextManager[Transaction]:
        del write
        return self.real.transaction(write=False)


def lockless(place: Place) -> SqlKeystore:
    owner = Owner("fake", A, "default")
    return SqlKeystore.open(Lockless(place.backend(owner)), owner, bound, "a place without locks")


def test_of_two_writers_one_loses_and_nothing_is_lost(place: Place) -> None:
    with contextlib.closing(lockless(place)) as one, contextlib.closing(lockless(place)) as other:
        assert one.load() is other.load() is None
        one.replace(record(A, 1), None)
        with pytest.raises(Unavailable, match="has version 1 by now, and version 0 was to be replaced"):
            other.replace(record(A, 2), None)
        assert other.load() == record(A, 1)
        other.replace(record(A, 2), "dom.1")
        with pytest.raises(Unavailable, match="another process has written"):
            one.replace(record(A, 3), None)
        assert one.load() == record(A, 2)
        assert one.kept_names() == ["dom.1 (version 1)"]


def test_a_race_of_two_threads(place: Place) -> None:
    rounds, won = 10, []
    stores = [lockless(place), lockless(place)]
    stores[0].replace(record(A, 0), None)

    def write(which: int) -> None:
        for number in range(rounds):
            with contextlib.suppress(Unavailable):
                stores[which].load()
                stores[which].replace(record(A, 100 * (which + 1) + number), None)
                won.append(which)

    threads = [threading.Thread(target=write, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    version = place.run("SELECT version FROM rkeyserver_records", ())
    assert version == [(len(won) + 1,)], "a write was lost, or counted that was none"
    for store in stores:
        store.close()


def test_a_lock_that_was_lost_is_not_taken_from_the_next(postgres: Cluster) -> None:
    url = postgres.database(f"lock_{os.urandom(6).hex()}")
    place = Place(url, nothing)
    with contextlib.closing(place.open()) as store:
        store.replace(record(A, 1), None)
        name = url.rpartition("/")[2]
        ends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        # Once: it connects anew, and takes its lock again.
        postgres.sql(ends, (name,))
        store.replace(record(A, 2), None)
        store.check_reachable()
        # And where another one took it meanwhile:
        store._ending.set()
        store._looker.join()
        postgres.sql(ends, (name,))
        with contextlib.closing(place.open()):
            with pytest.raises(Unavailable, match=f"held by process {os.getpid()} on"):
                store.replace(record(A, 3), None)
            store.look()
            with pytest.raises(Unavailable, match="held by process"):
                store.glance()
        store.look()
        assert store.glance() == record(A, 2)
        store.replace(record(A, 3), None)


def test_a_session_of_its_own_that_the_server_has_not_missed_is_ended_there(postgres: Cluster) -> None:
    """As after the network between them was cut: the old session is there, and holds the lock."""
    owner = Owner("fake", A, os.urandom(6).hex())
    backend = postgresql.Postgresql(postgres.url(), owner)
    backend.prepare()
    backend.lock()
    left = backend._connection
    assert left is not None
    backend._connection, backend._locked = None, False
    with contextlib.closing(backend):
        backend.lock()
        assert backend._locked
    left.close()


def test_the_session_of_a_stranger_is_named(postgres: Cluster) -> None:
    owner = Owner("fake", A, os.urandom(6).hex())
    with contextlib.closing(postgres.connect()) as stranger:
        stranger.execute("SELECT pg_advisory_lock(%s)", (owner.number,))
        with contextlib.closing(postgresql.Postgresql(postgres.url(), owner)) as backend:
            backend.prepare()
            with pytest.raises(Unavailable, match=r"held by the session [0-9]+, '', since .*"):
                backend.lock()


# Commits of which nobody knows


@dataclass
class Uncertain(Lockless):
    """A backend whose next commit is done, or not, and not heard of; then it is away for a while."""

    done: bool = True
    away: int = 0
    armed: bool = False
    over: bool = False
    elsewhere: Callable[[], object] = lambda: None

    @contextlib.contextmanager
    def transaction(self, *, write: bool) -> Iterator[Transaction]:
        if self.away and self.over:
            self.away -= 1
            raise LostConnectionError("it is away")
        cuts = write and self.armed and not self.over
        self.over = self.over or cuts
        with self.real.transaction(write=False) as now:
            yield now
            if cuts and not self.done:
                raise UnknownCommitError("cut")
        if cuts:
            self.elsewhere()
            raise UnknownCommitError("cut")


def uncertain(place: Place, **said: Any) -> tuple[Uncertain, SqlKeystore]:
    owner = Owner("fake", A, "default")
    backend = Uncertain(place.backend(owner), **said)
    store = SqlKeystore.open(backend, owner, bound, "a place that goes away")
    store._ending.set()
    store._looker.join()
    store.replace(record(A, 1), None)
    backend.armed = True
    return backend, store


def test_a_commit_that_was_done_is_read_back(tmp_path: Path) -> None:
    _, store = uncertain(_sqlite(tmp_path), away=3)
    assert store.replace(record(A, 2), "dom.1") is True
    assert store.kept_names() == ["dom.1 (version 1)"]
    assert store.replace(record(A, 3), None) is True
    store.close()


def test_a_commit_that_was_not_done_is_told(tmp_path: Path) -> None:
    _, store = uncertain(_sqlite(tmp_path), done=False, away=1)
    with pytest.raises(Unavailable, match="Nothing was changed"):
        store.replace(record(A, 2), "dom.1")
    assert store.load() == record(A, 1)
    store.close()


def test_a_commit_that_was_undone_by_another(tmp_path: Path) -> None:
    place = _sqlite(tmp_path)
    add = "UPDATE rkeyserver_records SET version = 9"
    _, store = uncertain(place, elsewhere=lambda: place.run(add, ()))
    with pytest.raises(Unavailable, match="has version 9 by now"):
        store.replace(record(A, 2), None)
    store.close()


def test_a_commit_of_which_nothing_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "READ_BACK_SECONDS", 0.3)
    backend, store = uncertain(_sqlite(tmp_path), away=1000)
    with pytest.raises(Unavailable, match="holds the old record or the new one, whole"):
        store.replace(record(A, 2), "dom.1")
    backend.away = 0
    store.look()
    assert store.glance() == record(A, 2), "what it may have stored itself is no stranger's"
    store.close()


# Databases that are none


def test_another_schema(place: Place) -> None:
    place.open().close()
    place.run("UPDATE rkeyserver_schema SET version = 2", ())
    with pytest.raises(Corrupt, match=r"are of version 2; this program reads version 1") as raised:
        place.open()
    assert "Start the version of this program that made them" in raised.value.advice
    place.run("DELETE FROM rkeyserver_schema", ())
    with pytest.raises(Corrupt, match="are of version none"):
        place.open()


def _foreign(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as file, file:
        file.execute("CREATE TABLE other (a)")


WRONG_FILES: dict[str, tuple[Callable[[Path], object], type[RkeyError], str]] = {
    "an empty file": (Path.touch, Corrupt, "is empty; a database is wanted"),
    "no database": (lambda path: path.write_bytes(b"text" * 500), Corrupt, "file is not a database"),
    "a database of something else": (_foreign, Corrupt, "a database of something else"),
    "a folder": (Path.mkdir, Unavailable, "unable to open database file"),
    "a link that leads nowhere": (lambda path: path.symlink_to("no/where"), Corrupt, "which is not there"),
}


@pytest.mark.parametrize(("make", "kind", "says"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_a_file_that_is_no_database(
    tmp_path: Path, make: Callable[[Path], object], kind: type[RkeyError], says: str
) -> None:
    make(tmp_path / "rk.db")
    with pytest.raises(kind, match=says):
        _sqlite(tmp_path).open()


def test_a_database_that_goes_away_is_not_made_anew(tmp_path: Path) -> None:
    with contextlib.closing(_sqlite(tmp_path).open()) as store:
        store.replace(record(A, 1), None)
        (tmp_path / "rk.db").unlink()
        with pytest.raises(Unavailable, match="unable to open database file"):
            store.load()
        assert not (tmp_path / "rk.db").exists()


def test_a_database_that_another_is_writing_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "ANSWER_SECONDS", 0.2)
    with contextlib.closing(_sqlite(tmp_path).open()) as store:
        with contextlib.closing(sqlite3.connect(tmp_path / "rk.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(Unavailable, match="database is locked"):
                store.replace(record(A, 1), None)
        assert store.replace(record(A, 1), None) is False


def test_a_commit_that_fails_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(sqlite3.Connection):
        def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
            if statement == "COMMIT" and armed:
                raise sqlite3.OperationalError("disk I/O error")
            return super().execute(statement, *values)

    armed: list[int] = []
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *where, **how: connect(*where, factory=Failing, **how))
    with contextlib.closing(_sqlite(tmp_path).open()) as store:
        store.replace(record(A, 1), None)
        armed.append(1)
        threading.Timer(0.3, armed.clear).start()
        with pytest.raises(Unavailable, match=r"disk I/O error\. Nothing was changed"):
            store.replace(record(A, 2), None)
        assert store.load() == record(A, 1)
        (tmp_path / "other").mkdir()
        armed.append(1)
        with pytest.raises(Unavailable, match="Could not make the database"):
            _sqlite(tmp_path / "other").open()
        armed.clear()
    assert list((tmp_path / "other").iterdir()) == []


def test_two_that_make_the_database_at_once(tmp_path: Path) -> None:
    made = [sqlite.Sqlite(tmp_path / "rk.db", Owner("fake", A, name)) for name in ("a", "b")]
    for one in made:
        one._make()
        one.prepare()
    assert [path.name for path in tmp_path.iterdir()] == ["rk.db"]


def test_postgresql_that_cannot_be_used(postgres: Cluster) -> None:
    owner = Owner("fake", A, "default")
    cases: dict[str, tuple[str, type[RkeyError], str]] = {
        "no such database": (postgres.url("nowhere"), Unavailable, 'database "nowhere" does not exist'),
        "nobody there": ("postgresql://u@127.0.0.1:1/d", Unavailable, "Connection refused"),
        "a file that is missing": (postgres.url(passfile="/no", sslmode="verify-full"), Unavailable, "cannot be used"),
    }
    for url, kind, says in cases.values():
        with pytest.raises(kind, match=says):
            SqlKeystore.open(postgresql.Postgresql(url, owner), owner, bound, "it")
    name = postgres.database(f"rights_{os.urandom(6).hex()}").rpartition("/")[2]
    postgres.sql("CREATE ROLE " + name + " LOGIN", database="postgres")
    postgres.sql("REVOKE CREATE ON SCHEMA public FROM PUBLIC", database=name)
    weak = f"postgresql://{name}@127.0.0.1:{postgres.port}/{name}"
    with pytest.raises(Misuse, match="permission denied for schema public"):
        SqlKeystore.open(postgresql.Postgresql(weak, owner), owner, bound, "it")
    with (
        contextlib.closing(postgresql.Postgresql(weak, owner, reads=True)) as backend,
        pytest.raises(Misuse, match="no instance has used it yet"),
    ):
        backend.prepare()


def test_over_a_unix_socket(postgres: Cluster) -> None:
    place = Place(postgres.socket_url(instance=os.urandom(6).hex()), nothing)
    with contextlib.closing(place.open()) as store:
        store.replace(record(A, 1), None)
        assert store.load() == record(A, 1)


def test_a_server_that_loses_what_it_says_is_stored(postgres: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    url = postgres.database(f"fsync_{os.urandom(6).hex()}")
    name, owner = url.rpartition("/")[2], Owner("fake", A, "default")
    postgres.sql(f"ALTER DATABASE {name} SET synchronous_commit = off", database="postgres")
    backend = postgresql.Postgresql(url, owner)
    with contextlib.closing(backend):
        backend.prepare()
        with backend.transaction(write=False) as now:
            assert now.rows("SHOW synchronous_commit") == [("on",)]
        rows = postgresql._Now.rows

        def without_fsync(self: Any, statement: str, values: Any = ()) -> Any:
            return [("off",)] if statement == "SHOW fsync" else rows(self, statement, values)

        monkeypatch.setattr(postgresql._Now, "rows", without_fsync)
        with pytest.raises(Misuse, match="runs with fsync off"):
            backend.prepare()


def test_a_missing_driver_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(Misuse, match="needs psycopg and libpq") as raised:
        Place("postgresql://u@h/d", nothing).open()
    assert "Install rkeyserver[postgresql]" in raised.value.advice


# Reading without a key


def test_the_one_record_that_a_url_means(place: Place, store: SqlKeystore) -> None:
    filled(place, store)

    def read(more: str) -> bytes:
        found = parse_place(place.url + more)
        assert isinstance(found, Database)
        return databases.read_record(found, bound).record

    assert read("?machine=machine-a") == record(A, 3)
    assert read("?machine=machine-b") == record(B, 3)
    for more, says in {
        "": "2 records are at .*; one is wanted",
        "?machine=c": "0 records are at",
        "?instance=x": "0 records are at",
    }.items():
        with pytest.raises(Misuse, match=says) as raised:
            read(more)
        assert ("machine=machine-a, machine=machine-b" in raised.value.advice) is (more != "?instance=x")
    with pytest.raises(Misuse, match="says machine=machine-b; this is machine machine-a"):
        Place(place.url + "?machine=machine-b", place.run).open()


PAGE = ROOT / "docs" / "operations" / "postgresql.md"


def test_an_old_record_is_put_back_as_the_page_says(place: Place, store: SqlKeystore) -> None:
    filled(place, store)
    (block,) = re.findall(r"^    BEGIN;\n(.*?)^    COMMIT;$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    statements = [line.strip().removesuffix(";").replace("'ID'", f"'{A}'") for line in block.splitlines()]
    assert len(statements) == 2
    for statement in statements:
        place.run(re.sub(r"version = N\b", "version = 2", statement), ())
    assert store.load() == record(A, 2)
    assert store.kept_names() == ["put-aside (version 3)", "dom.2 (version 2)", "dom.1 (version 1)"]
    store.replace(record(A, 4), "dom.2")
    assert store.load() == record(A, 4)


SPEC = ROOT / "docs" / "spec" / "keystore-table.md"


def test_the_columns_are_those_of_the_specification(place: Place, store: SqlKeystore) -> None:
    assert store.load() is None
    rows = re.findall(r"^\| `(\w+)` \| (TEXT|BIGINT|BLOB)", SPEC.read_text(), re.MULTILINE)
    if place.url.startswith("sqlite"):
        found = place.run("SELECT name, type FROM pragma_table_info('rkeyserver_records')", ())
    else:
        columns = "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = %s"
        kinds = {"text": "TEXT", "bigint": "BIGINT", "bytea": "BLOB"}
        ordered = place.run(columns + " ORDER BY ordinal_position", ("rkeyserver_records",))
        found = [(name, kinds[kind]) for name, kind in ordered]
    assert found == rows
    parts = [b"rkeyserver/v1 keystore lock", b"fake", A.encode(), b"default"]
    digest = hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest()
    assert Owner("fake", A, "default").number == int.from_bytes(digest[:8], "big", signed=True)


def test_looking_makes_no_database(tmp_path: Path) -> None:
    place = parse_place(f"sqlite://{tmp_path}/rk.db")
    assert isinstance(place, Database)
    with pytest.raises(Misuse, match="There is no database"):
        databases.look_at(place, "fake", A, bound)
    assert list(tmp_path.iterdir()) == []


def test_looking_at_a_row_of_this_machine(place: Place, store: SqlKeystore) -> None:
    where = parse_place(place.url)
    assert isinstance(where, Database)
    assert databases.look_at(where, "fake", A, bound) is None
    filled(place, store)
    found = databases.look_at(where, "fake", A, bound)
    assert found is not None
    assert (found.record, [str(one) for one in found.kept]) == (record(A, 3), store.kept_names())
    assert found.ways_out(Fetch.OWN) == store.ways_out(Fetch.OWN)
    store.check_new()
