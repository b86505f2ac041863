"""What is asked of an audit file without writing to it: whether it is one, and whether there was a keyring."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Final

from rkeyserver.errors import Misuse
from rkeyserver.service.audit_chain import pieces

# A checkpoint is signed with a key that only a keyring gives: what is left of a rotated file may have no other line.
_HELD: Final = re.compile(
    rb'\{"at":"[^"]*","event":"(?:(?:mint|open|join|hand-over|recover)","verdict":"accepted"|checkpoint",)'
)
_NOT_MINTED: Final = re.compile(rb'\{"at":"[^"]*","event":"mint","verdict":"refused","domain":"([0-9a-f]{32})"')


def check_is_one(fd: int, path: Path) -> None:
    """Whether what is open as `fd`, and named `path`, is an audit file or may become one.

    Raises: Misuse, OSError.
    """
    advice = "Name another with --audit."
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise Misuse(
            f"The audit file {path} is no regular file: nothing would be kept of what is decided.", advice=advice
        )
    if os.pread(fd, 1, 0) not in (b"", b"{", b"\n"):
        raise Misuse(f"{path} is no audit file: it begins with something else than a line of one.", advice=advice)


def had_a_keyring(path: Path) -> str:
    """The last line of the audit file `path` by which the instance that wrote it held a keyring; empty for none.

    Raises: OSError.
    """
    found = b""
    with path.open("rb") as file:
        for piece in pieces(file):
            if not piece.begins:
                continue  # of a line that is longer than any of ours
            line = piece.data
            if _HELD.match(line):
                found = line
            elif (undone := _NOT_MINTED.match(line)) and b'"event":"mint"' in found and undone[1] in found:
                found = b""  # it could not be stored, so it was never held
    return found.decode("ascii", "replace").strip()
