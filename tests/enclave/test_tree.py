"""The curated tree, and the program in it: in a root that has the tree and Gramine's C library, and nothing else.

What starts there is what the manifest starts, with its arguments and its environment (tests/fakes/enclave_root.py).
"""

from __future__ import annotations

import importlib.machinery
import io
import json
import os
import stat
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from tests.enclave.conftest import Tree
from tests.fakes.enclave_root import EnclaveRoot

import enclave_modules
import enclave_tree
from building import IMAGE
from rkeyserver.errors import EXIT_STATUS, Misuse

Built = tuple[Tree, str]
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
ZIPS = (f"lib/python{VERSION.replace('.', '')}.zip", "lib/libraries.zip", IMAGE)
MOST_FILES = 300
MOST_BYTES = 128 * 2**20  # with an interpreter that has its debugging symbols; 67 MB with Debian 12's
UNCHECKED = b"\x01\0\0\0"


@pytest.fixture
def root(built: Built, tmp_path: Path) -> EnclaveRoot:
    for name in ("root", "state"):
        (tmp_path / name).mkdir()
    (tmp_path / "options.json").write_text('{"command":"doctor","options":{"keystore":"rkey.bin"}}')
    return EnclaveRoot(built[0].made, tmp_path / "root", tmp_path / "state", tmp_path / "options.json")


def run(root: EnclaveRoot, *argv: str) -> subprocess.CompletedProcess[str]:
    hostile = {**os.environ, "PYTHONPATH": "/tmp", "PYTHONSTARTUP": "/etc/passwd", "LD_PRELOAD": ""}  # noqa: S108 - they are not read: that is what is shown
    return subprocess.run(
        root.command(argv), env=hostile, capture_output=True, text=True, check=False, timeout=60, cwd="/"
    )


def python(root: EnclaveRoot, script: str) -> subprocess.CompletedProcess[str]:
    """A script in the place of the tree's own, found and started as that one."""
    path = root.options.with_name("start.py")
    path.write_text(script)
    return run(EnclaveRoot(root.image, root.root, root.state, root.options, over={"/rkeyserver/start.py": path}))


def names_in(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in opened.infolist())
        return {name: opened.read(name) for name in opened.namelist()}


def files(tree: Tree) -> dict[str, bytes]:
    folder = tree.made / "enclave"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def modules(tree: Tree) -> dict[str, str]:
    """Every module of the tree, and its file; one in an archive as ARCHIVE/NAME."""
    found: dict[str, str] = {}
    suffixes = (".pyc", *importlib.machinery.EXTENSION_SUFFIXES)
    places = {"lib/packages/": "", f"lib/python{VERSION}/lib-dynload/": ""} | {f"{name}/": "" for name in ZIPS}
    inside = {f"{name}/{entry}" for name in ZIPS for entry in names_in((tree.made / "enclave" / name).read_bytes())}
    for name in sorted({*files(tree), *inside}):
        place = next((place for place in places if name.startswith(place)), None)
        suffix = next((suffix for suffix in suffixes if name.endswith(suffix)), None)
        if place is not None and suffix is not None:
            module = name.removeprefix(place).removesuffix(suffix).replace("/", ".").removesuffix(".__init__")
            found[module] = name
    return found


def test_it_is_small(built: Built) -> None:
    found = files(built[0])
    assert len(found) < MOST_FILES
    assert sum(map(len, found.values())) < MOST_BYTES


def test_every_file_is_a_file_with_the_same_rights(built: Built) -> None:
    folder = built[0].made / "enclave"
    for path in folder.rglob("*"):
        mode = path.lstat().st_mode
        wanted = stat.S_IFDIR | 0o755 if path.is_dir() else stat.S_IFREG | 0o644
        assert mode == (stat.S_IFREG | 0o755 if path.relative_to(folder) == Path("bin/python3") else wanted), path


def test_python_is_there_as_bytecode_that_is_not_checked_against_a_source(built: Built) -> None:
    found = files(built[0])
    assert {name for name in found if name.endswith(".py")} == {"start.py"}
    code = {name: data for name, data in found.items() if name.endswith(".pyc")}
    for archive in ZIPS:
        inside = names_in(found[archive])
        assert {Path(name).suffix for name in inside} <= {".pyc", ".toml"}
        code |= {f"{archive}/{name}": data for name, data in inside.items() if name.endswith(".pyc")}
    magic = importlib.util.MAGIC_NUMBER
    assert not [name for name, data in code.items() if data[:4] != magic or data[4:8] != UNCHECKED]


def test_nothing_of_the_simulation_is_in_it(built: Built) -> None:
    found = files(built[0])
    names = {*found, *(name for archive in ZIPS for name in names_in(found[archive]))}
    assert [name for name in names if "simulated" in name] == []
    image = b"".join(names_in(found[IMAGE]).values())
    assert b"PUBLIC DEVELOPMENT ROOT" not in image
    assert b"public development key" not in image


