"""An event loop whose clock does not wait: where all wait for a time, that time has come."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable

STUCK = 20.0


class _Selector(selectors.SelectSelector):
    """Waits for files as ever, but for the clock never."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            ready = super().select(STUCK)
            assert ready, "nothing can wake this loop any more"
            return ready
        ready = super().select(0)
        if not ready:
            self.passed += max(timeout, 0)
        return ready


class TimelessLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._without_waiting = _Selector()
        super().__init__(self._without_waiting)

    def time(self) -> float:
        return self._without_waiting.passed


def run_timeless(check: Callable[[], Awaitable[None]]) -> None:
    """Run `check` in a loop that starts at second 0 and waits for nothing."""

    async def checked() -> None:
        await check()

    with asyncio.Runner(loop_factory=TimelessLoop) as runner:
        runner.run(checked())
