"""What a record needs around it: key memory, a clock, an audit file, a place for the local socket. Looked at only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from rkeyserver.clock import utc
from rkeyserver.errors import Unavailable
from rkeyserver.secret import MemoryKind, SecretBytes
from rkeyserver.service.audit_look import check_is_one
from rkeyserver.service.finding import Finding, State, Topic
from rkeyserver.service.local_socket import check_is_socket, reachable

HOW_TO_HIDE: Final = "Linux 6.5 or later has memfd_secret(2) on; before that, boot with secretmem.enable=1."
AHEAD: Final = 300  # seconds by which another machine's clock may differ without a word
# As a start opens it, but to make nothing. Not asked of access(2): Gramine's knows nothing of the host's users.
_AUDIT_FLAGS: Final = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_AS_THE_SERVICE: Final = "Make it writable for the service's user, or name another with {}. Run this as that user."


def memory(*, hidden: bool) -> Finding:
    """Whether key memory is hidden from root. hidden: whether the platform hides all of this process's.

    Raises: Unavailable if the system gives none at all.
    """
    with SecretBytes(1) as probe:
        if hidden:
            return Finding(Topic.KEY_MEMORY, State.GOOD, "hidden from root (the processor encrypts it)")
        if probe.kind is MemoryKind.MEMFD_SECRET:
            return Finding(Topic.KEY_MEMORY, State.GOOD, "hidden from root's readers (memfd_secret)")
    return Finding(
        Topic.KEY_MEMORY,
        State.WARNING,
        "locked only: root can read it",
        HOW_TO_HIDE,
    )


def clock(now: int, written: int) -> Finding:
    """Whether the clock here can be right. now: what it says; written: when the record was sealed, by its header."""
    if written <= now + AHEAD:
        return Finding(Topic.CLOCK, State.GOOD, f"it is {utc(now)} here, after the record was written")
    return Finding(
        Topic.CLOCK,
        State.WARNING,
        f"it is {utc(now)} here, and the record says that it was written at {utc(written)}",
        "Set the clock: by one that is behind, evidence and collateral seem to come from the future and are refused.",
    )


def check_audit(path: Path) -> str:
    """Whether a start could append to the audit file `path`; what is there now.

    Raises: Misuse, Unavailable, as service.audit.Audit.open().
    """
    try:
        fd = os.open(path, _AUDIT_FLAGS)
    except FileNotFoundError:
        _require_writable(path.parent, "The folder of the audit file", "--audit")
        return f"{path} is not there; a start makes it"
    except OSError as error:
        raise _unusable("The audit file", path, error.strerror, "--audit") from error
    try:
        check_is_one(fd, path)
    finally:
        os.close(fd)
    return f"{path} can be appended to"


def check_socket(path: Path) -> str:
    """Whether a start could make the local socket at `path`; what is there now.

    Raises: Misuse, Unavailable, as service.local_socket.local_socket().
    """
    try:
        with reachable(path):
            found = path.lstat()
    except FileNotFoundError:
        _require_writable(path.parent, "The folder of the local socket", "--socket")
        return f"{path} is not there; a start makes it"
    except OSError as error:
        raise _unusable("The local socket", path, error.strerror, "--socket") from error
    check_is_socket(found, path)
    return f"{path} is there"


def _require_writable(path: Path, what: str, option: str) -> None:
    if not os.access(path, os.W_OK):
        raise _unusable(what, path, "not writable for this user" if path.exists() else "not there", option)


def _unusable(what: str, path: Path, why: str | None, option: str) -> Unavailable:
    return Unavailable(f"{what}, {path}, cannot be used: {why}.", advice=_AS_THE_SERVICE.format(option))
