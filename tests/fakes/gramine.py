"""A stand-in for gramine-sgx, and an image's folder: how the enclave was started is noted, then a script plays it.

It plays `exit N`, `kill N` (it ends by that signal), `wait` (until told to stop, and then 7), or `program COMPOSITION`:
the program of the enclave (tests/fakes/enclave_program.py), in an interpreter of its own.
"""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.fakes.processes import ROOT, Running, environment

PROGRAM: Final = Path(__file__).with_name("enclave_program.py")
_FAKE: Final = """\
#!{python} -IS
import json, os, resource, signal, sys, time
cwd = os.getcwd()
entries = {{name: os.readlink(name) if os.path.islink(name) else None for name in os.listdir(".")}}
found = {{
    "argv": sys.argv[1:],
    "cwd": cwd,
    "mode": os.stat(".").st_mode & 0o777,
    "entries": entries,
    "state": os.path.realpath("state"),
    "in_state": sorted(os.listdir("state")),
    "options": open("options.json").read(),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    "ignored": [one for one in (1, 2, 15) if signal.getsignal(one) is signal.SIG_IGN],
    "pid": os.getpid(),
    "starter": os.getppid(),
}}
with open({record!r} + ".new", "w") as file:
    json.dump(found, file)
os.rename({record!r} + ".new", {record!r})
what, *more = {plays!r}
if what == "exit":
    sys.exit(int(more[0]))
if what == "kill":
    os.kill(os.getpid(), int(more[0]))
if what == "wait":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
    print("waiting", flush=True)
    while True:
        time.sleep(60)
command = [{python!r}, "-I", "-S", "-B", {program!r}, {packages!r}, {source!r}, {tests!r}, *more]
os.execve(command[0], command, dict(os.environ))
"""
_STARTER: Final = """\
import sys
from pathlib import Path

from rkeyserver.cli.launch import main

sys.exit(main(Path(__file__).parent))
"""


@dataclass(frozen=True)
class Gramine:
    """A host with the fake on its PATH and an image; everything below `folder`."""

    folder: Path

    @classmethod
    def made(cls, folder: Path, *plays: str) -> Gramine:
        """Make all of it. plays: what the fake does when it is started."""
        found = cls(folder)
        for one in (found.image / "enclave", found.bin, found.runtime):
            one.mkdir(parents=True)
        for name in ("rkeyserver.manifest", "rkeyserver.manifest.sgx", "rkeyserver.sig", "enclave/start.py"):
            (found.image / name).write_text(name)
        (found.image / "rkeyserver").write_text(_STARTER)
        found.will(*plays)
        return found

    def will(self, *plays: str) -> None:
        """What it does when it is started."""
        text = _FAKE.format(
            python=os.path.realpath(sys.executable),
            record=str(self.folder / "started.json"),
            plays=list(plays),
            program=str(PROGRAM),
            packages=sysconfig.get_path("purelib"),
            source=str(ROOT / "src"),
            tests=str(ROOT),
        )
        fake = self.bin / "gramine-sgx"
        fake.write_text(text)
        fake.chmod(0o755)

    @property
    def image(self) -> Path:
        return self.folder / "image"

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    @property
    def runtime(self) -> Path:
        """XDG_RUNTIME_DIR."""
        return self.folder / "runtime"

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": f"{self.bin}:{os.defpath}", "XDG_RUNTIME_DIR": str(self.runtime)}

    def run_folders(self) -> list[Path]:
        return sorted(self.runtime.glob("rkeyserver/*"))

    def started(self) -> dict[str, Any]:
        """How it was started last."""
        found: dict[str, Any] = json.loads((self.folder / "started.json").read_text())
        return found

    def options(self) -> dict[str, Any]:
        """What the enclave was told."""
        found: dict[str, Any] = json.loads(self.started()["options"])
        return found

    def begin(self, *words: str, **env: str) -> Running:
        """Start the image's program, as an operator does."""
        command = [sys.executable, str(self.image / "rkeyserver"), *words]
        return Running(command, cwd=self.folder, env=environment(**(self.environment | env)))
