"""Listeners that are no instance: one whose queue is full, and one that gives everybody the same answer."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from rkeyserver.address import Address

DEADLINE = 20


@contextlib.contextmanager
def full() -> Iterator[tuple[str, int]]:
    """An address whose queue of connections is full: the kernel drops what comes, as a broken network does."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        host, port = listener.getsockname()
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0)
            filler.connect_ex((host, port))
        yield host, port


@contextlib.contextmanager
def answering(status: int, body: bytes, pause: float = 0) -> Iterator[Address]:
    """One that answers each request with this, after `pause` seconds."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 5  # whoever else connects and sends nothing

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", "0")))
            time.sleep(pause)
            with contextlib.suppress(OSError):  # who asked has left
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - its name

        def log_message(self, *_args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Address("127.0.0.1", server.server_port)
        finally:
            server.shutdown()
            thread.join(DEADLINE)
