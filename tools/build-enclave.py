"""Makes OUT/rkeyserver with the program whose server runs in an SGX enclave, built and signed with Gramine.

    PYTHONPATH=src python tools/build-enclave.py OUT --admins FILE [--recovery FILE] [--seal mrsigner|mrenclave]
                                                 [--former-signer MRSIGNER ...] [--key FILE]
    PYTHONPATH=src python tools/build-enclave.py --show FILE.sig

The same source, lock, Python, shared objects of the system and Gramine give the same MRENCLAVE, in any folder. All is
made beside OUT/rkeyserver and takes its place at the end: what fails leaves what was there.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import enclave_tree
from building import IMAGE, PROGRAM, ROOT, launcher, make_libraries, own_interpreter, put_all, values
from rkeyserver import files
from rkeyserver.appraisal.measured import Measured, measured_text, parse_measured
from rkeyserver.appraisal.policy import MAX_POLICY_FILE, parse_admins, parse_recovery
from rkeyserver.errors import Misuse, RkeyError, exit_status
from rkeyserver.platforms import sigstruct
from rkeyserver.platforms.product import ISV_PROD_ID, ISV_SVN
from rkeyserver.platforms.simulated.image import build_image

USAGE: Final = "make enclave ADMINS=FILE [RECOVERY=FILE] [SEAL=mrsigner|mrenclave] [FORMER=MRSIGNER] [KEY=FILE]"
TEMPLATE: Final = ROOT / "packaging" / "rkeyserver.manifest.template"
TREE: Final = "enclave"
HOST: Final = "host.zip"
MANIFEST: Final = f"{PROGRAM}.manifest"
SIGNED: Final = f"{PROGRAM}.manifest.sgx"
SIGNATURE: Final = f"{PROGRAM}.sig"
RENDER: Final = "gramine-manifest"
SIGN: Final = "gramine-sgx-sign"
WHAT: Final = (
    "Starts the enclave beside this file, by Gramine. It runs from host.zip and ../lib. Made by `make enclave`."
)
CALL: Final = "from pathlib import Path\n\nfrom rkeyserver.cli.launch import main\n\nreturn main(Path(here))"
# In SIGSTRUCT alone, and signed: with no date the same build has the same signature.
NO_DATE: Final = "0000-00-00"
T = TypeVar("T")


def main(words: list[str]) -> None:
    """Build, or show a signature structure.

    Raises: RkeyError, SystemExit.
    """
    parser = argparse.ArgumentParser(prog="make enclave", usage=USAGE)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--admins", type=Path)
    parser.add_argument("--recovery", type=Path)
    parser.add_argument("--seal", choices=("mrsigner", "mrenclave"), default="mrsigner")
    parser.add_argument("--former-signer", action="append", default=[])
    parser.add_argument("--key", type=Path)
    parser.add_argument("--show", type=Path)
    found = parser.parse_args(words)
    if found.show is not None:
        sys.stdout.write(show(found.show))
        return
    if found.out is None or found.admins is None:
        raise Misuse(
            "An enclave is built for somebody: whose signatures change the policy of the domains that it makes?",
            advice=f"Name the file with the [admins] table: {USAGE}. docs/operations/enclave.md has an example.",
        )
    measured = read_measured(found.seal, found.admins, found.recovery, found.former_signer)
    gramine = find_gramine()
    build(found.out, measured, gramine, find_key(found.key, found.out))


def read_measured(seal: str, admins: Path, recovery: Path | None, former_signers: list[str]) -> str:
    """What is measured into the image beside its code. former_signers: hex.

    Raises: Misuse, naming the file, the line and what is wanted.
    """
    text = measured_text(
        Measured(
            seal_to="mrenclave" if seal == "mrenclave" else "mrsigner",
            admins=_read("admins", admins, parse_admins),
            recovery=None if recovery is None else _read("recovery", recovery, parse_recovery),
            former_signers=former_signers,
        )
    )
    parse_measured(text)  # as the enclave will
    return text


def _read(what: str, path: Path, parse: Callable[[str], T]) -> T:
    text = files.read_text(path, MAX_POLICY_FILE, f"{what} file")
    try:
        return parse(text)
    except Misuse as error:
        raise Misuse(f"{path}: {error.message}", advice=error.advice) from error


def find_gramine() -> tuple[str, str]:
    """The programs that render and sign.

    Raises: Misuse with what to install.
    """
    found = {name: shutil.which(name) for name in (RENDER, SIGN)}
    missing = ", ".join(name for name, path in found.items() if path is None)
    if missing:
        raise Misuse(
            f"An enclave is built with Gramine 1.9, and it is not here: {missing} not found on the PATH.",
            advice="Install its package `gramine`; the Gramine project's documentation has how, under Installation. A "
            "machine that only builds needs no SGX. To try the server out without, `make` builds the simulation.",
        )
    return str(found[RENDER]), str(found[SIGN])


def find_key(given: Path | None, out: Path) -> Path:
    """The signing key, which lies outside of this tree and of what is built.

    Raises: Misuse.
    """
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    key = given or home / "gramine" / "enclave-key.pem"
    inside = next((folder for folder in (ROOT, out) if key.resolve().is_relative_to(folder.resolve())), None)
    if inside is not None:
        raise Misuse(
            f"The signing key {key} lies in {inside}, where it would be copied, committed or handed on.",
            advice="Move it to where only its owner reads it, and name it with KEY=FILE.",
        )
    if not key.is_file():
        raise Misuse(
            f"There is no signing key {key}.",
            advice=f"Make one with `gramine-sgx-gen-private-key {key}`, or name yours with KEY=FILE. It never lies in "
            "the tree; docs/operations/signing.md has how it is kept in an HSM or on another machine.",
        )
    return key


def build(out: Path, measured: str, gramine: tuple[str, str], key: Path) -> None:
    """Make everything in a folder of its own, and put it in place.

    Raises: Misuse, SystemExit; nothing was replaced then.
    """
    out.mkdir(parents=True, exist_ok=True)
    make_libraries(out / "lib")
    tree = enclave_tree.make_tree((out / "lib").absolute(), measured)
    beside = {
        PROGRAM: launcher(own_interpreter(), WHAT, HOST, CALL),
        HOST: build_image(ROOT / "src" / "rkeyserver", bytecode=True),
        f"{MANIFEST}.template": TEMPLATE.read_bytes(),
    }
    with _new_beside(out / PROGRAM) as new:
        put_all(new, beside, frozenset({PROGRAM}))
        put_all(new / TREE, tree, frozenset({enclave_tree.PYTHON}))
        (new / IMAGE).symlink_to(f"{TREE}/{IMAGE}")
        sign(new, tree, gramine, key)
        shown = show(new / SIGNATURE)
        _swap(out / PROGRAM, new)
    sys.stdout.write(
        f"{out / PROGRAM / PROGRAM}, its server in an enclave of {len(tree)} files,\n"
        f"with {_whose(parse_measured(measured))}:\n{shown}"
    )


def sign(folder: Path, tree: dict[str, bytes], gramine: tuple[str, str], key: Path) -> None:
    """Have the manifest of `folder` rendered, filled with the hash of every file, and signed.

    Raises: Misuse, SystemExit.
    """
    render, signer = gramine
    versions = (f"-Disvprodid={ISV_PROD_ID}", f"-Disvsvn={ISV_SVN}")
    _run(folder, render, *versions, f"{MANIFEST}.template", MANIFEST)
    check_c_library(tomllib.loads((folder / MANIFEST).read_text()), tree)
    _run(
        folder,
        *(signer, "--quiet", "--date", NO_DATE, "--key", os.fspath(key.absolute())),
        *("--manifest", MANIFEST, "--output", SIGNED, "--sigfile", SIGNATURE),
    )
    for name in (MANIFEST, SIGNED, SIGNATURE):
        if not (folder / name).is_file():
            sys.exit(f"Gramine's programs made no {name}; nothing was replaced.")
        (folder / name).chmod(0o644)


def _whose(measured: Measured) -> str:
    """For whom it was built, in a few words."""
    admins, recovery = measured.admins, measured.recovery
    back = (
        "no recovery"
        if recovery is None
        else f"recovery by {recovery.threshold} of {len(recovery.recipients)} recipients"
    )
    former = "".join(f", keys also from images of {one}" for one in measured.former_signers)
    by = f"policies by {admins.threshold} of {len(admins.keys)} admins, {back}"
    return f"{by}, records sealed to {measured.seal_to}{former}"


def show(path: Path) -> str:
    """The four values of a signature structure, if its signature holds.

    Raises: Corrupt, Misuse.
    """
    if not path.is_file():
        raise Misuse(f"There is no {path}.", advice="`make enclave` makes rkeyserver.sig.")
    found = sigstruct.verify(path.read_bytes())
    if found.attributes[0] & sigstruct.FLAG_DEBUG:
        raise Misuse(f"{path} is for a debug enclave, whose memory anyone may read.", advice="Set sgx.debug = false.")
    return values(found.mrenclave, found.mrsigner, found.isv_prod_id, found.isv_svn)


def check_c_library(manifest: dict[str, Any], tree: dict[str, bytes]) -> None:
    """Whether Gramine's C library is new enough for what was built against the one of this system.

    Raises: Misuse.
    """
    (uri,) = (mount["uri"] for mount in manifest["fs"]["mounts"] if mount["path"] == "/lib")
    library = Path(uri.removeprefix("file:")) / "libc.so.6"
    if not library.is_file():
        raise Misuse(f"Gramine has no C library in {library.parent}.", advice="Install its package `gramine` again.")
    has = _newest(library.read_bytes())
    for name, data in tree.items():
        wants = _newest(data) if data.startswith(b"\x7fELF") else 0
        if wants > has:
            raise Misuse(
                f"{name} was built for glibc 2.{wants}, and Gramine's is 2.{has}: it cannot be loaded there.",
                advice="Build on an older release of the system, or with a newer Gramine.",
            )


def _newest(elf: bytes) -> int:
    """The minor version of the newest glibc whose symbols a shared object names."""
    return max((int(minor) for minor in re.findall(rb"GLIBC_2\.(\d+)", elf)), default=0)


def _run(folder: Path, *command: str) -> None:
    """Run a program of Gramine's in `folder`, with nothing of Python's from this environment.

    Raises: SystemExit if it fails, after it has said why.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=folder, env=environment, check=False)  # noqa: S603 - found on the PATH
    if done.returncode:
        sys.exit(f"{Path(command[0]).name} failed (status {done.returncode}); nothing was replaced.")


@contextlib.contextmanager
def _new_beside(place: Path) -> Iterator[Path]:
    """A folder to make beside `place`; what is not put in its place is gone at the end."""
    new = place.with_name(f".{place.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    try:
        yield new
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _swap(place: Path, new: Path) -> None:
    """`new` in the place of what is there."""
    old = place.with_name(f".{place.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except RkeyError as error:
        sys.stderr.write(f"make enclave: {error}\n")
        sys.exit(exit_status(error))
