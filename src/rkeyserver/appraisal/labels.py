"""The patterns of labels in a policy: one that ends with "*" stands for all that begin with what is before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

ANY_REST: Final = "*"


def names(patterns: Sequence[str], label: str) -> bool:
    """Whether one of them names the label."""
    return any(
        label.startswith(one.removesuffix(ANY_REST)) if one.endswith(ANY_REST) else label == one for one in patterns
    )


def covers(patterns: Sequence[str], pattern: str) -> bool:
    """Whether one of them names every label that `pattern` does."""
    if not pattern.endswith(ANY_REST):
        return names(patterns, pattern)
    return any(
        one.endswith(ANY_REST) and pattern.removesuffix(ANY_REST).startswith(one.removesuffix(ANY_REST))
        for one in patterns
    )
