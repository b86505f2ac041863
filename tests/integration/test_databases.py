"""A keystore in a real database, under real processes: killed, hanging, full, restarted in the middle of a write."""

from __future__ import annotations

import contextlib
import io
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.fakes.postgres import Cluster, cluster_in
from tests.fakes.processes import DEADLINE, ROOT, Ended, Machine, Machines, environment, machines_in
from tests.fakes.sql_writer import number_of, opened

from rkeyserver.appraisal.change import propose
from rkeyserver.cli.inspect import inspect
from rkeyserver.cli.main import main
from rkeyserver.cli.recovery import show
from rkeyserver.errors import EXIT_STATUS, Corrupt, Misuse, Unavailable
from rkeyserver.keystore.place import parse_place

CORRUPT, MISUSE, UNAVAILABLE = EXIT_STATUS[Corrupt], EXIT_STATUS[Misuse], EXIT_STATUS[Unavailable]
DATABASES = ("SQLite", "PostgreSQL")
SEED = 20_261_126


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    with machines_in(tmp_path) as made:
        yield made


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a database for one test, without an instance."""
    if request.param == "SQLite":
        return f"sqlite://{tmp_path}/rkeyserver.db"
    cluster: Cluster = request.getfixturevalue("postgres")
    return cluster.database(f"test_{os.urandom(6).hex()}")


def words(machine: Machine, url: str) -> list[str]:
    """The options of an instance whose keystore is there."""
    beside = [*("--audit", str(machine.folder / "audit")), *("--socket", str(machine.folder / "socket"))]
    return ["--keystore", url, *beside]


def change(machine: Machine, number: int) -> Ended:
    """Change the policy by a remark, which stores a record."""
    now = httpx.get(f"http://{machine.ops}/v1/policy", trust_env=False, timeout=DEADLINE).json()
    new = f"{now['policy']}# {number}\n"
    document = propose(domain=now["domain"], sequence=now["change"] + 1, replaces=now["policy"], policy=new)
    path = machine.folder / "change.json"
    path.write_text(document.text())
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):  # the command, without a process for it
        status = main(["policy", "apply", "--ops", machine.ops, str(path)])
    return Ended(status, out.getvalue(), err.getvalue())


def serves(machine: Machine) -> bool:
    found = httpx.get(f"http://{machine.ops}/healthz", trust_env=False, timeout=DEADLINE).json()
    return bool(found["serving"])


def until_problem(machine: Machine, *, gone: bool = False) -> str:
    """Wait until status tells of a problem with the record, or of none any more."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        problem = str(machine.status()["record_problem"])
        if (not problem) is gone:
            return problem
        time.sleep(0.1)
    raise AssertionError(machine.status())


def test_two_machines_in_one_database(machines: Machines, url: str) -> None:
    host, backup = machines("host"), machines("backup")
    first = host.start(*words(host, url))
    domain = host.status()["domain"]
    second = backup.start(*words(backup, url), "-i", host.address)
    assert backup.status()["domain"] == domain
    # One process at a time, and it is named.
    beside = host.run(*words(host, url))
    assert beside.status == UNAVAILABLE
    assert f"The keystore is held by process {first.pid} on " in beside.err
    # Another instance on the same machine has a row of its own.
    other_place = words(host, f"{url}?instance=second")
    elsewhere = ["--listen", "127.0.0.1:0", "--ops", "127.0.0.1:0", "--domain", domain, "--socket", "s"]
    assert host.command(*host.platform_words(), *other_place, *elsewhere).status == MISUSE
    for running in (first, second):
        running.kill()
    backup.start(*words(backup, url))
    assert (backup.status()["domain"], backup.status()["record_problem"]) == (domain, "")
    assert backup.status()["ways_back"]["record"] == 1
    # Commands that read a record.
    machine_id = host.platform().attester_identity().machine
    with pytest.raises(Misuse, match="2 records are at") as raised:
        inspect(parse_place(url))
    assert f"machine={machine_id}" in raised.value.advice
    one = parse_place(f"{url}?machine={machine_id}")
    assert f"domain       {domain}" in inspect(one)
    assert "recovery     none" in show(one)
    looked = host.command("doctor", *words(host, url), *host.platform_words(), "--ops", host.ops, "--json")
    assert "the record opens here now" in looked.out
    # No second key, where a record was.
    lost = host.run(*words(host, f"{url}?instance=x"))
    assert (lost.status, "there was a keyring" in lost.err) == (CORRUPT, True)


