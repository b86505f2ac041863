"""Who is at the other end of a Unix socket: the kernel says so, at the time of the connection (unix(7))."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import Final

from rkeyserver.appraisal.callers import LocalCaller
from rkeyserver.appraisal.policy import OVERFLOW_ID

LOCAL_CALLER: Final = "local_caller"  # of a request's state
ROOT: Final = 0
_SO_PEERGROUPS: Final = 59  # Linux 4.13; Python has no name for it
_CREDENTIALS: Final = struct.Struct("iII")
_GID: Final = struct.Struct("I")
_GROUPS_SIZE: Final = 1024  # bytes, the most that Python asks for


def local_caller(connection: socket.socket) -> LocalCaller:
    """The process that has connected, with all its groups.

    Raises: OSError if the kernel does not say.
    """
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(found)
    gids = {gid}
    with contextlib.suppress(OSError):  # more than 256 of them: then its own group alone counts
        groups = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_SIZE)
        gids.update(number for (number,) in _GID.iter_unpack(groups))
    # Whoever the kernel has no number for here has this one. It is nobody's, even where the server has it too.
    own = uid == os.geteuid() and uid != OVERFLOW_ID
    return LocalCaller(pid=pid, uid=uid, gids=frozenset(gids), own=own)


def is_owner(caller: LocalCaller) -> bool:
    """Whether it is this machine's owner: root, or the user that the server runs as."""
    return caller.own or caller.uid == ROOT
