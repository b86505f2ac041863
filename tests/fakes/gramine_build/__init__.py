"""Stand-ins for the programs of Gramine that build and start an enclave, for machines where it cannot be installed.

They take the arguments that Gramine 1.9's take, as far as anybody builds with them, and refuse all others. What they
make has the form of what Gramine makes, and its MRENCLAVE depends on the same things but is another number: sign.py
says how. Nothing that they show is a proof about Gramine.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from rkeyserver.platforms.simulated.keys import image_signing_key

ROOT: Final = Path(__file__).parents[3]
PROGRAMS: Final = {"gramine-manifest": "manifest", "gramine-sgx": "run", "gramine-sgx-sign": "sign"}
# Of the host's C library, what stands for the one that Gramine has.
_LIBRARY: Final = (
    *("ld-linux-x86-64.so.2", "libc.so.6", "libdl.so.2", "libm.so.6", "libpthread.so.0", "libresolv.so.2"),
    *("librt.so.1", "libutil.so.1", "libnss_dns.so.2", "libnss_files.so.2"),
)


@dataclass(frozen=True)
class Gramine:
    """An installation. programs: to be first on the PATH; package: its own files; key: a signing key, elsewhere."""

    programs: Path
    package: Path
    key: Path

    @classmethod
    def at(cls, folder: Path) -> Self:
        """The installation in a folder."""
        return cls(folder / "bin", folder / "lib" / "gramine", folder / "somewhere" / "enclave-key.pem")

    def path(self) -> str:
        """The PATH of a machine that has it."""
        return f"{self.programs}{os.pathsep}{os.environ['PATH']}"


def install(folder: Path) -> Gramine:
    """Install it into an empty folder."""
    made = Gramine.at(folder)
    runtime = made.package / "runtime" / "glibc"
    for place in (made.programs, made.package / "sgx", runtime, made.key.parent):
        place.mkdir(parents=True)
    (made.package / "libsysdb.so").write_bytes(b"the library OS")
    (made.package / "sgx" / "libpal.so").write_bytes(b"the loader")
    host = _host_library()
    for name in _LIBRARY:
        if (host / name).exists():
            (runtime / name).write_bytes((host / name).read_bytes())
            (runtime / name).chmod(0o755)
    for name in PROGRAMS:
        put_program(made.programs, name, STAND_IN=str(made.package))
    made.key.write_bytes(
        image_signing_key().private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    )
    return made


def put_program(folder: Path, name: str, **variables: str) -> None:
    """One of the programs, which runs with these variables of its own whatever it is started with."""
    module = [sys.executable, "-m", f"tests.fakes.gramine_build.{PROGRAMS[name]}"]
    own = [f"{key}={value}" for key, value in {"PYTHONPATH": f"{ROOT}:{ROOT}/src", **variables}.items()]
    (folder / name).write_text(f'#!/bin/sh\nexec {shlex.join(["env", *own, *module])} "$@"\n')
    (folder / name).chmod(0o755)


def _host_library() -> Path:
    said = subprocess.run(["ldd", "/bin/sh"], capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in said.splitlines() if "libc.so.6" in line]
    return Path(line.split()[2]).parent
