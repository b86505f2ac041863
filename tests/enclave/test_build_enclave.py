"""`make enclave`: what it makes, the same bytes everywhere, and what it refuses before anything was made.

Gramine's programs are stand-ins (tests/fakes/gramine_build).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.enclave.conftest import Tree, admins_file, copy_of_the_tree, the_build
from tests.fakes.admins import line
from tests.fakes.gramine_build import ROOT, Gramine, install

from rkeyserver.appraisal.measured import parse_measured
from rkeyserver.errors import EXIT_STATUS, Misuse, RkeyError
from rkeyserver.platforms import sigstruct
from rkeyserver.platforms.product import ISV_PROD_ID, ISV_SVN
from rkeyserver.platforms.simulated.keys import image_signing_key

Built = tuple[Tree, str]


def test_what_is_built(built: Built) -> None:
    tree, _ = built
    modes = {path.name: stat.filemode(path.lstat().st_mode) for path in tree.made.iterdir()}
    assert modes == {
        "enclave": "drwxr-xr-x",
        "host.zip": "-rw-r--r--",
        "libenclave-rkeyserver.so": "lrwxrwxrwx",
        "rkeyserver": "-rwxr-xr-x",
        "rkeyserver.manifest": "-rw-r--r--",
        "rkeyserver.manifest.sgx": "-rw-r--r--",
        "rkeyserver.manifest.template": "-rw-r--r--",
        "rkeyserver.sig": "-rw-r--r--",
    }
    assert (tree.made / "libenclave-rkeyserver.so").readlink() == Path("enclave/libenclave-rkeyserver.so")
    measured = parse_measured((tree.made / "enclave" / "measured.toml").read_text())
    assert (measured.seal_to, measured.admins.keys, measured.recovery) == ("mrsigner", [line("ada")], None)
    assert {path.name for path in tree.made.parent.iterdir()} == {"lib", "rkeyserver"}, "nothing is left beside it"


def test_it_says_the_four_values(built: Built) -> None:
    tree, said = built
    found = tree.measured()
    assert said.splitlines()[-4:] == [
        f"  MRENCLAVE   {found.mrenclave.hex()}",
        f"  MRSIGNER    {found.mrsigner.hex()}",
        f"  product id  {ISV_PROD_ID}",
        f"  version     {ISV_SVN}",
    ]
    assert (found.isv_prod_id, found.isv_svn) == (ISV_PROD_ID, ISV_SVN)
    assert not found.attributes[0] & sigstruct.FLAG_DEBUG
    shown = tree.make(target="enclave-show")
    assert shown.stdout.splitlines() == said.splitlines()[-4:], shown.stderr


def test_the_same_bytes_from_another_folder_with_another_umask_locale_and_time_zone(
    built: Built, gramine: Gramine, tmp_path: Path
) -> None:
    tree, _ = built
    deeper = tmp_path / "a folder"
    deeper.mkdir()
    other = Tree(copy_of_the_tree(deeper / "of another name"), gramine, tree.admins)
    for path in sorted((other.folder / "src").rglob("*"), reverse=True):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    other.build(
        umask=0o077, PYTHONHASHSEED="7", PYTHONOPTIMIZE="2", TZ="Asia/Tokyo", LC_ALL="C", HOME="/nowhere", USER="else"
    )
    assert other.measured() == tree.measured()
    assert other.files() == tree.files()


def test_built_again_with_other_admins(built: Built, gramine: Gramine, tmp_path: Path) -> None:
    """Admins, recovery and sealing are in MRENCLAVE, and nothing else has changed: twice in a row it is the same."""
    tree, _ = built
    again = Tree(tmp_path / "tree", gramine, admins_file(tmp_path / "admins.toml", "ada", "bob"))
    shutil.copytree(tree.folder, again.folder, symlinks=True)
    age = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
    recovery = tmp_path / "recovery.toml"
    recovery.write_text(f'[recovery]\nthreshold = 1\nrecipients = ["{age}"]\n')
    said = again.build(f"RECOVERY={recovery}", "SEAL=mrenclave", f"FORMER={FORMER}", ADMINS="/none", SEAL="mrsigner")
    assert (
        "policies by 1 of 2 admins, recovery by 1 of 1 recipients, records sealed to mrenclave, keys also from" in said
    )
    assert again.measured().mrenclave != tree.measured().mrenclave
    assert again.measured().mrsigner == tree.measured().mrsigner
    before, after = tree.files(), again.files()
    assert {name for name in before | after if before.get(name) != after.get(name)} == {
        "enclave/measured.toml",
        "rkeyserver.manifest.sgx",
        "rkeyserver.sig",
    }
    measured = parse_measured(after["enclave/measured.toml"][1].decode())
    assert measured.seal_to == "mrenclave"
    assert measured.admins.keys == [line("ada"), line("bob")]
    assert measured.recovery is not None
    assert measured.recovery.recipients == [age]
    assert measured.former_signers == FORMER.split()


FORMER = f"{'a1' * 32} {'b2' * 32}"


# With what arguments, and the words that are said. `{tmp}` is a folder of the test's own, with the files below in it.
FILES = {
    "admins.toml": f"[admins]\nthreshold = 1\nkeys = {json.dumps([line('ada')])}\n",
    "three-lines.toml": '# who may change it\n[admins]\nthreshold = 2\nkeys = ["ssh-rsa AAAA"]\n',
    "two-of-one.toml": f"[admins]\nthreshold = 2\nkeys = {json.dumps([line('ada')])}\n",
    "policy.toml": f"version = 1\n[admins]\nthreshold = 1\nkeys = {json.dumps([line('ada')])}\n",
    "no.toml": "[admins\n",
    "recovery.toml": '[recovery]\nthreshold = 1\nrecipients = ["nobody"]\n',
    "out/enclave-key.pem": "a key",
}
ADMINS = ("--admins", "{tmp}/admins.toml")
REFUSED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "no admins": ((), ("whose signatures", "make enclave ADMINS=FILE [RECOVERY=FILE]", "docs/operations/enclave.md")),
    "admins that are not there": (("--admins", "{tmp}/none.toml"), ("none.toml",)),
    "admins that are a folder": (("--admins", "{tmp}"), ("admins file",)),
    "a key that is none": (
        ("--admins", "{tmp}/three-lines.toml"),
        ("three-lines.toml", "line 4", "admins.keys[1]", "ssh-ed25519"),
    ),
    "more than there are": (("--admins", "{tmp}/two-of-one.toml"), ("line 2", "2 of 1 keys")),
    "a policy": (("--admins", "{tmp}/policy.toml"), ("line 1", "version", "no such key")),
    "no TOML": (("--admins", "{tmp}/no.toml"), ("line 1", "no TOML")),
    "recovery that is none": (
        (*ADMINS, "--recovery", "{tmp}/recovery.toml"),
        ("recovery.toml", "line 3", "recovery.recipients[1]", "age1"),
    ),
    "admins as recovery": ((*ADMINS, "--recovery", "{tmp}/admins.toml"), ("admins.toml", "line 1", "admins")),
    "a signer that is none": ((*ADMINS, "--former-signer", "A1" * 32), ("former_signers[1]", "64 lower-case hex")),
    "no key": (
        (*ADMINS, "--key", "{tmp}/none.pem"),
        ("none.pem", "gramine-sgx-gen-private-key", "never lies in the tree", "docs/operations/signing.md"),
    ),
    "no key in the usual place": (ADMINS, ("{tmp}/home/gramine/enclave-key.pem",)),
    "a key in the tree": ((*ADMINS, "--key", f"{ROOT}/packaging/enclave-key.pem"), (f"lies in {ROOT}", "Move it")),
    "a link to a key in the tree": ((*ADMINS, "--key", "{tmp}/link.pem"), (f"lies in {ROOT}", "Move it")),
    "a key in what is built": ((*ADMINS, "--key", "{tmp}/out/enclave-key.pem"), ("lies in {tmp}/out", "Move it")),
}


@pytest.fixture
def folder(tmp_path: Path, gramine: Gramine, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With those files in it, on a machine that has Gramine."""
    (tmp_path / "out" / "rkeyserver").mkdir(parents=True)
    (tmp_path / "out" / "rkeyserver" / "rkeyserver").write_text("what was there")
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "link.pem").symlink_to(ROOT / "packaging" / "enclave-key.pem")
    monkeypatch.setenv("PATH", gramine.path())
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    return tmp_path


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("words", "says"), REFUSED.values(), ids=REFUSED)
def test_refused_before_anything_is_made(folder: Path, words: tuple[str, ...], says: tuple[str, ...]) -> None:
    before = everything(folder)
    with pytest.raises(Misuse) as raised:
        the_build().main([str(folder / "out"), *(word.format(tmp=folder) for word in words)])
    for word in says:
        assert word.format(tmp=folder) in str(raised.value)
    assert everything(folder) == before


