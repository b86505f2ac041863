"""The one list of targets: what reads bytes from outside. targets.py and evidence_targets.py fill it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

Run = Callable[[bytes], Any]


@dataclass(frozen=True)
class Target:
    """One parser. seeds: genuine inputs; run: reads one; allowed: what it may raise, as its docstring says.

    canonical: of what was accepted, the only bytes that may have led to it; None where the format has many forms.
    secrets: what no error may quote. refuses: whether a genuine input may itself be somebody's refusal.
    """

    name: str
    seeds: Callable[[], list[bytes]]
    run: Run
    allowed: tuple[type[BaseException], ...]
    canonical: Callable[[Any], bytes] | None = None
    secrets: Callable[[], tuple[str, ...]] = tuple
    refuses: bool = False


TARGETS: Final[dict[str, Target]] = {}


def target(
    name: str,
    seeds: Callable[[], list[bytes]],
    run: Run,
    *allowed: type[BaseException],
    canonical: Callable[[Any], bytes] | None = None,
    secrets: Callable[[], tuple[str, ...]] = tuple,
    refuses: bool = False,
) -> None:
    assert name not in TARGETS
    TARGETS[name] = Target(name, seeds, run, allowed, canonical, secrets, refuses)


def text_of(data: bytes) -> str:
    """Text as it may come out of a file system or an argument: with lone surrogates for what is no UTF-8."""
    return data.decode("utf-8", "surrogateescape")
