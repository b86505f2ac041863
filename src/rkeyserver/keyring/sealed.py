"""A keyring to and from the record that rests in a keystore."""

from __future__ import annotations

from dataclasses import dataclass

from rkeyserver.errors import Corrupt
from rkeyserver.keyring.keyring import Keyring
from rkeyserver.sealing import record
from rkeyserver.sealing.recovery import Recovery
from rkeyserver.sealing.sealer import PlatformSealer


@dataclass(frozen=True)
class Owner:
    """Whose a record is: the member's id, and the other members that it knows."""

    member: str
    members: tuple[record.KnownMember, ...] = ()


def seal_keyring(
    keyring: Keyring, sealer: PlatformSealer, owner: Owner, *, now: int, recovery: Recovery | None = None
) -> bytes:
    """The keyring as a sealed record for the machine that `sealer` stands for. now: seconds since 1970.

    recovery: as the keyring's policy has it; None where it has none.
    Raises: Unavailable if the platform gives no key now, or the shares cannot be made.
    """
    contents = record.Contents(
        domain=keyring.domain,
        generations=keyring.generation_ids,
        epoch=keyring.header.epoch,
        sequence=keyring.header.sequence,
        written=now,
        member=owner.member,
        members=owner.members,
    )
    return record.seal(contents, keyring.view, sealer, recovery)


def open_keyring(parsed: record.Record, sealer: PlatformSealer) -> Keyring:
    """The keyring in a record of this machine; the caller closes it.

    Raises: Corrupt if the record does not open here, or holds something other than its header says.
    """
    return _as_its_header_says(parsed, Keyring.parse(record.unseal(parsed, sealer)))


def open_recovered(parsed: record.Record, secret: memoryview) -> Keyring:
    """The keyring in a record of any machine, opened with its recovery secret; the caller closes it.

    Raises: Corrupt if the record does not open, or holds something other than its header says.
    """
    return _as_its_header_says(parsed, Keyring.parse(record.unseal_recovered(parsed, secret)))


def _as_its_header_says(parsed: record.Record, keyring: Keyring) -> Keyring:
    inside = (keyring.domain, list(keyring.generation_ids), keyring.header.epoch, keyring.header.sequence)
    outside = (parsed.header.domain, parsed.header.generations, parsed.header.epoch, parsed.header.sequence)
    if inside != outside:
        keyring.close()
        raise Corrupt(f"The record's header says {outside}, the keyring in it {inside}.")
    return keyring


def set_aside_name(old: bytes) -> str:
    """What an old record is kept under: its domain and sequence as far as its header can be read."""
    try:
        header = record.parse(old).header
    except Corrupt:
        return "unreadable"
    return f"domain-{header.domain}.epoch-{header.epoch}.sequence-{header.sequence}"
