"""The local socket: who can connect to it, whom the kernel says that it is, and what it replaces."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.fakes.others import open_folder
from tests.fakes.processes import DEADLINE

from rkeyserver.appraisal.callers import LocalCaller
from rkeyserver.errors import Misuse, Unavailable
from rkeyserver.service.local_caller import is_owner, local_caller
from rkeyserver.service.local_socket import MOST, local_socket, reachable

NOBODY = 65534


def connects(path: Path) -> bool:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as client, reachable(path) as name:
        try:
            client.connect(name)
        except OSError:  # whatever keeps it out
            return False
        return True


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "local.socket"


@contextlib.contextmanager
def listening(path: Path, kind: socket.SocketKind = socket.SOCK_STREAM, backlog: int = 8) -> Iterator[socket.socket]:
    with contextlib.closing(socket.socket(socket.AF_UNIX, kind)) as other:
        other.bind(str(path))
        if kind is socket.SOCK_STREAM:
            other.listen(backlog)
        yield other


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777], ids=oct)
def test_anyone_may_connect_and_it_goes_with_its_context(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with local_socket(path) as listener:
            found = path.lstat()
            assert stat.S_ISSOCK(found.st_mode)
            assert stat.S_IMODE(found.st_mode) == 0o666
            assert not listener.getblocking()
        assert os.umask(umask) == umask, "the process's own was put back"
    finally:
        os.umask(before)
    assert not path.exists()


def test_it_can_be_connected_to(path: Path) -> None:
    with local_socket(path):
        assert connects(path)
    assert not connects(path)


@pytest.fixture
def reached() -> Iterator[Path]:
    """A path that everybody can reach."""
    with open_folder() as folder:
        yield folder / "socket"


# It becomes somebody else when it runs already: where the interpreter lies, others may have no way to.
BECOME = (
    "import json, os, socket, sys; path, uid, gid, groups = json.loads(sys.argv[1]); os.setgroups(groups); "
    "os.setresgid(gid, gid, gid); os.setresuid(uid, uid, uid); "
    "client = socket.socket(socket.AF_UNIX); client.connect(path); "
)


@contextlib.contextmanager
def connected_as(path: Path, uid: int, gid: int, groups: list[int], then: str = "") -> Iterator[subprocess.Popen[str]]:
    """A process of these ids that has connected, or ended by its refusal. It ends when its stdin does."""
    said = json.dumps([str(path), uid, gid, groups])
    command = [sys.executable, "-S", "-c", f"{BECOME}{then}sys.stdin.read()", said]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/") as process:
        try:
            yield process
        finally:
            if process.stdin is not None and not process.stdin.closed:
                process.stdin.close()
            process.wait(DEADLINE)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

# Who connects (uid, gid, supplementary groups), and all the groups that count.
Ids = tuple[int, int, list[int]]
WHO: dict[str, tuple[Ids, set[int]]] = {
    "a user": ((4711, 4712, []), {4712}),
    "a user in other groups": ((4711, 4712, [4713, 4714]), {4712, 4713, 4714}),
    "a user in root's group": ((4711, 4712, [0]), {4712, 0}),
    "root without a group": ((0, 0, []), {0}),
    "root in another group": ((0, 4712, [4713]), {4712, 4713}),
    "nobody": ((NOBODY, NOBODY, []), {NOBODY}),
    "as many groups as are asked for": ((4711, 4712, [*range(5000, 5256)]), {4712, *range(5000, 5256)}),
    "more groups than are asked for": ((4711, 4712, [*range(5000, 5257)]), {4712}),
}


@needs_root
@pytest.mark.parametrize(("ids", "groups"), WHO.values(), ids=WHO)
def test_the_kernel_says_who_connected(reached: Path, ids: Ids, groups: set[int]) -> None:
    with local_socket(reached) as listener:
        listener.settimeout(DEADLINE)
        with connected_as(reached, *ids) as process, listener.accept()[0] as server:
            found = local_caller(server)
            own = ids[0] == os.geteuid()
            assert found == LocalCaller(pid=process.pid, uid=ids[0], gids=frozenset(groups), own=own)
            assert is_owner(found) == (ids[0] == 0)


# Root, which may become anyone again, connects once more as somebody else: the effective ids count.
AS_4711 = (
    "os.setresuid(0, 4711, 0); client = socket.socket(socket.AF_UNIX); client.connect(path); os.setresuid(0, 0, 0); "
)

# What the process then does with its connection; it stays that of who made it.
PASSED_ON: dict[str, str] = {
    "who becomes another user": "os.setresuid(*[4715] * 3); ",
    "who forks": "os.fork() or (os.setresuid(*[4715] * 3), client.send(b'x')); ",
    "who hands it to another process": (
        "one, other = socket.socketpair(); "
        "os.fork() or (one.close(), os.setresuid(*[4715] * 3), socket.recv_fds(other, 1, 1), os._exit(0)); "
        "socket.send_fds(one, [b'x'], [client.fileno()]); os.wait(); "
    ),
}


@needs_root
@pytest.mark.parametrize("then", PASSED_ON.values(), ids=PASSED_ON)
def test_a_connection_stays_that_of_who_made_it(reached: Path, then: str) -> None:
    script = f"{AS_4711}{then}os.write(2, b'done\\n'); "
    with local_socket(reached) as listener:
        listener.settimeout(DEADLINE)
        with connected_as(reached, 0, 0, [], script) as process:
            assert process.stderr is not None
            listener.accept()[0].close()  # the first one, by root
            with listener.accept()[0] as server:
                assert process.stderr.readline() == "done\n"
                found = local_caller(server)
                assert (found.uid, found.gids, found.own) == (4711, frozenset({0}), False)
                assert found.pid == process.pid


@needs_root
def test_a_folder_that_lets_nobody_in_lets_nobody_connect(reached: Path) -> None:
    folder = reached.with_name("closed")
    folder.mkdir(mode=0o700)
    with local_socket(folder / "socket"), connected_as(folder / "socket", NOBODY, NOBODY, []) as process:
        _, err = process.communicate(timeout=DEADLINE)
        assert process.returncode != 0
        assert "PermissionError" in err


def test_what_a_killed_instance_left_is_replaced(path: Path) -> None:
    with listening(path):
        pass
    assert path.exists()
    with local_socket(path):
        assert connects(path)


def test_another_s_socket_that_listens_is_left(path: Path) -> None:
    with listening(path) as other:
        with pytest.raises(Unavailable, match="Another program listens"), local_socket(path):
            pass
        assert connects(path)
        other.accept()[0].close()


def test_one_whose_queue_is_full_is_not_waited_for(path: Path) -> None:
    with listening(path, backlog=0), contextlib.ExitStack() as stack:
        for _ in range(2):
            made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            client = stack.enter_context(contextlib.closing(made))
            with contextlib.suppress(BlockingIOError):
                client.connect(str(path))
        with pytest.raises(Unavailable, match="Another program listens"), local_socket(path):
            pass
        assert path.exists()


def _file(path: Path) -> None:
    path.write_text("somebody's")


def _link(path: Path) -> None:
    path.symlink_to(path.with_name("elsewhere"))


def _link_to_a_socket(path: Path) -> None:
    with listening(path.with_name("left")):
        pass
    path.symlink_to("left")


FOREIGN: dict[str, Callable[[Path], None]] = {
    "a file": _file,
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a link to nothing": _link,
    "a link to a socket that was left": _link_to_a_socket,
}


@pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN)
def test_anything_else_there_is_left_and_named(path: Path, make: Callable[[Path], None]) -> None:
    make(path)
    before = path.lstat()
    with pytest.raises(Misuse, match="there is something else") as raised, local_socket(path):
        pass
    assert str(path) in raised.value.message
    assert path.lstat().st_ino == before.st_ino


def test_a_socket_of_another_kind_is_left(path: Path) -> None:
    with listening(path, socket.SOCK_DGRAM):
        with pytest.raises(Unavailable, match="Protocol wrong type"), local_socket(path):
            pass
        assert path.exists()


@pytest.mark.parametrize("depth", [2, 8])
def test_a_folder_with_a_long_path(tmp_path: Path, depth: int) -> None:
    folder = tmp_path.joinpath(*["x" * 100] * depth)
    folder.mkdir(parents=True)
    path = folder / "rkey.bin.socket"
    with local_socket(path):
        assert connects(path)
        assert path.exists()
    assert not path.exists()
    with listening_long(path):
        pass
    with local_socket(path):
        assert connects(path)


@contextlib.contextmanager
def listening_long(path: Path) -> Iterator[None]:
    with reachable(path) as name, listening(Path(name)):
        yield


def test_a_name_that_is_too_long_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="too long for a socket"), local_socket(tmp_path / ("x" * MOST)):
        pass


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none" / "socket", tmp_path / ("x" * 100) / "none" / "socket"):
        with pytest.raises(Unavailable, match="No such file or directory") as raised, local_socket(path):
            pass
        assert "--socket" in raised.value.advice


def test_what_took_its_place_meanwhile_stays(path: Path) -> None:
    with local_socket(path):
        path.unlink()
        other = path.with_name("other")
        other.write_text("somebody's")
        other.rename(path)
    assert path.read_text() == "somebody's"


def test_what_is_gone_meanwhile_is_no_failure(path: Path) -> None:
    with local_socket(path):
        path.unlink()


@needs_root
def test_whoever_has_no_number_here_is_not_the_server_s_user(reached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that runs as 65534 sees everyone of another user namespace as a user of its own number."""
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    with local_socket(reached) as listener:
        listener.settimeout(DEADLINE)
        with connected_as(reached, NOBODY, NOBODY, []), listener.accept()[0] as server:
            assert not is_owner(local_caller(server))


@pytest.mark.parametrize(("mode", "warns"), [(0o755, False), (0o775, False), (0o1777, True), (0o777, True)])
def test_a_folder_that_every_user_can_write_to_is_warned_of(
    tmp_path: Path, mode: int, *, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(mode)
    with local_socket(folder / "s"):
        assert ("Every user can write to" in caplog.text) is warns
