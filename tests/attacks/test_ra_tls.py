"""A hostile client of the listener for applications gets no key, costs no verification it need not, leaves no line.

Every client here speaks real TLS to a real listener; what differs from an honest one is named.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from tests.fakes.application import (
    OLDER,
    REQUEST,
    SECONDS,
    TAGGED_EVIDENCE,
    Application,
    ask,
    bstr,
    certificate,
    claims_for,
    enclave,
    entry,
    hash_entry,
    padded,
    provision,
    read_all,
    secret_in,
    spki,
    tagged,
    tls,
)
from tests.fakes.machines import HostTime, machine, private_authority
from tests.fakes.provisioning import Giving, giving, until

from rkeyserver.attestation.sgx.claims import SgxClaims
from rkeyserver.clock import Clock
from rkeyserver.errors import Reason
from rkeyserver.service.on_demand import QuoteVerifier


@dataclass
class Counted:
    """A verifier that counts."""

    verifier: QuoteVerifier
    asked: int = 0

    async def verify(self, quote: bytes, report_data: bytes, now: int) -> SgxClaims:
        self.asked += 1
        return await self.verifier.verify(quote, report_data, now)


@dataclass
class Attack:
    """A listener, an honest application, and a hostile client's machine with another application's enclave on it."""

    given: Giving
    honest: Application
    stranger: Application
    counted: Counted

    def ask(self, key: ec.EllipticCurvePrivateKey, shown: x509.Certificate | None, **said: Any) -> bytes:
        try:
            return ask(self.given.port, self.given.ca, key, shown, **said)
        except (ssl.SSLError, ConnectionError):
            return b""

    def works(self) -> None:
        """Check that the honest one still gets its key."""
        assert secret_in(self.ask(self.honest.key, self.honest.certificate()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("applications")


@pytest.fixture(scope="module")
def attack(folder: Path) -> Iterator[Attack]:
    honest = Application.on(folder / "honest")
    stranger = Application.on(folder / "stranger", b"another application")
    (folder / "server").mkdir()
    with giving(folder / "server") as given:
        counted = Counted(given.provisioner.verifier)
        given.provisioner.verifier = counted
        yield Attack(given, honest, stranger, counted)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def evidence_of(application: Application) -> bytes:
    """A genuine one's genuine evidence, as anyone who has spoken with it has it."""
    found = application.certificate().extensions.get_extension_for_oid(x509.ObjectIdentifier(TAGGED_EVIDENCE))
    return found.value.public_bytes()


def for_key(application: Application, key: ec.EllipticCurvePrivateKey, claims: bytes) -> x509.Certificate:
    """A genuine quote of that application's machine over `claims`."""
    return certificate(key, {TAGGED_EVIDENCE: tagged(application.quote(claims), claims)})