def test_without_gramine_it_says_what_to_install(built: Built) -> None:
    tree, _ = built
    before = tree.files()
    done = tree.make(f"ADMINS={tree.admins}", f"KEY={tree.gramine.key}", PATH=os.environ["PATH"])
    assert f"Error {EXIT_STATUS[Misuse]}" in done.stderr
    for word in ("gramine-manifest, gramine-sgx-sign", "Gramine 1.9", "package `gramine`", "Gramine project", "`make`"):
        assert word in done.stderr
    assert "http" not in done.stderr
    assert "Traceback" not in done.stderr
    assert tree.files() == before


# As make has it: what is said to the operator, and the status that make tells.
AT_THE_MAKEFILE: dict[str, tuple[tuple[str, ...], str]] = {
    "no admins": ((), "make enclave: An enclave is built for somebody"),
    "another seal": (("ADMINS=admins.toml", "SEAL=both"), "usage: make enclave ADMINS=FILE"),
    "admins that are none": (("ADMINS=Makefile",), "make enclave: Makefile: The admins cannot be read: line 2"),
}


@pytest.mark.parametrize(("words", "says"), AT_THE_MAKEFILE.values(), ids=AT_THE_MAKEFILE)
def test_make_ends_with_the_status_of_wrong_usage(built: Built, words: tuple[str, ...], says: str) -> None:
    done = built[0].make(*words)
    assert says in done.stderr
    assert f"Error {EXIT_STATUS[Misuse]}" in done.stderr
    assert "Traceback" not in done.stderr


