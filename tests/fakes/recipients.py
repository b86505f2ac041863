"""Recovery recipients: real key pairs of age and OpenSSH, and key files as their programs write them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyrage  # type: ignore[import-untyped]
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from rkeyserver.sealing.shares import open_share


@dataclass(frozen=True)
class Recipient:
    """public: as a policy has it; file: the private key's file."""

    public: str
    file: bytes

    @property
    def identity(self) -> Any:
        if self.public.startswith("age1"):
            return pyrage.x25519.Identity.from_str(self.file.decode().splitlines()[-1])
        return pyrage.ssh.Identity.from_buffer(self.file)

    def opens(self, sealed: bytes) -> bytes:
        """The share in what was encrypted to it."""
        share = open_share(sealed, [self.identity])
        assert share is not None
        return share


def age() -> Recipient:
    identity = pyrage.x25519.Identity.generate()
    public = str(identity.to_public())
    return Recipient(public, f"# created: today\n# public key: {public}\n{identity}\n".encode())


def _ssh(key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey, how: KeySerializationEncryption) -> Recipient:
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return Recipient(public, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, how))


def ssh_ed25519(passphrase: bytes | None = None) -> Recipient:
    how = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    return _ssh(ed25519.Ed25519PrivateKey.generate(), how)


@cache
def ssh_rsa() -> Recipient:
    return _ssh(rsa.generate_private_key(public_exponent=65537, key_size=2048), NoEncryption())


def largest_ssh_rsa() -> str:
    """A public key of the largest size."""
    return rsa_key(4096)


def rsa_key(bits: int) -> str:
    """A public key that nobody has the private key of: making a large pair takes seconds."""
    modulus = secrets.randbits(bits) | 1 << (bits - 1) | 1
    key = rsa.RSAPublicNumbers(65537, modulus).public_key()
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def with_passphrase(data: bytes, passphrase: str) -> bytes:
    """An age file (age-encryption.org/v1) under a passphrase that is tried at no cost; pyrage makes slow ones."""
    file_key, salt, nonce = secrets.token_bytes(16), secrets.token_bytes(16), secrets.token_bytes(16)
    wrap = hashlib.scrypt(passphrase.encode(), salt=b"age-encryption.org/v1/scrypt" + salt, n=2**4, r=8, p=1, dklen=32)
    body = ChaCha20Poly1305(wrap).encrypt(bytes(12), file_key, None)
    head = b"age-encryption.org/v1\n-> scrypt %s 4\n%s\n---" % (_unpadded(salt), _unpadded(body))
    mac = hmac.digest(_expanded(file_key, b"", b"header"), head, "sha256")
    payload = ChaCha20Poly1305(_expanded(file_key, nonce, b"payload")).encrypt(bytes(11) + b"\1", data, None)
    return head + b" " + _unpadded(mac) + b"\n" + nonce + payload


def _unpadded(data: bytes) -> bytes:
    return base64.b64encode(data).rstrip(b"=")


def _expanded(key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt, info).derive(key)


def one_of_each() -> list[Recipient]:
    return [age(), ssh_ed25519(), ssh_rsa()]


def recovery_table(threshold: int, recipients: list[Recipient]) -> str:
    """What a policy says of them, to be put behind the rest."""
    keys = ", ".join(f'"{one.public}"' for one in recipients)
    return f"\n[recovery]\nthreshold = {threshold}\nrecipients = [{keys}]\n"
