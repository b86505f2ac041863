"""TLS 1.3 between a socket and uvicorn's protocol.

pyOpenSSL over memory buffers: Python's ssl takes a private key from a file and from nowhere else, and inside an enclave
every file is the host's (docs/adr/0028-token-listener.md). A connection counts from accept on, before it has shown
anything. No session is kept, so none is resumed; there is no early data and no compression.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL
from OpenSSL._util import ffi, lib

from rkeyserver.service.limits import Guard, client_of
from rkeyserver.service.provision_ca import Ca

HANDSHAKE_SECONDS: Final = 5.0
MAX_HANDSHAKE: Final = 16 * 1024  # bytes of a client before TLS is up; a hello with a hybrid key share has 1,700
MAX_SILENT: Final = 64 * 1024  # bytes that say nothing once TLS is up; a record that is not whole has 16,600
_READ: Final = 16 * 1024
_SAID: Final = 4  # what one byte of a request takes off that: small records have their share of overhead
_CLEANSE_PLAINTEXT: Final = 1 << 1  # SSL_OP_CLEANSE_PLAINTEXT of OpenSSL 3.0; pyOpenSSL has no name for it


def server_context(ca: Ca, names: list[str]) -> SSL.Context:
    """A server's side of TLS, with a key of its own that the domain's CA certifies for `names`: hosts or addresses."""
    key = ec.generate_private_key(ec.SECP256R1())
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | _CLEANSE_PLAINTEXT)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.use_certificate(ca.issue(key.public_key(), [_alternative(name) for name in names], None))
    context.use_privatekey(key)
    return context


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class _Connection(SSL.Connection):
    """pyOpenSSL's, but for where it reads to: it takes memory anew for each read, and frees it as it is."""

    _buffer: Final = ffi.new("char[]", _READ)  # one for all: nothing is in it between two reads

    def received(self) -> Iterator[memoryview]:
        """What the client has said, piece by piece; each is erased before the next.

        Raises: SSL.Error, where there is no more for now SSL.WantReadError.
        """
        while True:
            size = lib.SSL_read(self._ssl, self._buffer, _READ)  # as recv() does
            self._raise_ssl_error(self._ssl, size)
            piece = memoryview(ffi.buffer(self._buffer, size))
            try:
                yield piece
            finally:
                piece[:] = bytes(size)


class Encrypted(asyncio.Protocol):
    """One connection. make: gives the protocol that speaks inside, once TLS is up."""

    busy = False  # for the guard: until TLS is up it waits for its client

    def __init__(self, context: SSL.Context, guard: Guard, make: Callable[[], asyncio.Protocol]) -> None:
        self.tls = _Connection(context, None)
        self.tls.set_accept_state()
        self.received = 0
        self._silent = 0
        self.raw: asyncio.Transport
        self._guard = guard
        self._make = make
        self._inside: asyncio.Protocol | None = None
        self._address = ""
        self._deadline: asyncio.TimerHandle

    def abort(self) -> None:
        """Drop the connection at once."""
        self._guard.leave(self, self._address)
        self.raw.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # asyncio's is wider
        """Count it, and set its deadline."""
        self.raw = transport
        self._address = client_of(str(transport.get_extra_info("peername")[0]))
        self._guard.enter(self, self._address)
        self._deadline = asyncio.get_running_loop().call_later(HANDSHAKE_SECONDS, self.abort)

    def data_received(self, data: bytes) -> None:
        """Take what the client sent, and pass on what it says."""
        while data and not self.raw.is_closing():
            piece, data = data[:_READ], data[_READ:]
            self._take(piece)

    def _take(self, data: bytes) -> None:
        self.tls.bio_write(data)
        if self._inside is None:
            self.received += len(data)
            self._guard.took(len(data))
            self._shake_hands()
        if self._inside is not None:
            # Updates of keys, and whatever else TLS has to say to itself, cost this server time, and it answers them.
            self._silent += len(data)
            self._pass_on(self._inside)
            if self._silent > MAX_SILENT:
                self.raw.abort()

    def _shake_hands(self) -> None:
        try:
            self.tls.do_handshake()
        except SSL.WantReadError:
            self.flush()
            if self.received > MAX_HANDSHAKE:
                self.abort()
            return
        except SSL.Error:
            self.flush()  # the alert
            self.raw.close()
            return
        self.flush()
        if self.raw.is_closing():
            return  # dropped meanwhile
        self._deadline.cancel()
        self._guard.leave(self, self._address)
        self._inside = self._make()
        self._inside.connection_made(_Inside(self))

    def _pass_on(self, inside: asyncio.Protocol) -> None:
        if self.raw.is_closing():
            return
        try:
            for piece in self.tls.received():
                self._silent = max(0, self._silent - _SAID * len(piece))
                inside.data_received(cast("bytes", piece))  # which copies it
                if self.raw.is_closing():
                    break
        except SSL.WantReadError:
            pass
        except SSL.Error:  # it has ended TLS, or broken it
            self.flush()
            self.raw.close()
        self.flush()

    def flush(self) -> None:
        """Send what TLS has to send."""
        with contextlib.suppress(SSL.WantReadError):
            while not self.raw.is_closing():
                self.raw.write(self.tls.bio_read(_READ))

    def pause_writing(self) -> None:
        """The client does not read."""
        if self._inside is not None:
            self._inside.pause_writing()

    def resume_writing(self) -> None:
        """It reads again."""
        if self._inside is not None:
            self._inside.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._deadline.cancel()
        self._guard.leave(self, self._address)
        if self._inside is not None:
            self._inside.connection_lost(exc)


class _Inside(asyncio.Transport):
    """The transport of what speaks inside: as much of it as uvicorn uses."""

    def __init__(self, outer: Encrypted) -> None:
        super().__init__()
        self._outer = outer

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 - asyncio's
        """As of the socket; `sslcontext` says that this is TLS."""
        return self._outer.tls.get_context() if name == "sslcontext" else self._outer.raw.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send it."""
        if data and not self._outer.raw.is_closing():
            self._outer.tls.sendall(data)
            self._outer.flush()

    def close(self) -> None:
        """End TLS and the connection, once all is sent."""
        if not self._outer.raw.is_closing():
            with contextlib.suppress(SSL.Error):  # before the handshake is over there is nothing to end
                self._outer.tls.shutdown()
            self._outer.flush()
            self._outer.raw.close()

    def is_closing(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._outer.raw.is_closing()

    def abort(self) -> None:
        """Drop it at once."""
        self._outer.raw.abort()

    def pause_reading(self) -> None:
        """Take no more for now."""
        self._outer.raw.pause_reading()

    def resume_reading(self) -> None:
        """Go on."""
        self._outer.raw.resume_reading()
