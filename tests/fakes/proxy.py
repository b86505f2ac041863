"""A link between two that can be cut and be slow: the kernel's own way to make one so (netem) is not everywhere."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Self

from rkeyserver.address import Address


class Proxy:
    """TCP to one server. After `parted` is set, what was sent is lost, and nothing ends.

    lag: seconds that each piece is on its way, either way; piece: bytes of which there is one on its way at a time.
    """

    def __init__(self, to: Address, *, lag: float = 0.0, piece: int = 65536) -> None:
        self._to = to
        self._lag = lag
        self._piece = piece
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self.parted = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self._listener.getsockname()[1])

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it was closed
            while True:
                here, _ = self._listener.accept()
                there = socket.create_connection((self._to.host, self._to.port))
                self._ends += [here, there]
                for one, other in ((here, there), (there, here)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):  # either side has left
            while part := one.recv(self._piece):
                time.sleep(self._lag)
                if not self.parted.is_set():
                    other.sendall(part)
            if not self.parted.is_set():
                other.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for one in (self._listener, *self._ends):
            with contextlib.suppress(OSError):  # it has ended already
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
