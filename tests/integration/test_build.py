"""What `make` builds: the same bytes everywhere, run with nothing of the caller's, and refused once changed."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from tests.fakes.audit_lines import decisions_in

import rkeyserver
from rkeyserver.errors import EXIT_STATUS, Corrupt, Misuse
from rkeyserver.platforms.sigstruct import SIZE as SIGSTRUCT_SIZE
from rkeyserver.platforms.simulated.image import load_signed, measure

ROOT = Path(__file__).parents[2]
IMAGE = "libenclave-rkeyserver.so"
SIGNED = "libenclave-rkeyserver.signed.so"
VERSION = f"rkeyserver {rkeyserver.__version__}\n"
DEADLINE = 60


def copy_of_the_tree(folder: Path) -> Path:
    for name in ("tools", "src", "requirements"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy2(ROOT / "Makefile", folder / "Makefile")
    return folder


def make(tree: Path, **environment: str) -> str:
    """`make`, with no target named, in the virtual environment that runs the tests; what it printed."""
    venv = Path(sys.prefix)
    done = subprocess.run(
        ["make", "--no-print-directory", "-o", str(venv / ".ready"), f"VENV={venv}"],
        cwd=tree,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def measurement(said: str) -> list[str]:
    """The lines with what was measured; before them, pip may have warned of something."""
    lines = said.splitlines()[-4:]
    assert "MRENCLAVE" in lines[0]
    return lines


@dataclass(frozen=True)
class Built:
    tree: Path
    said: str

    @property
    def folder(self) -> Path:
        return self.tree / "out" / "rkeyserver"

    def measured(self) -> str:
        return load_signed((self.folder / SIGNED).read_bytes()).mrenclave.hex()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    tree = copy_of_the_tree(tmp_path_factory.mktemp("tree"))
    return Built(tree, make(tree))


@pytest.fixture
def copy(built: Built, tmp_path: Path) -> Path:
    """out as an operator has it: a copy elsewhere, to which a test may do anything."""
    (tmp_path / "opt").mkdir()
    shutil.copytree(built.tree / "out" / "rkeyserver", tmp_path / "opt" / "rkeyserver")
    (tmp_path / "opt" / "lib").symlink_to(built.tree / "out" / "lib")
    return tmp_path / "opt" / "rkeyserver"


def run(*words: str | Path, cwd: Path | str = "/", **environment: str) -> subprocess.CompletedProcess[str]:
    """A command with this environment and nothing else in it."""
    return subprocess.run(
        words, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=DEADLINE
    )


def test_what_is_built(built: Built) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in built.folder.iterdir()}
    assert modes == {"rkeyserver": 0o755, IMAGE: 0o644, SIGNED: 0o644}
    image, signed = (built.folder / IMAGE).read_bytes(), (built.folder / SIGNED).read_bytes()
    assert signed[SIGSTRUCT_SIZE:] == image
    assert load_signed(signed).mrenclave == measure(image)
    assert os.fsencode(built.tree) not in image


def test_image_holds_the_package_and_nothing_else(built: Built) -> None:
    source = built.tree / "src"
    wanted = {
        str(path.relative_to(source)): path.read_bytes()
        for path in (source / "rkeyserver").rglob("*")
        if path.suffix in {".py", ".toml"}
    }
    for name in (IMAGE, SIGNED):
        with zipfile.ZipFile(built.folder / name) as archive:
            found = {entry: archive.read(entry) for entry in archive.namelist()}
        bytecode = {entry for entry in found if entry.endswith(".pyc")}
        assert {entry: data for entry, data in found.items() if entry not in bytecode} == wanted
        assert bytecode == {f"{entry}c" for entry in wanted if entry.endswith(".py")}


def test_build_says_what_it_measures(built: Built) -> None:
    made = load_signed((built.folder / SIGNED).read_bytes())
    for name, value in (
        ("MRENCLAVE", made.mrenclave.hex()),
        ("MRSIGNER", made.mrsigner.hex()),
        ("product id", str(made.isv_prod_id)),
        ("version", str(made.isv_svn)),
    ):
        assert re.search(rf"^ *{name} +{value}$", built.said, re.MULTILINE)


def test_same_bytes_in_another_folder(built: Built, tmp_path: Path) -> None:
    deeper = tmp_path / "a folder" / "of another name"
    deeper.mkdir(parents=True)
    tree = copy_of_the_tree(deeper)
    for path in sorted((tree / "src").rglob("*"), reverse=True):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    make(tree, PYTHONHASHSEED="7", PYTHONOPTIMIZE="2", TZ="Asia/Tokyo", LC_ALL="C")
    for name in (IMAGE, SIGNED):
        assert (tree / "out" / "rkeyserver" / name).read_bytes() == (built.folder / name).read_bytes()


def test_second_make_changes_nothing_and_a_change_of_the_source_does(tmp_path: Path) -> None:
    tree = copy_of_the_tree(tmp_path)
    first = Built(tree, make(tree))

    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (tree / "out").rglob("*") if path.is_file()}

    before, measured = times(), first.measured()
    assert measurement(make(tree)) == measurement(first.said)
    assert times() == before
    extra = tree / "src" / "rkeyserver" / "extra.py"
    extra.write_text("EXTRA = 1\n")
    make(tree)
    changed = first.measured()
    extra.unlink()
    make(tree)
    assert changed != measured
    assert first.measured() == measured, "a source that is gone is gone from the image"


HOSTILE = "raise SystemExit('the hostile module was imported')\n"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder with modules that take the place of ours and of Python's, if anything looks there."""
    folder = tmp_path / "hostile"
    (folder / "rkeyserver").mkdir(parents=True)
    for name in ("rkeyserver/__init__", "sitecustomize", "usercustomize", "argparse", "logging", "msgspec", "os"):
        (folder / f"{name}.py").write_text(HOSTILE)
    return folder


