"""What both builds share: the libraries, the launcher's first lines, files that are written whole or left alone."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
LOCK: Final = ROOT / "requirements" / "runtime.lock"
IMAGE: Final = "libenclave-rkeyserver.so"
PROGRAM: Final = "rkeyserver"

SHEBANG_LIMIT: Final = 127  # bytes; Linux before 5.1 cuts longer ones off
UNQUOTABLE: Final = frozenset("\"'\\$`\n")

# -I, -S: no PYTHON* variable, no site-packages, no folder of the caller's; what is imported is what stands here.
LAUNCHER: Final = '''\
@FIRST_LINES@
"""@WHAT@"""

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
    sys.path += [os.path.join(here, "@ARCHIVE@"), os.path.join(os.path.dirname(here), "lib")]
@CALL@


if __name__ == "__main__":
    sys.exit(start())
'''


def launcher(python: str, what: str, archive: str, call: str) -> bytes:
    """A program for the interpreter at `python`. what: it does; archive: the package, beside it; call: its end."""
    text = LAUNCHER.replace("@BUILT_FOR@", repr(sys.version_info[:2])).replace("@WHAT@", what)
    text = text.replace("@ARCHIVE@", archive).replace("@CALL@", "".join(f"    {line}\n" for line in call.splitlines()))
    return text.replace("@FIRST_LINES@", first_lines(python)).replace("\n\n\n\n", "\n\n\n").encode()


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
    if path.is_file() and not path.is_symlink() and path.read_bytes() == data and path.stat().st_mode & 0o777 == mode:
        return
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(data)
    new.chmod(mode)
    new.replace(path)


def put_all(folder: Path, files: Mapping[str, bytes], programs: frozenset[str]) -> None:
    """Write files by their names below `folder`, with the rights that they have everywhere: the umask says nothing."""
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    for name, data in files.items():
        path = folder / name
        for above in reversed(path.relative_to(folder).parents[:-1]):
            (folder / above).mkdir(exist_ok=True)
            (folder / above).chmod(0o755)
        put(path, data, 0o755 if name in programs else 0o644)


def values(mrenclave: bytes, mrsigner: bytes, isv_prod_id: int, isv_svn: int) -> str:
    """The four values of an image, a line for each."""
    return (
        f"  MRENCLAVE   {mrenclave.hex()}\n  MRSIGNER    {mrsigner.hex()}\n"
        f"  product id  {isv_prod_id}\n  version     {isv_svn}\n"
    )
