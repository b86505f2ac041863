"""Work beside the event loop that must not push it off its CPU."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

log = logging.getLogger(__name__)


def in_background() -> None:
    """Have the calling thread, when it is woken, wait for a CPU that is free or for the next tick of the clock.

    Else the kernel lets what the loop has just woken run in its place at once: two changes of context for each task,
    and a writer that then waits for the interpreter's lock that the loop still holds. Where it is not allowed nothing
    is lost but that.
    """
    with contextlib.suppress(OSError):  # as above
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


@contextlib.asynccontextmanager
async def beside(endless: Callable[[], Coroutine[Any, Any, None]], without: str) -> AsyncIterator[None]:
    """A context with a task of its own for what never ends by itself. without: what is said if an error ends it."""

    def report(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s, which is a bug.", without, exc_info=error)

    task = asyncio.create_task(endless())
    task.add_done_callback(report)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