def test_what_only_the_host_needs_is_not_in_it(built: Built) -> None:
    found = set(modules(built[0]))
    for name in ("rkeyserver.cli.policy", "rkeyserver.cli.launch", "rkeyserver.platforms.archive", "tomlkit", "bcrypt"):
        assert name not in found, name


def test_the_c_library_is_gramines_alone(built: Built) -> None:
    native = {name.removeprefix("lib/native/") for name in files(built[0]) if name.startswith("lib/native/")}
    assert native
    assert native & enclave_tree.OF_GRAMINE == set()


def test_no_path_of_the_builder_is_in_what_was_made_here(built: Built) -> None:
    tree, _ = built
    found = files(tree)
    for name in (*ZIPS, "start.py", "measured.toml", *(name for name in found if name.endswith(".pyc"))):
        for path in (tree.folder, sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")):
            assert os.fsencode(path) not in found[name], name
    for name in ("rkeyserver.manifest", "rkeyserver.manifest.sgx"):
        assert str(tree.folder) not in (tree.made / name).read_text()


IMPORTER = """
import importlib, json

failed = {{}}
for name in {names!r}:
    try:
        importlib.import_module(name)
    except BaseException as error:  # a module may raise anything, SystemExit too
        failed[name] = repr(error)
specs = [getattr(module, "__spec__", None) for module in sys.modules.values()]
print(json.dumps([failed, list(sys.modules), [spec.origin for spec in specs if spec]]))
"""


def test_every_module_of_the_tree_imports_and_from_there(built: Built, root: EnclaveRoot) -> None:
    wanted = modules(built[0])
    where_from = enclave_tree.START_SOURCE.read_text().partition("\nfrom rkeyserver")[0]
    done = python(root, where_from + IMPORTER.format(names=sorted(wanted)))
    assert done.returncode == 0, done.stderr
    failed, loaded, origins = json.loads(done.stdout.splitlines()[-1])
    assert failed == {}
    assert set(wanted) <= set(loaded)
    elsewhere = set(origins) - {"built-in", "frozen", None}
    assert {origin for origin in elsewhere if not origin.startswith("/rkeyserver/")} == set()


def test_the_program_finds_nothing_but_the_tree(root: EnclaveRoot) -> None:
    done = python(
        root,
        "import json, os, sys\n"
        "print(json.dumps([sys.argv, sys.path, dict(os.environ), sys.flags.isolated, sys.flags.no_site,"
        " sys.dont_write_bytecode, sorted(os.listdir('/')), sorted(os.listdir('/etc'))]))\n",
    )
    assert done.returncode == 0, done.stderr
    short = VERSION.replace(".", "")
    assert json.loads(done.stdout) == [
        ["/rkeyserver/start.py"],
        [f"/rkeyserver/lib/python{end}" for end in (f"{short}.zip", VERSION, f"{VERSION}/lib-dynload")],
        root.environment,
        1,
        1,
        True,
        ["dev", "etc", "lib", "lib64", "options.json", "rkeyserver", "state", "tmp"],
        ["hosts", "nsswitch.conf", "openssl.cnf"],
    ]


def test_the_tree_cannot_be_written_to(root: EnclaveRoot) -> None:
    done = python(root, "open('/rkeyserver/measured.toml', 'a')\n")
    assert "Read-only file system" in done.stderr
    done = python(root, "open('/state/written', 'w').write('here'); open('/tmp/written', 'w')\n")
    assert done.returncode == 0, done.stderr
    assert (root.state / "written").read_text() == "here"


# As far as each gets without SGX: it has read its options and loaded what it needs.
NO_ENCLAVE = "There is no /dev/attestation: this process is in no SGX enclave of Gramine's."
COMMANDS: dict[str, tuple[str, int, str]] = {
    "serve": ('{"command":"serve","options":{"keystore":"rkey.bin"}}', EXIT_STATUS[Misuse], NO_ENCLAVE),
    "doctor": ('{"command":"doctor","options":{"keystore":"rkey.bin"}}', EXIT_STATUS[Misuse], NO_ENCLAVE),
    "identity": ('{"command":"identity","options":{}}', EXIT_STATUS[Misuse], NO_ENCLAVE),
    "another": ('{"command":"policy","options":{}}', EXIT_STATUS[Misuse], "The options"),
    "none": ("", EXIT_STATUS[Misuse], "The options"),
}


@pytest.mark.parametrize(("options", "status", "says"), COMMANDS.values(), ids=COMMANDS)
def test_the_commands(root: EnclaveRoot, options: str, status: int, says: str) -> None:
    root.options.write_text(options)
    done = run(root)
    assert (done.returncode, "Traceback" in done.stderr) == (status, False), done.stdout + done.stderr
    assert says in done.stdout + done.stderr
    assert list(root.state.iterdir()) == []


def test_what_is_left_out_has_a_reason_and_is_left_out(built: Built) -> None:
    found = modules(built[0])
    assert [name for name in found if enclave_modules.excluded(name)] == []
    assert all(reason.strip() for reason in enclave_modules.EXCLUDED.values())
