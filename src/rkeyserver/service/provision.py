"""Gives application enclaves that the policy names their keys: Gramine's secret provisioning (docs/spec/ra-tls.md).

The listener is open while a keyring is held whose policy has applications, and at no other time. A client proves, in
this order, that it has the key of its certificate, by TLS; that this key is an enclave's, by the quote in it; that the
policy names the enclave. Then the decision is recorded, and only then does the derived key leave. Whoever fails is
cut off without an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from rkeyserver.address import Address
from rkeyserver.appraisal.applications import ApplicationVerdict, appraise_application
from rkeyserver.appraisal.policy import Policy
from rkeyserver.attestation.evidence import Attester
from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.errors import Reason, Rejected, RkeyError, Unavailable
from rkeyserver.keyring.derivation import Purpose, derive_into
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.secret import SecretBytes
from rkeyserver.service.app import MAX_SHARE
from rkeyserver.service.audit_line import Line, Peer, reason_of
from rkeyserver.service.instance import Instance
from rkeyserver.service.kept_open import KeptOpen
from rkeyserver.service.limits import Guard, Shares, client_of
from rkeyserver.service.on_demand import QuoteVerifier
from rkeyserver.service.rates import REFUSED_DELAY, Rates

if TYPE_CHECKING:
    from rkeyserver.service.provision_tls import ServerIdentity, TlsConnection

# gramineproject/gramine 1.9, tools/sgx/ra-tls/secret_prov.h: texts of C, each with the NUL that ends it.
REQUEST: Final = b"SECRET_PROVISION_RA_TLS_REQUEST_V1\0"
RESPONSE: Final = b"SECRET_PROVISION_RA_TLS_RESPONSE_V1:\0"
_LENGTH_SIZE: Final = 4

HANDSHAKE_SECONDS: Final = 10.0  # from accept until the request is whole
CONNECTION_SECONDS: Final = 40.0  # for all of it: collateral may have to be fetched
LINGER_SECONDS: Final = 2.0
MAX_CONNECTIONS: Final = 256
PER_SECOND: Final = 10.0  # keys of one application on one machine, each with a line in the audit file
BURST: Final = 100.0
RENEW_SECONDS: Final = 24 * 3600.0  # the age at which the quote in the certificate is made anew
_HEX: Final = b"0123456789abcdef"
log = logging.getLogger(__name__)


def generation_of(keyring: Keyring, name: str) -> str:
    """The id of the generation that a policy calls `name`: first, current, or its id.

    Raises: Unavailable if the keyring has no such generation, or has it retired.
    """
    try:
        return keyring.generation_named(name)
    except Rejected as error:
        if error.reason is not Reason.GENERATION_RETIRED:
            raise Unavailable(f"The policy names generation {name}, which this keyring has not.") from error
        raise Unavailable(
            f'What is wanted of generation "{name}" cannot be derived: it was retired.',
            advice='Name another one in the policy: ca_generation = "current" under [provision] for the CA, or the '
            "application's generation.",
        ) from error


def answer(keyring: Keyring, verdict: ApplicationVerdict) -> SecretBytes:
    """All that an application with a verdict is sent: the derived key of its label behind the protocol's head.

    Raises: Unavailable if the policy names a generation that the keyring has not.
    """
    application = verdict.application
    root_key = keyring.root_key(generation_of(keyring, application.generation))
    hexadecimal = application.encoding == "hex"
    size = 2 * application.size + 1 if hexadecimal else application.size
    start = len(RESPONSE) + _LENGTH_SIZE
    found = SecretBytes(start + size)
    found.view[:start] = RESPONSE + size.to_bytes(_LENGTH_SIZE, "big")
    with SecretBytes(application.size) as key:
        into = key.view if hexadecimal else found.view[start:]
        label = application.label.encode()
        derive_into(root_key, domain=keyring.domain, purpose=Purpose.RA_TLS_SECRET, label=label, into=into)
        if hexadecimal:  # and a NUL behind it, which is there already
            for at, byte in enumerate(key.view):
                found.view[start + 2 * at] = _HEX[byte >> 4]
                found.view[start + 2 * at + 1] = _HEX[byte & 15]
    return found


@dataclass(eq=False)
class _Client:
    """A connection, as the guard sees it: what waits for its client makes room first."""

    writer: asyncio.StreamWriter
    address: str
    busy: bool = False
    received: int = 0

    def abort(self) -> None:
        """Drop it."""
        self.writer.transport.abort()


@dataclass
class Provisioner:
    """The listener and what it is doing. open_sockets: as serve.open_sockets()."""

    instance: Instance
    address: Address
    attester: Attester
    verifier: QuoteVerifier
    open_sockets: Callable[[Address], list[socket.socket]]
    given: int = field(default=0, init=False)
    _kept: KeptOpen = field(init=False)
    _servers: list[asyncio.Server] = field(default_factory=list, init=False)
    _clients: set[asyncio.Task[None]] = field(default_factory=set, init=False)
    _guard: Guard = field(default_factory=lambda: Guard(total=MAX_CONNECTIONS), init=False)
    _shares: Shares = field(default_factory=lambda: Shares(MAX_SHARE), init=False)
    _rates: Rates = field(
        default_factory=lambda: Rates(PER_SECOND, BURST, lambda: asyncio.get_running_loop().time()), init=False
    )
    _identity: ServerIdentity | None = field(default=None, init=False, repr=False)
    _made: float = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._kept = KeptOpen(self._adjust, self._close, "No keys are given to applications")

    @property
    def problem(self) -> str:
        """Why it is not as the policy wants it; empty if it is."""
        return self._kept.problem

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """A context in which the listener is open whenever the policy opens it."""
        self.instance.provision = self
        async with self._kept.running():
            yield

    def changed(self) -> None:
        """Another keyring is held: look at its policy."""
        self._kept.changed()

    def status(self) -> dict[str, Any]:
        """What `rkeyserver status` shows of it."""
        sockets = [one.getsockname() for server in self._servers for one in server.sockets]
        return {
            "listening": [str(Address(*name[:2])) for name in sockets],
            "problem": self.problem,
            "given": self.given,
            "ca_generation": None if self._identity is None else self._identity.ca.generation,
            "ca_sha256": None if self._identity is None else self._identity.ca.fingerprint,
        }

    def ca_certificate(self, generation: str) -> bytes:
        """The certificate of the domain's CA, PEM. generation: as a policy names one; empty for the policy's own.

        Raises: Unavailable if there is none.
        """
        from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415 - late: what a start does not need

        from rkeyserver.service.provision_ca import Ca  # noqa: PLC0415 - only who has applications needs it

        keyring, policy = self.instance.keyring, self.instance.policy
        name = generation or (None if policy is None else policy.ca)
        if keyring is None or name is None:
            raise Unavailable("This instance has no keyring whose policy has applications, or callers with a token.")
        return Ca.derive(keyring, generation_of(keyring, name)).certificate.public_bytes(Encoding.PEM)

    async def _adjust(self) -> float:
        """Open, close or renew, as the policy wants it now.

        Raises: Unavailable and what else the platform says.
        """
        keyring, policy = self.instance.keyring, self.instance.policy
        if keyring is None or policy is None or policy.ca_generation is None or not policy.applications:
            await self._close()
            return RENEW_SECONDS
        generation = generation_of(keyring, policy.ca_generation)
        now = asyncio.get_running_loop().time()
        known = self._identity
        serves = known is not None and known.ca.generation == generation
        if not serves or now >= self._made + RENEW_SECONDS:
            try:
                await self._identify(keyring, generation)
            except Unavailable as error:
                if not serves:
                    raise
                # Clients that go by the CA, as Gramine's do, do not look at its age.
                log.warning("The quote in the certificate for applications stays the old one. %s", error)
            self._made = now
        if not self._servers:
            sockets = self.open_sockets(self.address)
            self._servers = [await asyncio.start_server(self._accept, sock=one) for one in sockets]
            log.info("Giving keys to %d application(s) on %s.", len(policy.applications), self.status()["listening"])
        return RENEW_SECONDS

    async def _identify(self, keyring: Keyring, generation: str) -> None:
        from rkeyserver.service.provision_ca import Ca  # noqa: PLC0415 - only who has applications needs it
        from rkeyserver.service.provision_tls import new_identity  # noqa: PLC0415 - the same

        ca = Ca.derive(keyring, generation)  # before anything is waited for: the keyring may be replaced meanwhile
        self._identity = await new_identity(ca, self.attester)

    async def _close(self) -> None:
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        clients = set(self._clients)
        for client in clients:
            client.cancel()
        if clients:
            await asyncio.wait(clients)
        if servers:
            log.info("No keys are given to applications any more.")
        self._identity = None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - streams run this in one
        self._clients.add(task)
        peer = writer.get_extra_info("peername")
        host = str(peer[0]) if peer else ""
        client = _Client(writer, client_of(host))
        self._guard.enter(client, client.address)
        try:
            async with asyncio.timeout(CONNECTION_SECONDS):
                await self._serve(reader, client, host)
        except TimeoutError:
            self.instance.refuse(Rejected(Reason.TLS_FAILED, "The client took too long."), host)
        except RkeyError as error:
            self.instance.refuse(error, host)
        except asyncio.CancelledError:
            pass  # the listener closes; streams would log it
        finally:
            self._guard.leave(client, client.address)
            self._clients.discard(task)
            client.abort()

    async def _serve(self, reader: asyncio.StreamReader, client: _Client, host: str) -> None:
        from rkeyserver.service.provision_tls import TlsConnection  # noqa: PLC0415 - it is loaded, for this listens

        if self._identity is None:
            raise Unavailable("The listener is closing.")
        came_to = str(client.writer.get_extra_info("sockname")[0])
        tls = TlsConnection(self._identity.connection(came_to), reader, client.writer)
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            certificate = await tls.handshake()
            await _request(tls)
        client.busy = True
        with self._shares.of(host):
            await self._give(tls, certificate, host)
        # Whoever closes with bytes unread resets the connection, and the answer may be lost with it.
        client.busy = False
        with contextlib.suppress(TimeoutError, Rejected):
            async with asyncio.timeout(LINGER_SECONDS):
                await tls.ended()

    async def _give(self, tls: TlsConnection, certificate: bytes, host: str) -> None:
        from rkeyserver.attestation.sgx import ra_tls  # noqa: PLC0415 - it is loaded, for this listens

        instance = self.instance
        keyring, policy = instance.keyring, instance.policy
        if keyring is None or policy is None or not policy.applications:
            raise Unavailable("This instance has no keyring whose policy has applications.")
        shown = ra_tls.parse(certificate)
        claims = await self.verifier.verify(shown.quote, shown.report_data, instance.clock.now())
        try:
            await self._decide(tls, keyring, policy, claims, host)
        except RkeyError as error:
            log.warning(
                "Refused an application on machine %s at %s: %s. %s", claims.ppid, host, reason_of(error), error
            )
            raise

    async def _decide(self, tls: TlsConnection, keyring: Keyring, policy: Policy, claims: SgxClaims, host: str) -> None:
        instance = self.instance
        line = Line(
            event="provision",
            verdict="accepted",
            domain=keyring.domain,
            sequence=keyring.header.sequence,
            peer=Peer.of(claims, host),
            policy=policy.digest,
        )
        try:
            verdict = appraise_application(claims, policy, now=instance.clock.now())
            label = verdict.application.label
            generation = generation_of(keyring, verdict.application.generation)
        except RkeyError as error:
            await instance.audit.write(line.refused(error))
            raise
        # Of one too many there is no line: they would fill the disk.
        try:
            self._rates.take(f"{label} {claims.ppid}")
        except Unavailable:
            await asyncio.sleep(REFUSED_DELAY)
            raise
        line = msgspec.structs.replace(line, label=label, found=f"a key of generation {generation}")
        await instance.audit.write(line)
        try:
            if instance.keyring is not keyring:
                raise Unavailable("The keyring was replaced while this was recorded.")
            with answer(keyring, verdict) as found:
                await tls.write(found.view)
        except RkeyError as error:
            # A second line: the first says that it may be given, this one that it was not, or not whole.
            await instance.audit.write(line.refused(error))
            raise
        self.given += 1
        log.info("Gave application %r on machine %s at %s its key.", label, claims.ppid, host)


async def _request(tls: TlsConnection) -> None:
    """Read the one request there is.

    Raises: Rejected as soon as it is another one.
    """
    found = b""
    while len(found) < len(REQUEST):
        found += await tls.read(len(REQUEST) + 1 - len(found))
        if not REQUEST.startswith(found):
            raise Rejected(Reason.MALFORMED, "The client asks for something else than a secret.")
