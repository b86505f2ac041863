"""A file keystore whose writer is killed at each system call, or whose disk fails: old or new, whole, always."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from tests.fakes.store_writer import record
from tests.fakes.traced_writer import DEADLINE, Point, Run, run, traced, writer_command, writer_environment

from rkeyserver.errors import EXIT_OK, EXIT_STATUS, Corrupt, Misuse, Unavailable
from rkeyserver.keystore.file import FileKeystore
from rkeyserver.keystore.store import KEPT

if TYPE_CHECKING:
    from pathlib import Path

WRITE = {
    "simulated": ["wait", "open", "load", "replace:new:of-old", "close"],
    "sgx": ["gramine", "wait", "open", "load", "replace:new:of-old", "close"],
}
STALE = "rkey.bin.new~0123456789abcdef"
NO_LINKS = "inject=?link,linkat:error=EPERM"
SHARDS = 4


def prepare(folder: Path, *, with_record: bool = True) -> Path:
    """A keystore as it is in the middle of its life: as many kept copies as may be, and a dead writer's left-over."""
    folder.mkdir()
    path = folder / "rkey.bin"
    (folder / STALE).write_bytes(b"half")
    if with_record:
        path.write_bytes(record("old"))
        path.chmod(0o600)
        for number in range(KEPT):
            kept = folder / f"rkey.bin.kept.{number}"
            kept.write_bytes(record(f"kept{number}"))
            os.utime(kept, (1000 + number, 1000 + number))
    return path


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def survey(path: Path, *, copies: int = 0) -> str:
    """What is stored after the writer's end: "old", "new" or "none". Everything that must hold then is checked.

    copies: how many copies there were before.
    """
    with FileKeystore.open(path) as store:
        assert not [name for name in names(path.parent) if ".new~" in name], "a temporary file outlived the next open"
        found = store.load()
        kept = [copy.read_bytes() for copy in store.kept()]
        if found is None:
            state = "none"
        else:
            state = next((word for word in ("old", "new") if found == record(word)), "torn")
            assert path.stat().st_mode & 0o777 == 0o600
        assert state != "torn"
        assert all(copy in [record("old"), *(record(f"kept{n}") for n in range(KEPT))] for copy in kept), "a torn copy"
        assert len(kept) >= copies, "more copies were removed than made"
        if state == "new" and copies:
            assert record("old") in kept
        assert store.replace(record("after"), "of-what-was-there") is (found is not None)
        assert store.load() == record("after")
        assert len(store.kept()) <= KEPT
    return state


@dataclass(frozen=True)
class Mode:
    with_record: bool
    injections: tuple[str, ...]
    before: str

    def kill_at(self, point: Point) -> list[str]:
        """The expressions for strace. A call that fails in this mode must also be the one that kills, there."""
        if self.injections and point.call in ("link", "linkat"):
            return [point.inject("error=EPERM:signal=SIGKILL")]
        return [*self.injections, point.inject("signal=SIGKILL")]


MODES = {
    "the first record": Mode(with_record=False, injections=(), before="none"),
    "a replacement": Mode(with_record=True, injections=(), before="old"),
    "a replacement without hard links": Mode(with_record=True, injections=(NO_LINKS,), before="old"),
}


@pytest.mark.sgx_too("a replacement")
@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES.keys())
def test_killed_at_every_system_call(tmp_path: Path, platform: str, mode: Mode, shard: int) -> None:
    write = WRITE[platform]
    whole = prepare(tmp_path / "whole", with_record=mode.with_record)
    undisturbed = traced(whole, write, list(mode.injections), tmp_path / "trace")
    assert undisturbed.status == EXIT_OK, undisturbed.output
    points = undisturbed.points()
    assert len(points) > 30, "the trace misses system calls"
    states = []
    for number in range(shard, len(points), SHARDS):
        point = points[number]
        path = prepare(tmp_path / str(number), with_record=mode.with_record)
        killed = traced(path, write, mode.kill_at(point), tmp_path / "trace")
        assert killed.status == -signal.SIGKILL, f"not killed at {point.line}"
        states.append(survey(path, copies=KEPT if mode.with_record else 0))
        shutil.rmtree(path.parent)
    # Killed early it is as before, killed late it is new: and it changes once.
    assert states == sorted(states, key=["none", "old", "new"].index)
    assert states[0] == mode.before
    assert states[-1] == "new"


