"""An application enclave that asks for its key as Gramine's library does, written from the bytes alone.

Nothing of the server's own code makes or reads what is sent: the certificate and its CBOR are put together here byte by
byte (docs/spec/ra-tls.md), and TLS is the standard library's. The enclave runs on a simulated machine, for its quote.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from rkeyserver.clock import Clock
from rkeyserver.platforms.simulated.image import EnclaveIdentity
from rkeyserver.platforms.simulated.platform import SimulatedPlatform
from tests.fakes.machines import loaded, machine, other_signer

REQUEST: Final = b"SECRET_PROVISION_RA_TLS_REQUEST_V1\0"
RESPONSE: Final = b"SECRET_PROVISION_RA_TLS_RESPONSE_V1:\0"
TAGGED_EVIDENCE: Final = "2.23.133.5.4.9"
OLDER: Final = "0.6.9.42.840.113741.1337.6"  # what Gramine's own bytes come to, of which it means 1.2.840.113741.1337.6
CODE: Final = b"an application"
PRODUCT: Final = 42
SECONDS: Final = 20.0


def enclave(code: bytes = CODE, **differences: Any) -> EnclaveIdentity:
    """An application's image, by another signer than the server's; `differences` as machines.signed() takes them."""
    return loaded(code, **({"key": other_signer(), "isv_prod_id": PRODUCT} | differences))


def entry(label: str, /, **differences: object) -> str:
    """Its table in a policy; None leaves a key out."""
    rows: dict[str, object] = {
        "label": label,
        "size": 16,
        "encoding": "raw",
        "generation": "current",
        "machines": "any",
        "mrenclave": [enclave().mrenclave.hex()],
        "mrsigner": "any",
        "isv_prod_id": PRODUCT,
        "min_isv_svn": 1,
        "tcb_statuses": ["UpToDate"],
        "out_of_date_grace_days": 0,
        "rejected_advisories": "none",
        "min_tcb_evaluation_data_number": 1,
        "dynamic_platform": "accept",
        "cached_keys": "accept",
        "smt": "accept",
    }
    given = [f"{key} = {json.dumps(value)}" for key, value in (rows | differences).items() if value is not None]
    return "\n".join(["", "[[applications]]", *given, ""])


def provision(ca_generation: str = "first") -> str:
    """The table that goes with them."""
    return f'\n[provision]\nca_generation = "{ca_generation}"\n'


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def hash_entry(digest: bytes, hash_id: int = 1) -> bytes:
    return b"\x82" + bytes([hash_id]) + bstr(digest)


def claims_for(key: ec.EllipticCurvePrivateKey) -> bytes:
    """{ "pubkey-hash": bstr([1, SHA-256]) }."""
    return b"\xa1\x6bpubkey-hash" + bstr(hash_entry(hashlib.sha256(spki(key)).digest()))


def bstr(data: bytes) -> bytes:
    """A byte string of CBOR, behind the shortest head."""
    size = len(data)
    if size < 24:
        return bytes([0x40 + size]) + data
    return (bytes([0x58, size]) if size < 256 else b"\x59" + size.to_bytes(2, "big")) + data


def tagged(quote: bytes, claims: bytes) -> bytes:
    """60000([ quote, claims ])."""
    return b"\xd9\xea\x60\x82" + bstr(quote) + bstr(claims)


def padded(data: bytes) -> bytes:
    """Report data over `data`."""
    return hashlib.sha256(data).digest() + bytes(32)


def certificate(
    key: ec.EllipticCurvePrivateKey,
    extensions: dict[str, bytes],
    *,
    issuer: ec.EllipticCurvePrivateKey | None = None,
) -> x509.Certificate:
    """A certificate as mbedTLS writes it for Gramine; by itself, or by another key."""
    attributes = (
        (NameOID.COMMON_NAME, "RATLS"),
        (NameOID.ORGANIZATION_NAME, "GramineDevelopers"),
        (NameOID.COUNTRY_NAME, "US"),
    )
    name = x509.Name([x509.NameAttribute(oid, text) for oid, text in attributes])
    values = [x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), data) for oid, data in extensions.items()]
    builder = x509.CertificateBuilder(
        issuer_name=name,
        subject_name=name,
        public_key=key.public_key(),
        serial_number=1,
        not_valid_before=datetime(2001, 1, 1, tzinfo=UTC),
        not_valid_after=datetime(2030, 12, 31, 23, 59, 59, tzinfo=UTC),
        extensions=[x509.Extension(one.oid, critical=False, value=one) for one in values],
    )
    return builder.sign(issuer or key, SHA256())


@dataclass
class Application:
    """An application enclave on a machine, with a key of its own as Gramine makes one at each start."""

    platform: SimulatedPlatform
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP384R1()))

    @classmethod
    def on(cls, folder: Path, code: bytes = CODE, *, clock: Clock | None = None, **differences: Any) -> Self:
        """On a machine in `folder`, at the time of `clock` or of the tests; `differences` as enclave() takes them."""
        return cls(machine(folder, clock, enclave=lambda: enclave(code, **differences)))

    def quote(self, over: bytes) -> bytes:
        return self.platform.evidence(padded(over))

    def extensions(self) -> dict[str, bytes]:
        """Both, as Gramine 1.9 writes them."""
        claims = claims_for(self.key)
        return {OLDER: self.quote(spki(self.key)), TAGGED_EVIDENCE: tagged(self.quote(claims), claims)}

    def certificate(self) -> x509.Certificate:
        return certificate(self.key, self.extensions())


@contextlib.contextmanager
def tls(
    ca: bytes,
    key: ec.EllipticCurvePrivateKey,
    shown: x509.Certificate | None,
    *,
    version: ssl.TLSVersion | None = None,
) -> Iterator[ssl.SSLContext]:
    """A client's TLS: the server by the CA alone and by its name, as mbedTLS does for Gramine; itself by `shown`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ca.decode())
    if version is not None:
        context.minimum_version = context.maximum_version = version
    with tempfile.NamedTemporaryFile() as file:
        if shown is not None:
            file.write(shown.public_bytes(Encoding.PEM))
            file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            file.flush()
            context.load_cert_chain(file.name)
        yield context


def read_all(connection: ssl.SSLSocket) -> bytes:
    """All that comes until the server ends it."""
    found = b""
    with contextlib.suppress(ssl.SSLError, ConnectionError):
        while part := connection.recv(4096):
            found += part
    return found


def secret_in(answer: bytes) -> bytes:
    """The secret of an answer; every byte of it is accounted for."""
    assert answer.startswith(RESPONSE), answer[:64]
    start = len(RESPONSE) + 4
    assert int.from_bytes(answer[len(RESPONSE) : start], "big") == len(answer) - start
    return answer[start:]


def ask(
    port: int,
    ca: bytes,
    key: ec.EllipticCurvePrivateKey,
    shown: x509.Certificate | None,
    *,
    request: bytes = REQUEST,
    name: str = "localhost",
    version: ssl.TLSVersion | None = None,
) -> bytes:
    """Everything that the server answers: nothing where it refuses."""
    with (
        tls(ca, key, shown, version=version) as context,
        socket.create_connection(("127.0.0.1", port), SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=name) as connection,
    ):
        connection.sendall(request)
        return read_all(connection)