@pytest.mark.parametrize(("option", "wanted"), [("--version", VERSION), ("-h", "usage: rkeyserver ")])
@pytest.mark.parametrize(
    "how", ["empty environment", "hostile environment", "hostile folder", "symlink", "named to an interpreter"]
)
def test_runs_alone(built: Built, hostile: Path, how: str, option: str, wanted: str) -> None:
    program: list[str | Path] = [built.folder / "rkeyserver"]
    environment: dict[str, str] = {}
    folder = Path("/")
    match how:
        case "hostile environment":
            environment = {name: str(hostile) for name in ("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "HOME")}
            environment["PYTHONSTARTUP"] = str(hostile / "os.py")
        case "hostile folder":
            folder = hostile
        case "symlink":
            link = hostile / "link"
            link.symlink_to(program[0])
            program = [link]
        case "named to an interpreter":
            environment = {"PYTHONPATH": str(hostile / "none")}
            program = [os.path.realpath(sys.executable), *program]
    done = run(*program, option, cwd=folder, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(wanted)


PROBE = """
import json, runpy, sys
program = sys.argv.pop(1)
try:
    runpy.run_path(program, run_name="__main__")
except SystemExit:
    pass
import rkeyserver.service.run, rkeyserver.appraisal.defaults
rkeyserver.appraisal.defaults.default_policy("simulated", mrsigner="00" * 32, isv_prod_id=1)
specs = {name: getattr(module, "__spec__", None) for name, module in sys.modules.items()}
print(json.dumps({name: spec.origin for name, spec in specs.items() if spec}))
"""


def test_code_is_loaded_from_the_signed_image(built: Built) -> None:
    """And the libraries from lib; of the environment that built it nothing is used."""
    interpreter = (built.folder / "rkeyserver").read_text().split()[0].removeprefix("#!")
    done = run(interpreter, "-IS", "-c", PROBE, built.folder / "rkeyserver", "--version")
    assert done.returncode == 0, done.stderr
    origins: dict[str, str | None] = json.loads(done.stdout.removeprefix(VERSION))
    standard = Path(os.__file__).parent
    seen = set()
    for name, origin in origins.items():
        top = name.partition(".")[0]
        if origin in (None, "built-in", "frozen") or top in sys.stdlib_module_names:
            continue
        assert origin is not None
        seen.add(top)
        wanted = built.folder / SIGNED if top == "rkeyserver" else built.tree / "out" / "lib"
        assert Path(origin).is_relative_to(wanted), name
        assert not Path(origin).is_relative_to(standard / "site-packages"), name
    assert {"rkeyserver", "msgspec", "cryptography", "uvicorn"} <= seen


IMPORTED = """
import sys
sys.path[:0] = sys.argv[1:]
from rkeyserver.client import Client
from rkeyserver.errors import Unavailable
try:
    Client(["unix:/nobody"]).derive("x")
except Unavailable as error:
    print(error, sys.modules["httptools"].__file__.startswith(sys.argv[2]))
"""


def test_a_program_imports_the_client_from_what_was_built(built: Built) -> None:
    """As docs/integrations/python.md has it: the image and the libraries, and nothing installed."""
    interpreter = (built.folder / "rkeyserver").read_text().split()[0].removeprefix("#!")
    done = run(interpreter, "-IS", "-c", IMPORTED, built.folder / IMAGE, built.tree / "out" / "lib")
    assert done.stdout.startswith("No server helped, 2 times each: unix:/nobody: No such file or directory."), done
    assert done.stdout.endswith("True\n")


def test_another_python_is_refused_in_words(copy: Path) -> None:
    program = copy / "rkeyserver"
    text = program.read_text()
    built_for = f"BUILT_FOR = {sys.version_info[:2]!r}"
    assert built_for in text
    program.write_text(text.replace(built_for, "BUILT_FOR = (3, 99)"))
    done = run(program, "--version")
    assert (done.returncode, done.stdout) == (EXIT_STATUS[Misuse], "")
    assert "this was built for 3.99" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("building", ROOT / "tools" / "building.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("folder", "first"),
    [
        pytest.param("plain", "#!", id="one line"),
        pytest.param("with a space", "#!/bin/sh", id="a space"),
        pytest.param("x" * 200, "#!/bin/sh", id="longer than the kernel reads"),
    ],
)
def test_any_interpreter_is_found(copy: Path, tool: ModuleType, folder: str, first: str) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as short:  # tmp_path is long itself
        python = Path(short) / folder / "python"
        python.parent.mkdir()
        python.symlink_to(os.path.realpath(sys.executable))
        call = "from rkeyserver.cli.main import main\n\nreturn main()"
        text = tool.launcher(str(python), "For a test.", SIGNED, call).decode()
        assert text.split("\n")[0] == (f"#!{python} -IS" if first == "#!" else first)
        (copy / "rkeyserver").write_text(text)
        done = run(copy / "rkeyserver", "--version", "an argument with spaces")
        assert (done.returncode, done.stdout, done.stderr) == (0, VERSION, "")


def test_interpreter_that_cannot_be_quoted(tool: ModuleType) -> None:
    with pytest.raises(SystemExit, match="cannot be quoted"):
        tool.first_lines('/opt/a "quoted" folder/python')


def options(keystore: Path, machine: Path) -> list[str]:
    return ["--platform", "simulated", "--machine", str(machine), "--keystore", str(keystore)]


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def flip_inside(entry: str) -> Callable[[Path], bytes]:
    """Flip a byte in the middle of one file of the archive, one that a start does not need."""

    def change(folder: Path) -> bytes:
        signed = (folder / SIGNED).read_bytes()
        with zipfile.ZipFile(folder / SIGNED) as archive:
            content = archive.read(entry)
        return flip(signed, signed.index(content) + len(content) // 2)

    return change


def flip_at(offset: int) -> Callable[[Path], bytes]:
    return lambda folder: flip((folder / SIGNED).read_bytes(), offset)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        pytest.param(flip_inside("rkeyserver/cli/status.py"), "The enclave image measures", id="source"),
        pytest.param(flip_inside("rkeyserver/cli/status.pyc"), "The enclave image measures", id="bytecode"),
        pytest.param(
            flip_inside("rkeyserver/appraisal/default_simulated.toml"),
            "The enclave image measures",
            id="default policy",
        ),
        pytest.param(flip_at(600), "signature does not hold", id="signature"),
        pytest.param(flip_at(960), "signature does not hold", id="measurement signed for"),
        pytest.param(flip_at(1026), "signature does not hold", id="version"),
        pytest.param(flip_at(1100), "wrong quotients", id="quotient"),
        pytest.param(
            lambda folder: (folder / SIGNED).read_bytes() + b"more",
            "The enclave image measures",
            id="something appended",
        ),
        pytest.param(lambda folder: (folder / IMAGE).read_bytes(), "no signed enclave image", id="the unsigned image"),
    ],
)
def test_changed_image_is_refused_at_start(
    copy: Path, tmp_path: Path, change: Callable[[Path], bytes], found: str
) -> None:
    (copy / SIGNED).write_bytes(change(copy))
    keystore, machine = tmp_path / "rkey.bin", tmp_path / "machine"
    done = run(copy / "rkeyserver", *options(keystore, machine), "--listen", "127.0.0.1:0", "--ops", "127.0.0.1:0")
    assert done.returncode == EXIT_STATUS[Corrupt], done.stderr
    assert found in done.stderr.splitlines()[-1]
    assert not keystore.exists()
    assert not machine.exists()


@contextlib.contextmanager
def primary(program: Path, folder: Path) -> Iterator[str]:
    """An instance, and the port for its peers."""
    folder.mkdir()
    words = options(folder / "rkey.bin", folder / "machine")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, (folder / "log").open("wb") as log:
        manager.bind(str(folder / "notify"))
        with subprocess.Popen(
            [program, *words, "--listen", "127.0.0.1:0", "--ops", "127.0.0.1:0"],
            env={"NOTIFY_SOCKET": str(folder / "notify")},
            stderr=log,
        ) as process:
            try:
                until = time.monotonic() + DEADLINE
                while not select.select([manager], [], [], 0.1)[0]:
                    assert process.poll() is None, (folder / "log").read_text()
                    assert time.monotonic() < until, (folder / "log").read_text()
                port = re.search(r"Serving as primary on 127\.0\.0\.1:(\d+);", (folder / "log").read_text())
                assert port
                yield port[1]
                process.send_signal(signal.SIGTERM)
                assert process.wait(DEADLINE) == 0
            finally:
                process.kill()


def test_hand_over_between_two_that_were_built(built: Built, tmp_path: Path) -> None:
    """The evidence of each names what was measured when it was built; the processes that verify it run it too."""
    program, backup = built.folder / "rkeyserver", tmp_path / "backup"
    backup.mkdir()
    with primary(program, tmp_path / "primary") as port:
        words = options(backup / "rkey.bin", backup / "machine")
        done = run(program, "-i", "127.0.0.1", "-p", port, "--once", *words)
    assert done.returncode == 0, done.stderr
    assert "Successfully received the DomainKey from deploy server." in done.stdout
    for folder, event in ((tmp_path / "primary", "hand-over"), (backup, "join")):
        lines = decisions_in(folder / "rkey.bin.audit.jsonl")
        (decision,) = [line for line in lines if line["event"] == event]
        assert (decision["verdict"], decision["peer"]["mrenclave"]) == ("accepted", built.measured())


def test_demo_tells_what_happens_without_root(built: Built, tmp_path: Path) -> None:
    shown = subprocess.run(
        # Whoever runs the tests: inside, a user with none of root's rights.
        [
            "unshare",
            "--user",
            "--map-user=1000",
            "--map-group=1000",
            sys.executable,
            ROOT / "tools/demo.py",
            built.folder.parent,
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE,  # two acts
        check=False,
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert re.findall(r"^(\d+)\. ", shown.stdout, re.MULTILINE) == [str(number) for number in range(1, 13)]
    for words in (
        "Made the root key of a new domain",
        "Successfully received the DomainKey from deploy",
        '"verdict":"accepted"',
        "The record was sealed by machine",
        "wrong-signer",
        "A generation was added",
        "This machine is: simulated",
        "Recovered domain",
        "is current.",
        "is retired.",
        "is a standby; what is changed is changed at the primary",
        "It has stepped down by itself.",
        "is primary, and may rotate:",
        "All of it happened as told",
    ):
        assert words in shown.stdout
    assert list(tmp_path.iterdir()) == []
    assert str(tmp_path) not in subprocess.run(["ps", "axww"], capture_output=True, text=True, check=True).stdout
