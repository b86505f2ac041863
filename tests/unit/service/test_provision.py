"""The listener that gives applications their keys: what it gives, when it is open, what one client may take."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL
from tests.fakes.application import REQUEST, SECONDS, Application, ask, entry, provision, secret_in, tls
from tests.fakes.keyrings import generation
from tests.fakes.machines import HostTime, machine
from tests.fakes.provisioning import Giving, derived, giving, policy_with, until

from rkeyserver.address import Address
from rkeyserver.appraisal.policy import parse_policy
from rkeyserver.attestation.evidence import Identity
from rkeyserver.attestation.sgx import ra_tls
from rkeyserver.clock import Clock
from rkeyserver.errors import Reason, Rejected, Unavailable
from rkeyserver.platforms.simulated.platform import SimulatedPlatform
from rkeyserver.service import kept_open, provision_tls
from rkeyserver.service import provision as provision_module
from rkeyserver.service.provision import PER_SECOND, generation_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("applications")


@pytest.fixture(scope="module")
def application(folder: Path) -> Application:
    return Application.on(folder / "application")


@pytest.fixture(scope="module")
def shown(application: Application) -> x509.Certificate:
    return application.certificate()


@pytest.fixture
def given(tmp_path: Path) -> Iterator[Giving]:
    with giving(tmp_path) as found:
        yield found


@dataclass(frozen=True)
class Failing:
    """A platform whose evidence is a function's."""

    platform: SimulatedPlatform
    evidence: Callable[[bytes], bytes]
    waits = False

    def attester_identity(self) -> Identity:
        return self.platform.attester_identity()

    def endorsements(self) -> bytes:
        return self.platform.endorsements()


# What is wanted, of which generation (by its place), and how the key is sent.
KEYS: dict[str, tuple[dict[str, Any], int, Any]] = {
    "16 bytes": ({"size": 16}, -1, lambda key: key),
    "32 bytes": ({"size": 32}, -1, lambda key: key),
    "hex": ({"size": 32, "encoding": "hex"}, -1, lambda key: key.hex().encode() + b"\0"),
    "16 bytes in hex": ({"size": 16, "encoding": "hex"}, -1, lambda key: key.hex().encode() + b"\0"),
    "of the first generation": ({"generation": "first"}, 0, lambda key: key),
    "of a generation by its id": ({"generation": generation("b")}, 1, lambda key: key),
    "of the current one": ({"generation": "current"}, 2, lambda key: key),
}


@pytest.mark.parametrize(("wanted", "place", "sent"), KEYS.values(), ids=KEYS)
def test_what_is_given(given: Giving, application: Application, wanted: dict[str, Any], place: int, sent: Any) -> None:
    shown = application.certificate()
    keyring = given.with_tables(provision(), entry("db", **wanted), names=("a", "b", "c"))
    size = int(wanted.get("size", 16))
    assert secret_in(given.ask(application, shown)) == sent(derived(keyring, "db", size, place))
    (line,) = given.scene.lines()
    assert (line["event"], line["verdict"], line["label"]) == ("provision", "accepted", "db")
    assert line["found"] == f"a key of generation {keyring.generation_ids[place]}"
    assert line["peer"]["machine"] == application.platform.attester_identity().machine
    assert line["policy"] == given.scene.instance.policy.digest  # type: ignore[union-attr]  # it has one here
    until(lambda: given.scene.instance.status()["provision"]["given"] == 1, "it is counted")


def test_the_key_is_32_bytes_of_which_16_are_the_first_half_and_no_other_labels(given: Giving) -> None:
    keyring = given.scene.keyring("a")
    assert derived(keyring, "db", 32)[:16] == derived(keyring, "db", 16)
    assert derived(keyring, "db", 16) != derived(keyring, "db2", 16)


def test_it_is_open_only_while_the_policy_has_applications(tmp_path: Path, application: Application) -> None:
    with giving(tmp_path, applications=False) as given:
        assert given.listening == []
        with pytest.raises(Unavailable, match="no keyring whose policy has applications"):
            given.provisioner.ca_certificate("")
        given.with_tables(provision(), entry("db"))
        port = given.port
        assert secret_in(given.ask(application))
        given.with_tables()
        until(lambda: not given.listening, "it closes")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), SECONDS)
        assert given.provisioner.status() == {
            "listening": [], "problem": "", "given": 1, "ca_generation": None, "ca_sha256": None
        }  # fmt: skip


def test_a_client_is_cut_off_when_it_closes(given: Giving) -> None:
    with socket.create_connection(("127.0.0.1", given.port), SECONDS) as client:
        until(lambda: given.provisioner._clients, "it is there")
        given.with_tables()
        with contextlib.suppress(ConnectionError):
            assert client.recv(100) == b""


