"""Reading an admin's private key: OpenSSH's file form or PKCS#8, asked for its passphrase where it has one."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

from rkeyserver import files
from rkeyserver.cli import passphrase
from rkeyserver.cli.passphrase import MAX_KEY_FILE
from rkeyserver.errors import Misuse

_OPENSSH: Final = b"-----BEGIN OPENSSH PRIVATE KEY-----"


def load_admin_key(path: Path) -> Ed25519PrivateKey:
    """The Ed25519 key in a file.

    Raises: Misuse if there is none, or if the passphrase is wrong.
    """
    data = files.read(path, MAX_KEY_FILE, "key")
    try:
        key = _load(data, None)
    except TypeError:  # it is encrypted
        key = _decrypted(path, data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _no_key(path) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(path)
    return key


def _load(data: bytes, password: bytes | None) -> object:
    load = load_ssh_private_key if data.lstrip().startswith(_OPENSSH) else load_pem_private_key
    return load(data, password)


def _decrypted(path: Path, data: bytes) -> object:
    try:
        return _load(data, passphrase.ask_on_terminal(f"Passphrase of {path}: ").encode())
    except (ValueError, TypeError) as error:  # TypeError: an empty one
        raise Misuse(f"The key {path} does not open with that passphrase.") from error
    except UnsupportedAlgorithm as error:
        raise _no_key(path) from error


def _no_key(path: Path) -> Misuse:
    return Misuse(
        f"{path} is no Ed25519 private key.",
        advice="Wanted is one of `ssh-keygen -t ed25519`, without hardware behind it.",
    )
