"""Work beside the event loop that must not push it off its CPU."""

from __future__ import annotations

import contextlib
import os


def in_background() -> None:
    """Have the calling thread, when it is woken, wait for a CPU that is free or for the next tick of the clock.

    Else the kernel lets what the loop has just woken run in its place at once: two changes of context for each task,
    and a writer that then waits for the interpreter's lock that the loop still holds. Where it is not allowed nothing
    is lost but that.
    """
    with contextlib.suppress(OSError):  # as above
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
