"""One thread for what may hang. Who asks it waits a stated time, and never for what hangs already."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from rkeyserver.errors import Unavailable

T = TypeVar("T")
_log = logging.getLogger(__name__)
_CLOSING_SECONDS: Final = 1.0
_ENDING_SECONDS: Final = 0.1  # for what was cut off just now


@dataclass
class Job:
    """What is to be done. late: who asked has no time any more, nothing new is to be begun; over: he is gone."""

    work: Callable[[Job], Any]
    done: threading.Event = field(default_factory=threading.Event)
    begun: float | None = None
    late: bool = False
    over: bool = False
    result: Any = None
    error: BaseException | None = None


class Patience:
    """Does one thing after the other in its thread. what: it is; cut: has what hangs end, where that can be done."""

    def __init__(self, what: str, cut: Callable[[], None]) -> None:
        self._what = what
        self._cut = cut
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._now: Job | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="keystore", daemon=True)
        self._thread.start()

    def call(self, work: Callable[[Job], T], seconds: float, grace: float = 0.0, left: str = "") -> T:
        """Have `work` done, and wait for at most `seconds`, and `grace` more for what it does once it is late.

        left: what is to be said of what is stored, where it was begun and has not ended.

        Raises: Unavailable if it is not done by then, or is not begun because what was asked before still hangs; else
        what `work` raises.
        """
        if self._closed:
            raise Unavailable(f"{self._what} was closed.", advice="Open the keystore again.")
        hangs = self._now
        if hangs is not None and hangs.over and hangs.begun is not None:
            self._cut()
            if not hangs.done.wait(_ENDING_SECONDS):
                raise self._silent(time.monotonic() - hangs.begun)
        job = Job(work)
        self._jobs.put(job)
        if not job.done.wait(seconds):
            job.late = True
            if self._now is job:
                self._cut()
                job.done.wait(grace)
            job.over = True
            if not job.done.is_set():
                raise self._silent(seconds + grace, "" if job.begun is None else left)
        if job.error is not None:
            if job.late and not grace:  # it was cut off for that
                raise self._silent(seconds) from job.error
            raise job.error
        result: T = job.result
        return result

    def _silent(self, seconds: float, left: str = "") -> Unavailable:
        return Unavailable(
            f"{self._what} has not answered for {seconds:.0f} seconds. {left}".rstrip(),
            advice="What is held in memory is served on. Look at the database; it is asked again every few seconds.",
        )

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._now = job
            if job.late:  # nobody waits for it, and it was not begun
                self._now = None
                continue
            job.begun = time.monotonic()
            try:
                job.result = job.work(job)
            except BaseException as error:  # noqa: BLE001 - it is raised where it was asked for
                job.error = error
            self._now = None
            job.done.set()

    def close(self, last: Callable[[], None]) -> None:
        """Do `last`, and nothing more. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._now is not None and self._now.over:
            self._cut()
        self._jobs.put(Job(lambda _job: last()))
        self._jobs.put(None)
        self._thread.join(_CLOSING_SECONDS)
        if self._thread.is_alive():
            _log.warning("%s does not answer; it is left as it is.", self._what)
            self._cut()
