"""What a start does before it serves, counted: modules imported, files opened. Inside an enclave each is hashed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from bench.server import server

END_SECONDS: Final = 20
_IMPORTED: Final = re.compile(r"^import time: +\d+ ", re.MULTILINE)
_OPENED: Final = re.compile(r'^openat\(AT_FDCWD, "([^"]+)", ([A-Z_|]+)(?:, 0\d+)?\) += \d+$', re.MULTILINE)


@dataclass(frozen=True)
class Work:
    """What one process did, its main thread alone. files: each once; bytes: of these files together."""

    modules: int
    opens: int
    files: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.modules} modules; {self.opens} opens of {self.files} files, {self.bytes / 1e6:.1f} MB"


def of_a_start(program: Path, folder: Path) -> Work:
    """A serving start of `program` up to its first answer, on the machine that it finds in `folder`."""
    with _Watched() as watched:
        with server(program, folder, under=watched.command, stderr=watched.imports) as started:
            pass
        return watched.work(started.pid)


def of_nothing() -> Work:
    """The same interpreter, with nothing to do."""
    with _Watched() as watched:
        process = subprocess.Popen([*watched.command, "-c", "pass"], stderr=watched.imports)
        process.wait()
        return watched.work(process.pid)


def of_files(folder: Path) -> tuple[int, int]:
    """How many files a tree has, and their bytes."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)


class _Watched:
    """An interpreter that says what it imports, traced by strace(1), which stands beside it and not above it."""

    def __init__(self) -> None:
        if shutil.which("strace") is None:
            raise SystemExit("Install strace first (Debian: apt-get install strace): it counts what a start opens.")
        self._folder = tempfile.TemporaryDirectory(prefix="rkeyserver-bench-")
        self._trace = Path(self._folder.name) / "trace"
        self.imports = (Path(self._folder.name) / "imports").open("w+")
        tracer = ("strace", "-D", "-ff", "-q", "-e", "trace=openat", "-e", "signal=none", "-o", str(self._trace))
        self.command = (*tracer, sys.executable, "-IS", "-X", "importtime")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.imports.close()
        self._folder.cleanup()

    def work(self, pid: int) -> Work:
        """What the process `pid` did, once it has ended."""
        trace = Path(f"{self._trace}.{pid}")
        end = time.monotonic() + END_SECONDS
        while "+++ exited" not in (found := trace.read_text()):
            if time.monotonic() > end:
                raise SystemExit(f"strace did not finish its trace of process {pid}.")
            time.sleep(0.01)
        opened = [path for path, flags in _OPENED.findall(found) if "O_DIRECTORY" not in flags.split("|")]
        files = {path for one in opened if (path := Path(one).resolve()).is_file()}
        self.imports.seek(0)
        modules = len(_IMPORTED.findall(self.imports.read()))
        return Work(modules, len(opened), len(files), sum(path.stat().st_size for path in files))
