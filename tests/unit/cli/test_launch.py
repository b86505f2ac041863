"""What the launcher makes of an operator's arguments, and what it refuses before anything is started."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.gramine import Gramine

from rkeyserver.cli import launch, run_folder
from rkeyserver.cli.host_lock import host_lock
from rkeyserver.cli.main import COMMANDS
from rkeyserver.config import DEFAULT_KEYSTORE
from rkeyserver.enclave_options import parse
from rkeyserver.errors import Unavailable

DOMAIN = "0123456789abcdef" * 2
EXIT_MISUSE, EXIT_UNAVAILABLE, EXIT_CORRUPT = 2, 4, 5


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gramine:
    made = Gramine.made(tmp_path / "host", "exit", "0")
    for name in ("RUNTIME_DIRECTORY", "NOTIFY_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "state").mkdir()
    monkeypatch.chdir(tmp_path)
    return made


def started(host: Gramine, *words: str) -> dict[str, Any]:
    """How the enclave was started for these arguments."""
    assert launch.main(host.image, words) == 0
    return host.started()


TOLD: dict[str, tuple[list[str], dict[str, object]]] = {
    "nothing more": ([], {}),
    "hosts": (["-i", "10.0.0.1", "-i", "[fd00::2]:7", "-p", "9"], {"host": ["10.0.0.1:9", "[fd00::2]:7"]}),
    "peers": (["--peer", "10.0.0.3", "--peer", "[fd00::3]:7"], {"peer": ["10.0.0.3:8888", "[fd00::3]:7"]}),
    "a domain": (["--domain", DOMAIN], {"domain": DOMAIN}),
    "a wait": (["--wait", "0.5"], {"wait-ms": 500}),
    "the usual wait": (["--wait", "30"], {}),
    "once": (["-i", "a", "--once"], {"host": ["a:8888"], "once": True}),
    "a recovery": (
        ["--recover", "--domain", DOMAIN, "--change", "state/c.toml"],
        {"domain": DOMAIN, "recover": True, "change": "c.toml"},
    ),
    "listeners": (["--listen", ":1", "--listen", "[::1]:2"], {"listen": [":1", "[::1]:2"]}),
    "operations": (["--ops", "[::1]:1"], {"ops": "[::1]:1"}),
    "the platform": (["--platform", "sgx"], {}),
    "an audit file": (["--audit", "state/log/audit.jsonl"], {"audit": "log/audit.jsonl"}),
    "a PCCS": (
        ["--pccs", "https://pccs/v4/", "--pccs-ca", "state/ca.pem", "--collateral", "state/c.json"],
        {"pccs": "https://pccs/v4", "pccs-ca": "ca.pem", "collateral": "c.json"},
    ),
    "a place for applications": (["--provision", "[::1]:5"], {"provision": "[::1]:5"}),
    "a place for callers": (["--callers", "[::1]:6"], {"callers": "[::1]:6"}),
    "a coordinator": (
        [
            *("--coordinator", "etcds://a,b:7", "--lease", "9", "--coordinator-ca", "state/ca.pem"),
            *("--coordinator-cert", "state/c.pem", "--coordinator-key", "state/k.pem"),
        ],
        {
            "coordinator": "etcds://a:2379,b:7",
            "coordinator-ca": "ca.pem",
            "coordinator-cert": "c.pem",
            "coordinator-key": "k.pem",
            "lease": 9,
        },
    ),
    "a log level": (["--log-level", "debug"], {"log-level": "debug"}),
    "a configuration": (["--config", "c.toml"], {"host": ["b:8888"], "wait-ms": 5000}),
    "a configuration and more": (["--config", "c.toml", "-i", "c"], {"host": ["c:8888"], "wait-ms": 5000}),
}


@pytest.mark.parametrize(("words", "said"), TOLD.values(), ids=TOLD)
def test_the_enclave_is_told_what_the_operator_said(
    host: Gramine, tmp_path: Path, words: list[str], said: dict[str, object]
) -> None:
    (tmp_path / "c.toml").write_text('host = ["b"]\nwait = 5\n')
    (tmp_path / "state" / "log").mkdir()
    found = started(host, "--keystore", "state/rkey.bin", *words)
    assert json.loads(found["options"]) == {"command": "serve", "options": {"keystore": "rkey.bin"} | said}
    parse(found["options"].encode(), Path("/state"))
    assert found["argv"] == ["rkeyserver"]
    assert found["state"] == str(tmp_path / "state")


def test_the_folder_that_it_is_started_in(host: Gramine, tmp_path: Path) -> None:
    found = started(host, "--keystore", "state/rkey.bin")
    images = {one.name: str(one) for one in host.image.iterdir()}
    assert found["entries"] == images | {"state": str(tmp_path / "state"), "options.json": None}
    assert Path(found["cwd"]).parent == host.runtime / "rkeyserver"
    assert found["mode"] == 0o700
    assert (host.runtime / "rkeyserver").stat().st_mode & 0o777 == 0o700
    assert host.run_folders() == []
    assert found["in_state"] == ["rkey.bin.lock.host"]


def test_it_is_started_apart_from_the_terminal_and_with_descriptors(host: Gramine) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        found = started(host, "--keystore", "state/rkey.bin")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert found["ignored"] == [1, 2]
    assert found["starter"] == os.getpid()
    assert found["files"] == (8192 if hard == resource.RLIM_INFINITY else min(hard, 8192))


def test_the_other_commands(host: Gramine, tmp_path: Path) -> None:
    started(host, "doctor", "--keystore", "state/rkey.bin", "--json", "-i", "a", "--ops", "localhost:1")
    said = {"keystore": "rkey.bin", "host": ["a:8888"], "ops": "localhost:1", "json": True}
    assert host.options() == {"command": "doctor", "options": said}
    (tmp_path / "c.toml").write_text('listen = [":1"]\nlog-level = "debug"\nkeystore = "state/rkey.bin"\n')
    found = started(host, "doctor", "--config", "c.toml")
    assert host.options() == {"command": "doctor", "options": {"keystore": "rkey.bin"}}
    assert found["in_state"] == []
    found = started(host, "identity", "--config", "c.toml")
    assert host.options() == {"command": "identity", "options": {}}
    assert found["entries"]["state"] is None  # an empty folder
    assert found["in_state"] == []


def test_commands_without_a_machine_run_on_the_host(host: Gramine, capsys: pytest.CaptureFixture[str]) -> None:
    for name in set(COMMANDS) - {"doctor", "identity"}:
        with pytest.raises(SystemExit) as ended:
            launch.main(host.image, [name, "-h"])
        assert ended.value.code == 0
    assert launch.main(host.image, ["inspect", "none"]) == EXIT_MISUSE
    assert "no record at none" in capsys.readouterr().err
    assert not (host.folder / "started.json").exists()


@pytest.mark.parametrize("words", [["-h"], ["doctor", "-h"], ["identity", "--help"]])
def test_help_says_what_is_different(host: Gramine, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    with pytest.raises(SystemExit):
        launch.main(host.image, words)
    said = " ".join(capsys.readouterr().out.split())
    assert "--policy, --admins and --socket, --machine and other platforms are refused" in said


def test_a_link_is_followed_on_the_host(host: Gramine, tmp_path: Path) -> None:
    """Inside it could not be seen: the rename of a write would replace it."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "record").write_bytes(b"x")
    (tmp_path / "state" / "rkey.bin").symlink_to("../disk/record")
    found = started(host, "--keystore", "state/rkey.bin", "--audit", "disk/audit.jsonl")
    assert found["state"] == str(tmp_path / "disk")
    assert json.loads(found["options"])["options"] == {"keystore": "record", "audit": "audit.jsonl"}


