"""Answers a caller where his request is read: in no task and by no messages, so that it is quick and leaves nothing.

uvicorn's own way costs more than all that a call asks for, and copies a body into objects that are out of reach once
they are used. Here every buffer that a body goes through is this module's, and is overwritten before the next request:
what is read, what the parser cuts out of it, what is answered. The parser, the connections and their limits are those
of every listener (service/limits.py), and what is asked for beside an action goes uvicorn's way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, cast, runtime_checkable

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from rkeyserver.errors import Reason, Rejected, RkeyError
from rkeyserver.secret import erase
from rkeyserver.service.limits import Guard, GuardedProtocol, PipelinedError
from rkeyserver.service.policy_app import told

_READ: Final = 64 * 1024
_ZEROS: Final = bytes(_READ)
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_OK: Final = STATUS_LINE[200] + b"content-type: application/json\r\n"
_CLOSE: Final = b"connection: close\r\n"
_BUG: Final = (
    b"HTTP/1.1 500 Internal Server Error\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: 21\r\nconnection: close\r\n\r\nInternal Server Error"
)
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """The parts of an answer's JSON body. secret: the one of them that is, if any; overwritten once it is sent."""

    parts: tuple[bytes, ...]
    secret: bytes | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """A request whose head is read. who: whose turn it takes; most: bytes of its body.

    answer: given the body, which nobody else holds, it returns what is answered or raises RkeyError. done: called once,
    when the call is over, however it ended. delay: seconds until it is answered.
    """

    who: str
    most: int
    answer: Callable[[bytes], Answer]
    done: Callable[[], None] | None = None
    delay: float = 0.0


@runtime_checkable
class AtOnce(Protocol):
    """An application that answers some requests without waiting for anything."""

    def at_once(self, scope: Scope) -> Call | None:
        """How this request is answered; None if as ASGI has it."""


def wipe(buffer: bytearray | memoryview) -> None:
    """Overwrite all of it."""
    size = len(buffer)
    buffer[:] = _ZEROS[:size] if size <= _READ else bytes(size)


class CallersProtocol(GuardedProtocol):
    """The protocol of a listener for callers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - uvicorn's
        super().__init__(*args, **kwargs)
        self._at_once = self.app.at_once if isinstance(self.app, AtOnce) else _never
        self._call: Call | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._fd: int | None = None
        self._answered = False  # by what is being read just now

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows it too
        """As of any listener."""
        super().connection_made(transport)
        found = transport.get_extra_info("socket")
        # Inside TLS the socket is not what is written to.
        if found is not None and transport.get_extra_info("sslcontext") is None:
            self._fd = found.fileno()

    def data_received(self, data: bytes | memoryview) -> None:
        """Take it into a buffer that is erased when it is read; whose it was is then nobody's."""
        own = memoryview(bytearray(data))
        if isinstance(data, bytes):
            erase(data)  # what TLS made for this call
        super().data_received(own)

    def _read(self, data: bytes | memoryview) -> None:
        self._answered = False
        try:
            super()._read(data)
        finally:
            wipe(cast("memoryview", data))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:  # noqa: ANN401 - uvicorn's
        self._parts, self._size = [], 0
        call = self._call = self._at_once(cast("Scope", self.scope))
        if call is None:
            super()._start_asgi_task(cycle, app)
        elif _declared(self.headers) > call.most:
            self._call = Call(call.who, call.most, refusal(_too_large(call.most)), call.done, call.delay)
            self.loop.call_later(call.delay, self._in_turn, self._call)  # and not when all of it was sent
        elif self.expect_100_continue:
            self.transport.write(_CONTINUE)

    def on_message_begin(self) -> None:
        """As of any listener: what came with a request was sent before its answer, and is one too many."""
        if self._answered:
            raise PipelinedError
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        """Keep a part of a body; the parser made it for this, and nobody else has it."""
        if self._call is None:
            super().on_body(body)
            erase(body)
            return
        self._size += len(body)
        if self._size > self._call.most:
            erase(body)  # it is refused, once it is whole
        else:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        """Answer, when it is this caller's turn."""
        super().on_message_complete()
        call = self._call
        if call is None:
            return
        if call.delay:
            self.loop.call_later(call.delay, self._in_turn, call)
        elif self.guard.answers is None:
            self._answer(call)  # it was read in its caller's turn
        else:
            self._in_turn(call)

    def on_response_complete(self) -> None:
        """As uvicorn's, and erase what was sent and not asked for."""
        wipe(self.cycle.body)
        super().on_response_complete()

    def abort(self) -> None:
        """Drop the connection at once."""
        super().abort()
        self._over()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        super().connection_lost(exc)
        self._over()

    def _over(self) -> None:
        call, self._call = self._call, None
        parts, self._parts = self._parts, []
        for one in parts:
            erase(one)
        if call is not None and call.done is not None:
            call.done()

    def _in_turn(self, call: Call) -> None:
        # Those that were refused together come back together: they too are answered one at a time.
        if self.guard.answers is None:
            self.guard.turns.take(self._turn, partial(self._answer, call))
        else:
            self.guard.answers.take(call.who, partial(self._answer, call))

    def _answer(self, call: Call) -> None:
        cycle = self.cycle
        if self._call is not call or self.transport.is_closing():
            return
        self._answered = True
        try:
            whole = self._whole(call)
        except Exception:  # as uvicorn does; raised from here it would pass for bad HTTP
            log.exception("A request of %s was not answered, which is a bug.", call.who)
            cycle.keep_alive = False
            whole = bytearray(_BUG)
        finally:
            self._over()
        cycle.response_started = cycle.response_complete = True
        self._send(whole)
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _whole(self, call: Call) -> bytearray:
        try:
            if self._size > call.most:
                raise _too_large(call.most)
            found = call.answer(self._parts[0] if len(self._parts) == 1 else self._joined())
        except RkeyError as error:
            answer = told(error)
            error.__traceback__ = None  # else it and what raised it keep each other, until cycles are looked for
            head = [STATUS_LINE[answer.status_code]]
            for name, value in answer.raw_headers:
                head += [name, b": ", value, b"\r\n"]
            return bytearray().join([*head, b"" if self.cycle.keep_alive else _CLOSE, b"\r\n", bytes(answer.body)])
        parts = found.parts
        length = b"content-length: %d\r\n" % sum(map(len, parts))
        store = b"" if found.secret is None else b"cache-control: no-store\r\n"
        close = b"" if self.cycle.keep_alive else _CLOSE
        whole = bytearray().join((_OK, store, length, close, b"\r\n", *parts))
        if found.secret is not None:
            erase(found.secret)
        return whole

    def _joined(self) -> bytes:
        whole = b"".join(self._parts)
        for one in self._parts:
            erase(one)
        self._parts = [whole]
        return whole

    def _send(self, whole: bytearray) -> None:
        """Write it all and erase it. Only what a caller does not take at once has to be left to the transport."""
        sent = 0
        if self._fd is None:
            self.transport.write(whole)  # of TLS: it is encrypted when that returns
            sent = len(whole)
        elif not self.transport.get_write_buffer_size():
            with contextlib.suppress(OSError):  # he takes no more now; or he is gone, and the transport finds out
                sent = os.write(self._fd, whole)
        if sent < len(whole):
            self.transport.write(bytes(memoryview(whole)[sent:]))
        wipe(whole)


