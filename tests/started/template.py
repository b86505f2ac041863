"""A process that has loaded the program and runs nothing; each server or command of a test is a fork of it.

    python template.py SOCKET_FD

What `python -m rkeyserver` does from there on is done by every fork: runpy runs the package as -m does, with the
arguments, folder, environment and files that the test gives. What is saved is to load the same modules anew, a third of
a second, in a thousand processes. The template itself never gets further: it has no key, no thread, no open file.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import socket
import sys
from typing import Any, Final, NoReturn

# What a server loads anyhow; what is loaded late is loaded by the fork.
LOADED: Final = (
    "rkeyserver.cli.serve",
    "rkeyserver.service.run",
    "rkeyserver.platforms.simulated.platform",
    "uvloop",
)
MOST: Final = 128 * 1024


def become(asked: dict[str, Any], files: list[int]) -> NoReturn:
    """Be the process that was asked for: the program, from its first line."""
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.closerange(len(files), os.sysconf("SC_OPEN_MAX"))
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.path[0] = asked["cwd"]
    sys.argv = ["rkeyserver", *asked["words"]]
    runpy.run_module("rkeyserver", run_name="__main__", alter_sys=True)
    sys.exit()


def main() -> None:
    """Start what is asked for, and say how it ended when that is asked, until nobody asks any more."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    for name in LOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    while True:
        data, files, _flags, _address = socket.recv_fds(channel, MOST, 3)
        if not data:
            os._exit(0)
        asked = json.loads(data)
        if "pid" in asked:
            _pid, status = os.waitpid(asked["pid"], 0)
            channel.send(json.dumps(os.waitstatus_to_exitcode(status)).encode())
            continue
        pid = os.fork()
        if pid == 0:
            channel.detach()
            become(asked, files)
        socket.send_fds(channel, [json.dumps(pid).encode()], [pidfd := os.pidfd_open(pid)])
        for file in (*files, pidfd):
            os.close(file)


if __name__ == "__main__":
    main()