def test_a_name_through_a_link_to_the_folder_is_in_the_folder(host: Gramine, tmp_path: Path) -> None:
    (tmp_path / "also").symlink_to("state")
    started(host, "--keystore", "state/rkey.bin", "--audit", "also/a.jsonl")
    assert host.options()["options"]["audit"] == "a.jsonl"


REFUSED: dict[str, tuple[list[str], int, str]] = {
    "a policy": (["--policy", "p"], EXIT_MISUSE, "--policy says what to accept"),
    "admins": (["--admins", "a"], EXIT_MISUSE, "--admins says whom to believe"),
    "a local socket": (["--socket", "s"], EXIT_MISUSE, "--socket is a socket of the host's"),
    "a machine": (["--machine", "m"], EXIT_MISUSE, "--machine is a simulated processor's folder"),
    "a simulated platform": (["--platform", "simulated"], EXIT_MISUSE, "whose platform is sgx"),
    "a TPM": (["--platform", "tpm"], EXIT_MISUSE, "whose platform is sgx"),
    "a policy in a configuration": (["--config", "policy.toml"], EXIT_MISUSE, "--policy says what to accept"),
    "an audit file elsewhere": (["--audit", "/var/log/a"], EXIT_MISUSE, "--audit /var/log/a is not in the keystore's"),
    "a CA elsewhere": (
        ["--pccs", "https://p", "--pccs-ca", "/etc/ca.pem"],
        EXIT_MISUSE,
        "--pccs-ca /etc/ca.pem is not in the keystore's folder",
    ),
    "a coordinator's key elsewhere": (
        ["--coordinator", "etcds://e", "--coordinator-cert", "state/c", "--coordinator-key", "/etc/k.pem"],
        EXIT_MISUSE,
        "--coordinator-key /etc/k.pem is not in the keystore's folder",
    ),
    "collateral one up": (["--collateral", "state/../c.json"], EXIT_MISUSE, "all that the enclave sees"),
    "a change through a link": (
        ["--recover", "--domain", DOMAIN, "--change", "state/out/c"],
        EXIT_MISUSE,
        "--change state/out/c is not in",
    ),
    "the folder itself": (["--audit", "state"], EXIT_MISUSE, "--audit is '.'; wanted is a name"),
    "a name with a space": (["--audit", "state/an audit"], EXIT_MISUSE, "--audit is 'an audit'; wanted is a name"),
    "a hidden name": (["--audit", "state/.audit"], EXIT_MISUSE, "--audit is '.audit'"),
    "a keystore with a space": (["--keystore", "state/a b"], EXIT_MISUSE, "--keystore is 'a b'"),
    "a keystore without a folder": (["--keystore", "none/rkey.bin"], EXIT_MISUSE, "has no folder"),
    "a keystore that is a folder": (["--keystore", ".."], EXIT_MISUSE, "names a folder"),
    "a keystore behind a link to nowhere": (["--keystore", "state/gone"], EXIT_CORRUPT, "which is not there"),
    "a keystore behind a link to no folder": (["--keystore", "state/unmounted"], EXIT_CORRUPT, "which is not there"),
    "a keystore in a loop": (["--keystore", "state/loop"], EXIT_CORRUPT, "loop of symbolic links"),
    "an unknown option": (["--insecure"], EXIT_MISUSE, "Unrecognized arguments"),
    "code": (["-c", "import os"], EXIT_MISUSE, "Unrecognized arguments"),
    "no address": (["-i", "a b"], EXIT_MISUSE, "is no address"),
    "a port without a host": (["-p", "1"], EXIT_MISUSE, "no host is given"),
    "a PCCS without TLS": (["--pccs", "http://p"], EXIT_MISUSE, "https only"),
    "too many hosts": (["-i", "a"] * 65, EXIT_MISUSE, "--host is"),
}


