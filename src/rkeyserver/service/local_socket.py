"""The local socket: a Unix socket that any user of this machine may connect to, if its folder lets him.

Who connects, the kernel says (service/local_caller.py); what he may do, the policy.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rkeyserver.errors import Misuse, Unavailable

MOST: Final = 107  # bytes of a socket's path that the kernel takes
log = logging.getLogger(__name__)


@contextlib.contextmanager
def reachable(path: Path) -> Iterator[str]:
    """A name of `path` that is short enough for a socket's address, for the time of this context.

    Raises: OSError if its folder cannot be opened, Misuse if its own name is too long.
    """
    if len(os.fsencode(path)) <= MOST:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        short = f"/proc/self/fd/{folder}/{path.name}"
        if len(os.fsencode(short)) > MOST:
            raise Misuse(f"The name {path.name} is too long for a socket.", advice="Name another with --socket.")
        yield short
    finally:
        os.close(folder)


@contextlib.contextmanager
def local_socket(path: Path, mode: int = 0o666) -> Iterator[socket.socket]:
    """A listening socket at `path`; gone again when the context ends. mode: who may connect.

    What is above it in the file system decides who reaches it: in a folder of mode 0700 it is this user's and root's.

    A socket that is left there by an instance that was killed is replaced; anything else is not touched.
    Raises: Misuse if something else is there, Unavailable if it cannot be made.
    """
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as listener:
        try:
            with reachable(path) as name:
                _clear(path, name)
                before = os.umask(0o777 & ~mode)
                try:
                    listener.bind(name)
                finally:
                    os.umask(before)
            listener.listen()
            made = path.lstat().st_ino
            _warn_of_others(path)
        except OSError as error:
            raise Unavailable(
                f"The local socket {path} cannot be made: {error.strerror}.",
                advice="Make its folder, writable for this user, or name another with --socket.",
            ) from error
        listener.setblocking(False)  # noqa: FBT003 - the socket module's signature
        try:
            yield listener
        finally:
            with contextlib.suppress(OSError):  # it is gone, or its folder is: nothing of ours is left there
                if path.lstat().st_ino == made:
                    path.unlink()


def _warn_of_others(path: Path) -> None:
    if path.parent.stat().st_mode & stat.S_IWOTH:
        log.warning(
            "Every user can write to %s: while nobody listens on %s, any of them can, and is sent what callers send.",
            path.parent,
            path,
        )


def check_is_socket(found: os.stat_result, path: Path) -> None:
    """Whether what is there at `path` is a socket, which may be replaced if nobody listens.

    Raises: Misuse.
    """
    if not stat.S_ISSOCK(found.st_mode):
        raise Misuse(
            f"The local socket cannot be {path}: there is something else.", advice="Name another with --socket."
        )


def _clear(path: Path, name: str) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    check_is_socket(found, path)
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)) as probe:
        try:
            probe.connect(name)
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # somebody listens, and has more to do than he can take
    raise Unavailable(f"Another program listens on {path}.", advice="Name another with --socket.")
