"""TLS for applications that show an RA-TLS certificate: no CA signed it, which Python's ssl cannot accept.

pyOpenSSL, over memory buffers, so that the event loop never waits. Every connection proves the client's key anew: no
session is kept, so none is resumed; no ticket of an earlier one opens anything; there is no early data, no
renegotiation. Imported when the listener opens (docs/adr/0022-ra-tls.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from rkeyserver.address import parse_address
from rkeyserver.attestation.evidence import Attester
from rkeyserver.attestation.sgx import ra_tls
from rkeyserver.errors import Misuse, Reason, Rejected
from rkeyserver.service.provision_ca import Ca
from rkeyserver.service.vouching import in_its_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# What mbedTLS and OpenSSL both have, with forward secrecy and an AEAD; TLS 1.3 has no other.
_CIPHERS: Final = b"ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305"
Result = TypeVar("Result")
MAX_NAMES: Final = 32
MAX_RECEIVED: Final = 64 * 1024  # bytes of one connection; a Gramine client sends about 13,000
_READ: Final = 16 * 1024
log = logging.getLogger(__name__)


@dataclass
class ServerIdentity:
    """What applications see of this server: a key made at random, vouched for by a quote, under the domain's CA.

    A certificate is issued for whichever name a client asks for. The name proves nothing: the CA's key does, which only
    holders of the keyring have.
    """

    ca: Ca
    key: ec.EllipticCurvePrivateKey
    evidence: x509.UnrecognizedExtension
    _names: OrderedDict[str, x509.Certificate] = field(default_factory=OrderedDict, init=False, repr=False)
    _context: SSL.Context = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._context = self._made()

    def certificate(self, name: str) -> x509.Certificate:
        """The certificate for `name`, a host name or an IP address.

        Raises: Misuse for what is no name.
        """
        parse_address(f"[{name}]" if ":" in name else name, 0)
        if name not in self._names:
            self._names[name] = self.ca.issue(self.key.public_key(), _alternatives(name), self.evidence)
        self._names.move_to_end(name)
        while len(self._names) > MAX_NAMES:
            self._names.popitem(last=False)
        return self._names[name]

    def connection(self, address: str) -> SSL.Connection:
        """The server's side of a new connection. address: that it came to, for a client that names no server."""
        made = SSL.Connection(self._context, None)
        made.set_accept_state()
        made.use_certificate(self.certificate(address))
        return made

    def _made(self) -> SSL.Context:
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_cipher_list(_CIPHERS)
        # Whatever certificate: that its key is the client's is checked by TLS, who that is by the quote in it, later.
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: True)
        context.use_privatekey(self.key)
        context.set_tlsext_servername_callback(self._named)
        return context

    def _named(self, connection: SSL.Connection) -> None:
        # What this raises, the library prints and passes over: so it raises nothing.
        try:
            if (name := connection.get_servername()) is not None:
                connection.use_certificate(self.certificate(name.decode("ascii")))
        except (Misuse, ValueError, SSL.Error):
            log.debug("A client asks for a server by what is no name.")


async def new_identity(ca: Ca, attester: Attester) -> ServerIdentity:
    """A new key for this server, with a quote for it.

    Raises: Unavailable if the platform gives none now.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    claims = ra_tls.claims_of(ra_tls.public_key_info(key.public_key()))
    quote = await in_its_time(attester, attester.evidence, ra_tls.report_data(claims))
    return ServerIdentity(ca, key, ra_tls.extension_of(quote, claims))


def _alternatives(name: str) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    # mbedTLS before 3.5 looks for an address among the names.
    with contextlib.suppress(ValueError):
        found.append(x509.IPAddress(ipaddress.ip_address(name)))
    return [x509.DNSName(name), *found]


class TlsConnection:
    """One client's connection, as a server. Its bytes are capped; its time is the caller's to cap.

    Raises: Rejected(TLS_FAILED) from every method, where the client breaks TLS, leaves, or sends too much.
    """

    def __init__(self, tls: SSL.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tls = tls
        self._reader = reader
        self._writer = writer
        self.received = 0

    async def handshake(self) -> bytes:
        """Carry it out; the client's certificate, DER: proved is that the client has its key, and nothing else."""
        await self._until(self._tls.do_handshake)
        certificate = self._tls.get_peer_certificate(as_cryptography=True)
        if certificate is None:  # TLS has refused such a client
            raise Rejected(Reason.TLS_FAILED, "The client has shown no certificate.")
        if self._tls.get_peer_cert_chain():
            raise Rejected(Reason.MALFORMED, "The client shows more than one certificate.")
        return certificate.public_bytes(Encoding.DER)

    async def read(self, most: int) -> bytes:
        """What comes next, up to `most` bytes."""
        return await self._until(lambda: self._tls.recv(most))

    async def write(self, data: memoryview) -> None:
        """Send all of `data`, and that nothing follows."""
        await self._until(lambda: self._tls.sendall(data))
        with contextlib.suppress(SSL.Error):  # the other side has ended it already
            self._tls.shutdown()
        await self._flush()

    async def ended(self) -> None:
        """Wait until the client has ended it, which is Rejected(TLS_FAILED); what it still says is passed over."""
        while True:
            await self.read(_READ)

    async def _until(self, step: Callable[[], Result]) -> Result:
        """What `step` comes to, once the client has sent what it takes."""
        while True:
            try:
                found = step()
            except SSL.WantReadError:
                await self._flush()
                await self._more()
            except SSL.Error as error:
                await self._flush()  # the alert
                raise Rejected(Reason.TLS_FAILED, f"TLS failed: {_why(error)}.") from error
            else:
                await self._flush()
                return found

    async def _more(self) -> None:
        with _there():
            data = await self._reader.read(_READ)
        self.received += len(data)
        if not data:
            raise Rejected(Reason.TLS_FAILED, "The client left.")
        if self.received > MAX_RECEIVED:
            raise Rejected(Reason.TLS_FAILED, f"The client sent over {MAX_RECEIVED} bytes.")
        self._tls.bio_write(data)

    async def _flush(self) -> None:
        with contextlib.suppress(SSL.WantReadError):
            while True:
                self._writer.write(self._tls.bio_read(_READ))
        with _there():
            await self._writer.drain()


@contextlib.contextmanager
def _there() -> Iterator[None]:
    try:
        yield
    except ConnectionError as error:
        raise Rejected(Reason.TLS_FAILED, "The client left.") from error


def _why(error: SSL.Error) -> str:
    # OpenSSL's queue: library, function, reason; none where the client has ended it properly.
    queue: list[tuple[str, ...]] = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return ", ".join(one[-1] for one in queue) or "the client has ended it"
