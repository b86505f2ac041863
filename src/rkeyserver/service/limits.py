"""What one connection, one address and all together may take. uvicorn alone lets idle and half-sent requests live on.

Every connection has a deadline from accept and a cap on the bytes it sends, a smaller one on what comes before a
request's headers are complete. When an address, or the whole server, has
as many connections as it may, the oldest one that waits for its client makes room: the idle pay, not the newcomer. When
all that wait have sent as much as may be held in memory, the largest one of the address that has sent most does.
An address may also have only so many requests in the works, whatever became of their connections. And what it sends
is read in turns with the others (service/turns.py). On a Unix socket a user stands for an address.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv6Address
from typing import Any, Final, Protocol, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from rkeyserver.errors import Unavailable
from rkeyserver.service.local_caller import LOCAL_CALLER, local_caller
from rkeyserver.service.turns import Turns

CONNECTION_SECONDS: Final = 30.0
MAX_CONNECTION_BYTES: Final = 1024 * 1024
MAX_HEAD: Final = 32 * 1024
MAX_BYTES: Final = 16 * 1024 * 1024
PER_ADDRESS: Final = 64


def client_of(host: str) -> str:
    """What a connection from this address counts against: an IPv4 address, or the /64 that one machine has at will."""
    return IPv6Address(host.partition("%")[0]).exploded[:19] if ":" in host else host


@dataclass
class Shares:
    """How many requests of each address are in the works; each may have `most`.

    The guard does not see them all: a client that leaves gives its connection up, not its place in a queue.
    """

    most: int
    _taken: Counter[str] = field(default_factory=Counter, init=False)

    @contextlib.contextmanager
    def of(self, host: str) -> Iterator[None]:
        """Count one request of this address while the context lasts.

        Raises: Unavailable if it has as many as it may.
        """
        client = client_of(host)
        if self._taken[client] >= self.most:
            raise Unavailable(f"{self.most} requests of {client} are in the works already.")
        self._taken[client] += 1
        try:
            yield
        finally:
            self._taken[client] -= 1
            if not self._taken[client]:
                del self._taken[client]


class Connection(Protocol):
    """What a guard counts. received: bytes."""

    received: int

    @property
    def busy(self) -> bool:
        """Whether it waits for this server and not for its client."""

    def abort(self) -> None:
        """Drop the connection at once."""


@dataclass
class Guard:
    """The connections of one listener. total: at most so many; the rest are this module's constants.

    turns: in which what they send is read; answers: in which callers are answered, where only a request says who asks.
    """

    total: int
    turns: Turns = field(default_factory=Turns)
    answers: Turns | None = None
    per_address: int = PER_ADDRESS
    seconds: float = CONNECTION_SECONDS
    most_bytes: int = MAX_BYTES
    _by_address: dict[str, OrderedDict[Connection, None]] = field(default_factory=dict, init=False)
    _count: int = field(default=0, init=False)
    _bytes: int = field(default=0, init=False)
    evicted: int = field(default=0, init=False)

    def enter(self, protocol: Connection, address: str) -> None:
        """Count a new connection, making room for it where there is none."""
        mine = self._by_address.get(address)
        if mine is not None and len(mine) >= self.per_address:
            self._evict_oldest(mine)
        elif self._count >= self.total:
            self._evict_oldest(max(self._by_address.values(), key=len))
        # Looked up again: what made room may have been this address's last.
        self._by_address.setdefault(address, OrderedDict())[protocol] = None
        self._count += 1

    def took(self, size: int) -> None:
        """Count bytes that a connection has sent, and make room in memory where there is none."""
        self._bytes += size
        if self._bytes > self.most_bytes:
            # Who waits for its client pays first; who does not read its answer holds memory too.
            heaviest = max(self._by_address.values(), key=lambda connections: sum(one.received for one in connections))
            self._evict(max(heaviest, key=lambda one: (not one.busy, one.received)))

    def leave(self, protocol: Connection, address: str) -> None:
        """Forget a connection that is gone."""
        mine = self._by_address.get(address)
        if mine is not None and protocol in mine:
            del mine[protocol]
            self._count -= 1
            self._bytes -= protocol.received
            if not mine:
                del self._by_address[address]

    def close(self) -> None:
        """Drop every connection that is left."""
        for mine in list(self._by_address.values()):
            for one in list(mine):
                one.abort()

    def _evict_oldest(self, connections: OrderedDict[Connection, None]) -> None:
        self._evict(next((one for one in connections if not one.busy), next(iter(connections))))

    def _evict(self, protocol: Connection) -> None:
        self.evicted += 1
        protocol.abort()


class PipelinedError(Exception):
    """Ends the parsing of what a client sent ahead of its turn."""


class _Answered:
    """What an answer is written to: its head waits for its body, for one write costs more than the rest of a call."""

    def __init__(self, transport: asyncio.Transport, cycle: RequestResponseCycle) -> None:
        self._transport = transport
        self._cycle = cycle
        self._head: bytes | None = None
        self.is_closing = transport.is_closing
        self.close = transport.close

    def write(self, data: bytes) -> None:
        """Send it, or keep it: the first write of an answer is its head, and each one has a body, if an empty one."""
        if not self._cycle.response_started or self._cycle.scope["method"] == "HEAD":  # then nothing comes after it
            self._transport.write(data)
        elif self._head is None:
            self._head = data
        else:
            # Not joined here: what is written may be a secret, and nothing erases a copy.
            self._transport.writelines([self._head, data] if self._head else [data])
            self._head = b""


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol under a guard."""

    guard: Guard  # set by the subclass that guarded() makes: uvicorn takes a class

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - uvicorn's
        super().__init__(*args, **kwargs)
        self.received = 0
        self._head: int | None = 0  # bytes of a request whose headers are not complete; None from there to the next
        self._address = self._turn = ""
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
        # Now, and not when the event loop has told the application: a turn of it may read hundreds of bodies.
        for cycle in (self.cycle, *(cycle for cycle, _app in self.pipeline)):
            if cycle is not None:
                cycle.body.clear()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows it too
        """Count it, and set its deadline."""
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family == socket.AF_UNIX:
            # The kernel knows who it is. A name it may have, of its own choice, which says nothing.
            caller = local_caller(connection)
            self.app_state = self.app_state | {LOCAL_CALLER: caller}
            self._address = str(caller)
        else:
            self._address = client_of(str(transport.get_extra_info("peername")[0]))
        # Where callers of one address are told apart later, each connection of it is read by itself.
        self._turn = self._address if self.guard.answers is None else f"{self._address} {id(self)}"
        self.guard.enter(self, self._address)
        self._deadline = self.loop.call_later(self.guard.seconds, self.abort)

    def data_received(self, data: bytes | memoryview) -> None:
        """Count the bytes, and read them when it is this client's turn. Until then no more are taken."""
        if self.transport.is_closing():
            return  # it was dropped, and is no longer counted
        self.received += len(data)
        self.guard.took(len(data))
        if self.received > MAX_CONNECTION_BYTES:
            self.abort()
        if not self.guard.turns.take(self._turn, partial(self._read, data)) and not self.transport.is_closing():
            self.flow.pause_reading()

    def _read(self, data: bytes | memoryview) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()
        # In pieces, for the parser keeps a header until it ends, however long: no piece leads beyond the cap.
        while data and not self.transport.is_closing():
            room = MAX_HEAD - (self._head or 0)
            piece, data = data[:room], data[room:]
            super().data_received(cast("bytes", piece))
            if self._head is not None:
                self._head += len(piece)
                if self._head >= MAX_HEAD:
                    self.abort()

    def on_headers_complete(self) -> None:
        """From here on it is the body that counts.

        A connection that nears its limits ends with this answer, which says so. Else it would be cut off in the middle
        of a later request, of which its client could not tell what became.
        """
        self._head = None
        super().on_headers_complete()
        self.cycle.transport = cast("asyncio.Transport", _Answered(self.transport, self.cycle))
        old = self._deadline is not None and self.loop.time() > self._deadline.when() - self.guard.seconds / 2
        if old or self.received > MAX_CONNECTION_BYTES // 2:
            self.cycle.keep_alive = False

    def on_message_begin(self) -> None:
        """Refuse a request before the answer to the one before: each would be kept until its turn, however many."""
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True  # what is being answered has no one any more to go to
            raise PipelinedError
        self._head = 0
        super().on_message_begin()

    def on_response_complete(self) -> None:
        """As uvicorn's; and what a request was made of goes now: the collector of cycles holds everybody up."""
        self.cycle.transport = self.transport
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        if self._deadline is not None:
            self._deadline.cancel()
        self.guard.leave(self, self._address)
        super().connection_lost(exc)


def guarded(guard: Guard) -> type[asyncio.Protocol]:
    """The protocol class for uvicorn, under `guard`."""
    return cast("type[asyncio.Protocol]", type("Guarded", (GuardedProtocol,), {"guard": guard}))
