"""The unit file for SGX: systemd finds no fault, and it allows what the launcher and Gramine need and little else."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
from tests.packaging.said import PACKAGING, PROGRAM, STATE, check_paths, configured

from rkeyserver.config import DEFAULT_SOCKET, Config
from rkeyserver.errors import EXIT_STATUS, Corrupt, Misuse

UNIT = PACKAGING / "rkeyserver-sgx.service"
OTHER = PACKAGING / "rkeyserver.service"
MOST_EXPOSED = (
    2.5  # of 10: what the other unit has, a /dev that is not private, and memory that is written and executed
)


def directives(path: Path = UNIT) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for line in path.read_text().splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found[name].append(value)
    return found


def one(name: str) -> str:
    (value,) = directives()[name]
    return value


def analyze(*words: str | Path) -> tuple[int, str]:
    done = subprocess.run(
        ["systemd-analyze", "--no-pager", *words],
        env=os.environ | {"LC_ALL": "C.UTF-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=30,
    )
    return done.returncode, done.stdout


def installed(folder: Path, text: str) -> Path:
    """The unit as on a machine that has the program."""
    program = folder / "rkeyserver"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = folder / "rkeyserver.service"
    unit.write_text(text.replace(PROGRAM, str(program)))
    return unit


def test_systemd_finds_no_fault(tmp_path: Path) -> None:
    assert analyze("verify", "--man=no", installed(tmp_path, UNIT.read_text())) == (0, "")


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        pytest.param("DevicePolicy=closed", "DevicePolicy=shut", "Failed to parse", id="a value that is none"),
        pytest.param("AssertPathExists=", "AssertPathExist=", "Unknown key", id="a misspelt directive"),
    ],
)
def test_systemd_would_find_a_fault(tmp_path: Path, right: str, wrong: str, complaint: str) -> None:
    _, said = analyze("verify", "--man=no", installed(tmp_path, UNIT.read_text().replace(right, wrong)))
    assert complaint in said


def test_exposure(tmp_path: Path) -> None:
    _, said = analyze("security", "--offline=yes", installed(tmp_path, UNIT.read_text()))
    found = re.search(r"Overall exposure level for rkeyserver\.service: ([0-9.]+)", said)
    assert found, said
    assert float(found[1]) <= MOST_EXPOSED, said


def test_device_and_group() -> None:
    assert one("DeviceAllow") == "/dev/sgx_enclave rw"
    assert one("DevicePolicy") == "closed"
    assert one("PrivateDevices") == "no"
    assert one("SupplementaryGroups") == "sgx"
    assert one("AssertPathExists") == "/dev/sgx_enclave"
    assert "aesmd.service" in one("After").split()


def test_what_gramine_needs_is_not_forbidden() -> None:
    assert "AF_UNIX" in one("RestrictAddressFamilies").split(), "aesmd's socket"
    assert not {"MemoryDenyWriteExecute", "ProcSubset", "NoExecPaths"} & set(directives())
    denied = " ".join(value for value in directives()["SystemCallFilter"] if value.startswith("~"))
    assert "@resources" not in denied, "the launcher raises its limit of open files"


def test_command_line_is_that_of_the_other_unit() -> None:
    (other,) = directives(OTHER)["ExecStart"]
    # In an enclave there is no local socket, and the other unit's is refused.
    assert directives()["ExecStart"] == [other.replace(f"--socket {DEFAULT_SOCKET} ", "")]
    assert str(DEFAULT_SOCKET) in other
    program, *words = shlex.split(one("ExecStart"))
    assert program == PROGRAM
    words = words[: words.index("--config")]
    config = configured(words)
    check_paths(config)
    assert Path("/var/lib") / one("StateDirectory") == STATE


def test_service_manager_waits_longer_than_a_standby_asks() -> None:
    minutes = re.fullmatch(r"(\d+)min", one("TimeoutStartSec"))
    assert minutes
    assert int(minutes[1]) * 60 > 2 * Config().wait


def test_no_restart_after_what_a_restart_cannot_help() -> None:
    wanted = {EXIT_STATUS[kind] for kind in (Misuse, Corrupt)}
    assert {int(status) for status in one("RestartPreventExitStatus").split()} == wanted


def test_whatever_the_other_unit_forbids_and_gramine_does_not_need_is_forbidden_here() -> None:
    for_gramine = {
        *("MemoryDenyWriteExecute", "ProcSubset", "PrivateDevices", "SystemCallFilter", "LimitMEMLOCK"),
        "MemorySwapMax",  # the enclave's memory is encrypted wherever it lies
    }
    restrictions = re.compile(
        "Protect|Private|Restrict|Lock|NoNew|Capab|Ambient|RemoveIPC|DevicePolicy|Limit|SystemCall"
    )
    wanted = {name: values for name, values in directives(OTHER).items() if restrictions.match(name)}
    assert {name for name, values in wanted.items() if directives()[name] != values} <= for_gramine
