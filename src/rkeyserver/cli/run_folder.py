"""The folder that one enclave is started in: links to its image, its options, and the one folder that it sees.

Gramine finds manifest, signature and files by names relative to where it is started. Each start has a folder of its
own, below one that only this user can write to, and holds a lock on it; what a killed one left is removed by the next.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from rkeyserver import files
from rkeyserver.errors import Misuse, Unavailable

OPTIONS: Final = "options.json"
STATE: Final = "state"
_OWN: Final = frozenset({OPTIONS, STATE})
_PREFIX: Final = "run-"
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def parent(environment: Mapping[str, str]) -> Path:
    """Where run folders are made: systemd's RuntimeDirectory=, this user's, or for root /run/rkeyserver.

    Raises: Misuse if there is none, or if others may write to it; Unavailable if it cannot be made.
    """
    if given := environment.get("RUNTIME_DIRECTORY"):
        found = Path(given.split(":")[0])
    elif given := environment.get("XDG_RUNTIME_DIR"):
        found = Path(given) / "rkeyserver"
    elif os.geteuid() == 0:
        found = Path("/run/rkeyserver")
    else:
        raise Misuse(
            "There is no folder to start the enclave in: XDG_RUNTIME_DIR is not set.",
            advice="Set it to a folder of this user's alone, or RuntimeDirectory=rkeyserver in the unit.",
        )
    try:
        found.mkdir(mode=0o700, exist_ok=True)
        status = found.stat()
    except OSError as error:
        raise Unavailable(
            f"The folder to start the enclave in, {found}, cannot be made: {error.strerror}.",
            advice="It lies where RuntimeDirectory= of the unit or XDG_RUNTIME_DIR says.",
        ) from error
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Misuse(
            f"Others than user {os.geteuid()} may write to {found}; wanted is a folder of this user's alone.",
            advice=f"Take it away or set its rights: chown {os.geteuid()} {found}; chmod 700 {found}.",
        )
    return found


@contextlib.contextmanager
def run_folder(below: Path, image: Path, state: Path | None, options: bytes) -> Iterator[tuple[Path, int]]:
    """A folder to start the enclave of `image` in, and a descriptor by which its lock is held; removed at the end.

    below: from parent(); state: what the enclave sees as its one folder, None for an empty one; options: its document.
    Whoever inherits the descriptor keeps the folder.

    Raises: Unavailable if it cannot be made.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder, lock = _made(below)
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stack.callback(os.close, lock)
            for entry in image.iterdir():
                if entry.name not in _OWN:
                    (folder / entry.name).symlink_to(entry.absolute())
            if state is None:
                (folder / STATE).mkdir(mode=0o700)
            else:
                (folder / STATE).symlink_to(state.absolute(), target_is_directory=True)
            files.replace(folder / OPTIONS, options)
        except OSError as error:
            raise Unavailable(f"The enclave's folder in {below} cannot be made: {error.strerror}.") from error
        yield folder, lock


def _made(below: Path) -> tuple[Path, int]:
    whole = os.open(below, _FOLDER)
    try:
        fcntl.flock(whole, fcntl.LOCK_EX)  # between its making and its locking, nobody takes it for a left one
        _remove_left(below)
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=below))
        lock = os.open(folder, _FOLDER)
        fcntl.flock(lock, fcntl.LOCK_EX)
        return folder, lock
    finally:
        os.close(whole)


def _remove_left(below: Path) -> None:
    for folder in below.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another's lock, or a folder that cannot be removed, which hurts nobody
            lock = os.open(folder, _FOLDER)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)  # links are removed, not followed
            finally:
                os.close(lock)