@pytest.mark.parametrize(("words", "status", "says"), REFUSED.values(), ids=REFUSED)
def test_what_the_enclave_would_not_take_is_refused_on_the_host(  # noqa: PLR0917 - pytest's
    host: Gramine, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], status: int, says: str
) -> None:
    (tmp_path / "policy.toml").write_text('policy = "p"\n')
    state = tmp_path / "state"
    for name, target in {"out": "..", "gone": "../none", "unmounted": "../no/disk", "loop": "loop"}.items():
        (state / name).symlink_to(target)
    before = sorted(tmp_path.rglob("*"))
    # Of an option said twice the last counts.
    assert launch.main(host.image, ["--keystore", "state/rkey.bin", *words]) == status
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_to_nowhere_is_a_place_to_fetch_to(host: Gramine, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "state" / "rkey.bin").symlink_to("../disk/record")
    assert started(host, "--keystore", "state/rkey.bin", "-i", "a")["state"] == str(tmp_path / "disk")


def without_gramine(host: Gramine, _patch: pytest.MonkeyPatch) -> None:
    (host.bin / "gramine-sgx").unlink()


def without_a_manifest(host: Gramine, _patch: pytest.MonkeyPatch) -> None:
    (host.image / "rkeyserver.manifest.sgx").unlink()


