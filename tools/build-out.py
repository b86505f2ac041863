"""Makes OUT: lib with the libraries that requirements/runtime.lock names, and rkeyserver with the program.

    PYTHONPATH=src python tools/build-out.py OUT

The image holds the package that is imported here, with its bytecode for the Python that runs this: the same files and
the same Python give the same bytes, and so the same measurement. What is the same already is not written again.
"""
# ruff: noqa: INP001 - a program, in no package

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import rkeyserver
from rkeyserver.platforms.product import ISV_PROD_ID, ISV_SVN
from rkeyserver.platforms.simulated.image import build_image, load_signed, sign_image
from rkeyserver.platforms.simulated.keys import image_signing_key

LOCK: Final = Path(__file__).parent.parent / "requirements" / "runtime.lock"
IMAGE: Final = "libenclave-rkeyserver.so"
SIGNED: Final = "libenclave-rkeyserver.signed.so"
PROGRAM: Final = "rkeyserver"

SHEBANG_LIMIT: Final = 127  # bytes; Linux before 5.1 cuts longer ones off
UNQUOTABLE: Final = frozenset("\"'\\$`\n")

# -I, -S: no PYTHON* variable, no site-packages, no folder of the caller's; what is imported is what stands here.
LAUNCHER: Final = '''\
@FIRST_LINES@
"""Runs the signed enclave image that lies beside this file, with the libraries in ../lib. Made by `make`."""

import os
import sys

BUILT_FOR = @BUILT_FOR@


def start():
    if sys.version_info[:2] != BUILT_FOR:
        versions = (sys.executable,) + sys.version_info[:2] + BUILT_FOR
        sys.stderr.write("rkeyserver: %s is Python %d.%d, this was built for %d.%d." % versions)
        sys.stderr.write(" Start it by its own name, or build it again with make.\\n")
        return 2
    if not (sys.flags.isolated and sys.flags.no_site):  # handed to an interpreter: start as the first line has it
        os.execv(sys.executable, [sys.executable, "-IS", os.path.realpath(__file__)] + sys.argv[1:])
    here = os.path.dirname(os.path.realpath(__file__))
    # OpenSSL would load what a configuration file of the starter's names.
    for name in ("OPENSSL_CONF", "OPENSSL_CONF_INCLUDE", "OPENSSL_ENGINES", "OPENSSL_MODULES"):
        os.environ.pop(name, None)
    # After the standard library, so that nothing takes its place; the image before the libraries, for the same reason.
    sys.path += [os.path.join(here, "@SIGNED@"), os.path.join(os.path.dirname(here), "lib")]
    from rkeyserver.cli.main import main

    return main()


if __name__ == "__main__":
    sys.exit(start())
'''


def first_lines(python: str) -> str:
    """What makes the kernel run a file with the interpreter at `python`: one line, or through sh if that cannot do it.

    The lines for sh are a string to Python. Raises: SystemExit for a path that neither can hold.
    """
    line = f"#!{python} -IS"
    if len(os.fsencode(line)) <= SHEBANG_LIMIT and not any(char.isspace() for char in python):
        return line
    if UNQUOTABLE & set(python):
        sys.exit(f"The interpreter's path has a character that cannot be quoted: {python!r}. Use another Python.")
    return f"#!/bin/sh\n'''exec' \"{python}\" -IS \"$0\" \"$@\"\n' '''"


def launcher(python: str) -> str:
    """The text of the program, to be run by the interpreter at `python`."""
    text = LAUNCHER.replace("@BUILT_FOR@", repr(sys.version_info[:2])).replace("@SIGNED@", SIGNED)
    return text.replace("@FIRST_LINES@", first_lines(python))


def own_interpreter() -> str:
    """The interpreter that runs this, as it is outside of any virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)


def run(*arguments: str) -> None:
    """Run a module of this interpreter. Raises: SystemExit if it fails, after it has said why."""
    done = subprocess.run([sys.executable, "-m", *arguments], check=False)  # noqa: S603 - arguments of our own
    if done.returncode:
        sys.exit(f"{arguments[0]} failed (status {done.returncode}); nothing in the folder was replaced.")


def make_libraries(lib: Path) -> None:
    """Install into `lib` what the lock names, unless it was made of that very lock for this very Python."""
    made_from = f"{sys.implementation.cache_tag} {hashlib.sha256(LOCK.read_bytes()).hexdigest()}\n"
    note = lib / ".made-from"
    if note.is_file() and note.read_text() == made_from:
        return
    new = lib.with_name("lib.new")
    shutil.rmtree(new, ignore_errors=True)
    options = ("--quiet", "--disable-pip-version-check", "--require-hashes", "--no-deps", "--no-compile")
    run("pip", "install", *options, "--target", str(new), "-r", str(LOCK))
    shutil.rmtree(new / "bin", ignore_errors=True)  # programs of the libraries, tied to the interpreter of this moment
    # Bytecode that is not checked against its source: a copy with other times, or one that nobody may write to, starts
    # as fast. Change the lock and build again, not a file in lib.
    run("compileall", "-q", "--invalidation-mode", "unchecked-hash", "-s", str(new), str(new))
    (new / note.name).write_text(made_from)
    shutil.rmtree(lib, ignore_errors=True)
    new.rename(lib)


def put(path: Path, data: bytes, mode: int) -> None:
    """Write a file whole, or leave it if it is that already. What runs from the old one has to be started again."""
    if path.is_file() and path.read_bytes() == data and path.stat().st_mode & 0o777 == mode:
        return
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(data)
    new.chmod(mode)
    new.replace(path)


def main(out: Path) -> None:
    """Make `out` and say what it measures."""
    folder = out / "rkeyserver"
    folder.mkdir(parents=True, exist_ok=True)
    make_libraries(out / "lib")
    image = build_image(Path(rkeyserver.__file__).parent, bytecode=True)
    put(folder / IMAGE, image, 0o644)
    put(folder / SIGNED, sign_image(image, image_signing_key(), ISV_PROD_ID, ISV_SVN), 0o644)
    put(folder / PROGRAM, launcher(own_interpreter()).encode(), 0o755)
    made = load_signed((folder / SIGNED).read_bytes())
    sys.stdout.write(
        f"{folder / PROGRAM}, its image signed with the public development key, which protects nothing:\n"
        f"  MRENCLAVE   {made.mrenclave.hex()}\n"
        f"  MRSIGNER    {made.mrsigner.hex()}\n"
        f"  product id  {made.isv_prod_id}\n"
        f"  version     {made.isv_svn}\n"
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:  # noqa: PLR2004
        sys.exit("One argument is wanted: the folder to build into.")
    main(Path(sys.argv[1]))
