"""The owner's socket: who can connect to it, and what it replaces."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.fakes.processes import DEADLINE

from rkeyserver.errors import Misuse, Unavailable
from rkeyserver.service.owner import MOST, owner_socket, reachable

NOBODY = 65534


def connects(path: Path) -> bool:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as client, reachable(path) as name:
        try:
            client.connect(name)
        except OSError:
            return False
        return True


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "owner.socket"


@contextlib.contextmanager
def listening(path: Path, kind: socket.SocketKind = socket.SOCK_STREAM, backlog: int = 8) -> Iterator[socket.socket]:
    with contextlib.closing(socket.socket(socket.AF_UNIX, kind)) as other:
        other.bind(str(path))
        if kind is socket.SOCK_STREAM:
            other.listen(backlog)
        yield other


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777], ids=oct)
def test_it_is_this_user_s_alone_and_goes_with_its_context(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with owner_socket(path) as listener:
            found = path.lstat()
            assert stat.S_ISSOCK(found.st_mode)
            assert stat.S_IMODE(found.st_mode) & 0o177 == 0
            assert not listener.getblocking()
        assert os.umask(umask) == umask, "the process's own was put back"
    finally:
        os.umask(before)
    assert not path.exists()


def test_it_can_be_connected_to(path: Path) -> None:
    with owner_socket(path):
        assert connects(path)
    assert not connects(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_cannot_connect(tmp_path: Path, path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    # It becomes somebody else when it runs already: where the interpreter lies, others may have no way to.
    script = (
        "import os, socket, sys; os.setgroups([]); user = int(sys.argv[2]); os.setresuid(user, user, user); "
        "socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    )
    with owner_socket(path):
        done = subprocess.run(
            [sys.executable, "-S", "-c", script, str(path), str(NOBODY)],
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE,
            cwd="/",
        )
    assert done.returncode != 0
    assert "PermissionError" in done.stderr


def test_what_a_killed_instance_left_is_replaced(path: Path) -> None:
    with listening(path):
        pass
    assert path.exists()
    with owner_socket(path):
        assert connects(path)


def test_another_s_socket_that_listens_is_left(path: Path) -> None:
    with listening(path) as other:
        with pytest.raises(Unavailable, match="Another program listens"), owner_socket(path):
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
        with pytest.raises(Unavailable, match="Another program listens"), owner_socket(path):
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
    with pytest.raises(Misuse, match="there is something else") as raised, owner_socket(path):
        pass
    assert str(path) in raised.value.message
    assert path.lstat().st_ino == before.st_ino


def test_a_socket_of_another_kind_is_left(path: Path) -> None:
    with listening(path, socket.SOCK_DGRAM):
        with pytest.raises(Unavailable, match="Protocol wrong type"), owner_socket(path):
            pass
        assert path.exists()


@pytest.mark.parametrize("depth", [2, 8])
def test_a_folder_with_a_long_path(tmp_path: Path, depth: int) -> None:
    folder = tmp_path.joinpath(*["x" * 100] * depth)
    folder.mkdir(parents=True)
    path = folder / "rkey.bin.socket"
    with owner_socket(path):
        assert connects(path)
        assert path.exists()
    assert not path.exists()
    with listening_long(path):
        pass
    with owner_socket(path):
        assert connects(path)


@contextlib.contextmanager
def listening_long(path: Path) -> Iterator[None]:
    with reachable(path) as name, listening(Path(name)):
        yield


def test_a_name_that_is_too_long_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="too long for a socket"), owner_socket(tmp_path / ("x" * MOST)):
        pass


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none" / "socket", tmp_path / ("x" * 100) / "none" / "socket"):
        with pytest.raises(Unavailable, match="No such file or directory") as raised, owner_socket(path):
            pass
        assert "--socket" in raised.value.advice


def test_what_took_its_place_meanwhile_stays(path: Path) -> None:
    with owner_socket(path):
        path.unlink()
        other = path.with_name("other")
        other.write_text("somebody's")
        other.rename(path)
    assert path.read_text() == "somebody's"


def test_what_is_gone_meanwhile_is_no_failure(path: Path) -> None:
    with owner_socket(path):
        path.unlink()
