"""Processes of this program's own: a fresh interpreter with one socket, that inherits nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from rkeyserver.secret import harden_process


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


def begin() -> None:
    """What such a process does first."""
    # A terminal's Ctrl-C, and its end, go to the whole group: when to end is the server's to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    harden_process()
