"""Processes of the program that are forks of one that has it loaded (template.py); to a test they are as any other."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from tests.started import template

_TEMPLATE: Final = str(Path(template.__file__))
_OF_A_TERMINAL: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
_ASKING: Final = threading.Lock()


def as_from_a_terminal(command: Sequence[str]) -> list[str]:
    """The command, told apart from tests that run in the background: a shell has those ignore what a terminal sends."""
    ignored = [one for one in _OF_A_TERMINAL if signal.getsignal(one) is signal.SIG_IGN]
    names = ",".join(one.name.removeprefix("SIG") for one in ignored)
    return [*(["env", f"--default-signal={names}"] if ignored else []), *command]


@functools.cache
def _channel(environment: tuple[tuple[str, str], ...]) -> socket.socket:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with there:
        process = subprocess.Popen(
            as_from_a_terminal([sys.executable, _TEMPLATE, str(there.fileno())]),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            pass_fds=[there.fileno()],
        )
    atexit.register(process.wait)
    atexit.register(here.close)  # before: it ends with that
    return here


class Forked:
    """As subprocess.Popen, as far as tests use it."""

    def __init__(self, words: Sequence[str], *, cwd: Path, env: Mapping[str, str], loaded: Mapping[str, str]) -> None:
        """words: what follows `python -m rkeyserver`. loaded: the environment that the program was loaded in."""
        self._channel = _channel(tuple(sorted(loaded.items())))
        self.returncode: int | None = None
        with contextlib.ExitStack() as stack:
            nothing = stack.enter_context(Path(os.devnull).open("rb"))
            (out, out_end), (err, err_end) = os.pipe(), os.pipe()
            self.stdout: IO[bytes] = os.fdopen(out, "rb")
            self.stderr: IO[bytes] = os.fdopen(err, "rb")
            for end in (out_end, err_end):
                stack.callback(os.close, end)
            asked = json.dumps({"words": list(words), "cwd": str(cwd), "env": dict(env)}).encode()
            with _ASKING:
                socket.send_fds(self._channel, [asked], [nothing.fileno(), out_end, err_end])
                answer, (self._pidfd,), _flags, _address = socket.recv_fds(self._channel, 64, 1)
        self.pid: int = json.loads(answer)

    def poll(self) -> int | None:
        """As Popen."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """As Popen."""
        status = self._ended(timeout)
        if status is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(["rkeyserver"], timeout)
        return status

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._pidfd], [], [], timeout)[0]:
            with _ASKING:
                if self.returncode is None:
                    self._channel.send(json.dumps({"pid": self.pid}).encode())
                    self.returncode = json.loads(self._channel.recv(64))
                    os.close(self._pidfd)
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """As Popen."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._pidfd, number)
