"""Keyrings of any state, made of keys that a test names."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from rkeyserver.keyring.derivation import domain_id, generation_id
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.keyring.sealed import Owner
from rkeyserver.secret import SecretBytes

POLICY: Final = "version = 1\n"
SECRET: Final = b"domain secret of 32 bytes, one. "
OTHER_SECRET: Final = b"domain secret of 32 bytes, two. "

MEMBER: Final = "ee" * 16
OWNER: Final = Owner(MEMBER)


def owner_of(name: str) -> Owner:
    """Of the record of a machine of that name; that of "host" is the primary of every keyring here."""
    return OWNER if name == "host" else Owner(hashlib.sha256(name.encode()).hexdigest()[:32])


def key(name: str) -> bytes:
    """The root key of that name."""
    return name.encode().ljust(32, b".")


def id_of(secret: bytes) -> str:
    return domain_id(memoryview(secret))


def generation(name: str, secret: bytes = SECRET) -> str:
    return generation_id(memoryview(key(name)), id_of(secret))


def secret_of(data: bytes) -> SecretBytes:
    secret = SecretBytes(len(data))
    secret.view[:] = data
    return secret


def keyring_bytes(
    names: Sequence[str] = ("first",), *, secret: bytes = SECRET, header: dict[str, Any] | None = None, **said: Any
) -> bytes:
    """A keyring's bytes; the last of `names` is current. said: of the header; header: all of it, as it is."""
    generations = [
        {"id": generation(name, secret), "created": 1_000 + index, "state": "readable"}
        for index, name in enumerate(names)
    ]
    if generations:
        generations[-1]["state"] = "current"
    honest = {
        "version": 1,
        "domain": id_of(secret),
        "epoch": 0,
        "sequence": 1,
        "primary": MEMBER,
        "generations": generations,
        "policy": POLICY,
        "changes": [],
    }
    encoded = msgspec.json.encode(honest | said if header is None else header)
    return len(encoded).to_bytes(4, "big") + encoded + secret + b"".join(map(key, names))


def keyring_of(names: Sequence[str] = ("first",), *, secret: bytes = SECRET, **said: Any) -> Keyring:
    return Keyring.parse(secret_of(keyring_bytes(names, secret=secret, **said)))
