"""Where processes that tests start leave what they were measured to have run, and how it becomes Coverage's."""

from __future__ import annotations

import functools
import marshal
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from tests.started.coverage import FOLDER, TRACER

TESTS: Final = Path(__file__).parents[1]
_BITS: Final = 28


def environment(path: str) -> dict[str, str]:
    """What makes a process measured whose PYTHONPATH would be `path`; nothing where no coverage is measured."""
    kept = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
    return kept | by_tracer(path, _folder()) if kept else {}


def by_tracer(path: str, folder: Path) -> dict[str, str]:
    """What has Coverage's tracer alone measure it, and that put into `folder`."""
    return {TRACER: _tracer(), FOLDER: str(folder), "PYTHONPATH": f"{path}:{TESTS / 'started'}"}


def _tracer() -> str:
    # Within a process that is measured so, Coverage's name leads to its stand-in.
    if TRACER in os.environ:
        return os.environ[TRACER]
    from coverage.core import CTRACER_FILE  # noqa: PLC0415 - as above

    return str(CTRACER_FILE)


@functools.cache
def _folder() -> Path:
    if FOLDER in os.environ:
        return Path(os.environ[FOLDER])
    return Path(tempfile.mkdtemp(prefix="rk-measured-"))


def arcs_in(folder: Path) -> dict[str, set[tuple[int, int]]]:
    """From which line to which the processes went, by file."""
    packed: dict[str, set[int]] = {}
    for path in folder.iterdir():
        if path.suffix != ".part":
            for name, arcs in marshal.loads(path.read_bytes()).items():  # noqa: S302 - our own processes wrote it
                packed.setdefault(name, set()).update(arcs)
    return {name: set(map(_unpacked, arcs)) for name, arcs in packed.items()}


def _unpacked(arc: int) -> tuple[int, int]:
    # 28 bits of each line, then their signs.
    lines = arc & (1 << _BITS) - 1, arc >> _BITS & (1 << _BITS) - 1
    first, second = (-line if arc >> 2 * _BITS + number & 1 else line for number, line in enumerate(lines))
    return first, second


def collect() -> None:
    """Give it to Coverage, as one file beside its own."""
    from coverage import Coverage, CoverageData  # noqa: PLC0415 - as in _tracer()

    running = Coverage.current()
    if running is None or not environment(""):
        return
    data = CoverageData(basename=str(running.config.data_file), suffix=f"processes.{os.getpid()}")
    data.add_arcs(arcs_in(_folder()))
    data.write()
    shutil.rmtree(_folder())
    _folder.cache_clear()
