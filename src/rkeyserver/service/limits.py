"""What one connection, one address and all together may take. uvicorn alone lets idle and half-sent requests live on.

Every connection has a deadline from accept and a cap on the bytes it may send. When an address, or the whole server,
has as many connections as it may, the oldest one that waits for its client makes room: the idle pay, not the newcomer.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

CONNECTION_SECONDS: Final = 30.0
MAX_CONNECTION_BYTES: Final = 1024 * 1024
PER_ADDRESS: Final = 64


@dataclass
class Guard:
    """The connections of one listener. total: at most so many; the rest are this module's constants."""

    total: int
    per_address: int = PER_ADDRESS
    seconds: float = CONNECTION_SECONDS
    _by_address: dict[str, OrderedDict[GuardedProtocol, None]] = field(default_factory=dict, init=False)
    _count: int = field(default=0, init=False)
    evicted: int = field(default=0, init=False)

    def enter(self, protocol: GuardedProtocol, address: str) -> None:
        """Count a new connection, making room for it where there is none."""
        mine = self._by_address.setdefault(address, OrderedDict())
        if len(mine) >= self.per_address:
            self._evict(mine)
        elif self._count >= self.total:
            self._evict(max(self._by_address.values(), key=len))
        mine[protocol] = None
        self._count += 1

    def leave(self, protocol: GuardedProtocol, address: str) -> None:
        """Forget a connection that is gone."""
        mine = self._by_address.get(address)
        if mine is not None and protocol in mine:
            del mine[protocol]
            self._count -= 1
            if not mine:
                del self._by_address[address]

    def _evict(self, connections: OrderedDict[GuardedProtocol, None]) -> None:
        oldest = next((one for one in connections if not one.busy), next(iter(connections)))
        self.evicted += 1
        oldest.abort()


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol under a guard."""

    guard: Guard  # set by the subclass that guarded() makes: uvicorn takes a class

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - uvicorn's
        super().__init__(*args, **kwargs)
        self._received = 0
        self._address = ""
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> bool:
        """Whether a whole request is here and its answer is not yet out."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete and not cycle.more_body

    def abort(self) -> None:
        """Drop the connection at once."""
        self.guard.leave(self, self._address)
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count it, and set its deadline."""
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if peer else ""
        self.guard.enter(self, self._address)
        self._deadline = self.loop.call_later(self.guard.seconds, self.abort)

    def data_received(self, data: bytes) -> None:
        """Count the bytes."""
        self._received += len(data)
        if self._received > MAX_CONNECTION_BYTES:
            self.abort()
            return
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        if self._deadline is not None:
            self._deadline.cancel()
        self.guard.leave(self, self._address)
        super().connection_lost(exc)


def guarded(guard: Guard) -> type[asyncio.Protocol]:
    """The protocol class for uvicorn, under `guard`."""
    return cast("type[asyncio.Protocol]", type("Guarded", (GuardedProtocol,), {"guard": guard}))
