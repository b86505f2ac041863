"""What reads what clients of the listener for applications show."""

from __future__ import annotations

import asyncio
import contextlib
from functools import cache

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from tests.fakes.application import OLDER, TAGGED_EVIDENCE, certificate, claims_for, spki, tagged
from tests.fakes.keyrings import keyring_of
from tests.property.inputs import quotes
from tests.property.registry import target

from rkeyserver.attestation.sgx import ra_tls
from rkeyserver.errors import Misuse, Reason, Rejected
from rkeyserver.service import provision
from rkeyserver.service.provision_ca import Ca
from rkeyserver.service.provision_tls import ServerIdentity


@cache
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


@cache
def certificates() -> list[bytes]:
    evidence = tagged(quotes()[0], claims_for(key()))
    made: list[dict[str, bytes]] = [{TAGGED_EVIDENCE: evidence}, {OLDER: quotes()[0], TAGGED_EVIDENCE: evidence}]
    return [certificate(key(), extensions).public_bytes(Encoding.DER) for extensions in made]


@cache
def identity() -> ServerIdentity:
    with contextlib.closing(keyring_of()) as keyring:
        ca = Ca.derive(keyring, keyring.current.id)
    return ServerIdentity(ca, key(), ra_tls.extension_of(b"q", ra_tls.claims_of(spki(key()))))


class Says:
    """A client's TLS, of which only what it says counts. It says `data`, in pieces of three bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.certificate: object = None

    async def read(self, most: int) -> bytes:
        found, self.data = self.data[: min(most, 3)], self.data[min(most, 3) :]
        if not found:
            raise Rejected(Reason.TLS_FAILED, "The client left.")
        return found

    def get_servername(self) -> bytes:
        return self.data

    def use_certificate(self, certificate: object) -> None:
        self.certificate = certificate


def name_asked_for(data: bytes) -> None:
    asks = Says(data)
    identity()._named(asks)  # type: ignore[arg-type]  # the part of a connection that it looks at
    if asks.certificate is None:
        raise Misuse("It is no name.")


target("RA-TLS certificate", certificates, ra_tls.parse, Rejected)
target("evidence in a certificate", lambda: [tagged(quotes()[0], claims_for(key()))], ra_tls._tagged, Rejected)
target(
    "claims in evidence",
    lambda: [claims_for(key())],
    lambda data: ra_tls._check_claims(data, spki(key())),
    Rejected,
    canonical=lambda _: claims_for(key()),
)
target("server name that is asked for", lambda: [b"rkey.example", b"10.0.0.1", b"::1"], name_asked_for, Misuse)
target(
    "request for a secret",
    lambda: [provision.REQUEST],
    lambda data: asyncio.run(provision._request(Says(data))),  # type: ignore[arg-type]  # as above
    Rejected,
    canonical=lambda _: provision.REQUEST,
)
