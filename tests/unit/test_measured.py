"""A process of a test is measured as Coverage itself measures it, at less cost."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from coverage import Coverage, CoverageData
from tests.fakes import measured

ROOT = measured.TESTS.parent
PATH = str(ROOT / "src")
COMMAND = "import sys; from rkeyserver.cli.main import main; sys.exit(main([{word!r}]))"
PROGRAMS = {
    "a command": COMMAND.format(word="--version"),
    "one that is refused": COMMAND.format(word="--nothing"),
    "in a thread": f"""
import threading
thread = threading.Thread(target=exec, args=({COMMAND.format(word="--version")!r},))
thread.start()
thread.join()
""",
    "ended by SIGTERM": f"""
import os
from rkeyserver.errors import Misuse
str(Misuse("one"))
os.kill(os.getpid(), {signal.SIGTERM})
""",
}


@pytest.mark.parametrize("code", PROGRAMS.values(), ids=PROGRAMS)
def test_what_is_found_is_what_coverage_finds(code: str, tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    ours.mkdir()
    config = Coverage(data_file=str(theirs), data_suffix=False, config_file=str(ROOT / "pyproject.toml")).config
    config.parallel = False
    kept = {"PATH": "/usr/bin:/bin", "PYTHONPATH": PATH, "COVERAGE_PROCESS_CONFIG": config.serialize()}
    ended = [
        subprocess.run([sys.executable, "-c", code], env=kept | more, cwd=tmp_path, capture_output=True, check=False)
        for more in ({}, measured.by_tracer(PATH, ours))
    ]
    assert len({(one.returncode, one.stdout, one.stderr) for one in ended}) == 1
    data = CoverageData(basename=str(theirs))
    data.read()
    # It names what was never run as well.
    wanted = {name: set(arcs) for name in data.measured_files() if (arcs := data.arcs(name))}
    assert wanted
    assert measured.arcs_in(ours) == wanted
