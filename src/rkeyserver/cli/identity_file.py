"""The private keys of a recovery recipient, as age and OpenSSH keep them."""

from __future__ import annotations

from pathlib import Path

import pyrage  # type: ignore[import-untyped]  # it ships no types

from rkeyserver import files
from rkeyserver.cli.passphrase import MAX_KEY_FILE, Ask, ask_on_terminal
from rkeyserver.errors import Misuse
from rkeyserver.sealing.shares import Identity


def read_identities(path: Path, ask: Ask = ask_on_terminal) -> list[Identity]:
    """The identities in a key file: age's, with or without a passphrase, or one OpenSSH private key.

    Raises: Misuse if it cannot be read, or is none of those.
    """
    data = files.read(path, MAX_KEY_FILE, "key file")
    if data.startswith((b"age-encryption.org/", b"-----BEGIN AGE ENCRYPTED FILE-----")):
        data = _decrypted(path, data, ask)
    if data.lstrip().startswith(b"-----BEGIN "):
        return [_ssh(path, data, ask)]
    return _age(path, data)


def _decrypted(path: Path, data: bytes, ask: Ask) -> bytes:
    try:
        return bytes(pyrage.passphrase.decrypt(data, ask(f"Passphrase of {path}: ")))
    except pyrage.DecryptError as error:
        raise Misuse(f"The key file {path} does not open with that passphrase.") from error


def _age(path: Path, data: bytes) -> list[Identity]:
    lines = [line.strip() for line in data.decode("utf-8", "replace").splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    try:
        found = [pyrage.x25519.Identity.from_str(line) for line in keys]
    except pyrage.IdentityError:
        found = []
    if not found:
        raise Misuse(
            f"The key file {path} is no identity that is known here.",
            advice="Wanted is an age identity (AGE-SECRET-KEY-1...) or an OpenSSH private key (Ed25519 or RSA).",
        )
    return found


def _ssh(path: Path, data: bytes, ask: Ask) -> Identity:
    try:
        return pyrage.ssh.Identity.from_buffer(data)
    except pyrage.IdentityError as error:
        if "decrypted" not in str(error):
            raise Misuse(f"The key file {path} is no identity that is known here: {error}.") from error
    from cryptography.hazmat.primitives import serialization as form  # noqa: PLC0415 - late: what a start does not need

    try:
        key = form.load_ssh_private_key(data, ask(f"Passphrase of {path}: ").encode())
    except ValueError as error:
        raise Misuse(f"The key file {path} does not open with that passphrase.") from error
    plain = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.OpenSSH, form.NoEncryption())
    return pyrage.ssh.Identity.from_buffer(plain)
