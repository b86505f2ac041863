"""Tasks that can be stopped and go on later, as a process does by SIGSTOP and SIGCONT."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Generator
from typing import Any


class Stopped:
    """Whether what belongs together stands still."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] | None = None

    def __bool__(self) -> bool:
        return self._waiting is not None

    def stop(self) -> None:
        if self._waiting is None:
            self._waiting = []

    def go_on(self) -> None:
        waiting, self._waiting = self._waiting or [], None
        for one in waiting:
            if not one.done():
                one.set_result(None)

    def until_it_goes_on(self) -> asyncio.Future[None]:
        assert self._waiting is not None
        self._waiting.append(asyncio.get_running_loop().create_future())
        return self._waiting[-1]


class Stoppable(Coroutine[Any, Any, Any]):
    """A coroutine no step of which is run while `stopped`. What is thrown into it meanwhile, it finds afterwards."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], stopped: Stopped) -> None:
        self._coroutine = coroutine
        self._stopped = stopped
        self._next: Callable[[], Any] | None = None

    def send(self, value: Any) -> Any:
        return self._step(functools.partial(self._coroutine.send, value))

    def throw(self, *error: Any) -> Any:
        self._next = functools.partial(self._coroutine.throw, *error)
        return self._step(self._next)

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        raise NotImplementedError

    def _step(self, step: Callable[[], Any]) -> Any:
        if not self._stopped:
            step, self._next = self._next or step, None
            return step()
        self._next = self._next or step
        future = self._stopped.until_it_goes_on()
        future._asyncio_future_blocking = True
        return future