def test_the_ca_is_that_of_the_generation_that_the_policy_names(given: Giving) -> None:
    tables = entry("db")
    one = given.with_tables(provision("first"), tables, names=("a", "b"))
    first = given.ca
    assert given.provisioner.ca_certificate("first") == first
    assert given.provisioner.ca_certificate(one.generation_ids[0]) == first
    second = given.provisioner.ca_certificate("current")
    assert second == given.provisioner.ca_certificate(one.generation_ids[1]) != first
    with pytest.raises(Unavailable, match="which this keyring has not"):
        given.provisioner.ca_certificate("00" * 16)
    until(lambda: given.provisioner.status()["ca_generation"] == one.generation_ids[0], "the first one's")
    given.with_tables(provision("current"), tables, names=("a", "b"))
    assert given.ca == second
    until(lambda: given.provisioner.status()["ca_generation"] == one.generation_ids[1], "the other one's")


def test_whoever_trusts_another_ca_ends_it(given: Giving, application: Application, shown: x509.Certificate) -> None:
    keyring = given.with_tables(provision("first"), entry("db"), names=("a", "b"))
    until(lambda: given.provisioner.status()["ca_generation"] == keyring.generation_ids[0], "the first one's")
    other = given.provisioner.ca_certificate("current")
    with given.refuses(Reason.TLS_FAILED), pytest.raises(ssl.SSLCertVerificationError):
        ask(given.port, other, application.key, shown)


