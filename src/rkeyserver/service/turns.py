"""Who is served when: one piece of what each caller has sent in each turn of the event loop, and his others behind it.

Whoever sends most, on however many connections, waits for himself; the others wait for one piece of his, not for all.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

Work = Callable[[], None]


@dataclass
class Turns:
    """The turns of one listener. most: pieces in one turn, of all callers together; None for one of each caller."""

    most: int | None = None
    _waiting: dict[str, deque[Work]] = field(default_factory=dict, init=False)  # whoever is next, first
    _had: set[str] = field(default_factory=set, init=False)  # who has been served in this turn
    _begun: bool = field(default=False, init=False)

    def take(self, caller: str, work: Work) -> bool:
        """Do `work` at once if the caller's turn it is, and else in one of the next turns; whether it is done."""
        if caller in self._waiting or caller in self._had or len(self._had) == self.most:
            self._waiting.setdefault(caller, deque()).append(work)
            return False
        self._serve(caller, work)
        return True

    async def turn(self, caller: str) -> None:
        """Wait until it is the caller's turn: what its task does next is done in that one, or in the one after it."""
        begun = asyncio.get_running_loop().create_future()
        self.take(caller, partial(_begin, begun))
        await begun

    def _serve(self, caller: str, work: Work) -> None:
        self._had.add(caller)
        if not self._begun:
            self._begun = True
            asyncio.get_running_loop().call_soon(self._next)
        work()

    def _next(self) -> None:
        self._begun = False
        self._had.clear()
        for caller in list(self._waiting)[: self.most]:
            waiting = self._waiting.pop(caller)
            work = waiting.popleft()
            if waiting:
                self._waiting[caller] = waiting
            self._serve(caller, work)


def _begin(future: asyncio.Future[None]) -> None:
    if not future.done():  # its task may have been cancelled
        future.set_result(None)