def _never(_scope: Scope) -> None:
    return None


def _declared(headers: list[tuple[bytes, bytes]]) -> int:
    """The length of a body, if its client says it: the parser has read it as a number, or would have ended before."""
    return int(next((value for name, value in headers if name == b"content-length"), b"0"))


def _too_large(most: int) -> Rejected:
    return Rejected(Reason.TOO_LARGE, f"A body of over {most} bytes; at most {most} are read.")


def refusal(error: RkeyError) -> Callable[[bytes], Answer]:
    """What a call that is refused whatever its body says answers."""

    def answer(body: bytes) -> Answer:
        erase(body)
        raise error

    return answer


class _OwnBuffer(asyncio.BufferedProtocol):
    """Reads into a buffer that is erased when the protocol inside has taken it: uvloop's own would stay as it is."""

    _buffer = memoryview(bytearray(_READ))  # one for all: between two calls of this class nothing is in it

    def __init__(self, inside: CallersProtocol) -> None:
        self._inside = inside
        # The loop finds the one inside at once, with no call of ours between.
        self.connection_lost = inside.connection_lost  # type: ignore[method-assign]  # that is meant
        self.pause_writing = inside.pause_writing  # type: ignore[method-assign]  # the same
        self.resume_writing = inside.resume_writing  # type: ignore[method-assign]  # the same
        self.eof_received = inside.eof_received  # type: ignore[method-assign]  # the same

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # asyncio's is wider
        """As the one inside."""
        self._inside.connection_made(transport)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's
        """Where to read to."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes are there."""
        view = self._buffer[:nbytes]
        try:
            self._inside.data_received(view)
        finally:
            view[:] = _ZEROS[:nbytes]


def callers_protocol(guard: Guard, *, own_buffer: bool) -> Callable[..., asyncio.BaseProtocol]:
    """What uvicorn makes for each connection. own_buffer: whether it is what the event loop reads for."""
    made = type("Callers", (CallersProtocol,), {"guard": guard})

    def with_buffer(*args: Any, **kwargs: Any) -> asyncio.BaseProtocol:  # noqa: ANN401 - uvicorn's
        return _OwnBuffer(made(*args, **kwargs))

    return with_buffer if own_buffer else made
