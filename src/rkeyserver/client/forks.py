"""After a fork the child has its parent's connections too: whatever either says on one, the other loses."""

from __future__ import annotations

import os
import weakref
from typing import Final, Protocol


class Forked(Protocol):
    """What has connections."""

    def after_fork(self) -> None:
        """In the child: leave them to the parent, and say nothing on them."""


_all: Final[weakref.WeakSet[Forked]] = weakref.WeakSet()


def watch(one: Forked) -> None:
    """Have `one` told of each fork, as long as it is there."""
    _all.add(one)


def _tell() -> None:
    for one in list(_all):
        one.after_fork()


os.register_at_fork(after_in_child=_tell)