def test_durable_step_by_step(tmp_path: Path) -> None:
    path = prepare(tmp_path / "store")
    done = traced(path, WRITE["simulated"], [], tmp_path / "trace")
    points = done.points()
    order = [
        done.find(r"openat\(.*new~.*O_EXCL"),
        done.find(r"write\(.*new~"),
        done.find(r"fsync\(.*new~"),
        done.find(r"link(at)?\(.*kept\.of-old"),
        done.find(r"fsync\(\d+<[^>]*/store>"),
        done.find(r"fsync\(.*kept\.of-old"),
        done.find(r"rename(at2?)?\(.*new~"),
        done.find(r"fsync\(\d+<[^>]*/store>", 2),
        done.find(r"fsync\(.*rkey.bin>"),
        done.find(r'write\(1<.*"replace replaced'),
    ]
    places = [points.index(point) for point in order]
    assert places == sorted(places)
    assert len(set(places)) == len(places)


@dataclass(frozen=True)
class Failure:
    """A call of the write that fails: which, how, and what must come of it."""

    call: str
    error: str
    status: int
    left: str
    says: str
    nth: int = 1


UNAVAILABLE, CORRUPT, MISUSE = EXIT_STATUS[Unavailable], EXIT_STATUS[Corrupt], EXIT_STATUS[Misuse]
RENAME = r'rename(at2?)?\(.*new~.*/rkey\.bin"'  # over the record: a copy of it is renamed too
FAILURES = {
    # opening
    "no space for the lock": Failure(r"openat\(.*\.lock", "ENOSPC", UNAVAILABLE, "old", "Free some space"),
    "lock on a read-only disk": Failure(r"openat\(.*\.lock", "EROFS", UNAVAILABLE, "old", "writable"),
    "no right to the lock": Failure(r"openat\(.*\.lock", "EACCES", MISUSE, "old", "user write"),
    "no locks on this disk": Failure(r"fcntl\(.*SETLK", "ENOLCK", UNAVAILABLE, "old", "local file system"),
    "folder cannot be opened": Failure(r"openat\(.*O_DIRECTORY", "EIO", UNAVAILABLE, "old", "open the keystore's"),
    "folder cannot be listed": Failure(r"getdents64\(", "EIO", UNAVAILABLE, "old", "open the keystore's folder"),
    # reading
    "record cannot be opened: EIO": Failure(r'openat\(.*rkey.bin"', "EIO", CORRUPT, "old", "Input/output error"),
    "record cannot be opened: EACCES": Failure(r'openat\(.*rkey.bin"', "EACCES", CORRUPT, "old", "not readable for"),
    "record cannot be opened: ELOOP": Failure(r'openat\(.*rkey.bin"', "ELOOP", CORRUPT, "old", "symbolic link"),
    "record cannot be opened: ESTALE": Failure(r'openat\(.*rkey.bin"', "ESTALE", CORRUPT, "old", "Stale"),
    "record cannot be looked at": Failure(r"\w*fstat\w*\(\d.*rkey.bin>", "EIO", CORRUPT, "old", "Input/output error"),
    "record cannot be read": Failure(r"read\(.*rkey.bin>", "EIO", CORRUPT, "old", "Input/output error"),
    # writing
    "old record cannot be looked at": Failure(
        r'(newfstatat|lstat)\(.*rkey.bin", ', "EIO", UNAVAILABLE, "old", "look at", nth=3
    ),
    "new file: ENOSPC": Failure(r"openat\(.*new~.*O_EXCL", "ENOSPC", UNAVAILABLE, "old", "Free some space"),
    "new file: EMFILE": Failure(r"openat\(.*new~.*O_EXCL", "EMFILE", UNAVAILABLE, "old", "LimitNOFILE"),
    "new file's mode": Failure(r"fchmod\(.*new~", "EIO", UNAVAILABLE, "old", "write the new record"),
    "write: ENOSPC": Failure(r"write\(.*new~", "ENOSPC", UNAVAILABLE, "old", "Free some space"),
    "write: EDQUOT": Failure(r"write\(.*new~", "EDQUOT", UNAVAILABLE, "old", "quota"),
    "write: EIO": Failure(r"write\(.*new~", "EIO", UNAVAILABLE, "old", "dmesg"),
    "fsync: EIO": Failure(r"fsync\(.*new~", "EIO", UNAVAILABLE, "old", "write the new record"),
    "fsync: ENOSPC": Failure(r"fsync\(.*new~", "ENOSPC", UNAVAILABLE, "old", "Free some space"),
    "close: EIO": Failure(r"close\(.*new~", "EIO", UNAVAILABLE, "old", "write the new record"),
    "link: EIO": Failure(r"link(at)?\(.*kept", "EIO", UNAVAILABLE, "old", "keep the old record"),
    "link: ENOSPC": Failure(r"link(at)?\(.*kept", "ENOSPC", UNAVAILABLE, "old", "Free some space"),
    "first fsync of the folder": Failure(r"fsync\(.*/store>", "EIO", UNAVAILABLE, "old", "old record is in place"),
    "rename: EIO": Failure(RENAME, "EIO", UNAVAILABLE, "old", "rename the new record"),
    "rename: EROFS": Failure(RENAME, "EROFS", UNAVAILABLE, "old", "writable"),
    "rename: EBUSY": Failure(RENAME, "EBUSY", MISUSE, "old", "Mount a folder instead"),
    "second fsync of the folder": Failure(r"fsync\(.*/store>", "EIO", UNAVAILABLE, "new", "power failure", nth=2),
    # what has a new name, by that name
    "fsync of the kept copy": Failure(r"fsync\(.*kept", "EIO", UNAVAILABLE, "old", "old record is in place"),
    "fsync of the renamed record": Failure(r"fsync\(.*rkey.bin>", "EIO", UNAVAILABLE, "new", "power failure"),
    # not worth failing for
    "note in the lock": Failure(r"pwrite64\(.*lock", "ENOSPC", EXIT_OK, "new", "replace replaced"),
    "left-over cannot be removed": Failure(r"unlink(at)?\(.*new~", "EIO", EXIT_OK, "new", "replace replaced"),
    "oldest copy cannot be removed": Failure(r"unlink(at)?\(.*kept", "EIO", EXIT_OK, "new", "replace replaced"),
    # without hard links a copy does
    "no link: EPERM": Failure(r"link(at)?\(.*kept", "EPERM", EXIT_OK, "new", "replace replaced"),
    "no link: EOPNOTSUPP": Failure(r"link(at)?\(.*kept", "EOPNOTSUPP", EXIT_OK, "new", "replace replaced"),
    "no link: ENOSYS": Failure(r"link(at)?\(.*kept", "ENOSYS", EXIT_OK, "new", "replace replaced"),
    "no link: EMLINK": Failure(r"link(at)?\(.*kept", "EMLINK", EXIT_OK, "new", "replace replaced"),
    "no link: EXDEV": Failure(r"link(at)?\(.*kept", "EXDEV", EXIT_OK, "new", "replace replaced"),
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, platform: str) -> Run:
    folder = tmp_path_factory.mktemp("undisturbed")
    return traced(prepare(folder / "store"), WRITE[platform], [], folder / "trace")


