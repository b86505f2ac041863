"""Small files: written whole or not at all, and what somebody named, read up to a limit."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from pathlib import Path
from typing import Final

from rkeyserver.errors import Misuse, Unavailable

STDIN: Final = "-"


def read(path: Path, most: int, what: str, *, stdin: bool = False) -> bytes:
    """All of a file that somebody named, at most `most` bytes. what: how people call it; stdin: whether "-" is that.

    Raises: Misuse.
    """
    try:
        named = contextlib.nullcontext(sys.stdin.buffer) if stdin and str(path) == STDIN else path.open("rb")
        with named as file:
            data = file.read(most + 1)
    except OSError as error:
        raise Misuse(f"The {what} {path} cannot be read: {error.strerror}.") from error
    if len(data) > most:
        raise Misuse(f"The {what} {path} has more than {most} bytes; at most so many are read.")
    return data


def read_text(path: Path, most: int, what: str, *, stdin: bool = False) -> str:
    """The same as text, to the byte: a policy's digest is over it.

    Raises: Misuse.
    """
    data = read(path, most, what, stdin=stdin)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Misuse(f"The {what} {path} is no text in UTF-8: see line {line}.") from error


def put(path: Path, data: bytes) -> None:
    """Write what somebody wants in the file that he named: whole, or it stays as it is. It is no secret.

    What is there and no file of its own, such as a link, a pipe or a terminal, is written into.
    Raises: Unavailable.
    """
    try:
        if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
            path.write_bytes(data)
        else:
            replace(path, data, 0o666)
    except OSError as error:
        raise Unavailable(f"{path} cannot be written: {error.strerror}.") from error


def create(path: Path, data: bytes) -> bool:
    """Write a new file (mode 0600) durably; False, and nothing changed, if there is one of that name.

    Raises: OSError.
    """
    temporary, fd = _written(path, data, 0o600)
    os.close(fd)
    try:
        os.link(temporary, path)  # unlike rename, it never replaces what another process has just made
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    sync_folder(path.parent)
    return True


def replace(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file durably in place of what is there. mode: less what the umask takes.

    Raises: OSError.
    """
    temporary, fd = _written(path, data, mode)
    try:
        try:
            temporary.replace(path)
        except OSError:
            temporary.unlink()
            raise
        sync_folder(path.parent)
        os.fsync(fd)  # with its new name: inside Gramine the folder's does nothing (keystore.file_steps.sync_name)
    finally:
        os.close(fd)


def _written(path: Path, data: bytes, mode: int) -> tuple[Path, int]:
    """A new file beside `path`, on disk, and its descriptor; none is left where that fails."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb", closefd=False) as file:
            file.write(data)
        os.fsync(fd)
    except OSError:
        os.close(fd)
        temporary.unlink()
        raise
    return temporary, fd


def sync_folder(folder: Path) -> None:
    """Have what a folder names on disk.

    Raises: OSError.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
