"""The HTTP that a client speaks: one POST, and the answer to it, whole. No I/O; imported when something is asked for.

No library with connections of its own: a program that waits for a key needs an end to the waiting that holds however
slowly the bytes come, and what holds a secret has to be ours to erase (docs/adr/0030-python-client.md).
"""

from __future__ import annotations

import os
import ssl
from typing import Final

import httptools

from rkeyserver.client.calls import MAX_ANSWER, Answer, Call
from rkeyserver.client.servers import Server
from rkeyserver.secret import erase

KEPT_SECONDS: Final = 3.0  # for which an unused connection is kept; servers drop it after 5
MAX_HEAD: Final = 16 * 1024
READ: Final = 64 * 1024


class NotHttp(Exception):
    """What came is no answer that is taken; the text says what it is."""


def head_of(server: Server, token: str | None, call: Call[object]) -> bytes:
    """What goes before the body of a request."""
    lines = [
        f"POST {call.path} HTTP/1.1",
        f"host: {server.host}",
        "content-type: application/json",
        f"content-length: {len(call.body)}",
        *([] if server.socket is not None else [f"authorization: Bearer {token}"]),
        "",
        "",
    ]
    return "\r\n".join(lines).encode()


class Reply:
    """An answer as it comes."""

    def __init__(self) -> None:
        self.complete = False
        self.keep = False
        self._size = 0
        self._in_head = True
        self._retry_after = ""
        self._body = bytearray()
        self._parser = httptools.HttpResponseParser(self)

    @property
    def begun(self) -> bool:
        """Whether any of it has come."""
        return self._size > 0

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes; none of them says that there are no more.

        Raises: NotHttp.
        """
        if not data:
            raise NotHttp("it ends in the middle of its answer" if self._size else "it closes without an answer")
        self._size += len(data)
        if self._size > MAX_HEAD + MAX_ANSWER or (self._in_head and self._size > MAX_HEAD + READ):
            raise NotHttp(f"it answers with more than {MAX_ANSWER} bytes")
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise NotHttp("it answers with what is no HTTP") from error

    def answer(self) -> Answer:
        """All of it, once it is complete."""
        return Answer(self._parser.get_status_code(), self._retry_after, self._body)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        if name.lower() == b"retry-after":
            self._retry_after = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._in_head = False

    def on_body(self, part: bytes) -> None:
        """Called by the parser."""
        self._body += part
        if len(part) > 1:  # Python may have one object for all bytes of one value
            erase(part)

    def on_message_complete(self) -> None:
        """Called by the parser: what follows is not asked for."""
        self.keep = self._parser.should_keep_alive() and not self.complete
        self.complete = True


def why(error: BaseException) -> str:
    """Why there was no answer, in a few words: those of the system, where the error comes from there."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLError):  # its errno is no error of the system
        return getattr(error, "verify_message", "") or error.reason or "TLS failed"
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)  # asyncio puts a sentence of its own into strerror
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
