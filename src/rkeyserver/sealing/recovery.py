"""The recovery slot: the record key once more, for when no machine is left that opens the platform slot.

It is wrapped under a key that follows from a recovery secret, made for this one seal and dropped with it. The secret is
split into shares, each encrypted to one recipient's public key, and so many of them together give it back: who holds
`threshold` shares holds the record's keys. docs/spec/recovery.md gives the bytes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Protocol

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from rkeyserver.errors import Corrupt
from rkeyserver.framing import framed
from rkeyserver.hex_types import Hex16, Hex32
from rkeyserver.sealing.aead import TAG_SIZE, open_once, seal_once
from rkeyserver.secret import SecretBytes

RECOVERY_SECRET_SIZE: Final = 32
SET_ID_SIZE: Final = 16
MAX_SHARES: Final = 16
MAX_SHARE: Final = 1024
MAX_SEALED_SHARE: Final = 4096
_WRAPPED_SIZE: Final = 32 + TAG_SIZE

PublicKey = Annotated[
    str, msgspec.Meta(max_length=2048, pattern=r"^(?:age1[0-9a-z]+|ssh-(?:ed25519|rsa) [A-Za-z0-9+/]+={0,2})\Z")
]


class RecoveryShare(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One recipient's share. Its place among the others is its index.

    recipient: the public key, as the policy has it, without a name behind it. digest: SHA-256 of the share, by which it
    is known again. sealed: the share, encrypted to the recipient (age).
    """

    recipient: PublicKey
    digest: Hex32
    sealed: Annotated[bytes, msgspec.Meta(min_length=1, max_length=MAX_SEALED_SHARE)]


class RecoverySlot(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="recovery"):
    """The record key wrapped for the recipients together. set: random, of this seal; threshold: how many it takes."""

    set: Hex16
    threshold: Annotated[int, msgspec.Meta(ge=1, le=MAX_SHARES)]
    shares: Annotated[list[RecoveryShare], msgspec.Meta(min_length=1, max_length=MAX_SHARES)]
    wrapped: Annotated[bytes, msgspec.Meta(min_length=_WRAPPED_SIZE, max_length=_WRAPPED_SIZE)]

    def find(self, share: memoryview) -> int | None:
        """The index of a share that a recipient gave; None if it is none of this slot's."""
        found = hashlib.sha256(share).hexdigest()
        for index, one in enumerate(self.shares):
            if hmac.compare_digest(one.digest, found):
                return index
        return None


@dataclass(frozen=True)
class ShareSet:
    """What all shares of one seal have in common. domain, set: ids; recipients: public keys, by the shares' index."""

    domain: str
    set: str
    threshold: int
    recipients: tuple[str, ...]


class Sharing(Protocol):
    """Splits a recovery secret and puts it together again, where nobody reads the copies of it that stay behind.

    The libraries that do it copy what they work on. So not in the process that serves, but where no other can be
    started and all of its memory is hidden from the host.
    """

    def split(self, secret: memoryview, share_set: ShareSet) -> list[RecoveryShare]:
        """One share for each recipient of `secret` (32 bytes, in key memory).

        Raises: Misuse if a recipient is no public key that can be encrypted to; Unavailable.
        """

    def combine(self, shares: Sequence[memoryview], share_set: ShareSet) -> SecretBytes:
        """The secret from `threshold` different shares (key memory); the caller closes it.

        Raises: Corrupt if they are no shares of that set, or do not belong together; Unavailable.
        """


@dataclass(frozen=True)
class Recovery:
    """Who can bring the keyring back: any `threshold` of `recipients` (public keys). sharing: how that is made."""

    threshold: int
    recipients: tuple[str, ...]
    sharing: Sharing


@dataclass(frozen=True)
class Place:
    """Which record a slot is of."""

    domain: str
    epoch: int
    sequence: int


def seal_slot(record_key: memoryview, place: Place, recovery: Recovery) -> RecoverySlot:
    """Wrap a record key for the recipients, under a secret that is made here and in no other slot.

    Raises: as Sharing.split().
    """
    share_set = ShareSet(place.domain, os.urandom(SET_ID_SIZE).hex(), recovery.threshold, recovery.recipients)
    with SecretBytes.random(RECOVERY_SECRET_SIZE) as secret:
        shares = recovery.sharing.split(secret.view, share_set)
        with _slot_key(secret.view, share_set.set) as key:
            wrapped = seal_once(key.view, record_key, _slot_data(place, share_set.set, share_set.threshold))
    return RecoverySlot(set=share_set.set, threshold=share_set.threshold, shares=shares, wrapped=wrapped)


def open_slot(slot: RecoverySlot, place: Place, secret: memoryview, into: memoryview) -> None:
    """Unwrap the record key into `into` (32 bytes, key memory) with the recovery secret.

    Raises: Corrupt if it does not open; `into` is then all zero.
    """
    with _slot_key(secret, slot.set) as key:
        if not open_once(key.view, slot.wrapped, _slot_data(place, slot.set, slot.threshold), into):
            raise Corrupt(
                "The recovery slot does not open: record and shares do not belong together, or it was damaged.",
                advice="Recover from another copy of the record, with the shares in that copy.",
            )


def share_set_of(slot: RecoverySlot, domain: str) -> ShareSet:
    """What the shares of a slot have in common."""
    return ShareSet(domain, slot.set, slot.threshold, tuple(one.recipient for one in slot.shares))


def check_slot(slot: RecoverySlot) -> None:
    """What a slot's types cannot say.

    Raises: Corrupt.
    """
    if slot.threshold > len(slot.shares):
        raise Corrupt(f"The recovery slot wants {slot.threshold} of {len(slot.shares)} shares.")
    if len({one.recipient for one in slot.shares}) != len(slot.shares):
        raise Corrupt("The recovery slot names a recipient twice.")


def encode_slot(slot: RecoverySlot) -> bytes:
    """The one byte form of a slot alone: as it stands in a record's header."""
    return msgspec.json.encode(slot)


def parse_slot(data: bytes) -> RecoverySlot:
    """Read what encode_slot() gives.

    Raises: Corrupt.
    """
    try:
        slot = msgspec.json.decode(data, type=RecoverySlot)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Corrupt(f"The recovery slot is damaged: {error}.") from error
    if encode_slot(slot) != data:
        raise Corrupt("The recovery slot is not in its canonical form.")
    check_slot(slot)
    return slot


def fingerprint(public_key: str) -> str:
    """A recipient as people tell it apart: an age key itself, an SSH key as `ssh-keygen -l` shows it."""
    kind, _, encoded = public_key.partition(" ")
    if not encoded:
        return public_key
    try:
        blob = base64.b64decode(encoded, validate=True)
    except ValueError:  # binascii.Error is one
        return public_key  # it is shown before anything is proved of it
    return f"{kind} SHA256:{base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip('=')}"


def _slot_key(secret: memoryview, set_id: str) -> SecretBytes:
    key = SecretBytes(32)
    HKDFExpand(SHA256(), len(key), framed(b"rkeyserver/v1 recovery slot key", set_id.encode())).derive_into(
        secret, key.view
    )
    return key


def _slot_data(place: Place, set_id: str, threshold: int) -> bytes:
    return framed(
        b"rkeyserver/v1 recovery slot",
        place.domain.encode(),
        str(place.epoch).encode(),
        str(place.sequence).encode(),
        set_id.encode(),
        str(threshold).encode(),
    )
