"""What has to hold of one input: said no to as documented, or taken; soon, in little memory, without a secret told."""

from __future__ import annotations

import resource
import time
from typing import Any, Final

from tests.property.registry import Target

from rkeyserver.errors import RkeyError

SECONDS: Final = 5.0  # for one input; a machine that tests on all its cores is slow
MEMORY: Final = 128 * 1024  # KiB by which one input may make the process grow
LONGEST: Final = 6000  # characters of an error with its advice
_NOTHING: Final = object()


class Found(AssertionError):
    """An input that does what none may."""


def check(target: Target, data: bytes) -> bool:
    """Give `data` to a target; True if it was taken.

    Raises: Found.
    """
    before, began = _grown(), time.process_time()  # not how busy the machine is
    result: Any = _NOTHING
    error: BaseException | None = None
    try:
        result = target.run(data)
    except target.allowed as refusal:
        error = refusal
    except KeyboardInterrupt:
        raise
    except BaseException as other:  # a panic of a library in Rust is no Exception
        raise Found(f"{target.name}: {type(other).__name__}: {other!s:.500}") from other
    took = time.process_time() - began
    if took > SECONDS:
        raise Found(f"{target.name}: {took:.1f} s")
    if _grown() - before > MEMORY:
        raise Found(f"{target.name}: it grew by {_grown() - before} KiB")
    if error is not None:
        _check_error(target, error)
    elif target.canonical is not None and target.canonical(result) != data:
        raise Found(f"{target.name}: taken, and not in its one form")
    return error is None


def _grown() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _check_error(target: Target, error: BaseException) -> None:
    text = str(error)
    chain: BaseException | None = error
    while chain is not None:
        if any(secret in f"{chain}{chain!r}" for secret in target.secrets()):
            raise Found(f"{target.name}: an error tells a secret")
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
    if not isinstance(error, RkeyError):
        return
    if not text.isprintable():
        raise Found(f"{target.name}: an error that a terminal would obey: {text!r:.300}")
    if len(text) > LONGEST:
        raise Found(f"{target.name}: an error of {len(text)} characters")
