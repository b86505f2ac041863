"""PyKMIP doing the nearest thing: AES-CBC of 32 bytes with a key that its server keeps, over TLS 1.2 on loopback.

`python -m bench.other_kmip serve FOLDER PORT` is its server, as it comes; `python -m bench.other_kmip load FOLDER PORT
CALLERS SECONDS` prints the seconds that each encrypt and decrypt took, as JSON. Its own client asks, so each caller
has a thread.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import ssl
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


def certify(folder: Path) -> None:
    """A certificate for server and client, its own CA, in `folder`."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)


def serve(folder: Path, port: int) -> None:
    """Its server, until it is told to stop."""
    from kmip.services.server import KmipServer  # type: ignore[import-not-found]  # noqa: PLC0415 - the parent may find that it cannot be loaded

    (folder / "policies").mkdir(exist_ok=True)
    running = KmipServer(
        hostname="127.0.0.1",
        port=port,
        certificate_path=str(folder / "cert.pem"),
        key_path=str(folder / "key.pem"),
        ca_path=str(folder / "cert.pem"),
        auth_suite="TLS1.2",
        config_path=None,
        log_path=str(folder / "server.log"),
        policy_path=str(folder / "policies"),
        enable_tls_client_auth=True,
        logging_level="ERROR",
        database_path=str(folder / "server.db"),
    )
    with running:
        running.serve()


def _client(folder: Path, port: int) -> Any:  # noqa: ANN401 - it has no types
    from kmip.pie.client import ProxyKmipClient  # type: ignore[import-not-found]  # noqa: PLC0415 - as above

    certificate = str(folder / "cert.pem")
    return ProxyKmipClient(
        hostname="127.0.0.1",
        port=port,
        cert=certificate,
        key=str(folder / "key.pem"),
        ca=certificate,
        ssl_version=ssl.PROTOCOL_TLSv1_2.name,
    )


def load(folder: Path, port: int, callers: int, seconds: float) -> dict[str, list[float]]:
    """What each call took, in seconds."""
    from kmip.core import enums  # type: ignore[import-not-found]  # noqa: PLC0415 - as above

    cbc = {
        "cryptographic_algorithm": enums.CryptographicAlgorithm.AES,
        "block_cipher_mode": enums.BlockCipherMode.CBC,
        "padding_method": enums.PaddingMethod.PKCS5,
    }
    plaintext, iv = bytes(range(32)), bytes(16)
    with _client(folder, port) as client:
        uid = client.create(
            enums.CryptographicAlgorithm.AES,
            256,
            cryptographic_usage_mask=[enums.CryptographicUsageMask.ENCRYPT, enums.CryptographicUsageMask.DECRYPT],
        )
        client.activate(uid)
        ciphertext = client.encrypt(plaintext, uid=uid, cryptographic_parameters=cbc, iv_counter_nonce=iv)[0]
    calls: dict[str, Callable[[Any], object]] = {
        "wrap": lambda one: one.encrypt(plaintext, uid=uid, cryptographic_parameters=cbc, iv_counter_nonce=iv),
        "unwrap": lambda one: one.decrypt(ciphertext, uid=uid, cryptographic_parameters=cbc, iv_counter_nonce=iv),
    }
    return {what: _threads(folder, port, callers, seconds, call) for what, call in calls.items()}


def _threads(folder: Path, port: int, callers: int, seconds: float, call: Callable[[Any], object]) -> list[float]:
    took, ready = list[float](), threading.Barrier(callers, timeout=20)

    def ask() -> None:
        with _client(folder, port) as client:
            call(client)
            ready.wait()
            end = time.perf_counter() + seconds
            while (before := time.perf_counter()) < end:
                call(client)
                took.append(time.perf_counter() - before)

    threads = [threading.Thread(target=ask) for _ in range(callers)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return took


if __name__ == "__main__":
    logging.disable()
    _what, _folder, _port, *_rest = sys.argv[1:]
    if _what == "serve":
        serve(Path(_folder), int(_port))
    else:
        json.dump(load(Path(_folder), int(_port), int(_rest[0]), float(_rest[1])), sys.stdout)