def check(done: Run, failure: Failure, path: Path) -> None:
    said = "\n".join(done.output)
    assert any("(INJECTED)" in line for line in done.trace), "the failure never came"
    assert done.status == failure.status, said
    assert failure.says in said
    assert "Traceback" not in done.log
    if failure.status != EXIT_OK:
        left = [name for name in names(path.parent) if ".new~" in name and name != STALE]
        assert left == [], "the writer did not clean up"
    assert survey(path, copies=KEPT) == failure.left


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES.keys())
def test_a_failing_call(tmp_path: Path, platform: str, undisturbed: Run, failure: Failure) -> None:
    path = prepare(tmp_path / "store")
    point = undisturbed.find(failure.call, failure.nth)
    check(traced(path, WRITE[platform], [point.inject(f"error={failure.error}")], tmp_path / "trace"), failure, path)


COPY_FAILURES = {
    "copy: new file": Failure(r"openat\(.*new~.*O_EXCL", "ENOSPC", UNAVAILABLE, "old", "keep the old record", nth=2),
    "copy: write": Failure(r"write\(.*new~", "ENOSPC", UNAVAILABLE, "old", "keep the old record", nth=2),
    "copy: fsync": Failure(r"fsync\(.*new~", "EIO", UNAVAILABLE, "old", "keep the old record", nth=2),
    "copy: rename": Failure(r"rename(at2?)?\(.*new~", "EIO", UNAVAILABLE, "old", "keep the old record"),
    "copy: old one unreadable": Failure(r"read\(.*rkey.bin>", "EIO", UNAVAILABLE, "old", "keep the old record", nth=3),
}