def without_a_place(_host: Gramine, patch: pytest.MonkeyPatch) -> None:
    patch.delenv("XDG_RUNTIME_DIR")
    patch.setattr(os, "geteuid", lambda: 1000)


def with_a_place_of_everybodys(host: Gramine, _patch: pytest.MonkeyPatch) -> None:
    (host.runtime / "rkeyserver").mkdir()
    (host.runtime / "rkeyserver").chmod(0o777)


def with_a_place_that_is_a_file(host: Gramine, _patch: pytest.MonkeyPatch) -> None:
    (host.runtime / "rkeyserver").write_text("")


def with_a_place_that_is_not_there(host: Gramine, _patch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(host.runtime)


def with_a_program_that_is_none(host: Gramine, _patch: pytest.MonkeyPatch) -> None:
    (host.bin / "gramine-sgx").write_bytes(b"\x7fELF")


def with_a_lock_that_is_none(host: Gramine, _patch: pytest.MonkeyPatch) -> None:
    (host.folder.parent / "state" / "rkey.bin.lock.host").mkdir()


NOT_HERE: dict[str, tuple[Callable[[Gramine, pytest.MonkeyPatch], None], int, str]] = {
    "no Gramine": (without_gramine, EXIT_MISUSE, "Install Gramine"),
    "no manifest": (without_a_manifest, EXIT_MISUSE, "`make enclave` makes it"),
    "no folder to run in": (without_a_place, EXIT_MISUSE, "XDG_RUNTIME_DIR is not set"),
    "a folder that others write to": (with_a_place_of_everybodys, EXIT_MISUSE, "Others than user"),
    "a folder that is a file": (with_a_place_that_is_a_file, EXIT_UNAVAILABLE, "cannot be made"),
    "a folder below nothing": (with_a_place_that_is_not_there, EXIT_UNAVAILABLE, "cannot be made"),
    "a program that is none": (with_a_program_that_is_none, EXIT_UNAVAILABLE, "cannot be started"),
    "a lock that is a folder": (with_a_lock_that_is_none, EXIT_UNAVAILABLE, "Could not lock"),
}


@pytest.mark.parametrize(("makes", "status", "says"), NOT_HERE.values(), ids=NOT_HERE)
def test_where_it_cannot_be_started_it_says_what_to_do(  # noqa: PLR0917 - pytest's
    host: Gramine,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    makes: Callable[[Gramine, pytest.MonkeyPatch], None],
    status: int,
    says: str,
) -> None:
    makes(host, monkeypatch)
    assert launch.main(host.image, ["--keystore", "state/rkey.bin"]) == status
    err = capfd.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    assert host.run_folders() == []


def test_where_run_folders_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service, user = tmp_path / "run" / "rkeyserver", tmp_path / "user"
    service.mkdir(parents=True)
    user.mkdir()
    given = {"RUNTIME_DIRECTORY": f"{service}:{tmp_path / 'other'}", "XDG_RUNTIME_DIR": str(user)}
    assert run_folder.parent(given) == service
    assert run_folder.parent({"XDG_RUNTIME_DIR": str(user)}) == user / "rkeyserver"
    monkeypatch.setattr(Path, "mkdir", lambda *_args, **_more: None)
    root = os.stat_result((0o40700, 0, 0, 1, 0, 0, 0, 0, 0, 0))
    monkeypatch.setattr(Path, "stat", lambda _path: root)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert run_folder.parent({}) == Path("/run/rkeyserver")


@pytest.mark.parametrize(("plays", "status"), [(("exit", str(one)), one) for one in (0, 1, 2, 3, 4, 5, 255)])
def test_it_ends_as_the_enclave_ends(host: Gramine, plays: tuple[str, ...], status: int) -> None:
    host.will(*plays)
    assert launch.main(host.image, ["--keystore", "state/rkey.bin"]) == status


@pytest.mark.parametrize("number", [9, 11, 15])
def test_it_ends_as_a_shell_does_where_a_signal_ended_it(host: Gramine, number: int) -> None:
    host.will("kill", str(number))
    assert launch.main(host.image, ["--keystore", "state/rkey.bin"]) == 128 + number


def test_what_a_killed_one_left_is_removed_and_nothing_behind_its_links(host: Gramine, tmp_path: Path) -> None:
    record = tmp_path / "state" / "rkey.bin"
    record.write_bytes(b"a record")
    left = host.runtime / "rkeyserver" / "run-left"
    left.mkdir(parents=True)
    (host.runtime / "rkeyserver").chmod(0o700)
    (left / "state").symlink_to(record.parent)
    (left / "enclave").symlink_to(host.image / "enclave")
    (left / "options.json").write_text("{}")
    with run_folder.run_folder(host.runtime / "rkeyserver", host.image, record.parent, b"{}") as (other, _lock):
        started(host, "--keystore", "state/rkey.bin")
        assert host.run_folders() == [other]
    assert host.run_folders() == []
    assert record.read_bytes() == b"a record"
    assert (host.image / "enclave" / "start.py").exists()


def test_a_signal_that_comes_while_it_is_started_stops_it(host: Gramine, monkeypatch: pytest.MonkeyPatch) -> None:
    host.will("wait")
    start = subprocess.Popen

    def told_before(*given: Any, **more: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return start(*given, **more)

    monkeypatch.setattr(subprocess, "Popen", told_before)
    before = signal.getsignal(signal.SIGTERM)
    # The fake may not have said yet what it does when it is told: then the signal ends it.
    assert launch.main(host.image, ["--keystore", "state/rkey.bin"]) in {7, 128 + signal.SIGTERM}
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_folder_that_cannot_be_filled_is_removed(host: Gramine, tmp_path: Path) -> None:
    with (
        pytest.raises(Unavailable, match="cannot be made: No such file"),
        run_folder.run_folder(host.runtime, tmp_path / "no-image", None, b"{}"),
    ):
        pass
    assert list(host.runtime.iterdir()) == []


def test_a_file_system_without_locks_is_named(
    host: Gramine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_locks(_fd: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert launch.main(host.image, ["--keystore", "state/rkey.bin"]) == EXIT_UNAVAILABLE
    assert "gives no locks" in capsys.readouterr().err


def test_a_note_that_is_none_is_not_shown(host: Gramine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with host_lock(tmp_path / "state" / "rkey.bin"):
        (tmp_path / "state" / "rkey.bin.lock.host").write_bytes(b"\x1b[2Jpid 1 on host\xff" * 100)
        assert launch.main(host.image, ["--keystore", "state/rkey.bin"]) == EXIT_UNAVAILABLE
    assert "the launcher with no note or its enclave" in capsys.readouterr().err


def test_the_usual_keystore_is_the_ordinary_one(host: Gramine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def resolved(path: Path) -> Path:
        asked.append(path)
        return host.folder / "rkey.bin"

    monkeypatch.setattr(launch, "resolve", resolved)
    started(host)
    assert asked == [DEFAULT_KEYSTORE]
