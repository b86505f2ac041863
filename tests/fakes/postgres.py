"""A real PostgreSQL cluster of the test's own, on loopback and a Unix socket, that can be killed, stopped and filled.

initdb refuses root: as root the cluster runs as `postgres`, or as `nobody` where there is no such user. fsync is on.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg

from tests.fakes.processes import reserve

SUPERUSER: Final = "admin"
USER: Final = "rkeyserver"
DEADLINE: Final = 30.0
_CONFIGURATION: Final = """
fsync = on
full_page_writes = on
listen_addresses = '127.0.0.1'
max_connections = 20
shared_buffers = 1MB
max_wal_size = 32MB
min_wal_size = 32MB
autovacuum = off
jit = off
"""


def binaries() -> Path:
    """The folder of the newest PostgreSQL that is installed (Debian 12 has 15, Debian 13 has 17)."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    assert found, "PostgreSQL is missing: tools/install-test-tools installs it"
    return found[-1].parent


def _user() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    names = {one.pw_name for one in pwd.getpwall()}
    who = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    return {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}


@dataclass
class Cluster:
    """One cluster; made by cluster_in()."""

    folder: Path
    data: Path
    _held: Any = field(default_factory=reserve, repr=False)
    _server: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    @property
    def port(self) -> int:
        return int(self._held.getsockname()[1])

    def url(self, database: str = USER, **said: str) -> str:
        """Of a database, for --keystore, over TCP."""
        more = "&".join(f"{name}={value}" for name, value in said.items())
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}" + (f"?{more}" if more else "")

    def socket_url(self, **said: str) -> str:
        """The same over the Unix socket."""
        more = "".join(f"&{name}={value}" for name, value in said.items())
        return f"postgresql:///{USER}?host={self.folder}&port={self.port}&user={USER}{more}"

    def connect(self, database: str = USER, user: str = SUPERUSER) -> psycopg.Connection[Any]:
        return psycopg.connect(
            f"postgresql://{user}@127.0.0.1:{self.port}/{database}", autocommit=True, connect_timeout=5
        )

    def sql(self, statement: str, values: Any = None, *, database: str = USER, user: str = SUPERUSER) -> list[Any]:
        """Run one statement; its rows."""
        with contextlib.closing(self.connect(database, user)) as connection:
            done = connection.execute(statement.encode(), values)
            return done.fetchall() if done.description else []

    def database(self, name: str) -> str:
        """A new, empty database; its URL."""
        self.sql(f"CREATE DATABASE {name} OWNER {USER}", database="postgres")
        return self.url(name)

    def processes(self) -> list[int]:
        """The server, and every process of its."""
        assert self._server is not None
        return [self._server.pid, *_children(self._server.pid)]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all of them."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """It hangs: nothing of it runs."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """End all of it as a power failure does."""
        assert self._server is not None
        self.signal(signal.SIGKILL)
        self._server.wait(DEADLINE)
        self._server = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        for _ in range(100):  # what of it was killed may not be gone yet
            with (self.folder / "log").open("ab") as log:
                self._server = subprocess.Popen(
                    [str(binaries() / "postgres"), "-D", str(self.data), "-p", str(self.port)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.folder,
                    env=_environment(),
                    **_user(),
                )
            end = time.monotonic() + DEADLINE
            while self._server.poll() is None:
                with contextlib.suppress(psycopg.OperationalError):
                    self.connect("postgres").close()
                    return
                assert time.monotonic() < end, "PostgreSQL does not start:\n" + (self.folder / "log").read_text()
                time.sleep(0.02)
            time.sleep(0.1)
        raise AssertionError("PostgreSQL does not start:\n" + (self.folder / "log").read_text())

    def restart(self) -> None:
        """Kill it and start it again: it recovers from its log."""
        self.kill()
        self.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.send_signal(signal.SIGQUIT)
            self._server.wait(DEADLINE)
            self._server = None
        self._held.close()


def _environment() -> Mapping[str, str]:
    return {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}


def _children(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            match = re.match(r"([0-9]+) \(.*\) . ([0-9]+) ", path.read_text())
            if match and int(match[2]) == parent:
                found.append(int(match[1]))
    return found


@contextlib.contextmanager
def cluster_in(data_in: Path | None = None) -> Iterator[Cluster]:
    """A cluster that runs. data_in: where its data goes, None for a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="rk-pg-"))  # a socket's path has to be short
    cluster = Cluster(folder, (data_in or folder) / "data")
    try:
        user = _user()
        if user:
            for one in {folder, data_in or folder}:
                os.chown(one, user["user"], user["group"])
        words = ["--auth=trust", f"--username={SUPERUSER}", "--no-sync", "--no-locale", "--encoding=UTF8"]
        subprocess.run(
            [str(binaries() / "initdb"), "-D", str(cluster.data), *words, "--wal-segsize=1"],
            check=True,
            capture_output=True,
            cwd=folder,
            env=_environment(),
            timeout=DEADLINE,
            **user,
        )
        with (cluster.data / "postgresql.conf").open("a") as file:
            file.write(_CONFIGURATION + f"unix_socket_directories = '{folder}'\n")
        cluster.start()
        cluster.sql(f"CREATE ROLE {USER} LOGIN", database="postgres")
        cluster.sql(f"CREATE DATABASE {USER} OWNER {USER}", database="postgres")
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)