@pytest.mark.parametrize("failure", COPY_FAILURES.values(), ids=COPY_FAILURES.keys())
def test_a_failing_copy(tmp_path: Path, platform: str, failure: Failure) -> None:
    first = traced(prepare(tmp_path / "first"), WRITE[platform], [NO_LINKS], tmp_path / "trace")
    path = prepare(tmp_path / "store")
    point = first.find(failure.call, failure.nth)
    done = traced(path, WRITE[platform], [NO_LINKS, point.inject(f"error={failure.error}")], tmp_path / "trace")
    check(done, failure, path)
    assert not (path.parent / "rkey.bin.kept.of-old").exists(), "half a copy under a kept name"


def test_fsync_fails_and_so_does_the_cleaning_up(tmp_path: Path, platform: str, undisturbed: Run) -> None:
    path = prepare(tmp_path / "store")
    injections = [undisturbed.find(r"fsync\(.*new~").inject("error=EIO"), "inject=?unlink,unlinkat:error=EIO"]
    done = traced(path, WRITE[platform], injections, tmp_path / "trace")
    assert done.status == UNAVAILABLE
    assert "The next start will" in done.log
    assert survey(path, copies=KEPT) == "old"


def test_a_read_that_ends_early_is_corrupt(tmp_path: Path, platform: str, undisturbed: Run) -> None:
    path = prepare(tmp_path / "store")
    point = undisturbed.find(r"read\(.*rkey.bin>")
    done = traced(path, WRITE[platform], [point.inject("retval=0")], tmp_path / "trace")
    assert done.status == CORRUPT
    assert f"gave 0 bytes where {len(record('old'))} were wanted" in done.output[-1]
    assert survey(path, copies=KEPT) == "old"


def test_a_write_that_ends_early_then_fails(tmp_path: Path) -> None:
    path = prepare(tmp_path / "store")
    done = run(path, "limit:5000", "open", "replace:new:of-old")
    assert done.status == UNAVAILABLE, done.log
    assert "File too large" in done.output[-1]
    assert survey(path, copies=KEPT) == "old"


# What follows needs a mount namespace of its own: root, or a kernel that lets users have them.

_FILL = 'dd if=/dev/zero of="$1/fill" bs=4096 status=none 2>/dev/null || true'
_STATE = 'set +e; "$@"; echo "status $?"; cat "$folder/rkey.bin"; echo; ls -A "$folder"'


