"""The unit file and what is shipped with it: systemd finds no fault in them, and they say what the program takes."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest
from tests.integration.test_tokens import TOKEN, base, entry

from rkeyserver.cli import serve
from rkeyserver.client import Client
from rkeyserver.config import DEFAULT_SOCKET, Config, Options, check_options, make_config, read_file
from rkeyserver.errors import EXIT_STATUS, Corrupt, Misuse

ROOT = Path(__file__).parents[2]
PACKAGING = ROOT / "packaging"
UNIT = PACKAGING / "rkeyserver.service"
TOML = PACKAGING / "rkeyserver.toml"
PROGRAM = "/opt/rkeyserver/rkeyserver/rkeyserver"
MOST_EXPOSED = 2.0  # of 10; systemd calls all below 2 well protected, and what is left is the network it serves
DEADLINE = 30


def directives() -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for line in UNIT.read_text().splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found[name].append(value)
    return found


def one(name: str) -> str:
    (value,) = directives()[name]
    return value


def command() -> list[str]:
    return shlex.split(one("ExecStart"))


def installed(folder: Path, text: str) -> Path:
    """The unit as on a machine that has the program and its configuration."""
    program = folder / "rkeyserver"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = folder / "rkeyserver.service"
    unit.write_text(text.replace(PROGRAM, str(program)))
    return unit


def analyze(*words: str | Path) -> tuple[int, str]:
    done = subprocess.run(
        ["systemd-analyze", "--no-pager", *words],
        env=os.environ | {"LC_ALL": "C.UTF-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    return done.returncode, done.stdout


def test_systemd_finds_no_fault(tmp_path: Path) -> None:
    assert analyze("verify", "--man=no", installed(tmp_path, UNIT.read_text())) == (0, "")


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        pytest.param("RestrictRealtime=", "RestrictRealtimes=", "Unknown key", id="a misspelt directive"),
        pytest.param("UMask=0077", "UMask=none", "Failed to parse", id="a value that is none"),
        pytest.param("~@privileged", "~@priviledged", "nknown", id="a set of system calls that is none"),
        pytest.param(PROGRAM, "/nowhere/rkeyserver", "not executable", id="no program"),
    ],
)
def test_systemd_would_find_a_fault(tmp_path: Path, right: str, wrong: str, complaint: str) -> None:
    text = UNIT.read_text()
    assert right in text
    _, said = analyze("verify", "--man=no", installed(tmp_path, text.replace(right, wrong)))
    assert complaint in said


def test_exposure(tmp_path: Path) -> None:
    _, said = analyze("security", "--offline=yes", installed(tmp_path, UNIT.read_text()))
    found = re.search(r"Overall exposure level for rkeyserver\.service: ([0-9.]+)", said)
    assert found, said
    assert float(found[1]) <= MOST_EXPOSED, said


def test_command_line_is_one_that_the_program_takes() -> None:
    program, *words = command()
    given = vars(serve.parser().parse_args(words))
    assert program == PROGRAM
    assert Path(given.pop("config")) == Path("/etc") / TOML.name
    config = make_config(Options(), check_options(given))
    state = Path("/var/lib") / one("StateDirectory")
    assert isinstance(config.keystore, Path)
    for path in (config.keystore, config.audit_path, config.machine):
        assert path.is_relative_to(state), "all else is read-only to the service"
    assert config.socket_path == DEFAULT_SOCKET, "commands ask there"
    assert config.socket_path.parent == Path("/run") / one("RuntimeDirectory")
    assert config.hosts == ()


def test_service_manager_waits_longer_than_a_standby_asks() -> None:
    minutes = re.fullmatch(r"(\d+)min", one("TimeoutStartSec"))
    assert minutes
    assert int(minutes[1]) * 60 > 2 * Config().wait


def test_no_restart_after_what_a_restart_cannot_help() -> None:
    wanted = {EXIT_STATUS[kind] for kind in (Misuse, Corrupt)}
    assert {int(status) for status in one("RestartPreventExitStatus").split()} == wanted
    assert one("Restart") == "on-failure"


def test_the_kernel_can_name_callers_and_they_can_reach_it() -> None:
    assert "PrivateUsers" not in directives(), "users outside of the namespace would all be 65534"
    assert one("RuntimeDirectoryMode") == "0755"


def test_key_memory_is_allowed() -> None:
    allowed = " ".join(value for value in directives()["SystemCallFilter"] if not value.startswith("~")).split()
    assert "memfd_secret" in allowed
    assert "prlimit64" in allowed, "without it the process cannot forbid its own core dumps"
    assert one("LimitCORE") == "0"


def test_user(tmp_path: Path) -> None:
    conf = PACKAGING / "rkeyserver.sysusers.conf"
    kind, user, _number, _name, home, _shell = shlex.split(
        next(line for line in conf.read_text().splitlines() if line and not line.startswith("#"))
    )
    assert (kind, user, home) == ("u", one("User"), f"/var/lib/{one('StateDirectory')}")
    assert one("Group") == user
    done = subprocess.run(
        ["systemd-sysusers", "--dry-run", f"--root={tmp_path}", "-"],
        input=conf.read_text(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stdout
    assert f"'{user}'" in done.stdout


def examples() -> str:
    """The shipped configuration with every option said."""
    return re.sub(r"^#(?=[a-z-]+ = )", "", TOML.read_text(), flags=re.MULTILINE)


def test_configuration_as_shipped_says_nothing() -> None:
    assert make_config(read_file(TOML), Options()) == Config()


def test_configuration_names_every_option(tmp_path: Path) -> None:
    said = tmp_path / "said.toml"
    said.write_text(examples())
    make_config(read_file(said), Options())
    every = {name.replace("_", "-") for name in Options.__struct_fields__}
    assert set(tomllib.loads(examples())) == every - {"keystore", "once", "recover", "change"}


@pytest.mark.parametrize("name", ["port", "wait", "listen", "ops", "machine", "log-level"])
def test_configuration_shows_the_defaults(tmp_path: Path, name: str) -> None:
    said = tmp_path / "said.toml"
    said.write_text("\n".join(line for line in examples().splitlines() if line.startswith(f"{name} = ")))
    assert said.read_text()
    more = Options(host=["host"]) if name == "port" else Options()  # it is that of the hosts
    assert make_config(read_file(said), more) == make_config(Options(), more)


@contextlib.contextmanager
def service(folder: Path, toml: str = "", under: Sequence[str] = ()) -> Iterator[None]:
    """The unit's own command line, with only its paths and ports changed, until it is ready, and then stopped cleanly.

    What it logs is in folder/log. toml: more of the configuration; under: a command that runs it.
    """
    state = folder / "state"
    state.mkdir(mode=0o700, parents=True)
    said = folder / TOML.name
    said.write_text(
        f'platform = "simulated"\nmachine = "{state / "machine"}"\nlisten = ["127.0.0.1:0"]\nops = "127.0.0.1:0"\n'
        + toml
    )
    moved = {
        "/var/lib/rkeyserver/rkey.bin": str(state / "rkey.bin"),
        f"/etc/{TOML.name}": str(said),
        str(DEFAULT_SOCKET): str(state / "local.socket"),
    }
    words = [moved.get(word, word) for word in command()[1:]]
    assert not [word for word in words if word.startswith(("/etc", "/var", "/run"))]
    environment = {"NOTIFY_SOCKET": str(folder / "notify"), "PYTHONPATH": str(ROOT / "src")}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, (folder / "log").open("wb") as log:
        manager.bind(str(folder / "notify"))
        manager.settimeout(DEADLINE)
        program = [*under, sys.executable, "-m", "rkeyserver", *words]
        with subprocess.Popen(program, env=environment, stderr=log) as process:
            pid = process.pid
            try:
                until = time.monotonic() + DEADLINE
                while not select.select([manager], [], [], 0.1)[0]:
                    assert process.poll() is None, (folder / "log").read_text()
                    assert time.monotonic() < until, (folder / "log").read_text()
                assert manager.recv(256) == b"READY=1"
                if under:
                    (pid,) = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
                yield
                os.kill(pid, signal.SIGTERM)
                assert manager.recv(256) == b"STOPPING=1"
                assert process.wait(DEADLINE) == 0
            finally:
                if process.poll() is None:
                    os.kill(pid, signal.SIGKILL)


def said_port(folder: Path, what: str) -> int:
    """The port in a line of the log."""
    found = re.search(rf"{what}.*?127\.0\.0\.1:(\d+)", (folder / "log").read_text())
    assert found
    return int(found[1])


def call(folder: Path) -> None:
    """As a program on the machine, and as one with a token."""
    answer = httpx.get(f"http://127.0.0.1:{said_port(folder, 'operations on')}/provision-ca", trust_env=False)
    ca = folder / "ca.pem"
    ca.write_text(answer.raise_for_status().text)
    there = f"https://127.0.0.1:{said_port(folder, 'Answering callers')}"
    with Client([f"unix:{folder / 'state' / 'local.socket'}"]) as local, Client([there], ca=ca, token=TOKEN) as remote:
        for client in (local, remote):
            client.derive("db/orders").secret.close()
            with client.unwrap("db/orders", client.wrap("db/orders", b"a secret").wrapped) as secret:
                assert secret.view.tobytes() == b"a secret"


def test_command_line_runs_and_tells_the_service_manager(tmp_path: Path) -> None:
    with service(tmp_path):
        assert (tmp_path / "state" / "rkey.bin").stat().st_mode & 0o777 == 0o600


def calls_of(words: list[str]) -> set[str]:
    """The system calls that a SystemCallFilter= names, its sets opened."""
    found: set[str] = set()
    for word in words:
        if not word.startswith("@"):
            found.add(word)
            continue
        status, said = analyze("syscall-filter", word)
        assert status == 0, said
        lines = [line.strip() for line in said.splitlines()[1:]]
        found |= calls_of([line for line in lines if line and not line.startswith("#")])
    return found


def allowed_calls() -> set[str]:
    allowed: set[str] = set()
    for value in directives()["SystemCallFilter"]:
        if value.startswith("~"):
            allowed -= calls_of(value[1:].split())
        else:
            allowed |= calls_of(value.split())
    return allowed


def test_nothing_that_it_does_is_forbidden_by_the_unit(tmp_path: Path) -> None:
    """Without systemd as process 1: what a primary and a standby ask of the kernel, against what the unit allows."""
    refused = "io_uring_setup"  # what uvloop tries and does without; here it is refused as the filter refuses it
    trace = ["strace", "-f", "-s", "0", f"--inject={refused}:error=EPERM", "-o"]
    first, second = tmp_path / "first", tmp_path / "second"
    primary = tmp_path / "primary"
    (tmp_path / "policy.toml").write_text(base() + entry())
    callers = 'callers = "127.0.0.1:0"\n'
    with service(primary, f'policy = "{tmp_path / "policy.toml"}"\n{callers}', under=[*trace, str(first)]):
        call(primary)
        host = f'host = ["127.0.0.1:{said_port(primary, "Serving as")}"]\n{callers}'
        with service(tmp_path / "standby", host, under=[*trace, str(second)]):
            pass
    text = first.read_text() + second.read_text()
    used = set(re.findall(r"^\d+ +(\w+)\(", text, re.MULTILINE))
    assert "memfd_secret" in used, "nothing that this test is about was traced"
    assert used - allowed_calls() <= {refused}
    families = set(re.findall(r" socket(?:pair)?\((AF_\w+)", text))
    assert families <= set(one("RestrictAddressFamilies").split())
    # MemoryDenyWriteExecute=
    assert not re.findall(r"mprotect\(.*PROT_EXEC.*|mmap\(.*PROT_WRITE\|PROT_EXEC.*", text)
