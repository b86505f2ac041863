"""The client for programs that wait."""

from __future__ import annotations

import time
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
    from rkeyserver.client.connections import Connections

T = TypeVar("T")


class Client:
    """A domain's servers. Threads may share one. After a fork the child goes on with connections of its own.

    servers: as `unix:/PATH` or `https://HOST[:PORT]`, in the order in which they are asked. ca, token: for those by
    https://, the file of the domain's CA and the text of a token. silent_seconds: a server
    that has not answered in that time is passed by.

    Every method raises, by what the caller must do: Rejected (stop: policy or secret says no, `reason` says why),
    Unavailable (try again: no server helped), Corrupt (a person has to look at the server), Misuse (the call is wrong).
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
        self._connections: Connections | None = None
        watch(self)

    def derive(self, label: str, *, size: int = DEFAULT_SIZE, generation: str = "current") -> Secret:
        """The key of a label, of 16 to 64 bytes. generation: "current", "first", or one by its id.

        The answer names the generation: store that, and ask for it later, for after a rotation "current" is another.
        """
        return self._run(calls.derive(label, size, generation))

    def wrap(
        self, label: str, plaintext: bytes | bytearray | memoryview | SecretBytes, associated_data: bytes = b""
    ) -> Wrapped:
        """A secret of at most 64 KiB, wrapped; it opens for the same label and associated data alone."""
        return self._run(calls.wrap(label, plaintext, associated_data))

    def unwrap(self, label: str, wrapped: bytes, associated_data: bytes = b"") -> Secret:
        """Open a wrapped secret, on any machine of the domain and after any rotation."""
        return self._run(calls.unwrap(label, wrapped, associated_data))

    def rewrap(self, label: str, wrapped: bytes, associated_data: bytes = b"") -> Wrapped:
        """The same secret under the current generation; the same bytes if it is under that already."""
        return self._run(calls.rewrap(label, wrapped, associated_data))

    def close(self) -> None:
        """End its connections. It can still be used, with new ones."""
        if self._connections is not None:
            self._connections.close()

    def after_fork(self) -> None:
        """As forks.Forked."""
        if self._connections is not None:
            self._connections.forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client of {', '.join(one.name for one in self._servers.all)}>"

    def _run(self, call: Call[T]) -> T:
        steps = attempts(call, self._servers.all, self._health)
        outcome: Outcome = None
        try:
            while True:
                step = steps.send(outcome)
                if isinstance(step, Ask):
                    outcome = self._ask(step.server, call)
                else:
                    time.sleep(step.seconds)
                    outcome = None
        except StopIteration as done:
            found: T = done.value
            return found
        finally:
            call.done()

    def _ask(self, server: Server, call: Call[object]) -> Answer | NoAnswer:
        if self._connections is None:
            from rkeyserver.client.connections import Connections  # noqa: PLC0415 - not before something is asked for

            self._connections = Connections(self._servers)
        return self._connections.ask(server, call, self._silent)