def in_namespace(script: str, folder: Path, *commands: str) -> tuple[int, str, str, list[str]]:
    """Run the writer in a mount namespace that `script` prepared: its status, output, the record, the names there."""
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    shell = f"set -e; folder=$1; {script}; shift; {_STATE}"
    done = subprocess.run(
        [*unshare, "sh", "-c", shell, "sh", str(folder), *writer_command(folder / "rkey.bin", *commands)],
        env=writer_environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert "status " in done.stdout, f"the namespace could not be prepared: {done.stderr}"
    output, _, rest = done.stdout.partition("status ")
    status, content, *listed = rest.split("\n")
    return int(status), output, content, listed[:-1]


def _tmpfs(pages: int) -> str:
    old = f'{sys.executable} -c \'print("<" + "old" * 3000 + ">", end="")\' > "$1/rkey.bin"; chmod 600 "$1/rkey.bin"'
    return f'mount -t tmpfs -o size={pages * 4}k none "$1"; {old}'


def test_full_disk(tmp_path: Path) -> None:
    script = f"{_tmpfs(16)}; {_FILL}"
    status, output, content, listed = in_namespace(script, tmp_path, "open", "load", "replace:new:of-old")
    assert "load old" in output, "a full disk keeps the old record from being opened"
    assert status == UNAVAILABLE
    assert "No space left on device" in output
    assert "Free some space" in output
    assert content == record("old").decode()
    assert listed == ["fill", "rkey.bin", "rkey.bin.lock"]


def test_disk_full_in_mid_write(tmp_path: Path) -> None:
    # One page is left and the record needs three: a short write, then none.
    script = f'{_tmpfs(16)}; {_FILL}; truncate -s -4096 "$1/fill"'
    status, output, content, listed = in_namespace(script, tmp_path, "open", "replace:new:of-old")
    assert status == UNAVAILABLE
    assert "No space left on device" in output
    assert content == record("old").decode()
    assert listed == ["fill", "rkey.bin", "rkey.bin.lock"]


def test_room_again_after_a_full_disk(tmp_path: Path) -> None:
    script = f'{_tmpfs(16)}; {_FILL}; rm "$1/fill"'
    status, output, content, _ = in_namespace(script, tmp_path, "open", "replace:new:of-old", "load")
    assert (status, content) == (EXIT_OK, record("new").decode()), output


def test_read_only_mount(tmp_path: Path) -> None:
    script = f'{_tmpfs(16)}; mount -o remount,ro "$1"'
    status, output, content, listed = in_namespace(script, tmp_path, "open")
    assert status == UNAVAILABLE
    assert "Read-only file system" in output
    assert "Mount" in output
    assert content == record("old").decode()
    assert listed == ["rkey.bin"]


@pytest.mark.parametrize("name", ["store", "a store", "back\\slash\ttab"])
def test_a_file_mounted_by_itself(tmp_path: Path, name: str) -> None:
    path = prepare(tmp_path / name)
    script = 'mount --bind "$1/rkey.bin" "$1/rkey.bin"'
    status, output, content, listed = in_namespace(script, path.parent, "open", "replace:new:of-old")
    assert status == MISUSE
    shown = str(path.parent).replace("\t", "\\t")  # errors are one printable line
    assert f"Mount a folder instead (for example on {shown})" in output
    assert content == record("old").decode()
    assert "rkey.bin.lock" not in listed
    assert survey(path, copies=KEPT) == "old"


def test_the_folder_mounted_over(tmp_path: Path) -> None:
    path = prepare(tmp_path / "store")
    script = 'mount --bind "$1" "$1"'
    status, output, content, _ = in_namespace(script, path.parent, "open", "replace:new:of-old")
    assert (status, content) == (EXIT_OK, record("new").decode()), output


# What a user without rights meets. As root the child gives up its rights first.

NOBODY = 65534


@pytest.fixture
def unprivileged(tmp_path: Path) -> Path:
    """A keystore that belongs to the user the child will be, in a folder that this user can reach."""
    path = prepare(tmp_path / "store")
    if os.geteuid() == 0:
        for file in [path.parent, *path.parent.iterdir()]:
            os.chown(file, NOBODY, NOBODY)
        folder = path.parent
        for parent in folder.parents:
            if parent.stat().st_mode & 0o001:
                break
            parent.chmod(parent.stat().st_mode | 0o011)
    return path


def test_record_without_the_right_to_read(unprivileged: Path) -> None:
    unprivileged.chmod(0)
    done = run(unprivileged, f"become:{NOBODY}", "open", "load")
    assert done.status == CORRUPT, done.output
    assert "not readable for user" in done.output[-1]
    unprivileged.chmod(0o600)
    assert unprivileged.read_bytes() == record("old")


@pytest.mark.parametrize("mode", [0o555, 0o500, 0o111, 0o000], ids=oct)
def test_folder_without_the_right_to_write(unprivileged: Path, mode: int) -> None:
    unprivileged.parent.chmod(mode)
    done = run(unprivileged, f"become:{NOBODY}", "open", "load")
    unprivileged.parent.chmod(0o700)
    assert done.status == MISUSE, done.output
    assert "Permission denied" in done.output[-1]
    assert survey(unprivileged, copies=KEPT) == "old"


def test_folder_without_the_right_to_list(unprivileged: Path) -> None:
    unprivileged.parent.chmod(0o300)
    done = run(unprivileged, f"become:{NOBODY}", "open", "load")
    unprivileged.parent.chmod(0o700)
    assert done.status == UNAVAILABLE, done.output
    assert "open the keystore's folder" in done.output[-1]
    assert survey(unprivileged, copies=KEPT) == "old"


@pytest.mark.parametrize("umask", ["000", "022", "077", "277", "777"])
def test_mode_is_0600_whatever_the_umask(unprivileged: Path, umask: str) -> None:
    done = run(unprivileged, f"become:{NOBODY}", f"umask:{umask}", "open", "replace:new:of-old", "close", "open")
    assert done.status == EXIT_OK, done.output
    modes = {name: (unprivileged.parent / name).stat().st_mode & 0o777 for name in names(unprivileged.parent)}
    assert modes["rkey.bin"] == modes["rkey.bin.lock"] == modes["rkey.bin.kept.of-old"] == 0o600
