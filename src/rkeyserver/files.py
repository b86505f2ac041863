"""Small files, written whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def create(path: Path, data: bytes) -> bool:
    """Write a new file (mode 0600) durably; False, and nothing changed, if there is one of that name.

    Raises: OSError.
    """
    temporary = _written(path, data)
    try:
        os.link(temporary, path)  # unlike rename, it never replaces what another process has just made
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    _sync_folder(path.parent)
    return True


def replace(path: Path, data: bytes) -> None:
    """Write a file (mode 0600) durably in place of what is there.

    Raises: OSError.
    """
    temporary = _written(path, data)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink()
        raise
    _sync_folder(path.parent)


def _written(path: Path, data: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink()
        raise
    return temporary


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
