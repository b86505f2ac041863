"""An enclave that was built once with stand-ins for Gramine's programs, from a copy of the tree."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.fakes.admins import line
from tests.fakes.gramine_build import ROOT, Gramine, install

from rkeyserver.platforms import sigstruct

sys.path.insert(0, str(ROOT / "tools"))  # the build is made of plain files there


def the_build() -> ModuleType:
    """tools/build-enclave.py, in this process."""
    spec = importlib.util.spec_from_file_location("build_enclave", ROOT / "tools" / "build-enclave.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def copy_of_the_tree(folder: Path) -> Path:
    for name in ("packaging", "requirements", "src", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy2(ROOT / "Makefile", folder / "Makefile")
    libraries_of_the_tests(folder / "out" / "lib")
    return folder


def libraries_of_the_tests(lib: Path) -> None:
    """What the lock names is installed beside these tests already: tests/integration/test_build.py fetches it anew."""
    lib.mkdir(parents=True)
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        if package.name != "__pycache__":
            (lib / package.name).symlink_to(package)
    lock = hashlib.sha256((ROOT / "requirements" / "runtime.lock").read_bytes()).hexdigest()
    (lib / ".made-from").write_text(f"{sys.implementation.cache_tag} {lock}\n")


def admins_file(path: Path, *names: str) -> Path:
    path.write_text(f"[admins]\nthreshold = 1\nkeys = {json.dumps([line(name) for name in names])}\n")
    return path


@dataclass(frozen=True)
class Tree:
    """A copy of the tree, to build in. admins: a file that names one."""

    folder: Path
    gramine: Gramine
    admins: Path

    @property
    def made(self) -> Path:
        return self.folder / "out" / "rkeyserver"

    def make(
        self, *words: str, target: str = "enclave", umask: int = 0o022, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """`make TARGET` in the virtual environment that runs the tests, with these variables of make's."""
        venv = Path(sys.prefix)
        told = ("-o", str(venv / ".ready"), f"VENV={venv}", *words)
        return subprocess.run(
            ["make", "--no-print-directory", target, *told],
            cwd=self.folder,
            env={**os.environ, "PATH": self.gramine.path(), **environment},
            umask=umask,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def build(self, *words: str, umask: int = 0o022, **environment: str) -> str:
        """The same, which must succeed, with the admins and the key unless others are named; what it printed."""
        named = (f"ADMINS={self.admins}", f"KEY={self.gramine.key}", *words)
        done = self.make(*named, umask=umask, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def files(self) -> dict[str, tuple[int, bytes]]:
        """All that was built, with its rights."""
        found = {}
        for path in self.made.rglob("*"):
            mode, name = path.lstat().st_mode, str(path.relative_to(self.made))
            data = os.fsencode(path.readlink()) if path.is_symlink() else b"" if path.is_dir() else path.read_bytes()
            found[name] = (mode, data)
        return found

    def manifest(self) -> dict[str, Any]:
        return tomllib.loads((self.made / "rkeyserver.manifest.sgx").read_text())

    def measured(self) -> sigstruct.SigStruct:
        return sigstruct.verify((self.made / "rkeyserver.sig").read_bytes())


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tree, str]:
    """Built once for all processes that run tests, and what was printed; nobody changes it."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder, said = shared / "enclave", shared / "enclave" / "said"
    with (shared / "enclave.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if said.exists():
            return Tree(folder / "tree", Gramine.at(folder / "gramine"), folder / "admins.toml"), said.read_text()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        gramine, admins = install(folder / "gramine"), admins_file(folder / "admins.toml", "ada")
        tree = Tree(copy_of_the_tree(folder / "tree"), gramine, admins)
        said.write_text(tree.build())
    return tree, said.read_text()


@pytest.fixture(scope="session")
def gramine(built: tuple[Tree, str]) -> Gramine:
    return built[0].gramine