def program(name: str, text: str) -> Callable[[Gramine], object]:
    return lambda gramine: (gramine.programs / name).write_text(f"#!/bin/bash\n{text}\n")


def c_library(gramine: Gramine) -> Path:
    return gramine.package / "runtime" / "glibc" / "libc.so.6"


FAILS: dict[str, tuple[Callable[[Gramine], object], str]] = {
    "rendering": (program("gramine-manifest", "exit 1"), "gramine-manifest failed (status 1); nothing was replaced"),
    "signing": (program("gramine-sgx-sign", "exit 3"), "gramine-sgx-sign failed (status 3); nothing was replaced"),
    "a signature that is none": (program("gramine-sgx-sign", "touch rkeyserver.{manifest.sgx,sig}"), "has 0 bytes"),
    "no signature": (program("gramine-sgx-sign", "exit 0"), "made no rkeyserver.manifest.sgx"),
    "no C library": (lambda gramine: c_library(gramine).unlink(), "Gramine has no C library"),
    "an older C library": (lambda gramine: c_library(gramine).write_bytes(b"GLIBC_2.2"), "and Gramine's is 2.2:"),
}


@pytest.mark.parametrize(("change", "says"), FAILS.values(), ids=FAILS)
def test_what_fails_leaves_what_was_there(
    folder: Path, change: Callable[[Gramine], object], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gramine = install(folder / "gramine")
    change(gramine)
    monkeypatch.setenv("PATH", gramine.path())
    build = the_build()
    monkeypatch.setattr(build, "make_libraries", lambda _: None)
    monkeypatch.setattr(build, "build_image", lambda *_, **__: b"the package")
    # A tree of one file, which was built for the glibc of these tests.
    monkeypatch.setattr(build.enclave_tree, "make_tree", lambda *_: {"bin/python3": b"\x7fELF GLIBC_2.4"})
    with pytest.raises((RkeyError, SystemExit), match=re.escape(says)):
        build.main([str(folder / "out"), "--admins", str(folder / "admins.toml"), "--key", str(gramine.key)])
    assert (folder / "out" / "rkeyserver" / "rkeyserver").read_text() == "what was there"
    assert [path.name for path in (folder / "out" / "rkeyserver").iterdir()] == ["rkeyserver"]
    assert {path.name for path in (folder / "out").iterdir()} == {"enclave-key.pem", "rkeyserver"}


SHOWN: dict[str, tuple[bytes | None, str]] = {
    "not there": (None, "There is no"),
    "something else": (b"no signature", "has 12 bytes"),
    "a debug enclave's": (
        sigstruct.sign(
            image_signing_key(),
            mrenclave=bytes(32),
            attributes=sigstruct.attributes(debug=True),
            isv_prod_id=1,
            isv_svn=1,
        ),
        "debug enclave",
    ),
}


@pytest.mark.parametrize(("data", "says"), SHOWN.values(), ids=SHOWN)
def test_only_a_signature_is_shown(tmp_path: Path, data: bytes | None, says: str) -> None:
    if data is not None:
        (tmp_path / "rkeyserver.sig").write_bytes(data)
    with pytest.raises(RkeyError, match=says):
        the_build().main(["--show", str(tmp_path / "rkeyserver.sig")])


def test_the_signature_is_by_the_key_that_was_named(built: Built) -> None:
    public = image_signing_key().public_key().public_numbers()
    signature = (built[0].made / "rkeyserver.sig").read_bytes()
    assert signature[128:512] == public.n.to_bytes(384, "little")