def copied_evidence(attack: Attack, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    return certificate(key, {TAGGED_EVIDENCE: evidence_of(attack.honest)})


def claims_exchanged(attack: Attack, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    quote = attack.honest.quote(claims_for(attack.honest.key))
    return certificate(key, {TAGGED_EVIDENCE: tagged(quote, claims_for(key))})


def no_pubkey_hash(attack: Attack, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    return for_key(attack.honest, key, b"\xa0")


def other_claim(attack: Attack, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    return for_key(attack.honest, key, b"\xa1\x65nonce\x41a")


def other_hash(attack: Attack, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    entry_of_384 = hash_entry(hashlib.sha384(spki(key)).digest(), 7)
    return for_key(attack.honest, key, b"\xa1\x6bpubkey-hash" + bstr(entry_of_384))


def two_quotes(attack: Attack, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    claims = claims_for(key)
    own, copied = attack.stranger.quote(claims), attack.honest.quote(claims_for(attack.honest.key))
    return certificate(key, {TAGGED_EVIDENCE: b"\xd9\xea\x60\x83" + bstr(copied) + bstr(own) + bstr(claims)})


def two_evidences(attack: Attack, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    return certificate(key, {TAGGED_EVIDENCE: evidence_of(attack.honest) + evidence_of(attack.stranger)})


def older_alone(attack: Attack, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    return certificate(key, {OLDER: attack.honest.quote(spki(key))})


def older_beside_copied(attack: Attack, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """What a reader that falls back to the older one, or mixes both, would take."""
    return certificate(key, {OLDER: attack.honest.quote(spki(key)), TAGGED_EVIDENCE: evidence_of(attack.honest)})


def ordinary(_: Attack, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    return certificate(key, {}, issuer=new_key())


def quote_over_the_key(attack: Attack, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """The older one's report data in the newer one's place."""
    return certificate(key, {TAGGED_EVIDENCE: tagged(attack.honest.quote(spki(key)), claims_for(key))})


def report_data_with_a_tail(attack: Attack, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """The C verifier looks at the first half of the report data alone."""
    claims = claims_for(key)
    data = padded(claims)[:32] + b"x" * 32
    return certificate(key, {TAGGED_EVIDENCE: tagged(attack.honest.platform.evidence(data), claims)})


def changed_quote(attack: Attack, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """A stranger's quote that says that it is the application."""
    claims = claims_for(key)
    quote = bytearray(attack.stranger.quote(claims))
    at = 48 + 64
    quote[at : at + 32] = enclave().mrenclave
    return certificate(key, {TAGGED_EVIDENCE: tagged(bytes(quote), claims)})


def no_quote(_: Attack, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    return certificate(key, {TAGGED_EVIDENCE: tagged(b"", claims_for(key))})


# What is shown under a key of the client's own, the reason, and how many quotes are verified for it.
SHOWN: dict[str, tuple[Callable[[Attack, ec.EllipticCurvePrivateKey], x509.Certificate], Reason, int]] = {
    "another's evidence in a certificate of one's own": (copied_evidence, Reason.NOT_BOUND, 0),
    "another's quote, claims of one's own": (claims_exchanged, Reason.NOT_BOUND, 1),
    "pubkey-hash left out": (no_pubkey_hash, Reason.NOT_BOUND, 0),
    "another claim in its place": (other_claim, Reason.NOT_BOUND, 0),
    "another hash": (other_hash, Reason.MALFORMED, 0),
    "two quotes": (two_quotes, Reason.MALFORMED, 0),
    "two evidences": (two_evidences, Reason.MALFORMED, 0),
    "the older extension alone": (older_alone, Reason.MALFORMED, 0),
    "the older one genuine, the newer one another's": (older_beside_copied, Reason.NOT_BOUND, 0),
    "an ordinary certificate by a CA": (ordinary, Reason.MALFORMED, 0),
    "a quote over the key and not the claims": (quote_over_the_key, Reason.NOT_BOUND, 1),
    "report data with a tail": (report_data_with_a_tail, Reason.NOT_BOUND, 1),
    "a quote that was changed": (changed_quote, Reason.NOT_GENUINE, 1),
    "no quote": (no_quote, Reason.MALFORMED, 1),
}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(("made", "reason", "verified"), SHOWN.values(), ids=SHOWN)
def test_what_is_not_vouched_for(
    attack: Attack,
    made: Callable[[Attack, ec.EllipticCurvePrivateKey], x509.Certificate],
    reason: Reason,
    verified: int,
    version: ssl.TLSVersion,
) -> None:
    key, asked = new_key(), attack.counted.asked
    shown = made(attack, key)
    with attack.given.refuses(reason):
        assert attack.ask(key, shown, version=version) == b""
    assert attack.counted.asked == asked + verified


def test_the_honest_one_gets_it(attack: Attack) -> None:
    attack.works()


def test_a_replayed_certificate_without_its_key(attack: Attack) -> None:
    """Its bytes are known to whoever it was shown to; what is missing is the signature over this very handshake."""
    from OpenSSL import SSL  # noqa: PLC0415 - the standard library wants certificate and key to belong together

    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.use_privatekey(new_key())
    context.use_certificate(attack.honest.certificate())
    with (
        attack.given.refuses(Reason.TLS_FAILED),
        socket.create_connection(("127.0.0.1", attack.given.port), SECONDS) as plain,
    ):
        plain.setblocking(True)  # noqa: FBT003 - the socket module's signature
        connection = SSL.Connection(context, plain)
        connection.set_connect_state()
        with contextlib.suppress(SSL.Error):
            connection.do_handshake()
            connection.sendall(REQUEST)
            assert connection.recv(100) == b""
    attack.works()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_certificate(attack: Attack, version: ssl.TLSVersion) -> None:
    with attack.given.refuses(Reason.TLS_FAILED):
        assert attack.ask(new_key(), None, version=version) == b""


def test_a_handshake_that_was_recorded(attack: Attack) -> None:
    """All that an honest application sent, once more: the server's part is another one each time."""
    shown = attack.honest.certificate()
    sent: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as between:

        def relay() -> None:
            here, _ = between.accept()
            with here, socket.create_connection(("127.0.0.1", attack.given.port), SECONDS) as there:
                answers = threading.Thread(target=lambda: _pump(there, here, []))
                answers.start()
                _pump(here, there, sent)
                answers.join(SECONDS)

        relaying = threading.Thread(target=relay)
        relaying.start()
        port = between.getsockname()[1]
        assert secret_in(ask(port, attack.given.ca, attack.honest.key, shown))
        relaying.join(SECONDS)
    until(lambda: not attack.given.provisioner._clients, "it is over")
    with (
        attack.given.refuses(Reason.TLS_FAILED),
        socket.create_connection(("127.0.0.1", attack.given.port), SECONDS) as again,
        contextlib.suppress(ConnectionError),
    ):
        for part in sent:
            again.sendall(part)
        again.shutdown(socket.SHUT_WR)
        while again.recv(4096):
            pass


def _pump(source: socket.socket, sink: socket.socket, kept: list[bytes]) -> None:
    with contextlib.suppress(OSError):  # either side has left
        while part := source.recv(4096):
            kept.append(part)
            sink.sendall(part)
        sink.shutdown(socket.SHUT_WR)


def debug(folder: Path) -> Application:
    return Application.on(folder / "debug", debug=True)


def other_code(folder: Path) -> Application:
    return Application.on(folder / "other code", b"not the application")


def other_product(folder: Path) -> Application:
    return Application.on(folder / "other product", isv_prod_id=43)


def older_version(folder: Path) -> Application:
    return Application.on(folder / "older version", isv_svn=0)


def out_of_date(folder: Path) -> Application:
    made = machine(folder / "out of date", Clock(HostTime()), enclave=enclave, status="OutOfDate")
    return Application(made)


def other_root(folder: Path) -> Application:
    made = machine(folder / "other root", Clock(HostTime()), enclave=enclave, authority=private_authority)
    return Application(made)


# A genuine enclave, or one that is not; the reason; whether it is on record.
WHO: dict[str, tuple[Callable[[Path], Application], Reason, bool]] = {
    "a debug enclave": (debug, Reason.DEBUG_ENCLAVE, False),
    "an enclave that is not named": (other_code, Reason.APPLICATION_NOT_NAMED, True),
    "another product of the same code": (other_product, Reason.APPLICATION_NOT_NAMED, True),
    "an older version": (older_version, Reason.VERSION_TOO_LOW, True),
    "an outdated platform": (out_of_date, Reason.TCB_STATUS, True),
    "somebody's own root": (other_root, Reason.NOT_GENUINE, False),
}


@pytest.mark.parametrize(("made", "reason", "recorded"), WHO.values(), ids=WHO)
def test_who_is_not_named(
    attack: Attack, folder: Path, made: Callable[[Path], Application], reason: Reason, *, recorded: bool
) -> None:
    application = made(folder)
    with attack.given.refuses(reason, recorded=recorded):
        assert attack.ask(application.key, application.certificate()) == b""


def test_a_machine_of_the_domain_is_no_application(attack: Attack) -> None:
    own = Application(attack.given.platform)
    with attack.given.refuses(Reason.APPLICATION_NOT_NAMED, recorded=True):
        assert attack.ask(own.key, own.certificate()) == b""


# What is sent where the request is wanted.
REQUESTS = {
    "another request": b"SECRET_PROVISION_RA_TLS_REQUEST_V2\0",
    "no NUL": REQUEST[:-1] + b"x",
    "one byte too many": REQUEST + b"\0",
    "two at once": 2 * REQUEST,
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "one wrong byte": b"X",
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_what_is_no_request(attack: Attack, request_: bytes) -> None:
    asked, shown = attack.counted.asked, attack.honest.certificate()
    with attack.given.refuses(Reason.MALFORMED):
        assert attack.ask(attack.honest.key, shown, request=request_) == b""
    assert attack.counted.asked == asked, "nothing is verified for it"


@contextlib.contextmanager
def connected(attack: Attack, **said: Any) -> Iterator[ssl.SSLSocket]:
    with (
        tls(attack.given.ca, attack.honest.key, attack.honest.certificate(), **said) as context,
        socket.create_connection(("127.0.0.1", attack.given.port), SECONDS) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        yield connection


def test_one_connection_gives_one_secret(attack: Attack) -> None:
    with connected(attack) as connection:
        connection.sendall(REQUEST)
        assert secret_in(read_all(connection))
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            connection.sendall(REQUEST)
            assert connection.recv(100) == b""


def test_a_request_in_two_parts(attack: Attack) -> None:
    with connected(attack) as connection:
        connection.sendall(REQUEST[:10])
        connection.sendall(REQUEST[10:])
        assert secret_in(read_all(connection))


def test_one_that_leaves(attack: Attack) -> None:
    with attack.given.refuses(Reason.TLS_FAILED), connected(attack) as connection:
        connection.sendall(REQUEST[:10])
    with attack.given.refuses(Reason.TLS_FAILED), socket.create_connection(("127.0.0.1", attack.given.port), SECONDS):
        pass


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_session_is_resumed(attack: Attack, version: ssl.TLSVersion) -> None:
    """Freshness is the handshake: each connection proves the key anew."""
    shown = attack.honest.certificate()
    with tls(attack.given.ca, attack.honest.key, shown, version=version) as context:
        session = None
        for _ in range(3):
            with (
                socket.create_connection(("127.0.0.1", attack.given.port), SECONDS) as plain,
                context.wrap_socket(plain, server_hostname="localhost", session=session) as connection,
            ):
                connection.sendall(REQUEST)
                assert secret_in(read_all(connection))
                assert not connection.session_reused
                session = connection.session


OLD_TLS = {"TLS 1.1": ssl.TLSVersion.TLSv1_1, "TLS 1.0": ssl.TLSVersion.TLSv1}


@pytest.mark.parametrize("version", OLD_TLS.values(), ids=OLD_TLS)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")  # Python warns of what is tried here
def test_older_tls(attack: Attack, version: ssl.TLSVersion) -> None:
    with attack.given.refuses(Reason.TLS_FAILED):
        assert attack.ask(attack.honest.key, attack.honest.certificate(), version=version) == b""


def test_renegotiation(attack: Attack) -> None:
    from OpenSSL import SSL  # noqa: PLC0415 - the standard library cannot ask for one

    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    context.use_privatekey(attack.honest.key)
    context.use_certificate(attack.honest.certificate())
    with (
        attack.given.refuses(Reason.TLS_FAILED),
        socket.create_connection(("127.0.0.1", attack.given.port), SECONDS) as plain,
    ):
        plain.setblocking(True)  # noqa: FBT003 - the socket module's signature
        connection = SSL.Connection(context, plain)
        connection.set_connect_state()
        connection.do_handshake()
        assert connection.renegotiate()
        with pytest.raises(SSL.Error):
            connection.do_handshake()
    attack.works()


# What is no TLS at all.
BYTES = {
    "HTTP": b"GET / HTTP/1.0\r\n\r\n",
    "the request in the clear": REQUEST,
    "zeros": bytes(1000),
    "an SSLv2 hello": bytes.fromhex("802e0100020015000000100100800200800300800400800500800600400700c0") + bytes(16),
}


@pytest.mark.parametrize("data", BYTES.values(), ids=BYTES)
def test_what_is_no_tls(attack: Attack, data: bytes) -> None:
    with (
        attack.given.refuses(Reason.TLS_FAILED),
        socket.create_connection(("127.0.0.1", attack.given.port), SECONDS) as plain,
        contextlib.suppress(ConnectionError),
    ):
        plain.sendall(data)
        plain.shutdown(socket.SHUT_WR)
        while plain.recv(4096):
            pass


def test_many_that_wait_do_not_keep_out_one_that_asks(attack: Attack) -> None:
    attack.given.provisioner._guard.per_address, before = 4, attack.given.provisioner._guard.per_address
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(12):
                slow = stack.enter_context(socket.create_connection(("127.0.0.1", attack.given.port), SECONDS))
                slow.sendall(b"\x16")
            attack.works()
    finally:
        attack.given.provisioner._guard.per_address = before
    until(lambda: not attack.given.provisioner._clients, "they are gone")


def test_two_certificates(attack: Attack) -> None:
    from OpenSSL import SSL  # noqa: PLC0415 - as above

    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.use_privatekey(attack.honest.key)
    context.use_certificate(attack.honest.certificate())
    context.add_extra_chain_cert(certificate(new_key(), {}))
    with (
        attack.given.refuses(Reason.MALFORMED),
        socket.create_connection(("127.0.0.1", attack.given.port), SECONDS) as plain,
    ):
        plain.setblocking(True)  # noqa: FBT003 - the socket module's signature
        connection = SSL.Connection(context, plain)
        connection.set_connect_state()
        with contextlib.suppress(SSL.Error):
            connection.do_handshake()
            connection.sendall(REQUEST)
            assert connection.recv(100) == b""


def test_an_application_that_was_taken_off_gets_nothing_of_what_comes(attack: Attack, folder: Path) -> None:
    """It keeps what it had: the new generation is not for it, and the others' current keys are new ones."""
    other = Application.on(folder / "other", isv_prod_id=50)
    tables = provision(), entry("db"), entry("other", isv_prod_id=50, generation="current")
    attack.given.with_tables(*tables)
    before = secret_in(attack.ask(other.key, other.certificate()))
    attack.given.with_tables(*tables[:1], *tables[2:], names=("a", "b"))
    with attack.given.refuses(Reason.APPLICATION_NOT_NAMED, recorded=True):
        assert attack.ask(attack.honest.key, attack.honest.certificate()) == b""
    assert secret_in(attack.ask(other.key, other.certificate())) != before
    attack.given.with_tables(provision(), entry("db"))
