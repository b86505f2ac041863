"""The client for programs with an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from rkeyserver.client import calls
from rkeyserver.client.attempts import SILENT_SECONDS, Ask, Health, Outcome, attempts
from rkeyserver.client.calls import DEFAULT_SIZE, Answer, Call, NoAnswer, Secret, Wrapped
from rkeyserver.client.forks import watch
from rkeyserver.client.servers import Server, servers_of
from rkeyserver.secret import SecretBytes

if TYPE_CHECKING:
    from rkeyserver.client.streams import Streams

T = TypeVar("T")


class AsyncClient:
    """A domain's servers, for one event loop at a time: in another one, and after a fork, it makes connections anew.

    Arguments and errors are those of Client.
    """

    def __init__(
        self,
        servers: Sequence[str],
        *,
        ca: str | Path | None = None,
        token: str | None = None,
        silent_seconds: float = SILENT_SECONDS,
    ) -> None:
        self._servers = servers_of(servers, ca, token)
        self._silent = silent_seconds
        self._health = Health()
        self._streams: Streams | None = None
        self._of: asyncio.AbstractEventLoop | None = None
        watch(self)

    async def derive(self, label: str, *, size: int = DEFAULT_SIZE, generation: str = "current") -> Secret:
        """As Client.derive()."""
        return await self._run(calls.derive(label, size, generation))

    async def wrap(
        self, label: str, plaintext: bytes | bytearray | memoryview | SecretBytes, associated_data: bytes = b""
    ) -> Wrapped:
        """As Client.wrap()."""
        return await self._run(calls.wrap(label, plaintext, associated_data))

    async def unwrap(self, label: str, wrapped: bytes, associated_data: bytes = b"") -> Secret:
        """As Client.unwrap()."""
        return await self._run(calls.unwrap(label, wrapped, associated_data))

    async def rewrap(self, label: str, wrapped: bytes, associated_data: bytes = b"") -> Wrapped:
        """As Client.rewrap()."""
        return await self._run(calls.rewrap(label, wrapped, associated_data))

    async def aclose(self) -> None:
        """End its connections. It can still be used, with new ones."""
        if self._streams is not None:
            await self._streams.close()

    def after_fork(self) -> None:
        """As forks.Forked."""
        if self._streams is not None:
            self._streams.forget()
            self._streams = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<AsyncClient of {', '.join(one.name for one in self._servers.all)}>"

    async def _run(self, call: Call[T]) -> T:
        steps = attempts(call, self._servers.all, self._health)
        outcome: Outcome = None
        try:
            while True:
                try:
                    step = steps.send(outcome)
                except StopIteration as done:
                    found: T = done.value
                    return found
                if isinstance(step, Ask):
                    outcome = await self._ask(step.server, call)
                else:
                    await asyncio.sleep(step.seconds)
                    outcome = None
        finally:
            call.done()

    async def _ask(self, server: Server, call: Call[object]) -> Answer | NoAnswer:
        from rkeyserver.client.streams import Streams  # noqa: PLC0415 - not before something is asked for

        here = asyncio.get_running_loop()
        if self._streams is None or self._of != here:
            self._of, self._streams = here, Streams(self._servers)
        return await self._streams.ask(server, call, self._silent)
