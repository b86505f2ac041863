"""A command as on a kernel that has no memfd_secret(2), or has it switched off.

    python tests/fakes/no_memfd_secret.py COMMAND...

The command, and every process that it starts, is told ENOSYS, as such a kernel answers. By a filter and not by a
tracer, so that it keeps its process id, its parent and its speed. Given as what a real command runs under.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from typing import Final

UNDER: Final = (sys.executable, __file__)
_SYS_MEMFD_SECRET: Final = 447
_PR_SET_SECCOMP: Final = 22
_PR_SET_NO_NEW_PRIVS: Final = 38  # without it only root may set a filter
_SECCOMP_MODE_FILTER: Final = 2
_SECCOMP_RET_ERRNO: Final = 0x00050000
_SECCOMP_RET_ALLOW: Final = 0x7FFF0000
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("operand", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


def refuse_memfd_secret() -> None:
    """For this process and all that come of it; there is no way back."""
    lines = (
        _Instruction(_LOAD, 0, 0, 0),  # the number of the system call
        _Instruction(_JUMP_EQUAL, 0, 1, _SYS_MEMFD_SECRET),
        _Instruction(_RETURN, 0, 0, _SECCOMP_RET_ERRNO | errno.ENOSYS),
        _Instruction(_RETURN, 0, 0, _SECCOMP_RET_ALLOW),
    )
    program = _Program(len(lines), (_Instruction * len(lines))(*lines))
    libc = ctypes.CDLL(None, use_errno=True)
    for call in ((_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program))):
        if libc.prctl(*call) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))


if __name__ == "__main__":
    refuse_memfd_secret()
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - no shell is wanted
