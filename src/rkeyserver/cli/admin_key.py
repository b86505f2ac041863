"""Reading an admin's private key: OpenSSH's file form or PKCS#8, asked for its passphrase where it has one."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

from rkeyserver.errors import Misuse

_MAX_KEY: Final = 64 * 1024
_OPENSSH: Final = b"-----BEGIN OPENSSH PRIVATE KEY-----"


def load_admin_key(path: Path) -> Ed25519PrivateKey:
    """The Ed25519 key in a file.

    Raises: Misuse if there is none, or if the passphrase is wrong.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_KEY)
    except OSError as error:
        raise Misuse(f"The key {path} cannot be read: {error.strerror}.") from error
    try:
        key = _load(data, None)
    except TypeError:  # it is encrypted
        key = _decrypted(path, data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _no_key(path) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(path)
    return key


def _load(data: bytes, passphrase: bytes | None) -> object:
    load = load_ssh_private_key if data.lstrip().startswith(_OPENSSH) else load_pem_private_key
    return load(data, passphrase)


def _decrypted(path: Path, data: bytes) -> object:
    from rkeyserver.cli.identity_file import ask_on_terminal  # noqa: PLC0415 - it loads what others do not need

    try:
        return _load(data, ask_on_terminal(f"Passphrase of {path}: ").encode())
    except (ValueError, TypeError) as error:  # TypeError: an empty one
        raise Misuse(f"The key {path} does not open with that passphrase.") from error
    except UnsupportedAlgorithm as error:
        raise _no_key(path) from error


def _no_key(path: Path) -> Misuse:
    return Misuse(
        f"{path} is no Ed25519 private key.",
        advice="Wanted is one of `ssh-keygen -t ed25519`, without hardware behind it.",
    )
