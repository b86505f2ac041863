"""The curated tree: all that is mounted at /rkeyserver in the enclave, and so all of its code but Gramine's own.

    bin/python3                     the interpreter
    etc/                            hosts, nsswitch.conf, an empty openssl.cnf
    lib/native/                     the shared objects that it and its extension modules need, without the C library
    lib/python3X.zip                modules of the standard library; the interpreter finds its prefix by this name
    lib/python3.X/lib-dynload/      its extension modules
    lib/libraries.zip               libraries that are Python alone
    lib/packages/                   libraries with shared objects or with data files
    libenclave-rkeyserver.so        this package, a zip
    measured.toml, start.py

Python is there as bytecode alone, never checked against a source (docs/adr/0019-enclave-image.md).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from building import IMAGE, ROOT, own_interpreter
from enclave_modules import Module, find_modules
from rkeyserver.platforms.archive import archive, bytecode

PYTHON: Final = "bin/python3"
MEASURED: Final = "measured.toml"
START: Final = "start.py"
SOURCE: Final = ROOT / "src"
START_SOURCE: Final = ROOT / "packaging" / START

# Files that a library opens: two by their own folder, one to know its version.
DATA: Final = {
    "certifi": ("cacert.pem",),
    "dcap_qvl-*.dist-info": ("METADATA",),
    "shamir_mnemonic": ("wordlist.txt",),
}

# Gramine has its own C library, which makes its system calls into Gramine (its subprojects/packagefiles/glibc-*): these
# come from there, and from nowhere else.
OF_GRAMINE: Final = frozenset(
    {
        *("ld-linux-x86-64.so.2", "libanl.so.1", "libc.so.6", "libdl.so.2", "libm.so.6", "libmvec.so.1", "libnsl.so.1"),
        *("libnss_compat.so.2", "libnss_db.so.2", "libnss_dns.so.2", "libnss_files.so.2", "libpthread.so.0"),
        *("libresolv.so.2", "librt.so.1", "libthread_db.so.1", "libutil.so.1"),
    }
)
_NEEDED: Final = re.compile(r"^\s*(?P<name>\S+) => (?P<path>.+?)(?: \(0x[0-9a-f]+\))?$")

ETC: Final = {
    # Names are for connecting to, never for trusting; `localhost` alone must not be asked of anyone.
    "etc/hosts": b"127.0.0.1 localhost\n::1 localhost\n",
    "etc/nsswitch.conf": b"hosts: files dns\n",
    "etc/openssl.cnf": b"",
}


def make_tree(libraries: Path, measured: str) -> dict[str, bytes]:
    """The files of the tree by their names. libraries: as make_libraries() makes them; measured: text of MEASURED.

    Raises: SystemExit if something is missing.
    """
    standard = Path(sysconfig.get_path("stdlib"))
    dynload = standard / "lib-dynload"
    modules = find_modules([SOURCE, libraries, standard, dynload])
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    places = {
        SOURCE: ("", IMAGE),
        libraries: ("lib/packages/", "lib/libraries.zip"),
        standard: (f"lib/python{version}/lib-dynload/", f"lib/python{version.replace('.', '')}.zip"),
    }
    made: dict[str, bytes] = {}
    zips: dict[str, dict[str, bytes]] = {inside: {} for _, inside in places.values()}
    in_tree = set(DATA) | {_top(one) for one in modules if _of(one, libraries) and not one.is_source}
    for module in modules:
        if module.path is None:
            continue
        place = next(folder for folder in places if module.path.is_relative_to(folder))
        outside, inside = places[place]
        name = module.path.relative_to(dynload if module.path.is_relative_to(dynload) else place).as_posix()
        if not module.is_source:
            made[outside + name] = module.path.read_bytes()
        elif place == libraries and _top(module) in in_tree:
            made[f"{outside}{name}c"] = bytecode(module.path.read_bytes(), name)
        else:
            zips[inside][f"{name}c"] = bytecode(module.path.read_bytes(), name)
    for package, names in DATA.items():
        (folder,) = libraries.glob(package)
        made |= {f"lib/packages/{folder.name}/{name}": (folder / name).read_bytes() for name in names}
    zips[IMAGE] |= _texts()
    made |= {name: archive(entries) for name, entries in zips.items()}
    python = Path(own_interpreter())
    objects = [python, *(one.path for one in modules if one.path is not None and not one.is_source)]
    made |= {f"lib/native/{name}": path.read_bytes() for name, path in sorted(shared_objects(objects).items())}
    made[PYTHON] = python.read_bytes()
    made[MEASURED] = measured.encode()
    made[START] = START_SOURCE.read_bytes()
    return dict(sorted((made | ETC).items()))


def shared_objects(objects: Iterable[Path]) -> dict[str, Path]:
    """The shared objects that `objects` and these in turn need, by the names that they are asked for by.

    Raises: SystemExit if one is not on this machine.
    """
    command = ["ldd", *sorted({os.fspath(path) for path in objects})]
    environment = {"PATH": os.defpath, "LC_ALL": "C"}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - ldd
    if said.returncode:
        sys.exit(f"ldd failed: {said.stderr.strip()}")
    found: dict[str, Path] = {}
    for line in said.stdout.splitlines():
        needed = _NEEDED.match(line)
        if needed is None or needed["name"] in OF_GRAMINE:
            continue
        if needed["path"] == "not found":
            sys.exit(f"The shared object {needed['name']} is needed and not on this machine.")
        path = Path(needed["path"]).resolve()
        if found.setdefault(needed["name"], path).read_bytes() != path.read_bytes():
            sys.exit(f"Two files are asked for by the name {needed['name']}: {found[needed['name']]} and {path}.")
    return found


def _texts() -> dict[str, bytes]:
    """The TOML files of the package, without those of the platform that is not in the image."""
    package = SOURCE / "rkeyserver"
    paths = [path for path in package.rglob("*.toml") if "simulated" not in path.relative_to(package).as_posix()]
    return {path.relative_to(SOURCE).as_posix(): path.read_bytes() for path in paths}


def _top(module: Module) -> str:
    return module.name.partition(".")[0]


def _of(module: Module, folder: Path) -> bool:
    return module.path is not None and module.path.is_relative_to(folder)
