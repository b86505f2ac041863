"""Processes of this program's own: a fresh interpreter with one socket, that inherits nothing else."""

from __future__ import annotations

import os
import subprocess
import sys


def start(code: str, fd: int) -> subprocess.Popen[bytes]:
    """Start an interpreter that runs `code` and has the descriptor `fd`.

    Raises: OSError.
    """
    # Isolated and without site: it imports what this process imports, and no environment says otherwise. Where the
    # interpreter's own library lies is the one thing it may have to be told.
    environment = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    command = [sys.executable, "-IS", "-c", code]
    return subprocess.Popen(  # noqa: S603 - this interpreter, arguments of our own
        command, env=environment, stdin=subprocess.DEVNULL, pass_fds=[fd]
    )
