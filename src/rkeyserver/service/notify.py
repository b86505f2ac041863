"""Telling the service manager, by the protocol of sd_notify(3)."""

from __future__ import annotations

import logging
import os
import socket

log = logging.getLogger(__name__)


def notify(state: str) -> None:
    """Send `state` ("READY=1", "STOPPING=1") to the socket that the manager named, if it named one."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.setblocking(False)  # noqa: FBT003 - a manager that reads nothing stops nothing
        try:
            channel.sendto(state.encode(), "\0" + path[1:] if path.startswith("@") else path)
        except OSError as error:
            log.warning("The service manager at %s was not told %s: %s.", path, state, error.strerror)
