"""A client's connections, for programs that wait. Every step of one request ends at one time."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Final

from rkeyserver.client.calls import Answer, Call, NoAnswer
from rkeyserver.client.http import KEPT_SECONDS, READ, NotHttp, Reply, head_of, why
from rkeyserver.client.servers import Server, Servers

MAX_KEPT: Final = 32  # of one server
MAX_ADDRESSES: Final = 8  # of one server's name


@dataclass
class Connections:
    """Those to all servers that are not in use now. Threads share it."""

    servers: Servers
    _kept: dict[Server, list[tuple[float, socket.socket]]] = field(default_factory=dict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def ask(self, server: Server, call: Call[object], seconds: float) -> Answer | NoAnswer:
        """One request. seconds: for all of it but the look-up of a name, which is the system's."""
        end = time.monotonic() + seconds
        while True:
            kept = self._take(server)
            reply = Reply()
            try:
                connection = kept or _connected(self.servers, server, end)
            except OSError as error:
                return NoAnswer(why(error))
            try:
                self._exchange(connection, server, call, reply, end)
            except BaseException as error:  # whatever it is: what comes next would be another request's answer
                connection.close()
                if not isinstance(error, (OSError, NotHttp)):
                    raise
                if kept is not None and not reply.begun and not isinstance(error, TimeoutError):
                    continue  # the server has closed it while it was kept; all can be asked again
                return NoAnswer(why(error))
            self._give_back(server, connection, keep=reply.keep)
            return reply.answer()

    def _exchange(
        self, connection: socket.socket, server: Server, call: Call[object], reply: Reply, end: float
    ) -> None:
        for part in (head_of(server, self.servers.token, call), call.body):
            connection.settimeout(_left(end))
            connection.sendall(part)
        buffer = bytearray(READ)
        with memoryview(buffer) as view:
            while not reply.complete:
                connection.settimeout(_left(end))
                size = connection.recv_into(buffer)
                reply.feed(view[:size])
                view[:size] = bytes(size)

    def _take(self, server: Server) -> socket.socket | None:
        """One that is kept, and on which the server has said nothing since: it would be the next request's answer."""
        while True:
            with self._lock:
                kept = self._kept.get(server)
                if not kept:
                    return None
                since, connection = kept.pop()
            poll = select.poll()
            poll.register(connection, select.POLLIN)
            if time.monotonic() < since + KEPT_SECONDS and not poll.poll(0):
                return connection
            connection.close()

    def _give_back(self, server: Server, connection: socket.socket, *, keep: bool) -> None:
        with self._lock:
            kept = self._kept.setdefault(server, [])
            if keep and len(kept) < MAX_KEPT:
                kept.append((time.monotonic(), connection))
                return
        connection.close()

    def close(self) -> None:
        """End them."""
        with self._lock:
            ended, self._kept = self._kept, {}
        for _, connection in (one for kept in ended.values() for one in kept):
            connection.close()

    def forget(self) -> None:
        """After a fork, in the child: leave them to the parent, and say nothing on them."""
        self._lock = threading.Lock()  # a thread of the parent's may have held it
        ended, self._kept = self._kept, {}
        for _, connection in (one for kept in ended.values() for one in kept):
            with contextlib.suppress(OSError):  # it is closed already
                os.close(connection.detach())


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _connected(servers: Servers, server: Server, end: float) -> socket.socket:
    if server.socket is not None:
        return _open(socket.AF_UNIX, server.socket, _left(end))
    assert servers.tls is not None  # noqa: S101 - servers_of() has seen to it
    plain = _reached(server, end)
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.settimeout(_left(end))
        return servers.tls.wrap_socket(plain, server_hostname=server.address.host)
    except BaseException:  # whatever it is, no connection stays open
        plain.close()
        raise


def _reached(server: Server, end: float) -> socket.socket:
    """A connection to the first of its addresses that takes one. Each may have an equal part of the time that is left.

    socket.create_connection() gives all of the time to each of them.
    """
    found = socket.getaddrinfo(server.address.host, server.address.port, type=socket.SOCK_STREAM)[:MAX_ADDRESSES]
    while True:
        family, _, _, _, address = found.pop(0)
        try:
            return _open(family, address, _left(end) / (len(found) + 1))
        except OSError:
            if not found:
                raise


def _open(family: int, address: object, seconds: float) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.settimeout(seconds)
        made.connect(address)  # type: ignore[arg-type]  # of that family, as getaddrinfo() has it
    except BaseException:  # whatever it is, no connection stays open
        made.close()
        raise
    return made