def test_a_row_of_another_machine_is_found_out(machines: Machines, tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/rkeyserver.db"
    host, other = machines("host"), machines("other")
    host.start(*words(host, url)).stop()
    other.start(*words(other, url)).stop()
    ids = [one.platform().attester_identity().machine for one in (host, other)]
    _run(url, "UPDATE rkeyserver_records SET record = (SELECT o.record FROM rkeyserver_records o WHERE o.machine = ?)"
              " WHERE machine = ?", ids[1], ids[0])  # fmt: skip
    refused = host.run(*words(host, url))
    assert refused.status == CORRUPT
    assert f"the record in it says simulated {ids[1]}" in refused.err
    looked = host.command("doctor", *words(host, url), *host.platform_words(), "--ops", host.ops)
    assert f"the record in it says simulated {ids[1]}" in looked.out
    assert looked.status == CORRUPT


def _run(url: str, statement: str, *values: object) -> None:
    """Change a database behind everybody's back."""
    if url.startswith("sqlite"):
        import sqlite3  # noqa: PLC0415 - as the program has it

        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite://"))) as file, file:
            assert file.execute(statement, values).rowcount
        return
    import psycopg  # noqa: PLC0415 - as above

    with psycopg.connect(url) as connection:
        assert connection.execute(statement.replace("?", "%s").encode(), values).rowcount


def test_what_is_changed_under_a_running_server_is_told_and_served_on(machines: Machines, url: str) -> None:
    host = machines("host")
    host.start(*words(host, url))
    assert change(host, 1).status == 0
    changes = {
        "is another than this server stored": "UPDATE rkeyserver_records SET record = ?, domain = domain"
        " WHERE kept_as IS NULL",
        "is missing, but was there once": "DELETE FROM rkeyserver_records WHERE kept_as IS NULL",
    }
    for says, statement in changes.items():
        _run(url, statement, *([b"no record"] if "?" in statement else []))
        end = time.monotonic() + DEADLINE
        while says not in (problem := until_problem(host)):
            assert time.monotonic() < end, problem
            time.sleep(0.1)
        assert serves(host)
    refused = change(host, 2)
    assert (refused.status, "missing" in refused.err) == (CORRUPT, True), refused
    # Nothing is made anew, not with the audit file away either.
    host.started[-1].stop()
    (host.folder / "audit").unlink()
    assert host.run(*words(host, url)).status == CORRUPT


@pytest.mark.parametrize("kills", [6])
def test_a_writer_killed_at_any_moment(url: str, kills: int) -> None:
    chance = random.Random(SEED)  # noqa: S311 - the same each time
    command = [sys.executable, "-S", "-s", "-B", str(ROOT / "tests" / "fakes" / "sql_writer.py"), url, "0"]
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT), *(p for p in sys.path if p.endswith("site-packages"))])
    last = -1
    for _ in range(kills):
        with subprocess.Popen(command, env=environment(PYTHONPATH=path), stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            first = writer.stdout.readline()
            time.sleep(chance.random() / 5)
            writer.kill()
            said = [first, *writer.stdout.read().splitlines()]
        store = _opened_soon(url)
        found = store.load()
        assert found is not None
        number = number_of(found)
        assert number in (int(said[-1]), int(said[-1]) + 1), "what was said to be stored is gone, or torn"
        assert number > last
        assert 0 < len(store.kept_names()) <= 5 + 1
        last = number
        store.close()


def _opened_soon(url: str):  # type: ignore[no-untyped-def]  # noqa: ANN202 - as opened()
    """A server may notice a moment late that a client is gone."""
    end = time.monotonic() + 5
    while True:
        try:
            return opened(url)
        except Unavailable:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


# PostgreSQL dies, hangs, is full or read-only under a server that serves on.


@pytest.fixture
def host(machines: Machines, postgres: Cluster) -> Machine:
    """A server on a database of its own, as `postgres` has it."""
    machine = machines("host")
    url = postgres.database(f"test_{os.urandom(6).hex()}")
    (machine.folder / "url").write_text(url)
    machine.start(*words(machine, url))
    return machine


def again(machine: Machine) -> None:
    """Start it again, on what it had."""
    machine.start(*words(machine, (machine.folder / "url").read_text()))


def name_of(machine: Machine) -> str:
    """Of its database."""
    return (machine.folder / "url").read_text().rpartition("/")[2]


SLOW_COMMIT = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep({seconds}); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON rkeyserver_records DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION slow();
"""
WAITS = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = %s AND {} AND application_name LIKE 'rkeyserver/%%'"
MOMENTS = {
    "in a statement": "wait_event_type = 'Lock'",
    "in the COMMIT": "wait_event = 'PgSleep'",
}


def until_it_waits(postgres: Cluster, name: str, moment: str) -> None:
    """Wait until the server is at that moment of a write."""
    end = time.monotonic() + 5
    while not postgres.sql(WAITS.format(MOMENTS[moment]), (name,), database=name)[0][0]:
        assert time.monotonic() < end, "it never came to that moment"


@pytest.mark.parametrize("moment", MOMENTS)
def test_postgresql_killed_in_the_middle_of_a_write(host: Machine, postgres: Cluster, moment: str) -> None:
    name, before = name_of(host), host.status()
    with contextlib.ExitStack() as stack:
        if moment == "in the COMMIT":
            postgres.sql(SLOW_COMMIT.format(seconds=1.5), database=name)
        else:
            holder = stack.enter_context(contextlib.closing(postgres.connect(name)))
            holder.execute("BEGIN")
            holder.execute("LOCK TABLE rkeyserver_records IN EXCLUSIVE MODE")
        ended: list[Ended] = []
        changing = threading.Thread(target=lambda: ended.append(change(host, 1)))
        changing.start()
        until_it_waits(postgres, name, moment)
        postgres.kill()
        changing.join(DEADLINE)
    assert ended[0].status == UNAVAILABLE, ended
    assert "What is held in memory is served on" in ended[0].err or "was held in memory before" in ended[0].err
    assert serves(host)
    assert until_problem(host)
    postgres.start()
    if moment == "in the COMMIT":
        postgres.sql("DROP TRIGGER slow ON rkeyserver_records", database=name)
    until_problem(host, gone=True)
    # What could not be stored is not in force; and now it can be.
    assert host.status()["sequence"] == before["sequence"]
    assert change(host, 1).status == 0
    assert host.status()["sequence"] == before["sequence"] + 1


def test_postgresql_restarted_while_a_commit_is_on_its_way_is_read_back(host: Machine, postgres: Cluster) -> None:
    """A commit that is cut off and was not done, on a server that is there again at once."""
    name = name_of(host)
    postgres.sql(SLOW_COMMIT.format(seconds=1), database=name)
    ended: list[Ended] = []
    changing = threading.Thread(target=lambda: ended.append(change(host, 1)))
    changing.start()
    until_it_waits(postgres, name, "in the COMMIT")
    postgres.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND wait_event = 'PgSleep'",
        (name,),
        database="postgres",
    )
    changing.join(DEADLINE)
    assert (ended[0].status, "Nothing was changed" in ended[0].err) == (UNAVAILABLE, True), ended
    postgres.sql("DROP TRIGGER slow ON rkeyserver_records", database=name)
    assert change(host, 1).status == 0


def test_a_database_that_hangs_stops_nothing(host: Machine, postgres: Cluster) -> None:
    """SIGSTOP: connections are accepted by the kernel, and nothing answers."""
    slowest = 0.0
    stop = threading.Event()

    def watch() -> None:
        nonlocal slowest
        with httpx.Client(trust_env=False, timeout=DEADLINE) as client:
            while not stop.is_set():
                begun = time.monotonic()
                for path in ("healthz", "status", "metrics"):
                    assert client.get(f"http://{host.ops}/{path}").status_code == 200
                slowest = max(slowest, time.monotonic() - begun)
                time.sleep(0.02)

    watching = threading.Thread(target=watch)
    with postgres.stopped():
        watching.start()
        try:
            begun = time.monotonic()
            refused = change(host, 1)
            took = time.monotonic() - begun
            assert (refused.status, "has not answered for" in refused.err) == (UNAVAILABLE, True), refused
            assert "has not answered for" in until_problem(host)
            assert "rkeyserver_record_readable 0.0" in httpx.get(f"http://{host.ops}/metrics", trust_env=False).text
        finally:
            stop.set()
            watching.join()
    assert took < 12, "who asks for a change waits for a stated time; here beside other tests"
    assert slowest < 1.9, "who asks for anything else does not wait for the database"
    until_problem(host, gone=True)
    assert change(host, 1).status == 0


def test_a_database_that_may_not_be_written_to(host: Machine, postgres: Cluster) -> None:
    """As after a failover to a standby of PostgreSQL's: it is read, and a change says why it cannot be stored."""
    name = name_of(host)
    postgres.sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on", database="postgres")
    host.started[-1].kill()
    again(host)
    refused = change(host, 1)
    assert (refused.status, "read-only transaction" in refused.err) == (UNAVAILABLE, True), refused
    assert "docs/operations/postgresql.md has failover" in refused.err
    assert host.status()["record_problem"] == ""


def test_over_tls_with_a_password_in_a_file(machines: Machines, tmp_path: Path) -> None:
    """A cluster of its own, as the page has it: scram over TLS, the server's name verified."""
    machine = machines("host")
    with cluster_in() as cluster:
        key, certificate = cluster.data / "server.key", cluster.data / "server.crt"
        words_of = ["-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", *words_of]
        subprocess.run([*made, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
        for path in (key, certificate):
            os.chown(path, cluster.data.stat().st_uid, cluster.data.stat().st_gid)
        cluster.sql("ALTER ROLE rkeyserver PASSWORD 'of this test'")
        (cluster.data / "pg_hba.conf").write_text(
            "hostssl rkeyserver rkeyserver 127.0.0.1/32 scram-sha-256\nhost all admin 127.0.0.1/32 trust\n"
        )
        cluster.sql("ALTER SYSTEM SET ssl = on", database="postgres")
        cluster.restart()
        passwords = tmp_path / "pgpass"
        passwords.touch(mode=0o600)
        passwords.write_text("localhost:*:rkeyserver:rkeyserver:of this test\n")
        start = f"postgresql://rkeyserver@localhost:{cluster.port}/rkeyserver?"
        good = f"{start}sslmode=verify-full&sslrootcert={certificate}&passfile={passwords}"
        machine.start(*words(machine, good))
        assert machine.status()["record_problem"] == ""
        assert "of this test" not in machine.started[-1].err.text
        for url, says in {
            good.replace("verify-full", "disable"): "no pg_hba.conf entry",
            good.replace("localhost", "127.0.0.1"): "does not match host name",
            good.replace(str(passwords), "/dev/null"): "no password supplied",
        }.items():
            refused = machine.command("inspect", url)
            assert (refused.status, says in refused.err) == (UNAVAILABLE, True), refused


@contextlib.contextmanager
def tiny_disk(postgres: Cluster, name: str) -> Iterator[None]:
    """The table lies on a disk that is full: a real one as root, else the server says what it would say of it."""
    if os.geteuid() != 0:
        postgres.sql(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION USING ERRCODE = "
            "'53100', MESSAGE = 'could not extend file: No space left on device'; END $$; CREATE TRIGGER full_disk "
            "BEFORE INSERT ON rkeyserver_records FOR EACH ROW EXECUTE FUNCTION full_disk()",
            database=name,
        )
        yield
        postgres.sql("DROP TRIGGER full_disk ON rkeyserver_records", database=name)
        return
    folder = tempfile.mkdtemp(prefix="rk-full-")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k,mode=0700", "tmpfs", folder], check=True)
    try:
        data = postgres.data.stat()
        os.chown(folder, data.st_uid, data.st_gid)
        postgres.sql(f"CREATE TABLESPACE {name} LOCATION '{folder}'", database="postgres")
        postgres.sql(f"ALTER TABLE rkeyserver_records SET TABLESPACE {name}", database=name)
        fill = Path(folder) / "fill"
        with contextlib.suppress(OSError), fill.open("wb", buffering=0) as file:  # until it is full
            while True:
                file.write(bytes(4096))
        yield
        fill.unlink()
        assert postgres.sql("SELECT COUNT(*) FROM rkeyserver_records", database=name)
        postgres.sql("ALTER TABLE rkeyserver_records SET TABLESPACE pg_default", database=name)
        postgres.sql("CHECKPOINT", database=name)
        postgres.sql(f"DROP TABLESPACE {name}", database="postgres")
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
        Path(folder).rmdir()


def test_a_full_disk(host: Machine, postgres: Cluster) -> None:
    name = name_of(host)
    with tiny_disk(postgres, name):
        refused = next(ended for number in range(1, 20) if (ended := change(host, number)).status)
        assert refused.status == UNAVAILABLE, refused
        assert "No space left on device" in refused.err
        assert "Nothing was changed. Free some space" in refused.err
        assert serves(host)
    before = host.status()["sequence"]
    until_problem(host, gone=True)
    assert change(host, 99).status == 0
    assert host.status()["sequence"] == before + 1


def test_a_full_disk_under_sqlite(tmp_path: Path) -> None:
    """In a mount namespace of its own: root, or a kernel that lets users have them."""
    folder = tmp_path / "store"
    folder.mkdir()
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT), *(p for p in sys.path if p.endswith("site-packages"))])
    writer = f'{sys.executable} -S -s -B {ROOT}/tests/fakes/sql_writer.py "sqlite://$1/rk.db"'
    script = (
        f'set -e; mount -t tmpfs -o size=512k tmpfs "$1"; {writer} 8;'
        'dd if=/dev/zero of="$1/fill" bs=4096 status=none 2>/dev/null || true;'
        f'{writer} 40 || echo "status $?"; rm "$1/fill"; {writer} 1;'
        f'mount -o remount,ro "$1"; {writer} 1 || echo "status $?"'
    )
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    done = subprocess.run(
        [*unshare, "sh", "-c", script, "sh", str(folder)],
        env=environment(PYTHONPATH=path),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    said = done.stdout.split("\n")
    assert said[:8] == [str(number) for number in range(8)], done
    assert done.stdout.count(f"status {UNAVAILABLE}") == 2, done
    full, readonly = (line for line in done.stderr.split("\n") if line.startswith("Unavailable"))
    assert "database or disk is full" in full or "No space left" in full
    assert "Read-only file system" in readonly
    numbers = [int(word) for word in said if word.isdigit()]
    assert numbers == list(range(len(numbers))), "a record was lost, or stored that was said not to be"
