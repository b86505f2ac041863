"""A PCCS: a real HTTPS server that speaks the PCS v4 API over collateral that a test gives it.

Its certificate is of a private CA made for the test run. What goes wrong with it, a test says by a function that
changes its replies.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, quote, urlsplit

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from rkeyserver.attestation.sgx.collateral import Collateral
from rkeyserver.attestation.sgx.model import Model
from rkeyserver.attestation.sgx.parts import describe
from rkeyserver.platforms.simulated import tcb
from rkeyserver.platforms.simulated.pki import Authority, development_authority

BASE: Final = "/sgx/certification/v4"
SIMULATED: Final = Model(tcb.FMSPC.hex(), "processor")
PCK_CRL: Final = "/pckcrl"
TCB: Final = "/tcb"
QE: Final = "/qe/identity"
ROOT_CRL: Final = "/rootcacrl"


@dataclass(frozen=True)
class Reply:
    """One answer. cut: how many bytes of the body are sent before the connection ends; pause: seconds before each."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None
    pause: float = 0.0


Change = Callable[[str, Reply], Reply]
"""(the path below the base, what an honest one replies) -> what this one replies."""


def honest(_path: str, reply: Reply) -> Reply:
    return reply


def only(path: str, **differences: object) -> Change:
    """A change of the replies to one path."""
    return lambda asked, reply: replace(reply, **differences) if asked == path else reply  # type: ignore[arg-type]  # a table has no narrower type


@dataclass(frozen=True)
class Tls:
    """A private CA and a server certificate under it, in files."""

    ca: Path
    chain: Path

    @classmethod
    def make(cls, folder: Path, host: str = "127.0.0.1", *, self_signed: bool = False) -> Tls:
        ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        if self_signed:  # as a PCCS comes
            ca_key = key
        ca_name = x509.Name(
            [x509.NameAttribute(NameOID.COMMON_NAME, host if self_signed else "a private CA of a test")]
        )

        def build(name: x509.Name, public: ec.EllipticCurvePublicKey, *, is_ca: bool) -> x509.CertificateBuilder:
            return (
                x509.CertificateBuilder()
                .subject_name(name)
                .issuer_name(ca_name)
                .public_key(public)
                .serial_number(x509.random_serial_number())
                .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
                .not_valid_after(datetime(2049, 1, 1, tzinfo=UTC))
                .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            )

        try:
            alternative: x509.GeneralName = x509.IPAddress(ip_address(host))
        except ValueError:
            alternative = x509.DNSName(host)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        leaf = build(name, key.public_key(), is_ca=False).add_extension(
            x509.SubjectAlternativeName([alternative]), critical=False
        )
        signed = leaf.sign(ca_key, SHA256())
        root = signed if self_signed else build(ca_name, ca_key.public_key(), is_ca=True).sign(ca_key, SHA256())
        found = cls(folder / "tls-ca.pem", folder / "tls-chain.pem")
        found.ca.write_bytes(root.public_bytes(Encoding.PEM))
        found.chain.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + signed.public_bytes(Encoding.PEM)
        )
        return found


@dataclass
class PccsStandIn:
    """A running one. collateral: what it has; asked: the paths that were asked for, with their queries."""

    url: str
    ca: Path
    collateral: Collateral
    change: Change = honest
    asked: list[str] = field(default_factory=list)

    def reply(self, target: str) -> Reply:
        self.asked.append(target)
        split = urlsplit(target)
        if not split.path.startswith(BASE):
            return Reply(404)
        path, query = split.path.removeprefix(BASE), {name: one for name, (one,) in parse_qs(split.query).items()}
        return self.change(path, self._honest(path, query))

    def _honest(self, path: str, query: dict[str, str]) -> Reply:
        has = self.collateral
        match path:
            case "/pckcrl" if query.get("encoding") == "der" and query.get("ca") in {"processor", "platform"}:
                headers = {"SGX-PCK-CRL-Issuer-Chain": quote(has.pck_crl_issuer_chain)}
                return Reply(headers=headers, body=bytes.fromhex(has.pck_crl))
            case "/tcb" if "fmspc" in query:
                body = f'{{"tcbInfo":{has.tcb_info},"signature":"{has.tcb_info_signature}"}}'
                return Reply(headers={"TCB-Info-Issuer-Chain": quote(has.tcb_info_issuer_chain)}, body=body.encode())
            case "/qe/identity":
                body = f'{{"enclaveIdentity":{has.qe_identity},"signature":"{has.qe_identity_signature}"}}'
                headers = {"SGX-Enclave-Identity-Issuer-Chain": quote(has.qe_identity_issuer_chain)}
                return Reply(headers=headers, body=body.encode())
            case "/rootcacrl":
                return Reply(body=has.root_ca_crl.encode())
        return Reply(404)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_args: object) -> None:
        """A client that leaves in the middle is what some tests are about."""


@contextlib.contextmanager
def pccs(collateral: Collateral, tls: Tls | None, *, host: str = "127.0.0.1") -> Iterator[PccsStandIn]:
    """A PCCS on loopback; with `tls` None one that speaks plain HTTP."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10

        def do_GET(self) -> None:
            reply = running.reply(self.path)
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            body = reply.body if reply.cut is None else reply.body[: reply.cut]
            for start in range(0, len(body), 1 if reply.pause else 65_536):
                time.sleep(reply.pause)
                self.wfile.write(body[start : start + (1 if reply.pause else 65_536)])
            self.close_connection = reply.cut is not None

        def log_message(self, *_args: object) -> None:
            pass

    server = _Server(("127.0.0.1", 0), Handler)
    scheme, ca = "http", Path()
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.chain)
        # The handshake is the handler's thread's, so that a client that refuses it holds up nobody.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        scheme, ca = "https", tls.ca
    running = PccsStandIn(f"{scheme}://{host}:{server.server_port}{BASE}", ca, collateral)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield running
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def with_number(collateral: Collateral, number: int, authority: Authority) -> Collateral:
    """That authority's collateral with another evaluation number, signed anew."""
    from tests.fakes.machines import resigned  # noqa: PLC0415 - it imports this one

    def change(document: dict[str, object]) -> None:
        document["tcbEvaluationDataNumber"] = number

    return resigned(collateral, authority, tcb_info=change, qe_identity=change)


@cache
def issued_at(
    now: int, number: int = tcb.EVALUATION_DATA_NUMBER, authority: Callable[[], Authority] = development_authority
) -> Collateral:
    """An authority's collateral, issued at `now`; the simulated one's, if no other is named."""
    return with_number(authority().collateral(now), number, authority())


def number_of(encoded: bytes) -> int:
    """The evaluation number of encoded collateral."""
    return describe(msgspec.json.decode(encoded, type=Collateral)).number
