"""Starts the search for keys (key_scan.py), as whoever may read the memory of a process that forbade it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fakes import key_scan
from tests.fakes.processes import DEADLINE, Machine, environment


def scan(
    machine: Machine, *, processes: Sequence[int] = (), files: Sequence[Path] = (), labels: Sequence[str] = ()
) -> dict[str, Any]:
    """What of the keys in a machine's record is where; in the name space in which its processes run.

    labels: of applications, whose keys are looked for as well.
    """
    command = [sys.executable, "-m", key_scan.__name__, str(machine.processor), str(machine.keystore)]
    command += ["--processes", *map(str, processes), "--files", *map(str, files), "--labels", *labels]
    inside = (
        ["nsenter", "--user", "--preserve-credentials", f"--target={processes[0]}"] if processes and under() else []
    )
    done = subprocess.run(
        [*inside, *command], env=environment(), capture_output=True, text=True, check=False, timeout=4 * DEADLINE
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def under() -> list[str]:
    """Only root reads the memory of a process that forbade it; where the tests are not root, one of a name space is."""
    return [] if os.geteuid() == 0 else ["unshare", "--map-root-user"]
