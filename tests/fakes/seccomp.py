"""System calls that are answered otherwise than this kernel answers them, for a process and all that come of it.

    python tests/fakes/seccomp.py NUMBER... -- COMMAND...

The command, and every process that it starts, is told ENOSYS when it makes one of these calls. By a filter of the
kernel's (seccomp(2)) and not by a tracer, so that it keeps its process id, its parent and its speed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
_PR_SET_SECCOMP: Final = 22
_PR_SET_NO_NEW_PRIVS: Final = 38  # without it only root may set a filter
_MODE_FILTER: Final = 2
_LOAD, _AND, _JUMP_EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06
_NUMBER: Final = 0  # where struct seccomp_data has the call's number, and its arguments, 64 bits each
_ARGUMENTS: Final = 16


def refuse(code: int) -> int:
    """The answer that fails with the errno `code`; with 0 the call does nothing, and succeeds."""
    return _ERRNO | code


@dataclass(frozen=True)
class Case:
    """An answer that always counts, or that counts by one of the arguments: `when`, `unless`."""

    answer: int
    argument: int = 0
    mask: int = 0
    values: tuple[int, ...] = ()
    fits: bool = True


def when(argument: int, values: Iterable[int], answer: int, mask: int = 0xFFFFFFFF) -> Case:
    """An answer for the calls in which the lower 32 bits of an argument, masked, are one of `values`."""
    return Case(answer, argument, mask, tuple(values))


def unless(argument: int, values: Iterable[int], answer: int, mask: int = 0xFFFFFFFF) -> Case:
    """An answer for the calls in which they are none of them."""
    return Case(answer, argument, mask, tuple(values), fits=False)


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("operand", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


def _judging(case: Case) -> list[_Instruction]:
    answer = _Instruction(_RETURN, 0, 0, case.answer)
    if not case.values:
        return [answer]
    lines = [
        _Instruction(_LOAD, 0, 0, _ARGUMENTS + 8 * case.argument),
        _Instruction(_AND, 0, 0, case.mask),
    ]
    for left, value in zip(reversed(range(len(case.values))), case.values, strict=True):
        past = left + (0 if case.fits else 1)  # onto the answer, or past it
        lines.append(_Instruction(_JUMP_EQUAL, past, 1 if case.fits and not left else 0, value))
    return [*lines, answer]


def install(calls: Mapping[int, Sequence[Case]], otherwise: int) -> None:
    """For each call the answer of its first case that counts, for every other call `otherwise`; there is no way back.

    The last case of each has to be one that always counts.
    """
    lines = [_Instruction(_LOAD, 0, 0, _NUMBER)]
    for number, cases in calls.items():
        judging = [one for case in cases for one in _judging(case)]
        lines += [_Instruction(_JUMP_EQUAL, 0, len(judging), number), *judging]
    lines.append(_Instruction(_RETURN, 0, 0, otherwise))
    program = _Program(len(lines), (_Instruction * len(lines))(*lines))
    libc = ctypes.CDLL(None, use_errno=True)
    for call in ((_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program))):
        if libc.prctl(*call) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))


if __name__ == "__main__":
    end = sys.argv.index("--")
    install({int(number): [Case(refuse(errno.ENOSYS))] for number in sys.argv[1:end]}, ALLOW)
    os.execvp(sys.argv[end + 1], sys.argv[end + 1 :])  # noqa: S606 - no shell is wanted
