"""Running a program that is told to stop by SIGTERM alone, as a terminal, a shell and systemd want one to behave."""

from __future__ import annotations

import contextlib
import http.client
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from rkeyserver.address import Address
from rkeyserver.errors import Unavailable
from rkeyserver.service.notify import notify

STOPPED_BY: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
ASK_SECONDS: Final = 0.2
MOST_FILES: Final = 8192
_BY_SIGNAL: Final = 128  # what a shell adds to the number of the signal that ended a program
# A terminal's Ctrl-C, and its end, go to the whole group, and would kill the command; what is ignored stays ignored.
# It is told to stop when its starter dies (PR_SET_PDEATHSIG), who may have died already. Signals were blocked before.
_APART: Final = """\
import ctypes, os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
starter, *command = sys.argv[1:]
if os.getppid() != int(starter):
    sys.exit(143)
try:
    os.execv(command[0], command)
except OSError as error:
    sys.stderr.write(f"rkeyserver: {command[0]} cannot be started: {error.strerror}.\\n")
    sys.exit(4)
"""


def supervise(command: list[str], folder: Path, held: list[int], ready: Callable[[], bool] | None) -> int:
    """Run `command` in `folder` until it ends; its exit status, 128 and more where a signal ended it.

    Each of STOPPED_BY is passed on as SIGTERM. If this process dies, the command is told to stop. held: descriptors
    that it inherits. ready: asked until it says yes, and then the service manager is told; None where nobody waits.

    Raises: Unavailable if it cannot be started.
    """
    child: subprocess.Popen[bytes] | None = None
    told = False

    def stop(_number: int, _frame: object) -> None:
        nonlocal told
        told = True
        if child is not None:
            child.terminate()

    _raise_limit()
    with _handled_by(stop):
        # A fresh interpreter, which becomes the command: what it does first is done in no process that has threads.
        apart = [sys.executable, "-IS", "-c", _APART, str(os.getpid()), *command]
        try:
            child = subprocess.Popen(apart, cwd=folder, pass_fds=held)  # noqa: S603 - code of our own
        except OSError as error:
            raise Unavailable(f"No process can be started: {error.strerror}.") from error
        if told:
            child.terminate()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPED_BY)
        while ready is not None and not told and child.poll() is None:
            if ready():
                notify("READY=1")
                break
            time.sleep(ASK_SECONDS)
        status = child.wait()
    return status if status >= 0 else _BY_SIGNAL - status


@contextlib.contextmanager
def _handled_by(stop: Callable[[int, object], None]) -> Iterator[None]:
    """Have STOPPED_BY handled so; blocked at first, until there is somebody to tell."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPED_BY)
    before = {number: signal.getsignal(number) for number in STOPPED_BY}
    for number in STOPPED_BY:
        # nohup(1) starts what is to outlive its terminal with SIGHUP ignored, and so it stays.
        if number is not signal.SIGHUP or before[number] is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPED_BY)


def _raise_limit() -> None:
    # Inside, a limit of the enclave's own is seen; the one that counts is the host's.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def serves(address: Address) -> bool:
    """Whether an instance whose operations listener is `address` says that it serves a keyring."""
    asked = http.client.HTTPConnection(address.host, address.port, timeout=1)
    try:
        asked.request("GET", "/healthz")
        return asked.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):  # it is not there yet, or something else is
        return False
    finally:
        asked.close()