NAMES = {
    "a host name": "rkey.example",
    "another": "a.b-c.example",
    "an IPv4 address": "127.0.0.1",
    "one that it does not have": "rkey",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_it_is_whom_the_client_asks_for(given: Giving, application: Application, name: str) -> None:
    with (
        tls(given.ca, application.key, application.certificate()) as context,
        socket.create_connection(("127.0.0.1", given.port), SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=name) as connection,
    ):
        der = connection.getpeercert(binary_form=True)
    assert der is not None
    found = ra_tls.parse(der)  # what it presents is itself an RA-TLS certificate, whose quote is genuine
    claims = asyncio.run(given.provisioner.verifier.verify(found.quote, found.report_data, int(HostTime()())))
    assert claims.mrsigner == given.platform.mrsigner
    names = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert name in [one.value for one in names] + [str(one.value) for one in names]


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a" * 300, b"a b", b"-", b"..", b"\0"])
def test_what_is_no_name_is_passed_over(given: Giving, name: bytes) -> None:
    class Asks:
        used = 0

        def get_servername(self) -> bytes:
            return name

        def use_certificate(self, _: object) -> None:
            self.used += 1

    until(lambda: given.provisioner._identity, "it knows who it is")
    identity = given.provisioner._identity
    assert identity is not None
    asks = Asks()
    identity._named(asks)  # type: ignore[arg-type]  # as much of one as is used
    assert not asks.used


def test_who_has_shown_no_certificate_is_refused_though_tls_has_let_him_in() -> None:
    class Lax:
        def do_handshake(self) -> None: ...

        def get_peer_certificate(self, *, as_cryptography: bool) -> None:
            assert as_cryptography

        def bio_read(self, _: int) -> bytes:
            raise SSL.WantReadError

    class Nowhere:
        def write(self, _: bytes) -> None: ...

        async def drain(self) -> None: ...

    connection = provision_tls.TlsConnection(Lax(), asyncio.StreamReader, Nowhere())  # type: ignore[arg-type]  # as above
    with pytest.raises(Rejected, match="has shown no certificate") as raised:
        asyncio.run(connection.handshake())
    assert raised.value.reason is Reason.TLS_FAILED


def test_only_so_many_names_are_remembered(given: Giving) -> None:
    until(lambda: given.provisioner._identity, "it knows who it is")
    identity = given.provisioner._identity
    assert identity is not None
    for number in range(provision_tls.MAX_NAMES + 5):
        identity.certificate(f"n{number}.example")
    assert len(identity._names) == provision_tls.MAX_NAMES
    assert identity.certificate("n9.example") is identity.certificate("n9.example")


def test_an_address_that_is_taken_is_tried_again(
    given: Giving, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_open, "FIRST_RETRY", 0.01)
    given.with_tables()
    until(lambda: not given.listening, "it closes")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        given.provisioner.address = Address("127.0.0.1", taken.getsockname()[1])
        given.with_tables(provision(), entry("db"))
        until(lambda: "Cannot listen on" in given.provisioner.problem, "it says so")
        assert "name one with --provision" in given.provisioner.status()["problem"]
    until(lambda: given.listening, "it listens")
    assert given.provisioner.problem == ""
    assert secret_in(given.ask(application))


def test_a_bug_does_not_end_it(
    given: Giving, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kept_open, "FIRST_RETRY", 0.01)
    given.with_tables()
    until(lambda: not given.listening, "it closes")
    works = given.provisioner.open_sockets
    monkeypatch.setattr(given.provisioner, "open_sockets", lambda _: 1 / 0)
    given.with_tables(provision(), entry("db"))
    until(lambda: given.provisioner.problem == "A bug; the log has it.", "it says so")
    assert "This is a bug." in caplog.text
    monkeypatch.setattr(given.provisioner, "open_sockets", works)
    until(lambda: given.listening, "it listens again")


def test_a_generation_that_the_keyring_has_not(given: Giving) -> None:
    given.with_tables(provision("00" * 16), entry("db"))
    until(lambda: "which this keyring has not" in given.provisioner.problem, "it says so")
    assert given.listening == []


def test_a_generation_by_its_name(given: Giving) -> None:
    keyring = given.scene.keyring("a", "b")
    assert [generation_of(keyring, name) for name in ("first", "current", keyring.generation_ids[0])] == [
        keyring.generation_ids[0], keyring.generation_ids[1], keyring.generation_ids[0],
    ]  # fmt: skip
    with pytest.raises(Unavailable, match='of generation "first" cannot be derived: it was retired') as raised:
        generation_of(keyring.retired(keyring.generation_ids[0]), "first")
    assert 'ca_generation = "current" under [provision]' in raised.value.advice


def test_the_certificates_quote_is_made_anew(given: Giving, monkeypatch: pytest.MonkeyPatch) -> None:
    until(lambda: given.listening, "it listens")
    before, ca = given.provisioner._identity, given.ca
    given.with_tables(provision(), entry("db"))
    given.with_tables(provision(), entry("db", size=32))
    assert given.provisioner._identity is before  # another policy is no reason
    monkeypatch.setattr(provision_module, "RENEW_SECONDS", 0.01)
    given.with_tables(provision(), entry("db"))
    until(lambda: given.provisioner._identity is not before, "another one")
    assert given.ca == ca


def test_where_the_platform_gives_no_new_quote_the_old_one_stays(
    given: Giving, application: Application, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert given.port
    before = given.provisioner._identity

    def fails(_: bytes) -> bytes:
        raise Unavailable("No quote now.")

    monkeypatch.setattr(provision_module, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(given.provisioner, "attester", Failing(given.platform, fails))
    given.with_tables(provision(), entry("db"))
    until(lambda: "stays the old one. No quote now." in caplog.text, "it says so")
    assert given.provisioner._identity is before
    assert secret_in(given.ask(application))
    given.with_tables(provision("current"), entry("db"), names=("a", "b"))  # of another CA there is none yet
    until(lambda: given.provisioner.problem == "No quote now.", "it says so")
    assert given.listening == []


def test_no_key_leaves_that_is_not_on_record(given: Giving, application: Application) -> None:
    certificate = application.certificate()
    assert given.port
    given.scene.audit_fails()
    assert given.ask(application, certificate) == b""
    until(lambda: given.scene.instance.refused["unavailable"], "it refuses")
    assert given.provisioner.given == 0


def test_a_keyring_that_is_replaced_meanwhile_gives_nothing(given: Giving, application: Application) -> None:
    other = given.scene.keyring("a", "b", policy=given.scene.instance.keyring.header.policy)  # type: ignore[union-attr]  # it has one here
    write = given.scene.instance.audit.write

    async def replace(line: Any) -> None:
        await write(line)
        given.scene.instance.audit.write = write  # type: ignore[method-assign]  # the file is made to fail
        given.scene.instance.hold(other)

    given.scene.instance.audit.write = replace  # type: ignore[method-assign]  # the file is made to fail
    assert given.ask(application) == b""
    until(lambda: len(given.scene.lines()) == 2, "two lines")
    assert [line["verdict"] for line in given.scene.lines()] == ["accepted", "refused"]
    assert given.provisioner.given == 0


def test_a_handshake_that_takes_too_long(given: Giving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provision_module, "HANDSHAKE_SECONDS", 0.05)
    with given.refuses(Reason.TLS_FAILED), socket.create_connection(("127.0.0.1", given.port), SECONDS) as client:
        assert client.recv(100) == b""


def test_a_request_that_takes_too_long(
    given: Giving, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = application.certificate()
    monkeypatch.setattr(provision_module, "HANDSHAKE_SECONDS", 0.5)
    with given.refuses(Reason.TLS_FAILED):
        assert given.ask(application, certificate, request=b"SECRET_") == b""


def test_a_client_that_does_not_take_its_answer_or_end(
    given: Giving, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provision_module, "LINGER_SECONDS", 0.05)
    assert secret_in(given.ask(application))
    with (
        tls(given.ca, application.key, application.certificate()) as context,
        socket.create_connection(("127.0.0.1", given.port), SECONDS) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(b"SECRET_PROVISION_RA_TLS_REQUEST_V1\0")
        until(lambda: given.provisioner.given == 2, "it was given")
        until(lambda: not given.provisioner._clients, "it is gone")


def test_one_address_has_so_many_connections(given: Giving) -> None:
    given.provisioner._guard.per_address = 3
    clients = [socket.create_connection(("127.0.0.1", given.port), SECONDS) for _ in range(4)]
    with contextlib.ExitStack() as stack:
        for one in clients:
            stack.enter_context(one)
        with contextlib.suppress(ConnectionError):
            assert clients[0].recv(100) == b""  # the oldest made room
        until(lambda: given.provisioner._guard.evicted == 1, "one made room")
    until(lambda: not given.provisioner._clients, "all are gone")


def test_one_address_has_so_many_requests_in_the_works(
    given: Giving, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(given.provisioner._shares, "most", 0)
    with given.refuses("unavailable"):
        assert given.ask(application) == b""


def test_one_application_asks_too_often(given: Giving, application: Application) -> None:
    given.with_tables(provision(), entry("db"))
    clock = [0.0]
    given.provisioner._rates.burst = 1
    given.provisioner._rates.now = lambda: clock[0]
    shown = application.certificate()
    assert secret_in(given.ask(application, shown))
    with given.refuses("unavailable"):
        assert given.ask(application, shown) == b""
    clock[0] = 1 / PER_SECOND
    assert secret_in(given.ask(application, shown))
    assert [one["verdict"] for one in given.scene.lines()] == ["accepted"] * 2, "of one too many there is no line"


def test_a_flood_of_bytes(given: Giving) -> None:
    with given.refuses(Reason.TLS_FAILED), socket.create_connection(("127.0.0.1", given.port), SECONDS) as client:
        hello = b"\x16\x03\x01\x40\x00\x01\x00\xff\xff" + bytes(0x4000 - 4)  # of a ClientHello that does not end
        with contextlib.suppress(ConnectionError):
            for _ in range(8):
                client.sendall(hello)
            assert client.recv(100)  # an alert


def test_one_that_resets_its_connection(given: Giving) -> None:
    with given.refuses(Reason.TLS_FAILED):
        client = socket.create_connection(("127.0.0.1", given.port), SECONDS)
        until(lambda: given.provisioner._clients, "it is there")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()


def test_one_that_resets_it_before_its_answer(given: Giving, application: Application) -> None:
    certificate = application.certificate()
    write = given.scene.instance.audit.write
    gone = asyncio.Event()

    async def meanwhile(line: Any) -> None:
        await write(line)
        given.scene.instance.audit.write = write  # type: ignore[method-assign]  # the file is made to fail
        await asyncio.wait_for(gone.wait(), SECONDS)
        await asyncio.sleep(0.1)  # until the loop has seen it

    given.scene.instance.audit.write = meanwhile  # type: ignore[method-assign]  # the file is made to fail
    with tls(given.ca, application.key, certificate) as context:
        plain = socket.create_connection(("127.0.0.1", given.port), SECONDS)
        connection = context.wrap_socket(plain, server_hostname="localhost")
        connection.sendall(REQUEST)
        until(given.scene.lines, "it is on record")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        given.loop.call_soon_threadsafe(gone.set)
    until(lambda: not given.provisioner._clients, "it is over")
    assert given.scene.lines()[0]["verdict"] == "accepted"


def test_a_policy_that_closes_it_while_one_asks(given: Giving, application: Application) -> None:
    assert given.port
    certificate = application.certificate()
    given.scene.instance.policy = parse_policy(policy_with(given.platform))
    with given.refuses("unavailable"):
        assert ask(given.port, given.provisioner.ca_certificate("first"), application.key, certificate) == b""


def test_a_client_that_comes_while_it_closes(given: Giving) -> None:
    port = given.port
    given.provisioner._identity = None
    with (
        given.refuses("unavailable"),
        socket.create_connection(("127.0.0.1", port), SECONDS) as client,
        contextlib.suppress(ConnectionError),
    ):
        assert client.recv(100) == b""


def test_where_there_is_no_such_listener(given: Giving) -> None:
    scene = given.scene
    scene.instance.provision = None
    assert scene.instance.status()["provision"] is None


def test_a_key_of_another_server_is_none_of_ours(given: Giving, tmp_path: Path) -> None:
    """An application knows the domain by the CA's key, not by a quote: a stranger's genuine server is refused."""
    (tmp_path / "other").mkdir()
    application = Application(machine(tmp_path / "app", Clock(HostTime())), ec.generate_private_key(ec.SECP384R1()))
    with giving(tmp_path / "other") as stranger:
        stranger.with_tables(provision(), entry("db"), names=("z",))
        until(lambda: stranger.listening, "it listens")
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(stranger.port, given.ca, application.key, application.certificate())
