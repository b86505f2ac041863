"""A client's connections, for programs with an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import weakref
from dataclasses import dataclass, field
from typing import Final

from rkeyserver.client.calls import Answer, Call, NoAnswer
from rkeyserver.client.http import KEPT_SECONDS, READ, NotHttp, Reply, head_of, why
from rkeyserver.client.servers import Server, Servers

ADDRESS_SECONDS: Final = 0.5  # for one address of a name that has more
MAX_KEPT: Final = 32  # of one server
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Streams:
    """Those to all servers that are not in use now, of one event loop."""

    servers: Servers
    _kept: dict[Server, list[tuple[float, Stream]]] = field(default_factory=dict, init=False)

    _open: weakref.WeakSet[asyncio.StreamWriter] = field(default_factory=weakref.WeakSet, init=False)

    async def ask(self, server: Server, call: Call[object], seconds: float) -> Answer | NoAnswer:
        """One request. seconds: for all of it."""
        try:
            async with asyncio.timeout(seconds):
                return await self._ask(server, call)
        except (OSError, NotHttp) as error:  # TimeoutError is one
            return NoAnswer(why(error))

    async def _ask(self, server: Server, call: Call[object]) -> Answer:
        while True:
            kept = self._take(server)
            stream = kept or await self._connected(server)
            reply = Reply()
            try:
                await self._exchange(stream, server, call, reply)
            except BaseException as error:  # a cancellation too: what comes next would be another request's answer
                stream[1].transport.abort()
                if kept is None or reply.begun or not isinstance(error, (OSError, NotHttp)):
                    raise
                continue  # the server has closed it while it was kept; all can be asked again
            self._give_back(server, stream, keep=reply.keep)
            return reply.answer()

    async def _exchange(self, stream: Stream, server: Server, call: Call[object], reply: Reply) -> None:
        reader, writer = stream
        writer.write(head_of(server, self.servers.token, call))
        writer.write(call.body)
        await writer.drain()
        while not reply.complete:
            reply.feed(await reader.read(READ))

    async def _connected(self, server: Server) -> Stream:
        if server.socket is not None:
            reader, writer = await asyncio.open_unix_connection(server.socket)
        else:
            reader, writer = await _tls(server, self.servers.tls)
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._open.add(writer)
        return reader, writer

    def _take(self, server: Server) -> Stream | None:
        """One that is kept, and on which the server has said nothing since: it would be the next request's answer."""
        now = asyncio.get_running_loop().time()
        kept = self._kept.get(server, [])
        while kept:
            since, stream = kept.pop()
            if now < since + KEPT_SECONDS and _silent(stream[0]):
                return stream
            stream[1].close()
        return None

    def _give_back(self, server: Server, stream: Stream, *, keep: bool) -> None:
        kept = self._kept.setdefault(server, [])
        if keep and len(kept) < MAX_KEPT:
            kept.append((asyncio.get_running_loop().time(), stream))
        else:
            stream[1].close()

    async def close(self) -> None:
        """End them."""
        ended, self._kept = self._kept, {}
        for _, (_, writer) in (one for kept in ended.values() for one in kept):
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):  # however it ends, it has
                async with asyncio.timeout(1):
                    await writer.wait_closed()

    def forget(self) -> None:
        """After a fork, in the child: leave them to the parent.

        The child has the parent's event loop too, and with it the very epoll(7) that the parent waits by: a stream that
        is closed there, or collected, is taken out of that. So each descriptor is made to lead nowhere first.
        """
        nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for writer in self._open:
            if (number := writer.get_extra_info("socket").fileno()) >= 0:
                os.dup2(nowhere, number, inheritable=False)
        os.close(nowhere)


def _silent(reader: asyncio.StreamReader) -> bool:
    # asyncio has no other way to ask what has come already.
    return not reader.at_eof() and not reader._buffer  # type: ignore[attr-defined]  # noqa: SLF001 - as above


async def _tls(server: Server, tls: ssl.SSLContext | None) -> Stream:
    """A connection to the first address of a name that answers."""
    host, port = server.address.host, server.address.port
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    *others, last = dict.fromkeys(str(entry[4][0]) for entry in found)
    for address in others:
        with contextlib.suppress(OSError):  # TimeoutError is one
            async with asyncio.timeout(ADDRESS_SECONDS):
                return await asyncio.open_connection(address, port, ssl=tls, server_hostname=host)
    return await asyncio.open_connection(last, port, ssl=tls, server_hostname=host)
