"""Writes the contents of the vectors' files: cases with their inputs, the output filled in by rkeyserver.

A negative case says what it has to end in, and nothing is written if it ends otherwise.
"""

from __future__ import annotations

from typing import Any, Final

from tests.vectors.spec_cases import Case, Json, cases_of
from tests.vectors.spec_operations import OPERATIONS
from tests.vectors.spec_rkeyserver import failure

from rkeyserver.errors import RkeyError

NOW: Final = 1_780_000_000


def numbered(first: int, size: int) -> str:
    """`size` bytes that count up from `first`, hex: easy to recognise in a dump."""
    return bytes((first + index) % 256 for index in range(size)).hex()


def case(name: str, do: str, **given: Any) -> Json:
    """A case; its output is filled in."""
    return {"name": name, "do": do} | given


def complete(file: str, about: str, cases: list[Json], shared: Json | None = None) -> Json:
    """The file's content: every positive case with its output; every negative one tried.

    Raises: AssertionError if a case ends otherwise than it says.
    """
    content: Json = {"about": about} | ({"shared": shared} if shared else {}) | {"cases": []}
    for raw in cases:
        content["cases"].append(dict(raw))
        (*_, one) = cases_of(file, content)
        out, ended = _carry_out(one)
        if ended != one.error:
            raise AssertionError(f"{one} ends in {ended}, not in {one.error}")
        if ended is None and content["cases"][-1].setdefault("out", out) != out:
            raise AssertionError(f"{one} has output {out}")
    return content


def _carry_out(case: Case) -> tuple[Any, str | None]:
    try:
        return OPERATIONS[case.do](case.given), None
    except RkeyError as error:
        return None, failure(error)
